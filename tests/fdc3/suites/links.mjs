// The link between two nodes goes down and comes back, and a node dies: what apps on each side see meanwhile, and what
// both agree on afterwards.
//
//   node headless.mjs --suite links --a ws://…/fdc3 --b ws://…/fdc3 --control CMD

import assert from 'node:assert/strict';
import { check } from '../lib/check.mjs';
import { answersWith, aWhile } from '../lib/world.mjs';

const CHANNEL = 'fdc3.channel.1';
const QUESTION = { type: 'x.question', q: 21 };
const [GONE_MS, BACK_MS] = [10_000, 15_000];

function linked(id, what, body) {
  return check(id, what, { raw: true, alone: true, only: 'two', needs: 'control', timeoutMs: 60_000 }, body);
}

const broadcasts = ({ socket }) => socket.of('broadcastEvent').map(({ payload }) => payload.context);
const say = ({ socket }, context, channelId = CHANNEL) => answersWith(undefined, socket.request('broadcastRequest', { channelId, context }));
const clear = ({ socket }, contextType) => answersWith(undefined, socket.request('clearContextRequest', { channelId: CHANNEL, contextType }));

async function current({ socket }, contextType = null) {
  return (await socket.request('getCurrentContextRequest', { channelId: CHANNEL, contextType })).payload.context;
}

/** An app on the channel, with one listener. */
async function member(world, place, appId, contextType = null) {
  const app = await world.raw(place, appId);
  await app.socket.request('joinUserChannelRequest', { channelId: CHANNEL });
  await app.socket.request('addContextListenerRequest', { channelId: null, contextType });
  return app;
}

const sees = async (app, other) => {
  const { payload } = await app.socket.request('findInstancesRequest', { app: { appId: other.id.appId } });
  return (payload.appIdentifiers ?? []).some(({ instanceId }) => instanceId === other.id.instanceId);
};

/** Cuts the link, runs `meanwhile` once both sides have noticed, and resolves when both see each other again. */
async function apart({ control, until }, atA, atB, meanwhile) {
  await control.cut('a', 'b');
  await until(async () => !(await sees(atA, atB)) && !(await sees(atB, atA)), GONE_MS, 'the cut is noticed');
  await meanwhile();
  await control.heal('a', 'b');
  await until(async () => (await sees(atA, atB)) && (await sees(atB, atA)), BACK_MS, 'the nodes see each other again');
}

/** Resolves once all apps read the same current context of a type, with that context. */
async function agreed(world, apps, contextType, accept = () => true) {
  return world.until(async () => {
    const [first, ...others] = await Promise.all(apps.map((app) => current(app, contextType)));
    for (const other of others) assert.deepEqual(other, first);
    return accept(first) && { value: first };
  }, BACK_MS, `all read the same ${contextType}`).then(({ value }) => value);
}

/** Nodes that are apart say what came first by their clocks, to the millisecond. */
const later = (world) => world.sleep(5);

/** An app that asks, one at the other node that answers nothing, and the intent that the second has from the first. */
async function asked(world) {
  const [asker, quoter] = [await world.raw('a', 'test-one'), await world.raw('b', 'test-quoter')];
  await quoter.socket.request('addIntentListenerRequest', { intent: 'Hang' });
  await world.until(() => sees(asker, quoter), 5000, 'the handler listed');
  const event = quoter.socket.next(({ type }) => type === 'intentEvent');
  const { appIntent } = (await asker.socket.request('findIntentRequest', { intent: 'Hang' })).payload;
  const { appId, instanceId, desktopAgent } = appIntent.apps.find((app) => app.instanceId === quoter.id.instanceId);
  const raise = () => asker.socket.request('raiseIntentRequest', { intent: 'Hang', context: QUESTION, app: { appId, instanceId, desktopAgent } });
  const result = asker.socket.next(({ type }) => type === 'raiseIntentResultResponse', 30_000);
  await answersWith(undefined, raise());
  return { asker, quoter, event: await event, raise, result };
}

export default [
  linked('24', 'both sides of a cut broadcast, and agree afterwards; nobody hears more than what is new', async (world) => {
    const speakers = [await member(world, 'a', 'test-one', 'x.none'), await member(world, 'b', 'test-one', 'x.none')];
    const typed = [await member(world, 'a', 'test-two', 'x.shared'), await member(world, 'b', 'test-two', 'x.shared')];
    const untyped = [await member(world, 'a', 'test-three'), await member(world, 'b', 'test-three')];
    const listeners = [...typed, ...untyped];
    await world.until(async () => {
      await say(speakers[0], { type: 'x.shared', n: 0 });
      return listeners.every((app) => broadcasts(app).length);
    }, 5000, 'a broadcast heard by all');
    await aWhile();
    const before = listeners.map((app) => broadcasts(app).length);
    await apart(world, typed[0], typed[1], async () => {
      for (let n = 1; n <= 5; n += 1) {
        for (const [side, speaker] of speakers.entries()) {
          await say(speaker, { type: 'x.shared', side, n });
          await later(world);
        }
      }
      for (const [side, speaker] of speakers.entries()) {
        await say(speaker, { type: `x.only${side}`, n: 1 });
        await later(world);
      }
    });
    // Who spoke last has the word.
    await agreed(world, [...speakers, ...listeners], 'x.shared', ({ side, n }) => side === 1 && n === 5);
    await agreed(world, [...speakers, ...listeners], null, ({ type }) => type === 'x.only1');
    for (const side of [0, 1]) await agreed(world, listeners, `x.only${side}`, (context) => context?.n === 1);
    const heard = () => listeners.map((app, index) => broadcasts(app).slice(before[index]));
    const own = (side) => [1, 2, 3, 4, 5].map((n) => ({ type: 'x.shared', side, n }));
    const expected = [
      [...own(0), { type: 'x.shared', side: 1, n: 5 }],
      own(1),
      [...own(0), { type: 'x.only0', n: 1 }, { type: 'x.only1', n: 1 }],
      [...own(1), { type: 'x.only1', n: 1 }],
    ];
    // What comes as state comes when its event has not come for a while.
    await world.until(() => heard().every((contexts, index) => contexts.length >= expected[index].length));
    await world.sleep(1500);
    assert.deepEqual(heard(), expected, 'typed on both sides, and untyped; b has the last word');
    for (const [index, app] of listeners.entries()) before[index] = broadcasts(app).length;
    await world.until(async () => {
      await say(speakers[0], { type: 'x.shared', n: 'after' });
      return listeners.every((app, index) => broadcasts(app).slice(before[index]).some(({ n }) => n === 'after'));
    }, 5000, 'broadcasts are heard again');
  }),

  linked('26', 'what is cleared on one side of a cut is gone on the other', async (world) => {
    const [one, two] = [await member(world, 'a', 'test-one', 'x.none'), await member(world, 'b', 'test-two', 'x.none')];
    for (const type of ['x.kept', 'x.cleared']) await say(one, { type, n: 1 });
    await agreed(world, [one, two], 'x.cleared', (context) => context?.n === 1);
    await apart(world, one, two, () => clear(one, 'x.cleared'));
    await agreed(world, [one, two], 'x.cleared', (context) => context === null);
    await agreed(world, [one, two], null, (context) => context?.type === 'x.kept');
    const late = await world.connect('b', 'test-three');
    const seen = [];
    for (const type of ['x.cleared', 'x.kept']) await late.agent.addContextListener(type, (context) => seen.push(context));
    await late.agent.joinUserChannel(CHANNEL);
    await world.until(() => seen.length);
    await aWhile();
    assert.deepEqual(seen, [{ type: 'x.kept', n: 1 }]);
  }),

  linked('26', 'what was said after it was cleared on the other side of a cut stays', async (world) => {
    const [one, two] = [await member(world, 'a', 'test-one', 'x.none'), await member(world, 'b', 'test-two', 'x.none')];
    await say(one, { type: 'x.cleared', n: 1 });
    await agreed(world, [one, two], 'x.cleared', (context) => context?.n === 1);
    await apart(world, one, two, async () => {
      await clear(one, 'x.cleared');
      await later(world);
      await say(two, { type: 'x.cleared', n: 2 });
    });
    await agreed(world, [one, two], 'x.cleared', (context) => context?.n === 2);
  }),

  linked('28', 'what the other node has is found without asking it', async (world) => {
    const { asker, quoter } = await asked(world);
    await world.control.cut('a', 'b');
    // Long before the cut is noticed.
    const { appIntent } = (await asker.socket.request('findIntentRequest', { intent: 'Hang' })).payload;
    assert.ok(appIntent.apps.some(({ instanceId }) => instanceId === quoter.id.instanceId));
    await world.control.heal('a', 'b');
  }),

  linked('31', 'a handler whose node is cut off ends the wait for its result, for good', async (world) => {
    const { asker, quoter, event, raise, result } = await asked(world);
    await apart(world, asker, quoter, async () => {
      assert.equal(typeof (await result).payload.error, 'string');
      assert.equal(typeof (await raise()).payload.error, 'string', 'another cannot be raised there');
    });
    const { raiseIntentRequestUuid } = event.payload;
    await quoter.socket.request('intentResultRequest', { intentEventUuid: event.meta.eventUuid, raiseIntentRequestUuid, intentResult: {} });
    await aWhile();
    assert.equal(asker.socket.of('raiseIntentResultResponse').length, 1);
  }),

  linked('31', 'a handler whose node dies ends the wait for its result', async (world) => {
    const { asker, quoter, raise, result } = await asked(world);
    await world.control.kill('b');
    assert.equal(typeof (await result).payload.error, 'string');
    await world.until(async () => !(await sees(asker, quoter)), GONE_MS, 'the handler no longer listed');
    assert.equal(typeof (await raise()).payload.error, 'string');
    await world.control.start('b');
  }),

  linked('14', 'a private channel ends for the side that is left when a node dies', async (world) => {
    const { asker, quoter, event } = await asked(world);
    const { privateChannel } = (await quoter.socket.request('createPrivateChannelRequest', {})).payload;
    const { raiseIntentRequestUuid } = event.payload;
    const intentResult = { channel: { id: privateChannel.id, type: 'private' } };
    await quoter.socket.request('intentResultRequest', { intentEventUuid: event.meta.eventUuid, raiseIntentRequestUuid, intentResult });
    await world.until(() => asker.socket.of('raiseIntentResultResponse').length);
    await answersWith(undefined, asker.socket.request('privateChannelAddEventListenerRequest', { privateChannelId: privateChannel.id, listenerType: 'disconnect' }));
    await say(asker, { type: 'x.hello' }, privateChannel.id);
    await world.control.kill('b');
    await world.until(() => asker.socket.of('privateChannelOnDisconnectEvent').length, GONE_MS, 'told that the other side has left');
    await world.control.start('b');
  }),
];

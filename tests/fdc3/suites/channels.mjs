// User, app and private channels, and what contexts survive on the way.

import assert from 'node:assert/strict';
import { check } from '../lib/check.mjs';
import { answersWith, aWhile, failsWith, hears } from '../lib/world.mjs';

const CHANNEL = 'fdc3.channel.1';

/** A context whose text a node must not change: numbers, order, escapes, spaces and keys unknown to anybody. */
const EXACT = '{"type":"x.exact","z":1.0,"a":1e2,"large":12345678901234567890.5,"zero":-0.0,"lone":"\\ud800","text":"\\u0041\\/é","unknown":null, "spaced" :  [ ],"inner":{"b":{},"a":0.10}}';

/** A request as text, so that the context in it stays as it is. */
function requestText(type, payload) {
  return `{"type":"${type}","payload":{${payload}},"meta":{"requestUuid":"exact","timestamp":"${new Date().toISOString()}"}}`;
}

async function userChannel(agent, id = CHANNEL) {
  return (await agent.getUserChannels()).find((channel) => channel.id === id);
}

/** Two apps, and an app channel that both hold and that is linked from the first to the second. */
async function appChannel(world) {
  const [one, two] = [await world.connect('a', 'test-one'), await world.connect('b', 'test-two')];
  const name = world.unique('topic');
  const [from, to] = [await one.agent.getOrCreateChannel(name), await two.agent.getOrCreateChannel(name)];
  await world.linked(from, to);
  return { one, two, name, from, to };
}

/** Waits until a context is what an app at the other node would read. */
async function readable(world, channel, context) {
  await world.until(async () => {
    assert.deepEqual(await channel.getCurrentContext(context.type), context);
    return true;
  }, 5000, `${context.type} readable`);
}

/** An app that speaks as a library of 2.2.3 and later does: it asks for channel changes while it connects. */
async function modern(world, place, appId, options) {
  const app = await world.raw(place, appId, options);
  await app.socket.request('addEventListenerRequest', { type: 'USER_CHANNEL_CHANGED' });
  return app;
}

async function listens(app, contextType = null, channelId = null) {
  const { payload } = await app.socket.request('addContextListenerRequest', { channelId, contextType });
  assert.equal(payload.error, undefined);
  return payload.listenerUUID;
}

const broadcasts = (app) => app.socket.of('broadcastEvent').map(({ payload }) => payload.context);

/** A private channel that the second app has from the first by an intent. */
async function privateChannel(world) {
  const [asker, quoter] = [await world.connect('a', 'test-one'), await world.connect('b', 'test-quoter')];
  let own;
  await quoter.agent.addIntentListener('Stream', async () => {
    own = await quoter.agent.createPrivateChannel();
    return own;
  });
  const resolution = await world.raise(asker, 'Stream', { type: 'x.question' }, quoter);
  const given = await resolution.getResult();
  return { asker, quoter, own, given };
}

export default [
  check('15', 'a late joiner gets the newest context, and each type can be read', async (world) => {
    const [one, two] = [await world.connect('a', 'test-one'), await world.connect('b', 'test-two')];
    const [instrument, contact] = [{ type: world.unique('x.instrument'), id: { ticker: 'A' } }, { type: world.unique('x.contact'), name: 'Ann' }];
    const [own, seen] = [await hears(one.agent), await hears(two.agent)];
    await one.agent.joinUserChannel(CHANNEL);
    await one.agent.broadcast(instrument);
    await one.agent.broadcast(contact);
    await readable(world, await userChannel(two.agent), contact);
    await two.agent.joinUserChannel(CHANNEL);
    await world.until(() => seen.length);
    await aWhile();
    assert.deepEqual(seen, [contact], 'what a late joiner hears');
    const channel = await two.agent.getCurrentChannel();
    assert.deepEqual(await channel.getCurrentContext(instrument.type), instrument);
    assert.deepEqual(await channel.getCurrentContext(), contact);
    assert.ok(!own.some(({ type }) => type === instrument.type || type === contact.type), 'no echo to the sender');
  }),

  check('15', 'a broadcast reaches the others on a user channel, and not its sender', async (world) => {
    const [one, two] = [await world.connect('a', 'test-one'), await world.connect('b', 'test-two')];
    for (const { agent } of [one, two]) await agent.joinUserChannel('fdc3.channel.4');
    await world.linked(one.agent, two.agent);
    await world.linked(two.agent, one.agent);
    const context = { type: world.unique('x.news'), n: 1 };
    const [own, seen] = [await hears(two.agent, context.type), await hears(one.agent, context.type)];
    await two.agent.broadcast(context);
    await world.until(() => seen.length);
    await two.agent.leaveCurrentChannel();
    await one.agent.broadcast({ ...context, n: 2 });
    await aWhile();
    assert.deepEqual([own, seen], [[], [context]], 'nothing is heard after leaving');
    assert.equal(await two.agent.getCurrentChannel(), null);
  }),

  check('15', 'an app channel is for whoever has its name, and replays nothing', async (world) => {
    const { one, two, name, from, to } = await appChannel(world);
    await from.broadcast({ type: 'x.before', n: 1 });
    await readable(world, to, { type: 'x.before', n: 1 });
    // Its event may yet be on its way.
    await aWhile();
    const [all, typed, other] = [await hears(to), await hears(to, 'x.value'), await hears(to, 'x.other')];
    await from.broadcast({ type: 'x.value', n: 7 });
    await world.until(() => all.length && typed.length);
    await aWhile();
    assert.deepEqual([all, typed, other], [[{ type: 'x.value', n: 7 }], [{ type: 'x.value', n: 7 }], []]);
    assert.equal(two.socket.of('broadcastEvent').at(-1).payload.originatingApp.instanceId, one.id.instanceId);
    await typed.unsubscribe();
    await from.broadcast({ type: 'x.value', n: 8 });
    await world.until(() => all.length === 2);
    assert.equal(typed.length, 1);
    assert.deepEqual(await (await two.agent.getOrCreateChannel(name)).getCurrentContext('x.before'), { type: 'x.before', n: 1 });
  }),

  check('15', 'the user channels are the recommended ones, and no others can be joined', async (world) => {
    const { agent } = await world.connect('a', 'test-one');
    const channels = await agent.getUserChannels();
    assert.deepEqual(channels.map(({ id }) => id), [1, 2, 3, 4, 5, 6, 7, 8].map((n) => `fdc3.channel.${n}`));
    assert.ok(channels.every(({ type, displayMetadata }) => type === 'user' && displayMetadata.name && displayMetadata.color));
    await failsWith('NoChannelFound', agent.joinUserChannel('nope'));
    await agent.getOrCreateChannel('an-app-channel');
    await failsWith('NoChannelFound', agent.joinUserChannel('an-app-channel'));
  }),

  check('15', 'a context without a type is refused', { raw: true }, async (world) => {
    const { socket } = await world.raw('a', 'test-one');
    for (const context of [{}, { type: 7 }, { name: 'x' }]) {
      await answersWith('MalformedContext', socket.request('broadcastRequest', { channelId: CHANNEL, context }));
    }
  }),

  check('19', 'a broadcast arrives once, never at its sender, and byte for byte', { raw: true }, async (world) => {
    const [from, to] = [await world.raw('a', 'test-one'), await world.raw('b', 'test-two')];
    const channelId = world.unique('exact');
    for (const app of [from, to]) {
      await app.socket.request('getOrCreateChannelRequest', { channelId });
      await listens(app, null, channelId);
    }
    const mark = (type) => from.socket.request('broadcastRequest', { channelId, context: { type } });
    await world.until(async () => {
      await mark('x.probe');
      return broadcasts(to).length;
    });
    from.socket.send(requestText('broadcastRequest', `"channelId":"${channelId}","context":${EXACT}`));
    await mark('x.end');
    await world.until(() => broadcasts(to).some(({ type }) => type === 'x.end'));
    const arrived = to.socket.of('broadcastEvent').filter(({ payload }) => payload.context.type === 'x.exact');
    assert.equal(arrived.length, 1);
    assert.ok(arrived[0].text.includes(EXACT), arrived[0].text);
    assert.deepEqual(broadcasts(from), [], 'what the sender hears');
    for (const { socket } of [from, to]) {
      const current = socket.next(({ type }) => type === 'getCurrentContextResponse');
      await socket.request('getCurrentContextRequest', { channelId, contextType: 'x.exact' });
      assert.ok((await current).text.includes(EXACT), 'what is read later');
    }
  }),

  check('19', 'contexts of intents and their results arrive byte for byte', { raw: true }, async (world) => {
    const [asker, quoter] = [await world.raw('a', 'test-one'), await world.raw('b', 'test-quoter')];
    await quoter.socket.request('addIntentListenerRequest', { intent: 'GetPrice' });
    const app = await world.until(async () => {
      const { payload } = await asker.socket.request('findIntentRequest', { intent: 'GetPrice' });
      return payload.appIntent?.apps.find(({ instanceId }) => instanceId === quoter.id.instanceId);
    });
    const question = EXACT.replace('x.exact', 'x.question');
    const { appId, instanceId, desktopAgent } = app;
    const event = quoter.socket.next(({ type }) => type === 'intentEvent');
    const result = asker.socket.next(({ type }) => type === 'raiseIntentResultResponse');
    asker.socket.send(requestText('raiseIntentRequest', `"intent":"GetPrice","app":${JSON.stringify({ appId, instanceId, desktopAgent })},"context":${question}`));
    const { text, meta, payload } = await event;
    assert.ok(text.includes(question), text);
    const { raiseIntentRequestUuid } = payload;
    quoter.socket.send(requestText('intentResultRequest', `"intentEventUuid":"${meta.eventUuid}","raiseIntentRequestUuid":"${raiseIntentRequestUuid}","intentResult":{"context":${EXACT}}`));
    assert.ok((await result).text.includes(EXACT), (await result).text);
  }),

  check('19', 'two libraries hear each other, once', async (world) => {
    const { one, two, from, to } = await appChannel(world);
    await world.linked(to, from);
    const [own, seen] = [await hears(from), await hears(to)];
    const context = { type: 'x.exact', n: 1, inner: { list: [1, null, 'é', { a: [] }] } };
    await from.broadcast(context);
    await to.broadcast({ ...context, n: 2 });
    await world.until(() => own.length && seen.length);
    await aWhile();
    assert.deepEqual([own, seen], [[{ ...context, n: 2 }], [context]]);
    assert.equal(one.socket.of('broadcastEvent').at(-1).payload.originatingApp.instanceId, two.id.instanceId);
    assert.equal(two.socket.of('broadcastEvent').at(-1).payload.originatingApp.instanceId, one.id.instanceId);
  }),

  check('20', 'joining delivers the current contexts once: typed listeners their type, untyped ones the newest', async (world) => {
    const [one, two] = [await world.connect('a', 'test-one'), await world.connect('b', 'test-two')];
    const [older, newest] = [{ type: world.unique('x.older'), n: 1 }, { type: world.unique('x.newest'), n: 2 }];
    await one.agent.joinUserChannel('fdc3.channel.5');
    await one.agent.broadcast(older);
    await one.agent.broadcast(newest);
    await readable(world, await userChannel(two.agent, 'fdc3.channel.5'), newest);
    const seen = [await hears(two.agent, older.type), await hears(two.agent, newest.type), await hears(two.agent, 'x.none'), await hears(two.agent)];
    await two.agent.joinUserChannel('fdc3.channel.5');
    await world.until(() => seen[0].length && seen[1].length && seen[3].length);
    await aWhile();
    assert.deepEqual(seen, [[older], [newest], [], [newest]]);
  }),

  check('20', 'a listener that is added later gets the current context, once', async (world) => {
    const [one, two] = [await world.connect('a', 'test-one'), await world.connect('b', 'test-two')];
    const [older, newest] = [{ type: world.unique('x.older'), n: 1 }, { type: world.unique('x.newest'), n: 2 }];
    for (const { agent } of [one, two]) await agent.joinUserChannel('fdc3.channel.6');
    await one.agent.broadcast(older);
    await one.agent.broadcast(newest);
    await readable(world, await userChannel(two.agent, 'fdc3.channel.6'), newest);
    const seen = [await hears(two.agent, older.type), await hears(two.agent)];
    await world.until(() => seen[0].length && seen[1].length);
    await aWhile();
    assert.deepEqual(seen, [[older], [newest]]);
  }),

  check('20', 'what joins by itself is told of its channel before its answer, and pulls', { raw: true }, async (world) => {
    const [one, two] = [await world.connect('a', 'test-one'), await modern(world, 'b', 'test-two')];
    const context = { type: world.unique('x.news'), n: 1 };
    await one.agent.joinUserChannel(CHANNEL);
    await one.agent.broadcast(context);
    await listens(two);
    await listens(two, context.type);
    await world.until(async () => (await two.socket.request('getCurrentContextRequest', { channelId: CHANNEL, contextType: context.type })).payload.context);
    await two.socket.request('joinUserChannelRequest', { channelId: CHANNEL });
    await aWhile();
    const order = two.socket.frames.map(({ message }) => message.type).filter((type) => /channelChanged|joinUser|broadcastEvent/.test(type));
    assert.deepEqual(order, ['channelChangedEvent', 'joinUserChannelResponse']);
    const [{ payload }] = two.socket.of('channelChangedEvent');
    assert.equal(payload.newChannelId, CHANNEL);
    assert.equal((await two.socket.request('getCurrentChannelRequest', {})).payload.channel.id, CHANNEL);
    await two.socket.request('leaveCurrentChannelRequest', {});
    assert.equal(two.socket.of('channelChangedEvent').at(-1).payload.newChannelId, null);
  }),

  check('20', 'a library of 2.2.0 is not told of its own join', { raw: true }, async (world) => {
    const { socket } = await world.raw('a', 'test-one');
    await socket.request('joinUserChannelRequest', { channelId: CHANNEL });
    await socket.request('leaveCurrentChannelRequest', {});
    await aWhile();
    assert.deepEqual(socket.of('channelChangedEvent'), []);
  }),

  check('21', 'an app that is moved by its user gets what is on the channel, once', { alone: true }, async (world) => {
    const desk = await world.desk('b');
    const id = 'fdc3.channel.7';
    const one = await world.connect('a', 'test-one', { user: '' });
    // In an app of its own, since the library shows an event to all of an app's listeners.
    const [typed, untyped] = [await world.connect('b', 'test-two', { user: '' }), await world.connect('b', 'test-three', { user: '' })];
    const [older, newest] = [{ type: world.unique('x.older'), n: 1 }, { type: world.unique('x.newest'), n: 2 }];
    await one.agent.joinUserChannel(id);
    await one.agent.broadcast(older);
    await one.agent.broadcast(newest);
    await readable(world, await userChannel(typed.agent, id), newest);
    const seen = [await hears(typed.agent, older.type), await hears(untyped.agent)];
    const listed = ({ id: { instanceId } }) => desk.instances().find((instance) => instance.instanceId === instanceId);
    for (const app of [typed, untyped]) {
      await world.until(() => listed(app), 5000, 'the launcher told of the app');
      desk.join(app.id.instanceId, id);
    }
    await world.until(() => seen.every(({ length }) => length), 5000, 'the contexts of the channel delivered');
    await aWhile();
    assert.deepEqual(seen, [[older], [newest]]);
    for (const app of [typed, untyped]) {
      assert.equal((await app.agent.getCurrentChannel()).id, id);
      await world.until(() => listed(app)?.channel?.id === id, 5000, 'the launcher told of the channel');
    }
    await world.until(async () => {
      await one.agent.broadcast({ ...older, n: 3 });
      return seen.every((list) => list.at(-1).n === 3);
    }, 5000, 'a broadcast on the new channel');
    desk.join(typed.id.instanceId, null);
    await world.until(async () => (await typed.agent.getCurrentChannel()) === null, 5000, 'the app on no channel');
  }),

  check('21', 'an app of 2.2.3 that is moved is pushed the contexts, the newest last', { raw: true, alone: true }, async (world) => {
    const desk = await world.desk('b');
    const [one, two] = [await world.connect('a', 'test-one', { user: '' }), await modern(world, 'b', 'test-two', { user: '' })];
    const [older, newest] = [{ type: world.unique('x.older'), n: 1 }, { type: world.unique('x.newest'), n: 2 }];
    await one.agent.joinUserChannel('fdc3.channel.7');
    await one.agent.broadcast(older);
    await one.agent.broadcast(newest);
    await listens(two, older.type);
    await listens(two, newest.type);
    await world.until(async () => (await two.socket.request('getCurrentContextRequest', { channelId: 'fdc3.channel.7', contextType: newest.type })).payload.context);
    desk.join(two.id.instanceId, 'fdc3.channel.7');
    await world.until(() => broadcasts(two).length === 2);
    await aWhile();
    assert.deepEqual(broadcasts(two), [older, newest]);
    const types = two.socket.frames.map(({ message }) => message.type);
    assert.ok(types.indexOf('channelChangedEvent') < types.indexOf('broadcastEvent'));
  }),

  check('22', 'ten thousand broadcasts are all heard, in order', { alone: true, timeoutMs: 180_000 }, async (world) => {
    const { from, to } = await appChannel(world);
    const seen = await hears(to, 'x.tick');
    for (let n = 0; n < 10_000; n += 50) {
      await Promise.all(Array.from({ length: 50 }, (_, index) => from.broadcast({ type: 'x.tick', n: n + index })));
    }
    await world.until(() => seen.length >= 10_000, 60_000, 'all heard').catch(() => {});
    await aWhile();
    assert.equal(seen.length, 10_000, `heard ${seen.length}`);
    assert.equal(seen.findIndex(({ n }, index) => n !== index), -1, 'the first that is out of order');
    for (const channel of [from, to]) assert.equal((await channel.getCurrentContext('x.tick')).n, 9999);
  }),

  check('22', 'broadcasts on a user channel are all heard, in order and at once', async (world) => {
    const [one, two] = [await world.connect('a', 'test-one'), await world.connect('b', 'test-two')];
    for (const { agent } of [one, two]) await agent.joinUserChannel('fdc3.channel.3');
    await world.linked(one.agent, two.agent);
    const seen = await hears(two.agent, 'x.tick');
    for (let n = 0; n < 100; n += 1) await one.agent.broadcast({ type: 'x.tick', n });
    await world.until(() => seen.at(-1)?.n === 99);
    await aWhile();
    assert.equal(seen.length, 100, `heard ${seen.length}`);
    assert.deepEqual(seen.map(({ n }) => n), Array.from({ length: 100 }, (_, n) => n));
  }),

  check('23', 'two nodes broadcast one type at once, and agree on what is current', { alone: true, timeoutMs: 180_000 }, async (world) => {
    const { from, to } = await appChannel(world);
    await world.linked(to, from);
    for (let round = 0; round < 1000; round += 1) {
      await Promise.all([from.broadcast({ type: 'x.both', by: 'a', round }), to.broadcast({ type: 'x.both', by: 'b', round })]);
    }
    await world.until(async () => {
      const [one, two] = [await from.getCurrentContext('x.both'), await to.getCurrentContext('x.both')];
      assert.deepEqual(one, two);
      return one.round === 999;
    }, 10_000, 'both read the same');
    await aWhile();
    assert.deepEqual(await from.getCurrentContext('x.both'), await to.getCurrentContext('x.both'));
  }),

  check('25', 'private and reserved ids are no app channels', async (world) => {
    const { own, given, asker, quoter } = await privateChannel(world);
    assert.equal(given.id, own.id);
    const { agent } = await world.connect('a', 'test-three');
    for (const app of [agent, asker.agent, quoter.agent]) await failsWith('AccessDenied', app.getOrCreateChannel(own.id));
    const reserved = ['___channel___x', '___channel___Red', '___workspace___x', '___window___x', '___instance___x', '___privateFDC3Channel___x', 'T42.x'];
    for (const id of reserved) await failsWith('AccessDenied', agent.getOrCreateChannel(id));
    await failsWith('NoChannelFound', agent.joinUserChannel(own.id));
  }),

  check('25', 'a third app can do nothing on a private channel', async (world) => {
    const { own, given } = await privateChannel(world);
    const seen = await hears(given);
    for (const place of ['a', 'b']) {
      const { socket } = await world.raw(place, 'test-three');
      const context = { type: 'x.intruder' };
      await answersWith('AccessDenied', socket.request('broadcastRequest', { channelId: own.id, context }));
      await answersWith('AccessDenied', socket.request('addContextListenerRequest', { channelId: own.id, contextType: null }));
      await answersWith('AccessDenied', socket.request('getCurrentContextRequest', { channelId: own.id, contextType: null }));
      await answersWith('AccessDenied', socket.request('privateChannelAddEventListenerRequest', { privateChannelId: own.id, listenerType: null }));
      await answersWith('AccessDenied', socket.request('privateChannelDisconnectRequest', { channelId: own.id }));
    }
    await world.linked(own, given);
    await own.broadcast({ type: 'x.end' });
    await world.until(() => seen.at(-1)?.type === 'x.end');
    assert.ok(!seen.some(({ type }) => type === 'x.intruder'));
  }),

  check('25', 'nobody removes the listener of another', { raw: true }, async (world) => {
    const [one, two] = [await world.raw('a', 'test-one'), await world.raw('a', 'test-two')];
    const listenerUUID = await listens(one);
    await answersWith('AccessDenied', two.socket.request('contextListenerUnsubscribeRequest', { listenerUUID }));
    await answersWith(undefined, one.socket.request('contextListenerUnsubscribeRequest', { listenerUUID }));
    await answersWith(undefined, one.socket.request('contextListenerUnsubscribeRequest', { listenerUUID }));
  }),

  check('26', 'a cleared type is gone for late joiners, and others stay', { raw: true }, async (world) => {
    const [one, two] = [await world.raw('a', 'test-one'), await world.raw('b', 'test-two')];
    const channelId = 'fdc3.channel.2';
    const [first, second] = [{ type: world.unique('x.first') }, { type: world.unique('x.second') }];
    const read = async (app, contextType) => (await app.socket.request('getCurrentContextRequest', { channelId, contextType })).payload.context;
    for (const context of [second, first]) await one.socket.request('broadcastRequest', { channelId, context });
    await world.until(() => read(two, first.type));
    const told = world.within(5000, two.socket.next(({ type }) => type === 'contextClearedEvent'), 'told that a type was cleared');
    await two.socket.request('joinUserChannelRequest', { channelId });
    await answersWith(undefined, one.socket.request('clearContextRequest', { channelId, contextType: first.type }));
    assert.deepEqual((await told).payload.contextType, first.type);
    await world.until(async () => (await read(two, first.type)) === null);
    assert.deepEqual(await read(two, second.type), second);
    assert.deepEqual(await read(two, null), second, 'the newest that is left');
    const late = await world.connect('b', 'test-three');
    const [typed, untyped] = [await hears(late.agent, first.type), await hears(late.agent)];
    await late.agent.joinUserChannel(channelId);
    await world.until(() => untyped.length);
    await aWhile();
    assert.deepEqual([typed, untyped], [[], [second]]);
    await answersWith(undefined, one.socket.request('clearContextRequest', { channelId, contextType: null }));
    await world.until(async () => (await read(two, second.type)) === null && (await read(two, null)) === null);
  }),

  check('33', 'metadata of 3.0 arrives unaltered, and is kept', { raw: true }, async (world) => {
    const [one, two] = [await world.raw('a', 'test-one'), await world.raw('b', 'test-two')];
    const channelId = world.unique('signed');
    const metadata = {
      traceId: 'trace-1',
      signature: { protected: 'eyJhbGciOiJFZERTQSJ9', signature: 'c2ln' },
      antiReplay: { iat: 1_700_000_000, exp: 1_700_000_600, jti: 'j-1' },
      custom: { desk: 'EQ', inner: [1, { a: null }] },
    };
    for (const { socket } of [one, two]) await socket.request('getOrCreateChannelRequest', { channelId });
    await listens(two, null, channelId);
    const said = await world.until(async () => {
      await one.socket.request('broadcastRequest', { channelId, context: { type: 'x.signed' }, metadata });
      return two.socket.of('broadcastEvent').at(-1);
    });
    const expected = ({ source, timestamp, ...rest }) => {
      assert.equal(source.instanceId, one.id.instanceId);
      assert.equal(source.appId, 'test-one');
      assert.ok(!Number.isNaN(Date.parse(timestamp)), timestamp);
      assert.deepEqual(rest, metadata);
    };
    expected(said.payload.metadata);
    assert.equal(said.payload.originatingApp.instanceId, one.id.instanceId, 'for libraries of 2.2');
    expected((await two.socket.request('getCurrentContextRequest', { channelId, contextType: 'x.signed' })).payload.metadata);
  }),
];

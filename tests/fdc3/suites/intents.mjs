// Finding and raising intents, their results, and what becomes of them when an app dies.

import assert from 'node:assert/strict';
import { check } from '../lib/check.mjs';
import { answersWith, aWhile, failsWith, hears } from '../lib/world.mjs';

const QUESTION = { type: 'x.question', q: 21 };
const doubled = ({ q }) => ({ type: 'x.price', value: q * 2 });

/** An app that asks, and one that answers. */
async function pair(world, intent, handler) {
  const [asker, quoter] = [await world.connect('a', 'test-one'), await world.connect('b', 'test-quoter')];
  const listener = handler && await quoter.agent.addIntentListener(intent, handler);
  return { asker, quoter, listener };
}

/** Resolves once the result of an intent is there, or has failed. */
function settled(world, resolution) {
  return world.within(5000, resolution.getResult().then((value) => ({ value }), (error) => ({ error })), 'the result settled');
}

export default [
  check('15', 'an intent without a target goes to the one app that has it', { only: 'one' }, async (world) => {
    const { asker, quoter } = await pair(world, 'GetPrice', async (context) => doubled(context));
    const resolution = await asker.agent.raiseIntent('GetPrice', QUESTION);
    assert.equal(resolution.source.instanceId, quoter.id.instanceId);
    assert.equal(resolution.intent, 'GetPrice');
    assert.deepEqual(await resolution.getResult(), { type: 'x.price', value: 42 });
  }),

  check('29', 'an intent is answered with a context, and its handler knows who asks', async (world) => {
    let source;
    const { asker, quoter } = await pair(world, 'GetPrice', async (context, metadata) => {
      source = metadata.source;
      return doubled(context);
    });
    const resolution = await world.raise(asker, 'GetPrice', QUESTION, quoter);
    assert.equal(resolution.source.appId, 'test-quoter');
    assert.equal(resolution.source.instanceId, quoter.id.instanceId);
    assert.deepEqual(await resolution.getResult(), { type: 'x.price', value: 42 });
    assert.equal(source.appId, 'test-one');
    assert.equal(source.instanceId, asker.id.instanceId);
  }),

  check('29', 'an intent is answered with an app channel', async (world) => {
    const name = world.unique('prices');
    let own;
    const { asker, quoter } = await pair(world, 'GetTopic', async () => {
      own = await quoter.agent.getOrCreateChannel(name);
      return own;
    });
    const channel = await (await world.raise(asker, 'GetTopic', QUESTION, quoter)).getResult();
    assert.equal(channel.id, name);
    await world.linked(own, channel);
    const seen = await hears(channel);
    await own.broadcast({ type: 'x.price', value: 1 });
    await world.until(() => seen.length);
    assert.deepEqual(seen, [{ type: 'x.price', value: 1 }]);
  }),

  check('29', 'an intent is answered with nothing', async (world) => {
    let asked = 0;
    const { asker, quoter } = await pair(world, 'Hang', () => {
      asked += 1;
    });
    const resolution = await world.raise(asker, 'Hang', QUESTION, quoter);
    assert.equal(await resolution.getResult(), undefined);
    assert.equal(asked, 1);
  }),

  check('29', 'a private channel carries a thousand contexts, in order', { timeoutMs: 40_000 }, async (world) => {
    let own;
    const { asker, quoter } = await pair(world, 'Stream', async () => {
      own = await quoter.agent.createPrivateChannel();
      await own.addEventListener('addContextListener', async () => {
        for (let n = 0; n < 1000; n += 50) {
          await Promise.all(Array.from({ length: 50 }, (_, index) => own.broadcast({ type: 'x.price', n: n + index })));
        }
      });
      return own;
    });
    const channel = await (await world.raise(asker, 'Stream', QUESTION, quoter)).getResult();
    const seen = await hears(channel, 'x.price');
    await world.until(() => seen.length >= 1000, 20_000, 'all streamed');
    await aWhile();
    assert.deepEqual(seen.map(({ n }) => n), Array.from({ length: 1000 }, (_, n) => n));
    // And the other way.
    const back = await hears(own, 'x.order');
    await world.linked(channel, own);
    await channel.broadcast({ type: 'x.order', n: 1 });
    await world.until(() => back.length);
    assert.deepEqual(back, [{ type: 'x.order', n: 1 }]);
  }),

  check('15', 'a private channel says who listens, who stops and who leaves', async (world) => {
    const events = [];
    const { asker, quoter } = await pair(world, 'Stream', async () => {
      const own = await quoter.agent.createPrivateChannel();
      await own.addEventListener('addContextListener', async ({ details }) => {
        events.push(`add ${details.contextType}`);
        await own.broadcast({ type: 'x.price', n: 1 });
      });
      await own.addEventListener('unsubscribe', ({ details }) => events.push(`unsubscribe ${details.contextType}`));
      await own.addEventListener('disconnect', () => events.push('disconnect'));
      return own;
    });
    const channel = await (await world.raise(asker, 'Stream', QUESTION, quoter)).getResult();
    const seen = await hears(channel, 'x.price');
    await world.until(() => seen.length);
    await seen.unsubscribe();
    await world.until(() => events.length === 2);
    await hears(channel, 'x.price');
    await world.until(() => events.length === 3);
    await channel.disconnect();
    await world.until(() => events.length === 5);
    await aWhile();
    assert.deepEqual(events, ['add x.price', 'unsubscribe x.price', 'add x.price', 'unsubscribe x.price', 'disconnect']);
    await failsWith('AccessDenied', channel.broadcast({ type: 'x.price' }));
  }),

  check('14', 'a private channel says that its other end has died', async (world) => {
    const events = [];
    const { asker, quoter } = await pair(world, 'Stream', async () => {
      const own = await quoter.agent.createPrivateChannel();
      await own.addEventListener('unsubscribe', () => events.push('unsubscribe'));
      await own.addEventListener('disconnect', () => events.push('disconnect'));
      return own;
    });
    const channel = await (await world.raise(asker, 'Stream', QUESTION, quoter)).getResult();
    await hears(channel);
    await asker.kill();
    await world.until(() => events.includes('disconnect'));
    assert.deepEqual(events, ['unsubscribe', 'disconnect']);
  }),

  check('15', 'what cannot be done says why', async (world) => {
    const { asker, quoter, listener } = await pair(world, 'GetPrice', doubled);
    const { agent } = asker;
    const { instanceId } = quoter.id;
    await world.offered(asker, 'GetPrice', quoter);
    await failsWith('NoAppsFound', agent.findIntent('Nothing'));
    await failsWith('NoAppsFound', agent.findIntentsByContext({ type: 'x.nobody' }));
    await failsWith('NoAppsFound', agent.raiseIntent('Nothing', QUESTION));
    await failsWith('NoAppsFound', agent.raiseIntentForContext({ type: 'x.nobody' }));
    await failsWith('NoAppsFound', agent.raiseIntent('GetPrice', QUESTION, { appId: 'test-one' }));
    await failsWith('TargetAppUnavailable', agent.raiseIntent('GetPrice', QUESTION, { appId: 'test-nobody' }));
    await failsWith('TargetInstanceUnavailable', agent.raiseIntent('GetPrice', QUESTION, { appId: 'test-quoter', instanceId: 'gone' }));
    await failsWith('TargetInstanceUnavailable', agent.raiseIntent('GetPrice', QUESTION, { appId: 'test-one', instanceId }));
    await failsWith('MalformedContext', agent.raiseIntent('GetPrice', { q: 1 }));
    await failsWith('AppNotFound', agent.open({ appId: 'test-nobody' }));
    await failsWith('TargetAppUnavailable', agent.getAppMetadata({ appId: 'test-nobody' }));
    await failsWith('TargetInstanceUnavailable', agent.getAppMetadata({ appId: 'test-one', instanceId: 'gone' }));
    await failsWith('NoAppsFound', agent.findInstances({ appId: 'test-nobody' }));
    await listener.unsubscribe();
  }),

  check('15', 'an intent that no record mentions is offered while an app listens for it', async (world) => {
    const intent = world.unique('Dynamic');
    const { asker, quoter, listener } = await pair(world, intent, async (context) => doubled(context));
    assert.deepEqual(await (await world.raise(asker, intent, QUESTION, quoter)).getResult(), { type: 'x.price', value: 42 });
    await listener.unsubscribe();
    await world.until(async () => (await world.rejection(asker.agent.findIntent(intent))).reason === 'NoAppsFound');
  }),

  check('15', 'an app is found with the intents, contexts and results of its record', async (world) => {
    const { agent } = await world.connect('a', 'test-one');
    const { intent, apps } = await agent.findIntent('GetPrice', QUESTION, 'x.price');
    assert.equal(intent.name, 'GetPrice');
    assert.ok(apps.some(({ appId, title, instanceId }) => appId === 'test-quoter' && title === 'Test test-quoter' && !instanceId));
    await failsWith('NoAppsFound', agent.findIntent('GetPrice', { type: 'x.other' }));
    await failsWith('NoAppsFound', agent.findIntent('GetPrice', QUESTION, 'x.other'));
    assert.equal((await agent.findIntent('Stream', QUESTION, 'channel')).apps[0].appId, 'test-quoter');
    assert.equal((await agent.findIntent('Stream', QUESTION, 'channel<x.price>')).apps[0].appId, 'test-quoter');
    const found = (await agent.findIntentsByContext(QUESTION)).map(({ intent: { name } }) => name);
    for (const name of ['GetPrice', 'GetTopic', 'Stream', 'Choose']) assert.ok(found.includes(name), name);
    assert.equal((await agent.getAppMetadata({ appId: 'test-quoter' })).title, 'Test test-quoter');
  }),

  check('28', 'what the other node has is found, with the name of that node', { only: 'two' }, async (world) => {
    const [asker, far] = [await world.connect('a', 'test-one'), await world.connect('b', 'test-far')];
    const [here, there] = [await world.nodeName('a'), await world.nodeName('b')];
    await far.agent.addIntentListener('Far', doubled);
    const instance = await world.offered(asker, 'Far', far);
    assert.equal(instance.desktopAgent, there);
    assert.equal(instance.appId.split('@')[0], 'test-far');
    const { apps } = await asker.agent.findIntent('Far', QUESTION, 'x.price');
    assert.ok(apps.some(({ appId, instanceId, desktopAgent }) => appId.split('@')[0] === 'test-far' && !instanceId && desktopAgent === there), 'the record');
    const own = await asker.agent.findIntent('GetPrice');
    assert.ok(own.apps.some(({ appId, desktopAgent }) => appId === 'test-quoter' && desktopAgent === undefined), 'records of this node are without');
    const ownInstances = await asker.agent.findInstances({ appId: 'test-one' });
    assert.ok(ownInstances.every(({ desktopAgent }) => desktopAgent === undefined || desktopAgent === here));
    const instances = await asker.agent.findInstances({ appId: instance.appId, desktopAgent: there });
    assert.ok(instances.some(({ instanceId, desktopAgent }) => instanceId === far.id.instanceId && desktopAgent === there), 'findInstances');
    const metadata = await asker.agent.getAppMetadata({ appId: instance.appId, instanceId: far.id.instanceId, desktopAgent: there });
    assert.equal(metadata.title, 'Test test-far');
    // As the conformance suite wants it: what the record says, and the instance.
    assert.equal(metadata.instanceId, far.id.instanceId);
    assert.equal(metadata.desktopAgent, undefined);
    const raised = await asker.agent.raiseIntent('Far', QUESTION, metadata);
    assert.equal(raised.source.instanceId, far.id.instanceId, 'what it says is enough to raise an intent at it');
  }),

  check('30', 'the user chooses among several apps', async (world) => {
    const asked = [];
    let wanted;
    const choose = (intents, context) => {
      asked.push({ intents, context });
      const app = intents.flatMap(({ intent, apps }) => apps.map((one) => ({ intent: intent.name, one })))
        .find(({ intent, one }) => intent === 'FarChoice' && one.instanceId === wanted);
      return app && { intent: app.intent, appId: app.one };
    };
    const asker = await world.connect('a', 'test-one', { choose });
    const handlers = [await world.connect('a', 'test-near'), await world.connect('b', 'test-far')];
    for (const [index, { agent }] of handlers.entries()) await agent.addIntentListener('FarChoice', () => Promise.resolve({ type: 'x.price', value: index }));
    for (const handler of handlers) await world.offered(asker, 'FarChoice', handler);
    for (const [index, { id }] of handlers.entries()) {
      wanted = id.instanceId;
      const resolution = await asker.agent.raiseIntent('FarChoice', QUESTION);
      assert.equal(resolution.source.instanceId, id.instanceId);
      assert.deepEqual(await resolution.getResult(), { type: 'x.price', value: index });
      assert.deepEqual(asked.at(-1).context, QUESTION);
      const forContext = await asker.agent.raiseIntentForContext(QUESTION);
      assert.deepEqual(await forContext.getResult(), { type: 'x.price', value: index });
    }
    assert.equal(asked.length, 4);
    if (world.twoNodes) {
      const places = new Set(asked[0].intents[0].apps.map(({ desktopAgent }) => desktopAgent));
      assert.ok(places.has(await world.nodeName('b')), 'the resolver is told where apps are');
    }
  }),

  check('30', 'the user chooses nothing', async (world) => {
    const asker = await world.connect('a', 'test-one', { choose: () => undefined });
    await failsWith('UserCancelledResolution', asker.agent.raiseIntent('Choose', QUESTION));
    await failsWith('UserCancelledResolution', asker.agent.raiseIntentForContext(QUESTION));
  }),

  check('31', 'a handler that dies before its result ends the wait for it', async (world) => {
    const { asker, quoter } = await pair(world, 'Hang', () => new Promise(() => {}));
    const resolution = await world.raise(asker, 'Hang', QUESTION, quoter);
    await quoter.kill();
    assert.equal((await settled(world, resolution)).value, undefined);
  }),

  check('31', 'a result for an app that has died is nobody’s, and the next is answered', async (world) => {
    const answers = [];
    const { asker, quoter } = await pair(world, 'GetPrice', () => new Promise((resolve) => answers.push(resolve)));
    await world.raise(asker, 'GetPrice', QUESTION, quoter);
    await world.until(() => answers.length === 1);
    await asker.kill();
    const next = await world.connect('a', 'test-one');
    const resolution = await world.raise(next, 'GetPrice', QUESTION, quoter);
    await world.until(() => answers.length === 2);
    answers.forEach((answer, index) => answer({ type: 'x.price', value: index }));
    assert.deepEqual(await resolution.getResult(), { type: 'x.price', value: 1 });
  }),

  check('31', 'an intent for an instance that never listens is not delivered', { timeoutMs: 60_000 }, async (world) => {
    const { asker, quoter } = await pair(world);
    const app = await world.offered(asker, 'GetPrice', quoter);
    await failsWith('IntentDeliveryFailed', asker.agent.raiseIntent('GetPrice', QUESTION, app), 50_000);
  }),

  check('31', 'an intent for an instance that listens later is delivered then', async (world) => {
    const { asker, quoter } = await pair(world);
    const app = await world.offered(asker, 'GetPrice', quoter);
    const raised = [1, 2].map((q) => asker.agent.raiseIntent('GetPrice', { ...QUESTION, q }, app));
    await aWhile();
    await quoter.agent.addIntentListener('GetPrice', async (context) => doubled(context));
    const results = await Promise.all(raised.map(async (resolution) => (await resolution).getResult()));
    assert.deepEqual(results.map(({ value }) => value), [2, 4]);
  }),

  check('29', 'nobody else can answer for a handler, and nobody answers twice', { raw: true }, async (world) => {
    const [asker, quoter, other] = [await world.connect('a', 'test-one'), await world.raw('b', 'test-quoter'), await world.raw('a', 'test-three')];
    await quoter.socket.request('addIntentListenerRequest', { intent: 'GetPrice' });
    const event = quoter.socket.next(({ type }) => type === 'intentEvent');
    const resolution = await world.raise(asker, 'GetPrice', QUESTION, quoter);
    const { meta, payload } = await event;
    const result = (value) => ({ intentEventUuid: meta.eventUuid, raiseIntentRequestUuid: payload.raiseIntentRequestUuid, intentResult: { context: { type: 'x.price', value } } });
    await other.socket.request('intentResultRequest', result(13));
    await quoter.socket.request('intentResultRequest', result(1));
    await quoter.socket.request('intentResultRequest', result(2));
    assert.deepEqual(await resolution.getResult(), { type: 'x.price', value: 1 });
    await aWhile();
    assert.equal(asker.socket.of('raiseIntentResultResponse').length, 1);
  }),

  check('29', 'the event leaves before the resolution, and the resolution before the result', { raw: true, only: 'one' }, async (world) => {
    const app = await world.raw('a', 'test-quoter');
    await app.socket.request('addIntentListenerRequest', { intent: 'GetPrice' });
    // One app is both ends, so that there is one order to look at.
    const event = app.socket.next(({ type }) => type === 'intentEvent');
    const { appId, instanceId } = app.id;
    await app.socket.request('raiseIntentRequest', { intent: 'GetPrice', context: QUESTION, app: { appId, instanceId } });
    const { meta, payload } = await event;
    await app.socket.request('intentResultRequest', { intentEventUuid: meta.eventUuid, raiseIntentRequestUuid: payload.raiseIntentRequestUuid, intentResult: {} });
    await world.until(() => app.socket.of('raiseIntentResultResponse').length);
    const order = app.socket.frames.map(({ message }) => message.type).filter((type) => /intentEvent|raiseIntent/.test(type));
    assert.deepEqual(order, ['intentEvent', 'raiseIntentResponse', 'raiseIntentResultResponse']);
  }),

  check('33', 'listeners of one app for the same intent and context are refused', { raw: true }, async (world) => {
    const { socket } = await world.raw('a', 'test-quoter');
    const add = (contextTypes) => socket.request('addIntentListenerRequest', { intent: 'GetPrice', contextTypes });
    await answersWith(undefined, add(['x.question', 'x.other']));
    await answersWith('IntentListenerConflict', add(['x.other', 'x.third']));
    await answersWith(undefined, add(['x.third']));
  }),

  check('33', 'metadata of 3.0 goes with an intent and its result', { raw: true }, async (world) => {
    const [asker, quoter] = [await world.raw('a', 'test-one'), await world.raw('b', 'test-quoter')];
    await quoter.socket.request('addIntentListenerRequest', { intent: 'GetPrice', contextTypes: ['x.question'] });
    const app = await world.until(async () => {
      const { payload } = await asker.socket.request('findIntentRequest', { intent: 'GetPrice' });
      return payload.appIntent?.apps.find(({ instanceId }) => instanceId === quoter.id.instanceId);
    });
    const metadata = { traceId: 'trace-2', signature: { protected: 'e30', signature: 'c2ln' }, antiReplay: { iat: 1, exp: 2, jti: 'j' }, custom: { a: [1] } };
    const event = quoter.socket.next(({ type }) => type === 'intentEvent');
    const result = asker.socket.next(({ type }) => type === 'raiseIntentResultResponse');
    const { appId, instanceId, desktopAgent } = app;
    await asker.socket.request('raiseIntentRequest', { intent: 'GetPrice', context: QUESTION, app: { appId, instanceId, desktopAgent }, metadata });
    const { meta, payload } = await event;
    const without = ({ source, timestamp, ...rest }) => rest;
    assert.deepEqual(without(payload.metadata), metadata);
    assert.equal(payload.metadata.source.instanceId, asker.id.instanceId);
    await quoter.socket.request('intentResultRequest', {
      intentEventUuid: meta.eventUuid,
      raiseIntentRequestUuid: payload.raiseIntentRequestUuid,
      intentResult: { context: { type: 'x.price' } },
      metadata: { ...metadata, traceId: 'trace-3' },
    });
    const { resultMetadata } = (await result).payload;
    assert.deepEqual(without(resultMetadata), { ...metadata, traceId: 'trace-3' });
    assert.equal(resultMetadata.source.instanceId, quoter.id.instanceId);
  }),
];

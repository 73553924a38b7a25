// What the rules of a node let cross its bridge. The node must have these (`fdc3.bridge_rules`):
//
//   { direction = "out", channel = "kept-out-but", allow = true },
//   { direction = "out", channel = "/^kept-out-/", allow = false },
//   { direction = "in", channel = "/^kept-in-/", allow = false },
//   { direction = "in", channel = "/^quiet-/", app = "foreign", allow = false },
//   { direction = "out", intent = "Secret", allow = false },
//   { direction = "in", intent = "GetTopic", allow = false },
//   { direction = "out", app = "hidden", allow = false },
//   { direction = "in", app = "/^test-s/", allow = false },

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { QUESTION, agent, app, casts, end, raise, source, sources, until } from '../lib/agents.mjs';

/** An agent with the apps `foreign` and `hidden`, which handle the intents `Ask` and `Secret`. */
function handlers() {
  const found = (to, appId) => ({ appId, instanceId: `i-${appId}`, title: `${appId} elsewhere`, desktopAgent: to.name });
  const both = (to) => [found(to, 'foreign'), found(to, 'hidden')];
  const named = ({ payload }, to) => found(to, payload.app.appId);
  const about = (name) => ({ name, displayName: name });
  return {
    findIntentRequest: (request, to) => to.answer(request, { appIntent: { intent: about(request.payload.intent), apps: request.payload.intent === 'GetPrice' ? [] : both(to) } }),
    findIntentsByContextRequest: (request, to) => to.answer(request, { appIntents: ['Ask', 'Secret'].map((name) => ({ intent: about(name), apps: both(to) })) }),
    findInstancesRequest: (request, to) => to.answer(request, { appIdentifiers: [named(request, to)] }),
    getAppMetadataRequest: (request, to) => to.answer(request, { appMetadata: named(request, to) }),
    openRequest: (request, to) => to.answer(request, { appIdentifier: named(request, to) }),
    raiseIntentRequest: (request, to) => {
      to.answer(request, { intentResolution: { intent: request.payload.intent, source: named(request, to) } });
      to.answer(request, { intentResult: { context: { type: 'x.price', value: 42 } } }, 'raiseIntentResultResponse');
    },
  };
}

const here = (of) => of.update.payload.allAgents.find((one) => one.deskmesh).desktopAgent;
const fails = (word, promise) => assert.rejects(promise, { message: word });

export const ruleChecks = {
  'rules: broadcasts cross by channel and direction': async () => {
    const [one, other] = [await app('a', 'test-one'), await agent('a', 'other')];
    const seen = sources(one);
    const [keptOut, keptIn, quiet, free] = ['kept-out', 'kept-in', 'quiet', 'free'].map((name) => `${name}-${randomUUID()}`);
    const say = (channelId, n, of = source(other, 'i1')) => other.send('broadcastRequest', { channelId, context: { type: 'x.price', n } }, { source: of });
    const channels = new Map();
    for (const name of [keptOut, 'kept-out-but', keptIn, quiet, free]) {
      const channel = await one.agent.getOrCreateChannel(name);
      await channel.addContextListener('x.price', () => {});
      channels.set(name, channel);
    }
    // What is said last shows that all before has been decided.
    for (const name of [keptOut, 'kept-out-but', keptIn, quiet, free]) await channels.get(name).broadcast({ type: 'x.answer' });
    await until(() => casts(other, free).length);
    const crossed = other.all('broadcastRequest').map(({ payload }) => payload.channelId).filter((id) => channels.has(id));
    assert.deepEqual(crossed, ['kept-out-but', keptIn, quiet, free]);
    for (const [n, name] of [keptOut, keptIn, quiet].entries()) say(name, n);
    say(quiet, 3, { ...source(other, 'i1'), appId: 'others' });
    say(free, 4);
    const heard = () => seen.filter(([{ type }]) => type === 'x.price').map(([{ n }]) => n);
    await until(() => heard().includes(4));
    assert.deepEqual(heard(), [0, 3, 4]);
    assert.equal(await channels.get(keptIn).getCurrentContext('x.price'), null);
  },

  'rules: what is on channels when somebody joins': async () => {
    const one = await app('a', 'test-one');
    const [keptOut, keptIn, free] = ['kept-out', 'kept-in', 'free'].map((name) => `${name}-${randomUUID()}`);
    for (const name of [keptOut, keptIn, free]) await (await one.agent.getOrCreateChannel(name)).broadcast({ type: 'x.price', n: 1 });
    const brings = (n) => Object.fromEntries([keptOut, keptIn, free].map((name) => [name, [{ type: 'x.brought', n }]]));
    const other = await agent('a', 'other', {}, { channelsState: brings(2) });
    const known = [keptOut, keptIn, free].map((name) => (other.update.payload.channelsState[name] ?? []).map(({ type }) => type).sort());
    assert.deepEqual(known.map((types) => types.includes('x.price')), [false, true, true]);
    const brought = async (name) => (await one.agent.getOrCreateChannel(name)).getCurrentContext('x.brought');
    await until(() => brought(free));
    assert.deepEqual(await brought(keptOut), { type: 'x.brought', n: 2 });
    assert.equal(await brought(keptIn), null);
  },

  'rules: what apps of the node find and raise': async () => {
    const [one, other] = [await app('a', 'test-one'), await agent('a', 'other', handlers())];
    assert.deepEqual((await one.agent.findIntent('Ask')).apps.map(({ appId }) => appId), ['foreign']);
    await fails('NoAppsFound', one.agent.findIntent('Secret'));
    const byContext = await one.agent.findIntentsByContext({ type: 'x.ask' });
    assert.deepEqual(byContext.map(({ intent, apps }) => [intent.name, apps.map(({ appId }) => appId)]), [['Ask', ['foreign']]]);
    const [foreign, hidden] = ['foreign', 'hidden'].map((appId) => ({ appId, instanceId: `i-${appId}`, desktopAgent: other.name }));
    const resolution = await one.agent.raiseIntent('Ask', QUESTION, foreign);
    assert.deepEqual(await resolution.getResult(), { type: 'x.price', value: 42 });
    await fails('NoAppsFound', one.agent.raiseIntent('Ask', QUESTION, hidden));
    await fails('NoAppsFound', one.agent.raiseIntent('Secret', QUESTION, foreign));
    // Those that may not cross were not asked for.
    const asked = other.log.filter(({ type }) => /Intent/.test(type)).map(({ payload }) => JSON.stringify(payload));
    assert.deepEqual(asked.filter((text) => /hidden|Secret/.test(text)), []);
    assert.equal(other.all('raiseIntentRequest').length, 1);
  },

  'rules: what apps of the node open and ask about': async () => {
    const [one, other] = [await app('a', 'test-one'), await agent('a', 'other', handlers())];
    assert.equal((await one.agent.open({ appId: `foreign@${other.name}` })).instanceId, 'i-foreign');
    await fails('AppNotFound', one.agent.open({ appId: `hidden@${other.name}` }));
    assert.equal((await one.agent.getAppMetadata({ appId: 'foreign', desktopAgent: other.name })).title, 'foreign elsewhere');
    await fails('TargetAppUnavailable', one.agent.getAppMetadata({ appId: 'hidden', desktopAgent: other.name }));
    assert.equal((await one.agent.findInstances({ appId: 'foreign' })).length, 1);
    await fails('NoAppsFound', one.agent.findInstances({ appId: 'hidden' }));
  },

  'rules: what an agent finds and raises': async () => {
    const [quoter, second, other] = [await app('a', 'test-quoter'), await app('a', 'test-second'), await agent('a', 'other')];
    const price = async () => ({ type: 'x.price', value: 42 });
    for (const intent of ['GetPrice', 'GetTopic']) await quoter.agent.addIntentListener(intent, price);
    await second.agent.addIntentListener('Choose', price);
    const meta = { source: source(other, 'i1') };
    const appsFor = async (intent) => {
      const { payload } = await other.ask('findIntentRequest', { intent }, meta);
      return [...new Set((payload.appIntent?.apps ?? []).map(({ appId }) => appId))];
    };
    assert.deepEqual([await appsFor('GetPrice'), await appsFor('GetTopic'), await appsFor('Choose')], [['test-quoter'], [], ['test-first']]);
    const { payload } = await other.ask('findIntentsByContextRequest', { context: { type: 'x.question' } }, meta);
    const found = new Map(payload.appIntents.map(({ intent, apps }) => [intent.name, apps.map(({ appId }) => appId)]));
    assert.ok(found.get('GetPrice').includes('test-quoter'));
    assert.deepEqual([found.get('GetTopic') ?? [], found.get('Choose')], [[], ['test-first']]);
    const target = { appId: 'test-quoter', instanceId: quoter.id.instanceId };
    const raised = await raise(other, 'i1', 'GetPrice', target);
    assert.deepEqual((await raised.result()).payload, { intentResult: { context: { type: 'x.price', value: 42 } } });
    for (const [intent, app] of [['GetTopic', target], ['Choose', { appId: 'test-second', instanceId: second.id.instanceId }]]) {
      assert.equal((await raise(other, 'i1', intent, app)).answer.payload.error, 'NoAppsFound');
    }
  },

  'rules: what an agent opens and asks about': async () => {
    const [one, second, other] = [await app('a', 'test-one'), await app('a', 'test-second'), await agent('a', 'other')];
    const node = here(other);
    const ask = async (type, appId) => {
      const app = { appId, desktopAgent: node };
      return (await other.ask(`${type}Request`, { app }, { source: source(other, 'i1'), destination: { desktopAgent: node } })).payload;
    };
    const { appIdentifier, error } = await ask('open', 'test-native');
    assert.equal(error, undefined);
    end(other, appIdentifier);
    assert.equal((await ask('open', 'test-silent')).error, 'AppNotFound');
    assert.equal((await ask('getAppMetadata', 'test-one')).appMetadata.title, 'Test test-one');
    assert.equal((await ask('getAppMetadata', 'test-second')).error, 'TargetAppUnavailable');
    const instances = async (appId) => ((await ask('findInstances', appId)).appIdentifiers ?? []).map(({ instanceId }) => instanceId);
    assert.ok((await instances('test-one')).includes(one.id.instanceId));
    assert.ok(!(await instances('test-second')).includes(second.id.instanceId));
  },
};

// Apps of nodes, and desktop agents of other makers on the bridges of these nodes.
//
//   node bridge.mjs --a ws://…/fdc3 --bridge-a ws://… [--b ws://…/fdc3 --bridge-b ws://…] [--only TEXT] [--slow]
//
//   --slow         only the checks that take more than 20 s
//   --rules        only the checks of a node with the rules at the head of `bridge/rules.mjs`
//   --secret FILE  the agents prove to know the secret in this file (`fdc3.bridge_secret_file`), and there are
//                  checks of what becomes of those who do not
//
// The nodes need the directory that `headless.mjs --write-directory` writes, and hold bridges of their own
// (`fdc3.bridge`). The agents are those of `../bridge`. Ends with 0 if every check went well.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { pause, setPatience, setSecret } from '../bridge/agent.mjs';
import { ruleChecks } from './bridge/rules.mjs';
import { secretChecks } from './bridge/secret.mjs';
import {
  QUESTION, agent, app, casts, cleanUp, end, handlesAsk, raise, settled, source, sources, until, world,
} from './lib/agents.mjs';

const { values: flags } = parseArgs({
  options: {
    a: { type: 'string' },
    b: { type: 'string' },
    'bridge-a': { type: 'string' },
    'bridge-b': { type: 'string' },
    lib: { type: 'string', default: 'old' },
    only: { type: 'string', default: '' },
    slow: { type: 'boolean', default: false },
    rules: { type: 'boolean', default: false },
    secret: { type: 'string' },
  },
});
Object.assign(world, flags);

/** An app of the other node takes 20 s to start. */
const slow = {
  'two nodes: an agent on one bridge opens an app of the other node that takes 20 s to start': async () => {
    const other = await agent('a', 'other');
    const node = other.update.payload.allAgents.find((one) => one.deskmesh).desktopAgent;
    const app = { appId: 'test-far-slow@desk-b', desktopAgent: node };
    const opened = await other.ask('openRequest', { app }, { source: source(other, 'i1'), destination: { desktopAgent: node } });
    assert.equal(opened.payload.error, undefined);
    assert.equal(opened.payload.appIdentifier.appId, 'test-far-slow@desk-b');
    end(other, opened.payload.appIdentifier);
  },

  'two nodes: an agent on one bridge raises an intent at an app of the other node that takes 20 s to start': async () => {
    const other = await agent('a', 'other');
    const { answer, result } = await raise(other, 'i1', 'SlowPrice', { appId: 'test-far-slow@desk-b' });
    assert.equal(answer.payload.error, undefined);
    assert.deepEqual((await result()).payload, { intentResult: { context: { type: 'x.price', value: 42 } } });
    end(other, answer.payload.intentResolution.source);
  },
};

const checks = {
  'getInfo says that there is a bridge': async () => {
    const one = await app('a', 'test-one');
    assert.equal((await one.agent.getInfo()).optionalFeatures.DesktopAgentBridging, true);
  },

  'broadcasts go both ways, once': async () => {
    const [one, other] = [await app('a', 'test-one'), await agent('a', 'other')];
    const name = `prices-${randomUUID()}`;
    const channel = await one.agent.getOrCreateChannel(name);
    const seen = sources(one);
    await channel.addContextListener(null, () => {});
    for (let n = 0; n < 100; n += 1) other.send('broadcastRequest', { channelId: name, context: { type: 'x.price', n } }, { source: source(other, 'i1') });
    await until(() => seen.length >= 100);
    for (let n = 0; n < 100; n += 1) await channel.broadcast({ type: 'x.answer', n });
    await until(() => casts(other, name).length >= 100);
    await pause(500);
    assert.deepEqual(seen.map(([context]) => context.n), [...Array(100).keys()]);
    assert.deepEqual(casts(other, name).map((context) => context.n), [...Array(100).keys()]);
    assert.deepEqual(seen[0][1], { appId: 'foreign', instanceId: 'i1', desktopAgent: other.name });
    assert.deepEqual(await channel.getCurrentContext('x.price'), { type: 'x.price', n: 99 });
    const { source: from } = other.all('broadcastRequest').at(-1).meta;
    assert.equal(from.appId, 'test-one');
    assert.equal(from.instanceId, one.id.instanceId);
  },

  'what FDC3 3.0 says about contexts crosses to an agent that says it itself': async () => {
    const [one, other] = [await app('a', 'test-one'), await agent('a', 'other')];
    const name = `signed-${randomUUID()}`;
    await (await one.agent.getOrCreateChannel(name)).addContextListener(null, () => {});
    const metadata = (n) => ({ traceId: `t${n}`, signature: { protected: 'p', signature: 's' }, custom: { n } });
    const broadcast = (n) => one.socket.request('broadcastRequest', { channelId: name, context: { type: 'x.answer', n }, metadata: metadata(n) });
    const cast = (n) => other.got(({ type, payload }) => type === 'broadcastRequest' && payload.channelId === name && payload.context.n === n);
    await broadcast(1);
    assert.equal((await cast(1)).payload.metadata, undefined);
    const event = one.socket.next(({ type, payload }) => type === 'broadcastEvent' && payload.channelId === name);
    other.send('broadcastRequest', { channelId: name, context: { type: 'x.price' }, metadata: metadata(2) }, { source: source(other, 'i1') });
    const { source: from, timestamp, ...heard } = (await event).payload.metadata;
    assert.deepEqual(heard, metadata(2));
    assert.deepEqual(from, { appId: 'foreign', instanceId: 'i1', desktopAgent: other.name });
    assert.ok(timestamp);
    // Agents of earlier checks may still be leaving, and a broadcast is for all.
    let n = 2;
    const told = await until(async () => {
      await broadcast(n += 1);
      return (await cast(n)).payload.metadata;
    });
    assert.deepEqual(told, metadata(n));
  },

  'what is on channels is known to who joins, and taken from who brings it': async () => {
    const one = await app('a', 'test-one');
    const [known, brought] = [`known-${randomUUID()}`, `brought-${randomUUID()}`];
    await (await one.agent.getOrCreateChannel(known)).broadcast({ type: 'x.price', n: 1 });
    const there = await one.agent.getOrCreateChannel(brought);
    const seen = [];
    await there.addContextListener('x.price', (context) => seen.push(context));
    const other = await agent('a', 'other', {}, { channelsState: { [brought]: [{ type: 'x.price', n: 2 }] } });
    assert.deepEqual(other.update.payload.channelsState[known], [{ type: 'x.price', n: 1 }]);
    await until(() => seen.length);
    assert.deepEqual(seen, [{ type: 'x.price', n: 2 }]);
    assert.deepEqual(await there.getCurrentContext('x.price'), { type: 'x.price', n: 2 });
  },

  'apps find those of an agent on the bridge': async () => {
    const one = await app('a', 'test-one');
    await assert.rejects(one.agent.findIntent('Ask'), /NoAppsFound/);
    const other = await agent('a', 'other', handlesAsk('i1'));
    const found = await settled(() => one.agent.findIntent('Ask'));
    assert.equal(found.intent.displayName, 'Ask away');
    assert.deepEqual(found.apps.map((one) => [one.appId, one.instanceId, one.desktopAgent]), [['foreign', 'i1', other.name]]);
    const mixed = await one.agent.findIntent('GetPrice');
    assert.ok(mixed.apps.every((one) => one.appId === 'test-quoter' && !one.desktopAgent));
    const byContext = await one.agent.findIntentsByContext({ type: 'x.ask' });
    assert.deepEqual(byContext.map(({ intent, apps }) => [intent.name, apps.length]), [['Ask', 1]]);
    const instances = await one.agent.findInstances({ appId: 'foreign' });
    assert.deepEqual(instances.map((one) => one.desktopAgent), [other.name]);
    assert.equal((await one.agent.getAppMetadata(instances[0])).title, 'An app elsewhere');
    assert.equal((await one.agent.open({ appId: `foreign@${other.name}` })).desktopAgent, other.name);
    other.cut();
    await until(async () => one.agent.findIntent('Ask').then(() => false, () => true));
  },

  'an app raises an intent at an agent on the bridge': async () => {
    const one = await app('a', 'test-one');
    const other = await agent('a', 'other', handlesAsk('i1', ({ payload }) => ({ context: { type: 'x.price', value: payload.context.q * 2 } })));
    const resolution = await settled(() => one.agent.raiseIntent('Ask', QUESTION));
    assert.equal(resolution.source.desktopAgent, other.name);
    assert.deepEqual(await resolution.getResult(), { type: 'x.price', value: 42 });
    const named = await one.agent.raiseIntent('Ask', QUESTION, { appId: 'foreign', instanceId: 'i1', desktopAgent: other.name });
    assert.deepEqual(await named.getResult(), { type: 'x.price', value: 42 });
    assert.equal(other.all('raiseIntentRequest')[0].meta.source.instanceId, one.id.instanceId);
  },

  'a result that never comes ends with its agent': async () => {
    const one = await app('a', 'test-one');
    const other = await agent('a', 'other', handlesAsk('i1'));
    const resolution = await settled(() => one.agent.raiseIntent('Ask', QUESTION));
    other.cut();
    assert.equal(await resolution.getResult().catch(() => undefined), undefined);
  },

  'an agent on the bridge finds, and raises an intent': async () => {
    const [quoter, other] = [await app('a', 'test-quoter'), await agent('a', 'other')];
    let from;
    await quoter.agent.addIntentListener('GetPrice', async ({ q }, metadata) => {
      from = metadata.source;
      return { type: 'x.price', value: q * 2 };
    });
    const { payload } = await other.ask('findIntentRequest', { intent: 'GetPrice' }, { source: source(other, 'i1') });
    const target = payload.appIntent.apps.find((one) => one.instanceId === quoter.id.instanceId);
    const { answer, result, node } = await raise(other, 'i1', 'GetPrice', { appId: target.appId, instanceId: target.instanceId });
    assert.equal(target.desktopAgent, node);
    assert.deepEqual(answer.payload.intentResolution.source, { appId: 'test-quoter', instanceId: quoter.id.instanceId, desktopAgent: node });
    assert.deepEqual((await result()).payload, { intentResult: { context: { type: 'x.price', value: 42 } } });
    assert.deepEqual(from, { appId: 'foreign', instanceId: 'i1', desktopAgent: other.name });
    for (const [app, error] of [[{ appId: 'nobody' }, 'TargetAppUnavailable'], [{ appId: 'test-quoter', instanceId: 'nobody' }, 'TargetInstanceUnavailable']]) {
      assert.equal((await raise(other, 'i1', 'GetPrice', app)).answer.payload.error, error);
    }
    const metadata = await other.ask('getAppMetadataRequest', { app: { appId: 'test-one', desktopAgent: node } }, { source: source(other, 'i1'), destination: { desktopAgent: node } });
    assert.equal(metadata.payload.appMetadata.title, 'Test test-one');
    const opened = await other.ask('openRequest', { app: { appId: 'nobody', desktopAgent: node } }, { source: source(other, 'i1'), destination: { desktopAgent: node } });
    assert.equal(opened.payload.error, 'AppNotFound');
  },

  'a private channel of an app is used by an agent on the bridge': () => streams('a'),

  'a private channel of an agent on the bridge is used by an app': () => listens('a'),

  ...flags.b && {
    'two nodes: a broadcast on one bridge is heard by the other, once': async () => {
      const [here, there] = [await agent('a', 'here'), await agent('b', 'there')];
      const [one, two] = [await app('a', 'test-one'), await app('b', 'test-two')];
      const name = `prices-${randomUUID()}`;
      const seen = { one: sources(one), two: sources(two) };
      for (const client of [one, two]) await (await client.agent.getOrCreateChannel(name)).addContextListener(null, () => {});
      // The nodes may not know of each other's interest yet.
      await until(async () => {
        await (await one.agent.getOrCreateChannel(name)).broadcast({ type: 'x.first' });
        return seen.two.length;
      });
      const prices = (list) => list.filter(([{ type }]) => type === 'x.price').map(([{ n }]) => n);
      for (let n = 0; n < 100; n += 1) here.send('broadcastRequest', { channelId: name, context: { type: 'x.price', n } }, { source: source(here, 'i1') });
      const heard = () => casts(there, name).filter(({ type }) => type === 'x.price').map(({ n }) => n);
      await until(() => prices(seen.one).length >= 100 && prices(seen.two).length >= 100 && heard().length >= 100);
      await pause(2000);
      const all = [...Array(100).keys()];
      assert.deepEqual([prices(seen.one), prices(seen.two), heard()], [all, all, all]);
      assert.deepEqual(casts(here, name).filter(({ type }) => type === 'x.price'), []);
      assert.equal(seen.two.at(-1)[1].desktopAgent, `${here.name}@desk-a`);
      assert.equal(there.all('broadcastRequest').at(-1).meta.source.appId, `foreign@${here.name}@desk-a`);
    },

    'two nodes: an agent on one bridge finds an app of the other node, and raises an intent': async () => {
      const [quoter, other] = [await app('b', 'test-quoter'), await agent('a', 'other')];
      await quoter.agent.addIntentListener('GetPrice', async ({ q }) => ({ type: 'x.price', value: q * 2 }));
      const target = await until(async () => {
        const { payload } = await other.ask('findIntentRequest', { intent: 'GetPrice' }, { source: source(other, 'i1') });
        return payload.appIntent?.apps.find((one) => one.instanceId === quoter.id.instanceId);
      });
      assert.equal(target.appId, 'test-quoter@desk-b');
      const { answer, result, node } = await raise(other, 'i1', 'GetPrice', { appId: target.appId, instanceId: target.instanceId });
      assert.deepEqual(answer.payload.intentResolution.source, { appId: 'test-quoter@desk-b', instanceId: quoter.id.instanceId, desktopAgent: node });
      assert.deepEqual((await result()).payload, { intentResult: { context: { type: 'x.price', value: 42 } } });
    },

    'two nodes: a private channel of an app is used by an agent on the other bridge': () => streams('b', 'test-quoter@desk-b'),

    'two nodes: a private channel of an agent on the other bridge is used by an app': () => listens('b'),

    'two nodes: apps find and open those of an agent on the other bridge': async () => {
      const [one, two] = [await app('a', 'test-one'), await app('b', 'test-two')];
      const [here, there] = [await agent('a', 'here', handlesAsk('i1')), await agent('b', 'there', handlesAsk('i2'))];
      const named = { one: [here.name, `${there.name}@desk-b`], two: [`${here.name}@desk-a`, there.name] };
      for (const [client, names] of [[one, named.one], [two, named.two]]) {
        const found = await settled(async () => {
          const { apps } = await client.agent.findIntent('Ask');
          return apps.length === 2 && apps;
        });
        assert.deepEqual(found.map(({ desktopAgent }) => desktopAgent).sort(), [...names].sort());
        const [byContext] = await client.agent.findIntentsByContext({ type: 'x.ask' });
        assert.equal(byContext.apps.length, 2);
        const instances = await client.agent.findInstances({ appId: 'foreign' });
        assert.deepEqual(instances.map(({ desktopAgent }) => desktopAgent).sort(), [...names].sort());
        for (const desktopAgent of names) {
          const metadata = await client.agent.getAppMetadata({ appId: 'foreign', instanceId: 'i', desktopAgent });
          assert.deepEqual([metadata.title, metadata.desktopAgent], ['An app elsewhere', desktopAgent]);
          const [alone] = await client.agent.findInstances({ appId: 'foreign', desktopAgent });
          assert.equal(alone.desktopAgent, desktopAgent);
          assert.equal((await client.agent.open({ appId: `foreign@${desktopAgent}` })).desktopAgent, desktopAgent);
        }
      }
      // Each search went to each agent once.
      for (const asked of [here, there]) {
        const sources = asked.all('findIntentsByContextRequest').map(({ meta }) => meta.source.instanceId);
        assert.deepEqual(sources.sort(), [one.id.instanceId, two.id.instanceId].sort());
        assert.equal(asked.all('openRequest').length, 2);
      }
      here.cut();
      await until(async () => (await two.agent.findIntent('Ask')).apps.length === 1);
      await assert.rejects(two.agent.getAppMetadata({ appId: 'foreign', desktopAgent: named.two[0] }), /DesktopAgentNotFound/);
    },

    'two nodes: an app raises an intent at an agent on the other bridge': async () => {
      const two = await app('b', 'test-two');
      const topic = `topic-${randomUUID()}`;
      const results = { context: { context: { type: 'x.price', value: 42 } }, channel: { channel: { id: topic, type: 'app' } }, nothing: {} };
      const other = await agent('a', 'other', handlesAsk('i1', ({ payload }) => results[payload.context.wants]));
      const [resolution, named] = [
        await settled(() => two.agent.raiseIntent('Ask', { ...QUESTION, wants: 'context' })),
        await two.agent.raiseIntent('Ask', { ...QUESTION, wants: 'context' }, { appId: 'foreign', instanceId: 'i1', desktopAgent: `${other.name}@desk-a` }),
      ];
      for (const one of [resolution, named]) {
        assert.equal(one.source.desktopAgent, `${other.name}@desk-a`);
        assert.deepEqual(await one.getResult(), { type: 'x.price', value: 42 });
      }
      const { source: from } = other.all('raiseIntentRequest')[0].meta;
      assert.deepEqual([from.appId, from.instanceId], ['test-two@desk-b', two.id.instanceId]);
      const channel = await (await two.agent.raiseIntent('Ask', { ...QUESTION, wants: 'channel' })).getResult();
      assert.equal(channel.id, topic);
      await channel.broadcast({ type: 'x.first' });
      await until(() => casts(other, topic).length);
      assert.equal(await (await two.agent.raiseIntent('Ask', { ...QUESTION, wants: 'nothing' })).getResult(), undefined);
      const unanswered = await two.agent.raiseIntent('Ask', { ...QUESTION, wants: 'silence' });
      other.cut();
      assert.equal(await unanswered.getResult().catch(() => undefined), undefined);
    },

    'two nodes: agents on two bridges find and open each other\'s apps': async () => {
      const options = { exactly: `twin-${randomUUID()}` };
      const [here, there] = [await agent('a', 'twin', handlesAsk('i1'), options), await agent('b', 'twin', handlesAsk('i2'), options)];
      assert.equal(here.name, there.name);
      const nodes = new Map([[here, nodeOf(here)], [there, nodeOf(there)]]);
      for (const [one, other, place, instanceId] of [[here, there, 'desk-b', 'i2'], [there, here, 'desk-a', 'i1']]) {
        const node = nodes.get(one);
        const named = { appId: `foreign@${other.name}@${place}`, instanceId, desktopAgent: node };
        const ask = async (type, payload, destination) => (await one.ask(`${type}Request`, payload, { source: source(one, 'i'), destination })).payload;
        const at = { desktopAgent: node };
        const far = (apps) => (apps ?? []).filter(({ appId }) => appId.startsWith('foreign@')).map(bare);
        await until(async () => far((await ask('findIntent', { intent: 'Ask' })).appIntent?.apps).length);
        assert.deepEqual(far((await ask('findIntent', { intent: 'Ask' })).appIntent.apps), [named]);
        const byContext = (await ask('findIntentsByContext', { context: { type: 'x.ask' } })).appIntents;
        assert.deepEqual(far(byContext.find(({ intent }) => intent.name === 'Ask').apps), [named]);
        assert.deepEqual(far((await ask('findInstances', { app: { appId: 'foreign' } })).appIdentifiers), [named]);
        assert.deepEqual((await ask('findInstances', { app: { appId: named.appId, desktopAgent: node } }, at)).appIdentifiers.map(bare), [named]);
        const { appMetadata } = await ask('getAppMetadata', { app: named }, at);
        assert.deepEqual([appMetadata.title, appMetadata.appId], ['An app elsewhere', named.appId]);
        assert.deepEqual(bare((await ask('open', { app: { appId: named.appId, desktopAgent: node } }, at)).appIdentifier), named);
        assert.equal((await ask('open', { app: { appId: `foreign@nobody@${place}`, desktopAgent: node } }, at)).error, 'AppNotFound');
        // The other knows who asks, and is asked once for what is asked of it alone.
        const opened = other.all('openRequest');
        assert.deepEqual(opened.map(({ meta }) => [meta.source.appId, meta.source.instanceId]), [[`foreign@${one.name}@${place === 'desk-b' ? 'desk-a' : 'desk-b'}`, 'i']]);
        // What it asks does not come back to it.
        assert.deepEqual(one.all('findIntentRequest').filter(({ meta }) => meta.source.appId.endsWith(place === 'desk-b' ? '@desk-a' : '@desk-b')), []);
      }
      there.cut();
      await until(async () => {
        const { payload } = await here.ask('findIntentRequest', { intent: 'Ask' }, { source: source(here, 'i') });
        return !payload.appIntent?.apps.some(({ appId }) => appId.startsWith('foreign@'));
      });
    },

    'two nodes: agents on two bridges raise intents at each other, and share private channels': async () => {
      const id = `private-${randomUUID()}`;
      const results = { context: { context: { type: 'x.price', value: 42 } }, channel: { channel: { id, type: 'private' } } };
      const options = { exactly: `twin-${randomUUID()}` };
      const there = await agent('b', 'twin', handlesAsk('i2', ({ payload }) => results[payload.context.wants]), options);
      const here = await agent('a', 'twin', {}, options);
      const [near, far] = [nodeOf(here), nodeOf(there)];
      const appId = `foreign@${there.name}@desk-b`;
      const raiseFor = async (wants) => {
        const target = { appId, instanceId: 'i2', desktopAgent: near };
        const payload = { intent: 'Ask', context: { ...QUESTION, wants }, app: target };
        const uuid = here.send('raiseIntentRequest', payload, { source: source(here, 'i1'), destination: { desktopAgent: near } });
        const answer = await here.answerTo(uuid);
        const result = () => here.got(({ type, meta }) => type === 'raiseIntentResultResponse' && meta.requestUuid === uuid, 'the result');
        return { answer, result };
      };
      const raised = await until(async () => {
        const one = await raiseFor('context');
        return one.answer.payload.error ? undefined : one;
      });
      assert.deepEqual(bare(raised.answer.payload.intentResolution.source), { appId, instanceId: 'i2', desktopAgent: near });
      assert.deepEqual((await raised.result()).payload, { intentResult: { context: { type: 'x.price', value: 42 } } });
      assert.equal(there.all('raiseIntentRequest').at(-1).meta.source.appId, `foreign@${here.name}@desk-a`);
      const { result } = await raiseFor('channel');
      assert.equal((await result()).payload.intentResult.channel.id, id);
      const say = (of, node, instanceId) => (what, payload) => of.send(`PrivateChannel.${what}`, { channelId: id, ...payload }, { source: source(of, instanceId), destination: { desktopAgent: node } });
      const [hereSays, thereSays] = [say(here, near, 'i1'), say(there, far, 'i2')];
      hereSays('eventListenerAdded', { listenerType: 'onDisconnect' });
      hereSays('onAddContextListener', { contextType: 'x.price' });
      const added = await there.got(({ type }) => type === 'PrivateChannel.onAddContextListener');
      assert.deepEqual(added.payload, { channelId: id, contextType: 'x.price' });
      assert.deepEqual([added.meta.source.appId, added.meta.destination], [`foreign@${here.name}@desk-a`, source(there, 'i2')]);
      const numbers = [...Array(50).keys()];
      for (const n of numbers) thereSays('broadcast', { context: { type: 'x.price', n } });
      thereSays('broadcast', { context: { type: 'x.unheard' } });
      for (const n of numbers) hereSays('broadcast', { context: { type: 'x.question', n } });
      const heard = (of) => of.all('PrivateChannel.broadcast').map(({ payload }) => payload.context.n);
      await until(() => heard(here).length >= 50 && heard(there).length >= 50);
      hereSays('onUnsubscribe', { contextType: 'x.price' });
      await there.got(({ type }) => type === 'PrivateChannel.onUnsubscribe');
      thereSays('onDisconnect', {});
      await here.got(({ type }) => type === 'PrivateChannel.onDisconnect');
      assert.deepEqual([heard(here), heard(there)], [numbers, numbers]);
      // The end of an agent is known to who waits for it.
      const { result: never } = await raiseFor('silence');
      there.cut();
      assert.equal((await never()).payload.error, 'IntentHandlerRejected');
    },

    'two nodes: what an agent asks is answered in time, though one on the other bridge is silent': async () => {
      const quoter = await app('b', 'test-quoter');
      await quoter.agent.addIntentListener('GetPrice', async () => ({ type: 'x.price' }));
      const [here, silent] = [await agent('a', 'here'), await agent('b', 'silent', { findIntentRequest: () => {} })];
      const quoted = async () => {
        const { payload } = await here.ask('findIntentRequest', { intent: 'GetPrice' }, { source: source(here, 'i1') });
        return payload.appIntent?.apps.some(({ instanceId }) => instanceId === quoter.id.instanceId);
      };
      await until(quoted);
      // It is asked as soon as the other node knows of it; the bridge would leave out who is late.
      await until(async () => (await quoted()) && silent.all('findIntentRequest').length);
      assert.ok(await quoted());
    },

    'two nodes: a silent agent on the other bridge costs the time limit of its bridge, and no more': async () => {
      const [quoter, two] = [await app('b', 'test-quoter'), await app('b', 'test-two')];
      await quoter.agent.addIntentListener('GetPrice', async () => ({ type: 'x.price' }));
      await agent('a', 'silent', { ...handlesAsk('i1'), findIntentRequest: () => {} });
      await until(async () => (await two.agent.findIntentsByContext({ type: 'x.ask' }).catch(() => [])).length);
      const started = Date.now();
      const { apps } = await two.agent.findIntent('GetPrice');
      console.log(`      findIntent beside a silent agent: ${Date.now() - started} ms`);
      assert.ok(apps.some(({ instanceId }) => instanceId === quoter.id.instanceId));
      // Whoever is named is asked alone.
      assert.equal((await two.agent.findInstances({ appId: 'test-quoter', desktopAgent: 'desk-b' })).length, 1);
    },
  },
};

/** An app without what is said about it. */
const bare = ({ appId, instanceId, desktopAgent }) => ({ appId, instanceId, desktopAgent });

const nodeOf = (of) => of.update.payload.allAgents.find((one) => one.deskmesh).desktopAgent;

/** An agent on the bridge of a answers an app at `place` with a private channel. */
async function listens(place) {
  const one = await app(place, 'test-one');
  const id = `private-${randomUUID()}`;
  const other = await agent('a', 'other', handlesAsk('i1', () => ({ channel: { id, type: 'private' } })));
  const node = other.update.payload.allAgents.find((one) => one.deskmesh).desktopAgent;
  const channel = await (await settled(() => one.agent.raiseIntent('Ask', QUESTION))).getResult();
  assert.equal(channel.id, id);
  const [seen, gone] = [[], []];
  channel.onDisconnect(() => gone.push(1));
  await channel.addContextListener('x.price', ({ n }) => seen.push(n));
  const added = await other.got(({ type }) => type === 'PrivateChannel.onAddContextListener');
  assert.deepEqual(added.payload, { channelId: id, contextType: 'x.price' });
  // Some agents take no message that does not name the app that it is for.
  assert.deepEqual(added.meta.destination, source(other, 'i1'));
  await until(() => other.all('PrivateChannel.eventListenerAdded').some(({ payload }) => payload.listenerType === 'onDisconnect'));
  const say = (type, payload) => other.send(`PrivateChannel.${type}`, { channelId: id, ...payload }, { source: source(other, 'i1'), destination: { desktopAgent: node } });
  for (let n = 0; n < 50; n += 1) say('broadcast', { context: { type: 'x.price', n } });
  await until(() => seen.length >= 50);
  assert.deepEqual(seen, [...Array(50).keys()]);
  await channel.broadcast({ type: 'x.answer' });
  assert.deepEqual((await other.got(({ type }) => type === 'PrivateChannel.broadcast')).payload.context, { type: 'x.answer' });
  say('onDisconnect', {});
  await until(() => gone.length);
  await channel.disconnect();
  await other.got(({ type }) => type === 'PrivateChannel.onUnsubscribe');
  await other.got(({ type }) => type === 'PrivateChannel.onDisconnect');
  }

/** An app at `place` answers an agent on the bridge of a with a private channel. */
async function streams(place, appId = 'test-quoter') {
  const [quoter, other] = [await app(place, 'test-quoter'), await agent('a', 'other')];
  const seen = { listens: [], unsubscribes: [], disconnects: 0, contexts: [] };
  let channel;
  let listener;
  await quoter.agent.addIntentListener('Stream', async () => {
    channel = await quoter.agent.createPrivateChannel();
    channel.onAddContextListener((type) => seen.listens.push(type));
    channel.onUnsubscribe((type) => seen.unsubscribes.push(type));
    channel.onDisconnect(() => { seen.disconnects += 1; });
    listener = await channel.addContextListener(null, ({ n }) => seen.contexts.push(n));
    return channel;
  });
  // At another node the app is known a moment later.
  const { result, node } = await until(async () => {
    const raised = await raise(other, 'i1', 'Stream', { appId, instanceId: quoter.id.instanceId });
    return raised.answer.payload.error ? undefined : raised;
  });
  const { id, type } = (await result()).payload.intentResult.channel;
  assert.equal(type, 'private');
  const say = (what, payload) => other.send(`PrivateChannel.${what}`, { channelId: id, ...payload }, { source: source(other, 'i1'), destination: { desktopAgent: node } });
  say('eventListenerAdded', { listenerType: 'onUnsubscribe' });
  say('onAddContextListener', { contextType: 'x.price' });
  await until(() => seen.listens.length);
  for (let n = 0; n < 50; n += 1) await channel.broadcast({ type: 'x.price', n });
  await channel.broadcast({ type: 'x.unheard' });
  await until(() => other.all('PrivateChannel.broadcast').length >= 50);
  for (let n = 0; n < 50; n += 1) say('broadcast', { context: { type: 'x.question', n } });
  await until(() => seen.contexts.length >= 50);
  await listener.unsubscribe();
  await other.got(({ type }) => type === 'PrivateChannel.onUnsubscribe');
  say('onUnsubscribe', { contextType: 'x.price' });
  say('onDisconnect', {});
  await until(() => seen.disconnects);
  await pause(300);
  const told = other.log.filter(({ type }) => /^PrivateChannel.on/.test(type)).map(({ type, payload }) => [type, payload]);
  assert.deepEqual(told, [['PrivateChannel.onUnsubscribe', { channelId: id, contextType: null }]]);
  for (const { meta } of other.log.filter(({ type }) => type.startsWith('PrivateChannel.'))) assert.deepEqual(meta.destination, source(other, 'i1'));
  const numbers = [...Array(50).keys()];
  assert.deepEqual(other.all('PrivateChannel.broadcast').map(({ payload }) => payload.context.n), numbers);
  assert.deepEqual(seen, { listens: ['x.price'], unsubscribes: ['x.price'], disconnects: 1, contexts: numbers });
}

let failed = 0;
if (flags.slow) setPatience(60_000);
if (flags.secret) setSecret(readFileSync(flags.secret, 'utf8').trim());
const chosen = { ...(flags.slow ? slow : flags.rules ? ruleChecks : checks), ...flags.secret && secretChecks };
for (const [name, run] of Object.entries(chosen).filter(([name]) => name.includes(flags.only))) {
  const problem = await run().then(() => undefined, (error) => error);
  cleanUp();
  failed += problem ? 1 : 0;
  console.log(`${problem ? 'FAIL' : 'ok  '}  ${name}`);
  if (problem) console.log(`      ${String(problem.stack).replaceAll('\n', '\n      ')}`);
}
process.exit(failed ? 1 : 0);

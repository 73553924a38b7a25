// A client whose socket breaks comes back by itself, and everything works again without its doing.

import assert from 'node:assert/strict';
import { listens, reaches } from '../lib/pubsub.mjs';
import { scenario } from '../lib/scenario.mjs';
import { startProxy } from '../lib/proxy.mjs';
import { sees } from '../lib/interop.mjs';

/** A steady client at `a` and one at `b` that can be cut off. */
async function cuttable({ connect, urls, onClose }) {
  const proxy = await startProxy(urls.b);
  onClose(() => proxy.close());
  const [steady, cut] = await Promise.all([
    connect('a'),
    connect('b', { url: proxy.url, gateway: { reconnectInterval: 300 } }),
  ]);
  return { proxy, steady, cut };
}

/** Cuts the client off, runs `meanwhile` when both sides know, and lets it return. */
async function away({ until }, { proxy, steady, cut }, meanwhile = () => {}) {
  const peer = cut.interop.instance.peerId;
  const knows = (id) => steady.interop.servers().some(({ peerId }) => peerId === id);
  await proxy.cut();
  await until(() => !knows(peer), 3000, 'the steady side has noticed');
  await meanwhile();
  await proxy.restore();
  await until(() => cut.interop.instance.peerId !== peer && knows(cut.interop.instance.peerId), 8000, 'it is back');
}

const CHANNEL = {
  name: 'Red',
  meta: { color: 'red', fdc3: { id: 'fdc3.channel.1', displayMetadata: { name: 'Red', color: 'red' } } },
  data: { clientId: 7, 'fdc3_fdc3&instrument': { id: { ticker: 'VOD' } } },
  latest_fdc3_type: 'fdc3&instrument',
};

/** A context made on the steady side and watched on the other, with all the values that were seen there. */
async function watched({ until, unique }, { steady, cut }, data, prefix = '') {
  const name = `${prefix}${unique('context')}`;
  await steady.contexts.set(name, data);
  await until(() => cut.contexts.all().includes(name));
  const values = [];
  await cut.contexts.subscribe(name, (value) => values.push(value));
  await until(() => values.length === 1);
  return { name, values };
}

/** Checks that a context is the same for everybody, once a returning client had the time to do harm. */
async function everywhere({ connect, until }, { steady, cut }, { name, values }, expected) {
  assert.deepEqual(await steady.contexts.get(name), expected, 'on the steady side');
  assert.deepEqual(await cut.contexts.get(name), expected, 'on the side that was away');
  assert.deepEqual(values.at(-1), expected, 'the subscriber that was away');
  const newcomer = await connect('b');
  await until(() => newcomer.contexts.all().includes(name));
  assert.deepEqual(await newcomer.contexts.get(name), expected, 'for a newcomer');
}

/** Registers a method that never answers, and returns the list of its calls. */
async function hanging(client, name) {
  const calls = [];
  await client.interop.register(name, (args) => {
    calls.push(args);
    return new Promise(() => {});
  });
  return calls;
}

export default [
  scenario('E08 methods of both sides work again', async (world) => {
    const { until, unique } = world;
    const clients = await cuttable(world);
    const { steady, cut } = clients;
    const [mine, yours] = [unique('Steady'), unique('Cut')];
    await steady.interop.register(mine, () => ({ ok: 'steady' }));
    await cut.interop.register(yours, () => ({ ok: 'cut' }));
    await until(() => sees(steady, yours) && sees(cut, mine));
    await away(world, clients, () => assert.ok(!sees(steady, yours)));
    await until(() => sees(steady, yours) && sees(cut, mine));
    assert.equal((await steady.interop.invoke(yours)).returned.ok, 'cut');
    assert.equal((await cut.interop.invoke(mine)).returned.ok, 'steady');
    assert.equal(steady.interop.servers({ name: yours }).length, 1);
  }),

  scenario('a pending call to it ends', async (world) => {
    const { until, unique, rejection } = world;
    const { steady, cut, proxy } = await cuttable(world);
    const name = unique('Hangs');
    const calls = await hanging(cut, name);
    await until(() => sees(steady, name));
    const pending = rejection(steady.interop.invoke(name));
    await until(() => calls.length === 1);
    const start = performance.now();
    await proxy.cut();
    await pending;
    assert.ok(performance.now() - start < 3000);
    await proxy.restore();
  }),

  // `@glue42/core` leaves its own pending calls to their timeout when its socket breaks.
  scenario('a pending call of its own ends', { libs: ['io'] }, async (world) => {
    const { until, unique, rejection } = world;
    const { steady, cut, proxy } = await cuttable(world);
    const name = unique('Hangs');
    const calls = await hanging(steady, name);
    await until(() => sees(cut, name));
    const pending = rejection(cut.interop.invoke(name));
    await until(() => calls.length === 1);
    const start = performance.now();
    await proxy.cut();
    await pending;
    assert.ok(performance.now() - start < 3000);
    await proxy.restore();
  }),

  scenario('E08 a subscription to a stream goes on', async (world) => {
    const { until, unique } = world;
    const clients = await cuttable(world);
    const { steady, cut } = clients;
    const name = unique('Stream');
    const stream = await steady.interop.createStream(name);
    await until(() => sees(cut, name));
    const data = [];
    await cut.interop.subscribe(name, { onData: (event) => data.push(event.data) });
    await away(world, clients, () => until(() => stream.subscriptions().length === 0, 3000, 'the provider has noticed'));
    await until(() => stream.subscriptions().length === 1, 8000, 'subscribed again');
    stream.push({ n: 1 });
    await until(() => data.length > 0);
    assert.deepEqual(data, [{ n: 1 }]);
  }),

  scenario('E08 an own stream is there again', async (world) => {
    const { until, unique } = world;
    const clients = await cuttable(world);
    const { steady, cut } = clients;
    const name = unique('Stream');
    const stream = await cut.interop.createStream(name);
    await until(() => sees(steady, name));
    let closed = 0;
    await steady.interop.subscribe(name, { onClosed: () => (closed += 1) });
    await away(world, clients);
    await until(() => sees(steady, name), 5000, 'the stream is known again');
    await until(() => closed === 1, 3000, 'onClosed');
    const data = [];
    await steady.interop.subscribe(name, { onData: (event) => data.push(event.data) });
    stream.push({ n: 1 });
    await until(() => data.length === 1);
  }),

  scenario('E08 B-PS-6 bus subscriptions go on', { libs: ['io'] }, async (world) => {
    const { until, unique, sleep } = world;
    const clients = await cuttable(world);
    const { steady, cut } = clients;
    const topic = unique('topic');
    const heard = new Set();
    await cut.bus.subscribe(topic, ({ n }) => heard.add(n));
    const reach = (n) => until(async () => {
      steady.bus.publish(topic, { n });
      await sleep(20);
      return heard.has(n);
    }, 5000, `message ${n}`);
    await reach(1);
    await away(world, clients);
    await reach(2);
    const back = new Set();
    await steady.bus.subscribe(topic, ({ n }) => back.add(n));
    await until(async () => {
      cut.bus.publish(topic, { n: 3 });
      await sleep(20);
      return back.has(3);
    });
  }),

  // What is published meanwhile waits in the library, and then comes at once.
  scenario('B-PS-5 10 000 messages that waited in a client arrive', { libs: ['io'], alone: true, timeoutMs: 30_000 }, async (world) => {
    const { until, unique } = world;
    const clients = await cuttable(world);
    const { steady, cut } = clients;
    const topic = unique('topic');
    const heard = await listens(steady, topic);
    await reaches(world, cut, topic, heard);
    await away(world, clients, () => {
      for (let n = 0; n < 10_000; n += 1) cut.bus.publish(topic, { n });
    });
    await until(() => heard.data.length >= 10_000, 15_000, 'all of them');
    assert.deepEqual(heard.data.map(({ n }) => n), Array.from({ length: 10_000 }, (_, n) => n));
  }),

  scenario('E08 a context catches up and goes on', async (world) => {
    const { until, unique } = world;
    const clients = await cuttable(world);
    const { steady, cut } = clients;
    const name = unique('context');
    await steady.contexts.set(name, { same: 1 });
    await until(() => cut.contexts.all().includes(name));
    const values = [];
    await cut.contexts.subscribe(name, (value) => values.push(value));
    await until(() => values.length === 1);
    await away(world, clients, () => steady.contexts.update(name, { added: 'meanwhile' }));
    await until(() => values.at(-1).added === 'meanwhile', 5000, 'caught up');
    await steady.contexts.update(name, { after: 'wards' });
    await until(() => values.at(-1).after === 'wards');
    await cut.contexts.update(name, { from: 'cut' });
    await until(async () => (await steady.contexts.get(name)).from === 'cut');
    assert.deepEqual(await steady.contexts.get(name), { same: 1, added: 'meanwhile', after: 'wards', from: 'cut' });
  }),

  scenario('a returning client does not undo what others wrote', async (world) => {
    const { until, unique, sleep, connect } = world;
    const clients = await cuttable(world);
    const { steady, cut } = clients;
    const name = unique('context');
    await steady.contexts.set(name, { value: 'old', removed: 'later' });
    await until(() => cut.contexts.all().includes(name));
    const values = [];
    await cut.contexts.subscribe(name, (value) => values.push(value));
    await until(() => values.length === 1);
    await away(world, clients, async () => {
      await steady.contexts.update(name, { value: 'newer', removed: null });
      await steady.contexts.update(name, { value: 'newest' });
    });
    await until(() => values.at(-1).value === 'newest', 5000, 'caught up').catch(() => {});
    // The library re-announces what it remembers as an ordinary update; give that the time to do harm.
    await sleep(1500);
    const expected = { value: 'newest' };
    assert.deepEqual(await steady.contexts.get(name), expected, 'on the steady side');
    assert.deepEqual(await cut.contexts.get(name), expected, 'on the side that was away');
    assert.deepEqual(await (await connect('b')).contexts.get(name), expected, 'for a newcomer');
  }),

  scenario('a returning client does not raise a destroyed context', async (world) => {
    const { until, unique, sleep } = world;
    const clients = await cuttable(world);
    const { steady, cut } = clients;
    const name = unique('context');
    await steady.contexts.set(name, { n: 1 });
    await until(() => cut.contexts.all().includes(name));
    await cut.contexts.subscribe(name, () => {});
    await until(async () => (await cut.contexts.get(name)).n === 1);
    await away(world, clients, async () => {
      await steady.contexts.destroy(name);
      await until(() => !steady.contexts.all().includes(name));
    });
    await sleep(1500);
    assert.ok(!steady.contexts.all().includes(name), 'it is back on the steady side');
  }),

  scenario('a wake-up echo changes nothing, and the client sees no old value again', async (world) => {
    const { until, sleep } = world;
    const clients = await cuttable(world);
    const { steady } = clients;
    const context = await watched(world, clients, { n: 0, other: { deep: [1] } });
    await away(world, clients, async () => {
      await steady.contexts.update(context.name, { n: 1 });
      await steady.contexts.update(context.name, { n: 2, other: { deep: [1, 2] } });
    });
    await until(() => context.values.at(-1).n === 2, 5000, 'caught up');
    await sleep(1000);
    await everywhere(world, clients, context, { n: 2, other: { deep: [1, 2] } });
    const seen = context.values.map(({ n }) => n);
    assert.deepEqual(seen, [0, 0, 2], 'what it knew, that again, and then all at once');
  }),

  scenario('the wake-up of a channel sets no key back in time', async (world) => {
    const { until, sleep } = world;
    const clients = await cuttable(world);
    const { steady, cut } = clients;
    const channel = await watched(world, clients, CHANNEL, '___channel___');
    await away(world, clients, async () => {
      await steady.contexts.setPaths(channel.name, [
        { path: 'data.clientId', value: null },
        { path: 'data.fdc3_fdc3&instrument', value: { id: { ticker: 'BARC' } } },
        { path: 'data.fdc3_fdc3&contact', value: { id: { email: 'ann@example.com' } } },
        { path: 'latest_fdc3_type', value: 'fdc3&contact' },
      ]);
    });
    await until(() => channel.values.at(-1).latest_fdc3_type === 'fdc3&contact', 5000, 'caught up');
    await sleep(1000);
    const data = {
      'fdc3_fdc3&instrument': { id: { ticker: 'BARC' } },
      'fdc3_fdc3&contact': { id: { email: 'ann@example.com' } },
    };
    const expected = { ...CHANNEL, data, latest_fdc3_type: 'fdc3&contact' };
    await everywhere(world, clients, channel, expected);
    await cut.contexts.setPaths(channel.name, [{ path: 'data.mine', value: 1 }]);
    await until(async () => (await steady.contexts.get(channel.name)).data.mine === 1, 3000, 'it can write again');
    assert.deepEqual(await steady.contexts.get(channel.name), { ...expected, data: { ...data, mine: 1 } });
  }),

  scenario('three contexts at once: changed, destroyed, untouched', async (world) => {
    const { until, sleep } = world;
    const clients = await cuttable(world);
    const { steady, cut } = clients;
    const changed = await watched(world, clients, { n: 1, goes: true });
    const destroyed = await watched(world, clients, { n: 1 });
    const untouched = await watched(world, clients, { n: 1 });
    await away(world, clients, async () => {
      await steady.contexts.update(changed.name, { n: 2, goes: null });
      await steady.contexts.destroy(destroyed.name);
      await until(() => !steady.contexts.all().includes(destroyed.name));
    });
    await until(() => changed.values.at(-1).n === 2, 5000, 'caught up');
    await sleep(1000);
    await everywhere(world, clients, changed, { n: 2 });
    await everywhere(world, clients, untouched, { n: 1 });
    for (const client of [steady, cut]) assert.ok(!client.contexts.all().includes(destroyed.name));
    await steady.contexts.set(destroyed.name, { again: true });
    await until(async () => (await cut.contexts.get(destroyed.name)).again, 3000, 'it can be created again');
    assert.deepEqual(await cut.contexts.get(destroyed.name), { again: true });
  }),

  scenario('a client that was half open for a while does not undo what it never got', async (world) => {
    const { until, sleep } = world;
    const clients = await cuttable(world);
    const { steady, cut, proxy } = clients;
    const context = await watched(world, clients, { n: 1, goes: true, mine: 1 });
    const channel = await watched(world, clients, CHANNEL, '___channel___');
    const destroyed = await watched(world, clients, { n: 1 });
    await cut.contexts.update(context.name, { mine: 2 });
    proxy.stall();
    await steady.contexts.update(context.name, { n: 2, goes: null });
    await steady.contexts.setPaths(channel.name, [{ path: 'data.fdc3_fdc3&instrument', value: { id: { ticker: 'BARC' } } }]);
    await steady.contexts.destroy(destroyed.name);
    await sleep(3000);
    assert.deepEqual(context.values.at(-1), { n: 1, goes: true, mine: 2 }, 'it has heard nothing');
    await away(world, clients);
    await until(() => context.values.at(-1).n === 2, 5000, 'caught up');
    await sleep(1000);
    await everywhere(world, clients, context, { n: 2, mine: 2 });
    const data = { ...CHANNEL.data, 'fdc3_fdc3&instrument': { id: { ticker: 'BARC' } } };
    await everywhere(world, clients, channel, { ...CHANNEL, data });
    for (const client of [steady, cut]) assert.ok(!client.contexts.all().includes(destroyed.name));
  }),

  scenario('an app that closes and one that lives beside it are not mistaken for it', async (world) => {
    const { connect, leave, unique } = world;
    const clients = await cuttable(world);
    const identity = clients.cut.interop.instance;
    const twin = () => connect('b', { application: identity.application });
    const [first, second] = [await twin(), await twin()];
    const ids = new Set([identity, first.interop.instance, second.interop.instance].map(({ instance }) => instance));
    assert.equal(ids.size, 3, 'each has a name of its own');
    await leave(first);
    ids.add((await twin()).interop.instance.instance);
    assert.equal(ids.size, 4, 'who says goodbye does not return');
    const other = await connect('b', { application: unique('other') });
    assert.ok(!ids.has(other.interop.instance.instance));
  }),

  scenario('a returning client keeps its instance id', async (world) => {
    const clients = await cuttable(world);
    const before = clients.cut.interop.instance.instance;
    await away(world, clients);
    assert.equal(clients.cut.interop.instance.instance, before);
  }),

  scenario('a client with a fixed instance id can return at once', async ({ connect, urls, onClose, unique, until }) => {
    const proxy = await startProxy(urls.b);
    onClose(() => proxy.close());
    const steady = await connect('a');
    const client = await connect('b', { url: proxy.url, identity: { instance: unique('fixed') }, gateway: { reconnectInterval: 300 } });
    for (let round = 0; round < 3; round += 1) {
      const { peerId } = client.interop.instance;
      proxy.drop();
      await until(() => client.interop.instance.peerId !== peerId, 5000, 'logged in again');
      await until(() => steady.interop.servers().filter(({ instance }) => instance === client.interop.instance.instance).length === 1);
    }
  }),
];

// The node at b is killed and started again; its clients and those at a carry on by themselves.
//
//   node run.mjs --suite restart --a ws://… --b ws://… --control CMD
//
// `CMD kill b` ends node b with SIGKILL and returns once it is dead. `CMD start b` starts it on the
// same ports with the same data directory and returns once it accepts clients. With `--swap`, and with one
// URL for both places, the node is `a`.

import assert from 'node:assert/strict';
import { listens, reaches } from '../lib/pubsub.mjs';
import { scenario } from '../lib/scenario.mjs';
import { sees, seesServer } from '../lib/interop.mjs';

const NOTICED_MS = 2500;
const BACK_MS = 15_000;
const options = { alone: true, timeoutMs: 45_000 };
const soon = { gateway: { reconnectInterval: 500 } };

/**
 * Kills the node at b and resolves with a clock that started with its death.
 *
 * The first of its clients to lose its socket tells the time of death.
 */
async function killed({ control }, witness) {
  const died = new Promise((resolve) => {
    witness.connection.disconnected(() => resolve(performance.now()));
  });
  await control.kill();
  const at = await died;
  return {
    at,
    /** How much of the time in which the other side must have noticed is left, at least a little. */
    left: () => Math.max(50, NOTICED_MS - (performance.now() - at)),
  };
}

/** Starts the node again and waits until all `clients` are logged in and know each other. */
async function back({ control, until }, dead, alive = []) {
  const before = new Map(dead.map((client) => [client, client.interop.instance.peerId]));
  await control.start();
  const all = [...dead, ...alive];
  await until(() => dead.every((client) => client.interop.instance.peerId !== before.get(client)), BACK_MS, 'logged in again');
  await until(
    () => all.every((one) => all.every((other) => one === other || seesServer(one, other))),
    BACK_MS,
    'everyone knows everyone again',
  );
}

/** One context made on each side, both watched at b. */
async function twoContexts({ connect, unique, until }) {
  const [atA, atB] = [await connect('a'), await connect('b', soon)];
  const [fromA, fromB] = [unique('context'), unique('context')];
  await atA.contexts.set(fromA, { of: 'a', n: 1, goes: true });
  await atB.contexts.set(fromB, { of: 'b', n: 1 });
  for (const client of [atA, atB]) {
    await until(() => [fromA, fromB].every((name) => client.contexts.all().includes(name)));
  }
  const values = { [fromA]: [], [fromB]: [] };
  for (const name of [fromA, fromB]) await atB.contexts.subscribe(name, (value) => values[name].push(value));
  await until(async () => (await atA.contexts.get(fromB)).n === 1 && values[fromA].at(-1)?.n === 1);
  return { atA, atB, fromA, fromB, values };
}

export default [
  scenario('B-ME-6 its servers go, its calls end, and it serves again', { ...options, only: 'two' }, async (world) => {
    const { connect, unique, until, rejection } = world;
    const [atA, atB] = [await connect('a'), await connect('b', soon)];
    const [mine, yours] = [unique('AtA'), unique('AtB')];
    let hanging = 0;
    await atA.interop.register(mine, () => ({ by: 'a' }));
    await atB.interop.register(yours, ({ hang }) => {
      if (!hang) return { by: 'b' };
      hanging += 1;
      return new Promise(() => {});
    });
    await until(() => sees(atA, yours) && sees(atB, mine));
    const pending = rejection(atA.interop.invoke(yours, { hang: true }), 20_000);
    await until(() => hanging === 1);

    const death = await killed(world, atB);
    await until(() => !seesServer(atA, atB) && !sees(atA, yours), death.left(), 'its servers are gone');
    await pending;
    assert.ok(performance.now() - death.at < NOTICED_MS, 'the pending call ended in time');
    assert.equal((await atA.interop.invoke(mine)).returned.by, 'a', 'the other node goes on');

    await back(world, [atB], [atA]);
    await until(() => sees(atA, yours) && sees(atB, mine), BACK_MS);
    assert.equal((await atA.interop.invoke(yours)).returned.by, 'b');
    assert.equal((await atB.interop.invoke(mine)).returned.by, 'a');
    assert.equal(atA.interop.servers({ name: yours }).length, 1);
  }),

  scenario('a call made meanwhile is served on return', { ...options, only: 'two' }, async (world) => {
    const { connect, unique, until, within } = world;
    const [atA, atB] = [await connect('a'), await connect('b', soon)];
    const name = unique('AtB');
    await atB.interop.register(name, () => ({ by: 'b' }));
    await until(() => sees(atA, name));
    const death = await killed(world, atB);
    await until(() => !sees(atA, name), death.left());
    const pending = atA.interop.invoke(name, {}, 'best', { waitTimeoutMs: 25_000 });
    await back(world, [atB], [atA]);
    assert.equal((await within(5000, pending)).returned.by, 'b');
  }),

  scenario('B-CX-3 contexts keep their values and go on', { ...options, only: 'two' }, async (world) => {
    const { connect, until } = world;
    const { atA, atB, fromA, fromB, values } = await twoContexts(world);

    await killed(world, atB);
    assert.deepEqual(await atA.contexts.get(fromA), { of: 'a', n: 1, goes: true });
    assert.deepEqual(await atA.contexts.get(fromB), { of: 'b', n: 1 });
    await atA.contexts.update(fromA, { added: 'meanwhile' });
    await atA.contexts.update(fromB, { added: 'meanwhile' });
    const newcomer = await connect('a');
    assert.deepEqual(await newcomer.contexts.get(fromB), { of: 'b', n: 1, added: 'meanwhile' });

    await back(world, [atB], [atA]);
    for (const name of [fromA, fromB]) {
      await until(() => values[name].at(-1).added === 'meanwhile', BACK_MS, 'the subscriber at b has caught up');
    }
    await atB.contexts.update(fromA, { from: 'b' });
    await until(async () => (await atA.contexts.get(fromA)).from === 'b');
    await atA.contexts.update(fromB, { from: 'a' });
    await until(() => values[fromB].at(-1).from === 'a');
    assert.deepEqual(await atA.contexts.get(fromA), { of: 'a', n: 1, goes: true, added: 'meanwhile', from: 'b' });
    assert.deepEqual(values[fromB].at(-1), { of: 'b', n: 1, added: 'meanwhile', from: 'a' });
  }),

  scenario('old values do not come back', { ...options, only: 'two' }, async (world) => {
    const { sleep } = world;
    const { atA, atB, fromA, fromB, values } = await twoContexts(world);
    await killed(world, atB);
    await atA.contexts.update(fromA, { n: 2, goes: null });
    await atA.contexts.update(fromB, { n: 2 });
    await back(world, [atB], [atA]);
    // The library announces what it remembers; give that the time to do harm.
    await sleep(2000);
    const expected = { [fromA]: { of: 'a', n: 2 }, [fromB]: { of: 'b', n: 2 } };
    for (const name of [fromA, fromB]) {
      assert.deepEqual(await atA.contexts.get(name), expected[name], 'at a');
      assert.deepEqual(await atB.contexts.get(name), expected[name], 'at b');
      assert.deepEqual(values[name].at(-1), expected[name], 'the subscriber at b');
    }
  }),

  scenario('a client of a restarted node keeps its instance id', options, async (world) => {
    const { connect } = world;
    const client = await connect('b', soon);
    const { instance } = client.interop.instance;
    await killed(world, client);
    await back(world, [client]);
    assert.equal(client.interop.instance.instance, instance);
  }),

  scenario('B-CX-16 B-CH-8 a destroyed context and a channel: nothing goes back in time', { ...options, only: 'two' }, async (world) => {
    const { connect, unique, until, sleep } = world;
    const [atA, atB] = [await connect('a'), await connect('b', soon)];
    const [destroyed, channel, untouched] = [unique('context'), `___channel___${unique('Red')}`, unique('context')];
    const red = { name: 'Red', meta: { color: 'red' }, data: { clientId: 7, 'fdc3_fdc3&instrument': { id: { ticker: 'VOD' } } } };
    await atA.contexts.set(destroyed, { n: 1 });
    await atA.contexts.set(channel, red);
    await atB.contexts.set(untouched, { n: 1 });
    const values = { [destroyed]: [], [channel]: [], [untouched]: [] };
    for (const name of Object.keys(values)) {
      await until(() => atB.contexts.all().includes(name) && atA.contexts.all().includes(name));
      await atB.contexts.subscribe(name, (value) => values[name].push(value));
      await until(() => values[name].length > 0);
    }

    await killed(world, atB);
    await atA.contexts.destroy(destroyed);
    await atA.contexts.setPaths(channel, [
      { path: 'data.clientId', value: null },
      { path: 'data.fdc3_fdc3&instrument.id', value: { ticker: 'BARC' } },
    ]);
    await until(() => !atA.contexts.all().includes(destroyed));
    await back(world, [atB], [atA]);
    // The library announces what it remembers; give that the time to do harm.
    await sleep(2000);
    const expected = { ...red, data: { 'fdc3_fdc3&instrument': { id: { ticker: 'BARC' } } } };
    for (const client of [atA, atB]) {
      assert.ok(!client.contexts.all().includes(destroyed));
      assert.deepEqual(await client.contexts.get(channel), expected);
      assert.deepEqual(await client.contexts.get(untouched), { n: 1 });
    }
    assert.deepEqual(values[channel].at(-1), expected);
    await atB.contexts.update(untouched, { n: 2 });
    await until(async () => (await atA.contexts.get(untouched)).n === 2, 5000, 'it can write again');
  }),

  scenario('a lone node gets its contexts back from its clients', { ...options, only: 'one' }, async (world) => {
    const { connect, unique, until } = world;
    const [one, two] = [await connect('a', soon), await connect('b', soon)];
    const [mine, yours] = [unique('context'), unique('context')];
    await one.contexts.set(mine, { of: 'one', n: 1 });
    await two.contexts.set(yours, { of: 'two', n: 1 });
    await killed(world, two);
    await back(world, [one, two]);
    for (const client of [one, two]) {
      await until(async () => (await client.contexts.get(mine)).n === 1, BACK_MS, 'the context is there again');
      await until(async () => (await client.contexts.get(yours)).n === 1, BACK_MS, 'the context is there again');
    }
    await one.contexts.update(mine, { n: 2 });
    await until(async () => (await two.contexts.get(mine)).n === 2);
    assert.deepEqual(await two.contexts.get(mine), { of: 'one', n: 2 });
  }),

  scenario('B-ST-7 a stream from a goes on at b', { ...options, only: 'two' }, async (world) => {
    const { connect, unique, until } = world;
    const [atA, atB] = [await connect('a'), await connect('b', soon)];
    const name = unique('Stream');
    const removed = [];
    const stream = await atA.interop.createStream(name, { subscriptionRemovedHandler: (gone) => removed.push(gone) });
    await until(() => sees(atB, name));
    const data = [];
    await atB.interop.subscribe(name, { onData: (event) => data.push(event.data) });
    stream.push({ n: 1 });
    await until(() => data.length === 1);

    const death = await killed(world, atB);
    await until(() => removed.length === 1, death.left(), 'the provider is told');
    await back(world, [atB], [atA]);
    await until(() => stream.subscriptions().length === 1, BACK_MS, 'subscribed again');
    stream.push({ n: 2 });
    await until(() => data.length > 1);
    assert.deepEqual(data, [{ n: 1 }, { n: 2 }]);
  }),

  scenario('a stream from b can be had again at a', { ...options, only: 'two' }, async (world) => {
    const { connect, unique, until } = world;
    const [atA, atB] = [await connect('a'), await connect('b', soon)];
    const name = unique('Stream');
    const stream = await atB.interop.createStream(name);
    await until(() => sees(atA, name));
    const first = [];
    await atA.interop.subscribe(name, { onData: (event) => first.push(event.data) });
    stream.push({ n: 1 });
    await until(() => first.length === 1);

    await killed(world, atB);
    await back(world, [atB], [atA]);
    await until(() => sees(atA, name), BACK_MS, 'the stream is known again');
    const second = [];
    await atA.interop.subscribe(name, { onData: (event) => second.push(event.data) });
    stream.push({ n: 2 });
    await until(() => second.length === 1);
  }),

  // `@glue42/core` does not renew its bus subscriptions.
  scenario('B-PS-6 bus subscriptions on both sides go on', { ...options, libs: ['io'], only: 'two' }, async (world) => {
    const { connect, unique, until, sleep } = world;
    const [atA, atB] = [await connect('a'), await connect('b', soon)];
    const [toA, toB] = [unique('topic'), unique('topic')];
    const heard = new Set();
    await atA.bus.subscribe(toA, ({ n }) => heard.add(`a ${n}`));
    await atB.bus.subscribe(toB, ({ n }) => heard.add(`b ${n}`));
    const both = (n) => until(async () => {
      atA.bus.publish(toB, { n });
      atB.bus.publish(toA, { n });
      await sleep(20);
      return heard.has(`a ${n}`) && heard.has(`b ${n}`);
    }, BACK_MS, `message ${n} both ways`);
    await both(1);
    await killed(world, atB);
    await back(world, [atB], [atA]);
    await both(2);
  }),

  scenario('three times in a row', { ...options, only: 'two', timeoutMs: 90_000 }, async (world) => {
    const { connect, unique, until } = world;
    const [atA, atB] = [await connect('a'), await connect('b', soon)];
    const [method, context] = [unique('AtB'), unique('context')];
    let round = 0;
    await atB.interop.register(method, () => ({ round }));
    await atA.contexts.set(context, { start: true });
    for (round = 1; round <= 3; round += 1) {
      const death = await killed(world, atB);
      await until(() => !seesServer(atA, atB), death.left(), `gone in round ${round}`);
      await atA.contexts.update(context, { [`round${round}`]: true });
      await back(world, [atB], [atA]);
      await until(() => sees(atA, method), BACK_MS);
      assert.equal((await atA.interop.invoke(method)).returned.round, round);
      await until(() => atB.contexts.all().includes(context), BACK_MS);
      await until(async () => (await atB.contexts.get(context))[`round${round}`], BACK_MS, 'the newest value at b');
    }
  }),

  scenario('E08 everything on the killed node works again', { ...options, only: 'one' }, async (world) => {
    const { connect, unique, until, libs } = world;
    const [one, two] = [await connect('a', soon), await connect('b', soon)];
    const [method, streamName, context] = [unique('Method'), unique('Stream'), unique('context')];
    await one.interop.register(method, () => ({ ok: true }));
    const stream = await one.interop.createStream(streamName);
    await one.contexts.set(context, { n: 1 });
    await until(() => sees(two, streamName) && two.contexts.all().includes(context));
    const [data, values] = [[], []];
    await two.interop.subscribe(streamName, { onData: (event) => data.push(event.data) });
    await two.contexts.subscribe(context, (value) => values.push(value));
    // `@glue42/core` does not renew its bus subscriptions.
    const topic = libs.b === 'io' && unique('topic');
    const heard = topic && await listens(two, topic);

    await killed(world, two);
    await back(world, [one, two]);
    await until(() => sees(two, method), BACK_MS);
    assert.equal((await two.interop.invoke(method)).returned.ok, true);
    await until(() => two.contexts.all().includes(context), BACK_MS);
    await one.contexts.update(context, { more: 2 });
    await until(() => values.at(-1).more === 2, BACK_MS, 'the context goes on');
    assert.deepEqual(values.at(-1), { n: 1, more: 2 });
    await until(() => stream.subscriptions().length === 1, BACK_MS, 'the subscription is renewed');
    stream.push({ n: 1 });
    await until(() => data.length > 0);
    if (topic) await reaches(world, one, topic, heard);
  }),

  scenario('I14 tokens are good after a restart', options, async ({ connect, control, leave, user }) => {
    const first = await connect('b');
    const { token } = first.connection;
    const gatewayToken = await first.connection.authToken();
    await leave(first);
    await control.kill();
    await control.start();
    for (const auth of [{ token }, { gatewayToken }]) {
      const client = await connect('b', { auth });
      assert.equal(client.interop.instance.user, user);
      await leave(client);
    }
  }),

  scenario('B-CX-17 a context id of before a restart is refused as unknown', { ...options, libs: ['io'] }, async ({ raw, control, unique }) => {
    const before = await raw('b');
    const request = (peer, type, more) => peer.request({ domain: 'global', type, ...more });
    const { context_id } = await request(before, 'create-context', { name: unique('context'), data: {}, lifetime: 'retained' });
    await control.kill();
    await control.start();
    const after = await raw('b');
    const reply = await request(after, 'subscribe-context', { context_id });
    assert.deepEqual([reply.type, reply.domain], ['error', 'global']);
    const known = reply.reason_uri === 'global.errors.invalid_context';
    assert.ok(known || /^Unable to find context with id/.test(reply.reason), JSON.stringify(reply));
  }),
];

// Links between nodes that go down and come back, and nodes that are away: what each side sees meanwhile, and
// what both agree on afterwards.
//
//   node run.mjs --suite links --a ws://… --b ws://… --c ws://… --control CMD
//
// Node a is cut off from b and c, which keep each other.

import assert from 'node:assert/strict';
import { agreed, knows, newcomersRead, same, watches } from '../lib/contexts.mjs';
import { eventsOf, sees, seesServer } from '../lib/interop.mjs';
import { listens, reaches } from '../lib/pubsub.mjs';
import { scenario } from '../lib/scenario.mjs';
import { subscribed } from '../lib/streams.mjs';

const GONE_MS = 5000;
const BACK_MS = 10_000;
const options = { alone: true, third: true, only: 'two', timeoutMs: 40_000 };
/** What is about the nodes alone is tried with one library. */
const once = { ...options, libs: ['io'] };

const LINKS = [['a', 'b'], ['a', 'c']];

/** A client at each node, which know each other. */
async function three(world) {
  const clients = await world.everywhere();
  await world.until(() => acquainted(clients), BACK_MS, 'all know each other');
  return clients;
}

const acquainted = (clients) => clients.every((one) => clients.every((other) => one === other || seesServer(one, other)));

/** Cuts a off, runs `meanwhile` once both sides have noticed, and resolves when all know each other again. */
async function apart({ control, until }, clients, meanwhile) {
  const [atA, ...others] = clients;
  for (const link of LINKS) await control.cut(...link);
  await until(() => others.every((other) => !seesServer(other, atA) && !seesServer(atA, other)), GONE_MS, 'the cut is noticed');
  const result = await meanwhile?.();
  for (const link of LINKS) await control.heal(...link);
  await until(() => acquainted(clients), BACK_MS, 'all know each other again');
  return result;
}

/** A context that all three know and watch. */
async function everywhereKnown(world, clients, data) {
  const name = world.unique('context');
  await clients[0].contexts.set(name, data);
  await world.until(() => clients.every((client) => knows(client, name)));
  const watchers = await Promise.all(clients.map((client) => watches(client, name)));
  await agreed(world, watchers, (value) => same(value, data));
  return { name, watchers };
}

/** Both sides of a cut write the same context; resolves with what all agree on afterwards. */
async function bothWrite(world, data, writeA, writeB, accept) {
  const clients = await three(world);
  const { name, watchers } = await everywhereKnown(world, clients, data);
  await apart(world, clients, async () => {
    await writeA(clients[0].contexts, name);
    await writeB(clients[1].contexts, name);
  });
  const value = await agreed(world, watchers, accept, BACK_MS);
  await newcomersRead(world, name, value);
  return { value, watchers };
}

export default [
  scenario('B-CX-5 different keys that both sides of a cut wrote', options, async (world) => {
    await bothWrite(
      world,
      { start: 1 },
      (contexts, name) => contexts.update(name, { a: 1 }),
      (contexts, name) => contexts.update(name, { b: 2 }),
      (value) => same(value, { start: 1, a: 1, b: 2 }),
    );
  }),

  scenario('B-CX-6 one key that both sides of a cut wrote', options, async (world) => {
    const { value, watchers } = await bothWrite(
      world,
      { key: 'old' },
      (contexts, name) => contexts.update(name, { key: 'of a', a: true }),
      (contexts, name) => contexts.update(name, { key: 'of b', b: true }),
      ({ a, b }) => a && b,
    );
    assert.ok(['of a', 'of b'].includes(value.key));
    // The side that lost was told by an update.
    const loser = watchers[value.key === 'of a' ? 1 : 0];
    assert.equal(loser.values.filter(({ key }) => key === value.key).length > 0, true);
  }),

  scenario('B-CX-7 a set on one side of a cut and an update on the other', once, async (world) => {
    const { value } = await bothWrite(
      world,
      { x: 1, y: 1 },
      (contexts, name) => contexts.set(name, { whole: 'new' }),
      (contexts, name) => contexts.update(name, { y: 2 }),
      (seen) => seen.whole === 'new',
    );
    assert.ok([{ whole: 'new' }, { whole: 'new', y: 2 }].some((outcome) => same(value, outcome)), JSON.stringify(value));
  }),

  scenario('B-CX-8 a key that was removed on one side of a cut stays away', once, async (world) => {
    await bothWrite(
      world,
      { keep: 1, goes: 1 },
      (contexts, name) => contexts.update(name, { goes: null }),
      (contexts, name) => contexts.update(name, { other: 2 }),
      (value) => same(value, { keep: 1, other: 2 }),
    );
  }),

  scenario('B-CX-9 paths that both sides of a cut wrote', once, async (world) => {
    await bothWrite(
      world,
      { a: { start: 1 } },
      (contexts, name) => contexts.setPath(name, 'a.b', 1),
      (contexts, name) => contexts.setPaths(name, [{ path: 'a.c', value: 2 }, { path: 'd.e', value: 3 }]),
      (value) => same(value, { a: { start: 1, b: 1, c: 2 }, d: { e: 3 } }),
    );
  }),

  scenario('B-CX-12 a name that both sides of a cut made', once, async (world) => {
    const clients = await three(world);
    const name = world.unique('context');
    await apart(world, clients, async () => {
      await clients[0].contexts.update(name, { a: 1 });
      await clients[1].contexts.update(name, { b: 2 });
    });
    const onlookers = await Promise.all(['a', 'b', 'c'].map(async (place) => watches(await world.connect(place), name)));
    await agreed(world, onlookers, (value) => same(value, { a: 1, b: 2 }), BACK_MS);
    await clients[0].contexts.update(name, { c: 3 });
    await clients[1].contexts.update(name, { d: 4 });
    await agreed(world, onlookers, (value) => same(value, { a: 1, b: 2, c: 3, d: 4 }));
  }),

  scenario('B-CX-15 destroyed on one side of a cut, written on the other', once, async (world) => {
    const clients = await three(world);
    const { name } = await everywhereKnown(world, clients, { n: 1 });
    await apart(world, clients, async () => {
      await clients[0].contexts.destroy(name);
      await clients[1].contexts.update(name, { n: 2 });
    });
    // A context that is made now comes after all that was to be told.
    const mark = world.unique('mark');
    for (const [index, client] of clients.entries()) await client.contexts.set(`${mark}${index}`, {});
    await world.until(() => clients.every((client) => [0, 1, 2].every((index) => knows(client, `${mark}${index}`))), BACK_MS);
    await world.until(() => new Set(clients.map((client) => knows(client, name))).size === 1, BACK_MS, 'the same for all');
    const states = new Set();
    for (const place of ['a', 'b', 'c']) {
      const newcomer = await world.connect(place);
      states.add(knows(newcomer, name) ? JSON.stringify(await newcomer.contexts.get(name)) : 'gone');
    }
    assert.equal(states.size, 1, [...states].join(' | '));
  }),

  scenario('B-PS-5 B-PS-6 the bus says nothing of what was published meanwhile, and goes on', options, async (world) => {
    const clients = await three(world);
    const topic = world.unique('topic');
    const heard = await listens(clients[1], topic);
    await reaches(world, clients[0], topic, heard);
    await apart(world, clients, () => clients[0].bus.publish(topic, { lost: true }));
    await reaches(world, clients[0], topic, heard);
    clients[0].bus.publish(topic, { after: true });
    await world.until(() => heard.data.length > 0);
    assert.deepEqual(heard.data, [{ after: true }]);
  }),

  scenario('B-ME-8 a server goes and comes back once, and serves without a new registration', options, async (world) => {
    const clients = await three(world);
    const [atA, atB] = clients;
    const name = world.unique('Method');
    await atB.interop.register(name, () => ({ ok: true }));
    await world.until(() => sees(atA, name));
    const { instance, peerId } = atB.interop.instance;
    const events = eventsOf(atA);
    // The library first says who is there already.
    await world.until(() => events.has('serverAdded', instance));
    events.seen.length = 0;
    await apart(world, clients, async () => {
      assert.equal(events.count('serverRemoved', instance), 1);
      await world.rejection(atA.interop.invoke(name, {}, 'best', { waitTimeoutMs: 300 }));
    });
    await world.until(() => sees(atA, name));
    assert.equal((await atA.interop.invoke(name)).returned.ok, true);
    assert.equal(atA.interop.servers({ name })[0].peerId, peerId, 'it is the same peer');
    for (const event of ['serverRemoved', 'serverAdded']) assert.equal(events.count(event, instance), 1, event);
  }),

  scenario('B-ME-4 best is another one while a node is cut off, and for those who were there it stays so', once, async (world) => {
    const clients = await three(world);
    const [atA, , atC] = clients;
    const name = world.unique('Best');
    for (const provider of [atA, atC]) await provider.interop.register(name, () => ({ by: provider.interop.instance.peerId }));
    const invoked = async (caller) => (await caller.interop.invoke(name)).returned.by;
    const [cutOff, other] = [atA.interop.instance.peerId, atC.interop.instance.peerId];
    const newcomer = async () => {
      const caller = await world.connect('b');
      await world.until(() => caller.interop.servers({ name }).length === 2);
      return { caller, best: await invoked(caller) };
    };
    const findOne = async () => {
      // Each caller has a choice of its own among equals. On a busy machine one node may count as farther for
      // a while, until a heartbeat says otherwise.
      for (let n = 0; n < 60; n += 1) {
        const { caller, best } = await newcomer();
        if (best === cutOff) return caller;
        await world.sleep(100);
      }
      return assert.fail('nobody was given the provider at a');
    };
    const caller = await findOne();
    await apart(world, clients, async () => {
      await world.until(() => caller.interop.servers({ name }).length === 1);
      assert.equal(await invoked(caller), other);
    });
    await world.until(() => caller.interop.servers({ name }).length === 2, BACK_MS);
    assert.ok(caller.interop.servers({ name }).some(({ peerId }) => peerId === cutOff), 'it is back under its id');
    assert.equal(await invoked(caller), other, 'who had to change stays');
    await findOne();
  }),

  scenario('B-ME-6 B-ME-9 a call whose link goes down ends, and its handler ran once', options, async (world) => {
    const clients = await three(world);
    const [atA, atB] = clients;
    const name = world.unique('Method');
    const runs = [];
    let finish;
    await atB.interop.register(name, ({ n }) => {
      runs.push(n);
      return n === 1 ? new Promise((resolve) => { finish = resolve; }) : { n };
    });
    await world.until(() => sees(atA, name));
    const pending = world.rejection(atA.interop.invoke(name, { n: 1 }), GONE_MS + 1000, 'the call ended');
    await world.until(() => runs.length === 1);
    await apart(world, clients, async () => {
      await pending;
      finish({ n: 1 });
    });
    await world.until(() => sees(atA, name));
    assert.equal((await atA.interop.invoke(name, { n: 2 })).returned.n, 2);
    assert.deepEqual(runs, [1, 2]);
  }),

  scenario('B-ST-4 B-ST-6 a stream goes on after a short cut', options, async (world) => {
    const clients = await three(world);
    const [atA, atB, atC] = clients;
    const name = world.unique('Stream');
    const stream = await atA.interop.createStream(name);
    await world.until(() => sees(atB, name) && sees(atC, name));
    const [one, two] = [await subscribed(atB, name), await subscribed(atC, name)];
    await world.until(() => stream.subscriptions().length === 2);
    stream.push({ n: 1 });
    for (const { data } of [one, two]) await world.until(() => data.length === 1);
    await apart(world, clients, () => stream.push({ n: 'meanwhile' }));
    for (let n = 2; n < 50; n += 1) stream.push({ n });
    for (const { data, closed } of [one, two]) {
      await world.until(() => data.at(-1).n === 49, BACK_MS, 'the last push');
      // What was pushed meanwhile may be lost or kept.
      const numbers = data.map(({ n }) => n).filter((n) => n !== 'meanwhile');
      assert.deepEqual(numbers, Array.from({ length: 49 }, (_, index) => index + 1));
      assert.ok(data.length <= 50);
      assert.deepEqual(closed, []);
    }
    assert.equal(stream.subscriptions().length, 2);
    one.subscription.close();
    await world.until(() => stream.subscriptions().length === 1, 5000, 'the provider knows who has gone');
  }),

  scenario('a stream that is more than its link carries goes on when there is room again', options, async (world) => {
    const { control, connect, until, unique } = world;
    const [provider, consumer] = [await connect('a'), await connect('b')];
    const name = unique('Stream');
    const gone = [];
    const stream = await provider.interop.createStream(name, { subscriptionRemovedHandler: () => gone.push(1) });
    await until(() => sees(consumer, name));
    const { data, closed } = await subscribed(consumer, name);
    await control.slow('a', 'b');
    // More than waits for a link, however fast it takes some of it.
    const filler = 'x'.repeat(500_000);
    for (let n = 0; n < 400 && !gone.length; n += 1) {
      stream.push({ n, filler });
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await until(() => gone.length > 0, GONE_MS, 'the provider is told that nobody gets what it pushes');
    await control.fast('a', 'b');
    await until(() => stream.subscriptions().length === 1, 30_000, 'it is asked again');
    const last = () => data.at(-1)?.n;
    await until(
      () => {
        stream.push({ n: 'again' });
        return last() === 'again';
      },
      BACK_MS,
      'the consumer gets what is new',
    );
    assert.deepEqual(closed, [], 'and has not heard that its subscription was ended');
    const numbers = data.map(({ n }) => n).filter((n) => n !== 'again');
    assert.deepEqual(numbers, [...numbers].sort((one, other) => one - other), 'in order, once each');
    assert.equal(new Set(numbers).size, numbers.length);
  }),

  scenario('B-X-1 a node that slept catches up, and nothing of it is there twice', options, async (world) => {
    const { control, until } = world;
    const clients = await three(world);
    const [atA, atB] = clients;
    const { name, watchers } = await everywhereKnown(world, clients, { n: 1, goes: true });
    const method = world.unique('Method');
    await atB.interop.register(method, () => ({ ok: true }));
    await until(() => sees(atA, method));
    await control.freeze('b');
    await until(() => !seesServer(atA, atB) && !sees(atA, method), GONE_MS, 'it is missed');
    await atA.contexts.update(name, { n: 2, goes: null });
    await control.thaw('b');
    await until(() => acquainted(clients), BACK_MS, 'all know each other again');
    await agreed(world, watchers, (value) => same(value, { n: 2 }), BACK_MS);
    await until(() => sees(atA, method));
    assert.equal((await atA.interop.invoke(method)).returned.ok, true);
    assert.equal(atA.interop.servers({ name: method }).length, 1);
    await atB.contexts.update(name, { from: 'b' });
    await agreed(world, watchers, (value) => same(value, { n: 2, from: 'b' }));
  }),

  scenario('B-CX-1 a node that comes later has what was made without it', once, async (world) => {
    const { control, connect, until, unique } = world;
    const name = unique('context');
    await control.kill('c');
    const atA = await connect('a');
    await atA.contexts.set(name, { n: 1 });
    await control.start('c');
    const atC = await connect('c');
    await until(() => knows(atC, name), BACK_MS);
    assert.deepEqual(await atC.contexts.get(name), { n: 1 });
    const seen = await watches(atC, name);
    await atA.contexts.update(name, { m: 2 });
    await until(() => same(seen.last(), { n: 1, m: 2 }));
  }),

  scenario('B-CX-4 nothing is left when all nodes have been down', once, async (world) => {
    const { control, connect, until, unique, leave } = world;
    const [name, after] = [unique('context'), unique('context')];
    const before = await connect('a');
    await before.contexts.set(name, { n: 1 });
    const witness = await connect('c');
    await until(() => knows(witness, name));
    // They would bring it back themselves.
    for (const client of [before, witness]) await leave(client);
    for (const node of ['a', 'b', 'c']) await control.kill(node);
    for (const node of ['a', 'b', 'c']) await control.start(node);
    const clients = await three(world);
    await clients[0].contexts.set(after, {});
    await until(() => clients.every((client) => knows(client, after)), BACK_MS);
    assert.ok(clients.every((client) => !knows(client, name)));
  }),
];

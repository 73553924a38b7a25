// Three nodes, all linked.

import assert from 'node:assert/strict';
import { agreed, knows, same, watches } from '../lib/contexts.mjs';
import { scenario } from '../lib/scenario.mjs';
import { sameInstance, sees, seesServer } from '../lib/interop.mjs';
import { listens, reaches } from '../lib/pubsub.mjs';
import { subscribed } from '../lib/streams.mjs';

const third = { third: true, only: 'two' };

export default [
  scenario('B-PS-1 a message reaches every node once', third, async (world) => {
    const [publisher, ...subscribers] = await world.everywhere();
    const topic = world.unique('topic');
    const heard = await Promise.all(subscribers.map((client) => listens(client, topic)));
    for (const one of heard) await reaches(world, publisher, topic, one);
    for (let n = 0; n < 100; n += 1) publisher.bus.publish(topic, { n });
    for (const { data } of heard) {
      await world.until(() => data.length >= 100);
      assert.deepEqual(data.map(({ n }) => n), Array.from({ length: 100 }, (_, n) => n));
    }
  }),

  scenario('B-ME-3 all has the result of each node with its server', third, async (world) => {
    const clients = await world.everywhere();
    const name = world.unique('Everyone');
    for (const [index, client] of clients.entries()) await client.interop.register(name, () => ({ index }));
    const consumer = await world.connect('c');
    await world.until(() => consumer.interop.servers({ name }).length === 3);
    const { all_return_values: answers } = await consumer.interop.invoke(name, {}, 'all');
    assert.deepEqual(answers.map(({ returned }) => returned.index).sort(), [0, 1, 2]);
    for (const { executed_by, returned } of answers) sameInstance(executed_by, clients[returned.index].interop.instance);
  }),

  scenario('B-ME-5 a machine is a target', third, async (world) => {
    const clients = await world.everywhere();
    const name = world.unique('Machine');
    for (const [index, client] of clients.entries()) await client.interop.register(name, () => ({ index }));
    const consumer = await world.connect('a');
    await world.until(() => consumer.interop.servers({ name }).length === 3);
    for (const [index, { interop }] of clients.entries()) {
      const { all_return_values: answers } = await consumer.interop.invoke(name, {}, { machine: interop.instance.machine });
      assert.deepEqual(answers.map(({ returned }) => returned.index), [index]);
    }
  }),

  scenario('B-ME-4 best is spread, stays, and yields to a local one', { ...third, libs: ['io'] }, async (world) => {
    const providers = [await world.connect('b'), await world.connect('c')];
    const name = world.unique('Best');
    for (const provider of providers) await provider.interop.register(name, () => ({ by: provider.interop.instance.peerId }));
    const ids = providers.map(({ interop }) => interop.instance.peerId);
    const invoked = async (caller) => (await caller.interop.invoke(name)).returned.by;
    const chosen = new Set();
    let caller;
    // Each caller has a choice of its own among equals; 20 that agree are one in half a million.
    for (let n = 0; n < 20 && chosen.size < 2; n += 1) {
      caller = await world.connect('a');
      await world.until(() => caller.interop.servers({ name }).length === 2);
      chosen.add(await invoked(caller));
    }
    assert.deepEqual([...chosen].sort(), [...ids].sort());
    const best = await invoked(caller);
    const local = await world.connect('a');
    for (let n = 0; n < 5; n += 1) {
      const another = await world.connect('b');
      await another.interop.register(name, () => ({ by: 'another' }));
      await world.until(() => seesServer(caller, another));
      assert.equal(await invoked(caller), best, 'who comes later is no reason to change');
      await world.leave(another);
    }
    await local.interop.register(name, () => ({ by: 'local' }));
    await world.until(async () => await invoked(caller) === 'local');
    await world.leave(local);
    await world.until(async () => await invoked(caller).catch(() => undefined) === best, 3000, 'the same one as before');
    await world.leave(providers[ids.indexOf(best)]);
    const other = ids.find((id) => id !== best);
    await world.until(async () => await invoked(caller).catch(() => undefined) === other, 3000, 'the other one');
  }),

  scenario('B-X-3 three machines with their true names', third, async (world) => {
    const clients = await world.everywhere();
    await world.until(() => clients.every((one) => clients.every((other) => one === other || seesServer(one, other))));
    assert.equal(new Set(clients.map(({ interop }) => interop.instance.machine)).size, 3);
    for (const client of clients) {
      for (const { interop } of clients) {
        const seen = client.interop.servers().find(({ peerId }) => peerId === interop.instance.peerId);
        assert.equal(seen.machine, interop.instance.machine);
      }
    }
  }),

  scenario('B-CX-6 three writers of one key agree', { ...third, alone: true }, async (world) => {
    const clients = await world.everywhere();
    const name = world.unique('context');
    await clients[0].contexts.set(name, { start: true });
    await world.until(() => clients.every((client) => knows(client, name)));
    const onlookers = await Promise.all(['a', 'b', 'c'].map(async (place) => watches(await world.connect(place), name)));
    for (let round = 1; round <= 10; round += 1) {
      await Promise.all(clients.map((client, by) => client.contexts.update(name, { key: `${by} ${round}`, [`by${by}`]: round })));
      await agreed(world, onlookers, (value) => [0, 1, 2].every((by) => value[`by${by}`] === round));
    }
  }),

  scenario('B-CX-9 paths of three sides survive', { ...third, alone: true }, async (world) => {
    const clients = await world.everywhere();
    const name = world.unique('context');
    await clients[0].contexts.set(name, { a: {} });
    await world.until(() => clients.every((client) => knows(client, name)));
    const onlookers = await Promise.all(clients.map((client) => watches(client, name)));
    for (let round = 1; round <= 10; round += 1) {
      await Promise.all(clients.map((client, by) => client.contexts.setPath(name, `a.by${by}`, round)));
    }
    await agreed(world, onlookers, (value) => same(value, { a: { by0: 10, by1: 10, by2: 10 } }));
  }),

  scenario('B-CX-10 the updater is known on every node', third, async (world) => {
    const clients = await world.everywhere();
    const name = world.unique('context');
    await clients[0].contexts.set(name, { n: -1 });
    await world.until(() => clients.every((client) => knows(client, name)));
    const watchers = await Promise.all(clients.map((client) => watches(client, name)));
    for (const [n, updater] of clients.entries()) {
      await updater.contexts.update(name, { n });
      for (const [index, seen] of watchers.entries()) {
        await world.until(() => seen.last()?.n === n);
        const { updaterId } = seen.extra.at(-1);
        assert.equal(updaterId, updater.interop.instance.peerId);
        const known = clients[index].interop.servers().some(({ peerId }) => peerId === updaterId);
        assert.ok(known || clients[index] === updater, 'an announced peer');
      }
    }
  }),

  scenario('B-CX-12 each keeps the id it was told', { only: 'two', alone: true, libs: ['io'] }, async (world) => {
    for (let round = 0; round < 5; round += 1) {
      const peers = [await world.raw('a'), await world.raw('b')];
      const name = world.unique('context');
      const create = (peer, data) => peer.request({ domain: 'global', type: 'create-context', name, data, lifetime: 'retained' });
      const replies = await Promise.all(peers.map((peer, index) => create(peer, { [`of${index}`]: round })));
      const read = async (index) => {
        const { data } = await peers[index].request({ domain: 'global', type: 'subscribe-context', context_id: replies[index].context_id });
        return data;
      };
      for (const index of [0, 1]) {
        await world.until(async () => same(await read(index), { of0: round, of1: round }), 3000, `both values under the id of ${index}`);
        const added = peers[index].frames.filter(({ message }) => message.type === 'context-added' && message.name === name);
        assert.deepEqual(added.map(({ message }) => message.context_id), [replies[index].context_id]);
      }
    }
  }),

  scenario('B-CX-15 a context that one destroys while another writes it ends the same everywhere', { ...third, alone: true }, async (world) => {
    const clients = await world.everywhere();
    for (let round = 0; round < 5; round += 1) {
      const name = world.unique('context');
      await clients[0].contexts.set(name, { n: 0 });
      await world.until(() => clients.every((client) => knows(client, name)));
      // An update of what it has not subscribed to hangs in the library when the context is gone.
      await watches(clients[1], name);
      await Promise.allSettled([clients[0].contexts.destroy(name), clients[1].contexts.update(name, { n: round })]);
      const [mark, states] = [world.unique('mark'), new Set()];
      // What comes after the race tells that it is over.
      for (const client of clients) await client.contexts.set(`${mark}-${client.interop.instance.peerId}`, {});
      await world.until(() => clients.every((client) => clients.every(({ interop }) => knows(client, `${mark}-${interop.instance.peerId}`))));
      await world.until(async () => {
        states.clear();
        for (const place of ['a', 'b', 'c']) {
          const newcomer = await world.connect(place);
          states.add(knows(newcomer, name) ? JSON.stringify(await newcomer.contexts.get(name)) : 'gone');
          await world.leave(newcomer);
        }
        return states.size === 1;
      }, 3000, 'one state').catch(() => assert.fail([...states].join(' | ')));
      await world.until(() => new Set(clients.map((client) => knows(client, name))).size === 1, 3000, 'the same for those who were there');
    }
  }),

  scenario('B-ST-2 a branch reaches its subscribers on every node', third, async (world) => {
    const [provider, ...consumers] = await world.everywhere();
    const name = world.unique('Stream');
    const stream = await provider.interop.createStream(name, {
      subscriptionRequestHandler: (request) => request.acceptOnBranch(request.arguments.branch),
    });
    await world.until(() => consumers.every((client) => sees(client, name)));
    const of = (branch) => Promise.all(consumers.map((client) => subscribed(client, name, { arguments: { branch } })));
    const [red, blue] = [await of('red'), await of('blue')];
    stream.push({ to: 'red' }, 'red');
    stream.push({ to: 'blue' }, 'blue');
    stream.push({ to: 'all' });
    for (const { data } of [...red, ...blue]) await world.until(() => data.at(-1)?.to === 'all');
    for (const { data } of red) assert.deepEqual(data.map(({ to }) => to), ['red', 'all']);
    for (const { data } of blue) assert.deepEqual(data.map(({ to }) => to), ['blue', 'all']);
  }),

  scenario('B-ST-5 a slow subscriber on one node holds up none on another', { ...third, alone: true, libs: ['io'] }, async (world) => {
    const [provider, consumer] = [await world.connect('a'), await world.connect('b')];
    const name = world.unique('Stream');
    const stream = await provider.interop.createStream(name);
    const slow = await world.raw('c');
    await slow.join('agm');
    await world.until(() => sees(consumer, name));
    const { server_id, methods } = await slow.match({ type: 'methods-added', methods: (list) => list.some((method) => method.name === name) });
    const { id } = methods.find((method) => method.name === name);
    const { data } = await subscribed(consumer, name);
    const reply = await slow.request({ domain: 'agm', type: 'subscribe', server_id, method_id: id });
    assert.equal(reply.type, 'subscribed');
    slow.socket.pause();
    const text = 'x'.repeat(200_000);
    for (let n = 0; n < 100; n += 1) {
      stream.push({ n, text });
      // The one that reads is never far behind; what waits for the other is more than a node keeps.
      await world.until(() => data.length > n - 4, 5000, `the data at b, up to ${n}`);
    }
    await world.until(() => data.length === 100, 5000, 'all of it at b');
    assert.deepEqual(data.map(({ n }) => n), Array.from({ length: 100 }, (_, n) => n));
    slow.socket.resume();
  }),
];

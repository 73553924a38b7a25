// Streams: subscribing, branches, private data, and every way in which one ends.

import assert from 'node:assert/strict';
import { scenario } from '../lib/scenario.mjs';
import { sameInstance, sees } from '../lib/interop.mjs';
import { streaming, subscribed } from '../lib/streams.mjs';

export default [
  scenario('E05 subscribe with arguments, push to all', async (world) => {
    const { until, connect } = world;
    const requests = [];
    const { provider, consumer, name, stream } = await streaming(world, {
      subscriptionRequestHandler: (request) => {
        requests.push(request);
        request.accept();
      },
    });
    const other = await connect('a');
    await until(() => sees(other, name));
    const args = { symbol: 'VOD.L', depth: [1, { when: new Date(5) }] };
    const one = await subscribed(consumer, name, { arguments: args });
    const two = await subscribed(other, name);
    assert.deepEqual(requests.map((request) => request.arguments), [args, {}]);
    await until(() => stream.subscriptions().length === 2);

    stream.push({ price: 1, when: new Date(7) });
    await until(() => one.data.length === 1 && two.data.length === 1);
    for (const { events } of [one, two]) {
      assert.deepEqual(events[0].data, { price: 1, when: new Date(7) });
      assert.equal(events[0].private, false);
      sameInstance(events[0].server, provider.interop.instance);
    }
    assert.deepEqual(one.events[0].requestArguments, args);
  }),

  scenario('B-ST-1 both sides know each other', async (world) => {
    const requests = [];
    const added = [];
    const { provider, consumer, name, stream } = await streaming(world, {
      subscriptionRequestHandler: (request) => {
        requests.push(request);
        request.accept();
      },
      subscriptionAddedHandler: (subscription) => added.push(subscription),
    });
    const { subscription } = await subscribed(consumer, name, { arguments: { x: 1 } });
    sameInstance(requests[0].instance, consumer.interop.instance);
    sameInstance(added[0].instance, consumer.interop.instance);
    sameInstance(stream.subscriptions()[0].instance, consumer.interop.instance);
    sameInstance(subscription.serverInstance, provider.interop.instance);
    assert.deepEqual(subscription.requestArguments, { x: 1 });
    assert.equal(subscription.stream.name, name);
    assert.equal(consumer.interop.methods({ name })[0].supportsStreaming, true);
  }),

  scenario('E05 B-ST-1 a subscription can be rejected', { alone: true }, async (world) => {
    const { consumer, name, stream } = await streaming(world, {
      subscriptionRequestHandler: (request) => request.reject('no entitlement for you'),
    });
    const { reason, ms } = await world.rejection(consumer.interop.subscribe(name));
    assert.match(reason, /no entitlement for you/);
    assert.ok(ms < 2000, `took ${Math.round(ms)} ms`);
    assert.equal(stream.subscriptions().length, 0);
  }),

  scenario('E05 B-ST-2 branches keep apart', async (world) => {
    const { until } = world;
    const { consumer, name, stream } = await streaming(world, {
      subscriptionRequestHandler: (request) => request.acceptOnBranch(request.arguments.branch),
    });
    const red = await subscribed(consumer, name, { arguments: { branch: 'red' } });
    const alsoRed = await subscribed(consumer, name, { arguments: { branch: 'red' } });
    const blue = await subscribed(consumer, name, { arguments: { branch: 'blue' } });
    assert.deepEqual(stream.branches().map(({ key }) => key).sort(), ['blue', 'red']);
    assert.equal(stream.branch('red').subscriptions().length, 2);

    stream.push({ to: 'red' }, 'red');
    stream.branch('blue').push({ to: 'blue' });
    stream.push({ to: 'both' }, ['red', 'blue']);
    stream.push({ to: 'all' });
    for (const { data } of [red, alsoRed, blue]) await until(() => data.at(-1)?.to === 'all');
    assert.deepEqual(red.data.map(({ to }) => to), ['red', 'both', 'all']);
    assert.deepEqual(alsoRed.data.map(({ to }) => to), ['red', 'both', 'all']);
    assert.deepEqual(blue.data.map(({ to }) => to), ['blue', 'both', 'all']);
  }),

  scenario('E05 the default branch is one of its own', async (world) => {
    const { consumer, name, stream } = await streaming(world, {
      subscriptionRequestHandler: (request) => (request.arguments.branch ? request.acceptOnBranch(request.arguments.branch) : request.accept()),
    });
    const plain = await subscribed(consumer, name);
    const red = await subscribed(consumer, name, { arguments: { branch: 'red' } });
    stream.push({ to: 'default' }, ['']);
    stream.push({ to: 'red' }, 'red');
    stream.push({ to: 'all' });
    for (const { data } of [plain, red]) await world.until(() => data.at(-1)?.to === 'all');
    assert.deepEqual(plain.data.map(({ to }) => to), ['default', 'all']);
    assert.deepEqual(red.data.map(({ to }) => to), ['red', 'all']);
  }),

  scenario('E05 B-ST-3 private data reaches one subscription', async (world) => {
    const { consumer, name, stream } = await streaming(world);
    const [one, two] = [await subscribed(consumer, name), await subscribed(consumer, name)];
    const [first, second] = stream.subscriptions();
    first.push({ only: 'first' });
    second.push({ only: 'second' });
    stream.push({ only: 'no' });
    for (const { data } of [one, two]) await world.until(() => data.length === 2);
    assert.deepEqual([one.data[0].only, two.data[0].only].sort(), ['first', 'second']);
    assert.deepEqual(one.events.map((event) => event.private), [true, false]);
  }),

  scenario('B-ST-4b accept and push at once arrives', { alone: true }, async (world) => {
    const { consumer, name } = await streaming(world, {
      subscriptionAddedHandler: (subscription) => {
        subscription.push({ hello: 'in private' });
        subscription.stream.push({ hello: 'everyone' });
      },
    });
    for (let round = 0; round < 20; round += 1) {
      const { data, subscription } = await subscribed(consumer, name);
      await world.until(() => data.length >= 2, 2000, `both first pushes in round ${round}`);
      assert.deepEqual(data.map(({ hello }) => hello), ['in private', 'everyone']);
      subscription.close();
    }
  }),

  scenario('B-ST-6 the order of 500 pushes is kept', async (world) => {
    const { consumer, name, stream } = await streaming(world);
    const { data } = await subscribed(consumer, name);
    const numbers = Array.from({ length: 500 }, (_, index) => index);
    for (const index of numbers) stream.push({ index });
    await world.until(() => data.length === 500, 8000, '500 pushes');
    assert.deepEqual(data.map(({ index }) => index), numbers);
  }),

  scenario('public and private data stay in order', async (world) => {
    const { consumer, name, stream } = await streaming(world);
    const { data } = await subscribed(consumer, name);
    const [subscription] = stream.subscriptions();
    for (let index = 0; index < 200; index += 1) (index % 2 ? subscription : stream).push({ index });
    await world.until(() => data.length === 200);
    assert.deepEqual(data.map(({ index }) => index), Array.from({ length: 200 }, (_, index) => index));
  }),

  scenario('a megabyte in one push', async (world) => {
    const { consumer, name, stream } = await streaming(world);
    const { data } = await subscribed(consumer, name);
    const text = 'žluťoučký kůň '.repeat(75_000);
    stream.push({ text });
    stream.push({ after: true });
    await world.until(() => data.length === 2, 8000);
    assert.ok(data[0].text === text, 'the text differs');
    assert.deepEqual(data[1], { after: true });
  }),

  scenario('E05 the subscriber closes', async (world) => {
    const { until } = world;
    const removed = [];
    const { consumer, name, stream } = await streaming(world, {
      subscriptionRemovedHandler: (subscription) => removed.push(subscription),
    });
    const one = await subscribed(consumer, name, { arguments: { n: 1 } });
    const two = await subscribed(consumer, name, { arguments: { n: 2 } });
    one.subscription.close();
    await until(() => removed.length === 1, 5000, 'subscriptionRemoved');
    assert.deepEqual(removed[0].arguments, { n: 1 });
    sameInstance(removed[0].instance, consumer.interop.instance);
    assert.equal(stream.subscriptions().length, 1);
    stream.push({ still: 'there' });
    await until(() => two.data.length === 1);
    assert.deepEqual(one.data, []);
  }),

  scenario('E05 the provider closes one subscription', async (world) => {
    const { until } = world;
    const { consumer, name, stream } = await streaming(world);
    const one = await subscribed(consumer, name, { arguments: { n: 1 } });
    const two = await subscribed(consumer, name, { arguments: { n: 2 } });
    stream.subscriptions().find((subscription) => subscription.arguments.n === 1).close();
    await until(() => one.closed.length === 1, 5000, 'onClosed');
    stream.push({ still: 'there' });
    await until(() => two.data.length === 1);
    assert.deepEqual(one.data, []);
    assert.equal(two.closed.length, 0);
  }),

  scenario('E05 the provider closes a branch', async (world) => {
    const { until } = world;
    const { consumer, name, stream } = await streaming(world, {
      subscriptionRequestHandler: (request) => request.acceptOnBranch(request.arguments.branch),
    });
    const red = await subscribed(consumer, name, { arguments: { branch: 'red' } });
    const blue = await subscribed(consumer, name, { arguments: { branch: 'blue' } });
    stream.branch('red').close();
    await until(() => red.closed.length === 1, 5000, 'onClosed');
    stream.push({ still: 'there' });
    await until(() => blue.data.length === 1);
    assert.deepEqual(red.data, []);
    assert.equal(blue.closed.length, 0);
  }),

  scenario('E05 the provider closes the stream', async (world) => {
    const { until } = world;
    const { provider, consumer, name, stream } = await streaming(world);
    const seen = await subscribed(consumer, name);
    stream.push({ last: 'word' });
    stream.close();
    await until(() => seen.closed.length > 0, 5000, 'onClosed');
    await until(() => !sees(consumer, name), 5000, 'the stream is gone');
    assert.equal(seen.closed.length, 1);
    assert.deepEqual(seen.data, [{ last: 'word' }]);

    // The name is free again, also for another stream.
    const again = await provider.interop.createStream(name);
    await until(() => sees(consumer, name));
    const anew = await subscribed(consumer, name);
    again.push({ second: 'life' });
    await until(() => anew.data.length === 1);
  }),

  scenario('the provider leaves', async (world) => {
    const { provider, consumer, name } = await streaming(world);
    const seen = await subscribed(consumer, name);
    await world.leave(provider);
    await world.until(() => seen.closed.length > 0, 3000, 'onClosed');
    await world.until(() => !sees(consumer, name));
    assert.equal(seen.closed.length, 1);
  }),

  scenario('B-ST-4 the provider is killed', { alone: true }, async ({ app, connect, unique, until }) => {
    const name = unique('Stream');
    const [victim, consumer] = await Promise.all([app('a', { offers: { stream: name } }), connect('b')]);
    await until(() => sees(consumer, name));
    const seen = await subscribed(consumer, name);
    await victim.kill();
    await until(() => seen.closed.length > 0, 3000, 'onClosed');
    assert.equal(seen.closed.length, 1);
  }),

  scenario('the subscriber leaves', async (world) => {
    const removed = [];
    const { consumer, name, stream } = await streaming(world, {
      subscriptionRemovedHandler: (subscription) => removed.push(subscription),
    });
    await subscribed(consumer, name);
    await world.leave(consumer);
    await world.until(() => removed.length === 1, 3000, 'subscriptionRemoved');
    assert.equal(stream.subscriptions().length, 0);
  }),

  scenario('the subscriber is killed', { alone: true }, async ({ app, connect, unique, until }) => {
    const name = unique('Stream');
    const removed = [];
    const provider = await connect('a');
    const stream = await provider.interop.createStream(name, {
      subscriptionRemovedHandler: (subscription) => removed.push(subscription),
    });
    const victim = await app('b', { subscribes: name });
    await until(() => stream.subscriptions().length === 1);
    assert.equal(stream.subscriptions()[0].instance.instance, victim.instance.instance);
    await victim.kill();
    await until(() => removed.length === 1, 3000, 'subscriptionRemoved');
    assert.equal(stream.subscriptions().length, 0);
  }),

  scenario('E05 a subscription to all servers outlives one of them', async ({ connect, unique, until, leave }) => {
    const [atA, atB, consumer] = await Promise.all([connect('a'), connect('b'), connect('b')]);
    const name = unique('Stream');
    const streams = await Promise.all([atA, atB].map((client) => client.interop.createStream(name)));
    await until(() => consumer.interop.servers({ name }).length === 2);
    const seen = await subscribed(consumer, name, { target: 'all' });
    await until(() => streams.every((stream) => stream.subscriptions().length === 1));
    // The library learns of its second subscription a little after its first.
    await until(() => seen.subscription.servers.length === 2);
    streams[0].push({ from: 'a' });
    streams[1].push({ from: 'b' });
    await until(() => seen.data.length === 2);
    await leave(atA);
    await until(() => seen.subscription.servers.length === 1, 3000, 'one server left');
    streams[1].push({ from: 'b again' });
    await until(() => seen.data.length === 3);
    assert.equal(seen.closed.length, 0);
    await leave(atB);
    await until(() => seen.closed.length === 1, 3000, 'onClosed');
  }),

  scenario('subscribing waits for the stream to appear', async ({ pair, unique, sleep, until, within }) => {
    const [provider, consumer] = await pair();
    const name = unique('Stream');
    const pending = subscribed(consumer, name, { waitTimeoutMs: 8000 });
    await sleep(300);
    const stream = await provider.interop.createStream(name);
    const { data } = await within(5000, pending, 'subscribed');
    stream.push({ x: 1 });
    await until(() => data.length === 1);
  }),

  scenario('subscribing to nothing rejects', async ({ connect, unique, rejection }) => {
    const consumer = await connect('b');
    const { reason } = await rejection(consumer.interop.subscribe(unique('Nothing'), { waitTimeoutMs: 600 }), 5000);
    assert.match(reason, /No available servers/);
  }),

  scenario('data that comes before onData is kept', async (world) => {
    const { consumer, name, stream } = await streaming(world);
    const subscription = await consumer.interop.subscribe(name);
    stream.push({ early: true });
    await world.sleep(50);
    const data = [];
    subscription.onData((event) => data.push(event.data));
    await world.until(() => data.length === 1);
  }),

  scenario('many subscribers on both sides', async ({ connect, unique, until }) => {
    const provider = await connect('a');
    const name = unique('Stream');
    const stream = await provider.interop.createStream(name);
    const places = ['a', 'b', 'a', 'b', 'b'];
    const clients = await Promise.all(places.map((place) => connect(place)));
    await until(() => clients.every((client) => sees(client, name)));
    const all = await Promise.all(clients.map((client) => subscribed(client, name)));
    for (let index = 0; index < 50; index += 1) stream.push({ index });
    for (const { data } of all) {
      await until(() => data.length === 50);
      assert.deepEqual(data.map(({ index }) => index), Array.from({ length: 50 }, (_, index) => index));
    }
  }),
];

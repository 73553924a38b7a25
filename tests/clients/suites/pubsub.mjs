// Publish and subscribe on the bus.
//
// A subscription is in force on its own node at once and on another one a moment later, and there is
// nothing to wait for in the API. So each scenario first publishes probes until one arrives, and
// then relies on the order of one publisher's messages: once a later one is there, an earlier one
// that is missing was not delivered.

import assert from 'node:assert/strict';
import { listens, reaches } from '../lib/pubsub.mjs';
import { scenario } from '../lib/scenario.mjs';

export default [
  scenario('a topic', async (world) => {
    const [publisher, subscriber] = await world.pair();
    const topic = world.unique('topic');
    const heard = await listens(subscriber, topic);
    await reaches(world, publisher, topic, heard);
    const data = { n: 1, when: new Date(3), nested: { list: [1, null, 'é'] }, '': 'empty', 'a.b': 2 };
    publisher.bus.publish(`${topic}x`, { wrong: true });
    publisher.bus.publish(topic.toUpperCase(), { wrong: true });
    publisher.bus.publish(topic, data);
    await world.until(() => heard.data.length > 0);
    assert.deepEqual(heard.data, [data]);
    assert.deepEqual(heard.topics, [topic]);
  }),

  scenario('B-PS-1 one message over a wildcard, once, with its publisher', async (world) => {
    const [publisher, subscriber] = await world.pair();
    const base = world.unique('x').replaceAll('-', '_');
    const heard = await listens(subscriber, `${base}.*`);
    await reaches(world, publisher, `${base}.y`, heard);
    publisher.bus.publish(`${base}.y`, { n: 1 });
    publisher.bus.publish(`${base}.y`, { n: 2 });
    await world.until(() => heard.data.length >= 2);
    assert.deepEqual(heard.data, [{ n: 1 }, { n: 2 }]);
    const { instance } = publisher.interop;
    for (const key of ['application', 'instance', 'user', 'machine']) {
      assert.ok(instance[key], key);
      assert.equal(heard.sources[0][key], instance[key], key);
    }
  }),

  ...[
    ['a.*', { yes: ['a.b', 'a.x_1'], no: ['a.b.c', 'a', 'ab', 'b.a'] }],
    ['a.>', { yes: ['a.b', 'a.b.c', 'a.b-c.d'], no: ['a', 'ab', 'b.a.c'] }],
    ['a.*.c', { yes: ['a.b.c'], no: ['a.b.d', 'a.c', 'a.b.b.c'] }],
  ].map(([pattern, { yes, no }]) => scenario(`E07 B-PS-3 wildcard ${pattern}`, async (world) => {
    const [publisher, subscriber] = await world.pair();
    const base = world.unique('w').replaceAll('-', '_');
    const topicOf = (text) => `${base}.${text}`;
    const heard = await listens(subscriber, topicOf(pattern));
    await reaches(world, publisher, topicOf(yes[0]), heard);
    for (const text of no) publisher.bus.publish(topicOf(text), { text });
    for (const text of yes) publisher.bus.publish(topicOf(text), { text });
    await world.until(() => heard.data.some(({ text }) => text === yes.at(-1)));
    assert.deepEqual(heard.data.map(({ text }) => text), yes);
  })),

  scenario('E07 B-PS-3 a routing key', async (world) => {
    const [publisher, subscriber] = await world.pair();
    const topic = world.unique('topic');
    const keyed = await listens(subscriber, topic, { routingKey: 'k1' });
    const open = await listens(subscriber, topic);
    await reaches(world, publisher, topic, keyed, { routingKey: 'k1' });
    await reaches(world, publisher, topic, open);
    publisher.bus.publish(topic, { key: 'k1' }, { routingKey: 'k1' });
    publisher.bus.publish(topic, { key: 'k2' }, { routingKey: 'k2' });
    publisher.bus.publish(topic, { key: 'none' });
    for (const { data } of [keyed, open]) await world.until(() => data.some(({ key }) => key === 'none'));
    assert.deepEqual(keyed.data.map(({ key }) => key), ['k1', 'none']);
    assert.deepEqual(open.data.map(({ key }) => key), ['k1', 'k2', 'none']);
  }),

  scenario('E07 B-PS-3 a target identity', async (world) => {
    const [publisher, one] = await world.pair();
    const two = await world.connect('b');
    const topic = world.unique('topic');
    const [heardOne, heardTwo] = [await listens(one, topic), await listens(two, topic)];
    await reaches(world, publisher, topic, heardOne);
    await reaches(world, publisher, topic, heardTwo);
    const { application, instance } = one.interop.instance;
    publisher.bus.publish(topic, { to: 'application' }, { target: { application } });
    publisher.bus.publish(topic, { to: 'instance' }, { target: { application, instance } });
    publisher.bus.publish(topic, { to: 'nobody' }, { target: { application, instance: 'zz' } });
    publisher.bus.publish(topic, { to: 'anyone' }, { target: {} });
    publisher.bus.publish(topic, { to: 'all' });
    for (const { data } of [heardOne, heardTwo]) await world.until(() => data.some(({ to }) => to === 'all'));
    assert.deepEqual(heardOne.data.map(({ to }) => to), ['application', 'instance', 'anyone', 'all']);
    assert.deepEqual(heardTwo.data.map(({ to }) => to), ['anyone', 'all']);
  }),

  scenario('E07 a source filter', async (world) => {
    const [wanted, subscriber] = await world.pair();
    const unwanted = await world.connect('a');
    const topic = world.unique('topic');
    const { application } = wanted.interop.instance;
    const some = await listens(subscriber, topic, { target: { application } });
    const all = await listens(subscriber, topic);
    await reaches(world, wanted, topic, some);
    await reaches(world, unwanted, topic, all);
    unwanted.bus.publish(topic, { from: 'unwanted' });
    await world.until(() => all.data.length === 1);
    wanted.bus.publish(topic, { from: 'wanted' });
    await world.until(() => some.data.length > 0);
    assert.deepEqual(some.data.map(({ from }) => from), ['wanted']);
  }),

  scenario('B-PS-4 a publisher hears itself', async (world) => {
    const client = await world.connect('a');
    const topic = world.unique('topic');
    const heard = await listens(client, topic);
    await reaches(world, client, topic, heard);
    client.bus.publish(topic, { n: 1 });
    client.bus.publish(topic, { n: 2 });
    await world.until(() => heard.data.length >= 2);
    assert.deepEqual(heard.data.map(({ n }) => n), [1, 2]);
  }),

  scenario('two equal subscriptions hear twice', async (world) => {
    const [publisher, subscriber] = await world.pair();
    const topic = world.unique('topic');
    const both = [await listens(subscriber, topic), await listens(subscriber, topic)];
    for (const heard of both) await reaches(world, publisher, topic, heard);
    publisher.bus.publish(topic, { n: 1 });
    for (const { data } of both) await world.until(() => data.length === 1);
  }),

  scenario('E07 unsubscribe', async (world) => {
    const [publisher, subscriber] = await world.pair();
    const topic = world.unique('topic');
    const [gone, stays] = [await listens(subscriber, topic), await listens(subscriber, topic)];
    for (const heard of [gone, stays]) await reaches(world, publisher, topic, heard);
    await gone.subscription.unsubscribe();
    publisher.bus.publish(topic, { n: 1 });
    await world.until(() => stays.data.length === 1);
    assert.deepEqual(gone.data, []);
  }),

  scenario('B-PS-9 the order of 1000 messages is kept', async (world) => {
    const [publisher, subscriber] = await world.pair();
    const topic = world.unique('topic');
    const heard = await listens(subscriber, topic);
    await reaches(world, publisher, topic, heard);
    const numbers = Array.from({ length: 1000 }, (_, index) => index);
    for (const index of numbers) publisher.bus.publish(topic, { index });
    await world.until(() => heard.data.length >= 1000, 8000, '1000 messages');
    assert.deepEqual(heard.data.map(({ index }) => index), numbers);
  }),

  scenario('nothing reaches another user', async (world) => {
    const [publisher, subscriber] = await world.pair();
    const stranger = await world.connect('b', { user: world.unique('stranger') });
    const topic = world.unique('topic');
    const [heard, overheard] = [await listens(subscriber, topic), await listens(stranger, topic)];
    await reaches(world, publisher, topic, heard);
    publisher.bus.publish(topic, { secret: 1 });
    await world.until(() => heard.data.length === 1);
    // The stranger's own message travels the same way and would come after.
    await reaches(world, stranger, topic, overheard);
    assert.deepEqual(overheard.data, []);
    assert.equal(overheard.probes.size, 1);
    assert.equal(heard.probes.size, 1);
  }),

  scenario('B-PS-2 a late subscriber gets nothing old', async (world) => {
    const [publisher, subscriber] = await world.pair();
    const topic = world.unique('topic');
    const first = await listens(subscriber, topic);
    await reaches(world, publisher, topic, first);
    publisher.bus.publish(topic, { old: true });
    await world.until(() => first.data.length === 1);
    const late = await listens(await world.connect('b'), topic);
    await reaches(world, publisher, topic, late);
    assert.deepEqual(late.data, []);
  }),

  scenario('a megabyte in one message', async (world) => {
    const [publisher, subscriber] = await world.pair();
    const topic = world.unique('topic');
    const heard = await listens(subscriber, topic);
    await reaches(world, publisher, topic, heard);
    const text = 'šťáva '.repeat(170_000);
    publisher.bus.publish(topic, { text });
    await world.until(() => heard.data.length === 1, 8000);
    assert.ok(heard.data[0].text === text, 'the text differs');
  }),
];

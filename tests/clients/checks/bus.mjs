// The domains bus and metrics: B01–B10 and M01 of the list of wire checks.

import assert from 'node:assert/strict';
import { check } from '../lib/check.mjs';
import { unique } from '../lib/names.mjs';
import { sleep, until } from '../lib/wait.mjs';

const bus = (type, more) => ({ domain: 'bus', type, ...more });
const publish = (peer, topic, data, more) => peer.send(bus('publish', { topic, data, request_id: unique('publish'), ...more }));

async function subscribe(peer, topic, more) {
  const reply = await peer.request(bus('subscribe', { topic, ...more }));
  assert.equal(reply.type, 'subscribed');
  return reply.subscription_id;
}

/**
 * Resolves when what one publishes on `topic` reaches the subscription.
 *
 * On one node that is at once; a subscription on another node is known a moment later.
 */
async function reached({ two }, publisher, subscriber, subscription_id, topic, more) {
  if (!two || publisher.url === subscriber.url) return;
  const probe = unique('probe');
  const arrived = () => subscriber.frames.filter(({ message }) => message?.data?.probe === probe);
  await until(async () => {
    publish(publisher, topic, { probe }, more);
    await sleep(30);
    return arrived().some(({ message }) => message.subscription_id === subscription_id);
  }, 3000, `a probe on ${topic}`);
}

/** A publisher at `a`, a subscriber at `b`. */
async function members({ member }) {
  return { publisher: await member('bus', 'a'), subscriber: await member('bus', 'b') };
}

/** Publishes each on `topic` and asserts that `wanted` of them, and a last one, arrive in order. */
async function arrives(publisher, subscriber, topic, messages, wanted) {
  for (const { data, ...more } of [...messages, { data: 'last' }]) publish(publisher, topic, data, more);
  for (const data of [...wanted, 'last']) {
    const next = await subscriber.match(bus('event', { data: (value) => !value?.probe }));
    assert.deepEqual(next.data, data);
  }
}

const TOPICS = [
  ['a.*', 'a.b', true], ['a.*', 'a.b.c', false], ['a.*', 'a.', false], ['a.*', 'a.x-y', false], ['a.*.c', 'a.b.c', true],
  ['a>', 'a', true], ['a>', 'a.b.c', true], ['a.>', 'a.b.c', true], ['a.>', 'ab', false], ['*', 'x_1', true],
  ['a.b', 'a.b', true], ['a.b', 'axb', false], ['A', 'a', false],
];

export default [
  check('B01', 'publish to a subscriber', async (world) => {
    const { publisher, subscriber } = await members(world);
    const topic = world.named('topic');
    const subscription_id = await subscribe(subscriber, topic);
    await reached(world, publisher, subscriber, subscription_id, topic);
    publish(publisher, topic, { n: 1 });
    const event = await subscriber.match(bus('event', { subscription_id, data: { n: 1 } }));
    assert.deepEqual(event['publisher-identity'], publisher.identity);
    await world.nothing(publisher, subscriber);
  }),

  check('B02', 'publish to oneself', async (world) => {
    const peer = await world.member('bus', 'a');
    const topic = world.named('topic');
    const subscription_id = await subscribe(peer, topic);
    publish(peer, topic, [1]);
    await peer.match(bus('event', { subscription_id, data: [1] }));
    await world.nothing(peer);
  }),

  ...TOPICS.map(([pattern, topic, matches]) => check('B03', `${pattern} ${matches ? 'takes' : 'leaves'} ${topic}`, async (world) => {
    const { publisher, subscriber } = await members(world);
    const end = world.named('end');
    const subscription_id = await subscribe(subscriber, pattern);
    const last = await subscribe(subscriber, end);
    await reached(world, publisher, subscriber, last, end);
    if (matches) await reached(world, publisher, subscriber, subscription_id, topic);
    publish(publisher, topic, { n: 1 });
    publish(publisher, end, { n: 2 });
    if (matches) await subscriber.match(bus('event', { subscription_id, data: { n: 1 } }));
    await subscriber.match(bus('event', { subscription_id: last, data: { n: 2 } }));
    await world.nothing(publisher, subscriber);
  })),

  check('B04', 'routing keys', async (world) => {
    const { publisher, subscriber } = await members(world);
    const topic = world.named('topic');
    const subscription_id = await subscribe(subscriber, topic, { routing_key: 'k1' });
    await reached(world, publisher, subscriber, subscription_id, topic);
    const messages = [{ data: 'k1', routing_key: 'k1' }, { data: 'k2', routing_key: 'k2' }, { data: 'none' }];
    await arrives(publisher, subscriber, topic, messages, ['k1', 'none']);
    await world.nothing(publisher, subscriber);
  }),

  check('B05', 'target identities', async (world) => {
    const publisher = await world.member('bus', 'a');
    const application = unique('C');
    const [wanted, other] = [await world.member('bus', 'b', { application }), await world.member('bus', 'b')];
    const topic = world.named('topic');
    for (const peer of [wanted, other]) await reached(world, publisher, peer, await subscribe(peer, topic), topic);
    const messages = [
      { data: 'application', target_identity: { application } },
      { data: 'nobody', target_identity: { application, instance: 'zz' } },
    ];
    await arrives(publisher, wanted, topic, messages, ['application']);
    await other.match(bus('event', { data: 'last' }));
    await world.nothing(publisher, wanted, other);
  }),

  check('B06', 'data that is nothing', async (world) => {
    const { publisher, subscriber } = await members(world);
    const topic = world.named('topic');
    await reached(world, publisher, subscriber, await subscribe(subscriber, topic), topic);
    const messages = [{ data: null }, { data: false }, {}, { data: 0 }, { data: '' }];
    await arrives(publisher, subscriber, topic, messages, [0, '']);
    await world.nothing(publisher, subscriber);
  }),

  check('B07', 'another user', async (world) => {
    const { publisher, subscriber } = await members(world);
    const stranger = await world.member('bus', 'b', { user: unique('stranger') });
    const topic = world.named('topic');
    await subscribe(stranger, topic);
    await reached(world, publisher, subscriber, await subscribe(subscriber, topic), topic);
    await arrives(publisher, subscriber, topic, [{ data: 1 }], [1]);
    await world.nothing(publisher, subscriber, stranger);
  }),

  check('B08', 'unsubscribe twice', async (world) => {
    const { publisher, subscriber } = await members(world);
    const topic = world.named('topic');
    const subscription_id = await subscribe(subscriber, topic);
    await reached(world, publisher, subscriber, subscription_id, topic);
    for (const _ of [1, 2]) assert.equal((await subscriber.request(bus('unsubscribe', { subscription_id }))).type, 'success');
    publish(publisher, topic, 1);
    await world.nothing(publisher, subscriber);
  }),

  check('B09', 'subscribe without joining', async ({ login, named }) => {
    const peer = await login('a');
    const reply = await peer.request(bus('subscribe', { topic: named('topic') }));
    assert.deepEqual([reply.type, reply.domain, reply.reason_uri], ['error', 'bus', 'bus.errors.failure']);
  }),

  check('B10', 'two equal subscriptions', async (world) => {
    const { publisher, subscriber } = await members(world);
    const topic = world.named('topic');
    const both = [await subscribe(subscriber, topic), await subscribe(subscriber, topic)];
    for (const id of both) await reached(world, publisher, subscriber, id, topic);
    publish(publisher, topic, 1);
    for (const subscription_id of both) await subscriber.match(bus('event', { subscription_id, data: 1 }));
    await world.nothing(publisher, subscriber);
  }),

  check('M01', 'metrics are taken silently', async ({ login, nothing }) => {
    const peer = await login('a');
    const reply = await peer.join('metrics', { options: { system: 'Glue42', service: 'test', instance: 'i' } });
    assert.deepEqual([reply.type, reply.domain], ['success', 'metrics']);
    const metric = { name: '/State', type: 'object', description: '', context: {}, composite: {} };
    peer.send({ domain: 'metrics', type: 'define', metrics: [metric], request_id: unique('define') });
    peer.send({ domain: 'metrics', type: 'publish', values: [{ name: '/State', value: {}, timestamp: 1 }], request_id: unique('publish') });
    await nothing(peer);
  }),
];

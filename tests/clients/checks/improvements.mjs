// Where the reference falls short and we do not: I01–I13 and I15 of the list of wire checks. I14 needs a node that
// is started again and stands in `suites/restart.mjs`.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { check } from '../lib/check.mjs';
import { unique } from '../lib/names.mjs';
import { until, within } from '../lib/wait.mjs';
import { announced, created, destroy, reads, shared, subscribe, update } from './contexts.mjs';

const BAD_FRAMES = {
  'an unmasked frame': Buffer.from([0x81, 0x02, 0x7b, 0x7d]),
  'a reserved bit': Buffer.from([0xf1, 0x80, 0, 0, 0, 0]),
  'a reserved opcode': Buffer.from([0x83, 0x80, 0, 0, 0, 0]),
  'text that is not UTF-8': Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe]),
  'a frame of a tebibyte': Buffer.from([0x81, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
  'a control frame that is too long': Buffer.from([0x89, 0xfe, 0, 200, 0, 0, 0, 0]),
};

/** Upgrades a bare socket to a WebSocket and sends these bytes; resolves when the node hangs up. */
async function hungUp(url, bytes) {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.on('error', () => {});
  const closed = once(socket, 'close');
  await once(socket, 'connect');
  socket.write([
    'GET / HTTP/1.1', `Host: ${hostname}:${port}`, 'Upgrade: websocket', 'Connection: Upgrade',
    'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==', '', '',
  ].join('\r\n'));
  const [answer] = await once(socket, 'data');
  assert.match(answer.toString(), /^HTTP\/1.1 101/);
  socket.write(bytes);
  socket.resume();
  await within(3000, closed, 'the node hung up').finally(() => socket.destroy());
}

const agm = (type, more) => ({ domain: 'agm', type, ...more });
const STREAM = { id: '0', name: 'Stream', flags: { streaming: true, metadata: {} } };

export default [
  ...Object.entries(BAD_FRAMES).map(([what, bytes]) => check('I01', `${what} ends its connection only`, async (world) => {
    const { server, client } = await world.pair();
    await hungUp(world.urls.a, bytes);
    await world.nothing(server, client);
  }, { kills: true, alone: true })),

  check('I02', 'a late joiner of another user is told of no context', async (world) => {
    await shared(world, { secret: 1 });
    for (const place of ['a', 'b']) await world.nothing(await world.login(place, { user: unique('stranger') }));
  }),

  check('I03', 'a context of another user is out of reach', async (world) => {
    const { one, mine, two, yours } = await shared(world, { secret: 1 });
    for (const [place, id] of [['a', mine], ['b', yours]]) {
      const stranger = await world.login(place, { user: unique('stranger') });
      for (const request of [subscribe, destroy, (peer, to) => update(peer, to, { reset: { mine: 'now' } })]) {
        assert.equal((await request(stranger, id)).type, 'error');
      }
    }
    await reads(one, mine, { secret: 1 });
    await reads(two, yours, { secret: 1 });
  }),

  check('I04', 'a page of this machine may connect', async ({ open, user }) => {
    for (const origin of ['http://localhost:3000', 'http://127.0.0.1:8080', 'https://localhost']) {
      const peer = await open('a', { origin });
      assert.equal((await peer.hello({ user, identity: { application: 'page' } })).type, 'welcome', origin);
    }
  }),

  check('I05', 'a page of elsewhere may not, unless it is listed', async ({ open, login }) => {
    for (const origin of ['https://evil.example', 'http://localhost.evil.example', 'null']) {
      await assert.rejects(open('a', { origin }), /Unexpected server response: 40[13]/, origin);
    }
    await login('a');
  }),

  check('I06', 'nothing of a burst from many is lost', async (world) => {
    const [count, each] = [40, 500];
    const topic = world.named('topic');
    const subscriber = await world.member('bus', 'a');
    await subscriber.request({ domain: 'bus', type: 'subscribe', topic });
    const publishers = await Promise.all(Array.from({ length: count }, () => world.member('bus', 'a')));
    for (let n = 0; n < each; n += 1) {
      for (const [by, peer] of publishers.entries()) peer.send({ domain: 'bus', type: 'publish', topic, data: { by, n } });
    }
    const got = () => subscriber.frames.filter(({ message }) => message.type === 'event');
    await until(() => got().length === count * each, 20_000, `${count * each} messages`)
      .catch((error) => assert.fail(`${error.message}: there are ${got().length}`));
    const next = new Array(count).fill(0);
    for (const { message: { data } } of got()) {
      assert.equal(data.n, next[data.by], `the order of publisher ${data.by}`);
      next[data.by] += 1;
    }
  }, { alone: true, bulk: true, timeoutMs: 30_000 }),

  check('I07', 'one that does not read is given up, and holds up nobody', async (world) => {
    const topic = world.named('topic');
    const [publisher, stuck] = [await world.member('bus', 'a'), await world.member('bus', 'a')];
    await stuck.request({ domain: 'bus', type: 'subscribe', topic });
    stuck.socket.pause();
    const data = 'x'.repeat(1_000_000);
    for (let sent = 0; sent < 100; sent += 1) {
      publisher.send({ domain: 'bus', type: 'publish', topic, data });
      await until(() => publisher.socket.bufferedAmount < 4_000_000, 5000, 'taken by the node');
    }
    await publisher.fence();
    stuck.socket.resume();
    await within(5000, stuck.closed, 'the connection was closed');
    const events = stuck.frames.filter(({ message }) => message?.type === 'event').length;
    assert.ok(events < 100, `all ${events} were kept for it`);
    await publisher.fence();
  }, { alone: true, bulk: true, timeoutMs: 60_000 }),

  ...[
    ['its stream is unregistered', (server) => server.request(agm('unregister', { methods: ['0'] }))],
    ['its server disconnects', (server) => server.close()],
    ['its server leaves', (server) => server.leave('agm')],
  ].map(([what, end]) => check('I08', `a pending subscribe is answered when ${what}`, async ({ offered }) => {
    const { server, client } = await offered(STREAM);
    const request_id = unique('subscribe');
    client.send(agm('subscribe', { server_id: server.id, method_id: '0', request_id }));
    await server.match(agm('add-interest'));
    end(server);
    const reply = await client.match({ request_id });
    assert.deepEqual([reply.type, reply.domain], ['error', 'agm']);
  })),

  ...[
    ['removing a missing path leaves nothing', { a: 1 }, { type: 'remove', path: 'no.such.path' }, { a: 1 }],
    ['setting in an array edits its element', { arr: [{ a: 1, b: 2 }, 2] }, { type: 'set', path: 'arr.0.a', value: 5 }, { arr: [{ a: 5, b: 2 }, 2] }],
  ].map(([what, init, command, wanted]) => check('I09', what, async (world) => {
    const one = await world.login('a');
    const name = world.named('context');
    const id = await created(one, name, init);
    assert.equal((await update(one, id, { commands: [command] })).type, 'success');
    await reads(one, id, wanted);
    const late = await world.login('a');
    await reads(late, await announced(late, name), wanted);
  })),

  check('I10', 'a second accept moves the subscription', async (world) => {
    const { server, client } = await world.offered(STREAM);
    const request_id = unique('subscribe');
    client.send(agm('subscribe', { server_id: server.id, method_id: '0', request_id }));
    const { subscription_id } = await server.match(agm('add-interest'));
    for (const stream_id of ['0', '1']) server.send(agm('accepted', { subscription_id, stream_id }));
    await client.match(agm('subscribed', { request_id }));
    server.send(agm('publish', { stream_id: '0', data: { on: 'the old' } }));
    server.send(agm('publish', { stream_id: '1', data: { on: 'the new' } }));
    await client.match(agm('event', { data: { on: 'the new' } }));
    await server.fence();
    const old = client.pending().filter(({ message }) => message.data?.on === 'the old');
    assert.deepEqual(old, []);
  }),

  check('I11', 'a subscription to oneself ends with the stream', async (world) => {
    const peer = await world.member('agm', 'a');
    await world.register(peer, [STREAM]);
    const request_id = unique('subscribe');
    peer.send(agm('subscribe', { server_id: peer.id, method_id: '0', request_id }));
    const interest = await peer.match(agm('add-interest', { caller_id: peer.id }));
    peer.send(agm('accepted', { subscription_id: interest.subscription_id, stream_id: '0' }));
    const { subscription_id } = await peer.match(agm('subscribed', { request_id }));
    await peer.request(agm('unregister', { methods: ['0'] }));
    await peer.match(agm('subscription-cancelled', { subscription_id, reason_uri: 'agm.method-removed' }));
    peer.send(agm('publish', { stream_id: '0', data: { too: 'late' } }));
    await peer.match(agm('methods-removed'));
    await world.nothing(peer);
  }),

  check('I12', 'only members register', async (world) => {
    const [peer, witness] = [await world.login('a'), await world.member('agm', 'b')];
    const reply = await peer.request(agm('register', { methods: [{ id: '0', name: 'Early' }] }));
    assert.deepEqual([reply.type, reply.domain], ['error', 'agm']);
    await world.nothing(peer, witness);
  }),

  check('I12', 'joining again keeps the methods', async (world) => {
    const { server, client } = await world.offered();
    assert.equal((await server.join('agm')).type, 'success');
    client.send(agm('call', { server_id: server.id, method_id: '0', request_id: unique('call') }));
    await server.match(agm('invoke', { caller_id: client.id }));
    await world.nothing(server, client);
  }),

  check('I12', 'leaving again tells nobody', async (world) => {
    const { server, client } = await world.pair();
    assert.equal((await server.leave('agm')).type, 'success');
    await client.match(agm('peer-removed', { removed_id: server.id }));
    await server.leave('agm');
    await world.nothing(server, client);
  }),

  check('I13', 'an identity is free again at once when its connection is dead', async (world) => {
    const identity = { application: 'app', instance: unique('instance') };
    const [first, second] = [await world.open('a'), await world.open('a')];
    assert.equal((await first.hello({ user: world.user, identity })).type, 'welcome');
    first.socket.pause();
    await until(async () => (await second.hello({ user: world.user, identity })).type === 'welcome', 3000, 'logged in');
    assert.equal((await second.join('agm')).type, 'success');
  }),

  ...['join', 'leave'].map((type) => check('I15', `the error of a ${type} comes in its own domain`, async (world) => {
    const peer = await world.login('a');
    const reply = await peer.request({ type, domain: 'global', destination: 'zz' });
    assert.deepEqual([reply.type, reply.domain, reply.reason_uri], ['error', 'zz', 'global.errors.invalid_domain']);
  })),
];

// Where the reference falls short and we do not: I01–I03, I08, I09 of the list of wire checks.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { check } from '../lib/check.mjs';
import { unique } from '../lib/names.mjs';
import { within } from '../lib/wait.mjs';
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
];

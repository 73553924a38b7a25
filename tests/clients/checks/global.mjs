// Login, identity, envelopes: G01–G20 of the list of wire checks.

import assert from 'node:assert/strict';
import { check } from '../lib/check.mjs';
import { unique } from '../lib/names.mjs';
import { until } from '../lib/wait.mjs';

const AUTHENTICATION = 'global.errors.authentication.failure';
const DOMAINS = ['agm', 'activity', 'bus', 'context', 'global', 'metrics'];

export default [
  check('G01', 'hello and welcome', async ({ open, user }) => {
    const peer = await open('a');
    const identity = { application: 'app', instance: unique('instance'), x: { deep: [1, null] } };
    const welcome = await peer.hello({ user, identity, domain: 'global' });
    assert.equal(welcome.type, 'welcome');
    assert.equal(welcome.domain, 'global');
    assert.ok(welcome.peer_id && Number.isNaN(Number(welcome.peer_id)));
    const domains = Object.fromEntries(welcome.available_domains.map(({ uri, version }) => [uri, version]));
    for (const domain of DOMAINS.filter((name) => name !== 'context')) assert.equal(typeof domains[domain], 'number', domain);
    assert.equal(domains.context, 2);
    const resolved = welcome.resolved_identity;
    for (const key of Object.keys(identity)) assert.deepEqual(resolved[key], identity[key], key);
    assert.deepEqual([resolved.user, resolved.login], [user, user]);
    assert.equal(typeof resolved.machine, 'string');
    assert.equal(typeof welcome.options.access_token, 'string');
  }),

  check('G02', 'generated instances differ', async ({ login }) => {
    const [one, two] = [await login('a'), await login('b')];
    assert.ok(one.identity.instance && two.identity.instance);
    assert.notEqual(one.identity.instance, two.identity.instance);
    assert.notEqual(one.id, two.id);
  }),

  check('G03', '"?" becomes the peer id', async ({ login }) => {
    const peer = await login('a', { identity: { windowId: '?' } });
    assert.equal(peer.identity.windowId, peer.id);
  }),

  check('G04', 'user and login come from the authentication', async ({ login, user }) => {
    const { identity } = await login('a', { identity: { user: 'root', login: 'root' } });
    assert.deepEqual([identity.user, identity.login], [user, user]);
  }),

  ...[
    ['G05', 'a secret without its secret', { method: 'secret', login: 'somebody' }],
    ['G06', 'an unknown method', { method: 'zz', login: 'somebody', secret: 'x' }],
    ['G07', 'an unknown provider', { provider: 'win', method: 'access-token', token: 'eA==' }],
  ].map(([id, what, authentication]) => check(id, what, async ({ open }) => {
    const peer = await open('a');
    const reply = await peer.hello({ identity: { application: 'app' }, authentication });
    assert.equal(reply.type, 'error');
    assert.equal(reply.peer_id, null);
    assert.equal(reply.reason_uri, AUTHENTICATION);
  })),

  check('G08', 'an access token', async ({ open, user }) => {
    const [first, second] = [await open('a'), await open('a')];
    const { options } = await first.hello({ user, identity: { application: 'first' } });
    const token = options.access_token;
    const welcome = await second.hello({ identity: { application: 'second' }, authentication: { method: 'access-token', token } });
    assert.equal(welcome.type, 'welcome');
    assert.deepEqual([welcome.resolved_identity.user, welcome.resolved_identity.login], [user, user]);
    assert.equal(welcome.options.access_token, token);
  }),

  check('G09', 'an access token that is none', async ({ open }) => {
    const peer = await open('a');
    const reply = await peer.hello({ identity: { application: 'app' }, authentication: { method: 'access-token', token: 'x' } });
    assert.deepEqual([reply.type, reply.peer_id, reply.reason_uri], ['error', null, AUTHENTICATION]);
  }),

  check('G10', 'a gateway token', async ({ login, open, user }) => {
    const reply = await (await login('a')).request({ domain: 'global', type: 'create-token' });
    assert.deepEqual([reply.type, typeof reply.token], ['token', 'string']);
    const peer = await open('a');
    const authentication = { method: 'gateway-token', token: reply.token };
    const welcome = await peer.hello({ identity: { application: 'second', user: 'root', login: 'root' }, authentication });
    assert.equal(welcome.type, 'welcome');
    assert.equal(welcome.resolved_identity.user, user);
    assert.ok(!('options' in welcome), 'no options');
  }),

  check('G10', 'a gateway token tells no login', async ({ login, open }) => {
    const { token } = await (await login('a')).request({ domain: 'global', type: 'create-token' });
    const peer = await open('a');
    const { resolved_identity } = await peer.hello({ identity: { application: 'second' }, authentication: { method: 'gateway-token', token } });
    assert.ok(!('login' in resolved_identity));
  }),

  check('G11', 'a gateway token that is none', async ({ open }) => {
    const peer = await open('a');
    const reply = await peer.hello({ identity: { application: 'app' }, authentication: { method: 'gateway-token', token: 'x' } });
    assert.deepEqual([reply.type, reply.peer_id], ['error', null]);
  }),

  check('G12', 'an identical identity is refused, or takes over', async ({ open, user }) => {
    const identity = { application: 'app', instance: unique('instance') };
    const [first, second, third] = [await open('a'), await open('a'), await open('a')];
    assert.equal((await first.hello({ user, identity })).type, 'welcome');
    const reply = await second.hello({ user, identity });
    if (reply.type === 'error') {
      assert.equal(reply.reason_uri, 'global.errors.already_seen');
      await first.leaves();
    } else {
      // The newer one may supersede the older, which then may not stay behind unnoticed.
      assert.equal(reply.type, 'welcome');
      await first.closed;
      await second.leaves();
    }
    await until(async () => (await third.hello({ user, identity })).type === 'welcome', 2000, 'welcome after the other left');
  }),

  check('G13', 'a ping has no answer', async ({ login, nothing }) => {
    const peer = await login('a');
    peer.send({ type: 'ping' });
    peer.send({ type: 'ping', domain: 'agm' });
    peer.socket.send('{"type":"ping"}');
    await nothing(peer);
  }),

  check('G14', 'an unknown type', async ({ login }) => {
    const peer = await login('a');
    for (const domain of DOMAINS) {
      const reply = await peer.request({ domain, type: 'zzz' });
      assert.deepEqual([reply.type, reply.domain, reply.reason_uri], ['error', domain, `${domain}.errors.unhandled_message`]);
    }
  }),

  check('G15', 'an unknown type without a request id', async ({ login }) => {
    const peer = await login('a');
    peer.send({ domain: 'global', type: 'zzz' });
    await peer.match({ type: 'error', request_id: -1 });
  }),

  check('G16', 'an unknown domain', async ({ login }) => {
    const peer = await login('a');
    const reply = await peer.request({ domain: 'nope', type: 'join' });
    assert.deepEqual([reply.type, reply.domain, reply.reason_uri], ['error', 'nope', 'global.errors.failure']);
  }),

  check('G17', 'another’s peer id', async ({ pair, nothing }) => {
    const { server, client } = await pair();
    const methods = [{ id: '0', name: 'Stolen' }];
    const reply = await client.request({ domain: 'agm', type: 'register', methods, peer_id: server.id });
    assert.deepEqual([reply.type, reply.domain, reply.reason_uri], ['error', null, 'global.errors.failure']);
    assert.equal(reply.peer_id, server.id);
    await nothing(server, client);
  }),

  check('G18', 'join before hello', async ({ open }) => {
    const peer = await open('a');
    const reply = await peer.join('agm');
    assert.deepEqual([reply.type, reply.domain, reply.peer_id], ['error', 'global', null]);
    assert.equal(reply.reason_uri, 'global.errors.invalid_peer');
  }),

  check('G19', 'a second peer on one connection', async ({ login, user }) => {
    const peer = await login('a');
    const first = peer.id;
    const welcome = await peer.hello({ user, identity: { application: 'second', instance: unique('instance') } });
    assert.equal(welcome.type, 'welcome');
    assert.notEqual(welcome.peer_id, first);
    for (const id of [first, welcome.peer_id]) {
      const reply = await peer.join('agm', { peer_id: id });
      assert.deepEqual([reply.type, reply.peer_id], ['success', id]);
    }
    await peer.match({ type: 'peer-added', peer_id: first, new_peer_id: welcome.peer_id });
  }),

  check('G20', 'a numeric request id', async ({ login }) => {
    const peer = await login('a');
    const reply = await peer.request({ type: 'join', domain: 'global', destination: 'agm', request_id: 77 });
    assert.deepEqual([reply.type, reply.request_id], ['success', 77]);
  }),
];

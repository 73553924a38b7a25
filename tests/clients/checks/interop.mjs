// The domain agm: A01–A38 of the list of wire checks.

import assert from 'node:assert/strict';
import { check } from '../lib/check.mjs';
import { unique } from '../lib/names.mjs';

const agm = (type, more) => ({ domain: 'agm', type, ...more });
const call = (server, more) => agm('call', { server_id: server.id, method_id: '0', ...more });
const STREAM = { id: '0', name: 'Stream', flags: { streaming: true, metadata: {} } };
const GONE = 'agm.peer-removed';

/** A stream at the server to which the client has sent a subscribe; `interest` is what the server got. */
async function asked({ offered }, more) {
  const { server, client } = await offered(STREAM);
  return { server, client, ...(await ask(server, client, more)) };
}

async function ask(server, client, more) {
  const request_id = unique('subscribe');
  client.send(agm('subscribe', { server_id: server.id, method_id: '0', request_id, ...more }));
  const interest = await server.match(agm('add-interest'));
  return { interest, request_id, subscription: interest.subscription_id };
}

/** Like `asked`, and accepted on stream "0". */
async function accepted(world) {
  const { server, client, ...rest } = await asked(world);
  await accept(server, client, rest);
  return { server, client, ...rest };
}

async function accept(server, client, { subscription, request_id }, stream_id = '0') {
  server.send(agm('accepted', { subscription_id: subscription, stream_id, request_id: unique('accepted') }));
  return client.match(agm('subscribed', { request_id }));
}

export default [
  check('A01', 'join', async ({ login, nothing }) => {
    const peer = await login('a');
    for (const _ of [1, 2]) {
      const reply = await peer.join('agm');
      assert.deepEqual([reply.type, reply.domain, reply.peer_id], ['success', 'agm', peer.id]);
    }
    await nothing(peer);
  }),

  check('A02', 'join of an unknown domain', async ({ login }) => {
    const peer = await login('a');
    const reply = await peer.join('zz');
    // The notes ask for the destination domain where the reference answers under `global` (I15).
    assert.ok(['global', 'zz'].includes(reply.domain));
    assert.deepEqual([reply.type, reply.reason_uri], ['error', 'global.errors.invalid_domain']);
  }),

  check('A03', 'a joiner learns what is there', async ({ member, register, nothing, two }) => {
    const one = await member('agm', 'a');
    const methods = [{ id: '0', name: 'First' }, { id: '1', name: 'Second', flags: { streaming: true, metadata: { x: 1 } } }];
    await register(one, methods);
    // What is known on the joiner's node must be there before the joiner is.
    const witness = two ? await member('agm', 'b') : undefined;
    await witness?.match(agm('methods-added', { server_id: one.id }));
    await witness?.leave('agm');
    const other = await member('agm', 'b');
    const success = other.last;
    const [added, offered] = await other.sequence(
      agm('peer-added', { new_peer_id: one.id, peer_id: other.id }),
      agm('methods-added', { server_id: one.id, source_type: two ? 'peer' : 'local' }),
    );
    assert.ok(other.last < success, 'all of it before the success');
    assert.deepEqual(added.identity, one.identity);
    assert.deepEqual(added.meta, { local: !two });
    assert.deepEqual([...offered.methods].sort((x, y) => x.id - y.id), methods);
    const seen = await one.match(agm('peer-added', { new_peer_id: other.id }));
    assert.deepEqual(seen.identity, other.identity);
    if (!two) await nothing(one, other);
  }),

  check('A04', 'different users do not meet', async ({ member, register, nothing }) => {
    const one = await member('agm', 'a');
    const other = await member('agm', 'b', { user: unique('stranger') });
    await register(one, [{ id: '0', name: 'Secret' }]);
    await nothing(one, other);
  }),

  check('A05', 'register', async ({ pair, nothing }) => {
    const { server, client } = await pair();
    const methods = [{
      id: '0', name: 'Described', display_name: 'd', description: '\ud800 é', version: 3, object_types: ['T'],
      input_signature: 'int a', result_signature: '', flags: { streaming: false, metadata: { m: [] } }, foo: { bar: 1 }, '': null,
    }];
    const request_id = unique('register');
    server.send(agm('register', { methods, request_id }));
    await server.sequence(agm('methods-added', { server_id: server.id, methods }), agm('success', { request_id }));
    const added = await client.match(agm('methods-added', { server_id: server.id }));
    assert.deepEqual(added.methods, methods);
    await nothing(server, client);
  }),

  check('A06', 'unregister', async ({ offered, nothing }) => {
    const { server, client } = await offered();
    const request_id = unique('unregister');
    server.send(agm('unregister', { methods: ['0'], request_id }));
    await server.sequence(agm('methods-removed', { server_id: server.id, methods: ['0'] }), agm('success', { request_id }));
    await client.match(agm('methods-removed', { server_id: server.id, methods: ['0'] }));
    await nothing(server, client);
  }),

  check('A07', 'unregister of what is partly missing', async ({ offered, nothing }) => {
    const { server, client } = await offered();
    const reply = await server.request(agm('unregister', { methods: ['0', '9'] }));
    assert.deepEqual([reply.type, reply.reason_uri], ['error', 'agm.errors.unregistration.failure']);
    client.send(call(server, { request_id: unique('call') }));
    await server.match(agm('invoke', { method_id: '0' }));
    await nothing(server, client);
  }),

  check('A08', 'ids keep their JSON type', async ({ pair, register }) => {
    const { server } = await pair();
    await register(server, [{ id: '1', name: 'Text' }]);
    const reply = await server.request(agm('unregister', { methods: [1] }));
    assert.equal(reply.type, 'error');
  }),

  check('A09', 'a method for some', async (world) => {
    const server = await world.member('agm', 'a');
    const [some, others] = [await world.member('agm', 'b', { application: 'B' }), await world.member('agm', 'b', { application: 'C' })];
    const all = [server, some, others];
    for (const peer of all) {
      for (const other of all) if (other !== peer) await peer.match(agm('peer-added', { new_peer_id: other.id }));
    }
    const restricted = { id: '0', name: 'ForB', restrictions: "$application == 'B'" };
    const open = { id: '1', name: 'ForAll' };
    assert.equal((await server.request(agm('register', { methods: [restricted, open] }))).type, 'success');
    const idsOf = async (peer) => (await peer.match(agm('methods-added', { server_id: server.id }))).methods.map(({ id }) => id).sort();
    assert.deepEqual(await idsOf(server), ['0', '1'], 'the server itself');
    assert.deepEqual(await idsOf(some), ['0', '1'], 'application B');
    assert.deepEqual(await idsOf(others), ['1'], 'application C');
    const reply = await others.request(call(server));
    assert.deepEqual([reply.type, reply.reason_uri], ['error', 'agm.errors.invocation.failure']);
    some.send(call(server, { request_id: unique('call') }));
    await server.match(agm('invoke', { caller_id: some.id }));
    await world.nothing(...all);
  }),

  check('A10', 'a member for some', async (world) => {
    const wanted = await world.member('agm', 'b', { application: 'A' });
    const other = await world.member('agm', 'b', { application: 'C' });
    await wanted.match(agm('peer-added', { new_peer_id: other.id }));
    await other.match(agm('peer-added', { new_peer_id: wanted.id }));
    const shy = await world.login('a');
    const reply = await shy.join('agm', { restrictions: "$application == 'A'" });
    assert.equal(reply.type, 'success');
    await wanted.match(agm('peer-added', { new_peer_id: shy.id }));
    await shy.match(agm('peer-added', { new_peer_id: wanted.id }));
    await world.nothing(shy, wanted, other);
  }),

  check('A11', 'leave with a reason', async ({ offered, nothing }) => {
    const { server, client } = await offered();
    const reply = await server.leave('agm', { reason_uri: 'my.uri', reason: 'my reason' });
    assert.deepEqual([reply.type, reply.domain], ['success', 'agm']);
    await client.sequence(
      agm('methods-removed', { server_id: server.id }),
      agm('peer-removed', { removed_id: server.id, reason_uri: 'my.uri', reason: 'my reason' }),
    );
    await nothing(server, client);
  }),

  check('A12', 'disconnect', async ({ pair, nothing }) => {
    const { server, client } = await pair();
    server.close();
    await client.match(agm('peer-removed', { removed_id: server.id, reason_uri: GONE, reason: 'Peer has been removed' }));
    await nothing(client);
  }),

  check('A20', 'call, invoke, yield, result', async ({ offered, nothing }) => {
    const { server, client } = await offered();
    const request_id = unique('call');
    client.send(call(server, { arguments_kv: { a: 1, when: '#T42_DATE#5', '': null }, request_id }));
    const invoke = await server.match(agm('invoke'));
    assert.deepEqual({ ...invoke, invocation_id: 'some' }, {
      domain: 'agm', type: 'invoke', invocation_id: 'some', peer_id: server.id, method_id: '0', caller_id: client.id,
      arguments: null, arguments_kv: { a: 1, when: '#T42_DATE#5', '': null }, context: null,
    });
    const { invocation_id } = invoke;
    assert.notEqual(invocation_id, request_id);
    for (const sum of [3, 4]) server.send(agm('yield', { invocation_id, result: { sum }, request_id: unique('yield') }));
    const result = await client.match(agm('result', { request_id }));
    assert.deepEqual([result.result, result.peer_id], [{ sum: 3 }, client.id]);
    await nothing(server, client);
  }),

  check('A20', 'positional arguments, context, no result', async ({ offered }) => {
    const { server, client } = await offered();
    const request_id = unique('call');
    client.send(call(server, { arguments: [1, { x: [] }], context: { c: 1 }, request_id }));
    const { invocation_id } = await server.match(agm('invoke', { arguments: [1, { x: [] }], arguments_kv: null, context: { c: 1 } }));
    server.send(agm('yield', { invocation_id }));
    assert.equal((await client.match(agm('result', { request_id }))).result, null);
  }),

  check('A21', 'an error reply', async ({ offered, nothing }) => {
    const { server, client } = await offered();
    const request_id = unique('call');
    client.send(call(server, { request_id }));
    const { invocation_id } = await server.match(agm('invoke'));
    const error = { reason_uri: 'agm.errors.client_error', reason: 'not today', context: { returned: [1] } };
    server.send(agm('error', { request_id: invocation_id, ...error }));
    const reply = await client.match(agm('error', { request_id }));
    for (const [key, value] of Object.entries(error)) assert.deepEqual(reply[key], value, key);
    await nothing(server, client);
  }),

  check('A22', 'calls that go nowhere', async ({ offered, member, nothing, two }) => {
    const { server, client } = await offered();
    const stranger = await member('agm', 'b', { user: unique('stranger') });
    const uri = async (peer, message) => {
      const reply = await peer.request(message);
      assert.equal(reply.type, 'error');
      return reply.reason_uri;
    };
    const failure = 'agm.errors.invocation.failure';
    assert.equal(await uri(client, call(server, { method_id: '7' })), failure);
    assert.equal(await uri(client, call({ id: 'p-nobody' })), 'agm.errors.failure');
    assert.equal(await uri(client, call(server, { arguments: [1], arguments_kv: { x: 1 } })), failure);
    // A node need not know the servers of other users on other nodes at all.
    assert.ok([failure, two && 'agm.errors.failure'].includes(await uri(stranger, call(server))));
    await nothing(server, client, stranger);
  }),

  check('A23', 'calling oneself', async ({ member, register, nothing }) => {
    const peer = await member('agm', 'a');
    await register(peer, [{ id: '0', name: 'Self' }]);
    const request_id = unique('call');
    peer.send(call(peer, { request_id }));
    const { invocation_id } = await peer.match(agm('invoke', { caller_id: peer.id }));
    peer.send(agm('yield', { invocation_id, result: { me: true } }));
    assert.deepEqual((await peer.match(agm('result', { request_id }))).result, { me: true });
    await nothing(peer);
  }),

  check('A24', 'the callee disconnects', async ({ offered, nothing }) => {
    const { server, client } = await offered();
    const request_id = unique('call');
    client.send(call(server, { request_id }));
    await server.match(agm('invoke'));
    server.close();
    await client.sequence(
      agm('error', { request_id, reason_uri: 'agm.errors.invocation.failure' }),
      agm('methods-removed', { server_id: server.id, methods: ['0'] }),
      agm('peer-removed', { removed_id: server.id }),
    );
    await nothing(client);
  }),

  check('A25', 'unregister with a call pending', async ({ offered, nothing }) => {
    const { server, client } = await offered();
    const request_id = unique('call');
    client.send(call(server, { request_id }));
    const { invocation_id } = await server.match(agm('invoke'));
    await server.request(agm('unregister', { methods: ['0'] }));
    server.send(agm('yield', { invocation_id, result: { late: true } }));
    await client.sequence(agm('methods-removed', { server_id: server.id }), agm('result', { request_id, result: { late: true } }));
    await server.match(agm('methods-removed'));
    await nothing(server, client);
  }),

  check('A26', 'a yield of somebody else', async ({ offered, nothing }) => {
    const { server, client } = await offered();
    client.send(call(server, { request_id: unique('call') }));
    const { invocation_id } = await server.match(agm('invoke'));
    client.send(agm('yield', { invocation_id, result: { forged: true } }));
    await nothing(server, client);
  }),

  check('A27', 'an error for an unknown id', async ({ member }) => {
    const peer = await member('agm', 'a');
    const reply = await peer.request(agm('error', { request_id: unique('r-nothing'), reason: 'x' }));
    assert.equal(reply.reason_uri, 'agm.errors.subscription.invalid_subscription');
  }),

  check('A30', 'subscribe and accept', async (world) => {
    const { server, client, interest, subscription, ...request } = await asked(world, { arguments_kv: { q: 'x' } });
    assert.deepEqual(interest, {
      domain: 'agm', type: 'add-interest', subscription_id: subscription, peer_id: server.id, method_id: '0',
      caller_id: client.id, arguments: null, arguments_kv: { q: 'x' }, flags: null, context: null,
    });
    const subscribed = await accept(server, client, { subscription, ...request });
    assert.equal(typeof subscribed.subscription_id, 'string');
    await world.nothing(server, client);
  }),

  check('A31', 'reject', async (world) => {
    const { server, client, subscription, request_id } = await asked(world);
    const error = { reason_uri: 'com.tick42.agm.errors.subscription.failure', reason: 'no' };
    server.send(agm('error', { request_id: subscription, ...error }));
    await client.match(agm('error', { request_id, ...error }));
    await world.nothing(server, client);
  }),

  check('A32', 'publish to one of two streams', async (world) => {
    const { server, client, ...first } = await accepted(world);
    const other = await world.member('agm', 'b');
    await other.match(agm('methods-added', { server_id: server.id }));
    for (const peer of [server, client]) await peer.match(agm('peer-added', { new_peer_id: other.id }));
    await other.match(agm('peer-added', { new_peer_id: server.id }));
    await other.match(agm('peer-added', { new_peer_id: client.id }));
    const second = await ask(server, other);
    const bound = await accept(server, other, second, '1');
    server.send(agm('publish', { stream_id: '0', data: { to: 'first' } }));
    server.send(agm('publish', { stream_id: '1', data: { to: 'second' } }));
    server.send(agm('publish', { stream_id: '7', data: { to: 'nobody' } }));
    const event = await client.match(agm('event', { data: { to: 'first' } }));
    assert.deepEqual([event.oob, event.sequence, event.snapshot], [false, null, null]);
    assert.ok(first.subscription);
    await other.match(agm('event', { data: { to: 'second' }, subscription_id: bound.subscription_id }));
    await world.nothing(server, client, other);
  }),

  check('A33', 'post', async (world) => {
    const { server, client, subscription } = await accepted(world);
    server.send(agm('post', { subscription_id: subscription, data: { private: true }, sequence: 5, snapshot: true }));
    server.send(agm('post', { subscription_id: unique('r-nothing'), data: { lost: true } }));
    const event = await client.match(agm('event', { data: { private: true } }));
    assert.deepEqual([event.oob, event.sequence, event.snapshot], [true, 5, true]);
    await world.nothing(server, client);
  }),

  check('A34', 'drop before and after accept', async (world) => {
    const { server, client, subscription, request_id } = await asked(world);
    const drop = agm('drop-subscription', { subscription_id: subscription, reason: 'enough' });
    server.send(drop);
    await server.match(agm('error', { request_id: subscription }));
    const { subscription_id } = await accept(server, client, { subscription, request_id });
    server.send(drop);
    await client.match(agm('subscription-cancelled', { subscription_id, reason_uri: null, reason: 'enough' }));
    server.send(drop);
    await server.match(agm('error', { request_id: subscription }));
    await world.nothing(server, client);
  }),

  check('A35', 'unsubscribe', async ({ offered, nothing }) => {
    const { server, client } = await offered(STREAM);
    const asking = await ask(server, client);
    const { subscription_id } = await accept(server, client, asking);
    const unsubscribe = agm('unsubscribe', { subscription_id, reason_uri: '', reason: 'ClientInitiated' });
    assert.equal((await client.request(unsubscribe)).type, 'success');
    await server.match(agm('remove-interest', {
      subscription_id: asking.subscription, method_id: '0', caller_id: client.id, reason_uri: '', reason: 'ClientInitiated',
    }));
    const again = await client.request(unsubscribe);
    assert.deepEqual([again.type, again.reason_uri], ['error', 'agm.errors.subscription.invalid_subscription']);
    await nothing(server, client);
  }),

  check('A36', 'the subscriber disconnects', async (world) => {
    const { server, client, subscription } = await accepted(world);
    client.close();
    await server.sequence(
      agm('remove-interest', { subscription_id: subscription, caller_id: client.id }),
      agm('peer-removed', { removed_id: client.id }),
    );
    await world.nothing(server);
  }),

  check('A37', 'the server disconnects', async (world) => {
    const { server, client } = await accepted(world);
    server.close();
    await client.sequence(
      agm('subscription-cancelled', { reason_uri: GONE }),
      agm('methods-removed', { server_id: server.id, methods: ['0'] }),
      agm('peer-removed', { removed_id: server.id }),
    );
    await world.nothing(client);
  }),

  check('A38', 'a stream is unregistered', async (world) => {
    const { server, client } = await accepted(world);
    await server.request(agm('unregister', { methods: ['0'] }));
    await client.sequence(
      agm('subscription-cancelled', { reason_uri: 'agm.method-removed' }),
      agm('methods-removed', { server_id: server.id, methods: ['0'] }),
    );
    await server.match(agm('methods-removed'));
    await world.nothing(server, client);
  }),
];

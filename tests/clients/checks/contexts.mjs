// Contexts under the domain global: C01–C05, C10–C32 of the list of wire checks.
//
// A context has an id per node, so each peer uses the one that it was told.

import assert from 'node:assert/strict';
import { isDeepStrictEqual } from 'node:util';
import { check } from '../lib/check.mjs';
import { show } from '../lib/raw.mjs';
import { unique } from '../lib/names.mjs';
import { sleep, until } from '../lib/wait.mjs';

const global = (type, more) => ({ domain: 'global', type, ...more });
const NOT_FOUND = /^Unable to find context with id/;

/** Creates a context; the reply is `context-created`, or `subscribed-context` if it exists. */
export function create(peer, name, data, more) {
  return peer.request(global('create-context', { name, data, lifetime: 'retained', ...more }));
}

/** Creates a context that is new and resolves with the creator's id of it. */
export async function created(peer, name, data, more) {
  const reply = await create(peer, name, data, more);
  if (reply.type !== 'context-created') throw new Error(`not created: ${show(reply)}`);
  await announced(peer, name);
  return reply.context_id;
}

/** Resolves with the id of a context once the peer has been told of it. */
export async function announced(peer, name) {
  return (await peer.match(global('context-added', { name }))).context_id;
}

export const subscribe = (peer, context_id) => peer.request(global('subscribe-context', { context_id }));
export const update = (peer, context_id, delta) => peer.request(global('update-context', { context_id, delta }));
export const destroy = (peer, context_id) => peer.request(global('destroy-context', { context_id }));
const unsubscribe = (peer, context_id) => peer.request(global('unsubscribe-context', { context_id }));

/** A context made at `a`, with its creator and a peer at `b` that has been told of it. */
export async function shared({ login, named }, data, more) {
  const [one, two] = [await login('a'), await login('b')];
  const name = named('context');
  const mine = await created(one, name, data, more);
  const yours = await announced(two, name);
  return { one, two, mine, yours, name };
}

/** A peer at `a`, and two at `b` of the applications B and C. */
async function readers({ login }) {
  return [await login('a'), await login('b', { application: 'B' }), await login('b', { application: 'C' })];
}

/** Asserts that sooner or later a peer reads `wanted`; on its own node that is at once. */
export async function reads(peer, context_id, wanted) {
  let data;
  await until(async () => {
    ({ data } = await subscribe(peer, context_id));
    return isDeepStrictEqual(data, wanted);
  }, 3000, 'the value').catch(() => assert.deepEqual(data, wanted));
}

/** A delta, or several, and what must be stored afterwards. */
const STATES = [
  ['C10', 'added replaces', { o: { a: 1, b: 2 } }, [{ added: { o: { c: 3 } } }], [{ o: { c: 3 } }]],
  ['C11', 'updated merges one level', { o: { a: { x: 1 }, b: 2 } }, [{ updated: { o: { a: { y: 1 } } } }], [{ o: { a: { y: 1 }, b: 2 } }]],
  ['C12', 'updated replaces an array', { o: [1, 2] }, [{ updated: { o: [3] } }], [{ o: [3] }]],
  ['C13', 'removed', { a: 1, b: 2 }, [{ removed: ['a', 'zz'] }], [{ b: 2 }]],
  ['C14', 'reset', { a: 1 }, [{ reset: { z: 1 } }], [{ z: 1 }]],
  ['C15', 'a null reset is nothing', { a: 1 }, [{ reset: null }], [{ a: 1 }]],
  ['C16', 'set makes parents', { a: 5 },
    [{ commands: [{ type: 'set', path: 'a.b.c', value: 1 }, { type: 'set', path: 'x', value: [1] }] }],
    [{ a: { b: { c: 1 } }, x: [1] }]],
  ['C17', 'remove keeps parents', { a: { b: 1 }, c: 1 },
    [{ commands: [{ type: 'remove', path: 'a.b' }, { type: 'remove', path: 'c' }] }], [{ a: {} }]],
  ['C18', 'the empty path is the root', { a: 1 },
    [{ commands: [{ type: 'set', path: '', value: { z: 1 } }] }, { commands: [{ type: 'remove', path: '' }] }],
    [{ z: 1 }, {}]],
  ['C19', 'all parts together', { r: 1 },
    [{ added: { k: 1 }, updated: { k: 2 }, removed: ['r'], commands: [{ type: 'set', path: 'k', value: 3 }] }], [{ k: 3 }]],
];

export default [
  check('C01', 'create', async ({ login, named, nothing }) => {
    const [one, two] = [await login('a'), await login('b')];
    const name = named('context');
    const request_id = unique('create');
    one.send(global('create-context', { name, data: { x: 1 }, lifetime: 'retained', request_id }));
    const [added, made] = await one.sequence(
      global('context-added', { name, creator_id: one.id }),
      global('context-created', { request_id }),
    );
    assert.equal(added.context_id, made.context_id);
    const { context_id, creator_id } = await two.match(global('context-added', { name }));
    assert.equal(creator_id, one.id);
    await update(two, context_id, { added: { y: 2 } });
    await one.match(global('context-updated', { context_id: made.context_id, updater_id: two.id }));
    await nothing(one, two);
  }),

  check('C02', 'create what exists', async (world) => {
    const { one, two, mine, yours, name } = await shared(world, { first: 1 });
    const reply = await create(two, name, { first: 1 });
    assert.equal(reply.type, 'subscribed-context');
    assert.equal(reply.context_id, yours);
    assert.deepEqual(reply.data, { first: 1 });
    await update(one, mine, { added: { more: 2 } });
    await two.match(global('context-updated', { context_id: yours }));
    await reads(two, yours, { first: 1, more: 2 });
    await world.nothing(one, two);
  }),

  check('C02', 'create what exists with other data', async (world) => {
    const { one, two, mine, name } = await shared(world, { first: 1 });
    const reply = await create(two, name, { second: 2 });
    assert.equal(reply.data.first, 1, 'what was there is in the reply');
    await reads(one, mine, { first: 1 });
  }),

  check('C03', 'one name, two users', async ({ login, named, nothing }) => {
    const [one, other] = [await login('a'), await login('b', { user: unique('stranger') })];
    const name = named('context');
    const [mine, theirs] = [await created(one, name, { of: 'one' }), await created(other, name, { of: 'other' })];
    assert.notEqual(mine, theirs);
    await reads(one, mine, { of: 'one' });
    await reads(other, theirs, { of: 'other' });
    await nothing(one, other);
  }),

  check('C04', 'a late joiner is told first', async (world) => {
    const { name } = await shared(world, {});
    const late = await world.open('b');
    late.send({ type: 'hello', identity: { application: 'late' }, authentication: { method: 'secret', login: world.user, secret: '' }, request_id: 'hello' });
    const welcome = await late.match({ type: 'welcome' });
    const at = late.last;
    late.id = welcome.peer_id;
    await late.join('agm');
    const joined = late.last;
    await late.match(global('context-added', { name }));
    assert.ok(at < late.last && late.last < joined, 'between the welcome and the first reply');
  }),

  check('C05', 'update (B-CX-11)', async (world) => {
    const { one, two, mine, yours } = await shared(world, { x: 1 });
    const member = await world.login('b');
    await announced(member, world.named('context'));
    await subscribe(member, yours);
    const delta = { added: {}, updated: {}, removed: [], commands: [{ type: 'set', path: 'x', value: 2 }] };
    const reply = await update(one, mine, delta);
    assert.deepEqual([reply.type, reply.domain, reply.peer_id], ['success', 'global', one.id]);
    const updated = await member.match(global('context-updated', { context_id: yours }));
    assert.equal(updated.updater_id, one.id);
    if (!world.two) assert.deepEqual(updated.delta, delta);
    await reads(member, yours, { x: 2 });
    await world.nothing(one, two, member);
  }),

  ...STATES.map(([id, what, init, deltas, wanted]) => check(id, what, async (world) => {
    const { one, two, mine, yours } = await shared(world, init);
    for (const [index, delta] of deltas.entries()) {
      assert.equal((await update(one, mine, delta)).type, 'success');
      await reads(one, mine, wanted[index]);
      await reads(two, yours, wanted[index]);
    }
  })),

  check('C20', 'a delta is forwarded as it is', async ({ login, named, nothing }) => {
    const [one, two] = [await login('a'), await login('a')];
    const name = named('context');
    const id = await created(one, name, { x: 1 });
    await subscribe(two, await announced(two, name));
    const delta = { commands: [{ type: 'set', path: 'x', value: { '': null } }], unknown: { keys: ['too'] } };
    await update(one, id, delta);
    assert.deepEqual((await two.match(global('context-updated'))).delta, delta);
    await nothing(one, two);
  }),

  check('C21', 'an unknown id', async ({ login }) => {
    const peer = await login('a');
    for (const request of [subscribe, destroy, unsubscribe, (who, id) => update(who, id, { added: { x: 1 } })]) {
      const reply = await request(peer, 'nope');
      assert.deepEqual([reply.type, reply.domain], ['error', 'global']);
      const known = reply.reason_uri === 'global.errors.invalid_context';
      assert.ok(known || (reply.reason_uri === 'global.errors.failure' && NOT_FOUND.test(reply.reason)), show(reply));
    }
  }),

  check('C22', 'unsubscribe', async (world) => {
    const { one, two, mine, yours } = await shared(world, { x: 1 });
    await subscribe(two, yours);
    await update(one, mine, { added: { x: 2 } });
    await two.match(global('context-updated'));
    for (const _ of [1, 2]) assert.equal((await unsubscribe(two, yours)).type, 'success');
    await update(one, mine, { added: { x: 3 } });
    await world.nothing(one, two);
  }),

  check('C23', 'destroy by somebody else', async (world) => {
    const { one, two, mine, yours } = await shared(world, {});
    const request_id = unique('destroy');
    two.send(global('destroy-context', { context_id: yours, request_id }));
    await two.sequence(global('context-destroyed', { context_id: yours }), global('success', { request_id }));
    await one.match(global('context-destroyed', { context_id: mine, reason_uri: 'global.destroyed' }));
    await world.nothing(one, two);
  }),

  check('C24', 'ownership', async (world) => {
    const { one, two, yours } = await shared(world, { x: 1 }, { lifetime: 'ownership' });
    assert.equal((await destroy(two, yours)).reason_uri, 'global.errors.not_authorized');
    assert.equal((await update(two, yours, { added: { x: 2 } })).type, 'success');
    await one.match(global('context-updated'));
    one.close();
    await two.match(global('context-destroyed', { context_id: yours, reason_uri: 'context.peer-left' }));
  }),

  check('C25', 'ref-counted', async (world) => {
    const { one, two, yours } = await shared(world, { x: 1 }, { lifetime: 'ref-counted' });
    const onlooker = await world.login('b');
    await announced(onlooker, world.named('context'));
    await subscribe(two, yours);
    // A member on another node is counted a moment later.
    if (world.two) await sleep(300);
    one.close();
    await world.nothing(onlooker);
    await reads(two, yours, { x: 1 });
    await unsubscribe(two, yours);
    await two.match(global('context-destroyed', { context_id: yours }));
    await onlooker.match(global('context-destroyed', { context_id: yours }));
  }),

  check('C26', 'retained survives its creator', async (world) => {
    const { one, two, yours, name } = await shared(world, { x: 1 });
    await one.leaves();
    await world.nothing(two);
    await reads(two, yours, { x: 1 });
    const late = await world.login('a');
    await reads(late, await announced(late, name), { x: 1 });
  }),

  check('C27', 'lifetimes that do not exist', async ({ login, named, nothing }) => {
    const peer = await login('a');
    for (const lifetime of ['weird', 'activity', null]) {
      const reply = await create(peer, named(String(lifetime)), {}, { lifetime });
      assert.deepEqual([reply.type, reply.reason_uri], ['error', 'global.errors.bad_lifetime'], lifetime);
    }
    await nothing(peer);
  }),

  check('C28', 'a context that some may read', async (world) => {
    const [owner, some, others] = await readers(world);
    const name = world.named('context');
    const mine = await created(owner, name, { x: 1 }, { read_permissions: "$application == 'B'" });
    const theirs = await announced(some, name);
    assert.deepEqual((await subscribe(some, theirs)).data, { x: 1 });
    // Ids of contexts are a node's own, so on two nodes this one may be unknown.
    const uris = ['global.errors.not_authorized', ...(world.two ? ['global.errors.failure'] : [])];
    assert.ok(uris.includes((await subscribe(others, mine)).reason_uri));
    assert.equal((await create(others, name, {})).reason_uri, 'global.errors.not_authorized');
    await world.nothing(owner, some, others);
  }),

  check('C29', 'a context that some may write', async (world) => {
    const [owner, some, others] = await readers(world);
    const name = world.named('context');
    await created(owner, name, { x: 1 }, { write_permissions: "$application == 'B'" });
    const [ofSome, ofOthers] = [await announced(some, name), await announced(others, name)];
    for (const request of [(peer, id) => update(peer, id, { added: { x: 2 } }), destroy]) {
      assert.equal((await request(others, ofOthers)).reason_uri, 'global.errors.not_authorized');
    }
    assert.equal((await update(some, ofSome, { added: { x: 3 } })).type, 'success');
    await reads(others, ofOthers, { x: 3 });
    await owner.match(global('context-updated', { updater_id: some.id }));
    await world.nothing(owner, some);
  }),

  check('C30', 'permissions that make no sense', async (world) => {
    const peer = await world.login('a');
    const reply = await create(peer, world.named('context'), {}, { read_permissions: '(((' });
    assert.deepEqual([reply.type, reply.domain, reply.reason_uri], ['error', 'global', 'global.errors.failure']);
    await world.nothing(peer);
  }),

  check('C31', 'data comes back unchanged', async (world) => {
    const data = {
      when: '#T42_DATE#1234567890123', empty: {}, none: [], nothing: null, '': { '': '' }, 'a.b': { 'c.d': [null, {}, []] },
      text: '\u2028 🦀 \u0000 \ud800', numbers: [0, -1.5, 1e300, 9007199254740991], yes: true, __proto: {}, length: 1,
    };
    const { one, two, mine, yours } = await shared(world, data);
    for (const [peer, id] of [[one, mine], [two, yours]]) assert.deepEqual((await subscribe(peer, id)).data, data);
  }),

  check('C32', 'a context made in a call is known before its result', async (world) => {
    const { server, client } = await world.offered();
    for (let round = 0; round < 20; round += 1) {
      const name = world.named(`round-${round}`);
      const request_id = unique('call');
      client.send({ domain: 'agm', type: 'call', server_id: server.id, method_id: '0', request_id });
      const { invocation_id } = await server.match({ type: 'invoke' });
      await created(server, name, { round });
      server.send({ domain: 'agm', type: 'yield', invocation_id, result: { round } });
      await client.sequence(global('context-added', { name }), { type: 'result', request_id });
    }
  }),
];

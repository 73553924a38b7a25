// Logging in, being known by the right name, and being turned away.

import assert from 'node:assert/strict';
import { scenario } from '../lib/scenario.mjs';
import { sees, seesServer } from '../lib/interop.mjs';

export default [
  scenario('E01 user name and password', async ({ connect, user, unique }) => {
    for (const place of ['a', 'b']) {
      const application = unique('named');
      const { interop, connection } = await connect(place, { application });
      const { instance } = interop;
      assert.equal(instance.user, user);
      assert.equal(instance.application, application);
      assert.equal(instance.applicationName, application);
      assert.equal(instance.pid, process.pid);
      for (const key of ['machine', 'instance', 'peerId']) {
        assert.equal(typeof instance[key], 'string', key);
        assert.ok(instance[key], key);
      }
      assert.ok(Number.isNaN(Number(instance.peerId)), 'a peer id does not look like a number');
      assert.equal(connection.peerId, instance.peerId);
    }
  }),

  scenario('two of one application differ', async ({ connect, unique }) => {
    const application = unique('twin');
    const all = await Promise.all(['a', 'b', 'a', 'b'].map((place) => connect(place, { application })));
    for (const key of ['instance', 'peerId']) {
      assert.equal(new Set(all.map(({ interop }) => interop.instance[key])).size, 4, key);
    }
  }),

  scenario('an instance of one’s own choice', async ({ connect, unique, until }) => {
    const instance = unique('instance');
    const named = await connect('a', { identity: { instance } });
    assert.equal(named.interop.instance.instance, instance);
    const other = await connect('b');
    await until(() => other.interop.servers().some((server) => server.instance === instance));
  }),

  scenario('own identity keys travel', { libs: ['io'] }, async ({ connect, until }) => {
    const one = await connect('a', { identity: { desk: 'FX', floor: 7, region: 'EMEA' } });
    const other = await connect('b');
    const server = await until(() => other.interop.servers().find(({ peerId }) => peerId === one.interop.instance.peerId));
    assert.deepEqual([server.desk, server.floor, server.region], ['FX', 7, 'EMEA']);
  }),

  scenario('B-X-3 the claimed user is not believed', async ({ connect, user, until }) => {
    const liar = await connect('a', { identity: { user: 'root', login: 'root' } });
    assert.equal(liar.interop.instance.user, user);
    const other = await connect('b');
    const server = await until(() => other.interop.servers().find(({ peerId }) => peerId === liar.interop.instance.peerId));
    assert.equal(server.user, user);
  }),

  scenario('B-X-3 the claimed machine is not believed', { libs: ['io'] }, async ({ connect, until }) => {
    const [honest, liar] = [await connect('a'), await connect('a', { identity: { machine: 'elsewhere' } })];
    const other = await connect('b');
    const server = await until(() => other.interop.servers().find(({ peerId }) => peerId === liar.interop.instance.peerId));
    for (const { machine } of [liar.interop.instance, server]) assert.equal(machine, honest.interop.instance.machine);
  }),

  scenario('B-X-3 two nodes are two machines', { only: 'two' }, async ({ pair, until }) => {
    const [one, two] = await pair();
    await until(() => seesServer(one, two) && seesServer(two, one));
    assert.notEqual(one.interop.instance.machine, two.interop.instance.machine);
    for (const [client, other] of [[one, two], [two, one]]) {
      const { peerId, machine, user } = other.interop.instance;
      const seen = client.interop.servers().find((server) => server.peerId === peerId);
      assert.deepEqual([seen.machine, seen.user], [machine, user]);
    }
  }),

  ...[
    ['a made-up token', { token: 'x' }],
    ['a bare string', 'x'],
    ['an unknown provider', { provider: 'nobody-knows', providerContext: { x: 1 } }],
    ['a made-up gateway token', { gatewayToken: 'x' }],
  ].map(([what, auth]) => scenario(`E03 ${what} is turned away`, async ({ refused, connect, unique }) => {
    for (const place of ['a', 'b']) await refused(place, { auth, application: unique('intruder') });
    await connect('a');
  })),

  scenario('E01 without bus, metrics or contexts', async ({ connect }) => {
    for (const place of ['a', 'b']) {
      const { interop } = await connect(place, { bus: false, metrics: false, contexts: false });
      assert.ok(interop.instance.peerId);
    }
  }),

  scenario('E01 metrics are accepted', async ({ connect, unique }) => {
    const client = await connect('a', { metrics: true });
    const system = client.metrics.subSystem(unique('sub'), 'a sub-system');
    system.numberMetric('count', 1).incrementBy(2);
    system.objectMetric('object', { when: new Date() }).update({ x: 1 });
    await client.interop.register(unique('StillThere'), () => {});
  }),

  scenario('any path and query', async ({ connect, urls, user }) => {
    for (const path of ['/', '/gw', '/deep/er/path?with=query&x=%20']) {
      const { interop } = await connect('a', { url: new URL(path, urls.a).href });
      assert.equal(interop.instance.user, user);
    }
  }),

  scenario('a client that is done is gone', async ({ pair, leave, until }) => {
    const [one, two] = await pair();
    await until(() => seesServer(two, one));
    await leave(one);
    await until(() => !seesServer(two, one), 3000, 'gone');
  }),

  scenario('users do not see each other', async ({ connect, unique, until }) => {
    const stranger = await connect('b', { user: unique('stranger') });
    const added = [];
    stranger.interop.serverAdded(({ instance }) => added.push(instance));
    const [one, friend] = [await connect('a'), await connect('b')];
    const [method, context] = [unique('Method'), unique('context')];
    await one.interop.register(method, () => {});
    await one.contexts.set(context, { secret: true });
    // What a friend on the stranger's node knows, the stranger's node knows.
    await until(() => sees(friend, method) && friend.contexts.all().includes(context));
    await stranger.interop.register(unique('Fence'), () => {});
    assert.ok(!sees(stranger, method));
    assert.ok(!seesServer(stranger, one) && !seesServer(stranger, friend));
    assert.ok(!stranger.contexts.all().includes(context));
    assert.ok(!added.includes(one.interop.instance.instance));
    assert.ok(!seesServer(one, stranger));
  }),

  scenario('a stranger who comes later sees nothing either', async ({ connect, unique, until }) => {
    const [one, friend] = [await connect('a'), await connect('b')];
    const [method, context] = [unique('Method'), unique('context')];
    await one.interop.register(method, () => {});
    await one.contexts.set(context, { secret: true });
    await until(() => sees(friend, method) && friend.contexts.all().includes(context));
    for (const place of ['a', 'b']) {
      const stranger = await connect(place, { user: unique('stranger') });
      assert.ok(!sees(stranger, method));
      assert.ok(!stranger.contexts.all().includes(context), 'the context name');
      assert.deepEqual(await stranger.contexts.get(context), {}, 'the context value');
    }
  }),

  scenario('B-CX-14 one context name, two users, two contexts', async ({ connect, unique, until }) => {
    const others = unique('other');
    const name = unique('context');
    const [mine, theirs] = [await connect('a'), await connect('b', { user: others })];
    await Promise.all([mine.contexts.set(name, { of: 'mine' }), theirs.contexts.set(name, { of: 'theirs' })]);
    await mine.contexts.update(name, { more: 1 });
    const [myFriend, theirFriend] = [await connect('b'), await connect('a', { user: others })];
    await until(() => [myFriend, theirFriend].every(({ contexts }) => contexts.all().includes(name)));
    assert.deepEqual(await myFriend.contexts.get(name), { of: 'mine', more: 1 });
    assert.deepEqual(await theirFriend.contexts.get(name), { of: 'theirs' });
  }),
];

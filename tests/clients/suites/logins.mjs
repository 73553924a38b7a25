// Logging in where programs decide: nodes that have `authenticator.mjs` for `win`, `corp` and `basic`.

import assert from 'node:assert/strict';
import { inspect } from 'node:util';
import { scenario } from '../lib/scenario.mjs';
import { startProxy } from '../lib/proxy.mjs';

const decoded = (token) => Buffer.from(token, 'base64').toString();

/** What an app gives its library to log in as Windows would, with two challenges. */
function windows(user, seen = []) {
  let rounds = 0;
  return {
    flowName: 'sspi',
    sessionId: 'negotiation',
    async flowCallback(_session, token) {
      if (!token) return { data: Buffer.from('start') };
      seen.push(token.toString());
      const [, nonce] = token.toString().split(' ');
      rounds += 1;
      return { data: Buffer.from(rounds % 2 ? `again ${nonce}` : `proof ${nonce} ${user}`) };
    },
  };
}

const password = (user) => ({ username: user, password: [...user].reverse().join('') });

export default [
  scenario('challenges, until the proof', async ({ connect, user }) => {
    const seen = [];
    const client = await connect('a', { auth: windows(user, seen) });
    assert.equal(client.interop.instance.user, user);
    assert.deepEqual(seen.map((token) => token.split(' ')[0]), ['start', 'again']);
    const other = await connect('b', { auth: { provider: 'corp', providerContext: { name: user, ticket: 'valid' } } });
    await client.interop.register('Login.Hello', () => ({ hello: user }));
    await waitForMethod(other, 'Login.Hello');
    const { returned } = await other.interop.invoke('Login.Hello');
    assert.deepEqual(returned, { hello: user });
  }),

  scenario('a wrong proof', async (world) => {
    const flowCallback = async (_session, token) => ({ data: Buffer.from(token ? 'proof nonsense x' : 'start') });
    const auth = { ...windows('x'), flowCallback };
    await says(world, 'a', { auth }, /not what was asked/);
  }),

  scenario('a provider with a context', async (world) => {
    const { connect, user } = world;
    const auth = (ticket) => ({ provider: 'corp', providerContext: { name: user, ticket } });
    const client = await connect('a', { auth: auth('valid') });
    assert.equal(client.interop.instance.user, user);
    await says(world, 'a', { auth: auth('old') }, /ticket old is not valid/);
    await says(world, 'a', { auth: auth('slow') }, /authentication_timeout_ms/);
    await says(world, 'a', { auth: { provider: 'other', providerContext: {} } }, /no authentication provider `other`/);
  }),

  scenario('a service by its provider', async ({ connect, unique }) => {
    const auth = (name, service) => ({ provider: 'corp', providerContext: { name, ticket: 'valid', service } });
    const method = unique('Service');
    const service = await connect('a', { auth: auth('services', true) });
    await service.interop.register(method, () => ({ ok: true }));
    const client = await connect('b', { auth: auth(unique('somebody')) });
    await waitForMethod(client, method);
    assert.deepEqual((await client.interop.invoke(method)).returned, { ok: true });
  }),

  scenario('passwords that are looked at', async (world) => {
    const { connect, user, urls, onClose, until } = world;
    await says(world, 'b', { auth: { username: user, password: 'any' } }, /wrong password/);
    const proxy = await startProxy(urls.b);
    onClose(() => proxy.close());
    const client = await connect('b', { url: proxy.url, auth: password(user), gateway: { reconnectInterval: 300 } });
    assert.equal(decoded(client.connection.token), `mine ${user}`);
    const { peerId } = client.interop.instance;
    proxy.drop();
    await until(() => client.interop.instance.peerId !== peerId, 5000, 'logged in again');
    const again = await connect('a', { auth: { token: client.connection.token } });
    assert.equal(again.interop.instance.user, user);
    const gatewayToken = await client.connection.authToken();
    assert.equal((await connect('b', { auth: { gatewayToken } })).interop.instance.user, user);
    await says(world, 'a', { auth: { token: 'eA==' } }, /not a token of mine/);
  }),
];

/** Is turned away, for a reason that `@interopio/core` passes on and `@glue42/core` does not. */
async function says(world, place, options, reason) {
  const error = await world.refused(place, options);
  if (world.libs[place] === 'io') assert.match(inspect(error, { depth: 8 }), reason);
}

async function waitForMethod(client, name) {
  const found = () => client.interop.methods({ name }).length > 0;
  if (found()) return;
  await new Promise((resolve) => {
    const stop = client.interop.methodAdded((method) => {
      if (method.name === name) {
        stop();
        resolve();
      }
    });
  });
}

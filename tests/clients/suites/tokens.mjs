// Logging in with what a node has handed out.

import assert from 'node:assert/strict';
import { scenario } from '../lib/scenario.mjs';
import { startProxy } from '../lib/proxy.mjs';

export default [
  scenario('E02 an access token', async ({ connect, user }) => {
    const first = await connect('a');
    const { token } = first.connection;
    assert.equal(typeof token, 'string');
    const second = await connect('a', { auth: { token } });
    assert.equal(second.interop.instance.user, user);
    const third = await connect('a', { auth: token });
    assert.equal(third.interop.instance.user, user);
  }),

  scenario('E02 a gateway token', async ({ connect, user }) => {
    const first = await connect('a');
    const gatewayToken = await first.connection.authToken();
    const second = await connect('a', { auth: { gatewayToken } });
    assert.equal(second.interop.instance.user, user);
  }),

  scenario('an access token is good for the return', async ({ connect, urls, onClose, until, user }) => {
    const proxy = await startProxy(urls.b);
    onClose(() => proxy.close());
    const first = await connect('b');
    const auth = { token: first.connection.token };
    const client = await connect('b', { url: proxy.url, auth, gateway: { reconnectInterval: 300 } });
    const { peerId } = client.interop.instance;
    proxy.drop();
    await until(() => client.interop.instance.peerId !== peerId, 5000, 'logged in again');
    assert.equal(client.interop.instance.user, user);
  }),
];

// How apps connect, who they are then, and what wrong bytes do.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { check } from '../lib/check.mjs';
import { ORIGIN, urlOf } from '../lib/directory.mjs';
import { answerTo } from '../lib/socket.mjs';
import { aWhile, hears, reports } from '../lib/world.mjs';

/** All requests of 2.2 that have a response. */
const REQUESTS = [
  'addContextListener', 'addEventListener', 'addIntentListener', 'broadcast', 'contextListenerUnsubscribe', 'createPrivateChannel',
  'eventListenerUnsubscribe', 'findInstances', 'findIntent', 'findIntentsByContext', 'getAppMetadata', 'getCurrentChannel',
  'getCurrentContext', 'getInfo', 'getOrCreateChannel', 'getUserChannels', 'intentListenerUnsubscribe', 'intentResult',
  'joinUserChannel', 'leaveCurrentChannel', 'open', 'privateChannelAddEventListener', 'privateChannelDisconnect',
  'privateChannelUnsubscribeEventListener', 'raiseIntent', 'raiseIntentForContext',
].map((name) => `${name}Request`);

/** Values that are right nowhere. */
const WRONG = [null, 7, 'text', [], [{}], true];
const FIELDS = ['app', 'channelId', 'context', 'contextType', 'intent', 'intentResult', 'listenerType', 'listenerUUID', 'metadata', 'privateChannelId', 'raiseIntentRequestUuid', 'type'];

/** Asserts that two other apps go on as if nothing had happened while `body` runs. */
async function unnoticed(world, body) {
  const [one, two] = [await world.connect('a', 'test-one'), await world.connect('b', 'test-two')];
  const name = world.unique('bystanders');
  const [from, to] = [await one.agent.getOrCreateChannel(name), await two.agent.getOrCreateChannel(name)];
  await world.linked(from, to);
  const seen = await hears(to);
  const before = [one, two].map(({ socket }) => socket.frames.length);
  await body();
  for (const [index, { socket }] of [one, two].entries()) {
    const since = socket.frames.slice(before[index]).map(({ message }) => message.type);
    assert.deepEqual(since.filter((type) => type !== 'heartbeatEvent'), [], 'what bystanders heard meanwhile');
  }
  await from.broadcast({ type: 'x.still', here: true });
  await world.until(() => seen.length);
  assert.deepEqual(seen, [{ type: 'x.still', here: true }]);
}

/** Resolves once the node has either answered `request` or ended the connection. */
function answeredOrClosed(socket, response) {
  return Promise.race([response.then(({ payload }) => payload, () => socket.closed), socket.closed]);
}

export default [
  check('15', 'an app is told who it is', async (world) => {
    const app = await world.connect('a', 'test-two');
    assert.equal(app.id.appId, 'test-two');
    const { appMetadata, provider, fdc3Version, optionalFeatures } = await app.agent.getInfo();
    assert.equal(appMetadata.appId, 'test-two');
    assert.equal(appMetadata.instanceId, app.id.instanceId);
    assert.ok(provider);
    assert.match(fdc3Version, /^\d+\.\d+/);
    assert.equal(optionalFeatures.UserChannelMembershipAPIs, true);
  }),

  check('15', 'a URL that no record has is refused', async (world) => {
    for (const identityUrl of ['http://evil.example/', `${ORIGIN}/nowhere`, `${ORIGIN}/two`, 'no URL']) {
      const { reason } = await world.rejection(world.connect('a', 'test-one', { identity: { identityUrl } }));
      assert.match(reason, /refused/, identityUrl);
    }
  }),

  check('15', 'an app that a full node does not take is told which limit is reached', { raw: true, needs: 'full' }, async (world) => {
    // The desktop agent's own session is the third.
    const [one] = [await world.raw('a', 'test-one'), await world.raw('a', 'test-two')];
    const identityUrl = urlOf('test-three');
    const late = await world.socket('a');
    const answered = late.next(({ type }) => type.startsWith('WCP5'));
    late.post({ type: 'WCP4ValidateAppIdentity', meta: { connectionAttemptUuid: 'late', timestamp: new Date() }, payload: { identityUrl, actualUrl: identityUrl } });
    const { type, meta, payload } = await answered;
    assert.equal(type, 'WCP5ValidateAppIdentityFailedResponse');
    assert.equal(meta.connectionAttemptUuid, 'late');
    assert.match(payload.message, /sessions_per_user_max \(3\)/);
    assert.equal(await late.closed, 1008);
    one.socket.close();
    await world.until(() => world.raw('a', 'test-three').catch(() => undefined));
  }),

  check('15', 'after a lost connection an app keeps its instance id', async (world) => {
    const app = await world.connect('a', 'test-one');
    const { instanceId, instanceUuid } = app.id;
    await app.kill();
    const again = await world.until(async () => {
      const back = await world.connect('a', 'test-one', { identity: { instanceId, instanceUuid } });
      if (back.id.instanceId === instanceId) return back;
      // The node has not yet seen the end of the first connection, and takes this for a copy.
      await back.agent.disconnect();
      return undefined;
    });
    assert.equal((await again.agent.getInfo()).appMetadata.instanceId, instanceId);
  }),

  check('08', 'a copy of an app that is still there is another instance', async (world) => {
    const app = await world.connect('a', 'test-one');
    const { instanceId, instanceUuid } = app.id;
    const copy = await world.connect('a', 'test-one', { identity: { instanceId, instanceUuid } });
    assert.notEqual(copy.id.instanceId, instanceId);
    assert.notEqual(copy.id.instanceUuid, instanceUuid);
    for (const { agent, id } of [app, copy]) assert.equal((await agent.getInfo()).appMetadata.instanceId, id.instanceId);
  }),

  check('10', 'the most specific record wins', { raw: true }, async (world) => {
    const cases = { '/specific': 'test-path', '/specific?x=1': 'test-query', '/specific?x=1#h': 'test-hash', '/specific?y=2&x=1': 'test-query', '/specific#h': 'test-path' };
    for (const [path, appId] of Object.entries(cases)) {
      const { id } = await world.raw('a', 'test-one', { identity: { identityUrl: ORIGIN + path } });
      assert.equal(id.appId, appId, path);
    }
  }),

  check('11', 'a guessed instanceUuid gives another identity', async (world) => {
    const app = await world.connect('a', 'test-one');
    const { instanceId, instanceUuid } = app.id;
    await app.kill();
    for (const guess of [randomUUID(), instanceId, '', instanceUuid.slice(1)]) {
      const other = await world.connect('a', 'test-one', { identity: { instanceId, instanceUuid: guess } });
      assert.notEqual(other.id.instanceId, instanceId, `guessed ${guess}`);
    }
  }),

  check('11', 'the identity of one app is not given to another app', async (world) => {
    const app = await world.connect('a', 'test-one');
    const { instanceId, instanceUuid } = app.id;
    await app.kill();
    const other = await world.connect('a', 'test-three', { identity: { instanceId, instanceUuid } }).catch(() => undefined);
    assert.notEqual(other?.id.instanceId, instanceId);
  }),

  check('11', 'no message to an app has the instanceUuid of another', async (world) => {
    const [asker, quoter] = [await world.connect('a', 'test-one'), await world.connect('b', 'test-quoter')];
    await quoter.agent.addIntentListener('GetPrice', async () => ({ type: 'x.price', value: 1 }));
    await quoter.agent.addIntentListener('Stream', () => quoter.agent.createPrivateChannel());
    const resolution = await world.raise(asker, 'GetPrice', { type: 'x.question' }, quoter);
    await resolution.getResult();
    const channel = await (await world.raise(asker, 'Stream', { type: 'x.question' }, quoter)).getResult();
    await hears(channel);
    for (const { agent } of [asker, quoter]) {
      await agent.joinUserChannel('fdc3.channel.3');
      await agent.broadcast({ type: 'x.hello' });
      await agent.findInstances({ appId: 'test-one' });
      await agent.findInstances({ appId: 'test-quoter' });
      await agent.findIntentsByContext({ type: 'x.question' });
    }
    await asker.agent.getAppMetadata(await world.offered(asker, 'GetPrice', quoter));
    await channel.disconnect();
    await aWhile();
    for (const [one, other] of [[asker, quoter], [quoter, asker]]) {
      assert.notEqual(one.id.instanceUuid, one.id.instanceId);
      const told = (text) => other.socket.frames.find((frame) => frame.text.includes(text))?.message.type;
      assert.equal(told(one.id.instanceUuid), undefined, 'a message that tells another app’s secret');
      assert.ok(told(one.id.instanceId), 'the apps have heard of each other');
    }
  }),

  check('12', 'a page speaks for its own origin only', { raw: true }, async (world) => {
    const refused = await world.rejection(world.raw('a', 'test-one', { origin: 'http://evil.example' }));
    assert.match(refused.reason, /refused|40[0-9]|closed/);
    // Nor is it believed what only the adaptor may attest.
    const forged = { attested: { origin: ORIGIN } };
    const { reason } = await world.rejection(world.raw('a', 'test-one', { origin: 'http://evil.example', identity: forged }));
    assert.match(reason, /refused|40[0-9]|closed/);
  }),

  check('16', 'a wrong secret is refused', { raw: true }, async (world) => {
    for (const sharedSecret of ['nope', '', 'x'.repeat(5000)]) {
      const { reason } = await world.rejection(world.raw('a', 'test-one', { identity: { sharedSecret } }));
      assert.match(reason, /refused/);
    }
  }),

  check('16', 'a program connects with the secret that it was started with, which is not echoed; a second connection supersedes the first', { timeoutMs: 60_000 }, async (world) => {
    const opener = await world.connect('a', 'test-one');
    const of = await reports(world, opener);
    const { instanceId } = await opener.agent.open({ appId: 'test-lender' });
    const { sharedSecret } = await world.until(() => of.get(instanceId), 10_000, 'the program reports');
    const identity = { sharedSecret };
    const first = await world.connect('a', 'test-one', { identity });
    assert.equal(first.id.instanceId, instanceId);
    assert.equal((await first.agent.getInfo()).appMetadata.instanceId, instanceId);
    await first.agent.joinUserChannel('fdc3.channel.2');
    assert.equal((await first.agent.getCurrentChannel()).id, 'fdc3.channel.2');
    assert.ok(first.socket.frames.every(({ text }) => !text.includes(sharedSecret)));
    const second = await world.raw('a', 'test-one', { identity });
    await world.within(5000, first.socket.closed, 'the first connection closed');
    assert.equal(second.id.instanceId, instanceId);
    const { payload } = await second.socket.request('getInfoRequest', {});
    assert.equal(payload.implementationMetadata.appMetadata.instanceId, instanceId);
    second.socket.post({ type: 'WSCPGoodbye', meta: { timestamp: new Date() } });
    await world.within(5000, second.socket.closed, 'the second connection closed');
  }),

  check('17', 'an unknown request is answered with an error', { raw: true }, async (world) => {
    await unnoticed(world, async () => {
      const { socket } = await world.raw('a', 'test-three');
      for (const type of ['frobnicateRequest', 'Request', 'broadcastEventRequest']) {
        const { payload } = await socket.request(type, { any: 'thing' });
        assert.equal(typeof payload.error, 'string', type);
      }
      assert.ok((await socket.request('getInfoRequest', {})).payload.implementationMetadata, 'the connection goes on');
    });
  }),

  check('17', 'every request without a payload is answered, once', { raw: true }, async (world) => {
    await unnoticed(world, async () => {
      const { socket } = await world.raw('a', 'test-three');
      for (const type of REQUESTS) {
        const response = await socket.request(type, undefined);
        assert.ok(response.payload, type);
        assert.equal(socket.of(answerTo(type)).length, 1, type);
      }
    });
  }),

  check('17', 'every request with wrong values is answered, or its connection closed', { raw: true, timeoutMs: 60_000 }, async (world) => {
    await unnoticed(world, async () => {
      let { socket } = await world.raw('a', 'test-three');
      for (const type of REQUESTS) {
        for (const value of WRONG) {
          for (const payload of [value, Object.fromEntries(FIELDS.map((field) => [field, value]))]) {
            await answeredOrClosed(socket, socket.request(type, payload));
            if (socket.closedWith !== undefined) ({ socket } = await world.raw('a', 'test-three'));
          }
        }
      }
    });
  }),

  check('17', 'broken JSON, binary frames and strange frames end their connection at most', { raw: true }, async (world) => {
    const frames = [
      '{"type":', '', ' ', 'null', '[]', '7', '"text"', '{}', '{"type":7}', '{"type":"getInfoRequest"}', '{"type":"getInfoRequest","meta":null,"payload":null}',
      '{"type":"getInfoRequest","meta":{"requestUuid":7},"payload":{}}', '['.repeat(100_000), `${'{"a":'.repeat(50_000)}`, '{"type":"getInfoRequest"}{"type":"getInfoRequest"}',
      Buffer.from([0, 255, 254, 1]), Buffer.from('{"type":"getInfoRequest","meta":{"requestUuid":"r"},"payload":{}}'),
    ];
    await unnoticed(world, async () => {
      for (const frame of frames) {
        const { socket } = await world.raw('a', 'test-three');
        socket.send(frame);
        // It is either over, or the next request is answered.
        await answeredOrClosed(socket, socket.request('getInfoRequest', {}));
      }
    });
  }),

  check('17', 'a first frame that is no identity ends the connection', { raw: true }, async (world) => {
    const firsts = [
      '{"type":', 'null', '{}', JSON.stringify({ type: 'getUserChannelsRequest', payload: {}, meta: { requestUuid: 'r' } }),
      JSON.stringify({ type: 'WCP4ValidateAppIdentity', meta: {} }), JSON.stringify({ type: 'WCP4ValidateAppIdentity', payload: { identityUrl: 7 }, meta: { connectionAttemptUuid: 'r' } }),
      JSON.stringify({ type: 'WSCPApplicationConnect', meta: {} }), Buffer.from('{}'),
    ];
    await unnoticed(world, async () => {
      for (const first of firsts) {
        const socket = await world.socket('a');
        socket.send(first);
        await world.within(15_000, socket.closed, `closed after ${first}`);
        assert.ok(socket.frames.every(({ message }) => /Failed/.test(message.type)), `answered to ${first}`);
      }
    });
  }),

  check('17', 'a message of ten megabytes is answered, or its connection closed', { raw: true, alone: true, timeoutMs: 60_000 }, async (world) => {
    await unnoticed(world, async () => {
      for (const bytes of [10 << 20, 40 << 20]) {
        const { socket } = await world.raw('a', 'test-three');
        const context = { type: 'x.large', text: 'x'.repeat(bytes) };
        await answeredOrClosed(socket, socket.request('broadcastRequest', { channelId: 'fdc3.channel.8', context }, { ms: 20_000 }));
      }
    });
  }),

  check('18', 'a thousand apps connect at once', { raw: true, alone: true, timeoutMs: 60_000 }, async (world) => {
    const apps = await Promise.all(Array.from({ length: 1000 }, (_, n) => world.raw(n % 2 ? 'a' : 'b', 'test-one')));
    assert.equal(new Set(apps.map(({ id }) => id.instanceId)).size, 1000);
    const { payload } = await apps[999].socket.request('findInstancesRequest', { app: { appId: 'test-one' } });
    assert.ok(payload.appIdentifiers.length >= 500);
  }),

  check('14', 'an app whose process dies is gone from the lists', async (world) => {
    const [one, two] = [await world.connect('a', 'test-one'), await world.connect('b', 'test-two')];
    const listed = async (agent) => (await agent.findInstances({ appId: 'test-two' })).some(({ instanceId }) => instanceId === two.id.instanceId);
    await world.until(() => listed(one.agent), 5000, 'the app listed');
    await two.kill();
    await world.until(async () => !(await listed(one.agent)), 5000, 'the app no longer listed');
  }),
];

// A launcher that opens windows, and the apps in them, without a browser: frames as its pages send them.
//
// The launcher is of the node's own user, and so are the apps here.

import assert from 'node:assert/strict';
import { check } from '../lib/check.mjs';
import { urlOf } from '../lib/directory.mjs';
import { Socket } from '../lib/socket.mjs';
import { answersWith, aWhile, failsWith, hears } from '../lib/world.mjs';

const APP = 'test-launched';
const CONTEXT = { type: 'x.question', q: 21 };

/** A check with a launcher, which must be the only one. */
function launched(id, what, body, options) {
  return check(id, what, { alone: true, ...options }, async (world) => body(world, await world.desk('a')));
}

/** The app of a window that the node has ordered, connected as the adaptor would. */
async function adapted(world, desk, order, place = 'a') {
  const app = await desk.adapted(order, { lib: world.libs[place] });
  world.keep(() => app.agent.disconnect());
  return app;
}

const listed = (desk, wanted) => desk.instances().find(({ instanceId }) => instanceId === wanted);

/** An app that was there before, of the same user as the launcher. */
const opener = (world) => world.connect('a', 'test-one', { user: '' });

export default [
  launched('07', 'a launcher is told the apps and the node', async (world, desk) => {
    const { node, apps } = await desk.latest('apps');
    assert.ok(node);
    const app = apps.find(({ appId }) => appId === APP);
    assert.equal(app.title, `Test ${APP}`);
    assert.equal(app.url, urlOf(APP));
    assert.ok(apps.some(({ appId }) => appId === 'test-native'), 'native apps, too');
  }),

  launched('07', 'somebody clicks an app, and it gets the instance of its window', async (world, desk) => {
    const order = await desk.launch(APP);
    assert.equal(order.url, urlOf(APP));
    assert.ok(order.launchKey);
    assert.notEqual(order.launchKey, order.instanceId);
    const app = await adapted(world, desk, order);
    assert.equal(app.id.instanceId, order.instanceId);
    await world.until(() => listed(desk, order.instanceId)?.state === 'connected', 5000, 'listed as connected');
    assert.equal(listed(desk, order.instanceId).appId, APP);
    await app.agent.joinUserChannel('fdc3.channel.3');
    await world.until(() => listed(desk, order.instanceId)?.channel?.id === 'fdc3.channel.3', 5000, 'listed with its channel');
    await app.kill();
    await world.until(() => listed(desk, order.instanceId)?.state !== 'connected', 5000, 'no longer connected');
  }),

  launched('07', 'a launcher is told what has changed, and nothing else', async (world, desk) => {
    const app = await adapted(world, desk, await desk.launch(APP));
    await app.agent.joinUserChannel('fdc3.channel.3');
    await world.until(() => listed(desk, app.id.instanceId)?.channel?.id === 'fdc3.channel.3', 5000, 'listed with its channel');
    for (const type of ['apps', 'instances']) {
      const texts = desk.socket.of(type).map(({ text }) => text);
      assert.ok(texts.every((text, index) => text !== texts[index - 1]), `${type} told twice`);
    }
  }),

  launched('07', 'a window that reloads keeps its instance', async (world, desk) => {
    const order = await desk.launch(APP);
    const first = await adapted(world, desk, order);
    await first.kill();
    await aWhile();
    const again = await adapted(world, desk, order);
    assert.equal(again.id.instanceId, order.instanceId);
  }),

  launched('12', 'a launch key is not believed from any other origin than the node', async (world, desk) => {
    const order = await desk.launch(APP);
    const origin = new URL(urlOf(APP)).origin;
    const app = await desk.adapted(order, { origin }).catch(() => undefined);
    assert.notEqual(app?.id.instanceId, order.instanceId);
    app?.socket.close();
    const other = await desk.adapted({ ...order, launchKey: order.instanceId }).catch(() => undefined);
    assert.notEqual(other?.id.instanceId, order.instanceId);
    other?.socket.close();
  }, { raw: true }),

  launched('12', 'no other page gets a launcher’s connection', async (world, desk) => {
    const url = new URL('/fdc3/desk', desk.url).href;
    const refused = Socket.open(url, { origin: 'http://evil.example' }).then(async (socket) => {
      await world.within(5000, socket.closed, 'closed');
      assert.deepEqual(socket.frames, []);
      throw new Error('closed');
    });
    await world.rejection(refused);
  }, { raw: true }),

  launched('32', 'an app is opened without a context', async (world, desk) => {
    const { agent } = await opener(world);
    const ordered = desk.order(urlOf(APP));
    const opened = agent.open({ appId: APP });
    const app = await adapted(world, desk, await ordered);
    assert.equal((await opened).instanceId, app.id.instanceId);
    assert.equal((await opened).appId, APP);
  }),

  launched('32', 'an app is opened with a context, and its first listener gets it, once', async (world, desk) => {
    const { agent } = await opener(world);
    const ordered = desk.order(urlOf(APP));
    const opened = agent.open({ appId: APP }, CONTEXT);
    const app = await adapted(world, desk, await ordered);
    const other = await hears(app.agent, 'x.other');
    const [first, second] = [await hears(app.agent, CONTEXT.type), await hears(app.agent)];
    assert.equal((await opened).instanceId, app.id.instanceId);
    await world.until(() => first.length);
    await aWhile();
    assert.deepEqual([first, other], [[CONTEXT], []]);
    // The library shows an event to all of its listeners that are there by then.
    assert.ok(second.length <= 1);
    assert.equal(app.socket.of('broadcastEvent').length, 1);
  }),

  launched('32', 'an app that joined a channel first gets the context it was opened with', async (world, desk) => {
    const { agent } = await opener(world);
    const ordered = desk.order(urlOf(APP));
    const opened = agent.open({ appId: APP }, CONTEXT);
    const app = await adapted(world, desk, await ordered);
    await app.agent.joinUserChannel('fdc3.channel.8');
    const seen = await hears(app.agent, CONTEXT.type);
    await opened;
    await world.until(() => seen.length);
    assert.deepEqual(seen.at(-1), CONTEXT);
    const channel = await app.agent.getCurrentChannel();
    assert.notDeepEqual(await channel.getCurrentContext(CONTEXT.type), CONTEXT, 'it is on no channel');
  }),

  launched('32', 'an app that is started for an intent gets it', async (world, desk) => {
    const { agent } = await opener(world);
    const ordered = desk.order(urlOf(APP));
    const raised = agent.raiseIntent('Launch', CONTEXT, { appId: APP });
    const app = await adapted(world, desk, await ordered);
    await app.agent.addIntentListener('Launch', async ({ q }) => ({ type: 'x.price', value: q * 2 }));
    const resolution = await raised;
    assert.equal(resolution.source.instanceId, app.id.instanceId);
    assert.deepEqual(await resolution.getResult(), { type: 'x.price', value: 42 });
  }),

  launched('32', 'a window that the browser refuses: ErrorOnLaunch', async (world, desk) => {
    const { agent } = await opener(world);
    const ordered = desk.order(urlOf(APP));
    const opened = agent.open({ appId: APP });
    desk.blocked(await ordered);
    await failsWith('ErrorOnLaunch', opened, 40_000);
  }, { timeoutMs: 60_000 }),

  launched('32', 'a window that is closed before its app connects: ErrorOnLaunch', async (world, desk) => {
    const { agent } = await opener(world);
    const ordered = desk.order(urlOf(APP));
    const opened = agent.open({ appId: APP }, CONTEXT);
    desk.closed((await ordered).instanceId);
    await failsWith('ErrorOnLaunch', opened, 40_000);
  }, { timeoutMs: 60_000 }),

  launched('32', 'an app that never listens: AppTimeout', async (world, desk) => {
    const { agent } = await opener(world);
    const ordered = desk.order(urlOf(APP));
    const opened = agent.open({ appId: APP }, CONTEXT);
    await adapted(world, desk, await ordered);
    await failsWith('AppTimeout', opened, 40_000);
  }, { timeoutMs: 60_000 }),

  launched('33', 'an app that asks to be closed is closed by its launcher', async (world, desk) => {
    const order = await desk.launch(APP);
    const app = await desk.adapted(order);
    world.keep(() => app.socket.close());
    const told = desk.socket.next(({ type, instanceId }) => type === 'close' && instanceId === order.instanceId);
    const response = app.socket.request('closeRequest', {}, { ms: 10_000 });
    await told;
    // The window is still there, as it is no launcher's to close.
    await answersWith('ErrorOnClose', response);
    // Now it closes: nobody is there to be answered.
    const goes = app.socket.request('closeRequest', {}, { ms: 10_000 });
    await app.socket.kill();
    await world.rejection(goes);
    await world.until(() => listed(desk, order.instanceId)?.state !== 'connected', 5000, 'no longer connected');
  }, { raw: true }),

  check('33', 'an app that nobody could close is told so', { raw: true }, async (world) => {
    const app = await world.raw('a', 'test-one');
    await answersWith('ErrorOnClose', app.socket.request('closeRequest', {}));
    // With a body that is none, too.
    await answersWith('ErrorOnClose', app.socket.request('closeRequest'));
    assert.equal((await app.socket.request('getInfoRequest', {})).payload.implementationMetadata.appMetadata.instanceId, app.id.instanceId);
  }),
];

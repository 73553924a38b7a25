// FDC3 apps and io.Connect clients of one user: the same channels, and each other's intents.

import assert from 'node:assert/strict';
import { check } from '../lib/check.mjs';
import { ioClient } from '../lib/io.mjs';
import { aWhile, hears } from '../lib/world.mjs';

const RED = '___channel___Red';
const PREFIX = 'Tick42.FDC3.Intents.';
const QUESTION = { type: 'x.question', q: 21 };

/** The key of a context type in the data of a channel, and what is said to be the latest. */
const encoded = (type) => type.replaceAll('.', '&');

/** The Red channel as an io.Connect client sees it, once it does. */
async function red(world, io) {
  await world.until(() => io.contexts.all().includes(RED), 5000, `${RED} announced`);
  const seen = { values: [], last: () => seen.values.at(-1) };
  await io.contexts.subscribe(RED, (value) => seen.values.push(value));
  await world.until(() => seen.last());
  return seen;
}

/** Broadcasts as the FDC3 library for io.Connect does. */
function broadcastByIo(io, { type, ...rest }) {
  return io.contexts.setPaths(RED, [{ path: `data.fdc3_${encoded(type)}`, value: rest }, { path: 'latest_fdc3_type', value: encoded(type) }]);
}

/** An FDC3 app at a, an io.Connect client at b, and the FDC3 id of Red. */
async function pair(world, appId = 'test-one') {
  const [app, io] = [await world.connect('a', appId), await ioClient(world, 'b')];
  const seen = await red(world, io);
  return { app, io, seen, id: seen.last().meta.fdc3.id };
}

export default [
  check('27', 'the user channels are io.Connect’s channels, by name and FDC3 id', async (world) => {
    const { app, io, seen } = await pair(world);
    const channels = await app.agent.getUserChannels();
    for (const { id, displayMetadata } of channels) {
      const name = await world.until(async () => {
        const values = await Promise.all(io.contexts.all().filter((one) => one.startsWith('___channel___')).map(async (one) => [one, await io.contexts.get(one)]));
        return values.find(([, value]) => value.meta?.fdc3?.id === id)?.[0];
      }, 5000, `a channel with the id ${id}`);
      assert.equal((await io.contexts.get(name)).name, name.slice('___channel___'.length));
      assert.ok(displayMetadata.name);
    }
    const { name, meta, data } = seen.last();
    assert.equal(name, 'Red');
    assert.ok(meta.color);
    assert.ok(data);
  }),

  check('27', 'an FDC3 broadcast is in the channel’s data, in the library’s encoding, and other keys stay', async (world) => {
    const { app, io, seen, id } = await pair(world);
    await io.contexts.setPaths(RED, [{ path: 'data.clientId', value: 7 }]);
    await world.until(() => seen.last().data.clientId === 7);
    await app.agent.joinUserChannel(id);
    await app.agent.broadcast({ type: 'fdc3.instrument', id: { ticker: 'VOD' }, market: null });
    await world.until(() => seen.last().data['fdc3_fdc3&instrument'], 5000, 'the broadcast in the data');
    const { data, latest_fdc3_type: latest, meta } = seen.last();
    assert.deepEqual(data['fdc3_fdc3&instrument'].id, { ticker: 'VOD' });
    assert.equal(data['fdc3_fdc3&instrument'].type, undefined, 'the type is the key');
    assert.equal(latest, 'fdc3&instrument');
    assert.equal(data.clientId, 7);
    assert.equal(meta.fdc3.id, id);
    await app.agent.broadcast({ type: 'fdc3.contact', name: 'Ann' });
    await app.agent.broadcast({ type: 'fdc3.instrument', id: { RIC: 'BT.L' } });
    await world.until(() => seen.last().data['fdc3_fdc3&instrument'].id.RIC, 5000, 'the second broadcast');
    assert.deepEqual(seen.last().data['fdc3_fdc3&instrument'].id, { RIC: 'BT.L' }, 'a context replaces the former whole');
    assert.deepEqual(seen.last().data['fdc3_fdc3&contact'], { name: 'Ann' });
    assert.equal(seen.last().latest_fdc3_type, 'fdc3&instrument');
    assert.equal(seen.last().data.clientId, 7);
  }),

  check('27', 'what io.Connect publishes for FDC3 is one broadcast, and other keys are none', async (world) => {
    const { app, io, id } = await pair(world);
    await app.agent.joinUserChannel(id);
    const [typed, all] = [await hears(app.agent, 'fdc3.instrument'), await hears(app.agent)];
    await broadcastByIo(io, { type: 'fdc3.instrument', id: { ticker: 'VOD' } });
    await world.until(() => typed.length && all.length);
    await io.contexts.setPaths(RED, [{ path: 'data.clientId', value: 8 }]);
    await aWhile();
    const context = { type: 'fdc3.instrument', id: { ticker: 'VOD' } };
    assert.deepEqual([typed, all], [[context], [context]]);
    // The same once more is said once more.
    await broadcastByIo(io, context);
    await broadcastByIo(io, { type: 'fdc3.contact', name: 'Ann' });
    await world.until(() => all.at(-1).type === 'fdc3.contact');
    assert.deepEqual(all.slice(1), [context, { type: 'fdc3.contact', name: 'Ann' }]);
    const channel = await app.agent.getCurrentChannel();
    assert.deepEqual(await channel.getCurrentContext('fdc3.instrument'), context);
    assert.deepEqual(await channel.getCurrentContext(), { type: 'fdc3.contact', name: 'Ann' });
  }),

  check('27', 'an FDC3 app that joins later gets what io.Connect published', async (world) => {
    const { app, io, id } = await pair(world);
    await broadcastByIo(io, { type: 'fdc3.instrument', id: { ticker: 'VOD' } });
    const channel = (await app.agent.getUserChannels()).find((one) => one.id === id);
    await world.until(async () => (await channel.getCurrentContext('fdc3.instrument'))?.id.ticker === 'VOD');
    const seen = await hears(app.agent);
    await app.agent.joinUserChannel(id);
    await world.until(() => seen.length);
    await aWhile();
    assert.deepEqual(seen, [{ type: 'fdc3.instrument', id: { ticker: 'VOD' } }]);
  }),

  check('27', 'an app channel is a shared context of its id', async (world) => {
    const [app, io] = [await world.connect('a', 'test-one'), await ioClient(world, 'b')];
    const name = world.unique('topic');
    const channel = await app.agent.getOrCreateChannel(name);
    const seen = await hears(channel);
    await channel.broadcast({ type: 'x.value', n: 1 });
    await world.until(() => io.contexts.all().includes(name), 5000, 'the context announced');
    await world.until(async () => (await io.contexts.get(name)).data?.['fdc3_x&value']?.n === 1);
    assert.equal((await io.contexts.get(name)).latest_fdc3_type, 'x&value');
    await io.contexts.setPaths(name, [{ path: 'data.fdc3_x&value', value: { n: 2 } }, { path: 'latest_fdc3_type', value: 'x&value' }]);
    await world.until(() => seen.length);
    assert.deepEqual(seen, [{ type: 'x.value', n: 2 }]);
  }),

  check('27', 'an FDC3 app’s intent is a method for io.Connect', async (world) => {
    const [app, io] = [await world.connect('a', 'test-quoter'), await ioClient(world, 'b')];
    const heard = [];
    const listener = await app.agent.addIntentListener('GetPrice', async (context) => {
      heard.push(context);
      return { type: 'x.price', value: context.q * 2 };
    });
    const method = await world.until(() => io.interop.methods().find(({ name }) => name === `${PREFIX}GetPrice`), 5000, 'the method announced');
    assert.deepEqual(method.flags.intent.contextTypes, ['x.question']);
    const [server] = io.interop.servers({ name: method.name });
    assert.equal(server.instance, app.id.instanceId);
    const { returned } = await io.interop.invoke(method.name, { type: 'x.question', data: { q: 21 } }, { instance: app.id.instanceId });
    assert.deepEqual(heard, [QUESTION]);
    const { contextType, payload } = returned.fdc3intentContext;
    assert.equal(contextType, 'x.price');
    assert.equal(payload.value, 42);
    await listener.unsubscribe();
    await world.until(() => !io.interop.methods().some(({ name }) => name === `${PREFIX}GetPrice`), 5000, 'the method withdrawn');
  }),

  check('27', 'an io.Connect client’s intent can be found and raised', async (world) => {
    const [app, io] = [await world.connect('a', 'test-one'), await ioClient(world, 'b')];
    const intent = world.unique('IoQuote');
    const heard = [];
    const flags = { intent: { contextTypes: ['x.question'], displayName: 'Ask io', resultType: 'x.price' } };
    await io.interop.register({ name: PREFIX + intent, flags }, (argument) => {
      heard.push(argument);
      return { fdc3intentContext: { contextType: 'x.price', payload: { value: 42 } } };
    });
    const { apps, intent: { displayName } } = await world.until(() => app.agent.findIntent(intent), 5000, 'the intent found');
    assert.equal(displayName, 'Ask io');
    const [{ appId, instanceId, desktopAgent }] = apps;
    assert.equal(instanceId, io.interop.instance.instance);
    await world.until(async () => (await world.rejection(app.agent.findIntent(intent, { type: 'x.other' }))).reason === 'NoAppsFound');
    const resolution = await app.agent.raiseIntent(intent, QUESTION, { appId, instanceId, ...(desktopAgent && { desktopAgent }) });
    assert.deepEqual(await resolution.getResult(), { type: 'x.price', value: 42 });
    assert.equal(heard[0].type, 'x.question');
    assert.equal(heard[0].data.q, 21);
  }),
];

// Channels as the desktop libraries keep them: contexts named `___channel___NAME`, written path by path.
//
// Which window is on which channel is a platform's affair and not tried here (B-CH-4, B-CH-5).

import assert from 'node:assert/strict';
import { agreed, knows, newcomersRead, same, watches } from '../lib/contexts.mjs';
import { scenario } from '../lib/scenario.mjs';

const PREFIX = '___channel___';
const list = (client) => client.contexts.all().filter((name) => name.startsWith(PREFIX)).map((name) => name.slice(PREFIX.length));

/** A channel as it is before anybody publishes. */
function empty(name, color) {
  return { name, meta: { color, fdc3: { id: `fdc3.${name}`, displayMetadata: { name, color } } }, data: {} };
}

/** Publishes as the channels API does: a path for each key. */
function publish(client, channel, data) {
  return client.contexts.setPaths(PREFIX + channel, Object.entries(data).map(([key, value]) => ({ path: `data.${key}`, value })));
}

/** Broadcasts an FDC3 context as the fdc3 library does. */
function broadcast(client, channel, { type, ...context }) {
  const wire = type.replaceAll('.', '&');
  return client.contexts.setPaths(PREFIX + channel, [
    { path: `data.fdc3_${wire}`, value: context },
    { path: 'latest_fdc3_type', value: wire },
  ]);
}

/** A channel that clients on both sides know. */
async function channel(world, color = 'red') {
  const [one, two] = await world.pair();
  const name = world.unique('Red');
  await one.contexts.set(PREFIX + name, empty(name, color));
  await world.until(() => knows(two, PREFIX + name));
  return { one, two, name };
}

export default [
  scenario('B-CH-1 publish here, read there, and for a newcomer', async (world) => {
    const { one, two, name } = await channel(world);
    const watchers = [await watches(one, PREFIX + name), await watches(two, PREFIX + name)];
    await publish(one, name, { clientId: 7 });
    await agreed(world, watchers, ({ data }) => data.clientId === 7);
    await publish(two, name, { ticker: 'VOD' });
    const expected = { ...empty(name, 'red'), data: { clientId: 7, ticker: 'VOD' } };
    await agreed(world, watchers, (value) => same(value, expected));
    await publish(two, name, { clientId: null });
    await agreed(world, watchers, (value) => same(value.data, { ticker: 'VOD' }));
    await newcomersRead(world, PREFIX + name, { ...empty(name, 'red'), data: { ticker: 'VOD' } });
  }),

  scenario('B-CH-1 publishers on both sides keep each other’s keys', { alone: true }, async (world) => {
    const { one, two, name } = await channel(world);
    const watchers = [await watches(one, PREFIX + name), await watches(two, PREFIX + name)];
    for (let round = 1; round <= 10; round += 1) {
      await Promise.all([publish(one, name, { one: round }), publish(two, name, { two: round })]);
    }
    await agreed(world, watchers, ({ data }) => same(data, { one: 10, two: 10 }));
  }),

  scenario('B-CH-2 the list is the union, and one name is one channel', async (world) => {
    const [one, two] = await world.pair();
    const [shared, mine, yours] = ['Shared', 'Mine', 'Yours'].map((name) => world.unique(name));
    await Promise.all([
      one.contexts.set(PREFIX + shared, empty(shared, 'red')),
      two.contexts.set(PREFIX + shared, empty(shared, 'blue')),
      one.contexts.set(PREFIX + mine, empty(mine, 'green')),
      two.contexts.set(PREFIX + yours, empty(yours, 'white')),
    ]);
    for (const client of [one, two]) {
      await world.until(() => [shared, mine, yours].every((name) => list(client).includes(name)));
      assert.equal(list(client).filter((name) => name === shared).length, 1);
    }
    // Which colour wins is not promised, but that everybody has the same is.
    // The creators are not asked: their library may take its own value for the later one.
    const onlookers = await Promise.all(['a', 'b'].map(async (place) => watches(await world.connect(place), PREFIX + shared)));
    await publish(one, shared, { later: 1 });
    const { meta } = await agreed(world, onlookers, (value) => value?.data?.later === 1);
    assert.ok(['red', 'blue'].includes(meta.color));
  }),

  scenario('B-CH-3 a channel is heard by those on it only', async (world) => {
    const { one, two, name } = await channel(world);
    const blue = world.unique('Blue');
    await two.contexts.set(PREFIX + blue, empty(blue, 'blue'));
    const other = await world.connect('b');
    await world.until(() => knows(other, PREFIX + blue));
    const [onRed, onBlue] = [await watches(two, PREFIX + name), await watches(other, PREFIX + blue)];
    await publish(one, name, { n: 1 });
    await world.until(() => onRed.last()?.data.n === 1);
    await publish(two, blue, { last: true });
    await world.until(() => onBlue.last()?.data.last === true);
    assert.ok(onBlue.values.every(({ data }) => data.n === undefined));
  }),

  scenario('B-CH-6 a late joiner has the last of each type', async (world) => {
    const { one, two, name } = await channel(world);
    await broadcast(one, name, { type: 'fdc3.instrument', id: { ticker: 'VOD' } });
    await broadcast(one, name, { type: 'fdc3.contact', name: 'Ann' });
    await broadcast(one, name, { type: 'fdc3.instrument', id: { ticker: 'BT' } });
    const seen = await watches(two, PREFIX + name);
    await world.until(() => seen.last()?.data['fdc3_fdc3&instrument']?.id.ticker === 'BT');
    await newcomersRead(world, PREFIX + name, {
      ...empty(name, 'red'),
      data: { 'fdc3_fdc3&instrument': { id: { ticker: 'BT' } }, 'fdc3_fdc3&contact': { name: 'Ann' } },
      latest_fdc3_type: 'fdc3&instrument',
    });
  }),

  scenario('B-CH-7 two types from two sides at once', { alone: true }, async (world) => {
    const { one, two, name } = await channel(world);
    const onlookers = await Promise.all(['a', 'b'].map(async (place) => watches(await world.connect(place), PREFIX + name)));
    for (let round = 1; round <= 10; round += 1) {
      await Promise.all([
        broadcast(one, name, { type: 'fdc3.instrument', round }),
        broadcast(two, name, { type: 'fdc3.contact', round }),
      ]);
      const value = await agreed(world, onlookers, ({ data }) => (
        data['fdc3_fdc3&instrument']?.round === round && data['fdc3_fdc3&contact']?.round === round
      ));
      assert.ok(['fdc3&instrument', 'fdc3&contact'].includes(value.latest_fdc3_type));
    }
  }),
];

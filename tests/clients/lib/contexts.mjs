// What the scenarios of contexts have in common.

import assert from 'node:assert/strict';

/** Subscribes and records every value seen, the newest last. */
export async function watches(client, name) {
  const seen = { values: [], deltas: [], removed: [], extra: [] };
  seen.unsubscribe = await client.contexts.subscribe(name, (data, delta, removed, unsubscribe, extra) => {
    seen.values.push(data);
    seen.deltas.push(delta);
    seen.removed.push(removed);
    seen.extra.push(extra);
  });
  seen.last = () => seen.values.at(-1);
  return seen;
}

export const knows = (client, name) => client.contexts.all().includes(name);
export const same = (one, two) => JSON.stringify(sorted(one)) === JSON.stringify(sorted(two));

/** The value with its keys in order, since their order means nothing. */
export function sorted(value) {
  if (value === null || typeof value !== 'object' || value instanceof Date) return value;
  if (Array.isArray(value)) return value.map(sorted);
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}

/** Waits until all watchers and a fresh reader on each side hold the same value, and returns it. */
export async function agreed({ until, connect }, watchers, accept = () => true, ms = 5000) {
  const [first, ...rest] = watchers;
  await until(
    () => accept(first.last()) && rest.every((other) => same(other.last(), first.last())),
    ms,
    'all watchers agree',
  ).catch((error) => {
    const values = watchers.map(({ last }) => JSON.stringify(last())?.slice(0, 200));
    throw new Error(`${error.message}: ${values.join(' | ')}`);
  });
  return first.last();
}

/**
 * Both sides write the same key at once; resolves with what the watchers agree on.
 *
 * Each update also carries a mark of its writer, so that agreement counts only once both are in.
 */
export async function contended(world, { one, two, name, round }, watchers) {
  await Promise.all([
    one.contexts.update(name, { key: `one ${round}`, one: round }),
    two.contexts.update(name, { key: `two ${round}`, two: round }),
  ]);
  return agreed(world, watchers, (value) => value.one === round && value.two === round, 2000);
}

/** Asserts that clients that come now read `value` on both sides. */
export async function newcomersRead({ connect, until }, name, value) {
  for (const place of ['a', 'b']) {
    const newcomer = await connect(place);
    await until(() => knows(newcomer, name), 3000, `the name known to a newcomer at ${place}`);
    assert.deepEqual(sorted(await newcomer.contexts.get(name)), sorted(value), `a newcomer at ${place}`);
  }
}

/** A context `name` created at `a` with `data`, watched on both sides. */
export async function shared(world, data) {
  const [one, two] = await world.pair();
  const name = world.unique('context');
  await one.contexts.set(name, data);
  await world.until(() => knows(two, name));
  const watchers = [await watches(one, name), await watches(two, name)];
  await agreed(world, watchers, (value) => same(value, data));
  return { one, two, name, watchers };
}

// What stays on its own node unless a rule says otherwise.

import assert from 'node:assert/strict';
import { knows, same, watches } from '../lib/contexts.mjs';
import { scenario } from '../lib/scenario.mjs';
import { sees } from '../lib/interop.mjs';

export default [
  ...['___workspace___', '___window___', '___instance___'].map((prefix) => (
    scenario(`B-WS-1 a context ${prefix}* is its node’s own`, { only: 'two' }, async (world) => {
      const [one, two] = await world.pair();
      const neighbour = await world.connect('a');
      const [name, after] = [prefix + world.unique('x'), world.unique('context')];
      await one.contexts.set(name, { n: 1 });
      await one.contexts.set(after, {});
      await world.until(() => knows(neighbour, name));
      const seen = await watches(neighbour, name);
      await one.contexts.update(name, { n: 2 });
      await world.until(() => same(seen.last(), { n: 2 }));
      // The later context has come through, so the earlier one would have.
      await world.until(() => knows(two, after));
      assert.ok(!knows(two, name), 'the name');
      // The same name on the other node is another context.
      await two.contexts.set(name, { of: 'two' });
      assert.deepEqual(await two.contexts.get(name), { of: 'two' });
      await one.contexts.set(after, { again: true });
      await world.until(async () => (await two.contexts.get(after)).again);
      assert.deepEqual(seen.last(), { n: 2 });
    })
  )),

  scenario('a platform’s methods are its node’s own', { only: 'two' }, async (world) => {
    const [provider, consumer] = await world.pair();
    const neighbour = await world.connect('a');
    const [platform, after] = [`T42.${world.unique('Wnd')}`, world.unique('After')];
    await provider.interop.register(platform, () => ({ ok: true }));
    await provider.interop.register(after, () => ({ ok: true }));
    await world.until(() => sees(neighbour, platform) && sees(consumer, after));
    assert.equal((await neighbour.interop.invoke(platform)).returned.ok, true);
    assert.ok(!sees(consumer, platform));
    await world.rejection(consumer.interop.invoke(platform, {}, 'best', { waitTimeoutMs: 300 }));
    const latecomer = await world.connect('b');
    assert.ok(!sees(latecomer, platform));
  }),
];

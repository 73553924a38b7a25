// Handlers that fail, of which the libraries tell nobody: the nodes do not wait for them for long
// (`fdc3.intent_result_timeout_s` is 2).

import assert from 'node:assert/strict';
import { check } from '../lib/check.mjs';

const QUESTION = { type: 'x.question', q: 21 };

/** Raises the intent of a handler that fails, and one that it answers afterwards. */
async function failing(world, handler) {
  const [asker, quoter] = [await world.connect('a', 'test-one'), await world.connect('b', 'test-quoter')];
  let asked = 0;
  await quoter.agent.addIntentListener('GetPrice', (context) => {
    asked += 1;
    return asked === 1 ? handler() : Promise.resolve({ type: 'x.price', q: context.q });
  });
  const resolution = await world.raise(asker, 'GetPrice', QUESTION, quoter);
  // The library says of an error no more than that there is no result.
  assert.equal(await world.within(8000, resolution.getResult(), 'the result was given up'), undefined);
  assert.deepEqual(asker.socket.of('raiseIntentResultResponse').map(({ payload }) => payload.error), ['ApiTimeout']);
  // And it goes on answering.
  const next = await world.raise(asker, 'GetPrice', QUESTION, quoter);
  assert.deepEqual(await next.getResult(), { type: 'x.price', q: 21 });
}

export default [
  check('31', 'a handler that rejects does not keep its raiser waiting', (world) =>
    failing(world, async () => {
      throw new Error('rejected on purpose');
    })),

  check('31', 'a handler that throws does not keep its raiser waiting', (world) =>
    failing(world, () => {
      throw new Error('thrown on purpose');
    })),

  check('31', 'a handler whose promise never settles does not keep its raiser waiting', (world) =>
    failing(world, () => new Promise(() => {}))),
];

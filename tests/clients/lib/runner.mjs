// Runs a list of things, several at once, and says how each went.

import { reasonOf, within } from './wait.mjs';

/**
 * Runs `items` and resolves with the exit code: 0 if all went as expected, else 1.
 *
 * An item has a `name`, a `label` printed before it, `timeoutMs`, `alone`, `known` (why a failure is
 * forgiven here), `pointOut` (whether to remark on it if there is none) and `open`, which makes what
 * `body` is given. That has `close()` and may have a `log` of what was said meanwhile, printed below a
 * failure if `verbose`.
 */
export async function runAll(items, { jobs, verbose }) {
  const counts = { ok: 0, known: 0, failed: 0 };
  const passed = new Set();
  let done = 0;

  async function one(item) {
    const start = performance.now();
    const world = item.open();
    const error = await within(item.timeoutMs, item.body(world), 'ended').then(
      () => undefined,
      (caught) => caught ?? new Error('failed without a reason'),
    );
    const ms = Math.round(performance.now() - start);
    await world.close();
    report(item, error, ms, world.log ?? []);
  }

  function report({ name, label, known, pointOut }, error, ms, log) {
    const outcome = !error ? 'ok' : known ? 'known' : 'failed';
    counts[outcome] += 1;
    if (known && pointOut && !error) passed.add(`${label} ${name}`);
    done += 1;
    const reason = error ? `  ${known ? `${known} — ` : ''}${reasonOf(error).replace(/\s+/g, ' ').slice(0, 600)}` : '';
    const position = `[${String(done).padStart(3)}/${items.length}]`;
    console.log(`${position} ${outcome.padEnd(6)} ${label.padEnd(7)} ${name} (${ms} ms)${reason}`);
    if (verbose && outcome === 'failed') {
      const stack = (error.stack ?? '').split('\n').slice(0, 16);
      console.log([...stack, ...log.slice(-20)].map((line) => `      | ${line}`).join('\n'));
    }
  }

  async function work(queue) {
    for (let item = queue.shift(); item; item = queue.shift()) await one(item);
  }

  const together = items.filter(({ alone }) => !alone);
  await Promise.all(Array.from({ length: jobs }, () => work(together)));
  await work(items.filter(({ alone }) => alone));
  for (const name of passed) console.log(`note: a known difference has passed; does it still need its entry? ${name}`);
  console.log(`${counts.ok} ok, ${counts.known} known differences, ${counts.failed} failed, of ${items.length}`);
  return counts.failed || !items.length ? 1 : 0;
}

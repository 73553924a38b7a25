// Runs a list of things, several at once, and says how each went.

import { reasonOf, within } from './wait.mjs';

/**
 * Runs `items` and resolves with the exit code: 0 if all went as expected, else 1.
 *
 * What fails beside others is tried once more by itself, since several runtimes on few processors can miss
 * a deadline that none of them misses alone. That is said, and what fails twice has failed.
 *
 * An item has a `name`, a `label` printed before it, `timeoutMs`, `alone`, `known` (why a failure is
 * forgiven here), `pointOut` (whether to remark on it if there is none) and `open`, which makes what
 * `body` is given. That has `close()` and may have a `log` of what was said meanwhile, printed below a
 * failure if `verbose`.
 */
export async function runAll(items, { jobs, verbose }) {
  const counts = { ok: 0, known: 0, failed: 0 };
  const passed = new Set();
  const again = [];
  let done = 0;

  async function one(item, isLast = false) {
    const start = performance.now();
    const world = item.open();
    const error = await within(item.timeoutMs, item.body(world), 'ended').then(
      () => undefined,
      (caught) => caught ?? new Error('failed without a reason'),
    );
    const ms = Math.round(performance.now() - start);
    await world.close();
    if (error && !item.known && !isLast) {
      again.push(item);
      console.log(`      again  ${item.label.padEnd(7)} ${item.name}  ${reasonOf(error).replace(/\s+/g, ' ').slice(0, 300)}`);
      return;
    }
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
  for (const item of again) await one(item, true);
  if (again.length) console.log(`note: ${again.length} tried a second time`);
  for (const name of passed) console.log(`note: a known difference has passed; does it still need its entry? ${name}`);
  console.log(`${counts.ok} ok, ${counts.known} known differences, ${counts.failed} failed, of ${items.length}`);
  return counts.failed || !items.length ? 1 : 0;
}

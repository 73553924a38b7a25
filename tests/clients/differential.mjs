// Holds the same conversations with the reference gateway and with deskmesh, and compares what came back.
//
//   node differential.mjs --a ws://…         a deskmesh node
//
//   --only TEXT      only conversations whose name contains TEXT
//   --seed N         the first seed of the random scripts (default 1)
//   --scripts N      how many of them (default 150)
//   --length N       how many steps each has at least (default 50)
//   --jobs N         how many conversations at once (default 4)
//   --repeat N       each N times
//   --verbose        the steps of a random script below its differences
//
// The conversations are those of `checks/`, and scripts made up from seeds. What deskmesh does otherwise on
// purpose stands in `lib/differences.mjs`. Ends with 0 if there is no other difference, else with 1.

import { parseArgs } from 'node:util';
import { compare } from './lib/compare.mjs';
import { DIFFERENCES } from './lib/differences.mjs';
import { RawWorld } from './lib/raw.mjs';
import { play, RARE, scriptOf } from './lib/scripts.mjs';
import { transcriptOf } from './lib/transcript.mjs';
import { reasonOf, within } from './lib/wait.mjs';
import { startReference } from './reference.mjs';

const SECTIONS = ['global', 'interop', 'contexts', 'bus', 'improvements'];
const SCRIPT_MS = 60_000;

const { values: flags } = parseArgs({
  options: {
    a: { type: 'string' },
    only: { type: 'string', default: '' },
    seed: { type: 'string', default: '1' },
    scripts: { type: 'string', default: '150' },
    length: { type: 'string', default: '50' },
    jobs: { type: 'string', default: '4' },
    repeat: { type: 'string', default: '1' },
    verbose: { type: 'boolean', default: false },
  },
});
if (!flags.a) {
  console.error('give --a ws://…, the node to compare with the reference gateway');
  process.exit(1);
}

const reference = await startReference();
const urls = { reference: reference.url, deskmesh: flags.a };
const conversations = (await planned()).flatMap((one) => Array.from({ length: Number(flags.repeat) }, () => one));
const needed = new Map();
const counts = { same: 0, forgiven: 0, differ: 0 };
const queue = [...conversations.filter(({ alone }) => !alone)];
await Promise.all(Array.from({ length: Number(flags.jobs) }, () => work(queue)));
await work(conversations.filter(({ alone }) => alone));
const code = summary();
reference.stop();
process.exit(code);

/** The conversations that are wanted: a name, a body, and the steps of a script. */
async function planned() {
  const all = [];
  for (const section of SECTIONS) {
    const { default: checks } = await import(`./checks/${section}.mjs`);
    for (const { id, what, kills, bulk, body, timeoutMs, alone } of checks) {
      if (!kills && !bulk) all.push({ name: `${id} ${what}`, body, timeoutMs, alone });
    }
  }
  const scripted = (name, steps) => all.push({ name, body: (world) => play(world, steps), steps, timeoutMs: SCRIPT_MS });
  for (const [name, steps] of RARE) scripted(`script: ${name}`, steps);
  for (let index = 0; index < Number(flags.scripts); index += 1) {
    const seed = Number(flags.seed) + index;
    scripted(`script ${seed}`, scriptOf(seed, Number(flags.length)));
  }
  return all.filter(({ name }) => name.includes(flags.only));
}

async function work(waiting) {
  for (let next = waiting.shift(); next; next = waiting.shift()) await hold(next);
}

/** Holds a conversation on both sides and says how they compare. */
async function hold({ name, body, steps, timeoutMs }) {
  const sides = {};
  for (const [side, url] of Object.entries(urls)) sides[side] = await transcript(url, body, timeoutMs);
  const result = compare(name, sides, DIFFERENCES);
  for (const entry of result.needed) needed.set(entry, (needed.get(entry) ?? 0) + 1);
  // A script runs to its end whatever the answers are; a check may fail where the reference falls short.
  const broken = steps ? Object.entries(sides).filter(([, { error }]) => error) : [];
  const outcome = result.lines.length || broken.length ? 'differ' : result.needed.length ? 'forgiven' : 'same';
  counts[outcome] += 1;
  if (outcome !== 'differ') return;
  console.log(`differ  ${name}`);
  for (const [side, { error }] of Object.entries(sides)) if (error) console.log(`    ${side} failed: ${reasonOf(error).replace(/\s+/g, ' ').slice(0, 300)}`);
  for (const line of result.lines) console.log(`    ${line}`);
  if (steps && flags.verbose) steps.forEach((step, index) => console.log(`    | step ${index} ${JSON.stringify(step)}`));
}

async function transcript(url, body, timeoutMs) {
  const world = new RawWorld({ urls: { a: url, b: url } });
  const error = await within(timeoutMs, body(world), 'ended').then(() => undefined, (caught) => caught);
  // What is still under way belongs to it.
  await Promise.allSettled(world.peers.map((peer) => peer.closedWith === undefined && peer.fence()));
  const seen = transcriptOf(world);
  await world.close();
  return { ...seen, error };
}

function summary() {
  for (const { name, why } of DIFFERENCES) {
    const times = needed.get(name) ?? 0;
    if (times) console.log(`difference ${name}, ${times} times: ${why}`);
    else if (!flags.only) console.log(`note: the entry ${name} of lib/differences.mjs is not needed any more`);
  }
  const died = !reference.alive();
  if (died) console.log('the reference gateway has died');
  console.log(`${counts.same} the same, ${counts.forgiven} with known differences only, ${counts.differ} differ, of ${conversations.length}`);
  return died || counts.differ || !conversations.length ? 1 : 0;
}

// Runs the scenarios of real client libraries against one node or two.
//
//   node run.mjs --a ws://… [--b ws://…]     providers at a, consumers at b (b defaults to a)
//   node run.mjs --reference                 the same against the reference gateway
//
//   --suite NAME     only these suites (repeat or separate by commas)
//   --only TEXT      only scenarios whose name contains TEXT
//   --lib LIB        io, glue, mixed (io provides, glue consumes), both (default) or all
//   --jobs N         how many scenarios at once (default 4)
//   --repeat N       each scenario N times
//   --swap           providers at b, consumers at a
//   --control CMD    a program that obeys `CMD kill b` and `CMD start b`, for `--suite restart`
//   --verbose        what the libraries logged, below each failure
//
// Ends with 0 if every scenario is as expected, else with 1.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { parseArgs } from 'node:util';
import { World } from './lib/world.mjs';
import { reasonOf, within } from './lib/wait.mjs';
import { knownReference } from './lib/known-reference.mjs';
import { startReference } from './reference.mjs';

const SUITES = ['connect', 'methods', 'streams', 'contexts', 'pubsub', 'reconnect'];
const LIBS = {
  io: [{ a: 'io', b: 'io' }],
  glue: [{ a: 'glue', b: 'glue' }],
  mixed: [{ a: 'io', b: 'glue' }],
};
LIBS.both = [...LIBS.io, ...LIBS.glue];
LIBS.all = [...LIBS.both, ...LIBS.mixed];

const { values: flags } = parseArgs({
  options: {
    a: { type: 'string' },
    b: { type: 'string' },
    reference: { type: 'boolean', default: false },
    suite: { type: 'string', multiple: true, default: [] },
    only: { type: 'string', default: '' },
    lib: { type: 'string', default: 'both' },
    jobs: { type: 'string', default: '4' },
    repeat: { type: 'string', default: '1' },
    control: { type: 'string' },
    swap: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
  },
});

const loose = [];
process.on('unhandledRejection', (error) => loose.push(reasonOf(error)));

const reference = flags.reference ? await startReference() : undefined;
const urls = placesOf(flags, reference);
const control = flags.control && controlOf(flags.control, flags.swap ? 'a' : 'b');
const runs = await planned(flags);
const counts = { ok: 0, known: 0, failed: 0 };
let done = 0;

await inParallel(runs.filter(({ scenario }) => !scenario.alone), Number(flags.jobs));
await inParallel(runs.filter(({ scenario }) => scenario.alone), 1);
finish();

function placesOf({ a, b, swap }, reference) {
  const urls = reference ? { a: reference.url, b: reference.url } : { a, b: b ?? a };
  if (!urls.a) {
    console.error('give --a ws://…, or --reference');
    process.exit(1);
  }
  return swap ? { a: urls.b, b: urls.a } : urls;
}

/** Kills and starts the node at place b by the program that was given. */
function controlOf(command, node) {
  const tell = async (action) => {
    const child = spawn(`${command} ${action} ${node}`, { shell: true, stdio: ['ignore', 'ignore', 'inherit'] });
    const [code] = await once(child, 'exit');
    if (code !== 0) throw new Error(`${command} ${action} ${node} ended with ${code}`);
  };
  return { kill: () => tell('kill'), start: () => tell('start') };
}

async function planned({ suite, only, lib, repeat }) {
  if (!LIBS[lib]) throw new Error(`--lib ${lib}: one of ${Object.keys(LIBS).join(', ')}`);
  const names = suite.length ? suite.flatMap((text) => text.split(',')) : SUITES;
  const runs = [];
  for (const name of names) {
    const { default: scenarios } = await import(`./suites/${name}.mjs`);
    for (const scenario of scenarios) {
      if (!`${name}: ${scenario.name}`.includes(only)) continue;
      if (scenario.only && scenario.only !== (urls.a === urls.b ? 'one' : 'two')) continue;
      for (const libs of LIBS[lib]) {
        if (![libs.a, libs.b].every((one) => scenario.libs.includes(one))) continue;
        for (let round = 0; round < Number(repeat); round += 1) runs.push({ suite: name, scenario, libs });
      }
    }
  }
  return runs;
}

async function inParallel(runs, jobs) {
  const queue = [...runs];
  await Promise.all(
    Array.from({ length: jobs }, async () => {
      for (let run = queue.shift(); run; run = queue.shift()) await one(run);
    }),
  );
}

async function one({ suite, scenario, libs }) {
  const world = new World({ urls, libs, control });
  const start = performance.now();
  let error;
  try {
    await within(scenario.timeoutMs, scenario.body(world), `scenario ended`);
  } catch (caught) {
    error = caught ?? new Error('failed without a reason');
  }
  const ms = Math.round(performance.now() - start);
  await world.close();
  report({ suite, scenario, libs, error, ms, world });
}

function report({ suite, scenario, libs, error, ms, world }) {
  const name = `${suite}: ${scenario.name}`;
  const lib = libs.a === libs.b ? libs.a : `${libs.a}-${libs.b}`;
  const known = reference && knownReference[name];
  const outcome = !error ? 'ok' : known ? 'known' : 'failed';
  counts[outcome] += 1;
  done += 1;
  const why = error ? `  ${known ? `${known} — ` : ''}${reasonOf(error).split('\n').slice(0, 12).join(' ')}` : '';
  console.log(`[${String(done).padStart(3)}/${runs.length}] ${outcome.padEnd(6)} ${lib.padEnd(7)} ${name} (${ms} ms)${why}`);
  if (error && !known && flags.verbose) {
    if (error.stack) console.log(indent(error.stack.split('\n').slice(0, 16).join('\n')));
    if (world.log.length) console.log(indent(world.log.slice(-20).join('\n')));
  }
}

function indent(text) {
  return text.replace(/^/gm, '      | ');
}

function finish() {
  const gone = reference && !reference.alive();
  reference?.stop();
  for (const reason of new Set(loose)) console.log(`note: a rejection that a library did not handle: ${reason}`);
  if (gone) console.log('the reference gateway has died');
  console.log(`${counts.ok} ok, ${counts.known} known differences, ${counts.failed} failed, of ${runs.length}`);
  process.exit(counts.failed || gone || !runs.length ? 1 : 0);
}

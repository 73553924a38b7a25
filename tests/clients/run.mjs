// Runs the scenarios of real client libraries against one node, two or three.
//
//   node run.mjs --a ws://… [--b ws://…]     providers at a, consumers at b (b defaults to a)
//   node run.mjs --a … --b … --c ws://…      also what needs a third node
//   node run.mjs --reference                 the same against the reference gateway
//
//   --suite NAME     only these suites (repeat or separate by commas)
//   --only TEXT      only scenarios whose name contains TEXT
//   --lib LIB        io, glue, mixed (io provides, glue consumes), both (default) or all
//   --jobs N         how many scenarios at once (default 4)
//   --repeat N       each scenario N times
//   --swap           providers at b, consumers at a
//   --deskmesh       forgive what deskmesh is known for: lib/known-deskmesh.mjs
//   --control CMD    a program that kills and starts nodes, for `--suite restart`, and freezes them and cuts
//                    the links between them, for `--suite links`; see the README
//   --verbose        where it failed and what the libraries logged, below each failure
//
// Ends with 0 if every scenario went as expected, else with 1.

import { parseArgs } from 'node:util';
import { controlOf } from './lib/control.mjs';
import { knownDeskmesh } from './lib/known-deskmesh.mjs';
import { knownReference } from './lib/known-reference.mjs';
import { runAll } from './lib/runner.mjs';
import { reasonOf } from './lib/wait.mjs';
import { World } from './lib/world.mjs';
import { startReference } from './reference.mjs';

const SUITES = ['connect', 'tokens', 'methods', 'streams', 'contexts', 'channels', 'pubsub', 'visibility', 'reconnect', 'mesh'];
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
    c: { type: 'string' },
    reference: { type: 'boolean', default: false },
    deskmesh: { type: 'boolean', default: false },
    suite: { type: 'string', multiple: true, default: SUITES },
    only: { type: 'string', default: '' },
    lib: { type: 'string', default: 'both' },
    jobs: { type: 'string', default: '4' },
    repeat: { type: 'string', default: '1' },
    swap: { type: 'boolean', default: false },
    control: { type: 'string' },
    verbose: { type: 'boolean', default: false },
  },
});

const unhandled = new Set();
process.on('unhandledRejection', (error) => unhandled.add(reasonOf(error)));

const reference = flags.reference ? await startReference() : undefined;
const urls = placesOf(flags);
const control = flags.control && controlOf(flags.control, flags.swap || urls.a === urls.b ? 'a' : 'b');
let code = await runAll(await planned(), { jobs: Number(flags.jobs), verbose: flags.verbose });
for (const reason of unhandled) console.log(`note: a rejection that a library did not handle: ${reason}`);
if (reference && !reference.alive()) {
  console.log('the reference gateway has died');
  code = 1;
}
reference?.stop();
process.exit(code);

function placesOf({ a = reference?.url, b = a, c, swap }) {
  if (!a) {
    console.error('give --a ws://…, or --reference');
    process.exit(1);
  }
  return swap ? { a: b, b: a, c } : { a, b, c };
}

async function planned() {
  const pairs = LIBS[flags.lib];
  if (!pairs) throw new Error(`--lib ${flags.lib}: one of ${Object.keys(LIBS).join(', ')}`);
  const nodes = urls.a === urls.b ? 'one' : 'two';
  const items = [];
  for (const suite of flags.suite.flatMap((text) => text.split(','))) {
    const { default: scenarios } = await import(`./suites/${suite}.mjs`);
    for (const scenario of scenarios) {
      const name = `${suite}: ${scenario.name}`;
      if (!name.includes(flags.only)) continue;
      if (scenario.only && scenario.only !== nodes) continue;
      if (scenario.third && !urls.c) continue;
      for (const libs of pairs) {
        if (![libs.a, libs.b].every((lib) => scenario.libs.includes(lib))) continue;
        const item = {
          ...scenario,
          name,
          label: libs.a === libs.b ? libs.a : `${libs.a}-${libs.b}`,
          known: reference ? knownReference[name] : flags.deskmesh && knownDeskmesh(name),
          pointOut: flags.deskmesh,
          open: () => new World({ urls, libs, control }),
        };
        items.push(...Array.from({ length: Number(flags.repeat) }, () => item));
      }
    }
  }
  return items;
}

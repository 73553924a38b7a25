// Runs the checks of the wire protocol against one node or two, without any client library.
//
//   node conformance.mjs --a ws://… [--b ws://…]     the observer is at b where that has a meaning
//   node conformance.mjs --reference                 the same against the reference gateway
//
//   --only TEXT      only checks whose number or words contain TEXT
//   --jobs N         how many at once (default 4)
//   --repeat N       each check N times
//   --deskmesh       forgive what deskmesh is known for: lib/known-deskmesh.mjs
//   --verbose        where it failed, below each failure
//
// Ends with 0 if every check went as expected, else with 1.

import { parseArgs } from 'node:util';
import { knownDeskmeshCheck } from './lib/known-deskmesh.mjs';
import { knownReferenceChecks } from './lib/known-reference.mjs';
import { RawWorld } from './lib/raw.mjs';
import { runAll } from './lib/runner.mjs';
import { startReference } from './reference.mjs';

const SECTIONS = ['global', 'interop', 'contexts', 'bus', 'improvements'];

const { values: flags } = parseArgs({
  options: {
    a: { type: 'string' },
    b: { type: 'string' },
    reference: { type: 'boolean', default: false },
    deskmesh: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    jobs: { type: 'string', default: '4' },
    repeat: { type: 'string', default: '1' },
    verbose: { type: 'boolean', default: false },
  },
});

const reference = flags.reference ? await startReference() : undefined;
const { a = reference?.url, b = a } = flags;
if (!a) {
  console.error('give --a ws://…, or --reference');
  process.exit(1);
}

const nodes = a === b ? 'one' : 'two';
const items = [];
for (const section of SECTIONS) {
  const { default: checks } = await import(`./checks/${section}.mjs`);
  for (const check of checks) {
    const name = `${check.id} ${check.what}`;
    if (!name.includes(flags.only) || (reference && check.kills)) continue;
    const item = {
      ...check,
      name,
      label: section,
      known: reference ? knownReferenceChecks[check.id] : flags.deskmesh && knownDeskmeshCheck(check.id, name, nodes),
      pointOut: flags.deskmesh,
      open: () => new RawWorld({ urls: { a, b } }),
    };
    items.push(...Array.from({ length: Number(flags.repeat) }, () => item));
  }
}
const code = await runAll(items, { jobs: Number(flags.jobs), verbose: flags.verbose });
const died = reference && !reference.alive();
if (died) console.log('the reference gateway has died');
reference?.stop();
process.exit(died ? 1 : code);

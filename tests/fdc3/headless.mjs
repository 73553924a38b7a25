// Runs the FDC3 client libraries, in Node.js and without a browser, against one node or two.
//
//   node headless.mjs --write-directory FILE [--place a|b]   writes the app directory that the nodes need
//   node headless.mjs --a ws://…/fdc3 [--b ws://…/fdc3]      runs the checks; b defaults to a
//
//   --build NAME=DIR  one more generation of the libraries, from a build of FDC3: mid (2.2.3) or new (3.0)
//   --lib LIB         old (2.2.0), beta (2.2.1-beta.2), a NAME of --build, two for a and b as in old+mid,
//                     each (default: every one by itself) or all (each, and old with every other both ways)
//   --suite NAME      only these suites (repeat or separate by commas)
//   --only TEXT       only checks whose name contains TEXT
//   --full            the nodes take few apps of a user: `limits.sessions_per_user_max` is 3; with `--only full`
//   --user NAME       all checks as this user's; else each has one of its own
//   --control CMD     a program that cuts and heals the link between the nodes, and kills and starts them, for
//                     `--suite links`; see ../clients/README.md
//   --jobs N          how many checks at once (default 4)
//   --repeat N        each check N times
//   --list            names the checks
//   --verbose         where it failed, below each failure
//
// Ends with 0 if every check went as expected, else with 1.

import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { controlOf } from '../clients/lib/control.mjs';
import { runAll } from '../clients/lib/runner.mjs';
import { reasonOf } from '../clients/lib/wait.mjs';
import { directory } from './lib/directory.mjs';
import { addBuild, load, names } from './lib/libraries.mjs';
import { World } from './lib/world.mjs';

const SUITES = ['connect', 'channels', 'intents', 'launch', 'native', 'io'];

const { values: flags } = parseArgs({
  options: {
    'write-directory': { type: 'string' },
    place: { type: 'string' },
    a: { type: 'string' },
    b: { type: 'string' },
    build: { type: 'string', multiple: true, default: [] },
    lib: { type: 'string', default: 'each' },
    suite: { type: 'string', multiple: true, default: SUITES },
    only: { type: 'string', default: '' },
    control: { type: 'string' },
    full: { type: 'boolean', default: false },
    user: { type: 'string' },
    jobs: { type: 'string', default: '4' },
    repeat: { type: 'string', default: '1' },
    list: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
  },
});

if (flags['write-directory']) {
  await writeFile(flags['write-directory'], `${JSON.stringify(directory(flags.place), undefined, 2)}\n`);
  process.exit(0);
}
if (!flags.a && !flags.list) {
  console.error('give --a ws://…/fdc3');
  process.exit(1);
}

flags.build.forEach(addBuild);
const pairs = pairsOf(flags.lib);
await Promise.all(pairs.flatMap(({ a, b }) => [load(a), load(b)]));
const unhandled = new Set();
process.on('unhandledRejection', (error) => unhandled.add(reasonOf(error)));

const items = await planned();
if (flags.list) {
  for (const { label, name } of items) console.log(`${label.padEnd(8)} ${name}`);
  process.exit(0);
}
const code = await runAll(items, { jobs: Number(flags.jobs), verbose: flags.verbose });
for (const reason of unhandled) console.log(`note: a rejection that a library did not handle: ${reason}`);
process.exit(code);

function pairsOf(text) {
  const each = names().map((name) => ({ a: name, b: name }));
  const mixed = names().filter((name) => name !== 'old').flatMap((name) => [{ a: 'old', b: name }, { a: name, b: 'old' }]);
  if (text === 'each') return each;
  if (text === 'all') return [...each, ...mixed];
  const [a, b = a] = text.split('+');
  return [{ a, b }];
}

async function planned() {
  const { a, b = a, user } = flags;
  const nodes = a === b ? 'one' : 'two';
  const control = flags.control && controlOf(flags.control, 'b');
  const planned = [];
  for (const suite of flags.suite.flatMap((text) => text.split(','))) {
    const { default: checks } = await import(`./suites/${suite}.mjs`);
    for (const check of checks) {
      const name = `${suite}: ${check.name}`;
      if (!name.includes(flags.only)) continue;
      if (check.only && check.only !== nodes) continue;
      if (check.needs && !flags[check.needs]) continue;
      for (const libs of check.raw ? pairs.slice(0, 1) : pairs) {
        const item = {
          ...check,
          name,
          label: check.raw ? 'raw' : libs.a === libs.b ? libs.a : `${libs.a}+${libs.b}`,
          open: () => new World({ urls: { a, b }, libs, user, control }),
        };
        planned.push(...Array.from({ length: Number(flags.repeat) }, () => item));
      }
    }
  }
  return planned;
}

// The published client libraries, unmodified, bundled in memory: Node.js cannot load them as they are,
// since they import each other without file extensions.

import { build } from 'esbuild';
import { fileURLToPath } from 'node:url';

/** What `npm ci` brings. */
const INSTALLED = { old: 'fdc3-agent-proxy-old', beta: 'fdc3-agent-proxy-beta' };

/** The other generations, by the directory of a build of FDC3 that they are taken from. */
const built = new Map();
const loaded = new Map();

/** Makes a build known, as in `--build mid=/src/FDC3`. */
export function addBuild(text) {
  const [, name, directory] = /^(\w+)=(.+)$/.exec(text) ?? [];
  if (!name) throw new Error(`--build ${text}: give it as NAME=DIRECTORY`);
  built.set(name, directory);
}

export const names = () => [...Object.keys(INSTALLED), ...built.keys()];

/** Resolves with the exports of the agent proxy of one generation. */
export function load(name) {
  if (!names().includes(name)) throw new Error(`no library "${name}": one of ${names().join(', ')}`);
  if (!loaded.has(name)) loaded.set(name, bundle(name));
  return loaded.get(name);
}

async function bundle(name) {
  const directory = built.get(name);
  const { outputFiles } = await build({
    stdin: {
      contents: `export * from '${directory ? '@finos/fdc3-agent-proxy' : INSTALLED[name]}'`,
      resolveDir: directory ?? fileURLToPath(new URL('.', import.meta.url)),
    },
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'node',
    logLevel: 'error',
  });
  return import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString('base64')}`);
}

// The libraries print what they send and get, and there is no way to tell them not to.
for (const level of ['debug', 'info', 'log', 'warn', 'error']) {
  const say = console[level];
  console[level] = (...args) => String(args[0]).includes('FDC3 DesktopAgentProxy') || say(...args);
}

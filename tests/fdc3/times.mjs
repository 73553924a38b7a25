// How long a page takes to have its agent, in Chromium. It checks nothing: times are for people to judge.
//
//   node times.mjs --write-directory FILE [--app-port 5100]    writes the app directory that the node needs
//   node times.mjs --node http://127.0.0.1:8385 [--app-port 5100] [--count 10] [--lib old]
//
// Three pages that no launcher opened: one with the failover as it is, one that has the library look for other agents for
// 100 ms only, and one that `preload()` has prepared. Each is loaded `count` times in a fresh profile, and then again there.

import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';
import { build } from 'esbuild';
import { chromium } from 'playwright-core';

const { values: flags } = parseArgs({
  options: {
    'write-directory': { type: 'string' },
    node: { type: 'string', default: 'http://127.0.0.1:8385' },
    'app-port': { type: 'string', default: '5100' },
    count: { type: 'string', default: '10' },
    lib: { type: 'string', default: 'old' },
  },
});

const PAGES = {
  failover: 'getAgent({ failover })',
  'failover, timeoutMs 100': 'getAgent({ failover, timeoutMs: 100 })',
  preload: 'preload() && getAgent()',
};
const again = (call) => call.replace('preload() && ', '');
const url = (at) => `http://127.0.0.1:${flags['app-port']}/${at}`;
const records = Object.keys(PAGES).map((name, at) => ({ appId: `times-${at}`, title: name, type: 'web', details: { url: url(at) } }));

if (flags['write-directory']) {
  writeFileSync(flags['write-directory'], JSON.stringify({ applications: records }, null, 2));
  process.exit(0);
}

const bundle = await build({
  stdin: { contents: `import { getAgent } from 'fdc3-${flags.lib}'; window.getAgent = getAgent;`, resolveDir: import.meta.dirname },
  bundle: true, minify: true, write: false, format: 'iife', platform: 'browser', logLevel: 'error',
});

/** The page says how long `getAgent()` took it, and which instance it is. */
const page = (call) => `<!doctype html><title>times</title><link rel="icon" href="data:,"><script src="/library.js"></script>
<script type="module">
import { failover, preload } from '${flags.node}/fdc3/agent.js';
const known = Object.keys(sessionStorage).length > 0;
const began = performance.now();
const agent = await (known ? ${again(call)} : ${call});
const ms = performance.now() - began;
const { appMetadata } = await agent.getInfo();
window.outcome = { ms, instanceId: appMetadata.instanceId };
</script>`;

const calls = Object.values(PAGES);
const server = createServer((request, response) => {
  const isLibrary = request.url === '/library.js';
  response.writeHead(200, { 'content-type': isLibrary ? 'text/javascript' : 'text/html', ...(isLibrary && { 'cache-control': 'max-age=600' }) });
  response.end(isLibrary ? bundle.outputFiles[0].text : page(calls[Number(request.url.slice(1))] ?? calls[0]));
});
await new Promise((resolve) => server.listen(Number(flags['app-port']), '127.0.0.1', resolve));
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });

const said = (times) => {
  const sorted = times.map(Math.round).sort((a, b) => a - b);
  return `${sorted[sorted.length >> 1]} ms (${sorted[0]} to ${sorted.at(-1)})`;
};
const outcome = async (tab) => (await tab.waitForFunction(() => window.outcome)).jsonValue();

for (const [at, name] of Object.keys(PAGES).entries()) {
  const first = [];
  const reloads = [];
  for (let n = 0; n < Number(flags.count); n += 1) {
    const context = await browser.newContext();
    const tab = await context.newPage();
    await tab.goto(url(at));
    const { ms, instanceId } = await outcome(tab);
    first.push(ms);
    const began = performance.now();
    await tab.reload();
    const back = await outcome(tab);
    reloads.push(performance.now() - began);
    if (back.instanceId !== instanceId) throw new Error(`${name}: another instance after a reload`);
    await context.close();
  }
  console.log(`${name}: getAgent() ${said(first)}, a reload from its start to its agent ${said(reloads)}`);
}
await browser.close();
server.close();

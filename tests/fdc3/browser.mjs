// Drives the pages that a node serves to browsers, in Chromium, with apps that use the published FDC3 library.
//
//   node browser.mjs --write-directory FILE --app-port PORT     writes the app directory of the test apps and ends;
//                                                               start the node with FILE as its directory then
//   node browser.mjs --node http://127.0.0.1:8385 --app-port PORT
//
//   --lib old|beta       the library of the apps: @finos/fdc3 2.2.0 (default) or 2.2.1-beta.2
//   --restart CMD        a program that ends the node, starts it again and returns; without it nothing is restarted
//   --full               the node takes few apps: `limits.sessions_per_user_max` is 3, and only that is checked
//   --only TEXT          only checks whose name contains TEXT
//   --screenshots DIR    pictures of launcher, channel selector and resolver, light and dark
//   --verbose            what the pages log
//
// CHROMIUM names the browser, by default /usr/bin/chromium. Ends with 0 if every check passed, else with 1.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { build } from 'esbuild';
import { chromium } from 'playwright-core';

const { values: flags } = parseArgs({
  options: {
    node: { type: 'string' },
    'app-port': { type: 'string' },
    'write-directory': { type: 'string' },
    lib: { type: 'string', default: 'old' },
    restart: { type: 'string' },
    full: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    screenshots: { type: 'string' },
    verbose: { type: 'boolean', default: false },
  },
});

const PAGES = fileURLToPath(new URL('pages', import.meta.url));
const APPS = `http://127.0.0.1:${flags['app-port']}`;
const INSTRUMENT = { type: 'fdc3.instrument', name: 'Vodafone', id: { ticker: 'VOD.L' } };

// ---- the test apps --------------------------------------------------------------------------

/** The address of an app; `intents` are those it listens for. */
function appUrl(page, app, intents = []) {
  return `${APPS}/${page}.html?app=${app}${intents.length ? `&intents=${intents.join(',')}` : ''}`;
}

function record(appId, title, page = 'app', intents = []) {
  return {
    appId, title, type: 'web', description: `${title} of the browser checks`, details: { url: appUrl(page, appId, intents) },
    interop: { intents: { listensFor: Object.fromEntries(intents.map(intent => [intent, { contexts: ['fdc3.instrument'], displayName: intent.replace('View', 'View ') }])) } },
  };
}

const DIRECTORY = [
  record('trader', 'Trader'),
  record('blotter', 'Blotter'),
  record('chart', 'Price Chart', 'app', ['ViewChart', 'ViewMany']),
  record('news', 'News Reader', 'app', ['ViewChart', 'ViewNews', 'ViewMany']),
  ...Array.from({ length: 8 }, (_, index) => record(`desk-${index + 1}`, `Desk View ${index + 1}`, 'app', ['ViewMany'])),
  record('plain', 'Plain Tab', 'plain'),
  record('seeded', 'Seeded Tab', 'seeded'),
  record('forbids', 'Forbids Frames', 'forbids'),
  { ...record('enclosed', 'Enclosed'), details: { url: `${appUrl('app', 'enclosed')}&policy` } },
  record('isolated', 'Isolated', 'isolated'),
  record('pretender', 'Pretender', 'pretender'),
];

if (flags['write-directory']) {
  writeFileSync(flags['write-directory'], JSON.stringify({ applications: DIRECTORY }, null, 2));
  process.exit(0);
}

const MIME = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8' };
const NO_FRAMES = { 'content-security-policy': `script-src 'self' ${flags.node}; frame-src 'self'` };
const ISOLATED = { 'cross-origin-opener-policy': 'same-origin' };
const HEADERS = { '/forbids.html': NO_FRAMES, '/isolated.html': ISOLATED };

async function serveApps() {
  const bundle = await build({
    stdin: { contents: `import { getAgent } from 'fdc3-${flags.lib}'; window.getAgent = getAgent;`, resolveDir: PAGES },
    bundle: true, write: false, format: 'iife', platform: 'browser', logLevel: 'error',
  });
  const library = bundle.outputFiles[0].text;
  // As of an app that carries a copy of the module.
  const agentModule = await (await fetch(`${flags.node}/fdc3/agent.js`)).text();
  const server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, APPS);
    const asked = { ...(searchParams.has('policy') ? NO_FRAMES : {}), ...(searchParams.has('isolated') ? ISOLATED : {}) };
    try {
      const body = pathname === '/library.js' ? library : pathname === '/fdc3/agent.js' ? agentModule : readFileSync(join(PAGES, pathname));
      response.writeHead(200, { 'content-type': MIME[extname(pathname)], ...HEADERS[pathname], ...asked }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve, reject) => server.once('error', reject).listen(Number(flags['app-port']), '127.0.0.1', resolve));
  return server;
}

// ---- driving --------------------------------------------------------------------------------

const SWITCHES = ['--no-sandbox', '--disable-background-timer-throttling', '--disable-renderer-backgrounding',
  '--disable-backgrounding-occluded-windows', '--disable-features=CalculateNativeWinOcclusion,IntensiveWakeUpThrottling'];

function startBrowser({ args = [], blockPopups = false } = {}) {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: [...SWITCHES, ...args],
    ignoreDefaultArgs: blockPopups ? ['--disable-popup-blocking'] : [] });
}

/** One browser window group of its own, with what its pages logged. */
class Desk {
  logs = [];

  static async open(browser, options = {}) {
    const desk = new Desk();
    desk.context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    desk.context.on('console', message => {
      desk.logs.push({ level: message.type(), text: message.text(), page: message.page()?.url() ?? '', from: message.location().url });
      if (flags.verbose) console.log(`    [${message.type()}] ${message.text()}`);
    });
    return desk;
  }

  async launcher() {
    const page = await this.context.newPage();
    await page.goto(`${flags.node}/fdc3/desktop`);
    await page.locator('.app[data-app-id=trader]').first().waitFor();
    return page;
  }

  /** Starts an app from the launcher and waits until it has its agent. */
  async start(launcher, appId) {
    const [app] = await Promise.all([this.context.waitForEvent('page'), launcher.locator(`.app[data-app-id="${appId}"]`).first().click()]);
    const { instanceId } = await outcome(app);
    assert.ok(instanceId, `${appId} has no instanceId: ${JSON.stringify(await outcome(app))}`);
    return { app, instanceId };
  }

  async visit(url) {
    const page = await this.context.newPage();
    await page.goto(url);
    return page;
  }

  /** Waits for something an app or a page of the node has logged. */
  async logged(pattern) {
    return until(() => this.logs.find(({ text }) => pattern.test(text)), `a console message like ${pattern}`);
  }
}

/** Puts the test between adaptors and node: `cut(n)` breaks the n-th connection that was made and allows no new ones until `allow()`. */
async function controlLinks(desk) {
  const links = [];
  let allowed = true;
  await desk.context.routeWebSocket(url => url.pathname === '/fdc3', page => {
    if (!allowed) { page.close(); return; }
    links.push({ page, node: page.connectToServer() });
  });
  return {
    cut(index) {
      allowed = false;
      const [{ page, node }] = links.splice(index, 1);
      page.close();
      node.close();
    },
    allow() { allowed = true; },
  };
}

async function outcome(app) {
  await app.waitForFunction(() => window.outcome, null, { timeout: 20_000 });
  return app.evaluate(() => window.outcome);
}

async function until(probe, what) {
  for (let turn = 0; turn < 200; turn++) {
    const found = await probe();
    if (found) return found;
    await new Promise(resolve => setTimeout(resolve, 50));
  }
  throw new Error(`waited in vain for ${what}`);
}

const row = (launcher, instanceId) => launcher.locator(`.instance[data-instance-id="${instanceId}"]`);
const frameOf = (app, page) => until(() => app.frames().find(frame => frame.url().includes(`/fdc3/${page}`)), `the ${page} frame`);
const sizeOf = async (app, page) => (await (await frameOf(app, page)).frameElement()).boundingBox();
const currentChannel = app => app.evaluate(async () => (await window.agent.getCurrentChannel())?.id ?? null);
const heard = (app, count = 1) => app.waitForFunction(wanted => window.heard.length >= wanted, count).then(() => app.evaluate(() => window.heard));

/** Raises an intent without waiting: the outcome comes to `window.raised`. */
const raise = (app, intent) => app.evaluate(([name, context]) => {
  window.raised = null;
  const raising = name ? window.agent.raiseIntent(name, context) : window.agent.raiseIntentForContext(context);
  raising.then(({ source, intent: chosen }) => { window.raised = { source, intent: chosen }; }, error => { window.raised = { error: error.message }; });
}, [intent, INSTRUMENT]);
const raised = app => app.waitForFunction(() => window.raised).then(() => app.evaluate(() => window.raised));
const resolverOpen = async app => { const frame = await frameOf(app, 'resolver'); await frame.locator('.choice').first().waitFor(); return frame; };

/** What a mesh of three machines would offer for one intent. */
const OFFERED = [{ intent: { name: 'ViewChart', displayName: 'View Chart' }, apps: [
  { appId: 'chart', title: 'Price Chart' },
  { appId: 'news', title: 'News Reader' },
  { appId: 'chart', title: 'Price Chart', desktopAgent: 'desk-b' },
  { appId: 'chart', title: 'Price Chart', instanceId: 'a-1', instanceMetadata: { title: 'Vodafone, daily' } },
  { appId: 'chart', title: 'Price Chart', instanceId: 'c-1', desktopAgent: 'desk-c' },
] }];

async function openResolver(desk, appIntents) {
  const host = await desk.visit(`${APPS}/resolver-host.html?node=${flags.node}`);
  await host.waitForFunction(() => window.port);
  await host.evaluate(offered => window.resolve(offered), appIntents);
  return host;
}

// ---- the checks -----------------------------------------------------------------------------

const checks = {
  async 'the launcher lists apps, finds by name, starts with Enter'(desk) {
    const launcher = await desk.launcher();
    await launcher.keyboard.press('/');
    await launcher.keyboard.type('blot');
    await until(async () => await launcher.locator('.app').count() === 1, 'one app that matches');
    const [app] = await Promise.all([desk.context.waitForEvent('page'), launcher.keyboard.press('Enter')]);
    const { appId, instanceId } = await outcome(app);
    assert.equal(appId, 'blotter');
    await row(launcher, instanceId).locator('select:enabled').waitFor();
    assert.deepEqual(desk.logs.filter(({ level, from }) => level === 'error' && from.startsWith(flags.node)), []);
  },

  async 'arrow keys go through the apps of the launcher, with one tab stop'(desk) {
    const launcher = await desk.launcher();
    await launcher.locator('#search').press('ArrowDown');
    const focused = () => launcher.evaluate(() => document.activeElement.dataset.appId);
    const first = await focused();
    await launcher.keyboard.press('ArrowRight');
    assert.notEqual(await focused(), first);
    await launcher.keyboard.press('Home');
    assert.equal(await focused(), first);
    assert.equal(await launcher.locator('.app[tabindex="0"]').count(), 1);
  },

  async 'a reload keeps the instance, also without the launcher'(desk) {
    const launcher = await desk.launcher();
    const { app, instanceId } = await desk.start(launcher, 'trader');
    await app.reload();
    assert.equal((await outcome(app)).instanceId, instanceId);
    await launcher.close();
    await app.evaluate(() => window.agent.findInstances({ appId: 'trader' }));
    await app.reload();
    assert.equal((await outcome(app)).instanceId, instanceId);
  },

  async 'a copy of a tab is an instance of its own'(desk) {
    const { app, instanceId } = await desk.start(await desk.launcher(), 'trader');
    const [copy] = await Promise.all([desk.context.waitForEvent('page'), app.evaluate(() => { window.open(location.href); })]);
    const second = await outcome(copy);
    assert.ok(second.instanceId);
    assert.notEqual(second.instanceId, instanceId);
    await app.evaluate(() => window.agent.findInstances({ appId: 'trader' }));
  },

  async 'a closed window leaves the launcher'(desk) {
    const launcher = await desk.launcher();
    const { app, instanceId } = await desk.start(launcher, 'trader');
    await row(launcher, instanceId).waitFor();
    await app.close();
    await row(launcher, instanceId).waitFor({ state: 'detached' });
  },

  async 'the launcher moves an app to a channel, and its selector shows it'(desk) {
    const launcher = await desk.launcher();
    const { app, instanceId } = await desk.start(launcher, 'trader');
    await row(launcher, instanceId).locator('select').selectOption('fdc3.channel.4');
    await until(async () => await currentChannel(app) === 'fdc3.channel.4', 'the app on channel 4');
    const selector = await frameOf(app, 'channels');
    await until(async () => /Channel: (Channel 4|Green)/i.test(await selector.locator('#current').getAttribute('aria-label')), 'the selector on channel 4');
    await row(launcher, instanceId).locator('select').selectOption('');
    await until(async () => await currentChannel(app) === null, 'the app on no channel');
  },

  async 'the channel selector is small, opens, and works with keys'(desk) {
    const launcher = await desk.launcher();
    const { app, instanceId } = await desk.start(launcher, 'trader');
    const selector = await frameOf(app, 'channels');
    const closed = await until(async () => { const box = await sizeOf(app, 'channels'); return box?.height > 10 && box; }, 'the selector in its corner');
    assert.ok(closed.height < 40 && closed.width < 200, JSON.stringify(closed));
    await selector.locator('#current').press('ArrowDown');
    await until(async () => (await sizeOf(app, 'channels')).height > 150, 'the open list');
    await app.keyboard.press('Escape');
    await until(async () => (await sizeOf(app, 'channels')).height < 40, 'the closed list');
    await selector.locator('#current').press('Enter');
    await until(async () => (await sizeOf(app, 'channels')).height > 150, 'the open list');
    await app.keyboard.press('ArrowDown');
    await app.keyboard.press('ArrowDown');
    await app.keyboard.press('Enter');
    await until(async () => await currentChannel(app) === 'fdc3.channel.2', 'the app on channel 2');
    await until(async () => await row(launcher, instanceId).locator('select').inputValue() === 'fdc3.channel.2', 'channel 2 in the launcher');
  },

  async 'the channel selector is dragged by its grip and stays there'(desk) {
    const { app } = await desk.start(await desk.launcher(), 'trader');
    const selector = await frameOf(app, 'channels');
    await until(async () => (await sizeOf(app, 'channels'))?.height > 10, 'the selector in its corner');
    const grip = await selector.locator('#grip').boundingBox(), before = await sizeOf(app, 'channels');
    await app.mouse.move(grip.x + 4, grip.y + 10);
    await app.mouse.down();
    await app.mouse.move(grip.x - 196, grip.y - 90, { steps: 5 });
    await app.mouse.up();
    const after = await until(async () => { const box = await sizeOf(app, 'channels'); return box.x < before.x - 150 && box; }, 'the selector elsewhere');
    assert.ok(after.y < before.y - 80, JSON.stringify({ before, after }));
    await app.reload();
    await outcome(app);
    await until(async () => (await sizeOf(app, 'channels'))?.x === after.x, 'the selector at its new place');
  },

  async 'two apps on one channel hear each other once'(desk) {
    const launcher = await desk.launcher();
    const speaker = await desk.start(launcher, 'trader'), listener = await desk.start(launcher, 'blotter');
    for (const { app } of [speaker, listener]) await app.evaluate(() => window.agent.joinUserChannel('fdc3.channel.1'));
    await speaker.app.evaluate(context => window.agent.broadcast({ ...context, name: 'said once' }), INSTRUMENT);
    const contexts = await heard(listener.app);
    assert.equal(contexts.filter(({ name }) => name === 'said once').length, 1);
    assert.equal((await speaker.app.evaluate(() => window.heard)).filter(({ name }) => name === 'said once').length, 0);
  },

  async 'the resolver offers apps and instances, and a click starts the chosen app'(desk) {
    const launcher = await desk.launcher();
    const { app } = await desk.start(launcher, 'trader');
    const news = await desk.start(launcher, 'news');
    assert.equal((await sizeOf(app, 'resolver'))?.height ?? 0, 0);
    await raise(app, 'ViewChart');
    const resolver = await resolverOpen(app);
    await until(async () => (await sizeOf(app, 'resolver')).height > 100, 'the open resolver');
    assert.equal(await resolver.locator('.choice').count(), 3);
    assert.match(await resolver.locator('#question').textContent(), /View Chart/);
    assert.equal(await resolver.locator(`.choice[data-instance-id="${news.instanceId}"]`).count(), 1);
    const [chart] = await Promise.all([desk.context.waitForEvent('page'), resolver.locator('.choice[data-app-id=chart]').click()]);
    const { instanceId } = await outcome(chart);
    assert.equal((await raised(app)).source.instanceId, instanceId);
    await until(async () => (await sizeOf(app, 'resolver'))?.height ? null : true, 'the closed resolver');
    assert.deepEqual(await chart.evaluate(() => window.intents), [{ intent: 'ViewChart', context: INSTRUMENT }]);
  },

  async 'the resolver with keys: a running instance, then Escape'(desk) {
    const launcher = await desk.launcher();
    const { app } = await desk.start(launcher, 'trader');
    const news = await desk.start(launcher, 'news');
    await app.bringToFront();
    await raise(app, 'ViewChart');
    const resolver = await resolverOpen(app);
    await until(() => resolver.evaluate(() => document.activeElement.matches('.choice')), 'the focus on a choice');
    await app.keyboard.press('End');
    await app.keyboard.press('Enter');
    assert.equal((await raised(app)).source.instanceId, news.instanceId);
    await raise(app, 'ViewChart');
    await resolver.locator('.choice').first().waitFor();
    await until(() => resolver.evaluate(() => document.activeElement.matches('.choice')), 'the focus on a choice');
    await app.keyboard.press('Escape');
    assert.equal((await raised(app)).error, 'UserCancelledResolution');
    await until(async () => (await sizeOf(app, 'resolver'))?.height ? null : true, 'the closed resolver');
  },

  async 'the resolver filters when there are many'(desk) {
    const { app } = await desk.start(await desk.launcher(), 'trader');
    await raise(app, 'ViewMany');
    const resolver = await resolverOpen(app);
    await resolver.locator('#filter').waitFor();
    await app.keyboard.type('view 7');
    await until(async () => await resolver.locator('.choice').count() === 1, 'one choice that matches');
    const [opened] = await Promise.all([desk.context.waitForEvent('page'), app.keyboard.press('Enter')]);
    assert.equal((await outcome(opened)).appId, 'desk-7');
    assert.equal((await raised(app)).source.appId, 'desk-7');
  },

  async 'the resolver groups by intent when the context fits several'(desk) {
    const { app } = await desk.start(await desk.launcher(), 'trader');
    await raise(app, null);
    const resolver = await resolverOpen(app);
    assert.deepEqual(await resolver.locator('h2').allTextContents(), ['View Chart', 'View Many', 'View News']);
    await resolver.locator('#cancel').click();
    assert.equal((await raised(app)).error, 'UserCancelledResolution');
  },

  async 'the resolver groups by machine and says which instance was chosen'(desk) {
    const host = await openResolver(desk, OFFERED);
    const resolver = await resolverOpen(host);
    assert.deepEqual(await resolver.locator('h3').allTextContents(), ['This machine', 'desk-b', 'desk-c']);
    assert.deepEqual(await resolver.locator('.choice .title').allTextContents(), ['Price Chart', 'Vodafone, daily', 'News Reader', 'Price Chart', 'Price Chart']);
    await resolver.locator('.choice[data-desktop-agent=desk-c]').click();
    await host.waitForFunction(() => window.actions.length);
    assert.deepEqual(await host.evaluate(() => window.actions), [
      { action: 'click', intent: 'ViewChart', appIdentifier: { appId: 'chart', instanceId: 'c-1', desktopAgent: 'desk-c' } }]);
  },

  async 'an app that was cut off goes on, and hears what was said meanwhile once'(desk) {
    const links = await controlLinks(desk);
    const launcher = await desk.launcher();
    const speaker = await desk.start(launcher, 'trader'), listener = await desk.start(launcher, 'blotter');
    for (const { app } of [speaker, listener]) await app.evaluate(() => window.agent.joinUserChannel('fdc3.channel.7'));
    // The node may remember what an earlier run said.
    const tagged = name => `${name} ${speaker.instanceId}`;
    const say = name => speaker.app.evaluate(context => window.agent.broadcast(context), { ...INSTRUMENT, name: tagged(name) });
    const names = async () => (await listener.app.evaluate(() => window.heard)).map(({ name }) => name);
    await say('before');
    await until(async () => (await names()).includes(tagged('before')), 'the first context');
    links.cut(1);
    await row(launcher, listener.instanceId).locator('select:enabled').waitFor({ state: 'detached' });
    // What the app itself asks for waits.
    await listener.app.evaluate(() => { window.waiting = window.agent.findInstances({ appId: 'trader' }); });
    await say('meanwhile');
    links.allow();
    await until(async () => (await names()).includes(tagged('meanwhile')), 'the context that was missed');
    assert.ok((await listener.app.evaluate(() => window.waiting)).length > 0);
    await say('later');
    await until(async () => (await names()).includes(tagged('later')), 'the last context');
    links.cut(1);
    links.allow();
    await say('at last');
    await until(async () => (await names()).includes(tagged('at last')), 'the context after the second cut');
    const all = await names();
    assert.deepEqual(all.slice(all.indexOf(tagged('before'))), ['before', 'meanwhile', 'later', 'at last'].map(tagged));
    assert.equal((await listener.app.evaluate(() => window.agent.getInfo())).appMetadata.instanceId, listener.instanceId);
  },

  async 'what waits for a node that is away is bounded'(desk) {
    const links = await controlLinks(desk);
    const { app } = await desk.start(await desk.launcher(), 'trader');
    links.cut(0);
    await desk.logged(/^FDC3: the connection .* was lost/);
    const refused = await app.evaluate(async () => {
      // These may be too late for their caller by the time the node is back.
      for (let count = 0; count < 1000; count++) window.agent.findInstances({ appId: 'trader' }).catch(() => {});
      return window.agent.findInstances({ appId: 'trader' }).then(() => null, error => error.message);
    });
    assert.equal(refused, 'ApiTimeout');
    await desk.logged(/^FDC3: .*WAITING_MESSAGES_MAX 1000/);
    links.allow();
    await until(() => app.evaluate(() => window.agent.findInstances({ appId: 'trader' }).then(found => found.length > 0, () => false)), 'an answer again');
  },

  async 'a private channel ends for an app that was cut off'(desk) {
    const links = await controlLinks(desk);
    const { app } = await desk.start(await desk.launcher(), 'trader');
    await app.evaluate(async () => {
      const channel = await window.agent.createPrivateChannel();
      window.ended = 0;
      await channel.addEventListener('disconnect', () => { window.ended++; });
    });
    links.cut(0);
    await app.waitForFunction(() => window.ended === 1);
    links.allow();
    await app.evaluate(() => window.agent.findInstances({ appId: 'trader' }));
  },

  async 'an app whose renderer dies is gone, and its private channel says so'(desk) {
    const launcher = await desk.launcher();
    const { app } = await desk.start(launcher, 'trader');
    await app.evaluate(async () => {
      window.ended = 0;
      await window.agent.addIntentListener('Stream', async () => {
        const channel = await window.agent.createPrivateChannel();
        await channel.addEventListener('disconnect', () => { window.ended++; });
        return channel;
      });
    });
    // A browser context of its own shares its renderer with no other app.
    const other = await Desk.open(browser);
    const dying = await other.visit(`${appUrl('plain', 'plain')}&node=${flags.node}`);
    const { instanceId } = await outcome(dying);
    await dying.evaluate(async context => {
      window.channel = await (await window.agent.raiseIntent('Stream', context)).getResult();
    }, INSTRUMENT);
    await row(launcher, instanceId).waitFor();
    dying.goto('chrome://crash').catch(() => {});
    await app.waitForFunction(() => window.ended === 1);
    await until(async () => !(await app.evaluate(() => window.agent.findInstances({ appId: 'plain' }))).some(one => one.instanceId === instanceId), 'the instance gone');
    await row(launcher, instanceId).waitFor({ state: 'detached' });
    await other.context.close();
  },

  async 'an app that calls itself one of another origin is refused'(desk) {
    const launcher = await desk.launcher();
    const [app] = await Promise.all([desk.context.waitForEvent('page'), launcher.locator('.app[data-app-id=pretender]').first().click()]);
    assert.deepEqual(await outcome(app), { error: 'AccessDenied' });
  },

  async 'a page of a foreign origin gets neither adaptor nor socket'() {
    const site = `http://foreign.example:${flags['app-port']}`;
    const browser = await startBrowser({ args: ['--host-resolver-rules=MAP *.example 127.0.0.1'] });
    try {
      const desk = await Desk.open(browser);
      const app = await desk.visit(`${site}/plain.html?module=${site}&node=${flags.node}`);
      assert.deepEqual(await outcome(app), { error: 'AgentNotFound' });
      await desk.logged(/frame-ancestors/);
      for (const path of ['/fdc3', '/fdc3/desk']) {
        const ends = await app.evaluate(url => new Promise(resolve => {
          const socket = new WebSocket(url);
          socket.onopen = () => resolve('open');
          socket.onclose = () => resolve('closed');
        }), `${flags.node.replace('http', 'ws')}${path}`);
        assert.equal(ends, 'closed', path);
      }
    } finally {
      await browser.close();
    }
  },

  async 'a plain tab connects by failover; a reload keeps its instance'(desk) {
    const app = await desk.visit(`${appUrl('plain', 'plain')}&node=${flags.node}`);
    const { appId, instanceId } = await outcome(app);
    assert.equal(appId, 'plain');
    await app.reload();
    assert.equal((await outcome(app)).instanceId, instanceId);
    await frameOf(app, 'channels');
  },

  async 'a page prepared by preload connects with a bare getAgent()'(desk) {
    const app = await desk.visit(`${appUrl('seeded', 'seeded')}&node=${flags.node}`);
    const { appId, instanceId } = await outcome(app);
    assert.equal(appId, 'seeded');
    assert.equal(await app.evaluate(() => window.seeded), true);
    await app.reload();
    assert.equal((await outcome(app)).instanceId, instanceId);
    assert.equal(await app.evaluate(() => window.seeded), false);
  },

  async 'preload with getAgent sets window.fdc3'(desk) {
    const app = await desk.visit(`${appUrl('seeded', 'seeded')}&node=${flags.node}&set`);
    assert.equal((await outcome(app)).appId, 'seeded');
  },

  async 'a page whose policy forbids frames says so'(desk) {
    const app = await desk.visit(`${appUrl('forbids', 'forbids')}&node=${flags.node}`);
    assert.deepEqual(await outcome(app), { error: 'AgentNotFound' });
    await desk.logged(/^FDC3: .*frame-src/);
  },

  async 'a page prepared by preload whose policy forbids frames says so'(desk) {
    const app = await desk.visit(`${appUrl('seeded', 'seeded')}&node=${flags.node}&policy`);
    assert.ok((await outcome(app)).error);
    await desk.logged(/^FDC3: no desktop agent.*frame-src/);
  },

  async 'an app of the launcher whose policy forbids frames is explained there'(desk) {
    const launcher = await desk.launcher();
    await launcher.locator('.app[data-app-id=enclosed]').first().click();
    await launcher.locator('.notice', { hasText: 'frame-src' }).waitFor();
  },

  async 'a page that is cut off from other windows connects by failover'(desk) {
    const app = await desk.visit(`${appUrl('plain', 'plain')}&node=${flags.node}&isolated`);
    assert.equal((await outcome(app)).appId, 'plain');
  },

  async 'a failover to a node that is not there says so'(desk) {
    const app = await desk.visit(`${appUrl('plain', 'plain')}&module=${APPS}&node=http://127.0.0.1:9`);
    assert.deepEqual(await outcome(app), { error: 'AgentNotFound' });
    await desk.logged(/^FDC3: .*127\.0\.0\.1:9 .*running/);
  },

  async 'a window that cuts its opener off is explained in the launcher'(desk) {
    const launcher = await desk.launcher();
    await launcher.locator('.app[data-app-id=isolated]').first().click();
    await launcher.locator('.notice', { hasText: 'Cross-Origin-Opener-Policy' }).waitFor();
  },

  async 'a blocked pop-up is explained and opens with a click'() {
    const browser = await startBrowser({ blockPopups: true });
    try {
      const desk = await Desk.open(browser);
      const launcher = await desk.launcher();
      const { app } = await desk.start(launcher, 'trader');
      await app.bringToFront();
      // A click in the launcher lets it open a window within five seconds; looking into it counts as a click too.
      await app.waitForTimeout(6000);
      await raise(app, 'ViewNews');
      await desk.logged(/^FDC3: .*blocked the window/);
      await launcher.locator('.notice', { hasText: 'blocked the window' }).waitFor();
      const [opened] = await Promise.all([desk.context.waitForEvent('page'), launcher.locator('.notice button.primary').click()]);
      assert.equal((await outcome(opened)).appId, 'news');
    } finally {
      await browser.close();
    }
  },

  async 'a public page without permission is told which'() {
    const https = `http://app.example:${flags['app-port']}`, http = `http://plain.example:${flags['app-port']}`;
    const browser = await startBrowser({ args: [`--ip-address-space-overrides=127.0.0.1:${flags['app-port']}=public`,
      '--host-resolver-rules=MAP *.example 127.0.0.1', `--unsafely-treat-insecure-origin-as-secure=${https}`] });
    try {
      const desk = await Desk.open(browser);
      const launcher = await desk.launcher();
      await launcher.locator('.app[data-app-id=trader]').first().click();
      await launcher.locator('.notice', { hasText: 'LocalNetworkAccessAllowedForUrls' }).waitFor();
      for (const [site, reason] of [[https, /^FDC3: no desktop agent.*loopback-network/], [http, /^FDC3: no desktop agent.*HTTPS/]]) {
        const app = await desk.visit(`${site}/plain.html?module=${site}&node=${flags.node}`);
        assert.deepEqual(await outcome(app), { error: 'AgentNotFound' });
        const told = page => until(() => desk.logs.find(({ text, page: of }) => of === page.url() && reason.test(text)), `${reason} in the console`);
        await told(app);
        const seeded = await desk.visit(`${site}/seeded.html?module=${site}&node=${flags.node}`);
        assert.ok((await outcome(seeded)).error);
        await told(seeded);
      }
    } finally {
      await browser.close();
    }
  },
};

/** What needs a node that can be restarted. */
const restartChecks = {
  async 'after a restart of the node apps go on, and so does the launcher'(desk) {
    const launcher = await desk.launcher();
    const speaker = await desk.start(launcher, 'trader'), listener = await desk.start(launcher, 'blotter');
    for (const { app } of [speaker, listener]) {
      await app.evaluate(async () => {
        await window.agent.joinUserChannel('fdc3.channel.3');
        window.room = await window.agent.getOrCreateChannel('room');
        await window.room.addContextListener(null, context => window.heard.push({ ...context, room: true }));
      });
    }
    restart();
    // Said at once, while the adaptors are still away.
    await speaker.app.evaluate(context => window.agent.broadcast({ ...context, name: 'after' }), INSTRUMENT);
    await launcher.locator('#link[data-state=connected]').waitFor();
    for (const { instanceId } of [speaker, listener]) await row(launcher, instanceId).locator('select:enabled').waitFor();
    await speaker.app.evaluate(async context => {
      await window.agent.broadcast({ ...context, name: 'later' });
      await window.room.broadcast({ ...context, name: 'in the room' });
    }, INSTRUMENT);
    await until(async () => (await listener.app.evaluate(() => window.heard)).some(({ room }) => room), 'the context in the room');
    const names = (await listener.app.evaluate(() => window.heard)).map(({ name }) => name);
    assert.equal(names.filter(name => name === 'later').length, 1, names.join());
    assert.equal(names.filter(name => name === 'in the room').length, 1, names.join());
    assert.equal(await currentChannel(listener.app), 'fdc3.channel.3');
    assert.equal((await listener.app.evaluate(() => window.agent.getInfo())).appMetadata.instanceId, listener.instanceId);
    await listener.app.close();
    await row(launcher, listener.instanceId).waitFor({ state: 'detached' });
  },

  async 'a listener removed after a restart is removed'(desk) {
    const launcher = await desk.launcher();
    const speaker = await desk.start(launcher, 'trader'), listener = await desk.start(launcher, 'blotter');
    await speaker.app.evaluate(() => window.agent.joinUserChannel('fdc3.channel.5'));
    await listener.app.evaluate(async () => {
      await window.agent.joinUserChannel('fdc3.channel.5');
      window.extra = [];
      window.listener = await window.agent.addContextListener('test.extra', context => window.extra.push(context));
    });
    restart();
    await listener.app.evaluate(() => window.listener.unsubscribe());
    await launcher.locator('#link[data-state=connected]').waitFor();
    for (const { instanceId } of [speaker, listener]) await row(launcher, instanceId).locator('select:enabled').waitFor();
    await speaker.app.evaluate(async context => {
      await window.agent.broadcast({ type: 'test.extra' });
      await window.agent.broadcast(context);
    }, INSTRUMENT);
    await until(async () => (await listener.app.evaluate(() => window.heard)).some(({ type }) => type === 'fdc3.instrument'), 'the second context');
    assert.deepEqual(await listener.app.evaluate(() => window.extra), []);
  },
};

/** The desktop agent's own session is the third. */
const fullChecks = {
  async 'an app that a full node does not take is refused, and its console says why'(desk) {
    const launcher = await desk.launcher();
    for (const appId of ['trader', 'blotter']) await desk.start(launcher, appId);
    const [app] = await Promise.all([desk.context.waitForEvent('page'), launcher.locator('.app[data-app-id=chart]').first().click()]);
    assert.deepEqual(await outcome(app), { error: 'AccessDenied' });
    const said = await desk.logged(/^(?!.*deskmesh node at).*validation failed.*sessions_per_user_max \(3\)/);
    assert.equal(said.level, 'error');
    await until(async () => await launcher.locator('.instance').count() === 2, 'the two that are there');
  },
};

function restart() {
  execFileSync('sh', ['-c', flags.restart], { stdio: flags.verbose ? 'inherit' : 'ignore' });
}

// ---- pictures -------------------------------------------------------------------------------

async function takePictures(browser) {
  mkdirSync(flags.screenshots, { recursive: true });
  for (const colorScheme of ['light', 'dark']) {
    const desk = await Desk.open(browser, { colorScheme });
    const picture = (page, name) => page.screenshot({ path: join(flags.screenshots, `${name}-${colorScheme}.png`) });
    const launcher = await desk.launcher();
    const { app, instanceId } = await desk.start(launcher, 'trader');
    await desk.start(launcher, 'news');
    await desk.start(launcher, 'chart');
    await row(launcher, instanceId).locator('select').selectOption('fdc3.channel.1');
    await launcher.locator('.app').first().focus();
    await picture(launcher, 'launcher');
    await app.bringToFront();
    const selector = await frameOf(app, 'channels');
    await picture(app, 'selector-closed');
    await selector.locator('#current').press('Enter');
    await until(async () => (await sizeOf(app, 'channels')).height > 150, 'the open list');
    await picture(app, 'selector-open');
    for (const [intent, name] of [['ViewChart', 'resolver'], ['ViewMany', 'resolver-many'], [null, 'resolver-context']]) {
      await raise(app, intent);
      const resolver = await resolverOpen(app);
      await app.waitForTimeout(300);
      await picture(app, name);
      await resolver.locator('#cancel').click();
      await raised(app);
    }
    const host = await openResolver(desk, OFFERED);
    await resolverOpen(host);
    await host.waitForTimeout(300);
    await picture(host, 'resolver-machines');
    await desk.context.close();
  }
}

// ---- main -----------------------------------------------------------------------------------

async function passes(name, check, otherwise) {
  const desk = await Desk.open(browser);
  const began = performance.now();
  try {
    await check(desk);
    console.log(`ok   ${name} (${Math.round(performance.now() - began)} ms)`);
    return true;
  } catch (error) {
    console.log(`${otherwise} ${name}\n     ${error.message.split('\n').slice(0, 12).join('\n     ')}`);
    return false;
  } finally {
    await desk.context.close();
  }
}

const server = await serveApps();
const browser = await startBrowser();
let failed = 0;
if (flags.screenshots) {
  await takePictures(browser);
} else {
  for (const [name, check] of Object.entries(flags.full ? fullChecks : { ...checks, ...(flags.restart ? restartChecks : {}) })) {
    if (!name.includes(flags.only)) continue;
    // The library gives an agent one second to be found, which a busy machine may not have: once more is allowed.
    if (!(await passes(name, check, 'again')) && !(await passes(name, check, 'FAIL'))) failed++;
  }
  if (!flags.restart && !flags.full) console.log('skip what needs --restart');
}
await browser.close();
server.close();
process.exit(failed ? 1 : 0);

// The launcher: shows the apps of all machines and what is running, opens windows when the node says so,
// and tells an app that looks for its desktop agent (WCP1Hello) where the adaptor is.
import { appIcon, channelDot, element, matches, openSocket, retryDelay, rovingFocus, shortId } from './common.js';

const CONNECT_TIMEOUT_MS = 3000;
/** How long an app that was told of the adaptor may take until the node reports it as connected. */
const ADAPTOR_TIMEOUT_MS = 4000;
const CLOSED_POLL_MS = 500;
const NOTICES_MAX = 5;

/** The channels FDC3 recommends, for a node that does not name its own. */
const RECOMMENDED_CHANNELS = ['red', 'orange', 'yellow', 'green', 'cyan', 'blue', 'magenta', 'purple']
  .map((color, index) => ({ id: `fdc3.channel.${index + 1}`, name: `Channel ${index + 1}`, color }));

const view = Object.fromEntries([...document.querySelectorAll('[id]')].map(part => [part.id, part]));

let socket = null;
let here = '';
let apps = [];
let channels = RECOMMENDED_CHANNELS;
let instances = new Map();
/** The windows this page has opened: instanceId to {window, origin, launchKey, name, greeted}. */
const windows = new Map();
/** What the node could not be told, because the connection was down. */
const unsent = [];

// ---- the node -------------------------------------------------------------------------------

async function connect() {
  for (let attempt = 0; !socket; attempt++) {
    try {
      socket = await openSocket('/fdc3/desk', CONNECT_TIMEOUT_MS);
    } catch {
      await new Promise(resolve => setTimeout(resolve, retryDelay(attempt)));
    }
  }
  socket.onmessage = event => fromNode(JSON.parse(event.data));
  socket.onclose = () => {
    socket = null;
    showLink('lost');
    connect();
  };
  // What ran before may be gone; the node says what there is.
  instances = new Map();
  for (const message of unsent.splice(0)) tell(message);
}

function tell(message) {
  if (socket) socket.send(JSON.stringify(message));
  else if (message.type === 'closed') unsent.push(message);
}

function fromNode(message) {
  switch (message.type) {
    case 'apps':
      showLink('connected');
      here = message.node;
      apps = message.apps;
      channels = message.channels ?? RECOMMENDED_CHANNELS;
      showApps();
      showInstances();
      break;
    case 'instances':
      instances = new Map(message.instances.map(instance => [instance.instanceId, instance]));
      showInstances();
      break;
    case 'open': openWindow(message); break;
    case 'close': windows.get(message.instanceId)?.window?.close(); break;
    case 'error': notice(message.message); break;
  }
}

// ---- windows --------------------------------------------------------------------------------

function openWindow({ instanceId, url, launchKey }) {
  const name = instances.get(instanceId)?.title ?? apps.find(app => app.url === url)?.title ?? url;
  const opened = window.open(url, '_blank');
  if (opened) {
    windows.set(instanceId, { window: opened, origin: new URL(url, location.href).origin, launchKey, name, greeted: false });
    return;
  }
  tell({ type: 'blocked', instanceId, url });
  notice(`The browser blocked the window of “${name}”. Allow pop-ups for ${location.origin} (the sign at the right end of the address bar), `
    + 'so that apps can open when another app asks for them.',
  { label: 'Open now', act: () => openWindow({ instanceId, url, launchKey }) }, () => tell({ type: 'closed', instanceId }));
}

addEventListener('message', event => {
  if (event.data?.type !== 'WCP1Hello' || !event.source) return;
  if (event.origin === 'null') {
    console.error('FDC3: a sandboxed frame asked for a desktop agent. It has no origin to be known by: add allow-same-origin to its sandbox.');
    return;
  }
  const [instanceId, opened] = [...windows].find(([, known]) => known.window === event.source) ?? [];
  const adaptor = new URL('/fdc3/adaptor', location.href);
  // The key speaks for one app. A window that has since gone to another site does not get it.
  if (opened && opened.origin === event.origin) {
    adaptor.searchParams.set('launchKey', opened.launchKey);
    if (!opened.greeted) setTimeout(() => checkConnected(instanceId, event.origin), ADAPTOR_TIMEOUT_MS);
    opened.greeted = true;
  }
  event.source.postMessage({
    type: 'WCP2LoadUrl',
    meta: { connectionAttemptUuid: event.data.meta?.connectionAttemptUuid, timestamp: new Date() },
    payload: { iframeUrl: adaptor.href },
  }, { targetOrigin: event.origin });
});

/** An app that has asked and was answered, yet is not connected, was most likely forbidden to load the adaptor. */
function checkConnected(instanceId, origin) {
  const opened = windows.get(instanceId);
  if (!socket || !opened || opened.window.closed || instances.get(instanceId)?.state !== 'starting') return;
  const help = `“${opened.name}” asked for FDC3 but did not connect. Its page (${origin}) must be allowed to embed ${location.origin}: `
    + `frame-src ${location.origin} in its Content-Security-Policy, and in Chromium the permission “loopback-network” for ${origin} `
    + '(policy LocalNetworkAccessAllowedForUrls). The console of that window says which.';
  notice(help);
}

setInterval(() => {
  for (const [instanceId, opened] of windows) {
    if (!opened.window.closed) continue;
    windows.delete(instanceId);
    tell({ type: 'closed', instanceId });
    if (!opened.greeted && instances.get(instanceId)?.state === 'starting') {
      notice(`“${opened.name}” was closed before it connected. If its window is still open, its server cuts it off from this page `
        + 'with Cross-Origin-Opener-Policy: same-origin; same-origin-allow-popups does not help there, unsafe-none does, and so does '
        + `the failover of ${location.origin}/fdc3/agent.js.`);
    }
  }
}, CLOSED_POLL_MS);

// ---- what is shown --------------------------------------------------------------------------

function showLink(state) {
  view.link.dataset.state = state;
  view.link.textContent = state === 'connected' ? 'Connected' : 'The node is not answering; trying again…';
  view.main.inert = state !== 'connected';
}

/** Shows a sentence at the top until it is acted on or dismissed, and in the console. */
function notice(text, action = null, dismissed = () => {}) {
  console.warn(`FDC3: ${text}`);
  if (!action) [...view.notices.children].find(shown => shown.firstChild.textContent === text)?.remove();
  const shown = element('div', { class: 'notice' }, element('p', { text }),
    action && element('button', { type: 'button', class: 'primary', text: action.label, click: () => { shown.remove(); action.act(); } }),
    element('button', { type: 'button', class: 'dismiss', 'aria-label': 'Dismiss', text: '✕', click: () => { shown.remove(); dismissed(); } }));
  view.notices.append(shown);
  if (view.notices.children.length > NOTICES_MAX) view.notices.querySelector('.dismiss').click();
}

const refreshApps = rovingFocus(view.apps, '.app');
const refreshRunning = rovingFocus(view.running, 'select:enabled');

function showApps() {
  view.node.textContent = here;
  document.title = `deskmesh on ${here}`;
  const focused = document.activeElement?.dataset?.key;
  const query = view.search.value.trim();
  const shown = apps.filter(app => matches(query, [app.title, app.appId, app.description, app.node].join(' ')));
  const machines = [...new Set(shown.map(app => app.node))].sort((a, b) => (b === here) - (a === here) || a.localeCompare(b));
  view.apps.replaceChildren(...machines.map((machine, index) => element('section', { class: 'machine', 'aria-labelledby': `machine-${index}` },
    element('h3', { id: `machine-${index}` }, machine, machine === here ? element('span', { class: 'tag', text: 'this machine' }) : null),
    element('div', { class: 'grid' }, ...shown.filter(app => app.node === machine).map(appButton)))));
  view['no-apps'].hidden = shown.length > 0;
  view['no-apps'].textContent = apps.length ? `No app matches “${query}”.` : 'The app directory of this node is empty. Add a directory to its configuration.';
  [...view.apps.querySelectorAll('.app')].find(button => button.dataset.key === focused)?.focus();
  refreshApps();
  showCounts();
}

function appButton(app) {
  const title = app.title || app.appId;
  return element('button', {
    type: 'button', class: 'app', 'data-key': `${app.node} ${app.appId}`, 'data-app-id': app.appId, 'data-node': app.node,
    title: app.description || null, 'aria-label': `Start ${title} on ${app.node}`,
    click: () => tell({ type: 'launch', appId: app.appId, node: app.node }),
  }, appIcon(title, app.icon), element('span', { class: 'words' },
    element('span', { class: 'title', text: title }), element('span', { class: 'soft', text: app.description || app.appId })),
  element('span', { class: 'count' }));
}

/** How many of each app are running, at the right of its button. */
function showCounts() {
  const running = new Map();
  for (const { node, appId } of instances.values()) running.set(`${node} ${appId}`, (running.get(`${node} ${appId}`) ?? 0) + 1);
  for (const button of view.apps.querySelectorAll('.app')) button.lastChild.textContent = running.get(button.dataset.key) ?? '';
}

/** Rows are kept and changed in place, so that a focused channel menu stays where it is. */
function showInstances() {
  const rows = new Map([...view.running.children].map(row => [row.dataset.instanceId, row]));
  for (const [instanceId, row] of rows) if (!instances.has(instanceId)) row.remove();
  for (const instance of instances.values()) {
    let row = rows.get(instance.instanceId);
    if (!row) view.running.append(row = instanceRow(instance));
    updateRow(row, instance);
  }
  view['none-running'].hidden = instances.size > 0;
  view['running-count'].textContent = instances.size || '';
  refreshRunning();
  showCounts();
}

function instanceRow({ instanceId }) {
  const menu = element('select', { change: () => tell({ type: 'join', instanceId, channelId: menu.value || null }),
    // The arrow keys go from row to row; Space, Enter and Alt with an arrow open the menu, as in any select.
    keydown: event => { if (event.key === 'ArrowRight' || event.key === 'ArrowLeft') event.preventDefault(); } });
  return element('li', { class: 'instance', 'data-instance-id': instanceId }, channelDot(null),
    element('span', { class: 'words' }, element('span', { class: 'title' }), element('span', { class: 'soft' })), menu);
}

function updateRow(row, { appId, title, instanceId, node, channel, state }) {
  const [dot, words, menu] = row.children, name = title || appId;
  dot.replaceWith(channelDot(channel));
  words.children[0].textContent = name;
  words.children[1].textContent = [shortId(instanceId), node === here ? null : node, state === 'starting' ? 'starting…' : null].filter(Boolean).join(' · ');
  row.classList.toggle('starting', state === 'starting');
  const offered = channel && !channels.some(known => known.id === channel.id) ? [...channels, channel] : channels;
  const key = JSON.stringify(offered);
  if (menu.dataset.key !== key) {
    menu.replaceChildren(new Option('No channel', ''), ...offered.map(known => new Option(known.name, known.id)));
    menu.dataset.key = key;
  }
  menu.value = channel?.id ?? '';
  menu.disabled = state === 'starting';
  menu.setAttribute('aria-label', `Channel of ${name} (${shortId(instanceId)})`);
}

// ---- keys -----------------------------------------------------------------------------------

view.search.addEventListener('input', showApps);
view.search.addEventListener('keydown', event => {
  const first = view.apps.querySelector('.app');
  if (event.key === 'Enter' && view.search.value.trim()) first?.click();
  else if (event.key === 'ArrowDown') { event.preventDefault(); first?.focus(); }
  else if (event.key === 'Escape' && view.search.value) { view.search.value = ''; showApps(); }
});
addEventListener('keydown', event => {
  if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.('input, select')) return;
  event.preventDefault();
  view.search.focus();
  view.search.select();
});

connect();

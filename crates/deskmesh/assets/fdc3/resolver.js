// The intent resolver: asks which app, and where, is to handle an intent. It takes no room until it is asked.
import { appIcon, element, matches, rovingFocus, shortId } from './common.js';

const WIDTH = 440;
const HEIGHT_MAX = 620;
/** With more choices than this, a field to filter them appears. */
const UNFILTERED_MAX = 8;
const HIDDEN = { position: 'fixed', width: '0', height: '0', left: '0', top: '0' };

const view = Object.fromEntries([...document.querySelectorAll('[id]')].map(part => [part.id, part]));
const { port1: port, port2 } = new MessageChannel();
let appIntents = [];

port.onmessage = event => {
  if (event.data?.type === 'Fdc3UserInterfaceResolve') ask(event.data.payload);
};

parent.postMessage({ type: 'Fdc3UserInterfaceHello', payload: { implementationDetails: 'deskmesh intent resolver', initialCSS: HIDDEN } }, '*', [port2]);

const refresh = rovingFocus(view.choices, '.choice');

function ask({ context, appIntents: offered }) {
  appIntents = offered;
  const single = offered.length === 1 ? offered[0].intent : null;
  view.question.textContent = single ? `${intentName(single)} with…` : 'What do you want to do?';
  view.subject.textContent = [context?.name, context?.type].filter(part => typeof part === 'string').join(' · ');
  view['filter-row'].hidden = offered.reduce((sum, { apps }) => sum + apps.length, 0) <= UNFILTERED_MAX;
  view.filter.value = '';
  view.panel.hidden = false;
  show();
  resize(HEIGHT_MAX);
  window.focus();
  (view['filter-row'].hidden ? view.choices.querySelector('.choice') : view.filter)?.focus();
}

function intentName({ name, displayName }) {
  return displayName || name;
}

function show() {
  const query = view.filter.value.trim();
  const groups = appIntents.flatMap(({ intent, apps }) => {
    const shown = apps.filter(app => matches(query, [app.title, app.name, app.appId, app.instanceId, machineOf(app), intentName(intent)].join(' ')));
    return shown.length ? [intentGroup(intent, shown)] : [];
  });
  view.choices.replaceChildren(...groups);
  view['no-match'].hidden = groups.length > 0;
  refresh();
}

/** The machine of an app; one without `desktopAgent` is of this one, which has no name here. */
function machineOf(app) {
  return app.desktopAgent ?? '';
}

function intentGroup(intent, apps) {
  const machines = [...new Set(apps.map(machineOf))].sort();
  const id = `intent-${appIntents.findIndex(offered => offered.intent === intent)}`;
  return element('section', { class: 'intent', 'aria-labelledby': appIntents.length > 1 ? id : 'question' },
    appIntents.length > 1 ? element('h2', { id, text: intentName(intent) }) : null,
    ...machines.map((machine, index) => element('div', { role: 'group', 'aria-labelledby': `${id}-${index}` },
      element('h3', { id: `${id}-${index}`, text: machine || 'This machine' }),
      ...byApp(apps.filter(app => machineOf(app) === machine)).map(app => choice(intent, app)))));
}

/** New windows and running instances of one app stand together, the new window first. */
function byApp(apps) {
  const order = [...new Set(apps.map(app => app.appId))];
  return [...apps].sort((a, b) => order.indexOf(a.appId) - order.indexOf(b.appId) || Boolean(a.instanceId) - Boolean(b.instanceId));
}

function choice(intent, app) {
  const { appId, instanceId, desktopAgent } = app;
  const title = app.instanceMetadata?.title || app.title || app.name || appId;
  const appIdentifier = { appId, ...(instanceId ? { instanceId } : {}), ...(desktopAgent ? { desktopAgent } : {}) };
  const where = instanceId ? `running · ${shortId(instanceId)}` : 'new window';
  return element('button', {
    type: 'button', class: instanceId ? 'choice running' : 'choice', title: app.description || null,
    'data-app-id': appId, 'data-instance-id': instanceId, 'data-desktop-agent': desktopAgent, 'data-intent': intent.name,
    click: () => done({ action: 'click', intent: intent.name, appIdentifier }),
  }, appIcon(title, app.icons?.[0]?.src), element('span', { class: 'title', text: title }), element('span', { class: 'tag', text: where }));
}

function done(payload) {
  if (view.panel.hidden) return;
  view.panel.hidden = true;
  appIntents = [];
  view.choices.replaceChildren();
  port.postMessage({ type: 'Fdc3UserInterfaceResolveAction', payload });
  port.postMessage({ type: 'Fdc3UserInterfaceRestyle', payload: { updatedCSS: HIDDEN } });
  parent.focus();
}

function cancel() {
  done({ action: 'cancel' });
}

/** Asks for a frame of `height` in the upper middle of the app's window. */
function resize(height) {
  port.postMessage({ type: 'Fdc3UserInterfaceRestyle', payload: { updatedCSS: {
    position: 'fixed', width: `${WIDTH}px`, maxWidth: '100%', height: `${height}px`, maxHeight: '88%',
    left: `max(0px, calc(50% - ${WIDTH / 2}px))`, top: '8%', zIndex: '2147483001',
  } } });
}

// How high the panel is is known only once the frame is wide. It does not shrink while somebody filters.
addEventListener('resize', () => {
  if (view.panel.hidden || view.filter.value || innerWidth < WIDTH / 2) return;
  if (innerHeight > view.panel.offsetHeight) resize(view.panel.offsetHeight);
});

view.filter.addEventListener('input', show);
view.filter.addEventListener('keydown', event => {
  const first = view.choices.querySelector('.choice');
  if (event.key === 'ArrowDown') { event.preventDefault(); first?.focus(); }
  if (event.key === 'Enter') first?.click();
});
view.choices.addEventListener('keydown', event => {
  if (view['filter-row'].hidden || event.key.length !== 1 || event.key === ' ' || event.ctrlKey || event.metaKey) return;
  view.filter.focus();
});
view.cancel.addEventListener('click', cancel);
addEventListener('keydown', event => {
  if (event.key === 'Escape') cancel();
  if (event.key === 'Tab') keepInside(event);
});

/** A dialog keeps the focus: Tab goes round in it. */
function keepInside(event) {
  const stops = [...view.panel.querySelectorAll('input, button')].filter(stop => stop.tabIndex >= 0 && stop.offsetParent);
  const next = event.shiftKey ? [stops[0], stops.at(-1)] : [stops.at(-1), stops[0]];
  if (document.activeElement !== next[0]) return;
  event.preventDefault();
  next[1].focus();
}

// The channel selector: a small bar in the corner of the app that shows its user channel and opens a list of all of them.
import { channelDot, element, rovingFocus } from './common.js';

const WIDTH = 132;
const BAR_HEIGHT = 28;
const ROW_HEIGHT = 26;
const ROWS_MAX = 14;
const MARGIN = 8;
const PLACE_KEY = 'deskmesh-channel-selector';

const list = document.getElementById('list');
const current = document.getElementById('current');
const grip = document.getElementById('grip');

const { port1: port, port2 } = new MessageChannel();
let channels = [];
let selected = null;
let place = readPlace();

port.onmessage = event => {
  if (event.data?.type !== 'Fdc3UserInterfaceChannels') return;
  channels = event.data.payload.userChannels;
  selected = event.data.payload.selected ?? null;
  show();
};

parent.postMessage({ type: 'Fdc3UserInterfaceHello', payload: { implementationDetails: 'deskmesh channel selector', initialCSS: css() } }, '*', [port2]);

function isOpen() {
  return !list.hidden;
}

/** Where the frame is in the app's window. It hangs on its lower right corner, so that the list opens upwards. */
function css() {
  const rows = Math.min(channels.length + 1, ROWS_MAX);
  return { position: 'fixed', width: `${WIDTH}px`, height: `${BAR_HEIGHT + (isOpen() ? rows * ROW_HEIGHT + 9 : 0)}px`,
    right: `${place.right}px`, bottom: `${place.bottom}px`, maxHeight: '100%', zIndex: '2147483000' };
}

function restyle() {
  port.postMessage({ type: 'Fdc3UserInterfaceRestyle', payload: { updatedCSS: css() } });
}

function name(channel) {
  return channel?.displayMetadata?.name ?? channel?.id ?? 'No channel';
}

function dot(channel) {
  return channelDot(channel && { color: channel.displayMetadata?.color });
}

function show() {
  const channel = channels.find(known => known.id === selected);
  current.replaceChildren(dot(channel), element('span', { class: 'name', text: name(channel) }), element('span', { class: 'chevron', 'aria-hidden': 'true' }));
  current.setAttribute('aria-label', `Channel: ${name(channel)}`);
  list.replaceChildren(...[null, ...channels].map(option => element('li', {
    role: 'option', 'aria-selected': String((option?.id ?? null) === selected), 'data-channel-id': option?.id ?? '',
    click: () => choose(option?.id ?? null),
  }, dot(option), element('span', { class: 'name', text: name(option) }),
  element('span', { class: 'soft', 'aria-hidden': 'true', text: option?.displayMetadata?.glyph ?? '' }))));
  refresh();
}

const refresh = rovingFocus(list, '[role=option]');

function open() {
  list.hidden = false;
  current.setAttribute('aria-expanded', 'true');
  restyle();
  show();
  list.querySelector('[aria-selected=true]')?.focus();
}

function close() {
  if (!isOpen()) return;
  list.hidden = true;
  current.setAttribute('aria-expanded', 'false');
  restyle();
}

function choose(channelId) {
  close();
  current.focus();
  if (channelId === selected) return;
  selected = channelId;
  show();
  port.postMessage({ type: 'Fdc3UserInterfaceChannelSelected', payload: { selected: channelId } });
}

current.addEventListener('click', () => (isOpen() ? close() : open()));
current.addEventListener('keydown', event => {
  if (!['ArrowUp', 'ArrowDown'].includes(event.key)) return;
  event.preventDefault();
  open();
});
list.addEventListener('keydown', event => {
  if (event.key === 'Enter' || event.key === ' ') {
    event.preventDefault();
    event.target.click();
  } else if (event.key.length === 1) {
    // A digit is the sign of a channel, a letter the beginning of its name.
    const key = event.key.toLowerCase();
    const found = channels.findIndex(channel => channel.displayMetadata?.glyph === event.key || name(channel).toLowerCase().startsWith(key));
    if (found >= 0) list.children[found + 1].focus();
  }
});
addEventListener('keydown', event => {
  if (event.key !== 'Escape' || !isOpen()) return;
  close();
  current.focus();
});
addEventListener('blur', close);

// ---- moving the bar -------------------------------------------------------------------------

grip.addEventListener('pointerdown', down => {
  const from = place;
  grip.setPointerCapture(down.pointerId);
  const move = event => {
    // The app's window may be of another origin: only the size of the browser window around it is known.
    place = {
      right: clamp(from.right - (event.screenX - down.screenX), window.outerWidth - WIDTH - MARGIN),
      bottom: clamp(from.bottom - (event.screenY - down.screenY), window.outerHeight - BAR_HEIGHT - 120),
    };
    restyle();
  };
  grip.addEventListener('pointermove', move);
  grip.addEventListener('lostpointercapture', () => { grip.removeEventListener('pointermove', move); keepPlace(); }, { once: true });
});

function clamp(value, max) {
  return Math.round(Math.max(0, Math.min(value, Math.max(max, MARGIN))));
}

// Storage can be forbidden to embedded pages; then the bar is back in its corner next time.
function readPlace() {
  try {
    const { right, bottom } = JSON.parse(localStorage.getItem(PLACE_KEY)) ?? {};
    if (Number.isFinite(right) && Number.isFinite(bottom)) return { right, bottom };
  } catch { /* not allowed, or not ours */ }
  return { right: MARGIN, bottom: MARGIN };
}

function keepPlace() {
  try {
    localStorage.setItem(PLACE_KEY, JSON.stringify(place));
  } catch { /* not allowed */ }
}

show();

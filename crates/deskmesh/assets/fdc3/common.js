// What the pages share: building elements, moving focus with the arrow keys, ids, waits between attempts.

/** Creates an element. Functions become event listeners, `text` the text, everything else an attribute; null and false are left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (typeof value === 'function') made.addEventListener(name, value);
    else if (name === 'text') made.textContent = value;
    else made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children.filter(child => child != null));
  return made;
}

/** A random UUID. `crypto.randomUUID` is missing where an ancestor of the frame was served over plain HTTP. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map(byte => byte.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

/** How long to wait before attempt number `attempt` (from 0) to reach the node again. */
export function retryDelay(attempt) {
  return Math.min(250 * 2 ** attempt, 5000) * (0.75 + Math.random() / 2);
}

/** Opens a WebSocket to the node that served this page; rejects when it is not open after `timeout` milliseconds. */
export function openSocket(path, timeout) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}${path}`);
    const giveUp = () => { socket.onopen = socket.onclose = null; socket.close(); reject(new Error(`no answer within ${timeout} ms`)); };
    const timer = setTimeout(giveUp, timeout);
    socket.onopen = () => { clearTimeout(timer); socket.onopen = socket.onclose = null; resolve(socket); };
    socket.onclose = () => { clearTimeout(timer); reject(new Error('refused')); };
  });
}

/**
 * Makes the elements of `container` that match `selector` one tab stop, with the arrow keys, Home and End between them.
 * Returns a function to call after the elements have changed.
 */
export function rovingFocus(container, selector) {
  const items = () => [...container.querySelectorAll(selector)].filter(item => !item.closest('[hidden]'));
  const choose = chosen => { for (const item of items()) item.tabIndex = item === chosen ? 0 : -1; };
  const refresh = () => {
    const all = items();
    choose(all.find(item => item === document.activeElement) ?? all.find(item => item.tabIndex === 0) ?? all[0]);
  };
  container.addEventListener('focusin', event => { if (event.target.matches(selector)) choose(event.target); });
  container.addEventListener('keydown', event => {
    if (event.altKey || event.ctrlKey || event.metaKey || !event.target.matches(selector)) return;
    const next = neighbour(event.key, event.target, items());
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
  return refresh;
}

/** The item that `key` leads to from `from`: in reading order sideways, the nearest one in the next row up or down. */
function neighbour(key, from, items) {
  const at = items.indexOf(from);
  switch (key) {
    case 'Home': return items[0];
    case 'End': return items.at(-1);
    case 'ArrowRight': return items[at + 1];
    case 'ArrowLeft': return items[at - 1];
    case 'ArrowDown': case 'ArrowUp': {
      const sign = key === 'ArrowDown' ? 1 : -1, here = from.getBoundingClientRect();
      const distance = item => {
        const there = item.getBoundingClientRect(), rows = (there.top - here.top) * sign;
        return rows < 2 ? Infinity : rows * 1000 + Math.abs(there.left - here.left);
      };
      const nearest = items.reduce((best, item) => (distance(item) < distance(best) ? item : best), from);
      return nearest === from ? undefined : nearest;
    }
  }
}

let iconsAllowed = true;
document.addEventListener('securitypolicyviolation', event => { if (event.effectiveDirective === 'img-src') iconsAllowed = false; });

/** A small square for an app: its icon, or its first letter where there is no icon or the page may not load it. */
export function appIcon(title, src) {
  const letter = (title.match(/[\p{L}\p{N}]/u)?.[0] ?? '?').toUpperCase();
  const square = element('span', { class: 'icon', 'aria-hidden': 'true', text: letter });
  square.style.setProperty('--hue', [...title].reduce((sum, character) => (sum * 31 + character.codePointAt(0)) % 360, 7));
  if (src && iconsAllowed) {
    const image = element('img', { alt: '', src, load: () => square.classList.add('drawn'), error: () => image.remove() });
    square.append(image);
  }
  return square;
}

/** A dot in the colour of a channel; hollow without one. */
export function channelDot(channel) {
  const dot = element('span', { class: channel ? 'dot' : 'dot none', 'aria-hidden': 'true' });
  if (channel?.color && CSS.supports('color', channel.color)) dot.style.setProperty('--channel', channel.color);
  return dot;
}

/** What tells apart two instances of one title. */
export function shortId(instanceId) {
  return instanceId.length > 8 ? instanceId.slice(-6) : instanceId;
}

/** Whether every word of `query` occurs in `text`. */
export function matches(query, text) {
  const lower = text.toLowerCase();
  return query.toLowerCase().split(/\s+/).every(word => lower.includes(word));
}

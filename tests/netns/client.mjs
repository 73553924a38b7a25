// One application on one machine: it uses everything, and records what it did and saw, a JSON object per line.
//
//   node client.mjs --name a --others b,c --url ws://127.0.0.1:8385 --history FILE --seed N [--away]
//
// With `--away` it also updates contexts while it has no node: the library then sends `create-context` once it has one.
//
// On its standard input it obeys `go` (begin), `mark` (note the time, and take part in the last check of
// streams and bus), `quiet` (do nothing new, and wait for all that runs) and `final` (record what there is, and end).

import { randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { close, connect } from '../clients/lib/clients.mjs';
import { sleep, until, within } from '../clients/lib/wait.mjs';

const { values: options } = parseArgs({
  options: {
    ...Object.fromEntries(['name', 'others', 'url', 'history', 'seed'].map((name) => [name, { type: 'string' }])),
    away: { type: 'boolean', default: false },
  },
});
const { name, url } = options;
const others = options.others.split(',');
const CONTEXTS = ['ledger', 'board'];
const UPDATE_MS_MAX = 5000;
const CALL_MS_MAX = 20_000;
const RUNNING_MAX = 100;

const file = createWriteStream(options.history);
const record = (event, fields = {}) => file.write(`${JSON.stringify({ at: Date.now(), by: name, event, ...fields })}\n`);

/** Random numbers from a seed (mulberry32). */
let state = Number(options.seed) * 1009 + name.charCodeAt(0);
function random() {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}

// The library leaves some of what its broken connections end to nobody.
process.on('unhandledRejection', (error) => record('unhandled', { error: String(error?.message ?? error) }));

// When its connection breaks, the library ends calls without a reason.
const reasonOf = (error) => String(error?.message || error?.all_errors?.[0]?.message || 'no reason');
const login = (application) => connect('io', url, {
  user: 'ann',
  application,
  gateway: { reconnectInterval: 200, reconnectAttempts: 10_000 },
});

const client = await login(`client-${name}`);
let away = false;
client.connection.connected(() => { away = false; record('connected'); });
client.connection.disconnected(() => { away = true; record('disconnected'); });
const { contexts, interop, bus } = client;
const pending = new Set();
let busy = true;
let marked = false;

/** Repeats `action` with a pause, until there is to be quiet. */
async function repeat(pauseMs, action) {
  while (busy) {
    await action();
    await sleep(pauseMs * (0.5 + random()));
  }
}

function track(promise) {
  pending.add(promise);
  promise.finally(() => pending.delete(promise));
  return promise;
}

let updates = 0;
async function update(context, key, value) {
  updates += 1;
  if (!options.away && (away || !contexts.all().includes(context))) return;
  const id = `${name}${updates}`;
  record('update', { id, context, key, value });
  const done = contexts.update(context, { [key]: value }).then(
    () => record('updated', { id }),
    (error) => record('update-failed', { id, error: reasonOf(error) }),
  );
  // An update that was lost with its connection never ends; what it did is not known then.
  await track(within(UPDATE_MS_MAX, done, 'update').catch(() => record('update-unknown', { id })));
}

async function watch(context) {
  await contexts.subscribe(context, (_, delta, removed) => record('saw', { context, delta, removed }));
}

/** Each update has a key of its own, and some of the keys are removed again. */
const mine = [];
const ledger = () => repeat(150, async () => {
  if (mine.length > 5 && random() < 0.2) {
    const [key] = mine.splice(Math.floor(random() * mine.length), 1);
    return update('ledger', key, null);
  }
  const key = `${name}-${updates}`;
  mine.push(key);
  return update('ledger', key, updates);
});

/** Few keys that only this application writes, with rising values, and one that all write. */
const board = () => repeat(200, async () => {
  if (random() < 0.2) return update('board', 'all', `${name}-${updates}`);
  return update('board', `${name}-key-${Math.floor(random() * 5)}`, updates);
});

let calls = 0;
async function call(callee) {
  calls += 1;
  const id = `${name}${calls}`;
  const workMs = random() < 0.3 ? Math.floor(random() * 1500) : 0;
  record('call', { id, callee, workMs });
  try {
    const { returned } = await interop.invoke(`Run.${callee}`, { id, workMs }, 'best', {
      waitTimeoutMs: 100,
      methodResponseTimeoutMs: CALL_MS_MAX,
    });
    record('ended', { id, outcome: 'answered', returned: returned.id });
  } catch (error) {
    record('ended', { id, outcome: 'failed', error: reasonOf(error) });
  }
}
const calling = () => repeat(60, async () => {
  if (pending.size < RUNNING_MAX) track(call(others[Math.floor(random() * others.length)]));
});

let streams = 0;
/** Subscribes to another's stream, and again if it ends, as an application would. */
async function follow(provider) {
  for (;;) {
    streams += 1;
    const subscription = streams;
    let over;
    const closed = new Promise((resolve) => { over = resolve; });
    try {
      await interop.subscribe(`Tick.${provider}`, {
        waitTimeoutMs: 1000,
        onData: ({ data }) => record('data', { provider, subscription, n: data.n, marked: data.marked }),
        onClosed: () => over(),
      });
      record('subscribed', { provider, subscription });
      await closed;
      record('closed', { provider, subscription });
    } catch (error) {
      record('not-subscribed', { provider, subscription, error: reasonOf(error) });
    }
    await sleep(200);
  }
}

await interop.register(`Run.${name}`, async ({ id, workMs }) => {
  record('ran', { id });
  await sleep(workMs);
  return { id };
});
const stream = await interop.createStream(`Tick.${name}`);
interop.serverAdded(({ application }) => record('server-added', { application }));
interop.serverRemoved(({ application }) => record('server-removed', { application }));
for (const context of CONTEXTS) {
  if (name === 'a') await contexts.set(context, { start: true });
  await until(() => contexts.all().includes(context), 5000, 'the contexts');
  await watch(context);
}

async function begin() {
  for (const other of others) {
    await bus.subscribe(`news.${other}`, ({ n, marked: after }) => record('heard', { publisher: other, n, marked: after }));
    follow(other);
  }
  let pushes = 0;
  let publications = 0;
  repeat(100, async () => stream.push({ n: (pushes += 1), marked }));
  repeat(200, async () => bus.publish(`news.${name}`, { n: (publications += 1), marked }));
  [ledger, board, calling].forEach((work) => work());
}

/** What this application's own copies hold, and what one that comes now is told. */
async function final() {
  const newcomer = await login(`newcomer-${name}`);
  try {
    await until(() => CONTEXTS.every((context) => newcomer.contexts.all().includes(context)), 5000, 'the contexts');
    for (const context of CONTEXTS) {
      record('holds', { context, who: 'client', value: await contexts.get(context) });
      record('holds', { context, who: 'newcomer', value: await newcomer.contexts.get(context) });
    }
  } finally {
    await close(newcomer);
  }
}

const FLOOD_MS = 10;
const FLOOD_BYTES = 16 << 10;
let flooding;

/** Puts something into a context that takes long on a slow link. */
async function large(bytes) {
  record('large', { bytes });
  await contexts.set('large', { text: randomBytes(bytes / 2).toString('hex') });
}
contexts.subscribe('large', ({ text }) => text && record('large-here', { bytes: text.length }));

/** Pushes as fast as a market does that nobody slows down. */
async function flood() {
  const fast = await interop.createStream(`Flood.${name}`);
  const text = 'x'.repeat(FLOOD_BYTES);
  flooding = setInterval(() => fast.push({ text }), FLOOD_MS);
}
interop.methodAdded((method) => {
  if (!method.name.startsWith('Flood.') || method.name === `Flood.${name}`) return;
  let had = 0;
  interop.subscribe(method, { onData: () => { had += 1; }, onClosed: () => record('flood-closed', { had }) })
    .catch((error) => record('flood-failed', { error: reasonOf(error) }));
});

const commands = {
  go: begin,
  large: () => large(2 << 20),
  larger: () => large(8 << 20),
  flood,
  dry: async () => clearInterval(flooding),
  mark: async () => { marked = true; },
  quiet: async () => {
    busy = false;
    await within(CALL_MS_MAX + 15_000, Promise.allSettled([...pending])).catch(() => record('hanging', { count: pending.size }));
  },
  final,
};

console.log('ready');
for await (const line of createInterface({ input: process.stdin })) {
  try {
    await commands[line.trim()]();
    console.log('done');
  } catch (error) {
    console.log(`failed: ${reasonOf(error)}`);
  }
}
await close(client);
file.end(() => process.exit(0));

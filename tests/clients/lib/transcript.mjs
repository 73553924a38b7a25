// A conversation as it looks from outside: what every peer got, in order, without what changes from run to run.
//
// Ids become labels: a peer is named after its connection, a context after its name, everything else after
// the order in which it first appears. Order that no gateway promises is taken away by sorting, with
// `inPromisedOrder`.

import { FENCE } from './raw.mjs';

const UNIQUE = /([A-Za-z]\w*)-[0-9a-f]{6}-(\d+)/g;
/** What is about a subscription at its server. */
const SERVERS = new Set(['add-interest', 'remove-interest', 'accepted', 'post', 'drop-subscription']);
/** What is announced together, in no particular order. */
const UNORDERED = new Set(['context-added', 'context-destroyed', 'subscription-cancelled', 'remove-interest']);

/**
 * Returns the `lists` of a world, each with a `title` and `entries`: a step, a frame, the request that the
 * frame answers, if any, whether its peer is a `member` of agm, whether it is `strange`, about a context of another user, and whether a subscription
 * that it ends was `established`. `said` is every reason that a peer has given.
 */
export function transcriptOf(world) {
  const names = new Names(world);
  const lists = [];
  for (const [index, peer] of world.peers.entries()) {
    const labels = names.connection(index);
    const requests = new Map(peer.sent.filter(({ message }) => message?.request_id !== undefined)
      .map((sent) => [String(sent.message.request_id), sent]));
    const fences = new Set(peer.sent.filter(({ message }) => message?.type === FENCE).map(({ message }) => message.request_id));
    const subscribed = new Set(peer.frames.filter(({ message }) => message?.type === 'subscribed').map(({ message }) => message.subscription_id));
    const members = new Set();
    const ofPeer = new Map([['connection', []]]);
    for (const { message, raw, step } of peer.frames) {
      if (message && (fences.has(message.request_id) || !ofWorld(message, names))) continue;
      const request = message && requests.get(String(message.request_id));
      if (message?.type === 'success' && message.domain === 'agm' && request?.message.type === 'join') members.add(message.peer_id);
      if (message?.type === 'success' && message.domain === 'agm' && request?.message.type === 'leave') members.delete(message.peer_id);
      const owner = labels.peers.get(message?.peer_id) ?? 'connection';
      if (!ofPeer.has(owner)) ofPeer.set(owner, []);
      ofPeer.get(owner).push({
        step,
        frame: message ? inOrder(labels.apply(message)) : { raw },
        request: request && { ...labels.apply(request.message), step: request.step },
        member: members.has(message?.peer_id) && !peer.sent.some((sent) => sent.step === step && leaves(sent.message, message)),
        strange: names.isStrange(message),
        established: message?.type !== 'subscription-cancelled' || subscribed.has(message.subscription_id),
      });
    }
    if (typeof peer.closedWith === 'number') ofPeer.get('connection').push({ step: undefined, frame: { closed: peer.closedWith } });
    for (const [owner, entries] of ofPeer) lists.push({ title: `${index + 1}: ${owner}`, entries });
  }
  const said = new Set(world.peers.flatMap(({ sent }) => sent.map(({ message }) => message?.reason)).filter(Boolean));
  return { lists, said };
}

const leaves = (sent, { peer_id }) => sent?.type === 'leave' && sent.destination === 'agm' && sent.peer_id === peer_id;

/** Whether a frame belongs to this world; the reference announces contexts of strangers, too. */
function ofWorld(message, names) {
  if (message.type === 'context-added') return names.contexts.has(message.context_id);
  if (message.type === 'context-destroyed') return names.contexts.has(message.context_id);
  return true;
}

class Names {
  constructor(world) {
    this.world = world;
    this.prefix = world.prefix;
    this.contexts = new Map();
    this.shared = new Map();
    this.users = new Map();
    this.connections = world.peers.map((peer, index) => this.peersOf(peer, index));
    for (const { message } of this.framesInTime()) {
      if (message?.type !== 'context-added' || this.contexts.has(message.context_id) || !message.name.startsWith(this.prefix)) continue;
      const name = message.name.slice(this.prefix.length + 1);
      const of = [...this.contexts.values()].filter((label) => label.startsWith(`context ${name} `)).length;
      this.contexts.set(message.context_id, `context ${name} ${of + 1}`);
    }
    for (const [id, label] of this.contexts) this.shared.set(id, label);
    this.owners = new Map(this.framesInTime().filter(({ message }) => message?.type === 'context-created')
      .map(({ message }) => [message.context_id, this.users.get(message.peer_id)]));
    this.ranks = this.ranked();
  }

  /** Whether a frame is about a context of another user. */
  isStrange(message) {
    const owner = this.owners.get(message?.context_id);
    return owner !== undefined && owner !== this.users.get(message.peer_id);
  }

  framesInTime() {
    const all = this.world.peers.flatMap(({ frames }) => frames);
    return all.map((frame, index) => ({ ...frame, index })).sort((x, y) => x.step - y.step || x.index - y.index);
  }

  peersOf(peer, index) {
    const peers = new Map();
    let logins = 0;
    for (const { message } of peer.frames) {
      if (message?.type === 'token') this.shared.set(message.token, '(token)');
      if (message?.type !== 'welcome') continue;
      logins += 1;
      const label = `peer ${index + 1}.${logins}`;
      const hello = peer.sent.find((sent) => sent.message?.type === 'hello' && sent.message.request_id === message.request_id);
      const { instance, machine } = message.resolved_identity;
      peers.set(message.peer_id, label);
      this.shared.set(message.peer_id, label);
      this.users.set(message.peer_id, message.resolved_identity.user);
      if (hello?.message.identity?.instance === undefined) this.shared.set(instance, `(instance of ${label})`);
      if (hello?.message.identity?.machine === undefined) this.machine = machine;
      if (message.options?.access_token) this.shared.set(message.options.access_token, '(access token)');
    }
    return peers;
  }

  /** The made-up names of this world, by kind and age. */
  ranked() {
    const text = JSON.stringify([this.world.user, this.world.peers.map(({ sent }) => sent.map(({ message }) => message))]);
    const numbers = {};
    for (const [, kind, number] of text.matchAll(UNIQUE)) (numbers[kind] ??= new Set()).add(Number(number));
    return Object.fromEntries(Object.entries(numbers).map(([kind, set]) => [
      kind, new Map([...set].sort((x, y) => x - y).map((number, index) => [String(number), `${kind}#${index + 1}`])),
    ]));
  }

  /** The labels as one connection sees them: ids of requests and subscriptions are its own. */
  connection(index) {
    const peer = this.world.peers[index];
    const own = new Map();
    const label = (id, kind) => {
      if (typeof id !== 'string' || own.has(id)) return;
      own.set(id, `${kind} ${[...own.values()].filter((text) => text.startsWith(`${kind} `)).length + 1}`);
    };
    for (const { message } of peer.sent) {
      if (message && message.type !== FENCE && /-[0-9a-f]{6}-\d+$/.test(message.request_id)) label(message.request_id, `${message.type} request`);
    }
    // What a peer serves, what it has subscribed to and the bus may number by themselves.
    const subscriptions = { bus: new Map(), agm: new Map() };
    for (const { message } of peer.frames) {
      const { invocation_id, subscription_id, domain, type } = message ?? {};
      label(invocation_id, 'invocation');
      if (type === 'add-interest') label(subscription_id, 'interest');
      const of = subscriptions[domain];
      if ((type === 'subscribed' || type === 'event') && !of.has(subscription_id)) of.set(subscription_id, `${domain} subscription ${of.size + 1}`);
    }
    const text = (value, key, message) => {
      if (key === 'machine' && value === this.machine) return '(machine)';
      const subscription = key === 'subscription_id' && !SERVERS.has(message.type) && subscriptions[message.domain]?.get(value);
      return subscription || (own.get(value) ?? this.shared.get(value)
        ?? value.replace(UNIQUE, (whole, kind, number) => this.ranks[kind]?.get(number) ?? whole));
    };
    const applied = (value, key, message) => {
      if (typeof value === 'string') return text(value, key, message);
      if (Array.isArray(value)) return value.map((inner) => applied(inner, undefined, message));
      if (value === null || typeof value !== 'object') return value;
      return Object.fromEntries(Object.entries(value).map(([inner, of]) => [inner, applied(of, inner, message)]));
    };
    return { peers: this.connections[index], apply: (message) => applied(message, undefined, message) };
  }
}

/** Sorts what is a set but travels as a list. */
function inOrder(message) {
  const by = (pick) => (x, y) => (pick(x) < pick(y) ? -1 : 1);
  if (message.type === 'welcome') return { ...message, available_domains: [...message.available_domains].sort(by(({ uri }) => uri)) };
  if (message.type === 'methods-added') return { ...message, methods: [...message.methods].sort(by(({ id }) => String(id))) };
  if (message.type === 'methods-removed') return { ...message, methods: [...message.methods].sort(by(String)) };
  return message;
}

/** Sorts runs of announcements that belong together. */
export function inPromisedOrder(entries) {
  const groups = [];
  for (const entry of entries) {
    const last = groups.at(-1);
    const { frame } = entry;
    // A peer's methods follow it, wherever it is put.
    if (frame.type === 'methods-added' && last?.kind === 'peer-added' && last.entries[0].frame.new_peer_id === frame.server_id) {
      last.entries.push(entry);
    } else {
      groups.push({ kind: kindOf(entry), entries: [entry] });
    }
  }
  const runs = [];
  for (const group of groups) {
    const last = runs.at(-1);
    if (group.kind && last?.[0].kind === group.kind && last[0].entries[0].step === group.entries[0].step) last.push(group);
    else runs.push([group]);
  }
  const text = ({ entries: of }) => JSON.stringify(of.map(({ frame }) => frame));
  return runs.flatMap((run) => run.sort((x, y) => (text(x) < text(y) ? -1 : 1)).flatMap((group) => group.entries));
}

/** What a frame may change places with; events of one publish reach several subscriptions in any order. */
function kindOf({ frame, request, step }) {
  if (frame.type === 'peer-added' || UNORDERED.has(frame.type)) return frame.type;
  if (frame.type === 'event') return `event ${JSON.stringify([frame.domain, frame.data])}`;
  // The end of a peer fails all that waits for it.
  if (frame.type === 'error' && request && step !== undefined && request.step !== step) return 'late error';
  return undefined;
}

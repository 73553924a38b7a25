// Random conversations: made up from a seed, and the same for every gateway.
//
// A script is a list of steps that name what they act on by position: the second peer, the first of the
// invocations that this peer has been asked for. What that is on the wire is looked up when it is run.
// After each step everything that it has caused is waited for.

import WebSocket from 'ws';
import { unique } from './names.mjs';
import { until, within } from './wait.mjs';

const DOMAINS = ['agm', 'bus', 'metrics'];
const TOPICS = ['a.b', 'a.b.c', 'a.x-y', 'b'];
const PATTERNS = ['a.b', 'a.*', 'a.>', '*', 'b'];
const CONTEXTS_OF_A_USER = 3;
const PEERS_MAX = 7;

/** Numbers from 0 to 1 that depend on `seed` alone (mulberry32). */
function numbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** Makes the script of a seed. Now and then a step asks for what cannot be done. */
export function scriptOf(seed, length) {
  const next = numbers(seed);
  const chance = (share) => next() < share;
  const pick = (list) => list[Math.floor(next() * list.length)];
  const peers = [];
  const steps = [];
  let connections = 0;
  let counter = 0;
  const fresh = () => (counter += 1);
  const someName = () => Math.floor(next() * CONTEXTS_OF_A_USER);
  const living = () => peers.filter(({ gone }) => !gone);
  /** Those that may go: the first of each user stays, and tells when another has gone. */
  const others = () => living().filter(({ index }) => index > 1);
  const members = (domain) => living().filter(({ joined }) => joined.has(domain));

  const login = (stays) => {
    const beside = stays === undefined && chance(0.15) ? pick(others()) : undefined;
    const user = stays ?? beside?.user ?? (chance(0.75) ? 0 : 1);
    const peer = { index: peers.length, connection: beside?.connection ?? connections, user, joined: new Set(), methods: new Set(), gone: false,
      calls: 0, interests: 0, streams: 0, subscriptions: 0, topics: 0 };
    if (!beside) connections += 1;
    peers.push(peer);
    // With a process of its own nobody is taken for one who returns.
    steps.push({ op: 'login', connection: peer.connection, user, application: `app-${peer.index % 3}`, process: 1000 + peer.index });
    for (const domain of ['agm', 'bus']) if (stays !== undefined || chance(0.9)) join(peer, domain);
  };
  const join = (peer, destination) => {
    peer.joined.add(destination);
    steps.push({ op: 'join', by: peer.index, destination });
  };
  /** A peer that is a member, or rarely one that need not be. */
  const actor = (domain) => (chance(0.95) && members(domain).length ? pick(members(domain)) : pick(living()));
  /** One of those who have such things to act on, or rarely any peer. */
  const having = (things, domain = 'agm') => {
    const those = members(domain).filter((peer) => peer[things]);
    return those.length && chance(0.95) ? pick(those) : actor(domain);
  };
  /** Two who can reach each other, if there are any; rarely any two. */
  const callerAndServer = () => {
    const servers = members('agm').filter(({ methods }) => methods.size);
    const server = servers.length && chance(0.95) ? pick(servers) : actor('agm');
    const callers = members('agm').filter(({ user }) => user === server.user);
    return [callers.length && chance(0.95) ? pick(callers) : actor('agm'), server];
  };
  const listener = () => {
    const peer = actor('bus');
    peer.topics += 1;
    return peer;
  };
  const methodOf = (peer) => (peer.methods.size && chance(0.95) ? pick([...peer.methods]) : '9');

  const kinds = [
    [4, () => peers.length < PEERS_MAX && login()],
    [3, () => {
      const peer = pick(living());
      const destination = pick(DOMAINS.filter((domain) => !peer.joined.has(domain)));
      if (chance(0.05)) steps.push({ op: 'join', by: peer.index, destination: 'zz' });
      else if (destination) join(peer, destination);
    }],
    [1.5, () => {
      const peer = pick(others().filter(({ joined }) => joined.size));
      if (!peer) return;
      const destination = pick([...peer.joined]);
      peer.joined.delete(destination);
      if (destination === 'agm') Object.assign(peer, { methods: new Set(), calls: 0, interests: 0, streams: 0, subscriptions: 0 });
      steps.push({ op: 'leave', by: peer.index, destination, ...(chance(0.5) && { reason_uri: 'my.uri', reason: 'my reason' }) });
    }],
    [8, () => {
      const peer = pick(members('agm'));
      if (!peer) return;
      const methods = Array.from({ length: chance(0.2) ? 2 : 1 }, () => {
        const id = String(fresh());
        peer.methods.add(id);
        return { id, name: `Method${id}`, flags: { streaming: chance(0.5), metadata: {} }, extra: [null, { x: id }] };
      });
      steps.push({ op: 'register', by: peer.index, methods });
    }],
    [2, () => {
      // The reference forgets some that have unregistered their last method, so one is kept.
      const peer = pick(members('agm').filter(({ methods }) => methods.size > 1));
      if (!peer) return;
      const methods = [methodOf(peer), ...(chance(0.2) ? ['77'] : [])];
      if (!methods.includes('9') && !methods.includes('77')) peer.methods.delete(methods[0]);
      steps.push({ op: 'unregister', by: peer.index, methods });
    }],
    [12, () => {
      const [caller, server] = callerAndServer();
      const known = chance(0.97);
      const more = pick([{ arguments_kv: { n: fresh() } }, { arguments: [fresh(), { x: [] }] }, { context: { c: 1 } }, {},
        ...(chance(0.3) ? [{ arguments: [1], arguments_kv: { x: 1 } }] : [])]);
      server.calls += 1;
      steps.push({ op: 'call', by: caller.index, server: known ? server.index : undefined, method_id: methodOf(server), ...more });
    }],
    [12, () => steps.push({ op: 'yield', by: having('calls').index, at: next(), result: pick([{ n: fresh() }, null, undefined, [1, 'two']]) })],
    [3, () => steps.push({ op: 'fail', by: having('calls').index, at: next(), reason: `reason ${fresh()}`, ...(chance(0.5) && { context: { c: 1 } }) })],
    [9, () => {
      const [caller, server] = callerAndServer();
      if (caller === server) return;
      server.interests += 1;
      caller.subscriptions += 1;
      steps.push({ op: 'subscribe', by: caller.index, server: server.index, method_id: methodOf(server), arguments_kv: { n: fresh() } });
    }],
    [9, () => {
      const server = having('interests');
      server.streams += 1;
      steps.push({ op: 'accept', by: server.index, at: next(), stream_id: pick(['0', '1']) });
    }],
    [2, () => steps.push({ op: 'reject', by: having('interests').index, at: next(), reason: `reason ${fresh()}` })],
    [9, () => steps.push({ op: 'publish', by: having('streams').index, stream_id: pick(['0', '1', ...(chance(0.3) ? ['7'] : [])]), data: { n: fresh() }, ...(chance(0.3) && { sequence: 4, snapshot: true }) })],
    [3, () => steps.push({ op: 'post', by: having('interests').index, at: next(), data: { n: fresh() } })],
    [2, () => steps.push({ op: 'drop', by: having('streams').index, at: next(), reason: `reason ${fresh()}` })],
    [3, () => steps.push({ op: 'unsubscribe', by: having('subscriptions').index, at: next() })],
    [8, () => {
      const bad = chance(0.05) && { name: 'bad', lifetime: 'weird' };
      const lifetime = pick(['retained', 'retained', 'retained', 'ownership', 'ref-counted']);
      steps.push({ op: 'create-context', by: pick(living()).index, name: someName(), data: { first: fresh(), o: { a: 1 } }, lifetime, ...bad });
    }],
    [6, () => steps.push({ op: 'subscribe-context', by: pick(living()).index, name: someName() })],
    [10, () => steps.push({ op: 'update-context', by: pick(living()).index, name: someName(), delta: deltaOf(pick, fresh) })],
    [2, () => steps.push({ op: 'unsubscribe-context', by: pick(living()).index, name: someName() })],
    [1.5, () => steps.push({ op: 'destroy-context', by: pick(living()).index, name: someName() })],
    [6, () => steps.push({ op: 'bus-subscribe', by: listener().index, topic: pick(PATTERNS), ...(chance(0.3) && { routing_key: pick(['k1', 'k2']) }) })],
    [8, () => {
      const peer = pick(members('bus'));
      if (!peer) return;
      const target_identity = { application: `app-${Math.floor(next() * 3)}` };
      const data = pick([{ n: fresh() }, fresh(), `text ${fresh()}`, { n: fresh(), deep: [null, {}] }, ...(chance(0.3) ? [null, false, 0, ''] : [])]);
      steps.push({ op: 'bus-publish', by: peer.index, topic: pick(TOPICS), data, ...(chance(0.3) && { routing_key: pick(['k1', 'k2']) }), ...(chance(0.2) && { target_identity }) });
    }],
    [2, () => steps.push({ op: 'bus-unsubscribe', by: having('topics', 'bus').index, at: next() })],
    [1.5, () => {
      const { connection } = pick(members('agm').filter(({ index }) => index > 1)) ?? {};
      if (connection === undefined) return;
      const going = living().filter((peer) => peer.connection === connection);
      for (const peer of going) peer.gone = true;
      steps.push({ op: 'close', connection, members: going.filter(({ joined }) => joined.has('agm')).map(({ index }) => index) });
    }],
    [0.5, () => steps.push({ op: 'ping', by: pick(living()).index, ...(chance(0.5) && { domain: 'agm' }) })],
    [0.5, () => steps.push({ op: 'unknown', by: pick(living()).index, domain: pick(['agm', 'bus', 'global', 'metrics', 'nope']) })],
    [0.5, () => steps.push({ op: 'create-token', by: pick(living()).index })],
  ];
  const sum = kinds.reduce((total, [weight]) => total + weight, 0);
  for (const user of [0, 1]) login(user);
  login();
  while (steps.length < length) {
    let at = next() * sum;
    kinds.find(([weight]) => (at -= weight) < 0)?.[1]();
  }
  // Nothing stays behind that later scripts would be told of.
  for (const { index } of living()) {
    for (let context = 0; context < CONTEXTS_OF_A_USER; context += 1) steps.push({ op: 'destroy-context', by: index, name: context });
  }
  return steps;
}

function deltaOf(pick, fresh) {
  const n = fresh();
  const key = pick(['k', 'l']);
  return pick([
    { added: { [key]: n } },
    { added: { o: { a: n } } },
    { updated: { o: { [pick(['a', 'b'])]: n } } },
    { updated: { list: [n] } },
    { removed: [key, 'missing'] },
    { reset: { [key]: n, o: {} } },
    { reset: null },
    { commands: [{ type: 'set', path: key, value: { deep: [n] } }] },
    { commands: [{ type: 'set', path: `o.${pick(['a', 'b', 'c.d'])}`, value: n }] },
    { commands: [{ type: 'remove', path: key }, { type: 'set', path: 'last', value: null }] },
    { added: {}, updated: {}, removed: [], commands: [{ type: 'set', path: key, value: n }] },
    { added: { [key]: n }, updated: { o: { a: n } }, removed: ['first'] },
  ]);
}

/** Scripts of what random ones seldom do: a name and the steps. */
export const RARE = [
  ['two peers of one connection end', [
    ...began(),
    { op: 'login', connection: 2, user: 0, application: 'app' },
    { op: 'join', by: 2, destination: 'agm' },
    { op: 'login', connection: 2, user: 0, application: 'app' },
    { op: 'join', by: 3, destination: 'agm' },
    { op: 'register', by: 2, methods: [{ id: '1', name: 'Method1' }] },
    { op: 'create-context', by: 2, name: 0, data: {}, lifetime: 'ownership' },
    { op: 'close', connection: 2, members: [2, 3] },
  ]],
  ['one who has left the bus unsubscribes', [
    ...began(),
    { op: 'bus-subscribe', by: 0, topic: 'a.b' },
    { op: 'leave', by: 0, destination: 'bus' },
    { op: 'bus-unsubscribe', by: 0, at: 0 },
  ]],
  ['a context ends for its members', [
    ...began(),
    { op: 'login', connection: 2, user: 0, application: 'app' },
    { op: 'join', by: 2, destination: 'agm' },
    { op: 'create-context', by: 2, name: 0, data: {}, lifetime: 'ownership' },
    { op: 'subscribe-context', by: 0, name: 0 },
    { op: 'close', connection: 2, members: [2] },
  ]],
];

/** A peer of each user, member of agm and the bus. */
function began() {
  return [0, 1].flatMap((user) => [
    { op: 'login', connection: user, user, application: 'app' },
    { op: 'join', by: user, destination: 'agm' },
    { op: 'join', by: user, destination: 'bus' },
  ]);
}

/** Runs a script; what the peers of `world` got is then in their frames. */
export async function play(world, steps) {
  const stage = new Stage(world);
  for (const [step, action] of steps.entries()) {
    for (const peer of world.peers) peer.step = step;
    stage.step = step;
    await stage.act(action);
    await within(5000, stage.quiet(action), `quiet after step ${step} ${JSON.stringify(action)}`);
  }
}

class Stage {
  constructor(world) {
    this.world = world;
    this.users = [world.user, unique('other')];
    this.connections = [];
    this.peers = [];
  }

  async act({ op, by, connection, ...rest }) {
    if (op === 'login') await this.login(connection, rest);
    else if (op === 'close') this.connections[connection].close();
    else this.send(this.peers[by], this.messageOf(this.peers[by], op, rest));
  }

  async login(connection, { user, ...identity }) {
    this.connections[connection] ??= await this.world.open('a');
    const socket = this.connections[connection];
    socket.step = this.step;
    const reply = await socket.hello({ user: this.users[user], identity });
    this.peers.push({ socket, id: reply.peer_id, user, accepted: new Set() });
  }

  send({ socket, id }, message) {
    if (!message) return;
    socket.send({ request_id: unique('request'), ...message, peer_id: id });
  }

  /** Resolves when everything that the step has caused has arrived. */
  async quiet({ op, by, members }) {
    const open = this.connections.filter(({ socket }) => socket.readyState === WebSocket.OPEN);
    if (op === 'close') {
      // The end of a connection is no message, so it is over when those who stay have been told.
      const told = (index) => this.got(this.peers[this.peers[index].user], 'agm', 'peer-removed')
        .some(({ removed_id }) => removed_id === this.peers[index].id);
      await until(() => members.every(told), 3000, 'those who stay have been told');
    }
    const first = by === undefined ? undefined : this.peers[by].socket;
    if (first) await first.fence();
    await Promise.all(open.filter((socket) => socket !== first).map((socket) => socket.fence()));
  }

  messageOf(peer, op, { at, server, name, ...rest }) {
    const of = (domain, type, more) => ({ domain, type, ...rest, ...more });
    const to = { server_id: server === undefined ? 'p-none' : this.peers[server].id };
    const interest = { subscription_id: this.seen(peer, 'agm', 'add-interest', 'subscription_id', at) };
    const unanswered = this.unanswered(peer, at);
    switch (op) {
      case 'join':
      case 'leave':
      case 'create-token': return of('global', op);
      case 'register':
      case 'unregister':
      case 'publish': return of('agm', op);
      case 'call':
      case 'subscribe': return of('agm', op, to);
      case 'yield': return of('agm', op, { invocation_id: this.seen(peer, 'agm', 'invoke', 'invocation_id', at) });
      case 'fail': return of('agm', 'error', { request_id: this.seen(peer, 'agm', 'invoke', 'invocation_id', at) });
      case 'accept':
        peer.accepted.add(unanswered);
        return unanswered && of('agm', 'accepted', { subscription_id: unanswered });
      case 'reject':
        peer.accepted.add(unanswered);
        return unanswered && of('agm', 'error', { request_id: unanswered });
      case 'post': return of('agm', op, interest);
      case 'drop': return of('agm', 'drop-subscription', interest);
      case 'unsubscribe': return of('agm', op, {
        subscription_id: this.seen(peer, 'agm', 'subscribed', 'subscription_id', at), reason_uri: '', reason: 'ClientInitiated',
      });
      case 'create-context': return of('global', op, { name: this.nameOf(peer, name) });
      case 'subscribe-context':
      case 'unsubscribe-context':
      case 'update-context':
      case 'destroy-context': return of('global', op, { context_id: this.contextId(peer, name) });
      case 'bus-subscribe':
      case 'bus-publish': return of('bus', op.slice(4));
      case 'bus-unsubscribe': return of('bus', 'unsubscribe', { subscription_id: this.seen(peer, 'bus', 'subscribed', 'subscription_id', at) });
      case 'ping': return { type: 'ping', ...rest };
      case 'unknown': return { type: 'zzz', ...rest };
      default: throw new Error(`no such step: ${op}`);
    }
  }

  /** What this peer got of that type. */
  got({ socket, id }, domain, type) {
    return socket.frames.map(({ message }) => message)
      .filter((message) => message?.peer_id === id && message.type === type && message.domain === domain);
  }

  /** One of the ids that the peer was given in such messages; `at` goes from 0 for the first to 1. */
  seen(peer, domain, type, key, at) {
    const ids = this.got(peer, domain, type).map((message) => message[key]);
    return ids[Math.floor(at * ids.length)] ?? 'r-none';
  }

  unanswered(peer, at) {
    const ids = this.got(peer, 'agm', 'add-interest').map(({ subscription_id }) => subscription_id).filter((id) => !peer.accepted.has(id));
    return ids[Math.floor(at * ids.length)];
  }

  nameOf({ user }, name) {
    return this.world.named(`${user}-${name}`);
  }

  contextId(peer, name) {
    return this.got(peer, 'global', 'context-added').filter((message) => message.name === this.nameOf(peer, name)).at(-1)?.context_id ?? 'c-none';
  }
}

// A peer without a library: sends JSON, keeps every frame it gets, and is asked for them by pattern.

import { isDeepStrictEqual } from 'node:util';
import WebSocket from 'ws';
import { sleep, until, within } from './wait.mjs';
import { unique } from './names.mjs';

const ANSWER_MS = 3000;

/** A type that no domain has; its error tells that all that came before has been dealt with. */
export const FENCE = 'no-such-type';

export class RawPeer {
  /** Opens a connection; nobody is logged in on it yet. */
  static async open(url, options) {
    const peer = new RawPeer();
    peer.url = url;
    peer.frames = [];
    peer.sent = [];
    peer.step = 0;
    peer.socket = new WebSocket(url, { maxPayload: 0, ...options });
    peer.closed = new Promise((resolve) => peer.socket.once('close', (code) => resolve(code)));
    peer.closed.then((code) => (peer.closedWith ??= code));
    peer.socket.on('message', (data, binary) => {
      const raw = data.toString();
      peer.frames.push({ raw, binary, at: peer.frames.length, step: peer.step, taken: false, ...parsed(raw) });
    });
    await within(ANSWER_MS, new Promise((resolve, reject) => {
      peer.socket.once('open', resolve);
      peer.socket.once('error', reject);
    }), 'socket open');
    return peer;
  }

  /** Sends a message as it is, with the peer id if there is one and none is given. */
  send(message) {
    const whole = this.id && !('peer_id' in message) && message.type !== 'hello' ? { ...message, peer_id: this.id } : message;
    this.sent.push({ message: whole, step: this.step, after: this.frames.length });
    this.socket.send(JSON.stringify(whole));
  }

  /** Sends a request and resolves with its reply, whatever that is. */
  async request(message) {
    const request_id = message.request_id ?? unique('request');
    this.send({ ...message, request_id });
    return this.match({ request_id });
  }

  /** Logs in; afterwards `id` and `identity` are those of the new peer. */
  async hello({ user, identity, authentication = { method: 'secret', login: user, secret: 'any' }, ...rest }) {
    const reply = await this.request({ type: 'hello', identity, authentication, ...rest });
    if (reply.type === 'welcome') {
      this.id = reply.peer_id;
      this.identity = reply.resolved_identity;
    }
    return reply;
  }

  async join(destination, more = {}) {
    return this.request({ type: 'join', domain: 'global', destination, ...more });
  }

  async leave(destination, more = {}) {
    return this.request({ type: 'leave', domain: 'global', destination, ...more });
  }

  /**
   * Resolves with the first frame, not taken yet, that has all keys of `pattern`, and takes it.
   *
   * A function in the pattern judges the value of its key.
   */
  async match(pattern, ms = ANSWER_MS) {
    const find = () => this.frames.find((frame) => !frame.taken && fits(frame.message, pattern));
    const frame = await until(find, ms, `a frame like ${show(pattern)}`).catch((error) => {
      throw new Error(`${error.message}; there is ${show(this.pending().slice(-4).map(({ message }) => message))}`);
    });
    frame.taken = true;
    this.last = frame.at;
    return frame.message;
  }

  /** Takes one frame for each pattern and asserts that they came in this order. */
  async sequence(...patterns) {
    const taken = [];
    let last = -1;
    for (const pattern of patterns) {
      taken.push(await this.match(pattern));
      if (this.last < last) throw new Error(`${show(pattern)} came before ${show(taken.at(-2))}`);
      last = this.last;
    }
    return taken;
  }

  pending() {
    return this.frames.filter(({ taken }) => !taken);
  }

  /** Resolves when everything that was caused before has arrived, for the node answers in order. */
  async fence() {
    await this.request({ type: FENCE, domain: 'global' });
  }

  /** Breaks the connection. `closedWith` stays the code of a node that has hung up by itself. */
  close() {
    this.closedWith ??= 'closed by the peer';
    this.socket.terminate();
  }

  async leaves() {
    this.closedWith ??= 'closed by the peer';
    this.socket.close();
    await this.closed;
  }
}

/** What a check may use: peers of a fresh user at the two places. */
export class RawWorld {
  constructor({ urls }) {
    this.urls = urls;
    this.two = urls.a !== urls.b;
    this.user = unique('user');
    this.prefix = unique('name');
    this.peers = [];
    this.cleanups = [];
  }

  /** A connection; `options` are those of a WebSocket. */
  async open(place, options) {
    const peer = await RawPeer.open(this.urls[place], options);
    this.peers.push(peer);
    return peer;
  }

  /** A peer that is logged in. */
  async login(place, { application = unique('app'), identity, user = this.user } = {}) {
    const peer = await this.open(place);
    const reply = await peer.hello({ user, identity: { application, ...identity } });
    if (reply.type !== 'welcome') throw new Error(`login failed: ${show(reply)}`);
    return peer;
  }

  /** A peer that is logged in and a member of `domain`. */
  async member(domain, place, options) {
    const peer = await this.login(place, options);
    const reply = await peer.join(domain);
    if (reply.type !== 'success') throw new Error(`join failed: ${show(reply)}`);
    return peer;
  }

  /** Two members of `agm` that know each other: a server at `a`, a client at `b`. */
  async pair() {
    const server = await this.member('agm', 'a');
    const client = await this.member('agm', 'b');
    await server.match({ type: 'peer-added', new_peer_id: client.id });
    await client.match({ type: 'peer-added', new_peer_id: server.id });
    return { server, client };
  }

  /** Like `pair`, with one method that the client has been told of. */
  async offered(method = { id: '0', name: 'Method', flags: { streaming: false, metadata: {} } }) {
    const { server, client } = await this.pair();
    await this.register(server, [method], [client]);
    return { server, client };
  }

  async register(server, methods, observers = []) {
    const reply = await server.request({ domain: 'agm', type: 'register', methods });
    if (reply.type !== 'success') throw new Error(`register failed: ${show(reply)}`);
    await server.match({ type: 'methods-added', server_id: server.id });
    for (const peer of observers) await peer.match({ type: 'methods-added', server_id: server.id });
  }

  /** A name for a context or topic of this check. */
  named(text = 'x') {
    return `${this.prefix}-${text}`;
  }

  /**
   * Asserts that these peers got nothing that was not asked for.
   *
   * What a node says of peers and contexts of its own, or of other users, is not this check's.
   */
  async nothing(...peers) {
    // A reply on one node says nothing of what is still under way to another.
    if (this.two) await sleep(150);
    for (const peer of peers) {
      if (peer.socket.readyState !== WebSocket.OPEN) continue;
      await peer.fence();
      const rest = peer.pending().map(({ message, raw }) => message ?? raw).filter((message) => this.concerns(message));
      if (rest.length) throw new Error(`unexpected ${show(rest)}`);
    }
  }

  concerns(message) {
    const ids = new Set(this.peers.map(({ id }) => id));
    switch (message.type) {
      case 'peer-added': return ids.has(message.new_peer_id);
      case 'peer-removed': return ids.has(message.removed_id);
      case 'methods-added':
      case 'methods-removed': return ids.has(message.server_id);
      case 'context-added': return message.name.startsWith(this.prefix);
      case 'event': return !message.data?.probe;
      case 'context-destroyed': return this.contextIds().has(message.context_id);
      default: return true;
    }
  }

  contextIds() {
    const added = this.peers.flatMap(({ frames }) => frames).filter(({ message }) => message?.type === 'context-added');
    return new Set(added.filter(({ message }) => message.name.startsWith(this.prefix)).map(({ message }) => message.context_id));
  }

  async close() {
    for (const peer of this.peers) peer.close();
    for (const cleanup of this.cleanups) cleanup();
  }
}

function parsed(raw) {
  try {
    return { message: JSON.parse(raw) };
  } catch {
    return {};
  }
}

function fits(message, pattern) {
  return message !== undefined && Object.entries(pattern).every(([key, wanted]) => (
    typeof wanted === 'function' ? wanted(message[key]) : isDeepStrictEqual(message[key], wanted)
  ));
}

export function show(value) {
  return JSON.stringify(value, (_, inner) => (typeof inner === 'function' ? '(judged)' : inner))?.slice(0, 500);
}

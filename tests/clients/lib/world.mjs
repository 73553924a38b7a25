// What one scenario may use: two places to connect to, fresh names, and clients that are closed.

import { close, connect } from './clients.mjs';
import { startApp } from './app.mjs';
import { unique } from './names.mjs';
import { RawPeer } from './raw.mjs';
import { sleep, until, within, rejection } from './wait.mjs';

export class World {
  /**
   * `urls` and `libs` are `{ a, b }`: the provider's place and the consumer's; the place `c` has the
   * consumer's library. `control` kills and starts the node at `b`, and cuts links.
   */
  constructor({ urls, libs, control }) {
    this.urls = urls;
    this.control = control;
    this.libs = { c: libs.b, ...libs };
    this.twoNodes = urls.a !== urls.b;
    this.user = unique('user');
    this.log = [];
    this.clients = new Set();
    this.cleanups = [];

    // A scenario takes these apart in its argument list, so they must not need `this`.
    for (const name of ['connect', 'refused', 'pair', 'everywhere', 'app', 'leave', 'raw', 'onClose']) {
      this[name] = this[name].bind(this);
    }
    Object.assign(this, { unique, until, within, rejection, sleep });
  }

  /** Connects a client at place `a` or `b`, as the scenario's user unless told otherwise. */
  async connect(place, options = {}) {
    const client = await connect(options.lib ?? this.libs[place], options.url ?? this.urls[place], {
      user: this.user,
      application: unique(`app-${place}`),
      log: this.log,
      ...without(options, ['lib', 'url']),
    });
    this.clients.add(client);
    return client;
  }

  /** Resolves with the reason for which a client is turned away. */
  async refused(place, options) {
    return rejection(this.connect(place, options), 12_000, 'login refused');
  }

  /** Connects a provider at `a` and a consumer at `b`, in parallel. */
  async pair(options = {}) {
    return Promise.all([this.connect('a', options), this.connect('b', options)]);
  }

  /** Connects a client at each of three places, in parallel. */
  async everywhere(options = {}) {
    return Promise.all(['a', 'b', 'c'].map((place) => this.connect(place, options)));
  }

  /** Logs in a peer without a library. */
  async raw(place, { application = unique(`raw-${place}`), ...options } = {}) {
    const peer = await RawPeer.open(this.urls[place], options);
    this.cleanups.push(() => peer.close());
    const reply = await peer.hello({ user: this.user, identity: { application } });
    if (reply.type !== 'welcome') throw new Error(`login failed: ${JSON.stringify(reply)}`);
    return peer;
  }

  /** Starts an application in a process of its own, which can be killed. See `lib/app.mjs`. */
  async app(place, options = {}) {
    const app = await startApp({
      lib: this.libs[place],
      url: this.urls[place],
      user: this.user,
      application: unique(`proc-${place}`),
      ...options,
    });
    this.cleanups.push(() => app.kill());
    return app;
  }

  /** Closes one client now, the polite way. */
  async leave(client) {
    this.clients.delete(client);
    await close(client);
  }

  onClose(cleanup) {
    this.cleanups.push(cleanup);
  }

  async close() {
    await Promise.allSettled([
      ...[...this.clients].map(close),
      ...this.cleanups.map(async (cleanup) => cleanup()),
    ]);
    await this.control?.restore();
  }
}

function without(object, keys) {
  return Object.fromEntries(Object.entries(object).filter(([key]) => !keys.includes(key)));
}

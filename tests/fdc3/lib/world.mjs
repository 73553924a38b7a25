// What one check may use: two places to connect to, apps that are closed, and ways to wait.

import assert from 'node:assert/strict';
import { unique } from '../../clients/lib/names.mjs';
import { rejection, sleep, until, within } from '../../clients/lib/wait.mjs';
import { connect, connectRaw } from './client.mjs';
import { Desk } from './desk.mjs';
import { urlOf } from './directory.mjs';
import { Socket } from './socket.mjs';

export class World {
  /**
   * `urls` and `libs` are `{ a, b }`; `user` is whose apps all checks use, if they share one; `control` does
   * things to the nodes.
   */
  constructor({ urls, libs, user, control }) {
    Object.assign(this, { urls, libs, control });
    this.twoNodes = urls.a !== urls.b;
    this.user = user ?? unique('user');
    this.open = [];
    for (const name of ['url', 'connect', 'raw', 'socket', 'desk', 'nodeName', 'linked', 'offered', 'raise', 'keep']) this[name] = this[name].bind(this);
    Object.assign(this, { unique, until, within, rejection, sleep });
  }

  /** Where apps of `user` connect at a place; without a user, those of the node's own. */
  url(place, user = this.user) {
    const url = new URL(this.urls[place]);
    if (user) url.searchParams.set('user', user);
    return url.href;
  }

  /** Connects an app of the directory with the library of the place. */
  async connect(place, appId, { user, lib = this.libs[place], identity, ...options } = {}) {
    const app = await connect(lib, this.url(place, user), { identityUrl: urlOf(appId), ...identity }, options);
    this.keep(() => app.agent.disconnect());
    this.keep(() => app.socket.close());
    return app;
  }

  /** Connects an app without a library. */
  async raw(place, appId, { user, identity, ...options } = {}) {
    const app = await connectRaw(this.url(place, user), { identityUrl: urlOf(appId), ...identity }, options);
    this.keep(() => app.socket.close());
    return app;
  }

  /** Connects and says nothing. */
  async socket(place, options) {
    const socket = await Socket.open(this.url(place), options);
    this.keep(() => socket.close());
    return socket;
  }

  /** A launcher of the node's own user. */
  async desk(place) {
    const desk = await Desk.open(this.url(place, ''));
    // The next check must not find it still there.
    this.keep(() => desk.close());
    return desk;
  }

  async nodeName(place) {
    return (await this.desk(place)).node;
  }

  /**
   * Waits until what is broadcast on `from` is heard on `to`, which are channels or agents: nodes learn of each
   * other's listeners in their own time, and a broadcast is for those who listen.
   */
  async linked(from, to) {
    if (!this.twoNodes) return;
    const type = unique('x.probe');
    const heard = new Set();
    const listener = await to.addContextListener(type, ({ probe }) => heard.add(probe));
    await until(async () => {
      await from.broadcast({ type, probe: 'first' });
      return heard.size;
    }, 5000, 'a broadcast heard at the other node');
    // The others are still on their way.
    await from.broadcast({ type, probe: 'last' });
    await until(() => heard.has('last'), 5000, 'the last probe heard at the other node');
    await listener.unsubscribe();
  }

  /** Waits until an app sees a handler of an intent, and resolves with what it calls the handler. */
  async offered(app, intent, handler) {
    return until(async () => {
      const { apps } = await app.agent.findIntent(intent);
      return apps.find(({ instanceId }) => instanceId === handler.id.instanceId);
    }, 5000, `${intent} of the handler listed`);
  }

  /** Raises an intent for one handler. */
  async raise(app, intent, context, handler) {
    const { appId, instanceId, desktopAgent } = await this.offered(app, intent, handler);
    return app.agent.raiseIntent(intent, context, { appId, instanceId, ...(desktopAgent && { desktopAgent }) });
  }

  keep(cleanup) {
    this.open.push(cleanup);
  }

  async close() {
    await this.control?.restore();
    await Promise.allSettled(this.open.map(async (cleanup) => within(1000, cleanup())));
  }
}

/** Resolves with a list of what a channel or an agent hears, which goes on until its `unsubscribe()`. */
export async function hears(channel, type = null) {
  const seen = [];
  const listener = await channel.addContextListener(type, (context) => seen.push(context));
  // Not to be seen when lists are compared.
  return Object.defineProperty(seen, 'unsubscribe', { value: () => listener.unsubscribe() });
}

/** Listens to what native apps report, and ends them with the check. */
export async function reports(world, { agent }) {
  const channel = await agent.getOrCreateChannel('test-native-reports');
  const of = new Map();
  await channel.addContextListener('x.report', (report) => of.set(report.instanceId, report));
  world.keep(async () => {
    for (const instanceId of of.keys()) await channel.broadcast({ type: 'x.end', instanceId });
  });
  return of;
}

/** Asserts that a call fails with an error of the standard, which is its whole message. */
export async function failsWith(error, promise, ms) {
  assert.equal((await rejection(promise, ms, error)).reason, error);
}

/** Asserts that a raw request is answered with an error of the standard. */
export async function answersWith(error, response) {
  const { type, payload } = await response;
  assert.equal(payload?.error, error, type);
}

/** Time for something unwanted to happen. */
export const aWhile = () => sleep(250);

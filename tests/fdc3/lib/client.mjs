// The library of one generation on one socket, connected as an app.

import { randomUUID } from 'node:crypto';
import { load } from './libraries.mjs';
import { Socket } from './socket.mjs';

/**
 * Says who is there and resolves with who the node takes that to be.
 *
 * `identity` is `{ identityUrl, instanceId?, instanceUuid? }`, or `{ sharedSecret }` for a native app.
 */
export async function identify(socket, { sharedSecret, attested, ...identity }) {
  const meta = { connectionAttemptUuid: randomUUID(), timestamp: new Date() };
  const answered = socket.next((message) => /^WCP5|^WSCP(DesktopAgentConnect|ConnectFailed)/.test(message.type));
  socket.post(sharedSecret === undefined
    ? { type: 'WCP4ValidateAppIdentity', meta, payload: { actualUrl: identity.identityUrl, ...identity }, ...(attested && { attested }) }
    : { type: 'WSCPApplicationConnect', meta, payload: { protocolVersion: '1.0', sharedSecret } });
  const { type, payload, meta: answer } = await answered;
  if (answer?.connectionAttemptUuid !== meta.connectionAttemptUuid) throw new Error(`${type} for another attempt`);
  if (/Failed/.test(type)) throw new Error(`refused: ${payload.message}`);
  const { appId, instanceId } = { ...payload.implementationMetadata.appMetadata, ...payload };
  return { appId, instanceId, instanceUuid: payload.instanceUuid, implementationMetadata: payload.implementationMetadata };
}

/** A connected app without a library. */
export async function connectRaw(url, identity, options) {
  const socket = await Socket.open(url, options);
  try {
    return { socket, id: await identify(socket, identity) };
  } catch (error) {
    socket.close();
    throw error;
  }
}

/**
 * Connects the library `lib` and resolves with its `agent`.
 *
 * `choose` takes the place of the intent resolver: it is given the intents with their apps and the context, and
 * returns `{ intent, appId }`, or nothing to cancel.
 */
export async function connect(lib, url, identity, { choose, exchangeMs = 5000, launchMs = 60_000, ...options } = {}) {
  const proxy = await load(lib);
  const { socket, id } = await connectRaw(url, identity, options);
  const Messaging = messagingOf(proxy);
  const messaging = new Messaging(socket, { appId: id.appId, instanceId: id.instanceId });
  const nothing = { connect: async () => {}, disconnect: async () => {} };
  const selector = { ...nothing, updateChannel: async () => {}, setChannelChangeCallback: () => {} };
  const resolver = { ...nothing, chooseIntent: async (intents, context) => choose?.(intents, context) };
  const heartbeat = new proxy.DefaultHeartbeatSupport(messaging);
  const channels = new proxy.DefaultChannelSupport(messaging, selector, exchangeMs);
  const intents = new proxy.DefaultIntentSupport(messaging, resolver, exchangeMs, launchMs);
  const apps = new proxy.DefaultAppSupport(messaging, exchangeMs, launchMs);
  // Since 2.2.3 the channels have something to say while connecting.
  const connectables = channels.connect ? [heartbeat, channels, resolver] : [heartbeat, resolver];
  const agent = new proxy.DesktopAgentProxy(heartbeat, channels, intents, apps, connectables);
  await agent.connect();
  // As `getAgent()` does for the channel selector. Without it, 2.2.3 first asks for the channels when it is moved,
  // and drops what arrives before the answer.
  await agent.getCurrentChannel();
  await agent.getUserChannels();
  return { agent, id, socket, messaging, proxy, kill: () => socket.kill() };
}

/** Calls a listener. What it throws is reported and nothing more, as in a browser. */
function called(listener) {
  try {
    listener();
  } catch (error) {
    Promise.reject(error);
  }
}

const classes = new WeakMap();

/** The library's transport, over a socket. */
function messagingOf(proxy) {
  if (!classes.has(proxy)) {
    classes.set(proxy, class SocketMessaging extends proxy.AbstractMessaging {
      #socket;
      #listeners = new Map();

      constructor(socket, app) {
        super(app);
        this.#socket = socket;
        socket.listen((message) => {
          // A listener may take itself or others out of the list.
          for (const listener of [...this.#listeners.values()]) if (message && listener.filter(message)) called(() => listener.action(message));
        });
      }

      createUUID() {
        return randomUUID();
      }

      createMeta() {
        return { requestUuid: randomUUID(), timestamp: new Date(), source: this.getAppIdentifier() };
      }

      async post(message) {
        this.#socket.post(message);
      }

      register(listener) {
        this.#listeners.set(listener.id, listener);
      }

      unregister(id) {
        this.#listeners.delete(id);
      }

      async disconnect() {
        this.#socket.post({ type: 'WCP6Goodbye', meta: { timestamp: new Date() } });
        this.#socket.close();
      }
    });
  }
  return classes.get(proxy);
}

// The hidden frame between an FDC3 app and the node that served it. The app's library says WCP1Hello to this frame and gets a port;
// what comes out of the port goes to the node, one frame per message, and back.
//
// It outlives the node. When the connection is lost it connects again with the instanceId and instanceUuid the node gave,
// repeats what the node forgets with a connection (listeners, app channels, the user channel), catches up with the context of the
// user channel and goes on. Private channels end with the connection. The app's library knows nothing of this, so ids of listeners
// are translated for it.
import { openSocket, retryDelay, uuid } from './common.js';

const CONNECT_TIMEOUT_MS = 1500;
/** How long the library waits for an answer; told to it in WCP3. What has waited longer is not sent, as nobody wants it any more. */
const EXCHANGE_TIMEOUT_MS = 10_000;
const LAUNCH_TIMEOUT_MS = 100_000;
/** What waits for the node while it is away. */
const WAITING_MESSAGES_MAX = 1000;
const WAITING_CHARS_MAX = 16 * 1024 * 1024;
/** Raised intents of which the result is remembered as owed. */
const OWED_RESULTS_MAX = 1000;
/** Context types of the user channel of which the last one seen is remembered. */
const SEEN_TYPES_MAX = 100;

const SLOW_REQUESTS = new Set(['openRequest', 'raiseIntentRequest', 'raiseIntentForContextRequest']);
/** Requests that may be sent a second time when nobody knows whether the first was heard. */
const REPEATABLE_REQUESTS = new Set(['getInfoRequest', 'getAppMetadataRequest', 'findInstancesRequest', 'findIntentRequest',
  'findIntentsByContextRequest', 'getUserChannelsRequest', 'getCurrentChannelRequest', 'getCurrentContextRequest', 'getOrCreateChannelRequest',
  'joinUserChannelRequest', 'leaveCurrentChannelRequest', 'addContextListenerRequest', 'addIntentListenerRequest', 'addEventListenerRequest',
  'contextListenerUnsubscribeRequest', 'intentListenerUnsubscribeRequest', 'eventListenerUnsubscribeRequest']);
const LISTENER_REQUESTS = new Set(['addContextListenerRequest', 'addIntentListenerRequest', 'addEventListenerRequest']);
const UNSUBSCRIBE_REQUESTS = new Set(['contextListenerUnsubscribeRequest', 'intentListenerUnsubscribeRequest', 'eventListenerUnsubscribeRequest']);

const launchKey = new URLSearchParams(location.search).get('launchKey');

class Session {
  #socket;
  #origin;
  #port;
  /** 'new' until the node has accepted the app, then 'live' or 'away', at last 'over'. */
  #state = 'new';
  /** The WCP4 of the app, to be said again. */
  #identity = null;
  /** What the app asked and the node has not answered: requestUuid to {message, until}. */
  #asked = new Map();
  /** Raised intents whose result is still to come, by requestUuid. */
  #owed = new Map();
  /** What waits for the node: {text, message, until}. */
  #waiting = [];
  #waitingChars = 0;
  /** Listeners of the app, by the id it knows: {request, follows, current}; `current` is the node's id of it now. */
  #listeners = new Map();
  #appChannels = new Set();
  #privateChannels = new Set();
  #userChannel = null;
  /** The last contexts of the user channel that the app has heard, read or said, as JSON by type. */
  #seen = new Map();
  /** Requests of this frame's own, by requestUuid: what to do with the answer. */
  #repeated = new Map();

  constructor(socket, origin, port) {
    this.#origin = origin;
    this.#port = port;
    port.onmessage = event => this.#fromApp(event.data);
    this.#use(socket);
  }

  #use(socket) {
    this.#socket = socket;
    socket.onmessage = event => this.#fromNode(JSON.parse(event.data));
    socket.onclose = () => this.#lost();
  }

  // ---- from the app -------------------------------------------------------------------------

  #fromApp(message) {
    if (message?.type === 'WCP4ValidateAppIdentity') {
      this.#identity = { ...message, attested: { origin: this.#origin, ...(launchKey ? { launchKey } : {}) } };
      this.#send(this.#identity);
    } else if (message?.type === 'WCP6Goodbye') {
      this.#state = 'over';
      this.#send(message);
      this.#socket.close();
    } else if (this.#state === 'live') {
      this.#forward({ message, until: deadline(message) });
    } else if (this.#state === 'over') {
      this.#refuse(message, 'ApiTimeout');
    } else if (message?.type !== 'heartbeatAcknowledgementRequest') {
      this.#wait({ message, until: deadline(message) });
    }
  }

  #forward(question) {
    const { message } = question;
    if (expectsAnswer(message)) this.#asked.set(message.meta?.requestUuid, question);
    if (message?.type === 'privateChannelAddEventListenerRequest') this.#privateChannels.add(message.payload?.privateChannelId);
    const listener = UNSUBSCRIBE_REQUESTS.has(message?.type) ? this.#listeners.get(message.payload?.listenerUUID) : null;
    this.#send(listener ? { ...message, payload: { ...message.payload, listenerUUID: listener.current } } : message);
  }

  #send(message) {
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #wait(question) {
    const chars = JSON.stringify(question.message).length;
    if (this.#waiting.length >= WAITING_MESSAGES_MAX || this.#waitingChars + chars > WAITING_CHARS_MAX) {
      console.error(`FDC3: ${question.message.type} was refused: the deskmesh node is away and as much waits for it as may `
        + `(WAITING_MESSAGES_MAX ${WAITING_MESSAGES_MAX}, WAITING_CHARS_MAX ${WAITING_CHARS_MAX}).`);
      this.#refuse(question.message, 'ApiTimeout');
      return;
    }
    this.#waiting.push(question);
    this.#waitingChars += chars;
  }

  /** Answers a request of the app in the node's place. */
  #refuse(message, error) {
    if (!expectsAnswer(message)) return;
    this.#answer(message, message.type.replace(/Request$/, 'Response'), error);
  }

  #answer(message, type, error) {
    this.#port.postMessage({ type, payload: { error },
      meta: { requestUuid: message.meta?.requestUuid, responseUuid: uuid(), timestamp: new Date() } });
  }

  // ---- from the node ------------------------------------------------------------------------

  #fromNode(message) {
    const repeated = this.#repeated.get(message.meta?.requestUuid);
    if (repeated) {
      this.#repeated.delete(message.meta.requestUuid);
      repeated(message.payload);
      if (!this.#repeated.size) this.#goOn();
      return;
    }
    if (message.type.startsWith('WCP5')) {
      this.#identified(message);
      return;
    }
    if (message.type === 'channelChangedEvent') {
      const joined = message.payload.newChannelId;
      // The node tells of the channel that this frame has joined again; the app never left it.
      if (this.#state === 'away' && joined === this.#userChannel) return;
      this.#onChannel(joined);
    } else if (message.type === 'broadcastEvent') {
      this.#see(message.payload.channelId, message.payload.context);
    } else if (message.type === 'raiseIntentResultResponse') {
      this.#owed.delete(message.meta.requestUuid);
      const channel = message.payload?.intentResult?.channel;
      if (channel?.type === 'private') this.#privateChannels.add(channel.id);
    } else if (message.meta?.requestUuid) {
      const question = this.#asked.get(message.meta.requestUuid);
      this.#asked.delete(message.meta.requestUuid);
      if (question && !message.payload?.error) this.#learn(question.message, message.payload ?? {});
    }
    this.#port.postMessage(message);
  }

  #identified(message) {
    const accepted = message.type === 'WCP5ValidateAppIdentityResponse';
    if (this.#state === 'new') {
      if (accepted) {
        const { instanceId, instanceUuid } = message.payload;
        this.#identity = { ...this.#identity, payload: { ...this.#identity.payload, instanceId, instanceUuid } };
        this.#state = 'live';
      } else {
        this.#state = 'over';
        console.error(`FDC3: the deskmesh node at ${location.origin} refused this app: ${message.payload?.message ?? 'no reason given'}`);
      }
      this.#port.postMessage(message);
      for (const question of this.#waiting.splice(0)) this.#fromApp(question.message);
      this.#waitingChars = 0;
    } else if (accepted) {
      const { instanceId, instanceUuid } = message.payload;
      if (instanceId !== this.#identity.payload.instanceId) {
        console.warn(`FDC3: the deskmesh node knows this app as ${instanceId} now; others who remember ${this.#identity.payload.instanceId} cannot reach it.`);
      }
      this.#identity = { ...this.#identity, payload: { ...this.#identity.payload, instanceId, instanceUuid } };
      this.#restore();
    } else {
      this.#state = 'over';
      console.error(`FDC3: the deskmesh node at ${location.origin} no longer accepts this app: ${message.payload?.message ?? 'no reason given'}. Load the page again.`);
      for (const question of this.#waiting.splice(0)) this.#refuse(question.message, 'AccessDenied');
    }
  }

  /** Remembers of an answered request what has to be repeated to a node that has forgotten it. */
  #learn(request, payload) {
    const { type } = request;
    if (LISTENER_REQUESTS.has(type) && payload.listenerUUID) {
      this.#listeners.set(payload.listenerUUID, { request, follows: this.#follows(request), current: payload.listenerUUID });
    } else if (UNSUBSCRIBE_REQUESTS.has(type)) {
      this.#listeners.delete(request.payload.listenerUUID);
    } else if (type === 'getOrCreateChannelRequest') {
      this.#appChannels.add(request.payload.channelId);
    } else if (type === 'createPrivateChannelRequest') {
      this.#privateChannels.add(payload.privateChannel?.id);
    } else if (type === 'joinUserChannelRequest') {
      this.#onChannel(request.payload.channelId);
    } else if (type === 'leaveCurrentChannelRequest') {
      this.#onChannel(null);
    } else if (type === 'getCurrentChannelRequest') {
      this.#onChannel(payload.channel?.id ?? null);
    } else if (type === 'broadcastRequest') {
      this.#see(request.payload.channelId, request.payload.context);
    } else if (type === 'getCurrentContextRequest') {
      this.#see(request.payload.channelId, payload.context);
    } else if (payload.intentResolution) {
      this.#owed.set(request.meta.requestUuid, request);
      if (this.#owed.size > OWED_RESULTS_MAX) this.#owed.delete(this.#owed.keys().next().value);
    }
  }

  #onChannel(channelId) {
    if (channelId !== this.#userChannel) this.#seen.clear();
    this.#userChannel = channelId;
  }

  /** Notes a context of the user channel; returns whether it is another than the last of its type. */
  #see(channelId, context) {
    if (!context || channelId !== this.#userChannel) return false;
    const text = JSON.stringify(context), news = this.#seen.get(context.type) !== text;
    this.#seen.delete(context.type);
    this.#seen.set(context.type, text);
    if (this.#seen.size > SEEN_TYPES_MAX) this.#seen.delete(this.#seen.keys().next().value);
    return news;
  }

  /**
   * Whether a context listener follows the app from user channel to user channel. It has no channel id then, or, from a 2.2.0
   * library, that of the moment; later libraries are known by their listener for channel changes.
   */
  #follows({ type, payload }) {
    if (type !== 'addContextListenerRequest') return false;
    if (payload.channelId == null) return true;
    const later = [...this.#listeners.values()].some(({ request }) => request.type === 'addEventListenerRequest');
    return !later && payload.channelId === this.#userChannel;
  }

  // ---- a node that went away ----------------------------------------------------------------

  #lost() {
    if (this.#state === 'over') return;
    if (this.#state === 'new') {
      console.error(`FDC3: the deskmesh node at ${location.origin} closed the connection before it accepted this app. Its log says why.`);
      this.#state = 'over';
      return;
    }
    if (this.#state === 'live') {
      console.warn(`FDC3: the connection to the deskmesh node at ${location.origin} was lost; trying again.`);
    }
    this.#state = 'away';
    this.#repeated.clear();
    const asked = [...this.#asked.values()];
    this.#asked.clear();
    for (const question of asked) {
      if (REPEATABLE_REQUESTS.has(question.message.type)) this.#wait(question);
      else this.#refuse(question.message, 'ApiTimeout');
    }
    for (const request of this.#owed.values()) this.#answer(request, 'raiseIntentResultResponse', 'ApiTimeout');
    this.#owed.clear();
    this.#endPrivateChannels();
    this.#reconnect();
  }

  #endPrivateChannels() {
    for (const [id, { request }] of this.#listeners) if (this.#privateChannels.has(request.payload.channelId)) this.#listeners.delete(id);
    for (const privateChannelId of this.#privateChannels) {
      this.#port.postMessage({ type: 'privateChannelOnDisconnectEvent', payload: { privateChannelId }, meta: { eventUuid: uuid(), timestamp: new Date() } });
    }
    this.#privateChannels.clear();
  }

  async #reconnect() {
    for (let attempt = 0; this.#state === 'away'; attempt++) {
      await new Promise(resolve => setTimeout(resolve, retryDelay(attempt)));
      try {
        const socket = await openSocket('/fdc3', CONNECT_TIMEOUT_MS);
        if (this.#state !== 'away') return socket.close();
        this.#use(socket);
        this.#send(this.#identity);
        return;
      } catch {
        this.#forgetLate();
      }
    }
  }

  /**
   * Listeners come before the channel: a node tells a listener added while joined of the channel's current context, which
   * this app has seen.
   */
  #restore() {
    for (const channelId of this.#appChannels) this.#repeat('getOrCreateChannelRequest', { channelId });
    for (const listener of this.#listeners.values()) {
      const { type, payload } = listener.request;
      this.#repeat(type, listener.follows ? { ...payload, channelId: null } : payload, answer => {
        if (answer?.listenerUUID) listener.current = answer.listenerUUID;
        else console.error(`FDC3: the deskmesh node did not accept a listener again (${type}: ${answer?.error}).`);
      });
    }
    if (this.#userChannel) {
      this.#repeat('joinUserChannelRequest', { channelId: this.#userChannel });
      this.#catchUp();
    }
    if (!this.#repeated.size) this.#goOn();
  }

  /** Tells the app of a context that came to its user channel while it was away, as if it had just been said. */
  #catchUp() {
    const channelId = this.#userChannel;
    const following = [...this.#listeners.values()].filter(({ follows }) => follows);
    for (const contextType of new Set(following.map(({ request }) => request.payload.contextType ?? null))) {
      this.#repeat('getCurrentContextRequest', { channelId, contextType }, answer => {
        if (!this.#see(channelId, answer?.context)) return;
        const { context, metadata } = answer;
        this.#port.postMessage({ type: 'broadcastEvent', payload: { channelId, context, ...(metadata ? { metadata, originatingApp: metadata.source } : {}) },
          meta: { eventUuid: uuid(), timestamp: new Date() } });
      });
    }
  }

  #repeat(type, payload, then = () => {}) {
    const requestUuid = uuid();
    this.#repeated.set(requestUuid, then);
    this.#send({ type, payload, meta: { requestUuid, timestamp: new Date() } });
  }

  #goOn() {
    this.#state = 'live';
    console.info(`FDC3: connected to the deskmesh node at ${location.origin} again.`);
    this.#forgetLate();
    this.#waitingChars = 0;
    for (const question of this.#waiting.splice(0)) this.#forward(question);
  }

  #forgetLate() {
    this.#waiting = this.#waiting.filter(question => question.until > Date.now());
    this.#waitingChars = this.#waiting.reduce((sum, question) => sum + JSON.stringify(question.message).length, 0);
  }
}

function expectsAnswer(message) {
  return message?.type?.endsWith('Request') && message.type !== 'heartbeatAcknowledgementRequest';
}

function deadline(message) {
  return Date.now() + (SLOW_REQUESTS.has(message?.type) ? LAUNCH_TIMEOUT_MS : EXCHANGE_TIMEOUT_MS);
}

/** The library gives the search for an agent one second, so the connection is made before it asks. */
let early = openSocket('/fdc3', CONNECT_TIMEOUT_MS);
const reachable = early.then(() => true, error => {
  console.error(`FDC3: the deskmesh node at ${location.origin} cannot be reached (${error.message}), so this page gets no desktop agent. `
    + 'See that the node is running (deskmesh status), then load the page again.');
  return false;
});

addEventListener('message', async event => {
  // Only the page that embeds this frame may use it.
  if (event.source !== parent || event.source === window) return;
  if (event.data?.type === 'deskmesh.reachable') event.ports[0]?.postMessage(await reachable);
  if (event.data?.type !== 'WCP1Hello') return;
  const opening = early ?? openSocket('/fdc3', CONNECT_TIMEOUT_MS);
  early = null;
  let socket;
  try {
    socket = await opening;
    if (socket.readyState !== WebSocket.OPEN) socket = await openSocket('/fdc3', CONNECT_TIMEOUT_MS);
  } catch {
    return;
  }
  const { meta, payload } = event.data;
  const { port1, port2 } = new MessageChannel();
  new Session(socket, event.origin, port1);
  const wanted = (flag, page) => (flag === false ? false : `${location.origin}/fdc3/${page}`);
  event.source.postMessage({
    type: 'WCP3Handshake',
    meta: { connectionAttemptUuid: meta?.connectionAttemptUuid, timestamp: new Date() },
    payload: {
      fdc3Version: '2.2',
      messageExchangeTimeout: EXCHANGE_TIMEOUT_MS,
      appLaunchTimeout: LAUNCH_TIMEOUT_MS,
      channelSelectorUrl: wanted(payload?.channelSelector, 'channels'),
      // 2.2.0 libraries call the flag `resolver`.
      intentResolverUrl: wanted(payload?.intentResolver ?? payload?.resolver, 'resolver'),
    },
  }, { targetOrigin: event.origin, transfer: [port2] });
});

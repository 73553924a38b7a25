// The launcher page's control connection, without the page.

import { connect, connectRaw } from './client.mjs';
import { urlOf } from './directory.mjs';
import { Socket } from './socket.mjs';

export class Desk {
  /** Connects to the node whose apps connect to `url`. */
  static async open(url) {
    const { protocol, host } = new URL(url);
    const origin = `${protocol === 'wss:' ? 'https' : 'http'}://${host}`;
    const desk = new Desk(await Socket.open(`${protocol}//${host}/fdc3/desk`, { origin }), url, origin);
    await desk.latest('apps');
    return desk;
  }

  constructor(socket, url, origin) {
    Object.assign(this, { socket, url, origin });
  }

  /** The last message of a type, which may be still to come. */
  async latest(type) {
    return this.socket.of(type).at(-1) ?? this.socket.next((message) => message.type === type);
  }

  /** What the node is called in the identifiers of its apps. */
  get node() {
    return this.socket.of('apps').at(-1).node;
  }

  instances() {
    return this.socket.of('instances').at(-1)?.instances ?? [];
  }

  /** Somebody has clicked an app: resolves with the node's order to open its window. */
  launch(appId) {
    const order = this.order(urlOf(appId));
    this.socket.post({ type: 'launch', appId, node: this.node });
    return order;
  }

  /** Resolves with the next order to open a window for a URL. */
  order(wanted) {
    return this.socket.next(({ type, url }) => type === 'open' && url === wanted);
  }

  join(instanceId, channelId) {
    this.socket.post({ type: 'join', instanceId, channelId });
  }

  closed(instanceId) {
    this.socket.post({ type: 'closed', instanceId });
  }

  blocked({ instanceId, url }) {
    this.socket.post({ type: 'blocked', instanceId, url });
  }

  /** Connects the app of a window that was to be opened, as the adaptor would. */
  adapted({ url, launchKey }, { lib, origin = this.origin, ...options } = {}) {
    const identity = { identityUrl: url, attested: { origin: new URL(url).origin, launchKey } };
    return lib ? connect(lib, this.url, identity, { origin, ...options }) : connectRaw(this.url, identity, { origin });
  }

  close() {
    this.socket.close();
    return this.socket.closed;
  }
}

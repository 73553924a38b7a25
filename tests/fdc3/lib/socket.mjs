// One WebSocket to a node: JSON frames out, JSON frames in, and a log of what came.

import { randomUUID } from 'node:crypto';
import { WebSocket } from 'ws';
import { within } from '../../clients/lib/wait.mjs';

export class Socket {
  /** Connects; `origin` is what a browser would say about the page. */
  static async open(url, { origin } = {}) {
    const ws = new WebSocket(url, { origin, perMessageDeflate: false });
    const socket = new Socket(ws);
    await within(5000, new Promise((resolve, reject) => {
      ws.once('open', resolve);
      ws.once('error', reject);
    }), `connected to ${url}`);
    return socket;
  }

  #ws;
  #listeners = new Set();
  #queue = [];
  #scheduled = false;

  constructor(ws) {
    this.#ws = ws;
    /** Everything that came: `{ text, message }`, where `message` is undefined if it was not JSON. */
    this.frames = [];
    /** Resolves with the code once the connection has ended. */
    this.closed = new Promise((resolve) => {
      ws.once('close', (code) => {
        this.closedWith = code;
        resolve(code);
      });
    });
    ws.on('message', (data) => this.#received(data.toString()));
    ws.on('error', () => {});
  }

  #received(text) {
    const frame = { text, message: parsed(text) };
    this.frames.push(frame);
    this.#queue.push(frame);
    if (!this.#scheduled) {
      this.#scheduled = true;
      setImmediate(() => this.#turn());
    }
  }

  // One message per turn, as in a browser. The libraries add a handler after they have awaited an answer;
  // frames of one TCP segment would otherwise be handled before those awaits have run.
  #turn() {
    const frame = this.#queue.shift();
    for (const listener of [...this.#listeners]) listener(frame.message, frame.text);
    if (this.#queue.length) setImmediate(() => this.#turn());
    else this.#scheduled = false;
  }

  /** Calls `listener` with each message and its text from now on; returns how to stop that. */
  listen(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Resolves with the next message that `accepts` takes. */
  next(accepts, ms = 5000) {
    let stop;
    const found = new Promise((resolve, reject) => {
      stop = this.listen((message, text) => message && accepts(message) && resolve({ ...message, text }));
      this.closed.then((code) => reject(new Error(`closed with ${code} while waiting for ${accepts}`)));
    });
    const settled = within(ms, found, accepts).finally(stop);
    // A check that has failed before it came to wait for this needs no second complaint.
    settled.catch(() => {});
    return settled;
  }

  post(message) {
    this.send(JSON.stringify(message));
  }

  /** Sends text, or bytes as a binary frame. */
  send(data) {
    this.#ws.send(data);
  }

  /** Sends a request and resolves with its response, an error or not. */
  request(type, payload, { ms, meta } = {}) {
    const requestUuid = randomUUID();
    const response = this.next((message) => message.type === answerTo(type) && message.meta?.requestUuid === requestUuid, ms);
    this.post({ type, ...(payload && { payload }), meta: { ...meta, requestUuid, timestamp: new Date() } });
    return response;
  }

  /** The messages of one type so far. */
  of(type) {
    return this.frames.filter(({ message }) => message?.type === type).map(({ message, text }) => ({ ...message, text }));
  }

  /** Ends the connection politely. */
  close() {
    this.#ws.close();
    // A node that has nothing more to say need not keep the process alive.
    setTimeout(() => this.#ws.terminate(), 500).unref();
  }

  /** Ends the connection as the death of the process would. */
  kill() {
    this.#ws.terminate();
    return this.closed;
  }
}

export const answerTo = (type) => type.replace(/Request$/, 'Response');

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// A TCP relay in front of a node, to cut a client off without the client's doing.

import { connect, createServer } from 'node:net';

/** Starts a relay to `url`. Its own `url` keeps its port through `cut` and `restore`. */
export async function startProxy(url) {
  const target = new URL(url);
  const sockets = new Set();
  let stalled = false;
  const server = createServer((inner) => {
    const outer = connect(Number(target.port), target.hostname);
    for (const [from, to] of [[inner, outer], [outer, inner]]) {
      sockets.add(from);
      from.setNoDelay();
      from.pipe(to);
      if (stalled) from.unpipe(to).pause();
      from.on('error', () => {});
      from.on('close', () => {
        sockets.delete(from);
        to.destroy();
      });
    }
  });
  const listen = (port) => new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  await listen(0);
  const { port } = server.address();
  const drop = () => sockets.forEach((socket) => socket.resetAndDestroy());

  return {
    url: Object.assign(new URL(url), { hostname: '127.0.0.1', port }).href,
    /** Breaks what is connected; new connections are accepted. */
    drop,
    /** Forwards nothing any more, in either direction; what is connected stays so until it is cut. */
    stall() {
      stalled = true;
      sockets.forEach((socket) => socket.unpipe().pause());
    },
    /** Breaks what is connected and refuses new connections until `restore`. */
    async cut() {
      const closed = new Promise((resolve) => server.close(resolve));
      drop();
      await closed;
    },
    restore() {
      stalled = false;
      return listen(port);
    },
    close() {
      server.close();
      drop();
    },
  };
}

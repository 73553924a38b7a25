// The published client libraries, unmodified, behind one way of connecting.

import { createRequire } from 'node:module';
import { within } from './wait.mjs';

const require = createRequire(import.meta.url);

export const LIBRARIES = {
  io: { create: require('@interopio/core').default, package: '@interopio/core' },
  glue: { create: require('@glue42/core').default, package: '@glue42/core' },
};

// `@glue42/core` prints every error reply, whatever its logger is told.
const { warn } = console;
console.warn = (...args) => String(args[0]).startsWith('Gateway error - ') || warn(...args);

const CONNECT_MS = 10_000;
const CLOSE_MS = 3_000;

/**
 * Starts the library `lib` against `url` and resolves with its API object.
 *
 * `options` are the library's own configuration keys; `user` is short for a user name with any
 * password. What the library logs goes to `log`, not to the console.
 */
export function connect(lib, url, { user, auth, gateway, log = [], ...config } = {}) {
  const note = (level) => (message, ...rest) => log.push(`${level} ${`${message} ${rest.join(' ')}`.split('\n')[0]}`);
  const customLogger = Object.fromEntries(
    ['debug', 'error', 'info', 'log', 'warn'].map((level) => [level, note(level)]),
  );
  const client = LIBRARIES[lib].create({
    auth: auth ?? { username: user, password: 'any' },
    gateway: { ws: url, ...gateway },
    bus: true,
    logger: { console: 'warn', publish: 'off' },
    customLogger,
    ...config,
  });
  return within(CONNECT_MS, client, `${LIBRARIES[lib].package} connected to ${url}`);
}

/** Closes a client, and does not wait for a node that has nothing more to say. */
export async function close(client) {
  await within(CLOSE_MS, Promise.resolve(client.done()), 'client closed').catch(() => {});
}

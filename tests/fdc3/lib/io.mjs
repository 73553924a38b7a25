// `@interopio/core` on the same mesh.

import { createRequire } from 'node:module';
import { within } from '../../clients/lib/wait.mjs';

const { default: create } = createRequire(import.meta.url)('@interopio/core');

/** Connects a client at a place, as the user of the check. */
export async function ioClient(world, place) {
  const quiet = () => {};
  const gateway = new URL(world.urls[place]);
  gateway.pathname = '/';
  const client = await within(10_000, create({
    auth: { username: world.user, password: 'any' },
    gateway: { ws: gateway.href },
    application: world.unique('io'),
    logger: { console: 'off', publish: 'off' },
    customLogger: { debug: quiet, error: quiet, info: quiet, log: quiet, warn: quiet },
  }), '@interopio/core connected');
  world.keep(() => client.done());
  return client;
}

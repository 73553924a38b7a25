// An application in a process of its own, for scenarios in which a process dies.
//
// The child connects, offers one method and one stream, may subscribe to a stream, and then stays.
// It says `ready` with its instance over the process channel once all that is in place.

import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { within } from './wait.mjs';

const SELF = fileURLToPath(import.meta.url);

/**
 * Starts the child and resolves when it is ready.
 *
 * `offers.method` answers `{ pid }`, or never when called with `{ hang: true }`.
 * `offers.stream` accepts everyone. `subscribes` names a stream to subscribe to.
 */
export async function startApp(options) {
  const child = fork(SELF, [JSON.stringify(options)], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  const messages = [];
  const ready = new Promise((resolve, reject) => {
    child.on('message', (message) => {
      messages.push(message);
      if (message.ready) resolve(message.instance);
      if (message.failed) reject(new Error(message.failed));
    });
    child.once('exit', () => reject(new Error('the application ended before it was ready')));
  });
  const kill = async () => {
    child.kill('SIGKILL');
    await exited;
  };
  try {
    const instance = await within(10_000, ready, 'the application ready');
    return { instance, messages, kill };
  } catch (error) {
    await kill();
    throw error;
  }
}

async function main({ lib, url, user, application, offers = {}, subscribes }) {
  const { connect } = await import('./clients.mjs');
  const client = await connect(lib, url, { user, application });
  if (offers.method) {
    await client.interop.register(offers.method, ({ hang }) => {
      process.send({ called: true });
      return hang ? new Promise(() => {}) : { pid: process.pid };
    });
  }
  if (offers.stream) {
    await client.interop.createStream(offers.stream);
  }
  if (subscribes) {
    await client.interop.subscribe(subscribes, { waitTimeoutMs: 8000 });
  }
  process.send({ ready: true, instance: plain(client.interop.instance) });
}

function plain(instance) {
  return JSON.parse(JSON.stringify(instance));
}

if (process.argv[1] === SELF && process.send) {
  // Orphans must not outlive the run.
  process.on('disconnect', () => process.exit());
  main(JSON.parse(process.argv[2])).catch((error) => process.send({ failed: String(error?.message ?? JSON.stringify(error)) }));
}

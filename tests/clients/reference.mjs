// The reference gateway on a free port, as a child process or as a program of its own.
//
//   node reference.mjs            prints its URL and runs until interrupted
//   node reference.mjs --port N   the same on a port of your choice

import { fork } from 'node:child_process';
import { createServer } from 'node:net';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const SELF = fileURLToPath(import.meta.url);

/** Starts the gateway in a child process, so that it has an event loop of its own. */
export async function startReference() {
  const child = fork(SELF, ['--child'], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  const url = await new Promise((resolve, reject) => {
    child.once('message', resolve);
    child.once('exit', (code) => reject(new Error(`the reference gateway ended with ${code}`)));
  });
  return {
    url,
    alive: () => child.exitCode === null && child.signalCode === null,
    stop: () => child.kill('SIGKILL'),
  };
}

async function serve(port) {
  const gateway = createRequire(import.meta.url)('@glue42/gateway-ws');
  gateway.configure_logging({ level: 'fatal' });
  await gateway.create({ port }).start();
  return `ws://127.0.0.1:${port}`;
}

/** The gateway takes no port 0, so a port is borrowed from the system first. */
async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

if (process.argv[1] === SELF) {
  const [flag, value] = process.argv.slice(2);
  const url = await serve(flag === '--port' ? Number(value) : await freePort());
  if (flag === '--child' && process.send) {
    process.on('disconnect', () => process.exit());
    process.send(url);
  } else {
    console.log(url);
  }
}

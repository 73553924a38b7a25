// Puts load on a node, and says how long things took. It checks nothing: times are for people to judge.
//
//   node load.mjs connect --url ws://127.0.0.1:8385/fdc3 [--count 1000] [--seconds 5]
//       that many apps connect within that time; says how long each waited to hear who it is
//   node load.mjs background --url ws://127.0.0.1:8385/fdc3 [--apps 50] [--channels 200] [--rate 100]
//       that many apps listen on that many channels and broadcast so often a second, until interrupted
//
// The node needs the directory that `headless.mjs --write-directory` writes. The apps are of the node's own user.
// `connect` ends with 1 if an app was not let in. Give both programs enough file descriptors (`ulimit -n`).

import { parseArgs } from 'node:util';
import { sleep } from '../clients/lib/wait.mjs';
import { connectRaw } from './lib/client.mjs';
import { urlOf } from './lib/directory.mjs';

const { positionals: [task], values: flags } = parseArgs({
  allowPositionals: true,
  options: {
    url: { type: 'string', default: 'ws://127.0.0.1:8385/fdc3' },
    count: { type: 'string', default: '1000' },
    seconds: { type: 'string', default: '5' },
    apps: { type: 'string', default: '50' },
    channels: { type: 'string', default: '200' },
    rate: { type: 'string', default: '100' },
  },
});
const NAMES = ['test-one', 'test-two', 'test-three'];
const numbers = (count) => Array.from({ length: Number(count) }, (_, n) => n);
const open = (n) => connectRaw(flags.url, { identityUrl: urlOf(NAMES[n % NAMES.length]) });

async function connect() {
  const refused = [];
  const start = performance.now();
  const waits = await Promise.all(numbers(flags.count).map(async (n) => {
    await sleep(n * Number(flags.seconds) * 1000 / Number(flags.count));
    const began = performance.now();
    await open(n).catch((error) => refused.push(error.message));
    return performance.now() - began;
  }));
  const took = performance.now() - start;
  const sorted = waits.sort((one, other) => one - other).map(Math.round);
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
  console.log(`${sorted.length - refused.length} of ${sorted.length} apps connected in ${Math.round(took)} ms`);
  console.log(`each waited, in ms: median ${at(0.5)}, 99 of 100 ${at(0.99)}, longest ${at(1)}`);
  for (const reason of new Set(refused)) console.log(`${refused.filter((one) => one === reason).length} times: ${reason}`);
  process.exit(refused.length ? 1 : 0);
}

async function background() {
  const apps = await Promise.all(numbers(flags.apps).map(open));
  let [said, heard] = [0, 0];
  for (const { socket } of apps) socket.listen(({ type }) => { heard += type === 'broadcastEvent' ? 1 : 0; });
  const names = numbers(flags.channels).map((n) => `load-${n}`);
  // A channel is heard by one app, and another speaks on it.
  for (const [n, channelId] of names.entries()) {
    const { socket } = apps[n % apps.length];
    await socket.request('getOrCreateChannelRequest', { channelId });
    await socket.request('addContextListenerRequest', { channelId, contextType: null });
  }
  console.log(`${apps.length} apps on ${names.length} channels`);
  setInterval(() => console.log(`${said} broadcasts said, ${heard} heard`), 10_000);
  for (const start = performance.now(); ; await sleep(10)) {
    for (const due = (performance.now() - start) * Number(flags.rate) / 1000; said < due; said += 1) {
      const channel = said % names.length;
      const { socket } = apps[(channel + 1) % apps.length];
      socket.frames.length = 0;
      socket.post({ type: 'broadcastRequest', payload: { channelId: names[channel], context: { type: 'x.load', n: said } }, meta: { requestUuid: `${said}`, timestamp: new Date() } });
    }
  }
}

const tasks = { connect, background };
if (!tasks[task]) {
  console.error(`say what to do: ${Object.keys(tasks).join(' or ')}`);
  process.exit(1);
}
await tasks[task]();

// A native app of the test directory: a node starts it, and tells it by its environment how to connect.
//
//   node native.mjs quote INTENT [SECONDS]   reports the contexts that it hears, and answers INTENT; takes
//                                            so long to start
//   node native.mjs silent                   connects and never listens
//   node native.mjs close                    asks to be closed once it has its context, and reports the signal
//                                            that this brings
//   node native.mjs lend                     tells the secret that it has connected with
//
// It says what it has heard on the app channel `test-native-reports`, and ends when somebody broadcasts
// `x.end` with its instance id there, when its connection ends, or after a minute.

import { randomUUID } from 'node:crypto';
import { connect } from './lib/client.mjs';
import { sleep } from '../clients/lib/wait.mjs';

const { FDC3_WEBSOCKET_URL: url, FDC3_SHARED_SECRET: sharedSecret } = process.env;
if (!url || !sharedSecret) {
  console.error('FDC3_WEBSOCKET_URL and FDC3_SHARED_SECRET are not set: this is for a node to start');
  process.exit(1);
}

await sleep(1000 * (process.argv[4] ?? 0));
const { agent, id, socket } = await connect('old', url, { sharedSecret });
socket.closed.then(() => process.exit());
setTimeout(() => process.exit(), 60_000);

const reports = await agent.getOrCreateChannel('test-native-reports');
await reports.addContextListener('x.end', ({ instanceId }) => instanceId === id.instanceId && process.exit());
/** Again and again, since nobody knows when the other node has heard of a listener there. */
async function report(more) {
  for (;;) {
    await reports.broadcast({ type: 'x.report', instanceId: id.instanceId, pid: process.pid, ...more });
    await sleep(100);
  }
}

if (process.argv[2] === 'close') {
  await agent.addContextListener('x.question', () => socket.post({ type: 'closeRequest', payload: {}, meta: { requestUuid: randomUUID(), timestamp: new Date() } }));
  const told = {};
  process.once('SIGTERM', async (signal) => {
    told.signal = signal;
    await reports.broadcast({ type: 'x.report', instanceId: id.instanceId, pid: process.pid, ...told });
    process.exit();
  });
  await report(told);
}
if (process.argv[2] === 'lend') await report({ sharedSecret });
if (process.argv[2] === 'quote') {
  const heard = [];
  await agent.addContextListener(null, (context) => heard.push(context));
  await agent.addIntentListener(process.argv[3], async ({ q }) => ({ type: 'x.price', value: q * 2 }));
  await report({ heard });
}

// FDC3 apps on one machine, for the story of a partition: one listens on a user channel and on an app channel.
//
//   node fdc3.mjs --name a --app test-one --url ws://127.0.0.1:8385/fdc3
//
// On its standard input it obeys `broadcast TYPE VALUE`, `clear TYPE`, `state` (answered with what each channel holds,
// and with all that each listener has heard, each with its time) and `late` (answered with what a newcomer hears).

import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { sleep } from '../clients/lib/wait.mjs';
import { connect } from '../fdc3/lib/client.mjs';
import { urlOf } from '../fdc3/lib/directory.mjs';

const { values: options } = parseArgs({
  options: Object.fromEntries(['name', 'app', 'url'].map((name) => [name, { type: 'string' }])),
});
const USER_CHANNEL = 'fdc3.channel.1';
const APP_CHANNEL = 'topic';
const TYPES = ['x.both', 'x.a', 'x.b', 'x.cleared', 'x.kept', null];

const app = await connect('old', options.url, { identityUrl: urlOf(options.app) });
const { agent } = app;
await agent.joinUserChannel(USER_CHANNEL);
const channels = [await agent.getCurrentChannel(), await agent.getOrCreateChannel(APP_CHANNEL)];
const heard = {};
async function listen(name, to, type) {
  heard[name] = [];
  await to.addContextListener(type, (context) => heard[name].push({ at: Date.now(), ...context }));
}
await listen('user channel', agent, null);
await listen('user channel, one type', agent, 'x.both');
await listen('app channel', channels[1], null);

const commands = {
  broadcast: async (type, value) => {
    for (const channel of channels) await channel.broadcast({ type, value });
  },
  clear: async (contextType) => {
    for (const { id: channelId } of channels) {
      const { payload } = await app.socket.request('clearContextRequest', { channelId, contextType });
      if (payload?.error) throw new Error(payload.error);
    }
  },
  state: async () => {
    const holds = {};
    for (const channel of channels) {
      for (const type of TYPES) holds[`${channel.id} ${type ?? 'newest'}`] = await channel.getCurrentContext(type ?? undefined);
    }
    return { holds, heard };
  },
  late: async () => {
    const newcomer = await connect('old', options.url, { identityUrl: urlOf('test-three') });
    const late = [];
    for (const type of ['x.cleared', 'x.kept', 'x.both']) await newcomer.agent.addContextListener(type, (context) => late.push(context));
    await newcomer.agent.joinUserChannel(USER_CHANNEL);
    await sleep(1000);
    await newcomer.agent.disconnect();
    return late;
  },
};

console.log('ready');
for await (const line of createInterface({ input: process.stdin })) {
  const [command, ...words] = line.trim().split(' ');
  try {
    console.log(JSON.stringify(await commands[command](...words) ?? 'done'));
  } catch (error) {
    console.log(JSON.stringify(`failed: ${error.message}`));
  }
}
process.exit(0);

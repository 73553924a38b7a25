// Apps of nodes, and desktop agents on the bridges of these nodes: what checks of both use.

import { randomUUID } from 'node:crypto';
import { Agent, pause } from '../../bridge/agent.mjs';
import { connect } from './client.mjs';
import { urlOf } from './directory.mjs';

/** Where all is: the options of the program. */
export const world = {};
export const QUESTION = { type: 'x.question', q: 21 };
const kept = [];

/** Ends the apps and agents of a check. */
export function cleanUp() {
  while (kept.length) kept.pop()();
}

/** Connects an app to a node. */
export async function app(place, appId) {
  const client = await connect(world.lib, world[place], { identityUrl: urlOf(appId) });
  kept.push(() => client.kill());
  return client;
}

/** Has an agent join the bridge of a node, under a name of its own unless it is to be called exactly so. */
export async function agent(place, name, handlers = {}, { exactly, ...options } = {}) {
  const joined = await Agent.join(world[`bridge-${place}`], exactly ?? `${name}-${randomUUID().slice(0, 8)}`, { handlers, ...options });
  kept.push(() => joined.cut());
  return joined;
}

/** Waits until something is so. */
export async function until(isSo, what = String(isSo)) {
  for (const deadline = Date.now() + 10_000; Date.now() < deadline; await pause(20)) {
    const value = await isSo();
    if (value) return value;
  }
  throw new Error(`never: ${what}`);
}

/** Does something that fails until nodes have heard of agents, be it those on their own bridges. */
export async function settled(act) {
  let problem;
  const done = await until(() => act().catch((error) => { problem = error; })).catch(() => undefined);
  if (!done) throw problem;
  return done;
}

/** What an app is told of who broadcasts, by context: the oldest library keeps that to itself. */
export function sources(client) {
  const told = [];
  const filter = ({ type }) => type === 'broadcastEvent';
  client.messaging.register({ id: randomUUID(), filter, action: ({ payload }) => told.push([payload.context, payload.originatingApp]) });
  return told;
}

/** What the agents of other makers do with intents: they have one app that handles `Ask`. */
export function handlesAsk(instanceId, result) {
  const found = (to) => ({ appId: 'foreign', instanceId, title: 'An app elsewhere', desktopAgent: to.name });
  const mine = (request) => request.payload.intent === 'Ask';
  return {
    findIntentRequest: (request, to) => to.answer(request, {
      appIntent: { intent: { name: request.payload.intent, displayName: 'Ask away' }, apps: mine(request) ? [found(to)] : [] },
    }),
    findIntentsByContextRequest: (request, to) => to.answer(request, {
      appIntents: request.payload.context.type === 'x.ask' ? [{ intent: { name: 'Ask', displayName: 'Ask away' }, apps: [found(to)] }] : [],
    }),
    findInstancesRequest: (request, to) => to.answer(request, { appIdentifiers: request.payload.app.appId === 'foreign' ? [found(to)] : [] }),
    getAppMetadataRequest: (request, to) => to.answer(request, { appMetadata: found(to) }),
    openRequest: (request, to) => to.answer(request, { appIdentifier: found(to) }),
    raiseIntentRequest: (request, to) => {
      to.answer(request, { intentResolution: { intent: request.payload.intent, source: found(to) } });
      const intentResult = result?.(request, to);
      if (intentResult) to.answer(request, { intentResult }, 'raiseIntentResultResponse');
    },
  };
}

export const source = (of, instanceId) => ({ desktopAgent: of.name, appId: 'foreign', instanceId });

/** Raises an intent from an app of an agent at an app of the node, and returns the answer and its result. */
export async function raise(of, instanceId, intent, target) {
  const node = of.update.payload.allAgents.find((one) => one.deskmesh).desktopAgent;
  const destination = { desktopAgent: node };
  const uuid = of.send('raiseIntentRequest', { intent, context: QUESTION, app: { ...target, desktopAgent: node } }, { source: source(of, instanceId), destination });
  const answer = await of.answerTo(uuid);
  const result = () => of.got((message) => message.type === 'raiseIntentResultResponse' && message.meta.requestUuid === uuid, 'the result');
  return { answer, result, node };
}

/** Broadcasts of an agent's log, on one channel. */
export const casts = (of, channelId) => of.all('broadcastRequest').filter((message) => message.payload.channelId === channelId).map((message) => message.payload.context);

/** Ends a native app of the test directory. */
export function end(of, { instanceId }) {
  of.send('broadcastRequest', { channelId: 'test-native-reports', context: { type: 'x.end', instanceId } }, { source: source(of, 'i1') });
}

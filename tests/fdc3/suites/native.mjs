// Programs that a node starts: `open` and `raiseIntent` for native apps, here and at the other node.

import assert from 'node:assert/strict';
import { check } from '../lib/check.mjs';
import { answersWith, aWhile, failsWith, reports } from '../lib/world.mjs';

/**
 * What a native app at place b is called by an app at a: the libraries forget `desktopAgent` in `open`.
 *
 * A node has an agent for a user other than its own once an app of that user is there.
 */
async function idAt(world, appId, { agent }) {
  if (!world.twoNodes) return appId;
  await world.connect('b', 'test-three');
  await world.until(async () => (await agent.findInstances({ appId: 'test-three' })).length, 5000, 'the agent at b');
  return `${appId}@${await world.nodeName('b')}`;
}

export default [
  check('32', 'a program is started, and gets its context once', { timeoutMs: 60_000 }, async (world) => {
    const asker = await world.connect('a', 'test-one');
    const of = await reports(world, asker);
    const context = { type: 'x.question', q: 1 };
    const { instanceId, appId } = await asker.agent.open({ appId: await idAt(world, 'test-native', asker) }, context);
    assert.equal(appId.split('@')[0], 'test-native');
    await world.until(() => of.get(instanceId)?.heard.length, 10_000, 'the program has heard its context');
    await aWhile();
    assert.deepEqual(of.get(instanceId).heard, [context]);
    const listed = await world.until(async () => (await asker.agent.findInstances({ appId })).find((one) => one.instanceId === instanceId), 5000, 'the program listed');
    if (world.twoNodes) assert.equal(listed.desktopAgent, await world.nodeName('b'), 'started where it was wanted');
  }),

  check('32', 'two programs of one record are two instances', { timeoutMs: 60_000 }, async (world) => {
    const asker = await world.connect('a', 'test-one');
    const of = await reports(world, asker);
    const appId = await idAt(world, 'test-native', asker);
    const started = await Promise.all([1, 2].map((q) => asker.agent.open({ appId }, { type: 'x.question', q })));
    await world.until(() => started.every(({ instanceId }) => of.get(instanceId)?.heard.length), 10_000, 'both have heard their contexts');
    assert.deepEqual(started.map(({ instanceId }) => of.get(instanceId).heard), [1, 2].map((q) => [{ type: 'x.question', q }]));
    assert.notEqual(...started.map(({ instanceId }) => of.get(instanceId).pid));
  }),

  check('32', 'a program is started for an intent, and answers it', { timeoutMs: 60_000 }, async (world) => {
    const asker = await world.connect('a', 'test-one');
    const of = await reports(world, asker);
    await idAt(world, 'test-native', asker);
    for (const intent of ['NativePrice', 'FarPrice']) {
      const resolution = await asker.agent.raiseIntent(intent, { type: 'x.question', q: 21 });
      assert.deepEqual(await resolution.getResult(), { type: 'x.price', value: 42 });
      await world.until(() => of.has(resolution.source.instanceId), 10_000, 'the program reports');
    }
  }),

  check('32', 'a program that never listens: AppTimeout', { timeoutMs: 90_000 }, async (world) => {
    const asker = await world.connect('a', 'test-one');
    const { agent } = asker;
    await failsWith('AppTimeout', agent.open({ appId: await idAt(world, 'test-silent', asker) }, { type: 'x.question' }), 60_000);
  }),

  check('32', 'a program that is not there: ErrorOnLaunch', { timeoutMs: 60_000 }, async (world) => {
    const asker = await world.connect('a', 'test-one');
    const { agent } = asker;
    const appId = await idAt(world, 'test-broken', asker);
    await failsWith('ErrorOnLaunch', agent.open({ appId }), 40_000);
    await failsWith('ErrorOnLaunch', agent.open({ appId }, { type: 'x.question' }), 40_000);
  }),

  check('32', 'an app at a node that is not there: DesktopAgentNotFound', { raw: true }, async (world) => {
    const { socket } = await world.raw('a', 'test-one');
    const app = { appId: 'test-native', desktopAgent: 'nowhere' };
    const context = { type: 'x.question' };
    await answersWith('DesktopAgentNotFound', socket.request('openRequest', { app, context }));
    await answersWith('DesktopAgentNotFound', socket.request('raiseIntentRequest', { intent: 'NativePrice', app, context }));
  }),

  check('33', 'a program that asks to be closed is asked by the system to end', { timeoutMs: 60_000 }, async (world) => {
    const asker = await world.connect('a', 'test-one');
    const of = await reports(world, asker);
    const { instanceId } = await asker.agent.open({ appId: await idAt(world, 'test-closing', asker) }, { type: 'x.question' });
    const { pid } = await world.until(() => of.get(instanceId), 10_000, 'the program reports');
    const ended = await world.until(() => of.get(instanceId).signal, 10_000, 'it has been told to end');
    assert.equal(ended, 'SIGTERM');
    // Its good order takes a moment, and then it is gone.
    await world.until(() => !isAlive(pid), 10_000, 'the process is gone');
    await world.until(async () => !(await asker.agent.findInstances({ appId: 'test-closing' })).some((one) => one.instanceId === instanceId), 10_000, 'no longer listed');
    of.delete(instanceId);
  }),
];

function isAlive(pid) {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

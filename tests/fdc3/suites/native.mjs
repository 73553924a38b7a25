// Programs that a node starts: `open` and `raiseIntent` for native apps, here and at the other node.

import assert from 'node:assert/strict';
import { check } from '../lib/check.mjs';
import { aWhile, failsWith } from '../lib/world.mjs';

/** What a native app at place b is called by an app at a: the libraries forget `desktopAgent` in `open`. */
async function idAt(world, appId) {
  return world.twoNodes ? `${appId}@${await world.nodeName('b')}` : appId;
}

/** Listens to what native apps report, and ends them with the check. */
async function reports(world, { agent }) {
  const channel = await agent.getOrCreateChannel('test-native-reports');
  const of = new Map();
  await channel.addContextListener('x.report', (report) => of.set(report.instanceId, report));
  world.keep(async () => {
    for (const instanceId of of.keys()) await channel.broadcast({ type: 'x.end', instanceId });
  });
  return of;
}

export default [
  check('32', 'a program is started, and gets its context once', { timeoutMs: 60_000 }, async (world) => {
    const asker = await world.connect('a', 'test-one');
    const of = await reports(world, asker);
    const context = { type: 'x.question', q: 1 };
    const { instanceId, appId, desktopAgent } = await asker.agent.open({ appId: await idAt(world, 'test-native') }, context);
    assert.equal(appId.split('@')[0], 'test-native');
    if (world.twoNodes) assert.equal(desktopAgent ?? appId.split('@')[1], await world.nodeName('b'));
    await world.until(() => of.get(instanceId)?.heard.length, 10_000, 'the program has heard its context');
    await aWhile();
    assert.deepEqual(of.get(instanceId).heard, [context]);
    const instances = await asker.agent.findInstances({ appId });
    assert.ok(instances.some((one) => one.instanceId === instanceId), 'the program listed');
  }),

  check('32', 'two programs of one record are two instances', { timeoutMs: 60_000 }, async (world) => {
    const asker = await world.connect('a', 'test-one');
    const of = await reports(world, asker);
    const appId = await idAt(world, 'test-native');
    const started = await Promise.all([1, 2].map((q) => asker.agent.open({ appId }, { type: 'x.question', q })));
    await world.until(() => started.every(({ instanceId }) => of.get(instanceId)?.heard.length), 10_000, 'both have heard their contexts');
    assert.deepEqual(started.map(({ instanceId }) => of.get(instanceId).heard), [1, 2].map((q) => [{ type: 'x.question', q }]));
    assert.notEqual(...started.map(({ instanceId }) => of.get(instanceId).pid));
  }),

  check('32', 'a program is started for an intent, and answers it', { timeoutMs: 60_000 }, async (world) => {
    const asker = await world.connect('a', 'test-one');
    await reports(world, asker);
    const { apps } = await asker.agent.findIntent('NativePrice');
    const there = world.twoNodes ? await world.nodeName('b') : undefined;
    const app = apps.find(({ instanceId, desktopAgent }) => !instanceId && desktopAgent === there);
    assert.ok(app, `NativePrice at ${there ?? 'this node'}`);
    const { appId, desktopAgent } = app;
    const resolution = await asker.agent.raiseIntent('NativePrice', { type: 'x.question', q: 21 }, { appId, ...(desktopAgent && { desktopAgent }) });
    const { value } = await resolution.getResult();
    assert.equal(value, 42);
    assert.ok(resolution.source.instanceId);
  }),

  check('32', 'a program that never listens: AppTimeout', { timeoutMs: 90_000 }, async (world) => {
    const { agent } = await world.connect('a', 'test-one');
    await failsWith('AppTimeout', agent.open({ appId: await idAt(world, 'test-silent') }, { type: 'x.question' }), 60_000);
  }),

  check('32', 'a program that is not there: ErrorOnLaunch', { timeoutMs: 60_000 }, async (world) => {
    const { agent } = await world.connect('a', 'test-one');
    await failsWith('ErrorOnLaunch', agent.open({ appId: await idAt(world, 'test-broken') }), 40_000);
    await failsWith('ErrorOnLaunch', agent.open({ appId: await idAt(world, 'test-broken') }, { type: 'x.question' }), 40_000);
  }),

  check('32', 'an app at a node that is not there: AppNotFound or DesktopAgentNotFound', async (world) => {
    const { agent } = await world.connect('a', 'test-one');
    const { reason } = await world.rejection(agent.open({ appId: 'test-native@nowhere' }));
    assert.ok(['AppNotFound', 'DesktopAgentNotFound'].includes(reason), reason);
  }),
];

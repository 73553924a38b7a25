// Whom a node with a secret lets in at its bridge, and what it shows of itself.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { Agent, implementationMetadata } from '../../bridge/agent.mjs';
import { claimsOf, makeToken } from '../../bridge/token.mjs';
import { agent, app, world } from '../lib/agents.mjs';

const FOR_BRIDGE = 'desktop-agent-bridge';
const inAnHour = () => Math.floor(Date.now() / 1000) + 3600;

/** Shakes hands with that token, and resolves with what the bridge says to it. */
async function turnedAway(authToken) {
  const stranger = await Agent.connect(world['bridge-a']);
  stranger.send('handshake', { requestedName: 'stranger', channelsState: {}, implementationMetadata: implementationMetadata('stranger'), ...(authToken && { authToken }) });
  const { payload } = await stranger.got(({ type }) => type !== 'hello', 'an answer to its handshake');
  await stranger.end();
  assert.deepEqual(stranger.log.map(({ type }) => type), ['hello', 'authenticationFailed']);
  return payload.message;
}

export const secretChecks = {
  'the bridge shows that it knows the secret, anew each time': async () => {
    const secret = readFileSync(world.secret, 'utf8').trim();
    const greetings = [await agent('a', 'one'), await agent('a', 'two')].map(({ hello }) => hello.payload);
    for (const { authRequired } of greetings) assert.equal(authRequired, true);
    const claims = greetings.map(({ authToken }) => claimsOf(secret, authToken));
    for (const { aud } of claims) assert.equal(aud, 'desktop-agent');
    assert.notEqual(claims[0].jti, claims[1].jti);
  },

  'who does not know the secret is turned away, and is told why': async () => {
    const secret = readFileSync(world.secret, 'utf8').trim();
    const used = makeToken(secret, FOR_BRIDGE);
    await agent('a', 'honest', {}, { authToken: used });
    const cases = {
      'authToken is needed': undefined,
      'not signed': makeToken('another secret that is long enough, too', FOR_BRIDGE),
      '`aud`': makeToken(secret, 'desktop-agent'),
      expired: makeToken(secret, FOR_BRIDGE, { exp: 1 }),
      bridge_token_s_max: makeToken(secret, FOR_BRIDGE, { exp: inAnHour() }),
      'shown before': used,
    };
    for (const [why, token] of Object.entries(cases)) assert.ok((await turnedAway(token)).includes(why), why);
    // Apps of the node never hear of them.
    const one = await app('a', 'test-one');
    assert.deepEqual(await one.agent.findInstances({ appId: 'foreign' }).catch(({ message }) => message), 'NoAppsFound');
  },
};

// The app directory that the checks need at the nodes.

import { fileURLToPath } from 'node:url';

export const ORIGIN = 'http://app.example';

const question = { contexts: ['x.question'] };
const native = fileURLToPath(new URL('../native.mjs', import.meta.url));

/** Listens for intents, by name. */
function listensFor(intents) {
  return { interop: { intents: { listensFor: intents } } };
}

function web(appId, path, more = {}) {
  return { appId, title: `Test ${appId}`, type: 'web', details: { url: ORIGIN + path }, ...more };
}

function program(appId, path, words, more = {}) {
  return { appId, title: `Test ${appId}`, type: 'native', details: { path, arguments: words.map((word) => `"${word}"`).join(' ') }, ...more };
}

const started = (...words) => [native, ...words];

const EVERYWHERE = [
  web('test-one', '/one'),
  web('test-two', '/two?x=1'),
  web('test-three', '/three'),
  web('test-quoter', '/quoter', listensFor({
    GetPrice: { ...question, displayName: 'Get a price', resultType: 'x.price' },
    GetTopic: { ...question, displayName: 'Get a topic', resultType: 'channel' },
    Stream: { ...question, displayName: 'Stream prices', resultType: 'channel<x.price>' },
    Hang: { ...question, displayName: 'Hang' },
  })),
  web('test-first', '/first', listensFor({ Choose: { ...question, displayName: 'Choose', resultType: 'x.price' } })),
  web('test-second', '/second', listensFor({ Choose: { ...question, displayName: 'Choose', resultType: 'x.price' } })),
  web('test-launched', '/launched', listensFor({ Launch: { ...question, displayName: 'Launch' } })),
  web('test-path', '/specific'),
  web('test-query', '/specific?x=1'),
  web('test-hash', '/specific?x=1#h'),
  program('test-native', process.execPath, started('quote', 'NativePrice'), listensFor({ NativePrice: { ...question, displayName: 'Ask a program', resultType: 'x.price' } })),
  program('test-silent', process.execPath, started('silent')),
  program('test-closing', process.execPath, started('close')),
  program('test-lender', process.execPath, started('lend')),
  program('test-broken', '/nonexistent/program', []),
];

/** Records of the node at `b` alone: an app that both nodes have is started where it is asked for. */
const AT_B = [
  web('test-far', '/far', listensFor({
    Far: { ...question, displayName: 'Far away', resultType: 'x.price' },
    FarChoice: { ...question, displayName: 'Here or far away', resultType: 'x.price' },
  })),
  program('test-far-native', process.execPath, started('quote', 'FarPrice'), listensFor({ FarPrice: { ...question, displayName: 'Ask a program far away', resultType: 'x.price' } })),
  program('test-far-slow', process.execPath, started('quote', 'SlowPrice', '20'), listensFor({ SlowPrice: { ...question, displayName: 'Ask a program that takes 20 s to start', resultType: 'x.price' } })),
];

/** Records of the node at `a` alone. */
const AT_A = [
  web('test-near', '/near', listensFor({ FarChoice: { ...question, displayName: 'Here or far away', resultType: 'x.price' } })),
];

/** The directory of the node at one place, or of the only node. */
export function directory(place) {
  const own = { a: AT_A, b: AT_B }[place] ?? [...AT_A, ...AT_B];
  return { applications: [...EVERYWHERE, ...own] };
}

/** Where an app of the directory is served. */
export function urlOf(appId) {
  const record = directory().applications.find((one) => one.appId === appId);
  if (!record?.details.url) throw new Error(`no web app ${appId} in the directory`);
  return record.details.url;
}

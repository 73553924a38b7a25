// What the scenarios of methods and streams have in common.

import assert from 'node:assert/strict';

/** Whether `client` knows a method or stream of that name. */
export function sees(client, name) {
  return client.interop.methods({ name }).length > 0;
}

/** Whether `client` knows `other` as a server. */
export function seesServer(client, other) {
  return client.interop.servers().some(({ peerId }) => peerId === other.interop.instance.peerId);
}

/** Asserts that `seen` is what the application itself holds to be its identity. */
export function sameInstance(seen, own) {
  assert.ok(seen, 'no instance');
  for (const key of ['application', 'instance', 'user', 'machine', 'peerId', 'pid']) {
    assert.equal(seen[key], own[key], `instance.${key}`);
    assert.ok(own[key], `own instance.${key}`);
  }
}

/** Records the six discovery events of a client. */
export function eventsOf(client) {
  const seen = [];
  const add = (event) => (subject) => seen.push(`${event} ${subject}`);
  const { interop } = client;
  interop.methodAdded(({ name }) => add('methodAdded')(name));
  interop.methodRemoved(({ name }) => add('methodRemoved')(name));
  interop.serverAdded(({ instance }) => add('serverAdded')(instance));
  interop.serverRemoved(({ instance }) => add('serverRemoved')(instance));
  interop.serverMethodAdded(({ server, method }) => add('serverMethodAdded')(`${server.instance} ${method.name}`));
  interop.serverMethodRemoved(({ server, method }) => add('serverMethodRemoved')(`${server.instance} ${method.name}`));
  const count = (event, subject) => seen.filter((line) => line === `${event} ${subject}`).length;
  return {
    seen,
    count,
    has: (event, subject) => count(event, subject) > 0,
    repeated: () => seen.filter((line, index) => seen.indexOf(line) !== index),
  };
}

// What the scenarios of the bus have in common.

/** Subscribes and records; probes are set apart. */
export async function listens(client, topic, options) {
  const seen = { data: [], topics: [], sources: [], probes: new Set() };
  seen.subscription = await client.bus.subscribe(topic, (data, ofTopic, source) => {
    if (data.probe) return seen.probes.add(data.probe);
    seen.data.push(data);
    seen.topics.push(ofTopic);
    return seen.sources.push(source);
  }, options);
  return seen;
}

/** Publishes probes until the listener has heard one from this publisher. */
export async function reaches({ until, unique, sleep }, publisher, topic, listener, options) {
  const probe = unique('probe');
  await until(async () => {
    publisher.bus.publish(topic, { probe }, options);
    await sleep(20);
    return listener.probes.has(probe);
  }, 5000, `a probe on ${topic}`);
}

// What the scenarios of streams have in common.

import { sees } from './interop.mjs';

/** A stream at `a` and a consumer at `b` that knows it. `handlers` are the stream's own. */
export async function streaming({ pair, unique, until }, handlers = {}) {
  const [provider, consumer] = await pair();
  const name = unique('Stream');
  const stream = await provider.interop.createStream(name, handlers);
  await until(() => sees(consumer, name));
  return { provider, consumer, name, stream };
}

/** Subscribes, and records what comes. */
export async function subscribed(client, name, options = {}) {
  const seen = { data: [], events: [], closed: [] };
  const subscription = await client.interop.subscribe(name, {
    ...options,
    onData: (event) => {
      seen.events.push(event);
      seen.data.push(event.data);
    },
    onClosed: (info) => seen.closed.push(info),
  });
  return Object.assign(seen, { subscription });
}

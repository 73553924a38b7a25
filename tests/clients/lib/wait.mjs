// Waiting for something to become true, as an application would: by looking, not by sleeping.

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Resolves with the first truthy value of `predicate`, looked at every 10 ms.
 *
 * A predicate that throws counts as not yet true, and its last error is part of the complaint.
 */
export async function until(predicate, ms = 5000, what = predicate) {
  const deadline = performance.now() + ms;
  for (;;) {
    let error;
    try {
      const value = await predicate();
      if (value) return value;
    } catch (caught) {
      error = caught;
    }
    if (performance.now() >= deadline) {
      const detail = error ? `: ${reasonOf(error)}` : '';
      throw new Error(`not within ${ms} ms: ${what}${detail}`);
    }
    await sleep(10);
  }
}

/** Settles like `promise`, but fails when it has not settled after `ms`. */
export async function within(ms, promise, what = 'settled') {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${ms} ms: ${what}`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Resolves with what `promise` was rejected with, and how long it took; fails if it resolves. */
export async function rejection(promise, ms = 10_000, what = 'rejected') {
  const start = performance.now();
  const outcome = await within(ms, promise.then((value) => ({ value }), (error) => ({ error })), what);
  if (!('error' in outcome)) {
    throw new Error(`expected a rejection, got ${JSON.stringify(outcome.value)?.slice(0, 200)}`);
  }
  return { error: outcome.error, reason: reasonOf(outcome.error), ms: performance.now() - start };
}

/** The one line that says what went wrong, for whatever the libraries reject with. */
export function reasonOf(error) {
  if (error === undefined || error === null) return String(error);
  if (typeof error === 'string') return error;
  if (error.err !== undefined) return reasonOf(error.err);
  if (typeof error.message === 'string' && error.message) return error.message;
  if (typeof error.reason === 'string') return error.reason;
  try {
    return JSON.stringify(error);
  } catch {
    return String(error);
  }
}

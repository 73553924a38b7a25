// Where deskmesh falls short of what is expected here, and until when.
//
// With `--deskmesh` such a failure is reported and forgiven, and an entry that is no longer needed is
// pointed out.

/** Scenarios of `run.mjs`. */
const scenarios = {};

/** Checks of `conformance.mjs`, by their number or by number and words. */
const checks = {
  'I01 a control frame that is too long ends its connection only':
    'the WebSocket library waits for the whole frame before it refuses its length',
};

/** Checks that fail on two nodes only. */
const checksOnTwo = {
  C02: 'a context that has come from another node within the last second is merged with, not kept: its creator cannot have known of it',
};

/** Returns why a scenario may fail. */
export function knownDeskmesh(name) {
  return scenarios[name];
}

/** Returns why a check may fail; `nodes` is `one` or `two`. */
export function knownDeskmeshCheck(id, name, nodes) {
  return checks[name] ?? checks[id] ?? (nodes === 'two' ? checksOnTwo[id] : undefined);
}

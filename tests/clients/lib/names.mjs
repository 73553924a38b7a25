// Names that no other scenario, run or node has used before.

import { randomBytes } from 'node:crypto';

const run = randomBytes(3).toString('hex');
let next = 0;

/** Returns a fresh name such as `prices-3fa2c1-17`. */
export function unique(prefix) {
  next += 1;
  return `${prefix}-${run}-${next}`;
}

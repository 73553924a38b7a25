// A check is a number of the acceptance list, a few words, and a body.

/**
 * Declares a check.
 *
 * It is run with each library, and once if `raw`. `alone` runs it with nothing beside it. `only` is `one` or
 * `two` where that number of nodes is a condition, and `needs` names an option of the program.
 */
export function check(id, what, options, body) {
  if (typeof options === 'function') return check(id, what, {}, options);
  return { name: `${id} ${what}`, raw: false, alone: false, timeoutMs: 20_000, ...options, body };
}

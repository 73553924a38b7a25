// A scenario is a name, a body, and what it needs.

/**
 * Declares a scenario.
 *
 * `libs` names the libraries that have the API it uses. `alone` runs it with nothing beside it, for
 * those that time things. `only` is `one` or `two` where that number of nodes is a condition, and
 * `third` asks for a third.
 */
export function scenario(name, options, body) {
  if (typeof options === 'function') return scenario(name, {}, options);
  return { name, libs: ['io', 'glue'], timeoutMs: 15_000, alone: false, ...options, body };
}

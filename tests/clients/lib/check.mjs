// A check is a number of the protocol notes, a few words, and a conversation.

/**
 * Declares a check. `kills` marks what ends the whole reference gateway, which is then spared, and `bulk`
 * what is about numbers, not about single frames.
 *
 * The methods of the world may be taken out of it, like `async ({ login, nothing }) => …`.
 */
export function check(id, what, body, options = {}) {
  return { id, what, timeoutMs: 15_000, alone: false, kills: false, bulk: false, ...options, body: (world) => body(unbound(world)) };
}

function unbound(world) {
  const names = Object.getOwnPropertyNames(Object.getPrototypeOf(world)).filter((name) => name !== 'constructor');
  return { ...world, ...Object.fromEntries(names.map((name) => [name, world[name].bind(world)])) };
}

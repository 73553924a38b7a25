// A page that calls getAgent() without arguments, after code of its own origin has prepared it. With `set` that code has
// connected already and set `window.fdc3`.
import { watch } from '/watch.js';

const query = new URLSearchParams(location.search);
const { preload } = await import(`${query.get('node')}/fdc3/agent.js`);
window.seeded = query.has('set') ? await preload({ getAgent: window.getAgent }) : preload();
watch(query.has('set') ? window.fdc3 : window.getAgent());

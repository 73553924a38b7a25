// A page that calls getAgent() without arguments, after code of its own origin has prepared it. With `set` that code has
// connected already and set `window.fdc3`. With `module` it brings a copy of that code from there.
import { watch } from '/watch.js';

const query = new URLSearchParams(location.search);
const node = query.get('node');
const { preload } = await import(`${query.get('module') ?? node}/fdc3/agent.js`);
window.seeded = query.has('set') ? await preload({ getAgent: window.getAgent, node }) : preload({ node });
watch(query.has('set') ? window.fdc3 : window.getAgent());

// A page that calls getAgent() without arguments, after code of its own origin has prepared it.
import { watch } from '/watch.js';

const { preload } = await import(`${new URLSearchParams(location.search).get('node')}/fdc3/agent.js`);
window.seeded = preload();
watch(window.getAgent());

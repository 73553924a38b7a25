// A page in a tab that no launcher opened: it brings the failover of the node that its address names.
// With `module` it brings a copy of the failover from there.
import { watch } from '/watch.js';

const query = new URLSearchParams(location.search);
const { failover, failoverTo } = await import(`${query.get('module') ?? query.get('node')}/fdc3/agent.js`);
watch(window.getAgent({ failover: query.has('module') ? failoverTo(query.get('node')) : failover }));

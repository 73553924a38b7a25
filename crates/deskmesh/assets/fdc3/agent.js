// Ways to the deskmesh node of this computer for a page that the launcher did not open. Nothing else of the page changes.
//
// 1. A failover, for a page that may be edited:
//
//      import { getAgent } from '@finos/fdc3';
//      import { failover } from 'http://127.0.0.1:8385/fdc3/agent.js';
//      const fdc3 = await getAgent({ failover });
//
//    It is used only where no other desktop agent answers, and the next load of the page uses it at once. A page that bundles
//    this file names the node itself: getAgent({ failover: failoverTo('http://127.0.0.1:8385') }).
//
// 2. preload(), for code of the page's own origin that runs before its scripts (a browser extension's content script, a proxy
//    that adds a script element). It writes into session storage what getAgent() would have written after an earlier connection,
//    so that a page that calls getAgent() without arguments finds the node:
//
//      import { preload } from 'http://127.0.0.1:8385/fdc3/agent.js';
//      preload();
//
//    It does nothing in a frame, in a window that another page opened (its agent may be there), and where details are stored
//    already; preload({ evenIfOpened: true }) passes over the first two. A page that gives getAgent() an identityUrl needs
//    preload({ identityUrl }). A page so prepared looks for no other agent: without a running node getAgent() says AgentNotFound.
//
// 3. preload({ getAgent }), for an extension or Electron preload script that carries @finos/fdc3 itself: it connects and sets
//    `window.fdc3`, and returns the promise of the agent.
//
// What the page needs: `script-src` (to import this file) and `frame-src` with the node's origin in its Content-Security-Policy,
// if it has one. Chromium lets pages of public sites reach this computer only with the permission `loopback-network`: the user
// grants it once, or the policy LocalNetworkAccessAllowedForUrls does. Such a page must be served over HTTPS.

const TIMEOUT_MS = 1900;
/** While the browser asks the user for permission, nobody can hurry. */
const PERMISSION_TIMEOUT_MS = 20_000;
const FRAME_ID = 'deskmesh-fdc3-adaptor';

/** The failover for the node that served this module. */
export const failover = () => connect(new URL(import.meta.url).origin);

/** A failover for the node at `node`, such as `http://127.0.0.1:8385`. */
export function failoverTo(node) {
  return () => connect(new URL(node).origin);
}

/** Prepares this page for a later getAgent(), or with `getAgent` sets `window.fdc3`; see the head of this file. */
export function preload({ node = new URL(import.meta.url).origin, identityUrl = location.href, evenIfOpened = false, getAgent = null } = {}) {
  if (getAgent) return getAgent({ identityUrl, failover: failoverTo(node) });
  if (!evenIfOpened && (window.opener || window.parent !== window)) return false;
  tellOfRefusals(new URL(node).origin);
  // The library keeps details per window name and gives a nameless window a name itself.
  window.name ||= `fdc3-${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
  const key = `fdc3-desktop-agent-details-${window.name}`;
  const stored = readDetails(key);
  if (stored[identityUrl]) return false;
  // The ids are only there because the library ignores details without them; the node gives real ones.
  stored[identityUrl] = { agentType: 'PROXY_URL', agentUrl: `${new URL(node).origin}/fdc3/adaptor`, identityUrl, actualUrl: location.href,
    appId: 'unknown', instanceId: 'unknown', instanceUuid: 'unknown' };
  sessionStorage.setItem(key, JSON.stringify(stored));
  return true;
}

/** Says in the console what keeps the library of a page from embedding the adaptor: the library itself only says AgentNotFound. */
function tellOfRefusals(node) {
  document.addEventListener('securitypolicyviolation', event => {
    if (event.blockedURI.startsWith(node)) console.error(`FDC3: no desktop agent, because ${forbidden(node, event)}`);
  });
  permission().then(async permitted => {
    if (permitted && (permitted.state === 'denied' || !isSecureContext)) console.error(`FDC3: no desktop agent, because ${await explain(node)}`);
  });
}

function forbidden(node, violation) {
  return `this page's Content-Security-Policy forbids it to embed ${node}. Add ${node} to its ${violation.effectiveDirective} directive.`;
}

function readDetails(key) {
  try {
    return JSON.parse(sessionStorage.getItem(key)) ?? {};
  } catch {
    return {};
  }
}

/**
 * Embeds the adaptor and returns an object to say WCP1Hello to. It is not the frame's own window: the library first looks whether
 * what it was given is an agent, and looking into a window of another origin throws.
 */
async function connect(node) {
  document.getElementById(FRAME_ID)?.remove();
  const frame = Object.assign(document.createElement('iframe'), { id: FRAME_ID, title: 'FDC3', src: `${node}/fdc3/adaptor`, hidden: true });
  frame.style.display = 'none';
  const refusal = await refusalOf(frame, node);
  if (refusal) {
    frame.remove();
    console.error(`FDC3: no desktop agent, because ${refusal}`);
    // getAgent() makes an error of what a failover throws; the bare word is what apps compare with.
    throw 'AgentNotFound';
  }
  return { postMessage: message => frame.contentWindow.postMessage(message, node) };
}

/** Adds the frame to the page. Resolves to null once the node answers through it, or to a sentence on what forbids it. */
function refusalOf(frame, node) {
  return new Promise(resolve => {
    const { port1, port2 } = new MessageChannel();
    const settle = refusal => {
      clearTimeout(timer);
      document.removeEventListener('securitypolicyviolation', violated);
      port1.close();
      resolve(refusal);
    };
    const violated = event => {
      if (!event.blockedURI.startsWith(node)) return;
      settle(forbidden(node, event));
    };
    let timer = setTimeout(() => explain(node).then(settle), TIMEOUT_MS);
    permission().then(permitted => {
      // A page that was not served over HTTPS is refused without a question.
      if (permitted?.state !== 'prompt' || !isSecureContext) return;
      clearTimeout(timer);
      console.info(`FDC3: the browser asks whether this page may reach ${node} on this computer; waiting for the answer.`);
      timer = setTimeout(() => explain(node).then(settle), PERMISSION_TIMEOUT_MS);
      permitted.onchange = () => {
        clearTimeout(timer);
        timer = setTimeout(() => explain(node).then(settle), permitted.state === 'denied' ? 0 : TIMEOUT_MS);
      };
    });
    document.addEventListener('securitypolicyviolation', violated);
    port1.onmessage = event => settle(event.data ? null : `the deskmesh node at ${node} cannot be reached. See that it is running (deskmesh status), then load the page again.`);
    // A frame that was refused loads as well, as an error page, which does not answer.
    frame.addEventListener('load', () => frame.contentWindow?.postMessage({ type: 'deskmesh.reachable' }, '*', [port2]), { once: true });
    (document.body ?? document.documentElement).append(frame);
  });
}

/** Chromium's permission to reach this computer; null where there is no such thing, and for a page of this computer, which needs none. */
async function permission() {
  if (/^(localhost|.*\.localhost|127\.[\d.]+|\[::1\])$/.test(location.hostname)) return null;
  try {
    return await navigator.permissions.query({ name: 'loopback-network' });
  } catch {
    return null;
  }
}

async function explain(node) {
  const permitted = await permission();
  if (permitted && !isSecureContext) {
    return `Chromium lets pages reach ${node} on this computer only if they were served over HTTPS; ${location.origin} was not. Serve it over HTTPS.`;
  }
  if (permitted?.state === 'denied') {
    return `the browser does not let this page reach ${node} on this computer. Grant ${location.origin} the permission “loopback-network” `
      + '(in its site settings: apps on device), or set the policy LocalNetworkAccessAllowedForUrls for it.';
  }
  return `the deskmesh node at ${node} did not answer in time. See that it is running (deskmesh status) and that its fdc3 settings allow ${location.origin} `
    + 'to embed it. If the page is of a public site, Chromium also needs the permission “loopback-network” for it (policy LocalNetworkAccessAllowedForUrls).';
}

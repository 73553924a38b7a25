// Plays the library's part towards the intent resolver of the node, with apps of machines that need not exist.

const frame = document.createElement('iframe');
window.actions = [];
window.styles = [];

addEventListener('message', event => {
  if (event.source !== frame.contentWindow || event.data?.type !== 'Fdc3UserInterfaceHello') return;
  restyle(event.data.payload.initialCSS);
  window.port = event.ports[0];
  window.port.onmessage = ({ data }) => {
    if (data.type === 'Fdc3UserInterfaceRestyle') restyle(data.payload.updatedCSS);
    if (data.type === 'Fdc3UserInterfaceResolveAction') window.actions.push(data.payload);
  };
  window.port.postMessage({ type: 'Fdc3UserInterfaceHandshake', payload: { fdc3Version: '2.2' } });
});

function restyle(css) {
  window.styles.push(css);
  frame.removeAttribute('style');
  Object.assign(frame.style, { border: '0' }, css);
}

window.resolve = appIntents => window.port.postMessage({ type: 'Fdc3UserInterfaceResolve',
  payload: { context: { type: 'fdc3.instrument', name: 'Vodafone' }, appIntents } });

frame.src = `${new URLSearchParams(location.search).get('node')}/fdc3/resolver`;
document.body.append(frame);

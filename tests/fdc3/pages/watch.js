// What every test page does with its agent: intents it answers, contexts it hears, and the outcome on `window.outcome`.

window.heard = [];
window.intents = [];
window.outcome = null;

export async function watch(connecting) {
  try {
    const fdc3 = await connecting;
    window.agent = fdc3;
    await fdc3.addContextListener(null, context => { window.heard.push(context); });
    for (const intent of (new URLSearchParams(location.search).get('intents') ?? '').split(',').filter(Boolean)) {
      await fdc3.addIntentListener(intent, context => { window.intents.push({ intent, context }); return context; });
    }
    const { appMetadata } = await fdc3.getInfo();
    window.outcome = { appId: appMetadata.appId, instanceId: appMetadata.instanceId };
  } catch (error) {
    window.outcome = { error: error?.message ?? String(error) };
  }
  document.getElementById('status').textContent = JSON.stringify(window.outcome);
}

// An app that says it is one of another origin.
import { watch } from '/watch.js';

watch(window.getAgent({ identityUrl: 'https://elsewhere.example/app.html' }));

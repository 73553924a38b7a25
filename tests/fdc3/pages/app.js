// An ordinary FDC3 app: it calls getAgent() and keeps what it hears where the test can read it.
import { watch } from '/watch.js';

watch(window.getAgent());

// Where the reference gateway, or a library against it, falls short of what is expected here.
//
// The scenarios keep the expectation; with `--reference` such a failure is reported and forgiven.
// The reason says whose shortcoming it is.

const ECHO = 'gateway and library: the library re-announces its last values, and the gateway takes them for new ones';
const COALESCED = 'gateway and library: an acknowledgement and a later update read in one chunk swap places in the library';

const LEAK = 'gateway: at login every context of every user is announced';

export const knownReference = {
  'connect: a stranger who comes later sees nothing either': LEAK,
  'connect: one context name, two users, two contexts': LEAK,
  'reconnect: a returning client does not undo what others wrote': ECHO,
  'reconnect: a returning client does not raise a destroyed context': ECHO,
  'reconnect: a returning client keeps its instance id': 'gateway: every login without an instance gets a new one',
  'contexts: the same key from both sides converges for the writers': COALESCED,
};

/** The same for `conformance.mjs`, by check. */
export const knownReferenceChecks = {};

// Where deskmesh says something else than the reference gateway, on purpose, and why.
//
// An entry is either about frames or about a whole conversation. `frame(frame, about)` returns what is to be
// compared in place of a frame, or nothing to leave it out, and `list(entries)` puts those of a peer in another
// order; both are applied to both sides. `about` is what `transcriptOf` says of a frame. An entry with `whole`
// forgives the conversations that `only` names. An entry that no conversation needs is pointed out.

import { isDeepStrictEqual } from 'node:util';

export const DIFFERENCES = [
  {
    name: 'texts',
    why: 'the words of an error are free, except those that clients look for',
    frame(frame, { said }) {
      if (frame.type !== 'error' || typeof frame.reason !== 'string' || said.has(frame.reason)) return frame;
      const [known] = /^Unable to find context with id/.exec(frame.reason) ?? ['(text)'];
      return { ...frame, reason: known };
    },
  },
  {
    name: 'subscribed-context has a name',
    why: 'clients adopt a context that they have not been told of by it; without it they could not',
    frame: (frame) => (frame.type === 'subscribed-context' ? without(frame, 'name') : frame),
  },
  {
    name: 'the creator of a context is always told',
    why: 'the reference forgets it for those who log in later (W19)',
    frame: (frame) => (frame.type === 'context-added' ? without(frame, 'creator_id') : frame),
  },
  {
    name: 'I02 contexts of other users',
    why: 'the reference announces the contexts of all users at login, and their end (W8)',
    frame: (frame, { strange }) => (strange && ['context-added', 'context-destroyed'].includes(frame.type) ? undefined : frame),
  },
  {
    name: 'why a context ended by itself',
    why: 'clients do not tell an unsubscribe from a disconnect, and the mesh has one reason for both',
    frame: (frame) => (frame.type === 'context-destroyed' && frame.reason_uri === 'global.peer-left'
      ? { ...frame, reason_uri: 'context.peer-left' } : frame),
  },
  {
    name: 'unsubscribe from the bus without being a member',
    why: 'it is always granted; the reference refuses it to one who has left',
    frame: (frame, { request }) => (request?.type === 'unsubscribe' && request.domain === 'bus' ? { type: '(unsubscribe answered)' } : frame),
  },
  {
    name: 'what is pending when its caller leaves',
    why: 'every request is answered, also when the caller is no member any more; the reference forgets it',
    frame: (frame, { member, request, step }) => (!member && isLate(frame, request, step) ? undefined : frame),
  },
  {
    name: 'I08 a pending subscribe is answered',
    why: 'the reference sends a subscription-cancelled that no client can match to its request (W15)',
    frame(frame, { request, step, established }) {
      const pendingEnded = { type: '(pending subscribe ended)' };
      if (!established) return pendingEnded;
      return request?.type === 'subscribe' && isLate(frame, request, step) ? pendingEnded : frame;
    },
  },
  {
    name: 'I08 the same in one step',
    why: 'as above; a check has no steps, and the one that asks for it waits in vain with the reference',
    only: /^I08 /,
    whole: true,
  },
  {
    name: 'I15 the domain of a refused join',
    why: 'the reference answers under global, where no client listens (W19)',
    frame: (frame, { request }) => (frame.reason_uri === 'global.errors.invalid_domain' ? { ...frame, domain: request.destination } : frame),
  },
  {
    name: 'several peers of one connection end',
    why: 'they go one after the other; the reference takes them out of one domain after the other, in any order',
    list(entries) {
      const steps = [...new Set(entries.map(({ step }) => step))];
      return steps.flatMap((step) => ended(entries.filter((entry) => entry.step === step)));
    },
  },
  {
    name: 'W19 the domain of context-destroyed',
    why: 'the reference tells members of it under context where it tells everything else under global',
    frame: (frame) => (frame.type === 'context-destroyed' ? { ...frame, domain: 'global' } : frame),
  },
  {
    name: 'agm messages of one who is no member',
    why: 'nothing hangs on them, and no client sends them or looks at what comes back; which error it is, if any, is free',
    frame(frame, { member, request, step }) {
      const asks = ['call', 'subscribe', 'register'].includes(request?.type) && request.step === step;
      return frame.type === 'error' && frame.domain === 'agm' && !member && !asks && !isLate(frame, request, step) ? undefined : frame;
    },
  },
  {
    name: 'the delta that empties a context',
    why: 'a client takes the removal of the empty path for one of a key named so; the reset says what is stored',
    frame: (frame) => (isDeepStrictEqual(frame.delta, { commands: [{ type: 'remove', path: '' }] }) ? { ...frame, delta: { reset: {} } } : frame),
  },
  {
    name: 'I13 an identity that is taken',
    why: 'the newcomer takes over, since the old connection is most likely half dead; the reference refuses it for good',
    only: /^(G12|I13) /,
    whole: true,
  },
  { name: 'G10 the claimed login', why: 'user and login are those of the authentication, or none; the reference keeps a claimed login', only: /^G10 a gateway token$/, whole: true },
  { name: 'G11', why: 'a gateway token that is none is a failed authentication; the reference says it failed', only: /^G11 /, whole: true },
  { name: 'I04', why: 'the reference turns away whoever sends an Origin (W2)', only: /^I04 /, whole: true },
  { name: 'I10', why: 'a second accept moves the subscription; the reference feeds it from both streams (W16)', only: /^I10 /, whole: true },
  { name: 'I11', why: 'a subscription to oneself ends with its stream; with the reference it goes on (W17)', only: /^I11 /, whole: true },
  { name: 'I12', why: 'only members register, and only they leave; the reference does not ask (W17)', only: /^I12 /, whole: true },
  { name: 'I02', why: 'the reference announces the contexts of other users (W8)', only: /^I02 /, whole: true },
  { name: 'I03', why: 'with the reference a context id is enough to use a context of another user (W8)', only: /^I03 /, whole: true },
  { name: 'I09', why: 'paths through what is missing or an array are applied as the clients do (W18)', only: /^I09 /, whole: true },
];

/** Whether a frame ends a call or subscription that was asked for in an earlier step, and not by its callee. */
function isLate(frame, request, step) {
  return frame.type === 'error' && frame.reason_uri === 'agm.errors.invocation.failure' && request !== undefined && request.step !== step;
}

/** What ends with each peer, peer by peer, and contexts last. */
function ended(entries) {
  if (entries.filter(({ frame }) => frame.type === 'peer-removed').length < 2) return entries;
  const groups = [[]];
  for (const entry of entries.filter(({ frame }) => frame.type !== 'context-destroyed')) {
    groups.at(-1).push(entry);
    if (entry.frame.type === 'peer-removed') groups.push([]);
  }
  const text = (group) => JSON.stringify(group.map(({ frame }) => frame));
  groups.sort((x, y) => (text(x) < text(y) ? -1 : 1));
  return [...groups.flat(), ...entries.filter(({ frame }) => frame.type === 'context-destroyed')];
}

function without(frame, key) {
  const { [key]: _, ...rest } = frame;
  return rest;
}

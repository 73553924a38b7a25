// An authentication program for `--suite logins`. See `authenticators` in docs/guides/configuration.md.
//
//   node authenticator.mjs win     two challenges, which the client answers with the nonce and its name
//   node authenticator.mjs corp    a name and a ticket; `services` are apps that all users see
//   node authenticator.mjs basic   passwords that are the name backwards, and tokens of its own

import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';

const encoded = (text) => Buffer.from(text).toString('base64');
const decoded = (token) => Buffer.from(`${token}`, 'base64').toString();
const failure = (message) => ({ type: 'failure', message });

const challenges = new Map();

const providers = {
  win({ connection, request_id: id, authentication: { token } }) {
    const key = `${connection} ${id}`;
    const open = challenges.get(key);
    challenges.delete(key);
    const [word, ...rest] = decoded(token).split(' ');
    if (word === 'start' || (word === 'again' && open === rest[0])) {
      const nonce = randomUUID();
      challenges.set(key, nonce);
      return { type: 'continue', authentication: { token: encoded(`${word} ${nonce}`) } };
    }
    const [nonce, user] = rest;
    if (word !== 'proof' || !open || nonce !== open) return failure('not what was asked');
    return { type: 'success', user, login: `CORP\\${user}` };
  },

  corp({ authentication: { providerContext } }) {
    const { name, ticket, service } = providerContext ?? {};
    if (ticket === 'slow') return undefined;
    if (ticket !== 'valid') return failure(`ticket ${ticket} is not valid`);
    return { type: 'success', user: name, options: { 'service?': service === true } };
  },

  basic({ authentication: { method, login, secret, token } }) {
    if (method === 'access-token') {
      const [mark, user] = decoded(token).split(' ');
      return mark === 'mine' ? { type: 'success', user } : failure('not a token of mine');
    }
    if (secret !== [...login].reverse().join('')) return failure(`wrong password for ${login}`);
    return { type: 'success', user: login, access_token: encoded(`mine ${login}`) };
  },
};

const decide = providers[process.argv[2]];

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line);
  const answer = decide(question);
  if (answer) console.log(JSON.stringify({ id: question.id, ...answer }));
}

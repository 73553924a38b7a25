// Tokens as deskmesh understands `authToken`, of which FDC3 says nothing: JSON Web Tokens under a shared secret.

import { createHmac, randomUUID } from 'node:crypto'

const encoded = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
const tagOf = (secret, signed) => createHmac('sha256', secret).update(signed).digest('base64url')

/** A new token; `claims` takes the place of what it says by default. */
export function makeToken(secret, aud, claims = {}) {
  const signed = `${encoded({ alg: 'HS256', typ: 'JWT' })}.${encoded({ aud, exp: Math.floor(Date.now() / 1000) + 60, jti: randomUUID(), ...claims })}`
  return `${signed}.${tagOf(secret, signed)}`
}

/** What a token says, if it is signed with the secret. */
export function claimsOf(secret, token) {
  const [header, claims, tag] = token.split('.')
  return tag === tagOf(secret, `${header}.${claims}`) ? JSON.parse(Buffer.from(claims, 'base64url')) : undefined
}

#!/usr/bin/env node
// Checks a Desktop Agent Bridge (FDC3 2.2, Agent Bridging) with agents of several habits. See README.md.
//
//   node bench.mjs --bridge ws://127.0.0.1:4475 [--only <part of a name>] [--list] [--json] [--patience <ms>] [--secret <file>]

import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { Skip, checks } from './checks.mjs'
import { setPatience, setSecret } from './agent.mjs'

const { values } = parseArgs({
  options: {
    bridge: { type: 'string', default: 'ws://127.0.0.1:4475' }, only: { type: 'string', default: '' }, list: { type: 'boolean' }, json: { type: 'boolean' },
    patience: { type: 'string', default: '5000' }, secret: { type: 'string' },
  },
})
setPatience(Number(values.patience))
if (values.secret) setSecret(readFileSync(values.secret, 'utf8').trim())
const chosen = checks.filter(({ name }) => name.includes(values.only))
if (values.list) {
  for (const { name, level, clause } of chosen) console.log(`${level.padEnd(6)} ${name}  (${clause})`)
  process.exit(0)
}

const results = []
for (const { name, level, clause, run } of chosen) {
  const agents = []
  const note = (text) => { if (!values.json) console.log(`      ${text}`) }
  const bench = { url: values.bridge, note, keep: (agent) => { agents.push(agent); return agent } }
  const start = performance.now()
  let error
  try {
    await run(bench)
  } catch (thrown) {
    error = thrown
  }
  for (const agent of agents) agent.cut()
  const ms = Math.round(performance.now() - start)
  const skipped = error instanceof Skip
  const outcome = skipped ? 'skip' : !error ? 'ok' : level === 'must' ? 'FAIL' : 'warn'
  results.push({ name, level, clause, outcome, ms, ...(error && { error: error.message }) })
  if (!values.json) {
    console.log(`${outcome.padEnd(4)}  ${name}  ${ms} ms`)
    if (error) console.log(`      ${level}, ${clause}\n      ${results.at(-1).error.replaceAll('\n', '\n      ')}`)
  }
}
const count = (outcome) => results.filter((result) => result.outcome === outcome).length
if (values.json) console.log(JSON.stringify(results, null, 2))
else console.log(`\n${count('ok')} of ${results.length} passed; failed: ${count('FAIL')} that a bridge must pass, ${count('warn')} that it should; skipped: ${count('skip')}`)
process.exit(count('FAIL') || !count('ok') ? 1 : 0)

// What a Desktop Agent Bridge is checked for. Other agents may be connected: a check looks only at its own.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { Agent, HABITS, implementationMetadata, pause } from './agent.mjs'

/** Thrown where a check cannot be made. */
export class Skip extends Error {}

export const checks = []
const add = (level, clause) => (name, run) => checks.push({ name, level, clause, run })

const connection = add('must', 'Bridge Connection Protocol')
const channels = add('must', 'Synchronize the Bridge\'s Channel State')
const forwarding = add('must', 'Forwarding of Messages and Collating Responses')
const single = add('must', 'Individual message exchanges')
const broken = add('must', 'Workflows Broken By Disconnects')
const malformed = add('must', 'Handling Malformed Messages')
const identity = add('must', 'Identifying Desktop Agents Identity and Message Sources')
const privateChannels = add('must', 'PrivateChannels')
const tolerance = add('should', 'habits of existing agents')
const robust = add('should', 'not in the standard')

const unique = (name) => `${name}-${randomUUID().slice(0, 8)}`
const instrument = (ticker) => ({ type: 'fdc3.instrument', id: { ticker } })
const app = (agent, more) => ({ appId: 'bench-app', desktopAgent: agent.name, ...more })
const to = (agent) => ({ destination: { desktopAgent: agent.name } })
const names = (participants) => (participants ?? []).map(({ desktopAgent }) => desktopAgent)

/** Pairs errorSources with errorDetails, which must be parallel. */
function failures({ meta }) {
  const sources = names(meta.errorSources)
  const details = meta.errorDetails ?? []
  assert.equal(sources.length, details.length, 'errorSources and errorDetails must be of one length')
  return Object.fromEntries(sources.map((source, at) => [source, details[at]]))
}

const join = async (bench, name, options) => bench.keep(await Agent.join(bench.url, unique(name), options))
const answering = (payload) => (request, agent) => agent.answer(request, typeof payload === 'function' ? payload(request) : payload)
const noApps = answering({ error: 'NoAppsFound' })
const instances = (instanceId) => answering({ appIdentifiers: [{ appId: 'bench-app', instanceId }] })

connection('hello comes first, and says what the bridge is', async (bench) => {
  const { hello } = bench.keep(await Agent.connect(bench.url))
  assert.equal(typeof hello.payload.desktopAgentBridgeVersion, 'string')
  assert.ok(Array.isArray(hello.payload.supportedFDC3Versions))
  assert.equal(typeof hello.payload.authRequired, 'boolean')
})

connection('an agent recognizes its own update, which has all agents and the channels', async (bench) => {
  const agent = await join(bench, 'own-update')
  const { payload, meta } = agent.update
  assert.equal(typeof payload.addAgent, 'string')
  assert.ok(meta.responseUuid)
  const own = payload.allAgents.find(({ desktopAgent }) => desktopAgent === agent.name)
  assert.equal(own?.fdc3Version, '2.2')
  assert.equal(own.appMetadata, undefined)
  assert.equal(typeof payload.channelsState, 'object')
})

connection('two agents that ask for one name get two', async (bench) => {
  const name = unique('twin')
  const [a, b] = await Promise.all([1, 2].map(async () => bench.keep(await Agent.join(bench.url, name))))
  assert.notEqual(a.name, b.name)
  assert.ok([a.name, b.name].includes(name), 'one of them gets the name it asked for')
})

connection('every agent hears of every other, with all agents each time', async (bench) => {
  const a = await join(bench, 'hears')
  const b = await join(bench, 'heard')
  const added = await a.got((m) => m.payload.addAgent === b.name)
  const last = b.update.payload.allAgents
  assert.deepEqual(names(added.payload.allAgents).sort(), names(last).sort())
  assert.ok(names(last).includes(a.name))
  b.leave()
  const removed = await a.got((m) => m.payload.removeAgent === b.name)
  assert.ok(names(removed.payload.allAgents).includes(a.name))
  assert.ok(!names(removed.payload.allAgents).includes(b.name))
  assert.equal(removed.meta.requestUuid, removed.meta.responseUuid)
})

connection('an agent whose connection breaks is announced as gone', async (bench) => {
  const a = await join(bench, 'stays')
  const b = await join(bench, 'breaks')
  b.cut()
  await a.got((m) => m.payload.removeAgent === b.name)
})

robust('an agent that comes back soon gets its former name', async (bench) => {
  const name = unique('returns')
  const options = (provider) => ({ provider })
  const a = bench.keep(await Agent.join(bench.url, name, options('provider-a')))
  const b = bench.keep(await Agent.join(bench.url, name, options('provider-b')))
  const watcher = await join(bench, 'watcher')
  for (const agent of [a, b]) {
    agent.leave()
    await watcher.got((m) => m.payload.removeAgent === agent.name)
  }
  const again = bench.keep(await Agent.join(bench.url, name, options('provider-b')))
  assert.equal(again.name, b.name)
})

robust('an agent that is not let in is told so, with a payload', async (bench) => {
  const agent = bench.keep(await Agent.connect(bench.url))
  agent.send('handshake', { nothing: 'of use' })
  const refusal = await agent.got((m) => m.type === 'authenticationFailed', 'authenticationFailed')
  assert.equal(typeof refusal.payload, 'object')
  await agent.end()
})

tolerance('an agent that dials again and again does not keep others out', async (bench) => {
  const spinning = async () => {
    for (let at = 0; at < 20; at += 1) (await Agent.connect(bench.url)).cut()
  }
  await Promise.all([spinning(), spinning()])
  const a = await join(bench, 'beside')
  await a.settled()
})

channels('what the bridge has wins, and what it does not know is taken', async (bench) => {
  const [known, fresh] = [unique('channel'), unique('channel')]
  const a = await join(bench, 'first', { channelsState: { [known]: [instrument('A')] } })
  const b = await join(bench, 'second', { channelsState: { [known]: [{ type: 'fdc3.contact', n: 2 }, instrument('B')], [fresh]: [instrument('B')] } })
  for (const update of [b.update, await a.got((m) => m.payload.addAgent === b.name)]) {
    assert.deepEqual(update.payload.channelsState[known], [instrument('A'), { type: 'fdc3.contact', n: 2 }])
    assert.deepEqual(update.payload.channelsState[fresh], [instrument('B')])
  }
})

channels('the state of channels follows broadcasts', async (bench) => {
  const channelId = unique('channel')
  const a = await join(bench, 'broadcasts', { channelsState: { [channelId]: [instrument('old'), { type: 'fdc3.contact' }] } })
  a.send('broadcastRequest', { channelId, context: { type: 'fdc3.contact', n: 1 } })
  a.send('broadcastRequest', { channelId, context: instrument('new') })
  await a.settled()
  const late = await join(bench, 'late')
  assert.deepEqual(late.update.payload.channelsState[channelId], [instrument('new'), { type: 'fdc3.contact', n: 1 }])
})

single('a broadcast reaches every other agent once, and not its sender', async (bench) => {
  const [a, b, c] = [await join(bench, 'sends'), await join(bench, 'receives'), await join(bench, 'receives')]
  a.send('broadcastRequest', { channelId: unique('channel'), context: instrument('X') })
  for (const agent of [b, c]) await agent.got((m) => m.type === 'broadcastRequest')
  for (const agent of [a, b, c]) await agent.settled()
  assert.deepEqual([a, b, c].map((agent) => agent.all('broadcastRequest').length), [0, 1, 1])
})

robust('a context arrives as the text it was', async (bench) => {
  const [a, b] = [await join(bench, 'writes'), await join(bench, 'reads')]
  const context = '{"type":"bench.text","z":1.0,"a":12345678901234567890,"s":"\\ud800","unknown":{"appId":"x"}}'
  const meta = JSON.stringify({ requestUuid: randomUUID(), timestamp: new Date().toISOString() })
  a.socket.text(`{"type":"broadcastRequest","payload":{"channelId":"${unique('channel')}","context":${context}},"meta":${meta}}`)
  const message = await b.got((m) => m.payload.context?.type === 'bench.text')
  assert.ok(b.texts.get(message).includes(context), b.texts.get(message))
})

identity('a forged source is overwritten', async (bench) => {
  const [a, b] = [await join(bench, 'forger'), await join(bench, 'victim')]
  a.send('broadcastRequest', { channelId: unique('channel'), context: instrument('X') }, { source: { appId: 'app', instanceId: 'i', desktopAgent: b.name } })
  const { meta } = await b.got((m) => m.type === 'broadcastRequest')
  assert.deepEqual(meta.source, { appId: 'app', instanceId: 'i', desktopAgent: a.name })
})

tolerance('an agent that takes any new name for its own is still known by its real one', async (bench) => {
  const a = await join(bench, 'renames', { habit: HABITS.renames })
  const b = await join(bench, 'newcomer')
  await a.got((m) => m.payload.addAgent === b.name)
  assert.equal(a.believedName, b.name)
  a.send('broadcastRequest', { channelId: unique('channel'), context: instrument('X') }, { source: { desktopAgent: a.believedName } })
  const { meta } = await b.got((m) => m.type === 'broadcastRequest')
  assert.equal(meta.source.desktopAgent, a.name)
})

forwarding('answers are collated, and who did not contribute is named', async (bench) => {
  const a = await join(bench, 'asks')
  const b = await join(bench, 'answers', { handlers: { findInstancesRequest: instances('one') } })
  const c = await join(bench, 'errs', { handlers: { findInstancesRequest: noApps } })
  const d = await join(bench, 'silent')
  const answer = await a.ask('findInstancesRequest', { app: { appId: 'bench-app' } })
  assert.equal(answer.type, 'findInstancesResponse')
  assert.ok(names(answer.meta.sources).includes(b.name))
  const failed = failures(answer)
  assert.equal(failed[c.name], 'NoAppsFound')
  assert.equal(failed[d.name], 'ResponseToBridgeTimedOut')
  assert.ok(![c, d].some((agent) => names(answer.meta.sources).includes(agent.name)))
  assert.ok(!(a.name in failed) && !names(answer.meta.sources).includes(a.name), 'the asker is not asked')
  const own = answer.payload.appIdentifiers.filter(({ instanceId }) => instanceId === 'one')
  assert.deepEqual(own, [{ appId: 'bench-app', instanceId: 'one', desktopAgent: b.name }])
})

forwarding('a request goes out with its own id, and is no response', async (bench) => {
  const [a, b] = [await join(bench, 'asks'), await join(bench, 'asked', { handlers: { findIntentRequest: noApps } })]
  const requestUuid = a.send('findIntentRequest', { intent: 'BenchIntent' }, { source: { appId: 'app' } })
  const request = await b.got((m) => m.type === 'findIntentRequest')
  assert.equal(request.meta.requestUuid, requestUuid)
  assert.equal(request.meta.responseUuid, undefined)
  assert.deepEqual(request.meta.source, { appId: 'app', desktopAgent: a.name })
  assert.deepEqual(request.payload, { intent: 'BenchIntent' })
})

forwarding('findIntent puts the apps of all agents together', async (bench) => {
  const a = await join(bench, 'asks')
  const handler = (instanceId) => ({ findIntentRequest: answering({ appIntent: { intent: { name: 'BenchIntent' }, apps: [{ appId: 'bench-app', instanceId }] } }) })
  const [b, c] = [await join(bench, 'b', { handlers: handler('b') }), await join(bench, 'c', { handlers: handler('c') })]
  const { payload } = await a.ask('findIntentRequest', { intent: 'BenchIntent' })
  assert.equal(payload.appIntent.intent.name, 'BenchIntent')
  const apps = payload.appIntent.apps.map(({ instanceId, desktopAgent }) => [instanceId, desktopAgent])
  for (const [instanceId, agent] of [['b', b], ['c', c]]) assert.ok(apps.some(([i, d]) => i === instanceId && d === agent.name), JSON.stringify(apps))
})

forwarding('findIntentsByContext puts the apps of one intent together', async (bench) => {
  const a = await join(bench, 'asks')
  const handler = (...intents) => ({ findIntentsByContextRequest: answering({ appIntents: intents.map((name) => ({ intent: { name }, apps: [{ appId: 'bench-app' }] })) }) })
  await join(bench, 'b', { handlers: handler('Bench1', 'Bench2') })
  await join(bench, 'c', { handlers: handler('Bench2') })
  const { payload } = await a.ask('findIntentsByContextRequest', { context: instrument('X') })
  const counts = payload.appIntents.filter(({ intent }) => intent.name.startsWith('Bench')).map(({ intent, apps }) => [intent.name, apps.length])
  assert.deepEqual(counts.sort(), [['Bench1', 1], ['Bench2', 2]])
})

forwarding('if all agents err, the error is one of theirs', async (bench) => {
  const a = await join(bench, 'asks')
  const b = await join(bench, 'errs', { handlers: { findInstancesRequest: answering({ error: 'TargetAppUnavailable' }) } })
  const answer = await a.ask('findInstancesRequest', { app: { appId: 'bench-app' } })
  assert.equal(failures(answer)[b.name], 'TargetAppUnavailable')
  if (answer.meta.sources?.length) throw new Skip('another agent of this bridge has answered')
  assert.ok(answer.meta.errorDetails.includes(answer.payload.error))
})

forwarding('an agent that is alone finds nothing, which is no error', async (bench) => {
  const a = await join(bench, 'alone')
  if (a.update.payload.allAgents.length > 1) throw new Skip('other agents are connected to this bridge')
  for (const [type, payload, expected] of [
    ['findIntentRequest', { intent: 'BenchIntent' }, { appIntent: { intent: { name: 'BenchIntent' }, apps: [] } }],
    ['findIntentsByContextRequest', { context: instrument('X') }, { appIntents: [] }],
    ['findInstancesRequest', { app: { appId: 'bench-app' } }, { appIdentifiers: [] }],
  ]) assert.deepEqual((await a.ask(type, payload)).payload, expected)
})

forwarding('a request with a destination goes there only', async (bench) => {
  const a = await join(bench, 'asks')
  const b = await join(bench, 'target', { handlers: { findInstancesRequest: instances('one') } })
  const c = await join(bench, 'other')
  const answer = await a.ask('findInstancesRequest', { app: app(b) }, to(b))
  assert.deepEqual(answer.payload, { appIdentifiers: [{ appId: 'bench-app', instanceId: 'one', desktopAgent: b.name }] })
  assert.deepEqual(names(answer.meta.sources), [b.name])
  await c.settled()
  assert.equal(c.all('findInstancesRequest').length, 0)
})

single('getAppMetadata is passed through', async (bench) => {
  const a = await join(bench, 'asks')
  const b = await join(bench, 'target', { handlers: { getAppMetadataRequest: answering({ appMetadata: { appId: 'bench-app', title: 'Bench' } }) } })
  const answer = await a.ask('getAppMetadataRequest', { app: app(b) }, to(b))
  assert.deepEqual(answer.payload, { appMetadata: { appId: 'bench-app', title: 'Bench', desktopAgent: b.name } })
})

const opening = { openRequest: answering({ appIdentifier: { appId: 'bench-app', instanceId: 'new' } }) }

single('open is passed through, and marked with where the app is', async (bench) => {
  const [a, b] = [await join(bench, 'asks'), await join(bench, 'target', { handlers: opening })]
  const answer = await a.ask('openRequest', { app: app(b), context: instrument('X') }, to(b))
  assert.deepEqual(answer.payload, { appIdentifier: { appId: 'bench-app', instanceId: 'new', desktopAgent: b.name } })
  assert.deepEqual(b.all('openRequest')[0].payload.context, instrument('X'))
})

tolerance('open without a destination goes where its app is', async (bench) => {
  const [a, b] = [await join(bench, 'asks'), await join(bench, 'target', { handlers: opening })]
  const answer = await a.ask('openRequest', { app: app(b) })
  assert.equal(answer.payload.appIdentifier?.desktopAgent, b.name)
})

robust('an app may take 3 s to start', async (bench) => {
  const slow = { openRequest: (request, agent) => setTimeout(() => opening.openRequest(request, agent), 3000) }
  const [a, b] = [await join(bench, 'asks'), await join(bench, 'slow', { handlers: slow })]
  const answer = await a.ask('openRequest', { app: app(b) }, to(b))
  assert.equal(answer.payload.appIdentifier?.instanceId, 'new', JSON.stringify(answer.payload))
})

single('the error of the one agent asked is passed on', async (bench) => {
  const a = await join(bench, 'asks')
  const b = await join(bench, 'errs', { handlers: { openRequest: answering({ error: 'AppNotFound' }) } })
  const answer = await a.ask('openRequest', { app: app(b) }, to(b))
  assert.equal(answer.payload.error, 'AppNotFound')
  assert.deepEqual(failures(answer), { [b.name]: 'AppNotFound' })
})

single('nobody of that name is an error', async (bench) => {
  const a = await join(bench, 'asks')
  const answer = await a.ask('openRequest', { app: { appId: 'bench-app', desktopAgent: 'nobody' } }, { destination: { desktopAgent: 'nobody' } })
  assert.equal(answer.payload.error, 'DesktopAgentNotFound')
})

const resolution = { intentResolution: { intent: 'BenchIntent', source: { appId: 'bench-app', instanceId: 'i' } } }
const raise = (agent) => ({ intent: 'BenchIntent', context: instrument('X'), app: app(agent) })
const resultFor = (requestUuid) => (message) => message.type === 'raiseIntentResultResponse' && message.meta.requestUuid === requestUuid

single('an intent is resolved, and its result follows', async (bench) => {
  for (const payload of [{ intentResult: { context: { ...instrument('R'), appId: 'kept' } } }, { intentResult: { channel: { id: 'c', type: 'private' } } }, {}]) {
    const handlers = {
      raiseIntentRequest: (request, agent) => {
        agent.answer(request, resolution)
        agent.answer(request, payload, 'raiseIntentResultResponse')
      },
    }
    const [a, b] = [await join(bench, 'raises'), await join(bench, 'handles', { handlers })]
    const requestUuid = a.send('raiseIntentRequest', raise(b), to(b))
    const answer = await a.answerTo(requestUuid)
    assert.deepEqual(answer.payload.intentResolution.source, { appId: 'bench-app', instanceId: 'i', desktopAgent: b.name })
    const result = await a.got(resultFor(requestUuid), 'the result')
    assert.deepEqual(result.payload, payload)
    assert.deepEqual(names(result.meta.sources), [b.name])
    assert.ok(a.log.indexOf(answer) < a.log.indexOf(result), 'the result comes behind the resolution')
  }
})

single('an intent handler that fails is an error of its agent', async (bench) => {
  const handlers = {
    raiseIntentRequest: (request, agent) => {
      agent.answer(request, resolution)
      agent.answer(request, { error: 'IntentHandlerRejected' }, 'raiseIntentResultResponse')
    },
  }
  const [a, b] = [await join(bench, 'raises'), await join(bench, 'rejects', { handlers })]
  const requestUuid = a.send('raiseIntentRequest', raise(b), to(b))
  const result = await a.got(resultFor(requestUuid), 'the result')
  assert.equal(result.payload.error, 'IntentHandlerRejected')
  assert.deepEqual(failures(result), { [b.name]: 'IntentHandlerRejected' })
})

broken('an agent that leaves is not waited for', async (bench) => {
  const a = await join(bench, 'asks')
  const b = await join(bench, 'answers', { handlers: { findInstancesRequest: instances('one') } })
  const c = await join(bench, 'leaves', { handlers: { findInstancesRequest: (_, agent) => agent.cut() } })
  const answer = await a.ask('findInstancesRequest', { app: { appId: 'bench-app' } })
  assert.ok(names(answer.meta.sources).includes(b.name))
  assert.equal(failures(answer)[c.name], 'AgentDisconnected')
})

broken('answers, an error, silence and one that leaves midway are told apart', async (bench) => {
  const a = await join(bench, 'asks')
  const found = answering({ appIntent: { intent: { name: 'BenchIntent' }, apps: [{ appId: 'bench-app' }] } })
  const b = await join(bench, 'answers', { handlers: { findIntentRequest: found } })
  const c = await join(bench, 'errs', { handlers: { findIntentRequest: noApps } })
  const d = await join(bench, 'silent')
  const e = await join(bench, 'leaves', { handlers: { findIntentRequest: (_, agent) => setTimeout(() => agent.cut(), 300) } })
  const started = Date.now()
  const answer = await a.ask('findIntentRequest', { intent: 'BenchIntent' })
  bench.note(`${Date.now() - started} ms with a silent agent`)
  assert.deepEqual(answer.payload.appIntent.apps.filter((one) => one.desktopAgent === b.name), [app(b)])
  assert.ok(names(answer.meta.sources).includes(b.name))
  const failed = failures(answer)
  assert.deepEqual([c, d, e].map(({ name }) => failed[name]), ['NoAppsFound', 'ResponseToBridgeTimedOut', 'AgentDisconnected'])
  // Of whoever is asked alone it is told at once, and not when its time is up.
  const f = await join(bench, 'leaves', { handlers: { findInstancesRequest: (_, agent) => agent.cut() } })
  const alone = await a.ask('findInstancesRequest', { app: app(f) }, to(f))
  assert.equal(alone.payload.error, 'AgentDisconnected')
})

broken('an agent that leaves fails what only it could answer', async (bench) => {
  const a = await join(bench, 'asks')
  const b = await join(bench, 'leaves', { handlers: { raiseIntentRequest: (_, agent) => agent.cut() } })
  const answer = await a.ask('raiseIntentRequest', raise(b), to(b))
  assert.equal(answer.payload.error, 'AgentDisconnected')
  assert.deepEqual(failures(answer), { [b.name]: 'AgentDisconnected' })
})

robust('a handler whose agent leaves owes its result to nobody', async (bench) => {
  const a = await join(bench, 'raises')
  const b = await join(bench, 'leaves', { handlers: { raiseIntentRequest: answering(resolution) } })
  const requestUuid = a.send('raiseIntentRequest', raise(b), to(b))
  await a.answerTo(requestUuid)
  b.cut()
  const result = await a.got(resultFor(requestUuid), 'an error in place of the result')
  assert.equal(result.payload.error, 'AgentDisconnected')
})

malformed('a malformed request is answered', async (bench) => {
  const a = await join(bench, 'garbles')
  for (const [type, payload, answerType] of [
    ['broadcastRequest', { channelId: 'c', context: {} }, 'broadcastRequest'], ['findIntentRequest', {}, 'findIntentResponse'],
    ['raiseIntentRequest', { intent: 'BenchIntent' }, 'raiseIntentResponse'],
  ]) {
    const answer = await a.ask(type, payload)
    assert.equal(answer.payload.error, 'MalformedMessage')
    assert.equal(answer.type, answerType)
  }
})

malformed('a malformed answer is an error of who sent it', async (bench) => {
  const a = await join(bench, 'asks')
  const b = await join(bench, 'garbles', { handlers: { findInstancesRequest: answering({ appIdentifiers: 'none' }) } })
  const answer = await a.ask('findInstancesRequest', { app: app(b) }, to(b))
  assert.equal(failures(answer)[b.name], 'MalformedMessage')
  await b.got((m) => m.payload.error === 'MalformedMessage')
})

malformed('what has no requestUuid, and what is no JSON, is dropped', async (bench) => {
  const [a, b] = [await join(bench, 'garbles'), await join(bench, 'beside')]
  a.socket.text('{"type":"broadcastRequest","payload":{"channelId":"c","context":{"type":"bench.dropped"}},"meta":{"timestamp":"t"}}')
  a.socket.text('{"type":"findIntentRequest"')
  a.socket.text('')
  await a.settled()
  await b.settled()
  assert.equal(b.all('broadcastRequest').length, 0)
})

robust('a request of a type that does not exist is answered', async (bench) => {
  const a = await join(bench, 'invents')
  const answer = await a.ask('getUserChannelsRequest', {})
  assert.equal(answer.payload.error, 'MalformedMessage')
})

identity('an answer counts only from who was asked, and once', async (bench) => {
  const [a, c] = [await join(bench, 'asks'), await join(bench, 'not-asked')]
  const handlers = {
    findInstancesRequest: async (request, agent) => {
      c.answer(request, { appIdentifiers: [{ appId: 'forged' }] })
      await c.settled()
      agent.answer(request, { appIdentifiers: [{ appId: 'real' }] })
      agent.answer(request, { appIdentifiers: [{ appId: 'again' }] })
    },
  }
  const b = await join(bench, 'asked', { handlers })
  const answer = await a.ask('findInstancesRequest', { app: app(b) }, to(b))
  assert.deepEqual(answer.payload.appIdentifiers, [{ appId: 'real', desktopAgent: b.name }])
  await b.settled()
  await a.settled()
  assert.equal(a.all('findInstancesResponse').length, 1)
})

forwarding('an answer that comes too late is dropped', async (bench) => {
  const a = await join(bench, 'asks')
  const b = await join(bench, 'late')
  const answer = await a.ask('findInstancesRequest', { app: app(b) }, to(b))
  assert.equal(answer.payload.error, 'ResponseToBridgeTimedOut')
  b.answer(b.all('findInstancesRequest')[0], { appIdentifiers: [] })
  await b.settled()
  await a.settled()
  assert.equal(a.all('findInstancesResponse').length, 1)
})

robust('an id that is in use by another agent is refused', async (bench) => {
  const [a, b, c] = [await join(bench, 'asks'), await join(bench, 'reuses'), await join(bench, 'asked')]
  const requestUuid = a.send('findInstancesRequest', { app: app(c) }, to(c))
  const request = await c.got((m) => m.meta.requestUuid === requestUuid)
  const refusal = await b.ask('findInstancesRequest', { app: app(c) }, { ...to(c), requestUuid })
  assert.equal(refusal.payload.error, 'MalformedMessage')
  c.answer(request, { appIdentifiers: [{ appId: 'bench-app' }] })
  const answer = await a.answerTo(requestUuid)
  assert.deepEqual(answer.payload.appIdentifiers, [app(c)])
  await b.settled()
  assert.equal(b.log.filter((m) => m.meta.requestUuid === requestUuid).length, 1, 'the answer is not for who reused the id')
})

tolerance('null stands for absent, and times may have an offset', async (bench) => {
  const channelId = unique('channel')
  const nulls = { habit: HABITS.nulls, channelsState: { [channelId]: null } }
  const a = await join(bench, 'nulls', nulls)
  const b = await join(bench, 'nulls', { ...nulls, handlers: { findInstancesRequest: instances(null), openRequest: opening.openRequest } })
  const answer = await a.ask('findInstancesRequest', { app: app(b, { instanceId: null }) }, to(b))
  assert.equal(answer.payload.appIdentifiers?.[0]?.desktopAgent, b.name, JSON.stringify(answer))
  const opened = await a.ask('openRequest', { app: app(b, { instanceId: null }), context: null }, to(b))
  assert.equal(opened.payload.appIdentifier?.desktopAgent, b.name, JSON.stringify(opened))
  const request = b.all('findInstancesRequest')[0]
  for (const member of ['responseUuid', 'destination', 'source']) assert.notEqual(request.meta[member], null, `meta.${member} is passed on as null`)
})

tolerance('entries of channelsState that are no contexts do no harm', async (bench) => {
  const channelId = unique('channel')
  const a = await join(bench, 'typeless', { channelsState: { [channelId]: [{ desktopAgent: 'x', instanceUuid: 'u' }, instrument('A')] } })
  assert.deepEqual(a.update.payload.channelsState[channelId], [instrument('A')])
})

tolerance('a handshake without channelsState is enough', async (bench) => {
  const agent = bench.keep(await Agent.connect(bench.url))
  const requestedName = unique('stateless')
  await agent.handshake({ requestedName, implementationMetadata: implementationMetadata('stateless') })
  assert.equal(agent.name, requestedName)
})

const PRIVATE = ['broadcast', 'eventListenerAdded', 'eventListenerRemoved', 'onAddContextListener', 'onUnsubscribe', 'onDisconnect']

privateChannels('messages of private channels go to the one agent named', async (bench) => {
  const [a, b, c] = [await join(bench, 'sends'), await join(bench, 'receives'), await join(bench, 'other')]
  for (const word of PRIVATE) {
    const type = `PrivateChannel.${word}`
    const payload = {
      channelId: 'private-channel', ...(word === 'broadcast' && { context: instrument('P') }),
      ...(word.startsWith('event') && { listenerType: 'onUnsubscribe' }), ...(/AddContext|Unsubscribe/.test(word) && { contextType: null }),
    }
    a.send(type, payload, { source: { appId: 'app', instanceId: 'i' }, destination: { appId: 'bench-app', instanceId: 'j', desktopAgent: b.name } })
    const message = await b.got((m) => m.type === type, type)
    assert.deepEqual(message.payload, payload)
    assert.deepEqual(message.meta.source, { appId: 'app', instanceId: 'i', desktopAgent: a.name })
    assert.equal(message.meta.destination.instanceId, 'j')
  }
  await c.settled()
  for (const word of PRIVATE) assert.equal(c.all(`PrivateChannel.${word}`).length, 0)
})

privateChannels('broadcasts on a private channel keep their order, and are no state', async (bench) => {
  const [a, b] = [await join(bench, 'sends'), await join(bench, 'receives')]
  const channelId = unique('private')
  for (let n = 0; n < 1000; n += 1) a.send('PrivateChannel.broadcast', { channelId, context: { type: 'bench.n', n } }, to(b))
  await b.got((m) => m.payload.context?.n === 999)
  assert.deepEqual(b.all('PrivateChannel.broadcast').map(({ payload }) => payload.context.n), [...Array(1000).keys()])
  const late = await join(bench, 'late')
  assert.equal(late.update.payload.channelsState[channelId], undefined)
})

robust('a page of another site is refused', async (bench) => {
  await assert.rejects(async () => bench.keep(await Agent.connect(bench.url, { origin: 'https://evil.example' })))
})

robust('an agent that does not read holds nobody up', async (bench) => {
  const [a, b] = [await join(bench, 'sends'), await join(bench, 'reads')]
  const deaf = await join(bench, 'deaf')
  deaf.socket.pause()
  const context = { type: 'bench.large', text: 'x'.repeat(100_000) }
  const channelId = unique('channel')
  for (let n = 0; n < 100; n += 1) a.send('broadcastRequest', { channelId, context: { ...context, n } })
  await b.got((m) => m.payload.context?.n === 99)
  await pause(0)
  await a.settled()
})

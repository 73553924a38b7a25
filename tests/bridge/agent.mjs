// A desktop agent that has no apps but those a check gives it.

import { randomUUID } from 'node:crypto'
import { makeToken } from './token.mjs'
import { open } from './websocket.mjs'

/** How long anything that must come is waited for. */
export let patienceMs = 5000
export const setPatience = (ms) => { patienceMs = ms }

/** The secret of the bridge, if it has one. */
let secret
export const setSecret = (text) => { secret = text }

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** How agents write their messages. */
export const HABITS = {
  /** As the standard shows them. */
  plain: { wrap: (message) => message, time: () => new Date().toISOString(), named: (agent, update) => update.meta.requestUuid === agent.handshakeUuid },
  /** `null` for whatever is absent, and times with microseconds and an offset, as models of other languages print them. */
  nulls: {
    wrap: (message) => ({
      ...message, payload: { ...message.payload, error: message.payload.error ?? null },
      meta: { responseUuid: null, source: null, destination: null, ...message.meta },
    }),
    time: () => `${new Date().toISOString().slice(0, -1)}123+00:00`,
    named: (agent, update) => update.meta.requestUuid === agent.handshakeUuid,
  },
  /** Takes any `addAgent` for its own name, and so goes by the name of whoever joined last. */
  renames: { wrap: (message) => message, time: () => new Date().toISOString(), named: () => true },
}

export const implementationMetadata = (provider) => ({
  fdc3Version: '2.2', provider, providerVersion: '1.0',
  optionalFeatures: { OriginatingAppMetadata: true, UserChannelMembershipAPIs: true, DesktopAgentBridging: true },
})

export class Agent {
  log = []
  /** What each message was before it was parsed. */
  texts = new Map()
  waiting = []
  closed = undefined
  handlers = {}
  habit = HABITS.plain

  /** Connects, and reads `hello`. */
  static async connect(url, { origin, habit = HABITS.plain } = {}) {
    const agent = new Agent()
    agent.habit = habit
    agent.socket = await open(url, { origin, onText: (text) => agent.#received(text), onClose: (close) => agent.#ended(close) })
    agent.hello = await agent.got((message) => message.type === 'hello', 'hello')
    return agent
  }

  /** Connects and joins. */
  static async join(url, requestedName, { channelsState = {}, handlers = {}, provider = requestedName, authToken, ...options } = {}) {
    const agent = await Agent.connect(url, options)
    agent.handlers = handlers
    await agent.handshake({ requestedName, channelsState, implementationMetadata: implementationMetadata(provider), ...(authToken && { authToken }) })
    return agent
  }

  async handshake(payload) {
    this.handshakeUuid = randomUUID()
    const shown = secret === undefined ? {} : { authToken: makeToken(secret, 'desktop-agent-bridge') }
    this.send('handshake', { ...shown, ...payload }, { requestUuid: this.handshakeUuid })
    this.update = await this.got(
      (message) => message.type === 'connectedAgentsUpdate' && message.meta.requestUuid === this.handshakeUuid, 'the update for its handshake')
    this.name = this.update.payload.addAgent
  }

  /** Sends a message, and returns its requestUuid. */
  send(type, payload, meta = {}) {
    const message = { type, payload, meta: { requestUuid: randomUUID(), timestamp: this.habit.time(), ...meta } }
    this.socket.text(JSON.stringify(this.habit.wrap(message)))
    return message.meta.requestUuid
  }

  answer(request, payload, type = request.type.replace(/Request$/, 'Response')) {
    this.send(type, payload, { requestUuid: request.meta.requestUuid, responseUuid: randomUUID() })
  }

  /** Sends a request, and returns the answer to it. */
  async ask(type, payload, meta) {
    const requestUuid = this.send(type, payload, meta)
    return this.answerTo(requestUuid)
  }

  answerTo(requestUuid) {
    const isAnswer = (message) => message.meta.requestUuid === requestUuid && message.meta.responseUuid && message.type !== 'raiseIntentResultResponse'
    return this.got(isAnswer, `an answer to ${requestUuid}`)
  }

  /** Returns the first message that matches, now or soon. */
  got(matches, what = String(matches)) {
    const found = this.log.find(matches)
    if (found) return Promise.resolve(found)
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${this.name ?? 'an agent'} waited ${patienceMs} ms for ${what}; it got ${this.log.map((m) => m.type).join(', ')}`)), patienceMs)
      this.waiting.push({ matches, resolve: (message) => { clearTimeout(timer); resolve(message) } })
    })
  }

  /** Messages of that type so far. */
  all = (type) => this.log.filter((message) => message.type === type)

  /** Waits until everything that was sent to the bridge has been dealt with: it answers in order. */
  async settled() {
    await this.ask('getAppMetadataRequest', { app: { appId: 'nobody', desktopAgent: 'nobody at all' } }, { destination: { desktopAgent: 'nobody at all' } })
  }

  /** Returns how the connection was closed, now or soon. */
  async end() {
    const deadline = Date.now() + patienceMs
    while (!this.closed && Date.now() < deadline) await pause(10)
    if (!this.closed) throw new Error(`the connection is still open after ${patienceMs} ms`)
    return this.closed
  }

  leave() { this.socket.close() }

  cut() { this.socket.cut() }

  #received(text) {
    const message = JSON.parse(text)
    this.texts.set(message, text)
    this.log.push(message)
    this.waiting = this.waiting.filter(({ matches, resolve }) => !matches(message) || (resolve(message), false))
    if (message.type === 'connectedAgentsUpdate' && message.payload.addAgent && this.habit.named(this, message)) this.believedName = message.payload.addAgent
    const handler = this.handlers[message.type]
    if (handler && !message.meta.responseUuid) handler(message, this)
  }

  #ended(close) { this.closed = close }
}

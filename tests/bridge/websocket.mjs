// A WebSocket client (RFC 6455) that does what it is told: any Origin, frames as they are, an end without goodbye.
// Text messages of a server, and nothing a test of bridges does not need.

import { createHash, randomBytes } from 'node:crypto'
import { connect } from 'node:net'

/** Opens a socket, or fails with what the server said instead. */
export function open(url, { origin, onText, onClose } = {}) {
  const { hostname, port, pathname } = new URL(url)
  const key = randomBytes(16).toString('base64')
  const socket = connect({ host: hostname.replace(/^\[|\]$/g, ''), port: Number(port) })
  socket.setNoDelay(true)
  const head = [
    `GET ${pathname || '/'} HTTP/1.1`, `Host: ${hostname}:${port}`, 'Connection: Upgrade', 'Upgrade: websocket',
    'Sec-WebSocket-Version: 13', `Sec-WebSocket-Key: ${key}`, ...(origin ? [`Origin: ${origin}`] : []),
  ]
  const expected = createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
  return new Promise((resolve, reject) => {
    let buffer = Buffer.alloc(0)
    let fragments = []
    let isOpen = false
    let close = { code: 1006, reason: '' }
    const client = {
      text: (text) => socket.write(frame(1, Buffer.from(text))),
      close: () => socket.end(frame(8, Buffer.from([0x03, 0xe8]))),
      cut: () => socket.destroy(),
      pause: () => socket.pause(),
    }
    socket.on('connect', () => socket.write(`${head.join('\r\n')}\r\n\r\n`))
    socket.on('error', (error) => reject(error))
    socket.on('close', () => {
      reject(new Error('the connection was closed'))
      if (isOpen) onClose?.(close)
    })
    socket.on('data', (data) => {
      buffer = Buffer.concat([buffer, data])
      if (!isOpen) {
        const end = buffer.indexOf('\r\n\r\n')
        if (end < 0) return
        const answer = buffer.subarray(0, end).toString('latin1')
        buffer = buffer.subarray(end + 4)
        if (!answer.startsWith('HTTP/1.1 101') || !answer.includes(expected)) {
          reject(new Error(answer.split('\r\n')[0]))
          socket.destroy()
          return
        }
        isOpen = true
        resolve(client)
      }
      for (let read = take(buffer); read; read = take(buffer)) {
        buffer = read.rest
        if (read.opcode === 9) socket.write(frame(10, read.payload))
        else if (read.opcode === 8) {
          if (read.payload.length >= 2) close = { code: read.payload.readUInt16BE(0), reason: read.payload.subarray(2).toString() }
          socket.end(frame(8, read.payload.subarray(0, 2)))
        } else if (read.opcode <= 2) {
          fragments.push(read.payload)
          if (!read.fin) continue
          const text = Buffer.concat(fragments).toString()
          fragments = []
          // A turn for each: what a message starts may need a moment before the next one.
          setImmediate(() => onText?.(text))
        }
      }
    })
  })
}

/** A frame of a client is masked. */
function frame(opcode, payload) {
  const mask = randomBytes(4)
  const length = payload.length
  let head
  if (length < 126) head = Buffer.from([0x80 | opcode, 0x80 | length])
  else if (length < 65536) {
    head = Buffer.from([0x80 | opcode, 0x80 | 126, 0, 0])
    head.writeUInt16BE(length, 2)
  } else {
    head = Buffer.from([0x80 | opcode, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 0])
    head.writeBigUInt64BE(BigInt(length), 2)
  }
  const masked = Buffer.from(payload.map((byte, at) => byte ^ mask[at % 4]))
  return Buffer.concat([head, mask, masked])
}

/** Takes a whole frame off the front, if there is one. */
function take(buffer) {
  if (buffer.length < 2) return undefined
  const [first, second] = buffer
  let at = 2
  let length = second & 0x7f
  if (length === 126) {
    if (buffer.length < 4) return undefined
    length = buffer.readUInt16BE(2)
    at = 4
  } else if (length === 127) {
    if (buffer.length < 10) return undefined
    length = Number(buffer.readBigUInt64BE(2))
    at = 10
  }
  if (buffer.length < at + length) return undefined
  return {
    fin: (first & 0x80) !== 0, opcode: first & 0x0f, payload: buffer.subarray(at, at + length), rest: buffer.subarray(at + length),
  }
}

//! WebSocket frames as bytes (RFC 6455, section 5), for the load generator and the floors.
//!
//! Written by hand so that neither costs more than the protocol asks for: a frame is parsed where it lies
//! in the read buffer, unmasked in place, and written behind other frames into one buffer. Fragments are
//! refused; none of the servers measured here sends them.

use anyhow::{Result, bail};

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// UTF-8 text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// The sender goes away.
    Close = 8,
    /// Asks for a pong with the same payload.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

/// One frame, payload already unmasked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// What the payload is.
    pub(crate) opcode: Opcode,
    /// The payload, borrowed from the read buffer.
    pub(crate) payload: &'a [u8],
    /// How many bytes of the buffer the frame took, header included.
    pub(crate) frame_len: usize,
}

/// Appends a frame as a server sends it: without a mask.
pub(crate) fn push(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    push_header(out, opcode, payload.len(), 0);
    out.extend_from_slice(payload);
}

/// Appends a frame as a client sends it: masked with `key`.
pub(crate) fn push_masked(out: &mut Vec<u8>, opcode: Opcode, key: [u8; 4], payload: &[u8]) {
    push_header(out, opcode, payload.len(), MASKED);
    out.extend_from_slice(&key);
    let start = out.len();
    out.extend_from_slice(payload);
    mask(&mut out[start..], key);
}

/// Takes the first frame of `buffer`, or `None` while it is incomplete.
pub(crate) fn parse(buffer: &mut [u8]) -> Result<Option<Frame<'_>>> {
    let [first, second, ..] = *buffer else { return Ok(None) };
    let opcode = match first {
        0x81 => Opcode::Text,
        0x82 => Opcode::Binary,
        0x88 => Opcode::Close,
        0x89 => Opcode::Ping,
        0x8a => Opcode::Pong,
        _ => {
            bail!("a frame begins with {first:#04x}, which this bench does not read (fragment or extension)")
        }
    };
    let (payload_len, mut at) = match second & !MASKED {
        126 => match buffer.get(2..4) {
            Some(bytes) => (u64::from(u16::from_be_bytes([bytes[0], bytes[1]])), 4),
            None => return Ok(None),
        },
        127 => match buffer.get(2..10).and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => (u64::from_be_bytes(bytes), 10),
            None => return Ok(None),
        },
        short => (u64::from(short), 2),
    };
    let payload_len = usize::try_from(payload_len)?;
    if payload_len > PAYLOAD_BYTES_MAX {
        bail!("a frame of {payload_len} bytes; nothing measured here sends more than {PAYLOAD_BYTES_MAX}");
    }
    let key = if second & MASKED == 0 {
        None
    } else {
        let Some(key) = buffer.get(at..at + 4) else { return Ok(None) };
        let key = [key[0], key[1], key[2], key[3]];
        at += 4;
        Some(key)
    };
    let Some(payload) = buffer.get_mut(at..at + payload_len) else { return Ok(None) };
    if let Some(key) = key {
        mask(payload, key);
    }
    Ok(Some(Frame { opcode, payload, frame_len: at + payload_len }))
}

fn push_header(out: &mut Vec<u8>, opcode: Opcode, payload_len: usize, masked: u8) {
    out.push(FINAL | opcode as u8);
    if payload_len < 126 {
        out.push(masked | payload_len as u8);
    } else if let Ok(len) = u16::try_from(payload_len) {
        out.push(masked | 126);
        out.extend_from_slice(&len.to_be_bytes());
    } else {
        out.push(masked | 127);
        out.extend_from_slice(&(payload_len as u64).to_be_bytes());
    }
}

/// Applies the mask, eight bytes at a time.
fn mask(payload: &mut [u8], key: [u8; 4]) {
    let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        if let Ok(bytes) = <[u8; 8]>::try_from(&*chunk) {
            chunk.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ wide).to_ne_bytes());
        }
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// The longest payload accepted; `methods-added` of a busy gateway is the largest frame expected.
const PAYLOAD_BYTES_MAX: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(payload: &[u8]) {
        let mut buffer = Vec::new();
        push_masked(&mut buffer, Opcode::Text, [1, 2, 3, 250], payload);
        push(&mut buffer, Opcode::Binary, payload);
        for cut in 0..buffer.len().min(12) {
            assert_eq!(parse(&mut buffer.clone()[..cut]).unwrap(), None, "cut at {cut}");
        }
        let masked_len = {
            let frame = parse(&mut buffer).unwrap().unwrap();
            assert_eq!((frame.opcode, frame.payload), (Opcode::Text, payload));
            frame.frame_len
        };
        let frame = parse(&mut buffer[masked_len..]).unwrap().unwrap();
        assert_eq!((frame.opcode, frame.payload), (Opcode::Binary, payload));
    }

    #[test]
    fn a_frame_comes_back_as_it_was_sent() {
        for len in [9, 125, 126, 300, 70_000] {
            check(&(0..len).map(|n| n as u8).collect::<Vec<_>>());
        }
    }

    #[test]
    fn fragments_and_giants_are_refused() {
        assert!(parse(&mut [0x01, 0x00]).is_err());
        assert!(parse(&mut [0x82, 127, 0, 0, 1, 0, 0, 0, 0, 0]).is_err());
    }
}

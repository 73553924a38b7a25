//! NATS conversations: its text protocol in binary WebSocket frames, request and reply through an inbox.

use anyhow::{Result, bail};

use super::{
    Answer, Endpoints, Fanout, Inbox, Invoke, Marker, NUMBER, Numbered, PAYLOAD_BYTES, PAYLOAD_MARKER, Peer,
    SUBSCRIBERS, Wire, payload, plain_payload,
};
use crate::frame::{self, Opcode};
use crate::socket::{CLIENT_MASK, Socket};

pub(super) async fn invoke(endpoints: Endpoints, run: u32) -> Result<Invoke> {
    let callee = connect(endpoints.far, &format!("SUB svc.{run} 1\r\n")).await?;
    let caller = connect(endpoints.near, "SUB _INBOX.b.* 1\r\n").await?;
    let plain = plain_payload();
    Ok(Invoke {
        caller,
        callee,
        call: Numbered::new(format!("PUB svc.{run} _INBOX.b.{NUMBER} {PAYLOAD_BYTES}\r\n{plain}\r\n"))?,
        reply: Marker::new("_INBOX.b.", None),
        answer: Answer::Publish {
            tail: format!(" {PAYLOAD_BYTES}\r\n{plain}\r\n").into_bytes(),
            scratch: Vec::new(),
        },
    })
}

pub(super) async fn fanout(endpoints: Endpoints, run: u32) -> Result<Fanout> {
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        subscribers.push(connect(endpoints.far, &format!("SUB fan.{run} 1\r\n")).await?);
    }
    let publisher = connect(endpoints.near, "").await?;
    let message = format!("PUB fan.{run} {PAYLOAD_BYTES}\r\n{}\r\n", payload());
    Ok(Fanout {
        publisher,
        subscribers,
        message: Numbered::new(message)?,
        seen: Marker::new(PAYLOAD_MARKER, None),
    })
}

/// Logs in, subscribes, and waits until the server has taken note.
async fn connect(address: std::net::SocketAddr, subscribe: &str) -> Result<Peer> {
    let socket = Socket::connect(address, "/").await?;
    let mut peer = Peer::new(socket, Wire::Nats);
    let hello = format!(
        "CONNECT {{\"verbose\":false,\"pedantic\":false,\"lang\":\"bench\",\"version\":\"0\",\"protocol\":1}}\r\n\
         {subscribe}PING\r\n"
    );
    peer.outbox.push(hello.as_bytes());
    peer.outbox.flush().await?;
    wait_for_pong(&mut peer.inbox).await?;
    Ok(peer)
}

async fn wait_for_pong(inbox: &mut Inbox) -> Result<()> {
    loop {
        let fill = inbox.reader.batch(|payload| {
            inbox.text.extend_from_slice(payload);
            Ok(())
        });
        fill.await?;
        let pong = memchr::memmem::find(&inbox.text, b"PONG\r\n").is_some();
        let pings = split(&mut inbox.text, &mut |_| Ok(()))?;
        if pings > 0 {
            let mut out = Vec::new();
            frame::push_masked(&mut out, Opcode::Binary, CLIENT_MASK, b"PONG\r\n");
            inbox.writer.send(&out).await?;
        }
        if pong {
            return Ok(());
        }
    }
}

/// Hands every complete `MSG` in `text` to `each` and keeps the rest; returns how many pings await a pong.
pub(super) fn split(text: &mut Vec<u8>, each: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
    let mut at = 0;
    let mut pings = 0;
    while let Some(line_len) = memchr::memchr(b'\n', &text[at..]) {
        let line = &text[at..at + line_len + 1];
        if line.starts_with(b"MSG ") {
            let digits = line.trim_ascii_end().rsplit(|&byte| byte == b' ').next().unwrap_or_default();
            let payload_len = digits.iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
            let Some(message) = text.get(at..at + line.len() + payload_len + 2) else { break };
            each(message)?;
            at += message.len();
            continue;
        }
        if line.starts_with(b"PING") {
            pings += 1;
        } else if line.starts_with(b"-ERR") {
            bail!("NATS answered {}", String::from_utf8_lossy(line).trim());
        }
        at += line.len();
    }
    text.drain(..at);
    Ok(pings)
}

/// The reply subject in `MSG <subject> <sid> <reply> <len>`.
pub(super) fn reply_subject(message: &[u8]) -> Option<&[u8]> {
    let line = &message[..memchr::memchr(b'\r', message)?];
    let mut words = line.split(|&byte| byte == b' ').skip(3);
    let reply = words.next()?;
    words.next().map(|_| reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_at_their_length() {
        let mut text =
            b"INFO {}\r\nMSG a 1 r.1 3\r\nx\r\n\r\nPING\r\nMSG a 1 2\r\nhi\r\nMSG a 1 9\r\nha".to_vec();
        let mut seen = Vec::new();
        let pings = split(&mut text, &mut |message| {
            seen.push(reply_subject(message).map(<[u8]>::to_vec));
            Ok(())
        });
        assert_eq!(pings.unwrap(), 1);
        assert_eq!(seen, [Some(b"r.1".to_vec()), None]);
        assert_eq!(text, b"MSG a 1 9\r\nha");
        assert!(split(&mut b"-ERR 'no'\r\n".to_vec(), &mut |_| Ok(())).is_err());
    }
}

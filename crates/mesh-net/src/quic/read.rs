//! One incoming stream: which lane it is, and its frames.

use std::array;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use mesh_model::Lane;
use quinn::{ReadError, RecvStream};

use super::code::CloseCode;
use super::frame::{Assembler, FrameTooLarge};
use super::lane::{from_tag, index};
use super::link::Link;
use super::shared::Shared;

/// Reads a stream to its end, and hands on each frame as soon as it is whole.
pub(super) async fn read(shared: Arc<Shared>, link: Arc<Link>, stream: RecvStream) {
    let mut reader =
        Reader { shared: &shared, link: &link, held: 0, assembler: Assembler::new(link.frame_bytes_max) };
    if let Err(fault) = reader.read(stream).await {
        link.close(fault.code, &fault.reason);
    }
}

/// What the peer has done that the link does not survive.
struct Fault {
    code: CloseCode,
    reason: String,
}

struct Reader<'a> {
    shared: &'a Shared,
    link: &'a Link,
    assembler: Assembler,
    /// This stream's share of the link's `bulk_unfinished_bytes`.
    held: usize,
}

impl Reader<'_> {
    async fn read(&mut self, mut stream: RecvStream) -> Result<(), Fault> {
        let tag = match stream.read_chunk(1, true).await {
            Ok(Some(chunk)) => chunk.bytes.first().copied(),
            Ok(None) => None,
            Err(error) => return broken(error),
        };
        let lane = tag.and_then(from_tag).ok_or_else(|| bad_stream("stream of no lane"))?;
        if index(lane).is_some_and(|index| !self.link.is_first_stream_of(index)) {
            return Err(bad_stream(&format!("second stream of lane {lane:?}")));
        }
        let mut chunks: [Bytes; CHUNKS_MAX] = array::from_fn(|_| Bytes::new());
        loop {
            match stream.read_chunks(&mut chunks).await {
                Ok(Some(count)) => {
                    for chunk in &mut chunks[..count] {
                        self.take(lane, std::mem::take(chunk))?;
                    }
                }
                Ok(None) if lane == Lane::Bulk && self.assembler.is_between_frames() => return Ok(()),
                Ok(None) => return Err(bad_stream(&format!("lane {lane:?} ended"))),
                Err(error) => return broken(error),
            }
            // A peer that sends without pause must not keep others from running.
            tokio::task::coop::consume_budget().await;
        }
    }

    fn take(&mut self, lane: Lane, chunk: Bytes) -> Result<(), Fault> {
        let Self { shared, link, assembler, .. } = self;
        let hand_on = |frame| {
            // After a local close its user expects silence, but for `link_closed`.
            if !link.is_closing() {
                shared.events.link_frame(link.id, lane, frame);
            }
        };
        assembler.push(chunk, hand_on).map_err(|FrameTooLarge(bytes)| Fault {
            code: CloseCode::FRAME_TOO_LARGE,
            reason: format!(
                "frame of {bytes} bytes is over the limit frame_bytes_max of {}",
                link.frame_bytes_max
            ),
        })?;
        if lane == Lane::Bulk { self.account() } else { Ok(()) }
    }

    /// Keeps the sum over all bulk streams of the link. The ordered lanes are few, and each holds at
    /// most one frame; bulk streams are as many as the peer likes, up to quinn's limit.
    fn account(&mut self) -> Result<(), Fault> {
        let held = self.assembler.held();
        let sum = &self.link.bulk_unfinished_bytes;
        let others = sum.fetch_sub(self.held, Ordering::Relaxed) - self.held;
        sum.fetch_add(held, Ordering::Relaxed);
        self.held = held;
        if others + held > self.link.bulk_unfinished_bytes_max {
            let reason = format!(
                "unfinished bulk frames of {} bytes (limit bulk_unfinished_bytes_max of {})",
                others + held,
                self.link.bulk_unfinished_bytes_max
            );
            return Err(Fault { code: CloseCode::OVERLOADED, reason });
        }
        Ok(())
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.link.bulk_unfinished_bytes.fetch_sub(self.held, Ordering::Relaxed);
    }
}

/// The end of the connection is told by the link's own task; a stream must not end before.
fn broken(error: ReadError) -> Result<(), Fault> {
    match error {
        ReadError::ConnectionLost(_) => Ok(()),
        _ => Err(bad_stream("stream was reset")),
    }
}

fn bad_stream(reason: &str) -> Fault {
    Fault { code: CloseCode::BAD_STREAM, reason: reason.to_owned() }
}

/// How many chunks, of about a datagram each, are taken from quinn at once.
const CHUNKS_MAX: usize = 32;

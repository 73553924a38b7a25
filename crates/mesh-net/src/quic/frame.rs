//! Frames to bytes and back.
//!
//! Going out, small frames are copied together into segments, and large ones are passed on in
//! slices: quinn searches its unacknowledged segments one by one, so ten thousand tiny ones would
//! cost more than copying them. Coming in, a frame that lies in one chunk is a slice of it.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of a stream that wait to be written.
#[derive(Debug, Default)]
pub(super) struct SegmentQueue {
    ready: VecDeque<Bytes>,
    /// The segment that further small frames are added to. It follows `ready`.
    tail: BytesMut,
    bytes: usize,
}

impl SegmentQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Adds a frame; its length has been checked against a limit below 4 GiB.
    pub(super) fn push(&mut self, mut frame: Bytes) {
        self.bytes += framed_len(&frame);
        let copied = if frame.len() <= COPIED_BYTES_MAX { frame.len() } else { 0 };
        if self.tail.capacity() - self.tail.len() < HEADER_BYTES + copied {
            self.flush_tail();
            self.tail = BytesMut::with_capacity(TAIL_BYTES.max(HEADER_BYTES + copied));
        }
        self.tail.put_u32_le(u32::try_from(frame.len()).expect("checked against a limit"));
        if copied > 0 || frame.is_empty() {
            self.tail.extend_from_slice(&frame);
            return;
        }
        self.flush_tail();
        while !frame.is_empty() {
            self.ready.push_back(frame.split_to(frame.len().min(SEGMENT_BYTES_MAX)));
        }
    }

    /// Adds a byte that belongs to no frame: the name of the lane.
    pub(super) fn push_byte(&mut self, byte: u8) {
        self.bytes += 1;
        self.tail.put_u8(byte);
    }

    /// Returns what can be written together now. A writer takes from the front of each segment, and
    /// then calls [`wrote`](Self::wrote).
    pub(super) fn front(&mut self) -> &mut [Bytes] {
        if self.ready.len() < BATCH_SEGMENTS_MAX {
            self.flush_tail();
        }
        let count = self.ready.len().min(BATCH_SEGMENTS_MAX);
        &mut self.ready.make_contiguous()[..count]
    }

    pub(super) fn wrote(&mut self, segments: usize, bytes: usize) {
        self.ready.drain(..segments);
        self.bytes -= bytes;
    }

    fn flush_tail(&mut self) {
        if !self.tail.is_empty() {
            self.ready.push_back(self.tail.split().freeze());
        }
    }
}

/// Returns how many bytes of a stream a frame takes.
pub(super) fn framed_len(frame: &Bytes) -> usize {
    frame.len() + HEADER_BYTES
}

/// Makes frames of the chunks of one stream.
#[derive(Debug)]
pub(super) struct Assembler {
    frame_bytes_max: usize,
    header: [u8; HEADER_BYTES],
    header_len: usize,
    /// Bytes that the body still lacks; 0 between frames.
    missing: usize,
    /// What came of a body that did not lie in one chunk. It grows with what has arrived: the
    /// announced length is only a stranger's word.
    body: BytesMut,
}

/// A peer announced a frame that is not welcome.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrameTooLarge(pub(super) usize);

impl Assembler {
    pub(super) fn new(frame_bytes_max: usize) -> Self {
        Self { frame_bytes_max, header: [0; 4], header_len: 0, missing: 0, body: BytesMut::new() }
    }

    /// Takes a chunk and hands out the frames it completes.
    pub(super) fn push(
        &mut self,
        mut chunk: Bytes,
        mut frame: impl FnMut(Bytes),
    ) -> Result<(), FrameTooLarge> {
        while !chunk.is_empty() {
            if self.missing == 0 {
                if !self.take_header(&mut chunk)? {
                    return Ok(());
                }
                if self.missing == 0 {
                    frame(Bytes::new());
                    continue;
                }
            }
            if self.body.is_empty() && chunk.len() >= self.missing {
                frame(chunk.split_to(std::mem::take(&mut self.missing)));
                continue;
            }
            let part = chunk.split_to(chunk.len().min(self.missing));
            self.body.extend_from_slice(&part);
            self.missing -= part.len();
            if self.missing == 0 && !self.body.is_empty() {
                frame(std::mem::take(&mut self.body).freeze());
            }
        }
        Ok(())
    }

    /// Returns whether the header is whole; `missing` is then the length of the body.
    fn take_header(&mut self, chunk: &mut Bytes) -> Result<bool, FrameTooLarge> {
        let part = chunk.split_to(chunk.len().min(HEADER_BYTES - self.header_len));
        self.header[self.header_len..][..part.len()].copy_from_slice(&part);
        self.header_len += part.len();
        if self.header_len < HEADER_BYTES {
            return Ok(false);
        }
        self.header_len = 0;
        let announced = u32::from_le_bytes(self.header) as usize;
        if announced > self.frame_bytes_max {
            return Err(FrameTooLarge(announced));
        }
        self.missing = announced;
        Ok(true)
    }

    /// Returns how many bytes of an unfinished body are held.
    pub(super) fn held(&self) -> usize {
        self.body.len()
    }

    pub(super) fn is_between_frames(&self) -> bool {
        self.missing == 0 && self.header_len == 0
    }
}

const HEADER_BYTES: usize = 4;
/// Frames up to this size are copied into a segment with others.
const COPIED_BYTES_MAX: usize = 4 << 10;
const TAIL_BYTES: usize = 8 << 10;
/// quinn frees memory by the segment, so that a large frame is not held until its last byte is acknowledged.
const SEGMENT_BYTES_MAX: usize = 64 << 10;
const BATCH_SEGMENTS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn body(length: usize) -> Bytes {
        (0..length).map(|n| (n % 251) as u8).collect()
    }

    #[test]
    fn frames_survive_any_cut() {
        let frames: Vec<Bytes> =
            [0, 1, 3, 4_096, 4_097, 0, 200_000, 5, 70_000, 8_188, 8_189].map(body).to_vec();
        let mut queue = SegmentQueue::default();
        frames.iter().for_each(|frame| queue.push(frame.clone()));
        let mut stream = Vec::new();
        while !queue.is_empty() {
            // A writer that takes one segment and half of the next.
            let front = queue.front();
            let mut bytes = front[0].len();
            stream.extend_from_slice(&front[0]);
            if let Some(next) = front.get_mut(1) {
                let half = next.split_to(next.len() / 2);
                bytes += half.len();
                stream.extend_from_slice(&half);
            }
            queue.wrote(1, bytes);
        }
        assert_eq!(stream.len(), frames.iter().map(framed_len).sum::<usize>());
        for step in [1, 2, 3, 5, 1_000, 1 << 20] {
            let mut assembler = Assembler::new(200_000);
            let mut received = Vec::new();
            for chunk in stream.chunks(step) {
                assembler.push(Bytes::copy_from_slice(chunk), |frame| received.push(frame)).unwrap();
            }
            assert!(assembler.is_between_frames());
            assert_eq!(received, frames, "{step}");
        }
    }

    #[test]
    fn small_frames_share_segments() {
        let mut queue = SegmentQueue::default();
        (0..1_000).for_each(|_| queue.push(body(100)));
        let segments = queue.ready.len() + 1;
        assert!(segments < 16, "{segments}");
    }

    #[test]
    fn an_announced_length_costs_nothing() {
        let mut assembler = Assembler::new(1 << 30);
        let mut chunk = Vec::from((1u32 << 30).to_le_bytes());
        chunk.push(7);
        assembler.push(chunk.into(), |_| unreachable!()).unwrap();
        assert!(assembler.body.capacity() < 1_024);
        assert_eq!((assembler.held(), assembler.is_between_frames()), (1, false));
        let mut assembler = Assembler::new(10);
        let push = assembler.push(Bytes::from_static(&[11, 0, 0, 0]), |_| unreachable!());
        assert_eq!(push, Err(FrameTooLarge(11)));
    }
}

//! Messages to frames.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_model::link::{Carried, Heard, WireEntry};
use mesh_model::trace::TraceContext;
use mesh_model::{
    Answer, CallFailure, CallId, Cause, Json, Lane, LinkMessage, NodeId, Origin, Outcome, Text,
    VersionVector, Words,
};
use rmp::encode as pack;

use crate::message::{self, INSTANCE_BYTES, INSTANCE_PREFIX, cause, lane, outcome};

/// Encodes the body of one frame, without the length before it.
#[must_use]
pub fn encode(message: &LinkMessage) -> Bytes {
    let frame = |kind| Frame::new(kind, HEAD_BYTES);
    let with = |kind, payload: usize| Frame::new(kind, HEAD_BYTES + payload);
    let mut out;
    match message {
        LinkMessage::Hello { protocol_min, protocol_max, incarnation, name, wall_ms, addresses, over } => {
            out = frame(message::HELLO);
            out.uint(b'l', u64::from(*protocol_min));
            out.uint(b'h', u64::from(*protocol_max));
            out.greeting(incarnation.0, name, *wall_ms, addresses, *over);
        }
        LinkMessage::Welcome { protocol, incarnation, name, wall_ms, addresses, over } => {
            out = frame(message::WELCOME);
            out.uint(b'p', u64::from(*protocol));
            out.greeting(incarnation.0, name, *wall_ms, addresses, *over);
        }
        LinkMessage::Reject { code, text } => {
            out = frame(message::REJECT);
            out.uint(b'c', u64::from(*code));
            out.said(b't', text);
        }
        LinkMessage::Ping { count, sent } => {
            out = frame(message::PING);
            out.uint(b'n', *count);
            out.uint(b's', *sent);
        }
        LinkMessage::Pong { count, sent } => {
            out = frame(message::PONG);
            out.uint(b'n', *count);
            out.uint(b's', *sent);
        }
        LinkMessage::Goaway { reason } => {
            out = frame(message::GOAWAY);
            out.said(b't', reason);
        }
        LinkMessage::DomainOpen { domain, vector, without_over, hash, awaits_another } => {
            out = with(message::DOMAIN_OPEN, vector.len() * ORIGIN_BYTES);
            out.bin(b'd', &domain.0);
            out.uint(b'h', *hash);
            out.vector(b'v', vector);
            out.flag(b'o', *without_over);
            out.flag(b'w', *awaits_another);
        }
        LinkMessage::Have { domain, vector } => {
            out = with(message::HAVE, vector.len() * ORIGIN_BYTES);
            out.bin(b'd', &domain.0);
            out.vector(b'v', vector);
        }
        LinkMessage::Batch { domain, entries, end, reset } => {
            let vectors = end.as_ref().map_or(0, |end| end.vector.len() + end.floor.len());
            let payload = entries.iter().map(|e| e.key.len() + e.value.as_ref().map_or(0, Bytes::len));
            out = with(
                message::BATCH,
                payload.sum::<usize>() + entries.len() * ENTRY_BYTES + vectors * ORIGIN_BYTES,
            );
            out.bin(b'd', &domain.0);
            out.entries(entries);
            if let Some(end) = end {
                out.vector_always(b'v', &end.vector);
                out.vector(b'f', &end.floor);
                out.flag(b'a', end.answer);
            }
            out.flag(b'r', *reset);
        }
        LinkMessage::Digest { domain, vector, hash, heard } => {
            let vectors = heard.iter().map(|heard| heard.vector.len() + 1).sum::<usize>() + vector.len();
            out = with(message::DIGEST, vectors * ORIGIN_BYTES);
            out.bin(b'd', &domain.0);
            out.uint(b'h', *hash);
            out.vector(b'v', vector);
            out.heard(b'o', heard);
        }
        LinkMessage::Call { id, subscribe, from, to, method, arguments, millis_left, after, trace } => {
            out = with(message::CALL, from.len() + to.len() + method.len() + arguments.len());
            out.uint(b'i', id.0);
            out.flag(b's', *subscribe);
            out.instance(b'f', from);
            out.instance(b't', to);
            out.json(b'm', method);
            out.json_if(b'p', arguments.positional.as_ref());
            out.json_if(b'n', arguments.named.as_ref());
            out.json_if(b'g', arguments.flags.as_ref());
            out.json_if(b'c', arguments.context.as_ref());
            if *millis_left != message::CALL_MS {
                out.uint(b'l', *millis_left);
            }
            out.uint_if(b'a', *after);
            out.trace(b'x', trace.as_ref());
        }
        LinkMessage::Covered { seq } => {
            out = frame(message::COVERED);
            out.uint(b's', *seq);
        }
        LinkMessage::Accepted { id } => {
            out = frame(message::ACCEPTED);
            out.uint(b'i', id.0);
        }
        LinkMessage::Cancel { id } => {
            out = frame(message::CANCEL);
            out.uint(b'i', id.0);
        }
        LinkMessage::Attach { calls } => {
            out = with(message::ATTACH_CALL, calls.len() * CALL_BYTES);
            out.calls(b'i', calls);
        }
        LinkMessage::CallState { known, unseen, forgotten } => {
            let calls = known.len() + unseen.len() + forgotten.len();
            out = with(message::CALL_STATE, calls * CALL_BYTES);
            out.calls(b'k', known);
            out.calls(b'n', unseen);
            out.calls(b'f', forgotten);
        }
        LinkMessage::CallEnd { id, outcome, after } => {
            out = with(message::CALL_END, message.payload_len());
            out.uint(b'i', id.0);
            out.outcome(outcome);
            out.uint_if(b'a', *after);
        }
        LinkMessage::SubscriptionAccepted { id, branch } => {
            out = frame(message::SUB_OK);
            out.uint(b'i', id.0);
            out.uint(b'b', *branch);
        }
        LinkMessage::BranchData { branch, data, sequence, snapshot, after } => {
            out = with(message::DATA, data.len());
            out.uint(b'b', *branch);
            out.data(data, sequence.as_ref(), snapshot.as_ref(), *after);
        }
        LinkMessage::PrivateData { id, data, sequence, snapshot, after } => {
            out = with(message::PRIVATE_DATA, data.len());
            out.uint(b'i', id.0);
            out.data(data, sequence.as_ref(), snapshot.as_ref(), *after);
        }
        LinkMessage::SubscriptionEnd { id, cause } => {
            out = frame(message::SUB_END);
            out.uint(b'i', id.0);
            out.cause(cause);
        }
        LinkMessage::SubscriptionRoom { id } => {
            out = frame(message::SUB_ROOM);
            out.uint(b'i', id.0);
        }
        LinkMessage::Unsubscribe { id, cause } => {
            out = frame(message::UNSUB);
            out.uint(b'i', id.0);
            out.cause(cause);
        }
        LinkMessage::Neighbours { nodes } => {
            out = with(message::NEIGHBOURS, nodes.len() * ORIGIN_BYTES);
            out.nodes(b'n', nodes);
        }
        LinkMessage::Relay { node, channel, lane, carried } => {
            let carried = encoded(carried);
            out = with(message::RELAY, carried.len());
            out.carried(*node, *channel, &carried);
            out.uint(b'l', lane_number(*lane));
        }
        LinkMessage::Relayed { node, channel, carried } => {
            let carried = encoded(carried);
            out = with(message::RELAYED, carried.len());
            out.carried(*node, *channel, &carried);
        }
        LinkMessage::Why { key, cause } => {
            out = with(message::WHY, key.len());
            out.bin(b'k', key);
            out.cause(cause);
        }
        LinkMessage::Publish {
            user,
            service,
            restriction,
            topic,
            routing_key,
            target,
            publisher,
            data,
            after,
        } => {
            out = with(message::PUB, topic.len() + publisher.len() + data.len());
            out.text(b't', topic);
            out.json(b'p', publisher);
            out.json(b'b', data);
            out.text_if(b'u', user.as_ref());
            out.uint_if(b's', u64::from(*service));
            out.text_if(b'c', restriction.as_ref());
            out.text_if(b'r', routing_key.as_ref());
            out.json_if(b'f', target.as_ref());
            out.uint_if(b'a', *after);
        }
    }
    Bytes::from(out.buffer)
}

/// Returns what is carried as the node between the two ends has it.
fn encoded(carried: &Carried) -> Bytes {
    match carried {
        Carried::Message(message) => encode(message),
        Carried::Frame(frame) => frame.clone(),
    }
}

fn lane_number(lane: Lane) -> u64 {
    match lane {
        Lane::Control => lane::CONTROL,
        Lane::Replication => lane::REPLICATION,
        Lane::Session(number) => lane::SESSION + u64::from(number),
        Lane::Bulk => lane::BULK,
    }
}

/// A frame that is being written: its kind, and the fields so far.
struct Frame {
    buffer: Vec<u8>,
    /// Where the map of fields begins: one byte that holds their number too, as they are never many.
    fields_at: usize,
}

impl Frame {
    fn new(kind: u64, capacity: usize) -> Self {
        let mut buffer = Vec::with_capacity(capacity);
        array(&mut buffer, 2);
        uint(&mut buffer, kind);
        let fields_at = buffer.len();
        buffer.push(EMPTY_MAP);
        Self { buffer, fields_at }
    }

    /// Begins a field; the caller appends one value.
    fn key(&mut self, key: u8) -> &mut Vec<u8> {
        self.buffer[self.fields_at] += 1;
        debug_assert!(self.buffer[self.fields_at] <= EMPTY_MAP + 15, "too many fields for a short map");
        self.buffer.extend_from_slice(&[ONE_LETTER, key]);
        &mut self.buffer
    }

    fn uint(&mut self, key: u8, value: u64) {
        uint(self.key(key), value);
    }

    fn uint_if(&mut self, key: u8, value: u64) {
        if value != 0 {
            self.uint(key, value);
        }
    }

    fn flag(&mut self, key: u8, value: bool) {
        if value {
            sure(pack::write_bool(self.key(key), true));
        }
    }

    fn text(&mut self, key: u8, value: &Text) {
        text(self.key(key), value);
    }

    fn text_if(&mut self, key: u8, value: Option<&Text>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn instance(&mut self, key: u8, name: &Text) {
        match instance_bytes(name) {
            Some(bytes) => self.bin(key, &bytes),
            None => self.text(key, name),
        }
    }

    /// Writes a text of which the empty one says nothing.
    fn said(&mut self, key: u8, value: &Text) {
        self.text_if(key, Some(value).filter(|text| !text.as_bytes().is_empty()));
    }

    fn bin(&mut self, key: u8, value: &[u8]) {
        bin(self.key(key), value);
    }

    fn json(&mut self, key: u8, value: &Json) {
        self.bin(key, value.as_bytes());
    }

    fn json_if(&mut self, key: u8, value: Option<&Json>) {
        if let Some(value) = value {
            self.json(key, value);
        }
    }

    fn greeting(&mut self, incarnation: u64, name: &Text, wall_ms: u64, addresses: &[Text], over: u64) {
        self.uint(b'i', incarnation);
        self.text(b'n', name);
        self.uint_if(b'w', wall_ms);
        if !addresses.is_empty() {
            let buffer = self.key(b'a');
            array(buffer, addresses.len());
            addresses.iter().for_each(|address| text(buffer, address));
        }
        self.uint_if(b'o', over);
    }

    fn vector(&mut self, key: u8, vector: &VersionVector) {
        if !vector.is_empty() {
            self.vector_always(key, vector);
        }
    }

    fn vector_always(&mut self, key: u8, vector: &VersionVector) {
        self::vector(self.key(key), vector);
    }

    fn heard(&mut self, key: u8, heard: &[Heard]) {
        if heard.is_empty() {
            return;
        }
        let buffer = self.key(key);
        array(buffer, heard.len());
        for one in heard {
            array(buffer, 4);
            self::origin(buffer, &one.origin);
            uint(buffer, one.age_ms);
            self::vector(buffer, &one.vector);
        }
    }

    /// Writes entries, and before them the origins they refer to in the order of their first entries.
    fn entries(&mut self, entries: &[WireEntry]) {
        if entries.is_empty() {
            return;
        }
        let mut table: Vec<Origin> = Vec::new();
        let mut index_of: BTreeMap<Origin, u64> = BTreeMap::new();
        for entry in entries {
            let origin = entry.dot.origin;
            index_of.entry(origin).or_insert_with(|| {
                table.push(origin);
                table.len() as u64 - 1
            });
        }
        let buffer = self.key(b'o');
        array(buffer, table.len());
        for origin in &table {
            array(buffer, 2);
            self::origin(buffer, origin);
        }
        let buffer = self.key(b'e');
        array(buffer, entries.len());
        for entry in entries {
            array(buffer, 5);
            bin(buffer, &entry.key);
            uint(buffer, index_of[&entry.dot.origin]);
            uint(buffer, entry.dot.seq);
            uint(buffer, entry.hlc.0);
            match &entry.value {
                Some(value) => bin(buffer, value),
                None => sure(pack::write_nil(buffer)),
            }
        }
    }

    fn calls(&mut self, key: u8, calls: &[CallId]) {
        if !calls.is_empty() {
            let buffer = self.key(key);
            array(buffer, calls.len());
            calls.iter().for_each(|id| uint(buffer, id.0));
        }
    }

    fn nodes(&mut self, key: u8, nodes: &[NodeId]) {
        if !nodes.is_empty() {
            let buffer = self.key(key);
            array(buffer, nodes.len());
            nodes.iter().for_each(|node| bin(buffer, &node.0));
        }
    }

    fn carried(&mut self, node: NodeId, channel: u64, frame: &Bytes) {
        self.bin(b'n', &node.0);
        self.uint(b'c', channel);
        self.bin(b'm', frame);
    }

    fn trace(&mut self, key: u8, trace: Option<&TraceContext>) {
        let Some(trace) = trace else { return };
        let buffer = self.key(key);
        array(buffer, 3);
        bin(buffer, &trace.trace_id.to_be_bytes());
        uint(buffer, trace.span_id);
        sure(pack::write_bool(buffer, trace.sampled));
    }

    fn data(&mut self, data: &Json, sequence: Option<&Json>, snapshot: Option<&Json>, after: u64) {
        self.json(b'd', data);
        self.json_if(b's', sequence);
        self.json_if(b'n', snapshot);
        self.uint_if(b'a', after);
    }

    fn words(&mut self, words: &Words) {
        self.json_if(b'u', words.uri.as_ref());
        self.json_if(b'w', words.reason.as_ref());
    }

    fn outcome(&mut self, outcome: &Outcome) {
        let (code, text) = match outcome {
            Outcome::Answered(Answer::Result(result)) => {
                self.uint_if(b'o', outcome::RESULT);
                return self.json_if(b'r', result.as_ref());
            }
            Outcome::Answered(Answer::Error { words, context }) => {
                self.uint(b'o', outcome::ERROR);
                self.words(words);
                return self.json_if(b'c', context.as_ref());
            }
            Outcome::Failed(CallFailure::Deadline { millis }) => {
                self.uint(b'o', outcome::DEADLINE);
                return self.uint_if(b'l', *millis);
            }
            Outcome::Failed(CallFailure::CalleeGone) => (outcome::CALLEE_GONE, None),
            Outcome::Failed(CallFailure::MethodRemoved) => (outcome::METHOD_REMOVED, None),
            Outcome::Failed(CallFailure::NoTarget { what }) => (outcome::NO_TARGET, Some(what)),
            Outcome::Failed(CallFailure::NotDelivered { node }) => (outcome::NOT_DELIVERED, Some(node)),
            Outcome::Failed(CallFailure::UnknownOutcome { node }) => (outcome::UNKNOWN_OUTCOME, Some(node)),
            Outcome::Failed(CallFailure::Overloaded { limit }) => (outcome::OVERLOADED, Some(limit)),
            Outcome::Failed(CallFailure::Denied { what }) => (outcome::DENIED, Some(what)),
            Outcome::Failed(CallFailure::BadRequest { what }) => (outcome::BAD_REQUEST, Some(what)),
        };
        self.uint(b'o', code);
        if let Some(text) = text {
            self.said(b't', text);
        }
    }

    fn cause(&mut self, cause: &Cause) {
        let code = match cause {
            Cause::Disconnected => cause::DISCONNECTED,
            Cause::Left(_) => cause::LEFT,
            Cause::Unreachable => cause::UNREACHABLE,
            Cause::Lost => cause::LOST,
            Cause::MethodRemoved => cause::METHOD_REMOVED,
            Cause::Destroyed => cause::DESTROYED,
            Cause::OwnerGone => cause::OWNER_GONE,
            Cause::TooSlow => cause::TOO_SLOW,
        };
        self.uint(b'c', code);
        if let Cause::Left(words) = cause {
            self.words(words);
        }
    }
}

/// Returns an instance's name as bytes, if it is of the form that nodes give, to the letter.
fn instance_bytes(name: &str) -> Option<[u8; INSTANCE_BYTES]> {
    let digits = name.strip_prefix(INSTANCE_PREFIX)?.as_bytes();
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; INSTANCE_BYTES];
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = value(*high)? << 4 | value(*low)?;
    }
    Some(bytes)
}

fn array(buffer: &mut Vec<u8>, len: usize) {
    sure(pack::write_array_len(buffer, short(len)));
}

fn uint(buffer: &mut Vec<u8>, value: u64) {
    sure(pack::write_uint(buffer, value));
}

fn bin(buffer: &mut Vec<u8>, value: &[u8]) {
    sure(pack::write_bin_len(buffer, short(value.len())));
    buffer.extend_from_slice(value);
}

fn text(buffer: &mut Vec<u8>, value: &Text) {
    sure(pack::write_str_len(buffer, short(value.as_bytes().len())));
    buffer.extend_from_slice(value.as_bytes());
}

fn vector(buffer: &mut Vec<u8>, vector: &VersionVector) {
    array(buffer, vector.len());
    for (origin, seq) in vector {
        array(buffer, 3);
        self::origin(buffer, origin);
        uint(buffer, *seq);
    }
}

fn origin(buffer: &mut Vec<u8>, Origin { node: NodeId(node), incarnation }: &Origin) {
    bin(buffer, node);
    uint(buffer, incarnation.0);
}

fn short(len: usize) -> u32 {
    u32::try_from(len).expect("messages are bounded far below 4 GiB")
}

fn sure<T, E: std::fmt::Debug>(written: Result<T, E>) {
    written.expect("a vector takes every byte");
}

/// An empty map of at most 15 fields.
const EMPTY_MAP: u8 = 0x80;
/// A `str` of one byte.
const ONE_LETTER: u8 = 0xa1;
/// Enough for the fields of a message beside its payload, most times.
const HEAD_BYTES: usize = 128;
/// An origin and a number.
const ORIGIN_BYTES: usize = 37;
/// The id of a call, most times.
const CALL_BYTES: usize = 5;
/// An entry beside key and value.
const ENTRY_BYTES: usize = 30;

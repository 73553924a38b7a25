//! Frames to messages.
//!
//! Nothing is copied: texts, payloads, keys and values are slices of the frame, and keep it in memory
//! for as long as they live; but the name of an instance is written out from its bytes. Nothing is
//! allocated before the bytes that call for it have been seen.

use bytes::Bytes;
use mesh_model::link::{BatchEnd, Carried, Heard, WireEntry};
use mesh_model::trace::TraceContext;
use mesh_model::{
    Answer, Arguments, CallFailure, CallId, Cause, DomainId, Dot, Hlc, Incarnation, Json, Lane, LinkMessage,
    NodeId, Origin, Outcome, SESSION_LANES, Text, VersionVector, Words,
};
use rmp::Marker;
use rmp::decode::{self as unpack, NumValueReadError, ValueReadError};

use crate::WireError;
use crate::message::{self, DEPTH_MAX, INSTANCE_BYTES, INSTANCE_PREFIX, cause, lane, outcome};

/// Decodes the body of one frame.
pub fn decode(frame: &Bytes) -> Result<LinkMessage, WireError> {
    let (kind, fields) = split(frame)?;
    match kind {
        message::NEIGHBOURS | message::RELAY | message::RELAYED => between_nodes(kind, fields),
        kind => message(kind, fields),
    }
}

/// Takes a frame apart into its kind and where its fields begin.
fn split(frame: &Bytes) -> Result<(u64, Reader<'_>), WireError> {
    let mut reader = Reader { frame, rest: frame };
    let len = match reader.array() {
        Err(WireError::Unexpected { .. }) | Ok(0 | 1) => return Err(WireError::Shape),
        len => len?,
    };
    let kind = reader.uint()?;
    let fields_at = reader;
    for _ in 1..len {
        reader.skip(1)?;
    }
    if !reader.rest.is_empty() {
        return Err(WireError::Trailing { at: reader.at() });
    }
    Ok((kind, fields_at))
}

/// Reads the messages by which one node serves two others. None of them can be within another.
fn between_nodes(kind: u64, reader: Reader<'_>) -> Result<LinkMessage, WireError> {
    let fields = Fields::read(reader)?;
    if kind == message::NEIGHBOURS {
        let nodes = fields.or_default(b'n', |reader| reader.list(Reader::node))?;
        return Ok(LinkMessage::Neighbours { nodes });
    }
    let node = fields.must(b'n', Reader::node)?;
    let channel = fields.must(b'c', Reader::uint)?;
    let frame = fields.must(b'm', Reader::bin)?;
    if kind == message::RELAY {
        let lane = fields.must(b'l', Reader::lane)?;
        return Ok(LinkMessage::Relay { node, channel, lane, carried: Carried::Frame(frame) });
    }
    let (kind, fields) = split(&frame)?;
    let carried = Carried::Message(Box::new(message(kind, fields)?));
    Ok(LinkMessage::Relayed { node, channel, carried })
}

fn message(kind: u64, reader: Reader<'_>) -> Result<LinkMessage, WireError> {
    let fields = || Fields::read(reader);
    Ok(match kind {
        message::HELLO => {
            let fields = fields()?;
            LinkMessage::Hello {
                protocol_min: fields.must(b'l', Reader::uint16)?,
                protocol_max: fields.must(b'h', Reader::uint16)?,
                incarnation: Incarnation(fields.must(b'i', Reader::uint)?),
                name: fields.must(b'n', Reader::text)?,
                wall_ms: fields.or_default(b'w', Reader::uint)?,
                addresses: fields.or_default(b'a', |reader| reader.list(Reader::text))?,
                over: fields.or_default(b'o', Reader::uint)?,
            }
        }
        message::WELCOME => {
            let fields = fields()?;
            LinkMessage::Welcome {
                protocol: fields.must(b'p', Reader::uint16)?,
                incarnation: Incarnation(fields.must(b'i', Reader::uint)?),
                name: fields.must(b'n', Reader::text)?,
                wall_ms: fields.or_default(b'w', Reader::uint)?,
                addresses: fields.or_default(b'a', |reader| reader.list(Reader::text))?,
                over: fields.or_default(b'o', Reader::uint)?,
            }
        }
        message::REJECT => {
            let fields = fields()?;
            LinkMessage::Reject {
                code: fields.must(b'c', Reader::uint16)?,
                text: fields.or_default(b't', Reader::text)?,
            }
        }
        message::PING => {
            let fields = fields()?;
            LinkMessage::Ping {
                count: fields.must(b'n', Reader::uint)?,
                sent: fields.must(b's', Reader::uint)?,
            }
        }
        message::PONG => {
            let fields = fields()?;
            LinkMessage::Pong {
                count: fields.must(b'n', Reader::uint)?,
                sent: fields.must(b's', Reader::uint)?,
            }
        }
        message::GOAWAY => LinkMessage::Goaway { reason: fields()?.or_default(b't', Reader::text)? },
        message::DOMAIN_OPEN => {
            let fields = fields()?;
            LinkMessage::DomainOpen {
                domain: fields.must(b'd', Reader::domain)?,
                vector: fields.or_default(b'v', Reader::vector)?,
                without_over: fields.or_default(b'o', Reader::flag)?,
                hash: fields.must(b'h', Reader::uint)?,
                awaits_another: fields.or_default(b'w', Reader::flag)?,
            }
        }
        message::HAVE => {
            let fields = fields()?;
            LinkMessage::Have {
                domain: fields.must(b'd', Reader::domain)?,
                vector: fields.or_default(b'v', Reader::vector)?,
            }
        }
        message::BATCH => batch(&fields()?)?,
        message::DIGEST => {
            let fields = fields()?;
            let heard = |reader: &mut Reader<'_>| {
                let (origin, age_ms) = (reader.origin()?, reader.uint()?);
                Ok(Heard { origin, age_ms, vector: reader.vector()? })
            };
            LinkMessage::Digest {
                domain: fields.must(b'd', Reader::domain)?,
                vector: fields.or_default(b'v', Reader::vector)?,
                hash: fields.must(b'h', Reader::uint)?,
                heard: fields.or_default(b'o', |reader| reader.list(|reader| reader.tuple(4, heard)))?,
            }
        }
        message::CALL => {
            let fields = fields()?;
            LinkMessage::Call {
                id: fields.must(b'i', Reader::call)?,
                subscribe: fields.or_default(b's', Reader::flag)?,
                from: fields.must(b'f', Reader::instance)?,
                to: fields.must(b't', Reader::instance)?,
                method: fields.must(b'm', Reader::json)?,
                arguments: Arguments {
                    positional: fields.get(b'p', Reader::json)?,
                    named: fields.get(b'n', Reader::json)?,
                    flags: fields.get(b'g', Reader::json)?,
                    context: fields.get(b'c', Reader::json)?,
                },
                millis_left: fields.get(b'l', Reader::uint)?.unwrap_or(message::CALL_MS),
                after: fields.or_default(b'a', Reader::uint)?,
                trace: fields.get(b'x', Reader::trace)?,
            }
        }
        message::COVERED => LinkMessage::Covered { seq: fields()?.must(b's', Reader::uint)? },
        message::ACCEPTED => LinkMessage::Accepted { id: fields()?.must(b'i', Reader::call)? },
        message::CANCEL => LinkMessage::Cancel { id: fields()?.must(b'i', Reader::call)? },
        message::ATTACH_CALL => LinkMessage::Attach { calls: fields()?.or_default(b'i', Reader::calls)? },
        message::CALL_STATE => {
            let fields = fields()?;
            LinkMessage::CallState {
                known: fields.or_default(b'k', Reader::calls)?,
                unseen: fields.or_default(b'n', Reader::calls)?,
                forgotten: fields.or_default(b'f', Reader::calls)?,
            }
        }
        message::CALL_END => {
            let fields = fields()?;
            LinkMessage::CallEnd {
                id: fields.must(b'i', Reader::call)?,
                outcome: outcome(&fields)?,
                after: fields.or_default(b'a', Reader::uint)?,
            }
        }
        message::SUB_OK => {
            let fields = fields()?;
            LinkMessage::SubscriptionAccepted {
                id: fields.must(b'i', Reader::call)?,
                branch: fields.must(b'b', Reader::uint)?,
            }
        }
        message::DATA => {
            let fields = fields()?;
            LinkMessage::BranchData {
                branch: fields.must(b'b', Reader::uint)?,
                data: fields.must(b'd', Reader::json)?,
                sequence: fields.get(b's', Reader::json)?,
                snapshot: fields.get(b'n', Reader::json)?,
                after: fields.or_default(b'a', Reader::uint)?,
            }
        }
        message::PRIVATE_DATA => {
            let fields = fields()?;
            LinkMessage::PrivateData {
                id: fields.must(b'i', Reader::call)?,
                data: fields.must(b'd', Reader::json)?,
                sequence: fields.get(b's', Reader::json)?,
                snapshot: fields.get(b'n', Reader::json)?,
                after: fields.or_default(b'a', Reader::uint)?,
            }
        }
        message::SUB_END => {
            let fields = fields()?;
            LinkMessage::SubscriptionEnd { id: fields.must(b'i', Reader::call)?, cause: cause(&fields)? }
        }
        message::SUB_ROOM => LinkMessage::SubscriptionRoom { id: fields()?.must(b'i', Reader::call)? },
        message::UNSUB => {
            let fields = fields()?;
            LinkMessage::Unsubscribe { id: fields.must(b'i', Reader::call)?, cause: cause(&fields)? }
        }
        message::WHY => {
            let fields = fields()?;
            LinkMessage::Why { key: fields.must(b'k', Reader::bin)?, cause: cause(&fields)? }
        }
        message::PUB => {
            let fields = fields()?;
            LinkMessage::Publish {
                user: fields.get(b'u', Reader::text)?,
                service: fields.or_default(b's', Reader::uint)? != 0,
                restriction: fields.get(b'c', Reader::text)?,
                topic: fields.must(b't', Reader::text)?,
                routing_key: fields.get(b'r', Reader::text)?,
                target: fields.get(b'f', Reader::json)?,
                publisher: fields.must(b'p', Reader::json)?,
                data: fields.must(b'b', Reader::json)?,
                after: fields.or_default(b'a', Reader::uint)?,
            }
        }
        kind => return Err(WireError::UnknownKind { kind }),
    })
}

fn batch(fields: &Fields<'_>) -> Result<LinkMessage, WireError> {
    let table =
        fields.or_default(b'o', |reader| reader.list(|reader| reader.tuple(2, |reader| reader.origin())))?;
    let entry = |reader: &mut Reader<'_>| {
        let key = reader.bin()?;
        let index = reader.uint()?;
        let origin = usize::try_from(index).ok().and_then(|index| table.get(index).copied());
        let dot = Dot { origin: origin.ok_or(WireError::UnknownOrigin { index })?, seq: reader.uint()? };
        let hlc = Hlc(reader.uint()?);
        let value = if reader.is_nil() {
            reader.skip(DEPTH_MAX)?;
            None
        } else {
            Some(reader.bin()?)
        };
        Ok(WireEntry { key, dot, hlc, value })
    };
    let entries = fields.or_default(b'e', |reader| reader.list(|reader| reader.tuple(5, entry)))?;
    let floor = fields.or_default(b'f', Reader::vector)?;
    let answer = fields.or_default(b'a', Reader::flag)?;
    let end = fields.get(b'v', Reader::vector)?.map(|vector| BatchEnd { vector, floor, answer });
    Ok(LinkMessage::Batch {
        domain: fields.must(b'd', Reader::domain)?,
        entries,
        end,
        reset: fields.or_default(b'r', Reader::flag)?,
    })
}

fn outcome(fields: &Fields<'_>) -> Result<Outcome, WireError> {
    let text = || fields.or_default(b't', Reader::text);
    Ok(Outcome::Failed(match fields.or_default(b'o', Reader::uint)? {
        outcome::RESULT => return Ok(Outcome::Answered(Answer::Result(fields.get(b'r', Reader::json)?))),
        outcome::ERROR => {
            let (words, context) = (words(fields)?, fields.get(b'c', Reader::json)?);
            return Ok(Outcome::Answered(Answer::Error { words, context }));
        }
        outcome::NO_TARGET => CallFailure::NoTarget { what: text()? },
        outcome::NOT_DELIVERED => CallFailure::NotDelivered { node: text()? },
        outcome::CALLEE_GONE => CallFailure::CalleeGone,
        outcome::METHOD_REMOVED => CallFailure::MethodRemoved,
        outcome::DEADLINE => CallFailure::Deadline { millis: fields.or_default(b'l', Reader::uint)? },
        outcome::OVERLOADED => CallFailure::Overloaded { limit: text()? },
        outcome::DENIED => CallFailure::Denied { what: text()? },
        outcome::BAD_REQUEST => CallFailure::BadRequest { what: text()? },
        outcome::UNKNOWN_OUTCOME => CallFailure::UnknownOutcome { node: text()? },
        // What its other fields mean is as unknown as the number.
        _ => CallFailure::UnknownOutcome { node: Text::default() },
    }))
}

fn cause(fields: &Fields<'_>) -> Result<Cause, WireError> {
    Ok(match fields.must(b'c', Reader::uint)? {
        cause::DISCONNECTED => Cause::Disconnected,
        cause::LEFT => Cause::Left(words(fields)?),
        cause::UNREACHABLE => Cause::Unreachable,
        cause::METHOD_REMOVED => Cause::MethodRemoved,
        cause::DESTROYED => Cause::Destroyed,
        cause::OWNER_GONE => Cause::OwnerGone,
        cause::TOO_SLOW => Cause::TooSlow,
        // `LOST`, and what newer nodes may know.
        _ => Cause::Lost,
    })
}

fn words(fields: &Fields<'_>) -> Result<Words, WireError> {
    Ok(Words { uri: fields.get(b'u', Reader::json)?, reason: fields.get(b'w', Reader::json)? })
}

/// Where each field of a message is.
struct Fields<'a> {
    /// By letter. The last one counts, if a letter comes twice.
    values: [Option<Reader<'a>>; 26],
}

impl<'a> Fields<'a> {
    fn read(mut reader: Reader<'a>) -> Result<Self, WireError> {
        let mut values = [None; 26];
        for _ in 0..reader.map()? {
            let key = reader;
            reader.skip(2)?;
            let value = reader;
            reader.skip(2)?;
            if let [ONE_LETTER, letter @ b'a'..=b'z', ..] = key.rest {
                values[usize::from(letter - b'a')] = (!value.is_nil()).then_some(value);
            }
        }
        Ok(Self { values })
    }

    fn get<T>(
        &self,
        key: u8,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, WireError>,
    ) -> Result<Option<T>, WireError> {
        self.values[usize::from(key - b'a')].map(|mut value| read(&mut value)).transpose()
    }

    fn must<T>(
        &self,
        key: u8,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, WireError>,
    ) -> Result<T, WireError> {
        self.get(key, read)?.ok_or(WireError::Missing { field: char::from(key) })
    }

    fn or_default<T: Default>(
        &self,
        key: u8,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, WireError>,
    ) -> Result<T, WireError> {
        Ok(self.get(key, read)?.unwrap_or_default())
    }
}

/// A place in a frame. Reading a value moves it to the next one.
#[derive(Clone, Copy)]
struct Reader<'a> {
    frame: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn at(&self) -> usize {
        self.frame.len() - self.rest.len()
    }

    fn marker(&self) -> Option<Marker> {
        self.rest.first().map(|byte| Marker::from_u8(*byte))
    }

    fn is_nil(&self) -> bool {
        self.marker() == Some(Marker::Null)
    }

    /// Reads the head of an array and returns the number of its elements, which is a mere claim.
    fn array(&mut self) -> Result<u32, WireError> {
        let at = self.at();
        unpack::read_array_len(&mut self.rest).map_err(|error| bad_value(&error, at))
    }

    fn map(&mut self) -> Result<u32, WireError> {
        let at = self.at();
        unpack::read_map_len(&mut self.rest).map_err(|error| bad_value(&error, at))
    }

    fn uint(&mut self) -> Result<u64, WireError> {
        let at = self.at();
        unpack::read_int(&mut self.rest).map_err(|error| match error {
            NumValueReadError::OutOfRange => WireError::OutOfRange { at: self.at() },
            NumValueReadError::TypeMismatch(_) => WireError::Unexpected { at },
            NumValueReadError::InvalidMarkerRead(_) | NumValueReadError::InvalidDataRead(_) => WireError::End,
        })
    }

    fn uint16(&mut self) -> Result<u16, WireError> {
        u16::try_from(self.uint()?).map_err(|_| WireError::OutOfRange { at: self.at() })
    }

    fn flag(&mut self) -> Result<bool, WireError> {
        let at = self.at();
        unpack::read_bool(&mut self.rest).map_err(|error| bad_value(&error, at))
    }

    fn text(&mut self) -> Result<Text, WireError> {
        let at = self.at();
        let len = unpack::read_str_len(&mut self.rest).map_err(|error| bad_value(&error, at))?;
        let bytes = self.take(len)?;
        Ok(Text::from_utf8(self.frame.slice_ref(bytes))?)
    }

    fn instance(&mut self) -> Result<Text, WireError> {
        if !matches!(self.marker(), Some(Marker::Bin8 | Marker::Bin16 | Marker::Bin32)) {
            return self.text();
        }
        let bytes = self.bin_of::<INSTANCE_BYTES>()?;
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
        let mut name = String::with_capacity(INSTANCE_PREFIX.len() + 2 * INSTANCE_BYTES);
        name.push_str(INSTANCE_PREFIX);
        name.extend(digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)));
        Ok(Text::from(name))
    }

    fn bin(&mut self) -> Result<Bytes, WireError> {
        let bytes = self.bin_ref()?;
        Ok(self.frame.slice_ref(bytes))
    }

    fn bin_ref(&mut self) -> Result<&'a [u8], WireError> {
        let at = self.at();
        let len = unpack::read_bin_len(&mut self.rest).map_err(|error| bad_value(&error, at))?;
        self.take(len)
    }

    fn bin_of<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.bin_ref()?.try_into().map_err(|_| WireError::OutOfRange { at: self.at() })
    }

    fn json(&mut self) -> Result<Json, WireError> {
        let text = self.bin_ref()?;
        // The model's JSON is a matter of bytes, but what goes on to an application must be Unicode.
        std::str::from_utf8(text)?;
        Ok(Json::parse(self.frame.slice_ref(text))?)
    }

    fn call(&mut self) -> Result<CallId, WireError> {
        self.uint().map(CallId)
    }

    fn calls(&mut self) -> Result<Vec<CallId>, WireError> {
        self.list(Self::call)
    }

    fn domain(&mut self) -> Result<DomainId, WireError> {
        self.bin_of().map(DomainId)
    }

    fn node(&mut self) -> Result<NodeId, WireError> {
        self.bin_of().map(NodeId)
    }

    fn lane(&mut self) -> Result<Lane, WireError> {
        let session = |number: u64| u8::try_from(number.checked_sub(lane::SESSION)?).ok();
        match self.uint()? {
            lane::CONTROL => Ok(Lane::Control),
            lane::REPLICATION => Ok(Lane::Replication),
            lane::BULK => Ok(Lane::Bulk),
            number => session(number)
                .filter(|number| *number < SESSION_LANES)
                .map(Lane::Session)
                .ok_or(WireError::OutOfRange { at: self.at() }),
        }
    }

    fn origin(&mut self) -> Result<Origin, WireError> {
        Ok(Origin { node: self.node()?, incarnation: Incarnation(self.uint()?) })
    }

    fn trace(&mut self) -> Result<TraceContext, WireError> {
        self.tuple(3, |reader| {
            Ok(TraceContext {
                trace_id: u128::from_be_bytes(reader.bin_of()?),
                span_id: reader.uint()?,
                sampled: reader.flag()?,
            })
        })
    }

    fn vector(&mut self) -> Result<VersionVector, WireError> {
        let mut vector = VersionVector::new();
        for _ in 0..self.array()? {
            let (origin, seq) = self.tuple(3, |reader| Ok((reader.origin()?, reader.uint()?)))?;
            if vector.insert(origin, seq).is_some() {
                return Err(WireError::OriginTwice);
            }
        }
        Ok(vector)
    }

    fn list<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let mut list = Vec::new();
        for _ in 0..self.array()? {
            list.push(element(self)?);
        }
        Ok(list)
    }

    /// Reads an array whose first `known` elements `read` takes, and passes over the others.
    fn tuple<T>(
        &mut self,
        known: u32,
        read: impl FnOnce(&mut Self) -> Result<T, WireError>,
    ) -> Result<T, WireError> {
        let at = self.at();
        let len = self.array()?;
        let unknown = len.checked_sub(known).ok_or(WireError::Unexpected { at })?;
        let value = read(self)?;
        for _ in 0..unknown {
            self.skip(2)?;
        }
        Ok(value)
    }

    /// Passes over one value that stands within `depth` others.
    fn skip(&mut self, depth: usize) -> Result<(), WireError> {
        let at = self.at();
        let (&first, rest) = self.rest.split_first().ok_or(WireError::End)?;
        let values = match Marker::from_u8(first) {
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => u64::from(self.array()?),
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => 2 * u64::from(self.map()?),
            marker => {
                self.rest = rest;
                let len = self.scalar_len(marker, at)?;
                self.take(len)?;
                return Ok(());
            }
        };
        if depth >= DEPTH_MAX {
            return Err(WireError::TooDeep);
        }
        for _ in 0..values {
            self.skip(depth + 1)?;
        }
        Ok(())
    }

    /// Returns how many bytes follow the marker of a value without parts, and the length it may have.
    fn scalar_len(&mut self, marker: Marker, at: usize) -> Result<u32, WireError> {
        Ok(match marker {
            Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => 0,
            Marker::U8 | Marker::I8 => 1,
            Marker::U16 | Marker::I16 | Marker::FixExt1 => 2,
            Marker::FixExt2 => 3,
            Marker::U32 | Marker::I32 | Marker::F32 => 4,
            Marker::FixExt4 => 5,
            Marker::U64 | Marker::I64 | Marker::F64 => 8,
            Marker::FixExt8 => 9,
            Marker::FixExt16 => 17,
            Marker::FixStr(len) => u32::from(len),
            Marker::Str8 | Marker::Bin8 => self.len::<1>()?,
            Marker::Str16 | Marker::Bin16 => self.len::<2>()?,
            Marker::Str32 | Marker::Bin32 => self.len::<4>()?,
            Marker::Ext8 => self.len::<1>()? + 1,
            Marker::Ext16 => self.len::<2>()? + 1,
            Marker::Ext32 => self.len::<4>()?.checked_add(1).ok_or(WireError::End)?,
            // Arrays and maps are the caller's.
            _ => return Err(WireError::Unexpected { at }),
        })
    }

    fn len<const N: usize>(&mut self) -> Result<u32, WireError> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::End)?;
        self.rest = rest;
        Ok(bytes.iter().fold(0, |len, byte| len << 8 | u32::from(*byte)))
    }

    fn take(&mut self, len: u32) -> Result<&'a [u8], WireError> {
        let (bytes, rest) = self.rest.split_at_checked(len as usize).ok_or(WireError::End)?;
        self.rest = rest;
        Ok(bytes)
    }
}

fn bad_value(error: &ValueReadError<impl unpack::RmpReadErr>, at: usize) -> WireError {
    match error {
        ValueReadError::TypeMismatch(_) => WireError::Unexpected { at },
        ValueReadError::InvalidMarkerRead(_) | ValueReadError::InvalidDataRead(_) => WireError::End,
    }
}

/// The head of a `str` of one byte.
const ONE_LETTER: u8 = 0xa1;

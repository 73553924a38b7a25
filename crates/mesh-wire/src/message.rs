//! The kinds of messages and the letters of their fields.
//!
//! Fields are a map with one-letter keys. A field in brackets is left out where it is zero, false,
//! empty or absent, or what stands behind `=`, and `nil` says the same. Letters and kinds are never used
//! again for anything else; a field that comes later is optional and means what its absence meant.
//!
//! | type | MessagePack |
//! |---|---|
//! | number | integer, not negative |
//! | text | `str`, UTF-8 |
//! | json | `bin`: one JSON value as its application wrote it |
//! | instance | `bin` of 10 bytes: `p-` and their 20 lower-case hexadecimal digits; else `str` |
//! | node, domain | `bin` of 16 bytes |
//! | nodes | array of nodes |
//! | vector | array of `[node, incarnation, seq]`, no origin twice |
//! | trace | `[bin of 16 bytes, span number, sampled bool]` |
//!
//! Arrays within fields may grow at their end too: what stands beyond the known elements is ignored.

/// From here on an unknown kind is an error: the sender relies on being understood.
pub const CRITICAL: u64 = 0x4000;
/// The time left that a [`CALL`] does not say, in milliseconds: the same for every reader, whatever time its
/// node is configured to allow.
pub const CALL_MS: u64 = 600_000;
/// What an instance's name begins with that is sent as bytes.
pub(crate) const INSTANCE_PREFIX: &str = "p-";
/// How many bytes it is sent as.
pub(crate) const INSTANCE_BYTES: usize = 10;
/// Deepest nesting of arrays and maps in a frame, the frame itself being level one.
pub const DEPTH_MAX: usize = 16;

/// `l` lowest protocol, `h` highest, `i` incarnation, `n` name, \[`w` wall clock ms, `a` texts: addresses, `o` hash\].
pub const HELLO: u64 = 0x01;
/// `p` protocol, `i` incarnation, `n` name, \[`w` wall clock ms, `a` texts: addresses, `o` hash\].
pub const WELCOME: u64 = 0x02;
/// `c` code, \[`t` text\].
pub const REJECT: u64 = 0x03;
/// `n` count, `s` sent.
pub const PING: u64 = 0x04;
/// As the [`PING`] it answers.
pub const PONG: u64 = 0x05;
/// \[`t` text: reason\].
pub const GOAWAY: u64 = 0x06;

/// `d` domain, `h` hash, \[`v` vector, `o` 1: without the lives that are over, `w` 1: awaits another node's batch first\].
pub const DOMAIN_OPEN: u64 = 0x20;
/// `d` domain, \[`o` origins, `e` entries, `v` vector, `f` vector: floor, `a` answer, `r` reset\].
///
/// Origins are `[node, incarnation]`; entries are `[bin key, index of origin, seq, hlc, bin value or
/// nil]`. The batch ends with the part that has a `v`, even an empty one.
pub const BATCH: u64 = 0x29;
/// \[`n` nodes\].
pub const NEIGHBOURS: u64 = 0x23;
/// `k` key, `c` cause, and what the [`cause`] says.
pub const WHY: u64 = 0x2b;
/// `d` domain, \[`v` vector\].
pub const HAVE: u64 = 0x2d;
/// `d` domain, `h` hash, \[`v` vector: what has changed of it, `o` what others have covered: `[node, incarnation,
/// age ms, vector: where it is lower]`\].
pub const DIGEST: u64 = 0x2c;

/// `i` call, `f` instance: from, `t` instance: to, `m` json: method, \[`s` subscribe, `p` json: positional,
/// `n` json: named, `g` json: flags, `c` json: context, `l` ms left = [`CALL_MS`], `a` after, `x` trace\].
pub const CALL: u64 = 0x40;
/// `i` call.
pub const ACCEPTED: u64 = 0x41;
/// `i` call, \[`o` outcome, `a` after\], and what the [`outcome`] says.
pub const CALL_END: u64 = 0x42;
/// \[`i` calls\].
pub const ATTACH_CALL: u64 = 0x44;
/// \[`k` calls: known, `n` calls: never seen, `f` calls: forgotten\].
pub const CALL_STATE: u64 = 0x45;
/// `i` call.
pub const CANCEL: u64 = 0x46;
/// `s` seq.
pub const COVERED: u64 = 0x47;
/// `i` call, `b` branch.
pub const SUB_OK: u64 = 0x48;
/// `b` branch, `d` json: data, \[`s` json: sequence, `n` json: snapshot, `a` after\].
pub const DATA: u64 = 0x51;
/// `i` call, `c` cause, and what the [`cause`] says.
pub const SUB_END: u64 = 0x54;
/// `i` call, `d` json: data, \[`s` json: sequence, `n` json: snapshot, `a` after\].
pub const PRIVATE_DATA: u64 = 0x55;
/// As [`SUB_END`], the other way.
pub const UNSUB: u64 = 0x56;
/// `i` call.
pub const SUB_ROOM: u64 = 0x57;

/// `t` text: topic, `p` json: publisher, `b` json: data, \[`u` text: user, `s` 1: from a
/// service, `c` text: restriction, `r` text: routing key, `f` json: target, `a` after\].
pub const PUB: u64 = 0x60;

/// `n` node, `c` channel, `m` bin: the message, encoded; it is no [`RELAY`] and no [`RELAYED`].
pub const RELAYED: u64 = 0x70;
/// As [`RELAYED`], and `l` [`lane`].
pub const RELAY: u64 = 0x71;

/// Field `l` of a [`RELAY`].
pub mod lane {
    /// Control.
    pub const CONTROL: u64 = 0;
    /// Replication.
    pub const REPLICATION: u64 = 1;
    /// Bulk.
    pub const BULK: u64 = 2;
    /// The first of the session lanes.
    pub const SESSION: u64 = 16;
}

/// Field `o` of a [`CALL_END`].
///
/// A number that the reader does not know means [`UNKNOWN_OUTCOME`](outcome::UNKNOWN_OUTCOME): the call
/// is over, and that it ran cannot be ruled out.
pub mod outcome {
    /// \[`r` json: result\].
    pub const RESULT: u64 = 0;
    /// \[`u` json: uri, `w` json: reason, `c` json: context\].
    pub const ERROR: u64 = 2;
    /// \[`t` text: what\].
    pub const NO_TARGET: u64 = 3;
    /// \[`t` text: node\].
    pub const NOT_DELIVERED: u64 = 4;
    /// \[`t` text: node\].
    pub const UNKNOWN_OUTCOME: u64 = 5;
    /// Nothing more.
    pub const CALLEE_GONE: u64 = 6;
    /// Nothing more.
    pub const METHOD_REMOVED: u64 = 7;
    /// \[`l` ms\].
    pub const DEADLINE: u64 = 8;
    /// \[`t` text: limit\].
    pub const OVERLOADED: u64 = 9;
    /// \[`t` text: what\].
    pub const DENIED: u64 = 10;
    /// \[`t` text: what\].
    pub const BAD_REQUEST: u64 = 11;
}

/// Field `c` of a [`SUB_END`] or [`UNSUB`].
///
/// A number that the reader does not know means [`LOST`](cause::LOST): it is over and will not come back.
pub mod cause {
    /// Nothing more.
    pub const DISCONNECTED: u64 = 1;
    /// \[`u` json: uri, `w` json: reason\].
    pub const LEFT: u64 = 2;
    /// Nothing more.
    pub const UNREACHABLE: u64 = 3;
    /// Nothing more.
    pub const LOST: u64 = 4;
    /// Nothing more.
    pub const METHOD_REMOVED: u64 = 5;
    /// Nothing more.
    pub const DESTROYED: u64 = 6;
    /// Nothing more.
    pub const OWNER_GONE: u64 = 7;
    /// Its subscriber reads too slowly.
    pub const TOO_SLOW: u64 = 8;
}

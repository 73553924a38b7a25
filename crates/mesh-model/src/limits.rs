//! Every bound that a stranger can reach, by name.
//!
//! An error that a limit causes names it with the word used here.

/// Deepest nesting of JSON that any part of the mesh reads. An operator may set less for what applications
/// send; shared contexts grow deeper than any one message.
pub const JSON_DEPTH_MAX: usize = 128;
/// Longest name: of a method, a context, a topic. Bytes.
pub const NAME_BYTES_MAX: usize = 1024;

/// How complicated a message of an application may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonLimits {
    /// Deepest nesting (`json_depth_max`).
    pub depth_max: usize,
    /// Members of one object (`json_keys_max`).
    pub keys_max: usize,
}

impl JsonLimits {
    /// For what has been checked before, and what other nodes send.
    pub const WIDEST: Self = Self { depth_max: JSON_DEPTH_MAX, keys_max: usize::MAX };
}

impl Default for JsonLimits {
    fn default() -> Self {
        Self { depth_max: 64, keys_max: 10_000 }
    }
}

/// The bounds of the core that an operator may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest message from or to an application, in bytes (`message_bytes_max`).
    pub message_bytes_max: usize,
    /// Bytes waiting to be written to one application before it is closed as too slow
    /// (`session_outbox_bytes_max`).
    pub session_outbox_bytes_max: usize,
    /// Sessions on this node (`sessions_max`).
    pub sessions_max: usize,
    /// Sessions of one user on this node (`sessions_per_user_max`).
    pub sessions_per_user_max: usize,
    /// Methods and streams of one session (`methods_per_session_max`).
    pub methods_per_session_max: usize,
    /// Stream and bus subscriptions of one session, each (`subscriptions_per_session_max`).
    pub subscriptions_per_session_max: usize,
    /// Shared contexts that one session is subscribed to (`contexts_per_session_max`).
    pub contexts_per_session_max: usize,
    /// Calls of one session that wait for their end (`calls_per_session_max`).
    pub calls_per_session_max: usize,
    /// Changes to shared contexts that one session may make per second, 0 for any number
    /// (`context_updates_per_second_max`).
    pub context_updates_per_second_max: u64,
    /// Replicated entries of a domain: registrations, context keys and their tombstones
    /// (`domain_entries_max`).
    pub domain_entries_max: usize,
    /// Bytes of replicated keys and values of a domain (`domain_bytes_max`).
    pub domain_bytes_max: usize,
    /// How far ahead of this node's clock the stamps of another node's writes may be, in milliseconds
    /// (`clock_skew_ms_max`).
    pub clock_skew_ms_max: u64,
    /// Bytes of an unfinished batch from one link (`batch_bytes_max`).
    pub batch_bytes_max: usize,
    /// Messages from one link that wait for a replicated write (`held_messages_max`).
    pub held_messages_max: usize,
    /// Longest life of a call without an answer, in milliseconds (`call_ms_max`).
    pub call_ms_max: u64,
    /// How long the core may stand still before the program ends, in milliseconds, 0 for ever
    /// (`core_stall_ms_max`).
    pub core_stall_ms_max: u64,
    /// Sessions that ended without a goodbye and are remembered, in case their clients return
    /// (`departed_sessions_max`).
    pub departed_sessions_max: usize,
    /// Bytes of what they were shown of their contexts (`departed_bytes_max`).
    pub departed_bytes_max: usize,
    /// How long they are remembered, in milliseconds (`departed_ms_max`).
    pub departed_ms_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 16 << 20,
            session_outbox_bytes_max: 64 << 20,
            sessions_max: 10_000,
            sessions_per_user_max: 4_096,
            methods_per_session_max: 4_096,
            subscriptions_per_session_max: 4_096,
            contexts_per_session_max: 4_096,
            calls_per_session_max: 4_096,
            context_updates_per_second_max: 0,
            domain_entries_max: 200_000,
            domain_bytes_max: 256 << 20,
            clock_skew_ms_max: 7_200_000,
            batch_bytes_max: 320 << 20,
            held_messages_max: 8_192,
            call_ms_max: 600_000,
            core_stall_ms_max: 10_000,
            departed_sessions_max: 1_024,
            departed_bytes_max: 32 << 20,
            departed_ms_max: 600_000,
        }
    }
}

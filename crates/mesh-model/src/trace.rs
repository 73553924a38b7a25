//! Trace context: which trace an operation belongs to, carried as data.

/// The position of an operation in a distributed trace (W3C trace context, level 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: u128,
    /// The span that caused this operation.
    pub span_id: u64,
    /// Whether spans of this trace are recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// Returns the span id of a child, told apart from its siblings by `salt`.
    ///
    /// A pure function, so that the core can name spans without randomness: as unpredictable as the
    /// ids it is made from.
    #[must_use]
    pub fn child_id(&self, salt: u64) -> u64 {
        #[expect(clippy::cast_possible_truncation, reason = "both halves are mixed in")]
        let mut x = self.span_id
            ^ (self.trace_id as u64)
            ^ ((self.trace_id >> 64) as u64)
            ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)).max(1)
    }
}

/// One finished hop of a call, as the node that made it saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The trace.
    pub trace_id: u128,
    /// This hop.
    pub span_id: u64,
    /// What caused it.
    pub parent_span_id: u64,
    /// Which hop it is.
    pub kind: HopKind,
    /// The method's name.
    pub method: crate::Text,
    /// When it began.
    pub start: crate::Tick,
    /// When it ended.
    pub end: crate::Tick,
    /// Where the call went, and why there.
    pub route: Route,
    /// The application that called.
    pub caller_application: crate::Text,
    /// The other node, if any: its name.
    pub node: Option<crate::Text>,
    /// How it ended: a word of the closed list of outcomes.
    pub outcome: &'static str,
}

/// Which part of a call's journey a [`Hop`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopKind {
    /// From the caller's socket to its answer, at the caller's node.
    Ingress,
    /// From one node to another, at the caller's node.
    Forward,
    /// From arrival to the callee's answer, at the callee's node.
    Egress,
}

/// Why a call went where it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The caller named an instance of this node.
    LocalInstance,
    /// The caller named an instance of another node although this node has a provider.
    RemoteInstanceChosen,
    /// The caller named an instance of another node, and this node has no provider.
    RemoteInstanceOnly,
    /// Nobody to call.
    None,
}

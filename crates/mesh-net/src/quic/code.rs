//! Why a link is closed: the codes that go over the wire, and words for the log.

use quinn::{ConnectionError, VarInt};

/// The application close code of a connection. Others than these belong to the user of the links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(pub u32);

impl CloseCode {
    /// The link, or the join, has served its purpose.
    pub const DONE: Self = Self(0);
    /// The dialler showed no certificate.
    pub const NO_CERTIFICATE: Self = Self(0x101);
    /// The dialler's certificate is of another authority, expired or malformed.
    pub const UNTRUSTED: Self = Self(0x102);
    /// The dialler belongs to someone else.
    pub const WRONG_OWNER: Self = Self(0x103);
    /// The dialler has the identity of the node it dialled: itself, or a clone.
    pub const OWN_NODE: Self = Self(0x104);
    /// A stream names no lane, names one twice, or ended before its time.
    pub const BAD_STREAM: Self = Self(0x105);
    /// A frame is larger than this end takes.
    pub const FRAME_TOO_LARGE: Self = Self(0x106);
    /// A queue or a table is full.
    pub const OVERLOADED: Self = Self(0x107);
    /// The node stops.
    pub const SHUTTING_DOWN: Self = Self(0x108);
    /// A join request is not one.
    pub const BAD_JOIN: Self = Self(0x109);
    /// A defect of the closing node.
    pub const INTERNAL: Self = Self(0x10a);
}

impl From<CloseCode> for VarInt {
    fn from(code: CloseCode) -> Self {
        Self::from_u32(code.0)
    }
}

/// Says in words why a connection ended.
pub(super) fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => format!("closed by peer: {}", printable(&close.reason)),
        ConnectionError::ConnectionClosed(close) => {
            format!("aborted by peer: {} {}", close.error_code, printable(&close.reason))
        }
        ConnectionError::Reset => "peer has restarted".to_owned(),
        // What closes a link by itself leaves a reason; this is the endpoint closing all of them.
        ConnectionError::LocallyClosed => "closed here: shutting down".to_owned(),
        error => printable(error.to_string().as_bytes()),
    }
}

/// Makes text of a stranger fit for a log line.
pub(super) fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|char| !char.is_control()).take(REASON_CHARS_MAX).collect()
}

const REASON_CHARS_MAX: usize = 200;

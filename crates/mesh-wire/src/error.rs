//! Why a frame is not a message.

use mesh_model::JsonError;

/// Why a frame could not be decoded. Nothing of it takes effect.
///
/// But for [`is_ignorable`](Self::is_ignorable) the peer is broken or hostile, and the link is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A kind of message that this node does not know. The frame is otherwise sound.
    #[error("unknown message kind {kind:#x}")]
    UnknownKind {
        /// The kind.
        kind: u64,
    },
    /// The frame ends inside a value.
    #[error("the frame ends inside a value")]
    End,
    /// Something follows the message.
    #[error("something follows the message at byte {at}")]
    Trailing {
        /// Offset in bytes.
        at: usize,
    },
    /// The first value is not an array of at least a kind and its fields.
    #[error("the frame is not an array of a kind and its fields")]
    Shape,
    /// A byte that MessagePack does not use, or a value of another type than the field has.
    #[error("unexpected value at byte {at}")]
    Unexpected {
        /// Offset in bytes.
        at: usize,
    },
    /// Nested deeper than any message is.
    #[error("values are nested deeper than {} levels", crate::message::DEPTH_MAX)]
    TooDeep,
    /// A field without which the message means nothing.
    #[error("field {field} is missing")]
    Missing {
        /// Its letter.
        field: char,
    },
    /// A number or an id that the field cannot hold.
    #[error("a value is out of range before byte {at}")]
    OutOfRange {
        /// Offset of the byte after it.
        at: usize,
    },
    /// An entry of a batch names an origin that the batch's table does not have.
    #[error("origin {index} is not in the table")]
    UnknownOrigin {
        /// The index.
        index: u64,
    },
    /// A version vector has two numbers for one origin.
    #[error("an origin stands twice in a vector")]
    OriginTwice,
    /// Text that is not UTF-8.
    #[error("text is not utf-8")]
    Text(#[from] std::str::Utf8Error),
    /// An application's value that is not JSON.
    #[error("a payload is not json")]
    Json(#[from] JsonError),
}

impl WireError {
    /// Returns whether the frame is to be skipped and the link to go on: a newer node said something
    /// that older ones need not understand.
    #[must_use]
    pub const fn is_ignorable(&self) -> bool {
        matches!(self, Self::UnknownKind { kind } if *kind < crate::message::CRITICAL)
    }
}

//! Node-to-node frames: MessagePack in, link messages out.
//!
//! A frame is a length and a body; this crate makes and reads the body, and `mesh-net` does the rest.
//! A body is one MessagePack array `[kind, fields, …]`: [`message`] has the kinds and their fields.
//!
//! Old and new nodes talk to each other, so what a reader does not know it passes over: elements
//! beyond the second, fields of other letters, kinds below [`message::CRITICAL`]. What it does know
//! must be right: bytes of a peer are checked here, once, and trusted afterwards.

mod decode;
mod encode;
mod error;
pub mod message;

pub use decode::decode;
pub use encode::encode;
pub use error::WireError;

#[cfg(test)]
mod tests;

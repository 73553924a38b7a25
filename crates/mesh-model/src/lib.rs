//! The words of the mesh: ids, values, commands, events, reasons, limits.
//!
//! Every protocol crate and the core speak these types and nothing of each other. Nothing here has
//! a wire form: a crate that puts bytes on a wire converts by hand.

mod id;
mod text;

pub use id::*;
pub use text::Text;

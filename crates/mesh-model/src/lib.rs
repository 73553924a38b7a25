//! The words of the mesh: ids, values, commands, events, reasons, limits.
//!
//! Every protocol crate and the core speak these types and nothing of each other. Nothing here has
//! a wire form: a crate that puts bytes on a wire converts by hand.
//!
//! An application's request is a [`Command`]; what its node tells it is an [`Event`]; what nodes tell
//! each other is a [`LinkMessage`]. Application values are [`Json`] text throughout.

pub mod command;
pub mod event;
mod id;
pub mod json;
pub mod limits;
pub mod link;
mod reason;
mod text;
mod time;
pub mod trace;

pub use command::{Answer, Area, Arguments, Command, Lifetime, Permissions, Request, Words};
pub use event::{CallFailure, Cause, Event, Outcome, SlowPolicy};
pub use id::*;
pub use json::{Json, JsonError, Key, Kind};
pub use limits::Limits;
pub use link::{LinkMessage, LinkPeer, VersionVector};
pub use reason::Reason;
pub use text::Text;
pub use time::{Hlc, Now, Stamp, Tick};

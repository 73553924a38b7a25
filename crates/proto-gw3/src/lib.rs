//! The GW3 protocol of io.Connect clients: JSON text in, commands out; events in, JSON text out.
//!
//! One [`Connection`] per WebSocket. It knows which peers have logged in on it and nothing else; all
//! other state is the node's. [`Connection::decode`] turns a frame into an [`Incoming`];
//! [`Connection::encode`] writes the frame for an event. Payloads pass through as the text they came in.
//!
//! Ids on this wire: `peer_id` is the node's instance id; an invocation or subscription is `r-` and the
//! node's number for it. The answer to a request goes to the *domain* the client listens in, which for
//! `join` and `leave` is the destination; [`Domain`] travels in
//! [`Request::face`](mesh_model::Request) for that.

mod decode;
mod encode;
mod message;
#[cfg(test)]
mod tests;

pub use decode::{Incoming, Login, traceparent};
pub use message::{Connection, Domain};

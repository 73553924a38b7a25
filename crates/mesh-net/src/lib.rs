//! Sockets, TLS and the clock: the shell around the pure crates.
//!
//! [`clock`] is the one place where time is read. [`quic`] carries frames between nodes and admits
//! nodes that join; what the frames say is the business of others.

pub mod clock;
pub mod quic;

//! Fuzz targets: bytes in, and a panic if a promise is broken.
//!
//! The same functions run under libFuzzer (`libfuzzer/`, which needs a nightly toolchain) and in the
//! ordinary tests of this crate, which drive them with seeded inputs and the committed corpus.
//! `docs/fuzzing.md` says what each of them promises.

mod bridge_frame;
mod choices;
mod context_delta;
mod dacp_session;
mod desk;
mod fdc3_hello;
mod gw3_session;
mod json;
mod mesh;
mod mesh_frame;
mod model;
pub mod seeded;

pub use bridge_frame::bridge_frame;
pub use context_delta::context_delta;
pub use dacp_session::dacp_session;
pub use fdc3_hello::fdc3_hello;
pub use gw3_session::gw3_session;
pub use json::json;
pub use mesh_frame::mesh_frame;

/// A fuzz target: panics if a promise is broken.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Target); 7] = [
    ("gw3_session", gw3_session),
    ("context_delta", context_delta),
    ("mesh_frame", mesh_frame),
    ("json", json),
    ("dacp_session", dacp_session),
    ("fdc3_hello", fdc3_hello),
    ("bridge_frame", bridge_frame),
];

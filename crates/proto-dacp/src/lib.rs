//! The messages of FDC3 apps: the Desktop Agent Communication Protocol (DACP) of FDC3 2.2 with what 3.0
//! adds, and the first frames by which an app gets a connection (WCP, and the draft WSCP).
//!
//! All of them are JSON objects with `type`, `payload` and `meta`, one to a frame. [`decode`] tells what
//! an app asks for; [`response`], [`event`] and the functions of [`connect`] write what it is told.
//! Contexts, and what 3.0 calls metadata, pass through as the text they came in: they may be signed.
//!
//! Nothing here knows the time or makes up ids: a [`Stamp`] brings both.

mod build;
pub mod connect;
mod error;
mod request;
#[cfg(test)]
mod tests;
mod time;

pub use build::{Object, array};
pub use connect::{Hello, decode_hello};
pub use error::Fault;
pub use request::{AppRef, Incoming, Request, decode};
pub use time::{Stamp, iso_time};

use bytes::Bytes;
use mesh_model::{Json, Text};

/// Returns the answer to a request: its name with `Response` in the place of `Request`.
#[must_use]
pub fn response(name: &str, request_uuid: &Json, payload: &Json, stamp: &Stamp) -> Bytes {
    let name = format!("{}Response", name.strip_suffix("Request").unwrap_or(name));
    let meta = Object::new()
        .json("requestUuid", request_uuid)
        .text("responseUuid", &stamp.uuid)
        .text("timestamp", &iso_time(stamp.wall_ms))
        .end();
    message(&name, payload, &meta)
}

/// Returns the answer to a request that failed.
#[must_use]
pub fn refusal(name: &str, request_uuid: &Json, fault: Fault, stamp: &Stamp) -> Bytes {
    response(name, request_uuid, &Object::new().text("error", fault.word()).end(), stamp)
}

/// Returns an event.
#[must_use]
pub fn event(name: &str, payload: &Json, stamp: &Stamp) -> Bytes {
    let meta = Object::new().text("eventUuid", &stamp.uuid).text("timestamp", &iso_time(stamp.wall_ms)).end();
    message(name, payload, &meta)
}

fn message(name: &str, payload: &Json, meta: &Json) -> Bytes {
    Object::new().text("type", name).json("payload", payload).json("meta", meta).end().as_bytes().clone()
}

/// Returns a context's type; `None` if it is no context.
#[must_use]
pub fn context_type(context: &Json) -> Option<Text> {
    context.member("type")?.as_text().filter(|kind| !kind.is_empty())
}

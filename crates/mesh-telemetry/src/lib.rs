//! Traces and logs: what a node tells an operator, by name.
//!
//! The core is pure: it decides which spans there are, numbers them and times them. This crate takes
//! the finished [`SpanRecord`]s and sends them to an OpenTelemetry collector, so a span costs the core
//! a struct and the shell one push to a bounded queue. Nothing here can hold a message up: a collector
//! that is slow or gone costs spans, which are counted, and one warning a minute.
//!
//! * [`Telemetry`] exports spans; [`SpanRecord`] is one.
//! * [`names`] has every name an operator can search for.
//! * [`traceparent`] reads and writes the W3C trace context, as a pure function on bytes.
//! * [`sampling`] decides which new traces are kept.
//! * [`logging`] sets up the log on standard error.

mod export;
mod hop;
pub mod logging;
pub mod names;
pub mod sampling;
mod span;
pub mod traceparent;
mod worker;

pub use export::{
    QUEUE_LEN_MAX, SHUTDOWN_TIMEOUT, Telemetry, TelemetryError, TelemetrySettings, check_endpoint,
};
pub use span::{AttributeValue, SpanKind, SpanRecord, SpanStatus};

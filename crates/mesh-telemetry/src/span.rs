//! One finished span, as plain data.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

/// A finished span of a trace that is kept.
///
/// Ids and times come from whoever made the span; nothing is filled in later.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanRecord {
    /// The trace; never zero.
    pub trace_id: u128,
    /// The span; never zero.
    pub span_id: u64,
    /// The span that caused this one, unless it begins a trace.
    pub parent_span_id: Option<u64>,
    /// What was done, from a small set: see [`names`](crate::names).
    pub name: String,
    /// Which side of an exchange this is.
    pub kind: SpanKind,
    /// When it began, in nanoseconds since 1970.
    pub start_unix_nanos: u64,
    /// When it ended, in nanoseconds since 1970.
    pub end_unix_nanos: u64,
    /// What else there is to say, by names of [`names`](crate::names).
    pub attributes: Vec<(&'static str, AttributeValue)>,
    /// How it ended.
    pub status: SpanStatus,
}

/// Which side of an exchange a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Received a call, and answers it.
    Server,
    /// Sent a call, and waits for the answer.
    Client,
    /// Sent a message that nobody answers.
    Producer,
    /// Received such a message.
    Consumer,
    /// Work within a node.
    Internal,
}

/// How a span ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpanStatus {
    /// As it should. Travels as "unset", since "ok" is for applications to claim.
    Ok,
    /// It failed, in these words.
    Error(String),
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    /// Text.
    Text(Cow<'static, str>),
    /// A number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// Yes or no.
    Bool(bool),
}

impl SpanRecord {
    /// Returns the SDK's form of this span.
    pub(crate) fn into_span_data(self, scope: &InstrumentationScope) -> SpanData {
        SpanData {
            span_context: SpanContext::new(
                TraceId::from(self.trace_id),
                SpanId::from(self.span_id),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: self.parent_span_id.map_or(SpanId::INVALID, SpanId::from),
            // What is received was sent by another process.
            parent_span_is_remote: self.parent_span_id.is_some()
                && matches!(self.kind, SpanKind::Server | SpanKind::Consumer),
            span_kind: self.kind.into(),
            name: self.name.into(),
            start_time: time(self.start_unix_nanos),
            end_time: time(self.end_unix_nanos),
            attributes: self.attributes.into_iter().map(|(name, value)| KeyValue::new(name, value)).collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: match self.status {
                SpanStatus::Ok => Status::Unset,
                SpanStatus::Error(description) => Status::error(description),
            },
            instrumentation_scope: scope.clone(),
        }
    }
}

fn time(unix_nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_nanos)
}

impl From<SpanKind> for opentelemetry::trace::SpanKind {
    fn from(kind: SpanKind) -> Self {
        match kind {
            SpanKind::Server => Self::Server,
            SpanKind::Client => Self::Client,
            SpanKind::Producer => Self::Producer,
            SpanKind::Consumer => Self::Consumer,
            SpanKind::Internal => Self::Internal,
        }
    }
}

impl From<AttributeValue> for Value {
    fn from(value: AttributeValue) -> Self {
        match value {
            AttributeValue::Text(text) => Self::String(StringValue::from(text)),
            AttributeValue::Int(number) => Self::I64(number),
            AttributeValue::Float(number) => Self::F64(number),
            AttributeValue::Bool(yes) => Self::Bool(yes),
        }
    }
}

impl From<&'static str> for AttributeValue {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for AttributeValue {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<i64> for AttributeValue {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<f64> for AttributeValue {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl From<bool> for AttributeValue {
    fn from(yes: bool) -> Self {
        Self::Bool(yes)
    }
}

//! Application data as it travels.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

/// JSON text from another app, parsed only when somebody asks.
#[derive(Clone)]
pub struct Payload(Box<RawValue>);

impl Payload {
    pub(crate) fn new(raw: &RawValue) -> Self {
        Self(raw.to_owned())
    }

    /// An absent payload is null.
    pub(crate) fn from_option(raw: Option<&RawValue>) -> Self {
        Self::new(raw.unwrap_or(RawValue::NULL))
    }

    /// Returns the text as it was sent.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.get()
    }

    /// Returns the text as raw JSON, to pass on.
    #[must_use]
    pub fn raw(&self) -> &RawValue {
        &self.0
    }

    /// Parses it into a tree.
    ///
    /// # Errors
    ///
    /// If it holds what a `Value` cannot, such as a lone surrogate.
    pub fn value(&self) -> Result<Value, serde_json::Error> {
        self.parse()
    }

    /// Parses it into a type of the app's own.
    ///
    /// # Errors
    ///
    /// If it is not such a value.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get())
    }
}

impl From<Box<RawValue>> for Payload {
    fn from(raw: Box<RawValue>) -> Self {
        Self(raw)
    }
}

impl From<Payload> for Box<RawValue> {
    fn from(payload: Payload) -> Self {
        payload.0
    }
}

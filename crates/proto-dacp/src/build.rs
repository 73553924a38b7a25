//! Writing JSON objects.

use mesh_model::Json;
use mesh_model::json::write_string;

/// A JSON object that is being written.
#[derive(Debug)]
pub struct Object(Vec<u8>);

impl Object {
    /// Begins an object.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "an object that is begun is to be ended")]
    pub fn new() -> Self {
        Self(vec![b'{'])
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        write_string(&mut self.0, name.as_bytes());
        self.0.push(b':');
    }

    /// Adds a member as it is.
    #[must_use]
    pub fn json(mut self, name: &str, value: &Json) -> Self {
        self.name(name);
        self.0.extend_from_slice(value.as_bytes());
        self
    }

    /// Adds a member if there is a value.
    #[must_use]
    pub fn some(self, name: &str, value: Option<&Json>) -> Self {
        match value {
            Some(value) => self.json(name, value),
            None => self,
        }
    }

    /// Adds a member, `null` without a value.
    #[must_use]
    pub fn or_null(self, name: &str, value: Option<&Json>) -> Self {
        match value {
            Some(value) => self.json(name, value),
            None => self.json(name, &Json::null()),
        }
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        write_string(&mut self.0, value.as_bytes());
        self
    }

    /// Adds a text if there is one.
    #[must_use]
    pub fn some_text(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// Adds a text, `null` without one.
    #[must_use]
    pub fn text_or_null(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(name, value),
            None => self.json(name, &Json::null()),
        }
    }

    /// Adds a truth value.
    #[must_use]
    pub fn flag(self, name: &str, value: bool) -> Self {
        self.json(name, &Json::from_static(if value { "true" } else { "false" }))
    }

    /// Adds a whole number.
    #[must_use]
    pub fn number(mut self, name: &str, value: u64) -> Self {
        self.name(name);
        self.0.extend_from_slice(value.to_string().as_bytes());
        self
    }

    /// Ends it.
    #[must_use]
    pub fn end(mut self) -> Json {
        self.0.push(b'}');
        Json::assembled(self.0)
    }
}

/// Returns an array of these.
#[must_use]
pub fn array<'a>(elements: impl IntoIterator<Item = &'a Json>) -> Json {
    let mut out = vec![b'['];
    for element in elements {
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(element.as_bytes());
    }
    out.push(b']');
    Json::assembled(out)
}

//! Restriction expressions: a condition on two identities, as applications write them.
//!
//! ```text
//! expression = comparison (("&&" | "||") comparison)…     equal precedence, from the left
//! comparison = term (("==" | "!=" | "?") term)…           from the left
//! term       = $word | #word | number | 'text' | ( expression )
//! ```
//!
//! `$word` is a field of the other's identity, `#word` one of the owner's: of the peer that joined with
//! the restriction, the method's provider, the context's creator. A missing field is null. `a ? b` holds
//! if the text `a` matches the regular expression `b` as a whole. Only null and false do not hold.
//! Spaces and tabs may stand before each part, and not at the end.

use mesh_model::{Json, Kind};
use regex::RegexBuilder;

/// Longest expression, in bytes (`restriction_bytes_max`).
const RESTRICTION_BYTES_MAX: usize = 1024;
/// Deepest nesting of brackets (`restriction_depth_max`).
const RESTRICTION_DEPTH_MAX: usize = 32;
/// Largest compiled regular expression, in bytes: the bound of what matching can cost.
const REGEX_BYTES_MAX: usize = 256 << 10;

/// A parsed expression.
#[derive(Clone, Debug)]
pub(crate) struct Restriction {
    text: String,
    root: Expression,
}

#[derive(Clone, Debug)]
enum Expression {
    Other(String),
    Own(String),
    Literal(Value),
    Both(Box<Self>, Box<Self>),
    Either(Box<Self>, Box<Self>),
    Equal(Box<Self>, Box<Self>),
    Unequal(Box<Self>, Box<Self>),
    /// A pattern that is written out is kept compiled.
    MatchesPattern(Box<Self>, Box<regex::Regex>),
    Matches(Box<Self>, Box<Self>),
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    /// An object, an array, or text that is not UTF-8: as written.
    Raw(Json),
}

impl Value {
    fn of(identity: &Json, field: &str) -> Self {
        let Some(value) = identity.member(field) else { return Self::Null };
        let number = || std::str::from_utf8(value.as_bytes()).ok()?.parse().ok();
        match value.kind() {
            Kind::Null => Self::Null,
            Kind::Bool => Self::Bool(value.as_bytes() == &b"true"[..]),
            Kind::Number => number().map_or(Self::Raw(value.clone()), Self::Number),
            Kind::String => value.as_text().map_or(Self::Raw(value), |text| Self::Text(text.to_string())),
            Kind::Object | Kind::Array => Self::Raw(value),
        }
    }

    const fn holds(&self) -> bool {
        !matches!(self, Self::Null | Self::Bool(false))
    }
}

impl Restriction {
    /// Parses an expression; an empty one is none.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        if text.len() > RESTRICTION_BYTES_MAX {
            return Err(format!(
                "it is longer than {RESTRICTION_BYTES_MAX} bytes (limit restriction_bytes_max)"
            ));
        }
        let mut parser = Parser { text, at: 0, depth: 0 };
        let root = parser.expression()?;
        match parser.rest().is_empty() {
            true => Ok(Some(Self { text: text.to_owned(), root })),
            false => Err(parser.expected("&&, ||, ==, != or ?, or the end")),
        }
    }

    /// Returns one that nobody fulfils.
    pub(crate) const fn never() -> Self {
        Self { text: String::new(), root: Expression::Literal(Value::Bool(false)) }
    }

    /// Returns the expression as it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Returns whether `other` fulfils what `own` asks for.
    pub(crate) fn holds(&self, own: &Json, other: &Json) -> bool {
        self.root.value(own, other).holds()
    }
}

impl Expression {
    fn value(&self, own: &Json, other: &Json) -> Value {
        let eval = |part: &Self| part.value(own, other);
        Value::Bool(match self {
            Self::Other(field) => return Value::of(other, field),
            Self::Own(field) => return Value::of(own, field),
            Self::Literal(value) => return value.clone(),
            Self::Both(a, b) => eval(a).holds() && eval(b).holds(),
            Self::Either(a, b) => eval(a).holds() || eval(b).holds(),
            Self::Equal(a, b) => eval(a) == eval(b),
            Self::Unequal(a, b) => eval(a) != eval(b),
            Self::MatchesPattern(a, pattern) => {
                matches!(eval(a), Value::Text(text) if pattern.is_match(&text))
            }
            Self::Matches(a, b) => match (eval(a), eval(b)) {
                (Value::Text(text), Value::Text(pattern)) => whole(&pattern).is_ok_and(|p| p.is_match(&text)),
                _ => false,
            },
        })
    }
}

/// Compiles a regular expression that has to match a text as a whole.
pub(crate) fn whole(pattern: &str) -> Result<regex::Regex, regex::Error> {
    compile(&format!("^(?:{pattern})$"))
}

/// Compiles a regular expression, of bounded size: matching takes time in proportion to it.
pub(crate) fn compile(pattern: &str) -> Result<regex::Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX).build()
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn expected(&self, what: &str) -> String {
        format!("expected {what} at byte {}", self.at)
    }

    /// Takes a token, and the blanks before it only together with it.
    fn take(&mut self, token: &str) -> bool {
        let blanks = self.blanks();
        let found = self.rest()[blanks..].starts_with(token);
        if found {
            self.at += blanks + token.len();
        }
        found
    }

    fn blanks(&self) -> usize {
        self.rest().bytes().take_while(|byte| matches!(byte, b' ' | b'\t')).count()
    }

    fn expression(&mut self) -> Result<Expression, String> {
        let mut left = self.comparison()?;
        loop {
            left = if self.take("&&") {
                Expression::Both(Box::new(left), Box::new(self.comparison()?))
            } else if self.take("||") {
                Expression::Either(Box::new(left), Box::new(self.comparison()?))
            } else {
                return Ok(left);
            };
        }
    }

    fn comparison(&mut self) -> Result<Expression, String> {
        let mut left = self.term()?;
        loop {
            left = if self.take("==") {
                Expression::Equal(Box::new(left), Box::new(self.term()?))
            } else if self.take("!=") {
                Expression::Unequal(Box::new(left), Box::new(self.term()?))
            } else if self.take("?") {
                match self.term()? {
                    Expression::Literal(Value::Text(text)) => {
                        let pattern =
                            whole(&text).map_err(|_| format!("'{text}' is not a regular expression"))?;
                        Expression::MatchesPattern(Box::new(left), Box::new(pattern))
                    }
                    pattern => Expression::Matches(Box::new(left), Box::new(pattern)),
                }
            } else {
                return Ok(left);
            };
        }
    }

    fn term(&mut self) -> Result<Expression, String> {
        if self.take("(") {
            self.depth += 1;
            if self.depth > RESTRICTION_DEPTH_MAX {
                return Err(format!(
                    "brackets are nested deeper than {RESTRICTION_DEPTH_MAX} (limit restriction_depth_max)"
                ));
            }
            let inner = self.expression()?;
            self.depth -= 1;
            return if self.take(")") { Ok(inner) } else { Err(self.expected(")")) };
        }
        if self.take("$") {
            return Ok(Expression::Other(self.word()?));
        }
        if self.take("#") {
            return Ok(Expression::Own(self.word()?));
        }
        if self.take("'") {
            let end = self.rest().find('\'').ok_or_else(|| self.expected("a closing '"))?;
            if end == 0 {
                return Err(self.expected("text between the quotes"));
            }
            let text = self.rest()[..end].to_owned();
            self.at += end + 1;
            return Ok(Expression::Literal(Value::Text(text)));
        }
        self.number()
    }

    fn word(&mut self) -> Result<String, String> {
        let length = self.rest().bytes().take_while(u8::is_ascii_alphabetic).count();
        if length == 0 {
            return Err(self.expected("a name of letters"));
        }
        let word = self.rest()[..length].to_owned();
        self.at += length;
        Ok(word)
    }

    fn number(&mut self) -> Result<Expression, String> {
        let blanks = self.blanks();
        let text = &self.rest()[blanks..];
        let sign = usize::from(text.starts_with(['-', '+']));
        let digits = |from: usize| text.bytes().skip(from).take_while(u8::is_ascii_digit).count();
        let before = digits(sign);
        let mut length = sign + before;
        if text[length..].starts_with('.') && digits(length + 1) > 0 {
            length += 1 + digits(length + 1);
        }
        match text[..length].parse() {
            Ok(number) if length > sign => {
                self.at += blanks + length;
                Ok(Expression::Literal(Value::Number(number)))
            }
            _ => Err(self.expected("$name, #name, a number, 'text' or (")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = r#"{"application":"A","user":"joe","process":7,"region":null}"#;
    const OTHER: &str = r#"{"application":"B","user":"joe","process":7.0,"ok":false,"tags":["x"]}"#;

    fn holds(text: &str) -> bool {
        let json = |text: &'static str| Json::parse(bytes::Bytes::from_static(text.as_bytes())).unwrap();
        Restriction::parse(text).unwrap().unwrap().holds(&json(OWN), &json(OTHER))
    }

    #[test]
    fn expressions_mean_what_they_say() {
        for text in [
            "$application == 'B'",
            "#application=='A'",
            "$user == #user",
            "$process == #process",
            "$process == 7",
            "$nothing == #region",
            "$user",
            "'x'",
            "\t($application == 'B') && ($user=='joe')",
            "$application ? '[A-C]'",
            "'abc' ? 'a.*'",
            "$process != -1.5",
            "$tags != #tags",
            "0",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in [
            "$application == 'A'",
            "$ok",
            "$nothing",
            "$user ? 'jo'",
            "$nothing ? '.*'",
            "#process ? '7'",
            // From the left, with equal precedence.
            "'a'=='a' || 'a'=='a' && $ok",
            "$user ? $tags",
        ] {
            assert!(!holds(text), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(Restriction::parse("").unwrap().is_none());
        for text in [
            "(((", "$a ", "''", "\"a\"", "!$a", "$a.b", "$a_b", "$a ==", "$", "'a", "&&", "$a $b", "1.", ")",
            "$a ? '('", "-",
        ] {
            let problem = Restriction::parse(text).unwrap_err();
            assert!(!problem.is_empty(), "{text}");
        }
        let long = "$a".to_owned() + &" == $a".repeat(300);
        assert!(Restriction::parse(&long).unwrap_err().contains("restriction_bytes_max"));
        let deep = "(".repeat(100);
        assert!(Restriction::parse(&deep).unwrap_err().contains("restriction_depth_max"));
    }
}

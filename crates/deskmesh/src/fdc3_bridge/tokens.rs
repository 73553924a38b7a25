//! Tokens by which a bridge and its agents prove to each other that they know one secret.
//!
//! They are JSON Web Tokens (HS256) with `aud`, `exp` and `jti`. FDC3 leaves open what a token holds; this
//! much keeps one from being used by the other side, later, or twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use mesh_model::Text;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};

/// How long a token works, in seconds: as long as the handshake for which it is made, with some to spare.
const LIFETIME_S: u64 = 60;
/// The longest that a token of others may work, in seconds (limit `bridge_token_s_max`).
const LIFETIME_S_MAX: u64 = 300;
/// Tokens that have been shown and are remembered until they expire (limit `bridge_tokens_max`).
const SHOWN_MAX: usize = 4_096;
/// The shortest secret, in bytes: as much as HS256 mixes in.
const SECRET_BYTES_MIN: usize = 32;
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// Whom a token is shown to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A bridge, with the handshake.
    Bridge,
    /// An agent, with `hello`.
    Agent,
}

impl Audience {
    const fn word(self) -> &'static str {
        match self {
            Self::Bridge => "desktop-agent-bridge",
            Self::Agent => "desktop-agent",
        }
    }
}

/// Makes and checks tokens under one secret.
#[derive(Debug)]
pub struct BridgeTokens {
    key: hmac::Key,
    /// Those that have been shown, with when they expire, in seconds.
    shown: Mutex<BTreeMap<String, u64>>,
}

impl BridgeTokens {
    /// Makes them.
    ///
    /// # Errors
    ///
    /// Fails if the secret is too short.
    pub fn new(secret: &[u8]) -> io::Result<Self> {
        if secret.len() < SECRET_BYTES_MIN {
            let problem = format!("the secret is shorter than {SECRET_BYTES_MIN} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret), shown: Mutex::default() })
    }

    /// Reads the secret from a file, without the white space around it.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be read, or is too short.
    pub fn read(file: &Path) -> io::Result<Self> {
        Self::new(fs::read(file)?.trim_ascii())
    }

    /// Makes a token that is new. There is none if the system gives no random bytes.
    #[must_use]
    pub fn make(&self, audience: Audience, wall_ms: u64) -> Option<Text> {
        let mut id = [0; 16];
        SystemRandom::new().fill(&mut id).ok()?;
        let claims = json!({
            "aud": audience.word(),
            "exp": wall_ms / 1_000 + LIFETIME_S,
            "jti": BASE64.encode(id),
        });
        Some(self.signed(&claims).into())
    }

    fn signed(&self, claims: &Value) -> String {
        let signed = format!("{}.{}", BASE64.encode(HEADER), BASE64.encode(claims.to_string()));
        let tag = hmac::sign(&self.key, signed.as_bytes());
        format!("{signed}.{}", BASE64.encode(tag))
    }

    /// Checks a token that somebody shows, who may do so once.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with it.
    pub fn check(&self, audience: Audience, token: Option<&Text>, wall_ms: u64) -> Result<(), String> {
        let now_s = wall_ms / 1_000;
        let token =
            token.ok_or("an authToken is needed: a JSON Web Token (HS256) under the shared secret")?;
        let claims =
            self.claims(token).ok_or("the authToken is not signed with the shared secret (HS256)")?;
        let word = audience.word();
        let is_for = |aud: &Value| aud.as_str() == Some(word);
        let is_meant =
            is_for(&claims["aud"]) || claims["aud"].as_array().is_some_and(|all| all.iter().any(is_for));
        if !is_meant {
            return Err(format!("the authToken is not for this: its `aud` must be `{word}`"));
        }
        let exp = claims["exp"].as_i64().map(|exp| exp.max(0).unsigned_abs());
        let exp = exp.ok_or("the authToken has no `exp`, the second since 1970 at which it expires")?;
        if exp <= now_s {
            return Err("the authToken has expired: make a new one for each handshake".to_owned());
        }
        if exp > now_s + LIFETIME_S_MAX {
            return Err(format!(
                "the authToken works for too long: `exp` may be {LIFETIME_S_MAX} s ahead (limit bridge_token_s_max)"
            ));
        }
        let id = claims["jti"].as_str().ok_or("the authToken has no `jti`, an id of its own")?;
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.retain(|_, exp| *exp > now_s);
        if shown.contains_key(id) {
            return Err("the authToken was shown before: make a new one for each handshake".to_owned());
        }
        if shown.len() >= SHOWN_MAX {
            return Err(format!("too many tokens were shown lately (limit bridge_tokens_max, {SHOWN_MAX})"));
        }
        shown.insert(id.to_owned(), exp);
        Ok(())
    }

    fn claims(&self, token: &str) -> Option<Value> {
        let (signed, tag) = token.rsplit_once('.')?;
        hmac::verify(&self.key, signed.as_bytes(), &BASE64.decode(tag).ok()?).ok()?;
        let (header, claims) = signed.split_once('.')?;
        let read = |part: &str| serde_json::from_slice::<Value>(&BASE64.decode(part).ok()?).ok();
        read(header).filter(|header| header["alg"] == "HS256")?;
        read(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    #[test]
    fn a_token_works_once_for_whom_it_is_made_and_until_it_expires() {
        let tokens = BridgeTokens::new(&[7; 32]).unwrap();
        let problem = |token: &str, now_ms| {
            tokens.check(Audience::Bridge, Some(&token.into()), now_ms).err().unwrap_or_default()
        };
        let token = tokens.make(Audience::Bridge, NOW_MS).unwrap();
        assert_eq!(problem(&token, NOW_MS), "");
        assert!(problem(&token, NOW_MS).contains("shown before"));
        let later = tokens.make(Audience::Bridge, NOW_MS).unwrap();
        assert!(problem(&later, NOW_MS + LIFETIME_S * 1_000).contains("expired"));
        assert!(problem(&tokens.make(Audience::Agent, NOW_MS).unwrap(), NOW_MS).contains("`aud`"));
        let other = BridgeTokens::new(&[8; 32]).unwrap().make(Audience::Bridge, NOW_MS).unwrap();
        assert!(problem(&other, NOW_MS).contains("not signed"));
        assert!(tokens.check(Audience::Bridge, None, NOW_MS).unwrap_err().contains("needed"));
        assert!(BridgeTokens::new(&[7; 31]).is_err());
    }

    #[test]
    fn claims_of_others_are_read_strictly() {
        let tokens = BridgeTokens::new(&[7; 32]).unwrap();
        let aud = "desktop-agent-bridge";
        let exp = NOW_MS / 1_000 + 10;
        for (claims, problem) in [
            (json!({"aud": [aud, "else"], "exp": exp, "jti": "1"}), ""),
            (json!({"aud": aud, "exp": exp}), "`jti`"),
            (json!({"aud": aud, "jti": "2"}), "`exp`"),
            (json!({"aud": aud, "exp": -1, "jti": "2"}), "expired"),
            (json!({"aud": aud, "exp": exp + LIFETIME_S_MAX, "jti": "2"}), "bridge_token_s_max"),
            (json!({"exp": exp, "jti": "2"}), "`aud`"),
            (json!([]), "`aud`"),
        ] {
            let token = Text::from(tokens.signed(&claims));
            let told = tokens.check(Audience::Bridge, Some(&token), NOW_MS).err().unwrap_or_default();
            assert!(told.contains(problem) && problem.is_empty() == told.is_empty(), "{claims}: {told}");
        }
        // Another algorithm under the same secret is none of ours.
        let signed = format!("{}.{}", BASE64.encode(r#"{"alg":"none"}"#), BASE64.encode("{}"));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]), signed.as_bytes());
        let token = Text::from(format!("{signed}.{}", BASE64.encode(tag)));
        assert!(tokens.check(Audience::Bridge, Some(&token), NOW_MS).unwrap_err().contains("not signed"));
    }

    #[test]
    fn what_was_shown_is_remembered_within_a_bound() {
        let tokens = BridgeTokens::new(&[7; 32]).unwrap();
        for _ in 0..SHOWN_MAX {
            let token = tokens.make(Audience::Bridge, NOW_MS);
            tokens.check(Audience::Bridge, token.as_ref(), NOW_MS).unwrap();
        }
        let token = tokens.make(Audience::Bridge, NOW_MS);
        let told = tokens.check(Audience::Bridge, token.as_ref(), NOW_MS).unwrap_err();
        assert!(told.contains("bridge_tokens_max"), "{told}");
        let later_ms = NOW_MS + LIFETIME_S * 1_000;
        let token = tokens.make(Audience::Bridge, later_ms);
        tokens.check(Audience::Bridge, token.as_ref(), later_ms).unwrap();
    }
}

//! Tokens that log a client in again: access tokens, given with every welcome, and gateway tokens, which
//! a client asks for to hand to another.
//!
//! They are JSON Web Tokens (HS256) under a key that is kept in the data directory, so that a client
//! that has one can come back after the node was restarted.

use std::path::Path;
use std::{fs, io};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use mesh_model::Text;
use ring::hmac;

/// How long a token works, in seconds.
const ACCESS_S: u64 = 60_000;
const GATEWAY_S: u64 = 600;
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// Makes and checks tokens.
#[derive(Debug)]
pub(crate) struct ClientTokens {
    key: hmac::Key,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Access,
    Gateway,
    /// Logs a service in: an app that all users see.
    Service,
}

impl Purpose {
    const fn word(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Gateway => "authentication",
            Self::Service => "service",
        }
    }
}

impl ClientTokens {
    /// Reads the key, or makes it.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join("token.key");
        let bytes = match fs::read(&path) {
            Ok(bytes) if bytes.len() == 32 => bytes,
            Ok(_) => return Err(io::Error::other(format!("{} is damaged; remove it", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = vec![0u8; 32];
                ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
                    .map_err(|_| io::Error::other("the system gives no random bytes"))?;
                crate::owner::write_private(&path, &bytes)?;
                bytes
            }
            Err(error) => return Err(error),
        };
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &bytes) })
    }

    /// Returns a key of its own for another purpose, the same after a restart.
    pub(crate) fn derived(&self, purpose: &str) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(hmac::sign(&self.key, purpose.as_bytes()).as_ref());
        key
    }

    /// Makes a token for a user.
    pub(crate) fn make(&self, purpose: Purpose, user: &str, wall_ms: u64) -> Text {
        let seconds = match purpose {
            Purpose::Access | Purpose::Service => ACCESS_S,
            Purpose::Gateway => GATEWAY_S,
        };
        self.make_for(purpose, user, wall_ms, seconds)
    }

    /// Makes a token for a user that works so many seconds.
    pub(crate) fn make_for(&self, purpose: Purpose, user: &str, wall_ms: u64, seconds: u64) -> Text {
        let claims =
            serde_json::json!({"type": purpose.word(), "user": user, "exp": wall_ms / 1000 + seconds});
        let signed = format!("{}.{}", BASE64.encode(HEADER), BASE64.encode(claims.to_string()));
        let tag = hmac::sign(&self.key, signed.as_bytes());
        format!("{signed}.{}", BASE64.encode(tag)).into()
    }

    /// Returns the user a token was made for.
    pub(crate) fn check(&self, purpose: Purpose, token: &str, wall_ms: u64) -> Result<Text, &'static str> {
        const BAD: &str = "the token was not made by this node";
        let (signed, tag) = token.rsplit_once('.').ok_or(BAD)?;
        let tag = BASE64.decode(tag).map_err(|_| BAD)?;
        hmac::verify(&self.key, signed.as_bytes(), &tag).map_err(|_| BAD)?;
        let (_, claims) = signed.split_once('.').ok_or(BAD)?;
        let claims = BASE64
            .decode(claims)
            .ok()
            .and_then(|claims| serde_json::from_slice::<serde_json::Value>(&claims).ok());
        let claims = claims.ok_or(BAD)?;
        if claims["type"] != purpose.word() {
            return Err("the token is of another kind");
        }
        if claims["exp"].as_u64().is_none_or(|exp| exp <= wall_ms / 1000) {
            return Err("the token has expired; log in with a user name again");
        }
        claims["user"].as_str().map(Text::from).ok_or(BAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_works_for_its_purpose_until_it_expires_and_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let token = ClientTokens::open(dir.path()).unwrap().make(Purpose::Access, "joe", 1_000_000);
        let again = ClientTokens::open(dir.path()).unwrap();
        assert_eq!(again.check(Purpose::Access, &token, 1_000_000), Ok("joe".into()));
        assert!(again.check(Purpose::Gateway, &token, 1_000_000).is_err());
        assert!(again.check(Purpose::Access, &token, 1_000_000 + ACCESS_S * 1000).is_err());
        assert!(again.check(Purpose::Access, &format!("{token}x"), 1_000_000).is_err());
        assert!(again.check(Purpose::Access, "x", 1_000_000).is_err());
    }
}

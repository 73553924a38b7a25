//! The one line that lets a node join.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::certificate::{is_owner, sha256};
use crate::fields::{Malformed, Reader, Writer};

/// Names a token in logs and lists; not a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; 16]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl TokenId {
    /// Parses what [`Display`](fmt::Display) writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // The same 32 digits as a node id, so that there is one parser of them.
        mesh_model::NodeId::parse(text).map(|id| Self(id.0))
    }
}

/// What a node needs to join: whom to ask, how to know them, and a secret to show once.
///
/// ```text
/// dmj1.<base64url of: root SHA-256 32 | id 16 | secret 32 | owner | count u8 | addresses | check 4>
/// ```
///
/// `check` is the start of the SHA-256 of what is before it, so that a line that was cut while it
/// was copied is told apart from one that was made elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub(crate) root_sha256: [u8; 32],
    pub(crate) id: TokenId,
    pub(crate) secret: [u8; 32],
    pub(crate) owner: String,
    pub(crate) addresses: Vec<String>,
}

impl JoinToken {
    /// Parses a line; blanks around it are ignored.
    pub fn parse(line: &str) -> Result<Self, TokenError> {
        let line = line.trim();
        if line.len() > LINE_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let body = line.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Garbled)?;
        let (body, check) = bytes.split_last_chunk::<4>().ok_or(TokenError::Garbled)?;
        if sha256(body)[..4] != *check {
            return Err(TokenError::Garbled);
        }
        Self::decode(body).map_err(|Malformed| TokenError::Garbled)
    }

    /// Returns the line. It is as good as the secret in it: show it once, log it never.
    #[must_use]
    pub fn line(&self) -> String {
        let mut fields = Writer::default()
            .array(&self.root_sha256)
            .array(&self.id.0)
            .array(&self.secret)
            .bytes(self.owner.as_bytes())
            .byte(self.addresses.len() as u8);
        for address in &self.addresses {
            fields = fields.bytes(address.as_bytes());
        }
        let mut bytes = fields.finish();
        bytes.extend_from_slice(&sha256(&bytes)[..4]);
        format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Reader(bytes);
        let root_sha256 = fields.array()?;
        let id = TokenId(fields.array()?);
        let secret = fields.array()?;
        let owner = fields.text()?.to_owned();
        let count = fields.byte()?;
        let addresses =
            (0..count).map(|_| fields.text().map(str::to_owned)).collect::<Result<Vec<_>, _>>()?;
        fields.end()?;
        if !is_owner(&owner) || check_addresses(&addresses).is_err() {
            return Err(Malformed);
        }
        Ok(Self { root_sha256, id, secret, owner, addresses })
    }

    /// Returns the token's name.
    #[must_use]
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// Returns where the mesh can be reached, as `host:port`.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Returns whose node the joiner will be.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &format_args!("{}", self.id))
            .field("owner", &self.owner)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// Checks addresses as a token may hold them: 1 to 16 times `host:port`.
pub(crate) fn check_addresses(addresses: &[String]) -> Result<(), TokenError> {
    let is_address = |address: &String| {
        address.len() <= ADDRESS_BYTES_MAX
            && address.bytes().all(|byte| byte.is_ascii_graphic())
            && matches!(address.rsplit_once(':'), Some((host, port))
                if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
    };
    if (1..=ADDRESSES_MAX).contains(&addresses.len()) && addresses.iter().all(is_address) {
        Ok(())
    } else {
        Err(TokenError::BadAddresses)
    }
}

/// A line is not a token, or a token cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as a token does.
    #[error("not a join token")]
    NotAToken,
    /// Something is missing or changed, most likely in copying.
    #[error("join token is cut or garbled")]
    Garbled,
    /// No token is that long.
    #[error("join token is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// A token holds 1 to 16 addresses, each `host:port`.
    #[error("join token needs 1 to {ADDRESSES_MAX} addresses of the form host:port")]
    BadAddresses,
}

const PREFIX: &str = "dmj1.";
const LINE_BYTES_MAX: usize = 8 * 1024;
const ADDRESSES_MAX: usize = 16;
const ADDRESS_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            root_sha256: [1; 32],
            id: TokenId([2; 16]),
            secret: [0xab; 32],
            owner: "ada".to_owned(),
            addresses: vec!["desk-1.example.com:7400".to_owned(), "[::1]:7400".to_owned()],
        }
    }

    #[test]
    fn line_round_trip() {
        let line = token().line();
        assert!(line.starts_with("dmj1.") && line.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(JoinToken::parse(&format!(" {line}\n")), Ok(token()));
        assert_eq!(TokenId::parse(&token().id().to_string()), Some(token().id()));
    }

    #[test]
    fn debug_hides_the_secret() {
        let text = format!("{:?}", token());
        assert!(text.contains("desk-1") && !text.contains("171") && !text.contains("ab, "), "{text}");
    }

    #[test]
    fn every_cut_and_change_is_noticed() {
        let line = token().line();
        for end in 0..line.len() {
            assert!(JoinToken::parse(&line[..end]).is_err(), "{end}");
        }
        for at in 0..line.len() {
            let mut changed = line.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(JoinToken::parse(&String::from_utf8(changed).unwrap()).is_err(), "{at}");
        }
    }

    #[test]
    fn garbage_is_an_error() {
        let check = |line: &str, expected| assert_eq!(JoinToken::parse(line), Err(expected), "{line}");
        check("", TokenError::NotAToken);
        check("dmj2.AAAA", TokenError::NotAToken);
        check("dmj1.", TokenError::Garbled);
        check("dmj1.%%%%", TokenError::Garbled);
        check("dmj1.żółw", TokenError::Garbled);
        check(&format!("dmj1.{}", "A".repeat(9_000)), TokenError::TooLong);
        // Right check sum, wrong content: what a hostile maker of tokens could do.
        let with_check = |mut bytes: Vec<u8>| {
            bytes.extend_from_slice(&sha256(&bytes)[..4]);
            format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
        };
        for length in 0..200 {
            check(&with_check(vec![0xff; length]), TokenError::Garbled);
            check(&with_check(vec![0; length]), TokenError::Garbled);
        }
    }

    #[test]
    fn addresses_are_host_and_port() {
        let check = |addresses: &[&str], good| {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            assert_eq!(check_addresses(&addresses).is_ok(), good, "{addresses:?}");
        };
        check(&["10.0.0.1:1", "[fe80::1]:65535", "host:7400"], true);
        check(&[], false);
        check(&["host"], false);
        check(&[":7400"], false);
        check(&["host:0"], false);
        check(&["host:70000"], false);
        check(&["two words:7400"], false);
        check(&["h:1"; 17], false);
    }
}

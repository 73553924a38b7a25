//! The tokens that the authority has given out.
//!
//! They live in `<dir>/join-tokens.json`. Every operation reads the file, changes it and replaces it
//! while holding a lock file, so that a running node and a command beside it can both use the store,
//! and a token that was redeemed stays so after a crash. Tokens are kept for a day after their end,
//! so that a log can say "expired" or "used" instead of "unknown".

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::certificate::sha256;
use crate::files::{self, FileError};
use crate::token::check_addresses;
use crate::{JoinToken, NodeIdentity, TokenError, TokenId};

/// How long a token is good for unless its maker says otherwise.
pub const TOKEN_TTL_MS: u64 = 15 * 60 * 1_000;
/// How many unused tokens there may be at once.
pub const TOKENS_LIVE_MAX: usize = 1_000;

/// The authority's list of tokens.
#[derive(Debug)]
pub struct TokenStore {
    path: PathBuf,
    lock_path: PathBuf,
}

/// A token that has just been used up.
#[derive(Debug, PartialEq, Eq)]
pub struct Redeemed {
    /// Whose node the bearer becomes.
    pub owner: String,
}

/// A token as a list shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct TokenSummary {
    /// Its name.
    pub id: TokenId,
    /// Whose node its bearer becomes.
    pub owner: String,
    /// When it ends.
    pub expires_ms: u64,
    /// When it was used.
    pub used_ms: Option<u64>,
}

impl TokenStore {
    /// Opens the store of a data directory. The file appears with the first token.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        Self { path: dir.join("join-tokens.json"), lock_path: dir.join("join-tokens.lock") }
    }

    /// Makes a token for the mesh and owner of this node, which can be reached at these addresses.
    pub fn create(
        &self,
        identity: &NodeIdentity,
        addresses: Vec<String>,
        ttl_ms: u64,
        now_ms: u64,
    ) -> Result<JoinToken, TokenStoreError> {
        if !identity.is_authority() {
            return Err(TokenStoreError::NotTheAuthority);
        }
        check_addresses(&addresses)?;
        let (mut id, mut secret) = ([0; 16], [0; 32]);
        let random = SystemRandom::new();
        random.fill(&mut id).map_err(|_| TokenStoreError::NoRandomness)?;
        random.fill(&mut secret).map_err(|_| TokenStoreError::NoRandomness)?;
        let token = JoinToken {
            root_sha256: sha256(identity.root()),
            id: TokenId(id),
            secret,
            owner: identity.owner().to_string(),
            addresses,
        };
        self.change(|tokens| {
            tokens.retain(|row| row.expires_ms.saturating_add(REMEMBERED_MS) > now_ms);
            if tokens.iter().filter(|row| row.is_live(now_ms)).count() >= TOKENS_LIVE_MAX {
                return Err(TokenStoreError::TooMany);
            }
            // Only used or expired rows can be in excess; the oldest are forgotten first.
            while tokens.len() >= TOKENS_REMEMBERED_MAX {
                let Some(dead) = tokens.iter().position(|row| !row.is_live(now_ms)) else { break };
                tokens.remove(dead);
            }
            tokens.push(Row {
                id: token.id.to_string(),
                secret: BASE64_URL_SAFE_NO_PAD.encode(token.secret),
                owner: token.owner.clone(),
                expires_ms: now_ms.saturating_add(ttl_ms),
                used_ms: None,
            });
            Ok(())
        })?;
        Ok(token)
    }

    /// Uses a token up, if it is live and `proves` accepts its secret.
    ///
    /// A bearer who does not know the secret leaves the token as it is: whoever sees a token's id
    /// could else spoil it for its owner.
    pub fn redeem(
        &self,
        id: TokenId,
        now_ms: u64,
        proves: impl FnOnce(&[u8; 32]) -> bool,
    ) -> Result<Redeemed, TokenRefusal> {
        let name = id.to_string();
        self.change(|tokens| {
            let row = tokens.iter_mut().find(|row| row.id == name).ok_or(TokenRefusal::Unknown)?;
            let secret = row.secret().ok_or_else(|| TokenStoreError::Damaged(self.path.clone()))?;
            if !proves(&secret) {
                return Err(TokenRefusal::WrongSecret);
            }
            if let Some(used_ms) = row.used_ms {
                return Err(TokenRefusal::Used { used_ms });
            }
            if !row.is_live(now_ms) {
                return Err(TokenRefusal::Expired { expires_ms: row.expires_ms });
            }
            row.used_ms = Some(now_ms);
            Ok(Redeemed { owner: row.owner.clone() })
        })
    }

    /// Withdraws a token before it is used. Returns whether there was one.
    pub fn revoke(&self, id: TokenId) -> Result<bool, TokenStoreError> {
        let name = id.to_string();
        self.change(|tokens| {
            let before = tokens.len();
            tokens.retain(|row| row.id != name || row.used_ms.is_some());
            Ok(tokens.len() < before)
        })
    }

    /// Lists the tokens that are still remembered, oldest first.
    pub fn list(&self) -> Result<Vec<TokenSummary>, TokenStoreError> {
        let summary = |row: Row| {
            let id = TokenId::parse(&row.id).ok_or_else(|| TokenStoreError::Damaged(self.path.clone()))?;
            Ok(TokenSummary { id, owner: row.owner, expires_ms: row.expires_ms, used_ms: row.used_ms })
        };
        self.read()?.into_iter().map(summary).collect()
    }

    /// Changes the rows under the lock. Nothing is written if `change` refuses.
    fn change<T, E: From<TokenStoreError>>(
        &self,
        change: impl FnOnce(&mut Vec<Row>) -> Result<T, E>,
    ) -> Result<T, E> {
        let _lock = files::lock(&self.lock_path).map_err(TokenStoreError::from)?;
        let mut tokens = self.read()?;
        let result = change(&mut tokens)?;
        let file = TokenFile { version: VERSION, tokens };
        let bytes = serde_json::to_vec(&file).expect("strings and numbers always become JSON");
        files::replace(&self.path, &bytes).map_err(TokenStoreError::from)?;
        Ok(result)
    }

    fn read(&self) -> Result<Vec<Row>, TokenStoreError> {
        let Some(bytes) = files::read(&self.path, FILE_BYTES_MAX)? else { return Ok(Vec::new()) };
        match serde_json::from_slice::<TokenFile>(&bytes) {
            Ok(file) if file.version == VERSION => Ok(file.tokens),
            _ => Err(TokenStoreError::Damaged(self.path.clone())),
        }
    }
}

/// The file. Its shape is a promise to later versions of this program only.
#[derive(Serialize, Deserialize)]
struct TokenFile {
    version: u32,
    tokens: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    id: String,
    secret: String,
    owner: String,
    expires_ms: u64,
    used_ms: Option<u64>,
}

impl Row {
    fn is_live(&self, now_ms: u64) -> bool {
        self.used_ms.is_none() && now_ms < self.expires_ms
    }

    fn secret(&self) -> Option<[u8; 32]> {
        BASE64_URL_SAFE_NO_PAD.decode(&self.secret).ok()?.try_into().ok()
    }
}

/// Why a token admits nobody.
#[derive(Debug, thiserror::Error)]
pub enum TokenRefusal {
    /// It was never made here, was withdrawn, or ended long ago.
    #[error("join token is not known here")]
    Unknown,
    /// The bearer knows its name but not its secret. The token stays good.
    #[error("join token's secret was not proved")]
    WrongSecret,
    /// It has admitted a node already.
    #[error("join token was already used")]
    Used {
        /// When.
        used_ms: u64,
    },
    /// Its time is over.
    #[error("join token has expired")]
    Expired {
        /// When it ended.
        expires_ms: u64,
    },
    /// The list could not be read or written; the token is as it was.
    #[error("join tokens are not available")]
    Store(#[from] TokenStoreError),
}

/// The list of tokens could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenStoreError {
    /// The disk failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not what this program wrote.
    #[error("token list {} is damaged", .0.display())]
    Damaged(PathBuf),
    /// Only the node that founded the mesh can admit others.
    #[error("this node is not the authority of its mesh")]
    NotTheAuthority,
    /// There are [`TOKENS_LIVE_MAX`] unused tokens.
    #[error("{TOKENS_LIVE_MAX} unused join tokens exist already")]
    TooMany,
    /// The addresses do not fit into a token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The system has no random bytes to give.
    #[error("no random bytes")]
    NoRandomness,
}

const VERSION: u32 = 1;
const REMEMBERED_MS: u64 = 24 * 60 * 60 * 1_000;
const TOKENS_REMEMBERED_MAX: usize = 4_000;
const FILE_BYTES_MAX: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn founded(dir: &Path) -> (NodeIdentity, TokenStore) {
        (NodeIdentity::found(dir, "ada", NOW_MS).unwrap(), TokenStore::open(dir))
    }

    fn create(store: &TokenStore, identity: &NodeIdentity, now_ms: u64) -> JoinToken {
        store.create(identity, vec!["h:1".to_owned()], TOKEN_TTL_MS, now_ms).unwrap()
    }

    #[test]
    fn a_token_admits_once_even_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (identity, store) = founded(dir.path());
        let token = create(&store, &identity, NOW_MS);
        let knows = |secret: &[u8; 32]| *secret == token.secret;
        assert_eq!(store.redeem(token.id, NOW_MS + 1, knows).unwrap().owner, "ada");
        let store = TokenStore::open(dir.path());
        let again = store.redeem(token.id, NOW_MS + 2, knows);
        assert!(matches!(again, Err(TokenRefusal::Used { used_ms }) if used_ms == NOW_MS + 1));
        assert_eq!(store.list().unwrap()[0].used_ms, Some(NOW_MS + 1));
    }

    #[test]
    fn refusals_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (identity, store) = founded(dir.path());
        let token = create(&store, &identity, NOW_MS);
        let end_ms = NOW_MS + TOKEN_TTL_MS;
        assert!(matches!(store.redeem(TokenId([9; 16]), NOW_MS, |_| true), Err(TokenRefusal::Unknown)));
        assert!(matches!(store.redeem(token.id, NOW_MS, |_| false), Err(TokenRefusal::WrongSecret)));
        assert!(matches!(
            store.redeem(token.id, end_ms, |_| true),
            Err(TokenRefusal::Expired { expires_ms }) if expires_ms == end_ms
        ));
        // None of these used it up.
        store.redeem(token.id, end_ms - 1, |_| true).unwrap();
        let other = create(&store, &identity, NOW_MS);
        assert!(store.revoke(other.id).unwrap());
        assert!(!store.revoke(other.id).unwrap());
        assert!(matches!(store.redeem(other.id, NOW_MS, |_| true), Err(TokenRefusal::Unknown)));
        // A day after its end a token is forgotten.
        create(&store, &identity, end_ms + REMEMBERED_MS);
        assert!(matches!(store.redeem(token.id, end_ms, |_| true), Err(TokenRefusal::Unknown)));
    }

    #[test]
    fn live_tokens_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let (identity, store) = founded(dir.path());
        let row = |n: usize| Row {
            id: format!("{n:032x}"),
            secret: String::new(),
            owner: "ada".to_owned(),
            expires_ms: NOW_MS + 1_000,
            used_ms: None,
        };
        let rows = (0..TOKENS_LIVE_MAX).map(row).collect::<Vec<_>>();
        store
            .change(|tokens| {
                *tokens = rows;
                Ok::<_, TokenStoreError>(())
            })
            .unwrap();
        let full = store.create(&identity, vec!["h:1".to_owned()], 1, NOW_MS);
        assert!(matches!(full, Err(TokenStoreError::TooMany)));
        create(&store, &identity, NOW_MS + 1_000);
    }

    #[test]
    fn a_damaged_list_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (identity, store) = founded(dir.path());
        std::fs::write(&store.path, b"{\"version\":2,\"tokens\":[]}").unwrap();
        let result = store.create(&identity, vec!["h:1".to_owned()], 1, NOW_MS);
        assert!(matches!(result, Err(TokenStoreError::Damaged(_))));
        assert_eq!(std::fs::read(&store.path).unwrap().len(), 25);
    }

    #[test]
    fn one_of_many_at_once_wins() {
        let dir = tempfile::tempdir().unwrap();
        let (identity, store) = founded(dir.path());
        let token = create(&store, &identity, NOW_MS);
        let winners: usize = std::thread::scope(|scope| {
            let redeem = || TokenStore::open(dir.path()).redeem(token.id, NOW_MS, |_| true).is_ok();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(redeem)).collect();
            threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
        });
        assert_eq!(winners, 1);
    }
}

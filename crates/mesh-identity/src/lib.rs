//! Who a node is: its key, its certificate, the authority behind it, and how a node joins.
//!
//! A mesh has one authority: an Ed25519 root that the first node makes when it is founded. Every
//! node has an Ed25519 key of its own and a certificate of that root, whose one name says which
//! node it is and who owns it. Two nodes link only if both chain to the same root and have the same
//! owner; [`tls`] and [`peer_identity`] are where that is checked.
//!
//! A node without a certificate brings a [`JoinToken`]. It pins the root by the hash in the token,
//! and proves that it knows the token's secret with a MAC over the exporter of the TLS session, so
//! that someone who relays the session gains nothing. [`join`] has the messages.
//!
//! Certificates are valid for a year and are not renewed yet: renewal comes with the identity work.
//! Nothing here reads a clock or a socket; the time is an argument in milliseconds since 1970, or a
//! [`WallClock`](tls::WallClock) where TLS asks for it in the middle of a handshake.

mod certificate;
mod fields;
mod files;
mod identity;
pub mod join;
pub mod tls;
mod token;
mod token_store;

pub use certificate::{OWNER_BYTES_MAX, PeerError, PeerIdentity, peer_identity};
pub use files::FileError;
pub use identity::{IdentityError, NodeIdentity, Place};
pub use token::{JoinToken, TokenError, TokenId};
pub use token_store::{
    Redeemed, TOKEN_TTL_MS, TOKENS_LIVE_MAX, TokenRefusal, TokenStore, TokenStoreError, TokenSummary,
};

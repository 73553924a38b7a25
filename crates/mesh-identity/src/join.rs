//! Joining: how a node without a certificate gets one.
//!
//! ```text
//! joiner                                              authority
//!   TLS, no client certificate; the server's chain
//!   leads to the root whose hash is in the token
//!   ── version 1 | token id 16 | proof 32 | request ──▶  checks the token, uses it up
//!   ◀─ version 1 | 0 | certificate | root | owner ─────  or   version 1 | 1 | refusal
//! ```
//!
//! `proof` is HMAC-SHA256 with the token's secret over the exporter of this very TLS session and
//! the certificate request. Someone in the middle who ends TLS on both sides has two sessions with
//! two exporters: the proof of one says nothing in the other, and the secret is never sent.

use std::fmt;

use mesh_model::{NodeId, Text};
use rcgen::{KeyPair, PublicKeyData};
use ring::hmac;
use rustls::pki_types::CertificateDer;

use crate::certificate::{self, sha256};
use crate::fields::{Malformed, Reader, Writer};
use crate::{JoinToken, NodeIdentity, PeerError, TokenId, TokenRefusal, TokenStore, peer_identity};

/// The label under which both ends export a secret of their TLS session.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-deskmesh-join/1";
/// Largest encoded request.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024;
/// Largest encoded answer.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// The exporter of one TLS session, with an empty context.
pub type Exporter = [u8; 32];

/// A node that wants to join: a key, and nothing that says whose.
pub struct Candidate {
    key: KeyPair,
    request: Vec<u8>,
}

impl Candidate {
    /// Makes a key for a node.
    pub fn generate() -> Result<Self, JoinError> {
        let key = certificate::new_key()?;
        let request = certificate::new_request(&key)?;
        Ok(Self { key, request })
    }

    /// Returns the id the node will have.
    #[must_use]
    pub fn node(&self) -> NodeId {
        certificate::node_id(&self.key.subject_public_key_info())
    }

    /// Makes the request for one TLS session.
    #[must_use]
    pub fn request(&self, token: &JoinToken, exporter: &Exporter) -> JoinRequest {
        let proof = hmac::sign(&proof_key(&token.secret), &proved(exporter, &self.request));
        let proof = proof.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes");
        JoinRequest { token: token.id, proof, certificate_request: self.request.clone() }
    }

    /// Checks that an answer is what the token promised for this key.
    pub fn accept(&self, token: &JoinToken, answer: JoinAnswer, now_ms: u64) -> Result<Adopted, JoinError> {
        let (certificate, root) = match answer {
            JoinAnswer::Admitted { certificate, root, .. } => (certificate, root),
            JoinAnswer::Refused(text) => return Err(JoinError::Refused(text)),
        };
        if sha256(&root) != token.root_sha256 {
            return Err(JoinError::WrongRoot);
        }
        let peer = peer_identity(std::slice::from_ref(&certificate), &root, now_ms)?;
        if peer.node != self.node() || peer.owner != *token.owner {
            return Err(JoinError::WrongCertificate);
        }
        Ok(Adopted { certificate, root, owner: peer.owner })
    }

    pub(crate) fn key(&self) -> &KeyPair {
        &self.key
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").field("node", &self.node()).finish_non_exhaustive()
    }
}

/// What a node has after joining, ready for [`NodeIdentity::adopt`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// The root, whose hash was in the token.
    pub root: CertificateDer<'static>,
    /// Whose node it is.
    pub owner: Text,
}

/// A joiner's request.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// Which token.
    pub token: TokenId,
    /// That the joiner knows the token's secret, in this TLS session.
    pub proof: [u8; 32],
    /// The node's key, and that the joiner has it (PKCS#10, DER).
    pub certificate_request: Vec<u8>,
}

impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest").field("token", &self.token).finish_non_exhaustive()
    }
}

impl JoinRequest {
    /// Returns the bytes to send.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Writer::default()
            .byte(VERSION)
            .array(&self.token.0)
            .array(&self.proof)
            .bytes(&self.certificate_request)
            .finish()
    }

    /// Reads received bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, JoinError> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(JoinError::Malformed);
        }
        let mut fields = Reader(bytes);
        if fields.byte()? != VERSION {
            return Err(JoinError::Malformed);
        }
        let token = TokenId(fields.array()?);
        let proof = fields.array()?;
        let certificate_request = fields.bytes()?.to_vec();
        fields.end()?;
        Ok(Self { token, proof, certificate_request })
    }
}

/// What the authority says to a joiner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinAnswer {
    /// Welcome.
    Admitted {
        /// The joiner's certificate.
        certificate: CertificateDer<'static>,
        /// The root that signed it.
        root: CertificateDer<'static>,
        /// Whose node it is.
        owner: Text,
    },
    /// No, and why, in words for the person who typed the token.
    Refused(String),
}

impl JoinAnswer {
    /// Returns the bytes to send.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let fields = Writer::default().byte(VERSION);
        match self {
            Self::Admitted { certificate, root, owner } => {
                fields.byte(0).bytes(certificate).bytes(root).bytes(owner.as_bytes())
            }
            Self::Refused(text) => fields.byte(1).bytes(shortened(text).as_bytes()),
        }
        .finish()
    }

    /// Reads received bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, JoinError> {
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(JoinError::Malformed);
        }
        let mut fields = Reader(bytes);
        if fields.byte()? != VERSION {
            return Err(JoinError::Malformed);
        }
        let answer = match fields.byte()? {
            0 => Self::Admitted {
                certificate: fields.bytes()?.to_vec().into(),
                root: fields.bytes()?.to_vec().into(),
                owner: Text::from(fields.text()?),
            },
            1 => Self::Refused(shortened(fields.text()?).to_owned()),
            _ => return Err(JoinError::Malformed),
        };
        fields.end()?;
        Ok(answer)
    }
}

/// Answers a joiner on the authority. The token is used up if and only if this returns `Ok`, or
/// signing fails after it was redeemed.
pub fn admit(
    identity: &NodeIdentity,
    tokens: &TokenStore,
    request: &JoinRequest,
    exporter: &Exporter,
    now_ms: u64,
) -> Result<JoinAnswer, JoinRefusal> {
    if !identity.is_authority() {
        return Err(JoinRefusal::NotTheAuthority);
    }
    let node_key = certificate::read_request(&request.certificate_request).ok_or(JoinRefusal::BadRequest)?;
    let redeemed = tokens.redeem(request.token, now_ms, |secret| {
        let message = proved(exporter, &request.certificate_request);
        hmac::verify(&proof_key(secret), &message, &request.proof).is_ok()
    })?;
    if redeemed.owner != **identity.owner() {
        return Err(JoinRefusal::WrongOwner);
    }
    let certificate = identity.issue(&node_key, now_ms).ok_or(JoinRefusal::NotTheAuthority)??;
    Ok(JoinAnswer::Admitted { certificate, root: identity.root().clone(), owner: identity.owner().clone() })
}

/// Why a joiner was not admitted: all of it for the log, less for the joiner.
#[derive(Debug, thiserror::Error)]
pub enum JoinRefusal {
    /// This node cannot sign certificates.
    #[error("this node is not the authority of its mesh")]
    NotTheAuthority,
    /// The certificate request is not one, is not signed by its key, or is not Ed25519.
    #[error("certificate request is not usable")]
    BadRequest,
    /// The token does not admit.
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    /// The token was made when this node had another owner.
    #[error("join token is for another owner")]
    WrongOwner,
    /// Signing failed; the token is used up.
    #[error("certificate could not be made")]
    Signing(#[from] rcgen::Error),
}

impl JoinRefusal {
    /// Returns what the joiner hears. Who has not proved the secret does not learn whether the token
    /// exists.
    #[must_use]
    pub fn answer(&self) -> JoinAnswer {
        JoinAnswer::Refused(match self {
            Self::Token(TokenRefusal::WrongSecret) => TokenRefusal::Unknown.to_string(),
            Self::Token(TokenRefusal::Store(_)) | Self::Signing(_) => {
                "the authority could not answer; see its log".to_owned()
            }
            refusal => refusal.to_string(),
        })
    }
}

/// Joining failed on the joiner's side.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The authority said no.
    #[error("refused by the authority: {0}")]
    Refused(String),
    /// The bytes are not a message of this protocol.
    #[error("malformed join message")]
    Malformed,
    /// The answer's root is not the token's.
    #[error("answer with another root than the token's")]
    WrongRoot,
    /// The answer's certificate is for another key or owner.
    #[error("answer with a certificate for another node or owner")]
    WrongCertificate,
    /// The answer's certificate is not usable.
    #[error("answer with an unusable certificate")]
    Certificate(#[from] PeerError),
    /// Making a key failed.
    #[error("key could not be made")]
    Making(#[from] rcgen::Error),
}

impl From<Malformed> for JoinError {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

fn proof_key(secret: &[u8; 32]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret)
}

/// The exporter has a fixed length, so the two parts cannot be shifted against each other.
fn proved(exporter: &Exporter, request: &[u8]) -> Vec<u8> {
    [exporter.as_slice(), request].concat()
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(REFUSAL_BYTES_MAX)]
}

const VERSION: u8 = 1;
const REFUSAL_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TOKEN_TTL_MS;

    const NOW_MS: u64 = 1_800_000_000_000;
    const EXPORTER: Exporter = [7; 32];

    struct Mesh {
        _dir: tempfile::TempDir,
        identity: NodeIdentity,
        tokens: TokenStore,
    }

    fn mesh(owner: &str) -> Mesh {
        let dir = tempfile::tempdir().unwrap();
        let identity = NodeIdentity::found(dir.path(), owner, NOW_MS).unwrap();
        let tokens = TokenStore::open(dir.path());
        Mesh { _dir: dir, identity, tokens }
    }

    impl Mesh {
        fn token(&self) -> JoinToken {
            self.tokens.create(&self.identity, vec!["h:1".to_owned()], TOKEN_TTL_MS, NOW_MS).unwrap()
        }

        fn admit(&self, request: &JoinRequest, exporter: &Exporter) -> Result<JoinAnswer, JoinRefusal> {
            admit(&self.identity, &self.tokens, request, exporter, NOW_MS)
        }
    }

    #[test]
    fn a_joiner_becomes_a_node() {
        let mesh = mesh("ada");
        let token = mesh.token();
        let candidate = Candidate::generate().unwrap();
        let request = candidate.request(&token, &EXPORTER);
        let request = JoinRequest::decode(&request.encode()).unwrap();
        let answer = mesh.admit(&request, &EXPORTER).unwrap();
        let answer = JoinAnswer::decode(&answer.encode()).unwrap();
        let adopted = candidate.accept(&token, answer, NOW_MS).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let node = NodeIdentity::adopt(dir.path(), &candidate, &adopted).unwrap();
        assert_eq!((node.node(), &**node.owner(), node.is_authority()), (candidate.node(), "ada", false));
        assert_eq!(NodeIdentity::load(dir.path()).unwrap().unwrap().node(), candidate.node());
        // Each believes the other.
        node.check_peer(&[mesh.identity.certificate().clone()], NOW_MS).unwrap();
        mesh.identity.check_peer(&[node.certificate().clone()], NOW_MS).unwrap();
        // Only the founder admits.
        let refusal = admit(&node, &mesh.tokens, &request, &EXPORTER, NOW_MS);
        assert!(matches!(refusal, Err(JoinRefusal::NotTheAuthority)));
        assert!(matches!(
            mesh.tokens.create(&node, vec!["h:1".to_owned()], 1, NOW_MS),
            Err(crate::TokenStoreError::NotTheAuthority)
        ));
    }

    #[test]
    fn refusals() {
        let mesh = mesh("ada");
        let token = mesh.token();
        let candidate = Candidate::generate().unwrap();
        let good = candidate.request(&token, &EXPORTER);
        let text = |refusal: JoinRefusal| match refusal.answer() {
            JoinAnswer::Refused(text) => text,
            JoinAnswer::Admitted { .. } => unreachable!(),
        };

        // Someone in the middle passes the request on in a session of their own.
        let refusal = mesh.admit(&good, &[8; 32]).unwrap_err();
        assert!(matches!(refusal, JoinRefusal::Token(TokenRefusal::WrongSecret)));
        assert_eq!(text(refusal), "join token is not known here");

        let guessed = JoinToken { secret: [0; 32], ..token.clone() };
        let refusal = mesh.admit(&candidate.request(&guessed, &EXPORTER), &EXPORTER).unwrap_err();
        assert!(matches!(refusal, JoinRefusal::Token(TokenRefusal::WrongSecret)));

        // Another key under the same proof.
        let other = Candidate::generate().unwrap();
        let swapped = JoinRequest { certificate_request: other.request.clone(), ..good.clone() };
        let refusal = mesh.admit(&swapped, &EXPORTER).unwrap_err();
        assert!(matches!(refusal, JoinRefusal::Token(TokenRefusal::WrongSecret)));

        // A request whose signature does not fit its key.
        let mut forged = good.clone();
        *forged.certificate_request.last_mut().unwrap() ^= 1;
        assert!(matches!(mesh.admit(&forged, &EXPORTER), Err(JoinRefusal::BadRequest)));

        let expired = admit(&mesh.identity, &mesh.tokens, &good, &EXPORTER, NOW_MS + TOKEN_TTL_MS);
        assert_eq!(text(expired.unwrap_err()), "join token has expired");

        // After all that the token is still good, once.
        mesh.admit(&good, &EXPORTER).unwrap();
        assert_eq!(text(mesh.admit(&good, &EXPORTER).unwrap_err()), "join token was already used");
    }

    #[test]
    fn an_answer_must_keep_the_tokens_promise() {
        let (mesh, stranger) = (mesh("ada"), mesh("ada"));
        let token = mesh.token();
        let candidate = Candidate::generate().unwrap();
        let admitted = |mesh: &Mesh, candidate: &Candidate| {
            let token = mesh.token();
            mesh.admit(&candidate.request(&token, &EXPORTER), &EXPORTER).unwrap()
        };
        let answer = admitted(&stranger, &candidate);
        assert!(matches!(candidate.accept(&token, answer, NOW_MS), Err(JoinError::WrongRoot)));
        // The right root over a certificate of another authority.
        let JoinAnswer::Admitted { certificate, owner, .. } = admitted(&stranger, &candidate) else {
            unreachable!()
        };
        let mixed = JoinAnswer::Admitted { certificate, root: mesh.identity.root().clone(), owner };
        assert!(matches!(
            candidate.accept(&token, mixed, NOW_MS),
            Err(JoinError::Certificate(PeerError::Untrusted))
        ));
        let answer = admitted(&mesh, &Candidate::generate().unwrap());
        assert!(matches!(candidate.accept(&token, answer, NOW_MS), Err(JoinError::WrongCertificate)));
        let token_of_bob = JoinToken { owner: "bob".to_owned(), ..token.clone() };
        let answer = admitted(&mesh, &candidate);
        assert!(matches!(candidate.accept(&token_of_bob, answer, NOW_MS), Err(JoinError::WrongCertificate)));
        let refused = candidate.accept(&token, JoinAnswer::Refused("no".to_owned()), NOW_MS);
        assert!(matches!(refused, Err(JoinError::Refused(text)) if text == "no"));
    }

    #[test]
    fn every_cut_message_is_an_error() {
        let mesh = mesh("ada");
        let request = Candidate::generate().unwrap().request(&mesh.token(), &EXPORTER);
        let answer = mesh.admit(&request, &EXPORTER).unwrap();
        for answer in [answer, JoinAnswer::Refused("no".to_owned())] {
            let bytes = answer.encode();
            assert!((0..bytes.len()).all(|end| JoinAnswer::decode(&bytes[..end]).is_err()));
            assert!(JoinAnswer::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
            assert_eq!(JoinAnswer::decode(&bytes).unwrap(), answer);
        }
        let bytes = request.encode();
        assert!((0..bytes.len()).all(|end| JoinRequest::decode(&bytes[..end]).is_err()));
        assert!(JoinRequest::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
        assert!(JoinRequest::decode(&vec![1; REQUEST_BYTES_MAX + 1]).is_err());
        assert!(JoinAnswer::decode(&vec![1; ANSWER_BYTES_MAX + 1]).is_err());
        let long = JoinAnswer::Refused("ż".repeat(1_000)).encode();
        assert!(matches!(JoinAnswer::decode(&long), Ok(JoinAnswer::Refused(text)) if text.len() == 512));
    }

    #[test]
    fn debug_hides_what_is_secret() {
        let mesh = mesh("ada");
        let token = mesh.token();
        let candidate = Candidate::generate().unwrap();
        let texts = [
            format!("{token:?}"),
            format!("{candidate:?}"),
            format!("{:?}", candidate.request(&token, &EXPORTER)),
            format!("{:?}", mesh.identity),
        ];
        let secret = format!("{:?}", token.secret);
        assert!(texts.iter().all(|text| text.len() < 400 && !text.contains(&secret[..40])), "{texts:?}");
    }
}

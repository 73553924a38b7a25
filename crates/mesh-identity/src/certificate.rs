//! Certificates: what is in ours, and what is believed of a peer's.
//!
//! A node certificate has one subject alternative name, a URI:
//!
//! ```text
//! spiffe://deskmesh/o/<owner, base64url>/n/<node id, 32 hexadecimal digits>
//! ```
//!
//! The node id is the start of the hash of the certificate's own public key, so the name cannot be
//! moved to another key even by a careless authority.
//!
//! It is signed by the root; or, if its node is a copy of another, with the key that both have from the same
//! disk, and the certificate of that key, which the root has signed, comes behind it. Nothing hangs on a
//! copy's certificate in turn.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use mesh_model::{NodeId, Text};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType,
    SerialNumber,
};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, UnparsedPublicKey};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// How long the name of an owner may be.
pub const OWNER_BYTES_MAX: usize = 128;

/// A peer that proved who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Which node.
    pub node: NodeId,
    /// Who owns it.
    pub owner: Text,
}

/// Why a certificate is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The peer showed none.
    #[error("no certificate")]
    NoCertificate,
    /// The bytes are not a certificate, or not one this mesh makes.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// It is not signed by the pinned root.
    #[error("certificate of another authority")]
    Untrusted,
    /// Its time is over.
    #[error("certificate expired")]
    Expired,
    /// Its time has not come, or one of the two clocks is wrong.
    #[error("certificate not valid yet")]
    NotValidYet,
    /// It may not be used for links.
    #[error("certificate for another purpose")]
    WrongPurpose,
    /// The name in it is missing, of another form, or names another key.
    #[error("certificate without a proper node name")]
    BadName,
    /// The node belongs to someone else.
    #[error("node of another owner")]
    WrongOwner,
    /// It is a node of this mesh, but not the one that was dialled.
    #[error("node {found} where {expected} was expected")]
    WrongNode {
        /// The node that answered.
        found: NodeId,
        /// The node that was meant.
        expected: NodeId,
    },
}

/// Says who holds a certificate chain, if it leads to the pinned root at this time.
///
/// The caller still decides whether that owner is welcome.
pub fn peer_identity(
    certificates: &[CertificateDer<'_>],
    root: &CertificateDer<'_>,
    now_ms: u64,
) -> Result<PeerIdentity, PeerError> {
    let Some((leaf, rest)) = certificates.split_first() else { return Err(PeerError::NoCertificate) };
    if rest.len() >= CHAIN_LEN_MAX {
        return Err(PeerError::Malformed("chain too long".to_owned()));
    }
    match signed_by_root(leaf, root, now_ms) {
        Err(PeerError::Untrusted) => match rest.first() {
            Some(original) => copied_from(leaf, original, root, now_ms),
            None => Err(PeerError::Untrusted),
        },
        signed => signed,
    }
}

/// Reads a certificate that the root itself has signed: it lets nobody sign in between.
fn signed_by_root(
    leaf: &CertificateDer<'_>,
    root: &CertificateDer<'_>,
    now_ms: u64,
) -> Result<PeerIdentity, PeerError> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone().into_owned()).map_err(|_| PeerError::Malformed("root certificate".to_owned()))?;
    let parsed =
        ParsedCertificate::try_from(leaf).map_err(|error| PeerError::Malformed(error.to_string()))?;
    let now = UnixTime::since_unix_epoch(Duration::from_millis(now_ms));
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms.all)
        .map_err(chain_error)?;
    Ok(read(leaf)?.peer)
}

/// Reads the certificate of a copy of a node: signed with the key of a node of the same owner that the root
/// vouches for, and for no longer than that.
fn copied_from(
    copy: &CertificateDer<'_>,
    original: &CertificateDer<'_>,
    root: &CertificateDer<'_>,
    now_ms: u64,
) -> Result<PeerIdentity, PeerError> {
    let parent = match signed_by_root(original, root, now_ms) {
        Ok(parent) => parent,
        Err(error @ (PeerError::Expired | PeerError::NotValidYet)) => return Err(error),
        Err(_) => return Err(PeerError::Untrusted),
    };
    let parse = |certificate| X509Certificate::from_der(certificate).map_err(|_| PeerError::Untrusted);
    let ((_, signed), (_, signer)) = (parse(copy.as_ref())?, parse(original.as_ref())?);
    let is_ed25519 =
        [&signed.signature_algorithm, &signed.tbs_certificate.signature, &signer.public_key().algorithm]
            .iter()
            .all(|algorithm| algorithm.algorithm == OID_SIG_ED25519);
    let key = UnparsedPublicKey::new(&ED25519, &signer.public_key().subject_public_key.data);
    if !is_ed25519
        || signed.issuer() != signer.subject()
        || key.verify(signed.tbs_certificate.as_ref(), &signed.signature_value.data).is_err()
    {
        return Err(PeerError::Untrusted);
    }
    let NodeCertificate { peer, not_before_ms, not_after_ms } = read(copy)?;
    match peer.owner == parent.owner {
        false => Err(PeerError::BadName),
        true if now_ms < not_before_ms => Err(PeerError::NotValidYet),
        true if now_ms > not_after_ms => Err(PeerError::Expired),
        true => Ok(peer),
    }
}

fn chain_error(error: rustls::Error) -> PeerError {
    let rustls::Error::InvalidCertificate(error) = error else {
        return PeerError::Malformed(error.to_string());
    };
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => PeerError::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => PeerError::NotValidYet,
        CertificateError::UnknownIssuer | CertificateError::BadSignature => PeerError::Untrusted,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            PeerError::WrongPurpose
        }
        error => PeerError::Malformed(error.to_string()),
    }
}

/// What a node certificate says, whoever signed it.
#[derive(Debug)]
pub(crate) struct NodeCertificate {
    pub(crate) peer: PeerIdentity,
    pub(crate) not_before_ms: u64,
    pub(crate) not_after_ms: u64,
}

/// Reads a node certificate and checks that its parts agree; the signature is not looked at.
pub(crate) fn read(certificate: &[u8]) -> Result<NodeCertificate, PeerError> {
    let malformed = |_| PeerError::Malformed("not X.509".to_owned());
    let (_, x509) = X509Certificate::from_der(certificate).map_err(malformed)?;
    let both_uses = match x509.extended_key_usage() {
        Ok(Some(usage)) => usage.value.client_auth && usage.value.server_auth,
        _ => false,
    };
    if !both_uses || x509.is_ca() {
        return Err(PeerError::WrongPurpose);
    }
    let names = match x509.subject_alternative_name() {
        Ok(Some(names)) => &names.value.general_names,
        _ => return Err(PeerError::BadName),
    };
    let [GeneralName::URI(uri)] = names.as_slice() else { return Err(PeerError::BadName) };
    let peer = parse_name(uri).ok_or(PeerError::BadName)?;
    if peer.node != node_id(x509.public_key().raw) {
        return Err(PeerError::BadName);
    }
    let validity = x509.validity();
    Ok(NodeCertificate {
        peer,
        not_before_ms: milliseconds(validity.not_before.timestamp()),
        not_after_ms: milliseconds(validity.not_after.timestamp()),
    })
}

/// Returns when a root ends.
pub(crate) fn root_not_after_ms(root: &[u8]) -> Result<u64, PeerError> {
    let (_, x509) =
        X509Certificate::from_der(root).map_err(|_| PeerError::Malformed("root certificate".to_owned()))?;
    Ok(milliseconds(x509.validity().not_after.timestamp()))
}

fn milliseconds(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000)
}

/// Returns the id of the node that has this public key (as SubjectPublicKeyInfo).
pub(crate) fn node_id(public_key: &[u8]) -> NodeId {
    let hash = sha256(public_key);
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    NodeId(id)
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Tells whether a text can be the name of an owner: short, without control characters, and
/// without blanks at its ends, so that two owners never look the same in a log.
pub(crate) fn is_owner(owner: &str) -> bool {
    (1..=OWNER_BYTES_MAX).contains(&owner.len())
        && !owner.chars().any(char::is_control)
        && owner.trim() == owner
}

fn format_name(peer: &PeerIdentity) -> String {
    let owner = BASE64_URL_SAFE_NO_PAD.encode(peer.owner.as_str());
    format!("spiffe://deskmesh/o/{owner}/n/{}", peer.node)
}

fn parse_name(uri: &str) -> Option<PeerIdentity> {
    let (owner, node) = uri.strip_prefix("spiffe://deskmesh/o/")?.split_once("/n/")?;
    let owner = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(owner).ok()?).ok()?;
    let peer = PeerIdentity { node: NodeId::parse(node)?, owner: Text::from(owner) };
    // One name has one spelling, so that names can be compared as text anywhere else.
    (is_owner(&peer.owner) && format_name(&peer) == uri).then_some(peer)
}

/// Makes an Ed25519 key.
pub(crate) fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ED25519)
}

/// Makes the root certificate of a new mesh.
pub(crate) fn new_root(key: &KeyPair, now_ms: u64) -> Result<CertificateDer<'static>, rcgen::Error> {
    let (begin_ms, end_ms) = (now_ms.saturating_sub(BACKDATED_MS), now_ms.saturating_add(ROOT_VALIDITY_MS));
    let mut params = params("deskmesh authority", begin_ms, end_ms)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key)?.into())
}

/// Makes a certificate for a node's key. It never outlives the root, since a peer that trusts the
/// root as an anchor does not look at the root's own dates.
pub(crate) fn issue(
    root: &CertificateDer<'_>,
    root_key: &KeyPair,
    node_key: &impl PublicKeyData,
    owner: &str,
    now_ms: u64,
    root_not_after_ms: u64,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let end_ms = now_ms.saturating_add(NODE_VALIDITY_MS).min(root_not_after_ms);
    let validity = (now_ms.saturating_sub(BACKDATED_MS), end_ms);
    node_certificate(root, root_key, node_key, owner, validity)
}

/// Makes a certificate for a copy of a node, with the key of that. It is valid for as long as the original's.
pub(crate) fn issue_copy(
    original: &CertificateDer<'_>,
    original_key: &KeyPair,
    node_key: &impl PublicKeyData,
) -> Result<CertificateDer<'static>, IssueError> {
    let NodeCertificate { peer, not_before_ms, not_after_ms } = read(original)?;
    let validity = (not_before_ms, not_after_ms);
    Ok(node_certificate(original, original_key, node_key, &peer.owner, validity)?)
}

pub(crate) fn node_certificate(
    issuer: &CertificateDer<'_>,
    issuer_key: &KeyPair,
    node_key: &impl PublicKeyData,
    owner: &str,
    (begin_ms, end_ms): (u64, u64),
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let peer = PeerIdentity { node: node_id(&node_key.subject_public_key_info()), owner: Text::from(owner) };
    let mut params = params("deskmesh node", begin_ms, end_ms)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(format_name(&peer).try_into()?)];
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_der(issuer, issuer_key)?;
    Ok(params.signed_by(node_key, &issuer)?.into())
}

/// Makes a request for a certificate, which proves that the key is in our hands.
pub(crate) fn new_request(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("deskmesh node");
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// Reads a request and checks its signature; only the key is taken from it.
pub(crate) fn read_request(request: &[u8]) -> Option<impl PublicKeyData + use<>> {
    let request = CertificateSigningRequestDer::from(request);
    let key = CertificateSigningRequestParams::from_der(&request).ok()?.public_key;
    (PublicKeyData::algorithm(&key) == &PKCS_ED25519).then_some(key)
}

fn params(name: &str, begin_ms: u64, end_ms: u64) -> Result<CertificateParams, rcgen::Error> {
    // The date type of certificates ends with the year 9999.
    let date = |ms: u64| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs((ms / 1_000).min(CERTIFICATE_SECONDS_MAX))
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.not_before = date(begin_ms);
    params.not_after = date(end_ms);
    // A fixed length, so that equal inputs make certificates of equal size.
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// A copy's certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    #[error(transparent)]
    Original(#[from] PeerError),
    #[error(transparent)]
    Making(#[from] rcgen::Error),
}

/// How many certificates a peer may send beside its own.
const CHAIN_LEN_MAX: usize = 4;
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
const NODE_VALIDITY_MS: u64 = 365 * DAY_MS;
const ROOT_VALIDITY_MS: u64 = 5 * 365 * DAY_MS;
/// Certificates begin an hour ago, for peers whose clock is behind that of the authority.
const BACKDATED_MS: u64 = 60 * 60 * 1_000;
/// The last second of the year 9998.
const CERTIFICATE_SECONDS_MAX: u64 = 253_370_764_799;

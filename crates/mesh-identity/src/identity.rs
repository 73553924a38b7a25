//! A node's own identity on disk.
//!
//! ```text
//! <dir>/identity/          0700
//!   node.key               PKCS#8, Ed25519        0600, like all below
//!   node.crt  root.crt     DER
//!   root.key               PKCS#8, only on the node that founded the mesh
//!   transport.key          64 bytes reset key, 8 bytes connection id key
//!   incarnation            the last life, in decimal
//!   place                  where this is: a hash of the machine, and the directory
//!   own/                   in a copy of another node's directory: what is its own
//!     node.key  node.crt  transport.key  incarnation  place
//! ```
//!
//! The directory appears whole or not at all: it is filled under another name and renamed; `own` likewise.
//! Only `incarnation` and `place` change afterwards.
//!
//! Two live nodes with one key cannot be told apart. So a directory that finds itself copied gets a key, and
//! with that a node id, of its own. It cannot ask the authority for a certificate, which is often off, and
//! need not: it has the key that it was copied with, and signs with that. See `docs/decisions/0018`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mesh_model::{Incarnation, NodeId, Text};
use rcgen::{KeyPair, PublicKeyData};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::certificate::{self, IssueError, NodeCertificate};
use crate::files::{self, FileError};
use crate::join::{Adopted, Candidate};
use crate::{PeerError, PeerIdentity, peer_identity};

/// Who this node is, with the keys to prove it.
///
/// The certificate ends a year after it was issued ([`expires_ms`](Self::expires_ms)); renewal comes
/// with the identity work.
pub struct NodeIdentity {
    peer: PeerIdentity,
    expires_ms: u64,
    key: KeyPair,
    certificate: CertificateDer<'static>,
    /// Of a copy: that of the key it was copied with.
    original: Option<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    authority: Option<Authority>,
    transport: TransportKeys,
    /// Where what changes is.
    dir: PathBuf,
    incarnation: Mutex<PathBuf>,
}

/// Where a data directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The system's own id of this machine; empty if it has none that is worth anything.
    pub machine: String,
    /// The directory, as an absolute path.
    pub dir: PathBuf,
}

/// What only the node that founded the mesh has.
struct Authority {
    key: KeyPair,
    root_not_after_ms: u64,
}

/// A node that forgets these after a crash is noticed by its peers only when their links time out.
#[derive(Clone)]
struct TransportKeys {
    reset: [u8; 64],
    connection_id: [u8; 8],
}

impl NodeIdentity {
    /// Loads the identity of a data directory; `None` if the node was neither founded nor adopted.
    pub fn load(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let dir = dir.join(DIRECTORY);
        if !dir.is_dir() {
            return Ok(None);
        }
        let own = dir.join(OWN);
        let root = CertificateDer::from(required(&dir, ROOT_CERTIFICATE)?);
        let root_key = files::read(&dir.join(ROOT_KEY), FILE_BYTES_MAX)?;
        let root_key = root_key.map(|bytes| read_key(ROOT_KEY, bytes)).transpose()?;
        let (dir, original) = match own.is_dir() {
            true => (own, Some(CertificateDer::from(required(&dir, NODE_CERTIFICATE)?))),
            false => (dir, None),
        };
        let key = read_key(NODE_KEY, required(&dir, NODE_KEY)?)?;
        let certificate = CertificateDer::from(required(&dir, NODE_CERTIFICATE)?);
        let transport = TransportKeys::decode(&required(&dir, TRANSPORT_KEY)?)?;
        let parts = Parts { key, certificate, original, root, root_key, transport };
        Self::assemble(dir, parts).map(Some)
    }

    /// Gives the node of a directory that is a copy of another's a key and an id of its own, and loads it.
    pub fn part(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let identity = dir.join(DIRECTORY);
        let original_key = read_key(NODE_KEY, required(&identity, NODE_KEY)?)?;
        let original = CertificateDer::from(required(&identity, NODE_CERTIFICATE)?);
        let key = certificate::new_key()?;
        let certificate = certificate::issue_copy(&original, &original_key, &key)?;
        let (target, beside) = (identity.join(OWN), identity.join(OWN_UNFINISHED));
        files::remove_dir_if_there(&beside)?;
        files::create_private_dir(&beside)?;
        files::write_new(&beside.join(NODE_KEY), key.serialized_der())?;
        files::write_new(&beside.join(NODE_CERTIFICATE), &certificate)?;
        files::write_new(&beside.join(TRANSPORT_KEY), &TransportKeys::generate()?.encode())?;
        files::sync_dir(&beside)?;
        // A crash in between leaves the key that was copied, which is then found to be a copy once more.
        files::remove_dir_if_there(&target)?;
        files::rename(&beside, &target)?;
        Self::load(dir)
    }

    /// Returns whether this identity has been copied from elsewhere. It remembers where it is the first time.
    pub fn is_copied(&self, place: &Place) -> Result<bool, IdentityError> {
        let path = self.dir.join(PLACE);
        let here = place.lines();
        let known = files::read(&path, FILE_BYTES_MAX)?;
        if known.as_deref() == Some(here.as_bytes()) {
            return Ok(false);
        }
        if let Some(known) = known {
            let known = String::from_utf8_lossy(&known).into_owned();
            let (machine, dir) = known.trim_end().split_once('\n').unwrap_or_default();
            // What is no longer where it was has been moved.
            let same_machine = here.split_once('\n').is_some_and(|(here, _)| here == machine);
            if !same_machine || Path::new(dir).join(DIRECTORY).exists() {
                return Ok(true);
            }
        }
        files::replace(&path, here.as_bytes())?;
        Ok(false)
    }

    /// Returns whether no life of this node has begun on this disk since the given one.
    pub fn is_last_life(&self, incarnation: Incarnation) -> Result<bool, IdentityError> {
        let bytes = files::read(&self.dir.join(INCARNATION), FILE_BYTES_MAX)?;
        Ok(bytes.as_deref() == Some(format!("{}\n", incarnation.0).as_bytes()))
    }

    /// Founds a mesh: makes its authority and the identity of its first node.
    pub fn found(dir: &Path, owner: &str, now_ms: u64) -> Result<Self, IdentityError> {
        if !certificate::is_owner(owner) {
            return Err(IdentityError::BadOwner);
        }
        let (root_key, key) = (certificate::new_key()?, certificate::new_key()?);
        let root = certificate::new_root(&root_key, now_ms)?;
        let not_after_ms = certificate::root_not_after_ms(&root)?;
        let certificate = certificate::issue(&root, &root_key, &key, owner, now_ms, not_after_ms)?;
        Self::create(dir, key, certificate, root, Some(root_key))
    }

    /// Becomes the node that an authority has just admitted.
    pub fn adopt(dir: &Path, candidate: &Candidate, adopted: &Adopted) -> Result<Self, IdentityError> {
        let key = read_key(NODE_KEY, candidate.key().serialize_der())?;
        Self::create(dir, key, adopted.certificate.clone(), adopted.root.clone(), None)
    }

    fn create(
        dir: &Path,
        key: KeyPair,
        certificate: CertificateDer<'static>,
        root: CertificateDer<'static>,
        root_key: Option<KeyPair>,
    ) -> Result<Self, IdentityError> {
        let (target, beside) = (dir.join(DIRECTORY), dir.join(DIRECTORY_UNFINISHED));
        files::ensure_private_dir(dir)?;
        if target.exists() {
            return Err(IdentityError::Exists(target));
        }
        // Left by a crash before the rename: nobody has seen these keys.
        files::remove_dir_if_there(&beside)?;
        let transport = TransportKeys::generate()?;
        files::create_private_dir(&beside)?;
        files::write_new(&beside.join(NODE_KEY), key.serialized_der())?;
        files::write_new(&beside.join(NODE_CERTIFICATE), &certificate)?;
        files::write_new(&beside.join(ROOT_CERTIFICATE), &root)?;
        files::write_new(&beside.join(TRANSPORT_KEY), &transport.encode())?;
        if let Some(root_key) = &root_key {
            files::write_new(&beside.join(ROOT_KEY), root_key.serialized_der())?;
        }
        let parts = Parts { key, certificate, original: None, root, root_key, transport };
        let identity = Self::assemble(target.clone(), parts)?;
        files::sync_dir(&beside)?;
        files::rename(&beside, &target)?;
        Ok(identity)
    }

    fn assemble(dir: PathBuf, parts: Parts) -> Result<Self, IdentityError> {
        let Parts { key, certificate, original, root, root_key, transport } = parts;
        let NodeCertificate { peer, not_before_ms, not_after_ms } = certificate::read(&certificate)?;
        // Loading does not care what time it is; the link that shows an expired certificate does.
        let chain: Vec<_> = [&certificate].into_iter().chain(&original).cloned().collect();
        peer_identity(&chain, &root, not_before_ms)?;
        if peer.node != certificate::node_id(&key.subject_public_key_info()) {
            return Err(IdentityError::Damaged { file: NODE_KEY, why: "it is not the certificate's key" });
        }
        let root_not_after_ms = certificate::root_not_after_ms(&root)?;
        let authority = root_key.map(|key| Authority { key, root_not_after_ms });
        let incarnation = Mutex::new(dir.join(INCARNATION));
        let expires_ms = not_after_ms;
        Ok(Self {
            peer,
            expires_ms,
            key,
            certificate,
            original,
            root,
            authority,
            transport,
            dir,
            incarnation,
        })
    }

    /// Begins a new life, larger than any before, and remembers it before saying so.
    pub fn next_incarnation(&self, now_ms: u64) -> Result<Incarnation, IdentityError> {
        let damaged = |why| IdentityError::Damaged { file: INCARNATION, why };
        let path = self.incarnation.lock().map_err(|_| damaged("another thread failed while writing it"))?;
        let last = match files::read(&path, FILE_BYTES_MAX)? {
            None => 0,
            Some(bytes) => std::str::from_utf8(&bytes)
                .ok()
                .and_then(|text| text.trim_end().parse::<u64>().ok())
                .ok_or(damaged("it is not a number"))?,
        };
        let next = last.checked_add(1).ok_or(damaged("the number cannot grow"))?.max(now_ms);
        files::replace(&path, format!("{next}\n").as_bytes())?;
        Ok(Incarnation(next))
    }

    /// Says who a peer is, if it belongs to this mesh and to this node's owner.
    pub fn check_peer(
        &self,
        certificates: &[CertificateDer<'_>],
        now_ms: u64,
    ) -> Result<PeerIdentity, PeerError> {
        let peer = peer_identity(certificates, &self.root, now_ms)?;
        if peer.owner == self.peer.owner { Ok(peer) } else { Err(PeerError::WrongOwner) }
    }

    /// Returns this node's id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.peer.node
    }

    /// Returns the owner that the certificate binds this node to.
    #[must_use]
    pub fn owner(&self) -> &Text {
        &self.peer.owner
    }

    /// Returns the certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Returns the certificate, and what it hangs on below the root.
    pub fn chain(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.certificate).chain(&self.original)
    }

    /// Returns the pinned root.
    #[must_use]
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// Returns when the certificate ends.
    #[must_use]
    pub fn expires_ms(&self) -> u64 {
        self.expires_ms
    }

    /// Tells whether this node can admit others.
    #[must_use]
    pub fn is_authority(&self) -> bool {
        self.authority.is_some()
    }

    /// Returns the key of stateless resets, the same in every life.
    #[must_use]
    pub fn reset_key(&self) -> &[u8; 64] {
        &self.transport.reset
    }

    /// Returns the key of connection ids, the same in every life.
    #[must_use]
    pub fn connection_id_key(&self) -> u64 {
        u64::from_le_bytes(self.transport.connection_id)
    }

    pub(crate) fn private_key(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der())
    }

    /// Signs a certificate for a node of this owner; `None` if this node is not the authority.
    pub(crate) fn issue(
        &self,
        node_key: &impl PublicKeyData,
        now_ms: u64,
    ) -> Option<Result<CertificateDer<'static>, rcgen::Error>> {
        let Authority { key, root_not_after_ms } = self.authority.as_ref()?;
        Some(certificate::issue(&self.root, key, node_key, self.owner(), now_ms, *root_not_after_ms))
    }
}

impl Place {
    /// Returns what is remembered of it. What identifies the machine to others stays out of it.
    fn lines(&self) -> String {
        let machine = match self.machine.as_str() {
            "" => "-".to_owned(),
            machine => {
                let hash = certificate::sha256(format!("deskmesh place\0{machine}").as_bytes());
                hash.iter().map(|byte| format!("{byte:02x}")).collect()
            }
        };
        format!("{machine}\n{}\n", self.dir.display())
    }
}

/// What an identity is put together from.
struct Parts {
    key: KeyPair,
    certificate: CertificateDer<'static>,
    original: Option<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    root_key: Option<KeyPair>,
    transport: TransportKeys,
}

fn required(dir: &Path, name: &'static str) -> Result<Vec<u8>, IdentityError> {
    let bytes = files::read(&dir.join(name), FILE_BYTES_MAX)?;
    bytes.ok_or(IdentityError::Damaged { file: name, why: "it is missing" })
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("peer", &self.peer)
            .field("is_authority", &self.is_authority())
            .finish_non_exhaustive()
    }
}

impl TransportKeys {
    fn generate() -> Result<Self, IdentityError> {
        let mut keys = Self { reset: [0; 64], connection_id: [0; 8] };
        let random = SystemRandom::new();
        random.fill(&mut keys.reset).map_err(|_| IdentityError::NoRandomness)?;
        random.fill(&mut keys.connection_id).map_err(|_| IdentityError::NoRandomness)?;
        Ok(keys)
    }

    fn encode(&self) -> Vec<u8> {
        [self.reset.as_slice(), self.connection_id.as_slice()].concat()
    }

    fn decode(bytes: &[u8]) -> Result<Self, IdentityError> {
        let damaged = IdentityError::Damaged { file: TRANSPORT_KEY, why: "it has the wrong size" };
        let Some((reset, rest)) = bytes.split_first_chunk() else { return Err(damaged) };
        let Ok(connection_id) = rest.try_into() else { return Err(damaged) };
        Ok(Self { reset: *reset, connection_id })
    }
}

fn read_key(file: &'static str, bytes: Vec<u8>) -> Result<KeyPair, IdentityError> {
    let damaged = |_| IdentityError::Damaged { file, why: "it is not a key" };
    let key = PrivatePkcs8KeyDer::from(bytes);
    KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519).map_err(damaged)
}

impl From<IssueError> for IdentityError {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Original(error) => Self::Certificate(error),
            IssueError::Making(error) => Self::Making(error),
        }
    }
}

/// The identity could not be loaded or made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The disk failed, or is someone else's.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is an identity already; it is left as it is.
    #[error("an identity exists already in {}", .0.display())]
    Exists(PathBuf),
    /// A file is not what this program wrote.
    #[error("identity file {file} is damaged: {why}")]
    Damaged {
        /// Its name.
        file: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// The owner's name is empty, too long, or has control characters or outer blanks.
    #[error("owner must be 1 to {} bytes without control characters", crate::OWNER_BYTES_MAX)]
    BadOwner,
    /// The certificate on disk does not fit.
    #[error("own certificate is not usable")]
    Certificate(#[from] PeerError),
    /// Making a key or a certificate failed.
    #[error("key or certificate could not be made")]
    Making(#[from] rcgen::Error),
    /// The system has no random bytes to give.
    #[error("no random bytes")]
    NoRandomness,
}

const DIRECTORY: &str = "identity";
const DIRECTORY_UNFINISHED: &str = "identity.new";
const OWN: &str = "own";
const OWN_UNFINISHED: &str = "own.new";
const PLACE: &str = "place";
const NODE_KEY: &str = "node.key";
const NODE_CERTIFICATE: &str = "node.crt";
const ROOT_CERTIFICATE: &str = "root.crt";
const ROOT_KEY: &str = "root.key";
const TRANSPORT_KEY: &str = "transport.key";
const INCARNATION: &str = "incarnation";
const FILE_BYTES_MAX: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    #[test]
    fn founded_identity_is_loaded_again() {
        let dir = tempfile::tempdir().unwrap();
        assert!(NodeIdentity::load(dir.path()).unwrap().is_none());
        let made = NodeIdentity::found(dir.path(), "ada@example.com", NOW_MS).unwrap();
        let loaded = NodeIdentity::load(dir.path()).unwrap().unwrap();
        assert_eq!(loaded.peer, made.peer);
        assert_eq!(loaded.reset_key(), made.reset_key());
        assert_eq!(loaded.connection_id_key(), made.connection_id_key());
        assert!(loaded.is_authority());
        assert_eq!(loaded.owner(), &"ada@example.com");
        assert_eq!(loaded.expires_ms(), NOW_MS + 365 * 86_400_000);
        assert!(matches!(NodeIdentity::found(dir.path(), "eve", NOW_MS), Err(IdentityError::Exists(_))));
    }

    #[test]
    fn unfinished_directory_is_started_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(DIRECTORY_UNFINISHED)).unwrap();
        fs::write(dir.path().join(DIRECTORY_UNFINISHED).join(NODE_KEY), b"half").unwrap();
        assert!(NodeIdentity::load(dir.path()).unwrap().is_none());
        NodeIdentity::found(dir.path(), "ada", NOW_MS).unwrap();
        assert!(!dir.path().join(DIRECTORY_UNFINISHED).exists());
    }

    #[cfg(unix)]
    #[test]
    fn only_this_user_can_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        NodeIdentity::found(dir.path(), "ada", NOW_MS).unwrap().next_incarnation(1).unwrap();
        let identity = dir.path().join(DIRECTORY);
        assert_eq!(fs::metadata(&identity).unwrap().permissions().mode() & 0o777, 0o700);
        for entry in fs::read_dir(identity).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
        }
    }

    #[test]
    fn incarnations_grow_whatever_the_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        let identity = NodeIdentity::found(dir.path(), "ada", NOW_MS).unwrap();
        assert_eq!(identity.next_incarnation(1_000).unwrap(), Incarnation(1_000));
        assert_eq!(identity.next_incarnation(5).unwrap(), Incarnation(1_001));
        let identity = NodeIdentity::load(dir.path()).unwrap().unwrap();
        // What a crash between write and rename leaves.
        fs::write(dir.path().join("identity/incarnation.new"), b"77").unwrap();
        assert_eq!(identity.next_incarnation(5).unwrap(), Incarnation(1_002));
        assert_eq!(identity.next_incarnation(2_000).unwrap(), Incarnation(2_000));
        fs::write(dir.path().join("identity/incarnation"), b"many").unwrap();
        assert!(matches!(identity.next_incarnation(1), Err(IdentityError::Damaged { .. })));
    }

    #[test]
    fn damaged_files_are_named() {
        let damage = |file: &'static str, bytes: Option<&[u8]>| {
            let dir = tempfile::tempdir().unwrap();
            NodeIdentity::found(dir.path(), "ada", NOW_MS).unwrap();
            let path = dir.path().join(DIRECTORY).join(file);
            match bytes {
                Some(bytes) => fs::write(path, bytes).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
            NodeIdentity::load(dir.path()).unwrap_err()
        };
        let check = |file, bytes| {
            let error = damage(file, bytes);
            assert!(matches!(error, IdentityError::Damaged { file: named, .. } if named == file), "{error}");
        };
        let other_key = certificate::new_key().unwrap();
        check(NODE_KEY, None);
        check(NODE_KEY, Some(b"x"));
        check(NODE_KEY, Some(other_key.serialized_der()));
        check(TRANSPORT_KEY, Some(&[0; 71]));
        check(TRANSPORT_KEY, Some(&[0; 73]));
        assert!(matches!(damage(NODE_CERTIFICATE, Some(b"x")), IdentityError::Certificate(_)));
        let other_root = certificate::new_root(&certificate::new_key().unwrap(), NOW_MS).unwrap();
        let error = damage(ROOT_CERTIFICATE, Some(&other_root));
        assert!(matches!(error, IdentityError::Certificate(PeerError::Untrusted)), "{error:?}");
    }

    #[test]
    fn owners_are_plain_names() {
        let dir = tempfile::tempdir().unwrap();
        for owner in ["", " ada", "ada\n", "a\u{7}b", &"x".repeat(129)] {
            assert!(matches!(NodeIdentity::found(dir.path(), owner, NOW_MS), Err(IdentityError::BadOwner)));
        }
        NodeIdentity::found(dir.path(), "Łukasz / Desk 4", NOW_MS).unwrap();
    }

    #[test]
    fn peers_are_checked() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let node = NodeIdentity::found(ours.path(), "ada", NOW_MS).unwrap();
        let stranger = NodeIdentity::found(theirs.path(), "ada", NOW_MS).unwrap();
        let check = |certificates: &[CertificateDer<'static>], now_ms, expected| {
            assert_eq!(node.check_peer(certificates, now_ms).map(|peer| peer.node), expected);
        };
        let own = node.certificate().clone();
        check(std::slice::from_ref(&own), NOW_MS, Ok(node.node()));
        check(&[own.clone(), node.root().clone()], NOW_MS, Ok(node.node()));
        check(&[], NOW_MS, Err(PeerError::NoCertificate));
        check(std::slice::from_ref(&own), NOW_MS + 366 * 86_400_000, Err(PeerError::Expired));
        check(std::slice::from_ref(&own), NOW_MS - 2 * 3_600_000, Err(PeerError::NotValidYet));
        check(&[stranger.certificate().clone()], NOW_MS, Err(PeerError::Untrusted));
        check(&[stranger.certificate().clone(), stranger.root().clone()], NOW_MS, Err(PeerError::Untrusted));
        assert!(matches!(node.check_peer(&[vec![1, 2, 3].into()], NOW_MS), Err(PeerError::Malformed(_))));
        assert!(matches!(node.check_peer(&vec![own; 9], NOW_MS), Err(PeerError::Malformed(_))));
        // The same authority, another owner.
        let Authority { key, root_not_after_ms } = node.authority.as_ref().unwrap();
        let other = certificate::new_key().unwrap();
        let other = certificate::issue(node.root(), key, &other, "bob", NOW_MS, *root_not_after_ms).unwrap();
        check(&[other], NOW_MS, Err(PeerError::WrongOwner));
        // The root itself is no node, though it is signed by the root.
        assert!(node.check_peer(&[node.root().clone()], NOW_MS).is_err());
    }

    /// Copies all that is in a directory, as somebody who makes an image does.
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &target),
                false => drop(fs::copy(entry.path(), target).unwrap()),
            }
        }
    }

    fn place(machine: &str, dir: &Path) -> Place {
        Place { machine: machine.to_owned(), dir: dir.to_owned() }
    }

    #[test]
    fn a_copy_is_told_from_what_was_moved_or_started_again() {
        let parent = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| parent.path().join(name));
        let node = NodeIdentity::found(&a, "ada", NOW_MS).unwrap();
        assert!(!node.is_copied(&place("m", &a)).unwrap(), "the first time");
        assert!(!node.is_copied(&place("m", &a)).unwrap(), "started again");
        assert!(node.is_copied(&place("n", &a)).unwrap(), "on another machine");
        copy(&a, &b);
        let loaded = |dir: &Path| NodeIdentity::load(dir).unwrap().unwrap();
        assert!(loaded(&b).is_copied(&place("m", &b)).unwrap(), "beside the first");
        fs::rename(&a, &c).unwrap();
        assert!(!loaded(&c).is_copied(&place("m", &c)).unwrap(), "moved");
        assert!(!loaded(&c).is_copied(&place("m", &c)).unwrap(), "and started again");
        let text = fs::read_to_string(c.join(DIRECTORY).join(PLACE)).unwrap();
        assert_eq!(
            text.lines().next().map(str::len),
            Some(64),
            "a hash of the machine's id, not that itself"
        );
    }

    #[test]
    fn copies_have_ids_of_their_own_and_are_believed() {
        let parent = tempfile::tempdir().unwrap();
        let image = parent.path().join("image");
        let original = NodeIdentity::found(&image, "ada", NOW_MS).unwrap();
        original.next_incarnation(NOW_MS).unwrap();
        assert!(!original.is_copied(&place("m", &image)).unwrap());
        let mut nodes = vec![original];
        for number in 0..3 {
            let dir = parent.path().join(format!("copy-{number}"));
            // The last one is a copy of a copy.
            copy(
                if number < 2 { &image } else { nodes[2].dir.parent().and_then(Path::parent).unwrap() },
                &dir,
            );
            let copied = NodeIdentity::load(&dir).unwrap().unwrap();
            assert!(copied.is_copied(&place("m", &dir)).unwrap());
            let own = NodeIdentity::part(&dir).unwrap().unwrap();
            assert!(!own.is_copied(&place("m", &dir)).unwrap());
            assert_eq!(NodeIdentity::load(&dir).unwrap().unwrap().node(), own.node(), "it stays");
            assert_eq!(own.expires_ms(), copied.expires_ms());
            assert_ne!(own.reset_key(), nodes[0].reset_key());
            nodes.push(own);
        }
        for one in &nodes {
            assert_eq!(nodes.iter().filter(|other| other.node() == one.node()).count(), 1, "distinct");
            let chain: Vec<_> = one.chain().cloned().collect();
            for other in &nodes {
                assert_eq!(other.check_peer(&chain, NOW_MS).map(|peer| peer.node), Ok(one.node()));
            }
        }
    }

    #[test]
    fn a_copys_certificate_is_worth_no_more_than_what_it_hangs_on() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [ours, theirs] = &dirs;
        let node = NodeIdentity::found(ours.path(), "ada", NOW_MS).unwrap();
        let copy = NodeIdentity::part(ours.path()).unwrap().unwrap();
        let stranger = NodeIdentity::found(theirs.path(), "ada", NOW_MS).unwrap();
        let of_stranger = NodeIdentity::part(theirs.path()).unwrap().unwrap();
        let check = |certificates: &[&CertificateDer<'static>], now_ms, expected| {
            let certificates: Vec<_> = certificates.iter().map(|&one| one.clone()).collect();
            assert_eq!(node.check_peer(&certificates, now_ms).map(|peer| peer.node), expected);
        };
        let (own, parent) = (copy.certificate(), node.certificate());
        check(&[own, parent], NOW_MS, Ok(copy.node()));
        check(&[own], NOW_MS, Err(PeerError::Untrusted));
        check(&[own, node.root()], NOW_MS, Err(PeerError::Untrusted));
        check(&[own, own], NOW_MS, Err(PeerError::Untrusted));
        check(&[own, stranger.certificate()], NOW_MS, Err(PeerError::Untrusted));
        check(&[of_stranger.certificate(), parent], NOW_MS, Err(PeerError::Untrusted));
        check(&[of_stranger.certificate(), stranger.certificate()], NOW_MS, Err(PeerError::Untrusted));
        check(&[own, parent], NOW_MS + 366 * 86_400_000, Err(PeerError::Expired));
        check(&[own, parent], NOW_MS - 2 * 3_600_000, Err(PeerError::NotValidYet));
        // A copy's key signs for nobody.
        let key = certificate::new_key().unwrap();
        let further = certificate::issue_copy(own, &copy.key, &key).unwrap();
        check(&[&further, own], NOW_MS, Err(PeerError::Untrusted));
        check(&[&further, own, parent], NOW_MS, Err(PeerError::Untrusted));
        // Nor for another owner, nor under another node's name, nor with a signature that was changed.
        let validity = (NOW_MS, NOW_MS + 1_000);
        let signed = |owner| certificate::node_certificate(parent, &node.key, &key, owner, validity).unwrap();
        check(&[&signed("ada"), parent], NOW_MS, Ok(certificate::node_id(&key.subject_public_key_info())));
        check(&[&signed("ada"), parent], NOW_MS + 2_000, Err(PeerError::Expired));
        check(&[&signed("ada"), parent], NOW_MS - 1_000, Err(PeerError::NotValidYet));
        check(&[&signed("bob"), parent], NOW_MS, Err(PeerError::BadName));
        let mut forged = signed("ada").to_vec();
        *forged.last_mut().unwrap() ^= 1;
        check(&[&forged.into(), parent], NOW_MS, Err(PeerError::Untrusted));
    }

    #[test]
    fn a_crash_while_parting_leaves_what_can_be_started() {
        let dir = tempfile::tempdir().unwrap();
        let original = NodeIdentity::found(dir.path(), "ada", NOW_MS).unwrap();
        let identity = dir.path().join(DIRECTORY);
        fs::create_dir(identity.join(OWN_UNFINISHED)).unwrap();
        fs::write(identity.join(OWN_UNFINISHED).join(NODE_KEY), b"half").unwrap();
        assert_eq!(NodeIdentity::load(dir.path()).unwrap().unwrap().node(), original.node());
        let first = NodeIdentity::part(dir.path()).unwrap().unwrap();
        let second = NodeIdentity::part(dir.path()).unwrap().unwrap();
        assert_ne!(first.node(), second.node());
        let life = second.next_incarnation(NOW_MS).unwrap();
        assert!(second.is_last_life(life).unwrap());
        NodeIdentity::load(dir.path()).unwrap().unwrap().next_incarnation(NOW_MS).unwrap();
        assert!(!second.is_last_life(life).unwrap());
    }

    #[test]
    fn certificates_never_outlive_the_root_and_have_one_size() {
        let dir = tempfile::tempdir().unwrap();
        let node = NodeIdentity::found(dir.path(), "ada", NOW_MS).unwrap();
        let key = certificate::new_key().unwrap();
        let late_ms = NOW_MS + (5 * 365 - 1) * 86_400_000;
        let late = node.issue(&key, late_ms).unwrap().unwrap();
        assert_eq!(certificate::read(&late).unwrap().not_after_ms, NOW_MS + 5 * 365 * 86_400_000);
        let sizes: Vec<usize> = (0..20)
            .map(|_| node.issue(&certificate::new_key().unwrap(), NOW_MS).unwrap().unwrap().len())
            .collect();
        assert!(sizes.windows(2).all(|pair| pair[0] == pair[1]), "{sizes:?}");
    }
}

//! TLS settings: 1.3 only, no tickets, no resumption, no early data, our own idea of trust.
//!
//! A resumed session keeps the authentication of the first one, so a certificate that expired or
//! was withdrawn in between would still be believed; that is why there are none.
//!
//! A server cannot insist on a client certificate, because a joiner has none. It takes any or no
//! certificate here, and must ask [`NodeIdentity::check_peer`] before it treats the connection as a
//! link. In TLS 1.3 a client is connected before the server has looked at its certificate, so the
//! dialling side must wait for a sign of the server before it sends anything.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::NodeId;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig,
    SignatureScheme,
};

use crate::certificate::sha256;
use crate::{JoinToken, NodeIdentity, PeerError, PeerIdentity, peer_identity};

/// The protocol of links between nodes.
pub const ALPN_MESH: &[u8] = b"deskmesh/1";
/// The protocol by which a node without a certificate joins.
pub const ALPN_JOIN: &[u8] = b"deskmesh-join/1";
/// What is sent as server name. Nobody looks at it: a node is known by the name in its certificate.
pub const SERVER_NAME: &str = "deskmesh";

/// The wall clock, asked in the middle of a handshake.
pub trait WallClock: fmt::Debug + Send + Sync {
    /// Returns milliseconds since 1970.
    fn wall_ms(&self) -> u64;
}

/// Makes the settings of the accepting side, for links and for joiners.
pub fn server_config(
    identity: &NodeIdentity,
    clock: Arc<dyn WallClock>,
) -> Result<ServerConfig, rustls::Error> {
    // Joiners know the root only by its hash, so it is sent along.
    let chain = identity.chain().chain([identity.root()]).cloned().collect();
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(Time(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(CheckedLater))
        .with_single_cert(chain, identity.private_key().into())?;
    config.alpn_protocols = vec![ALPN_MESH.to_vec(), ALPN_JOIN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// Makes the settings of a node that dials another node of its owner, perhaps one in particular.
pub fn client_config(
    identity: &Arc<NodeIdentity>,
    expected: Option<NodeId>,
    clock: Arc<dyn WallClock>,
) -> Result<ClientConfig, rustls::Error> {
    let verifier = PeerVerifier { identity: Arc::clone(identity), expected };
    let mut config = client_builder(clock, verifier)?
        .with_client_auth_cert(identity.chain().cloned().collect(), identity.private_key().into())?;
    config.alpn_protocols = vec![ALPN_MESH.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Makes the settings of a node that has only a token.
pub fn join_client_config(
    token: &JoinToken,
    clock: Arc<dyn WallClock>,
) -> Result<ClientConfig, rustls::Error> {
    let verifier = PinVerifier { root_sha256: token.root_sha256, owner: token.owner.clone() };
    let mut config = client_builder(clock, verifier)?.with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn client_builder(
    clock: Arc<dyn WallClock>,
    verifier: impl ServerCertVerifier + 'static,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, rustls::Error> {
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(Time(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[derive(Debug)]
struct Time(Arc<dyn WallClock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.wall_ms())))
    }
}

/// Believes the nodes of one mesh and owner.
#[derive(Debug)]
struct PeerVerifier {
    identity: Arc<NodeIdentity>,
    expected: Option<NodeId>,
}

impl PeerVerifier {
    fn verify(&self, chain: &[CertificateDer<'_>], now_ms: u64) -> Result<(), PeerError> {
        let PeerIdentity { node: found, .. } = self.identity.check_peer(chain, now_ms)?;
        match self.expected {
            Some(expected) if expected != found => Err(PeerError::WrongNode { found, expected }),
            _ => Ok(()),
        }
    }
}

/// Believes whoever has a chain to the root with this hash.
#[derive(Debug)]
struct PinVerifier {
    root_sha256: [u8; 32],
    owner: String,
}

impl PinVerifier {
    fn verify(&self, chain: &[CertificateDer<'_>], now_ms: u64) -> Result<(), PeerError> {
        let pinned = chain.iter().find(|certificate| sha256(certificate) == self.root_sha256);
        let peer = peer_identity(chain, pinned.ok_or(PeerError::Untrusted)?, now_ms)?;
        if *peer.owner == *self.owner { Ok(()) } else { Err(PeerError::WrongOwner) }
    }
}

fn verified(
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    now: UnixTime,
    verify: impl FnOnce(&[CertificateDer<'_>], u64) -> Result<(), PeerError>,
) -> Result<ServerCertVerified, Error> {
    let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(rest).cloned().collect();
    // `General` carries the text as it is; a certificate error would bury it in debug output.
    verify(&chain, now.as_secs().saturating_mul(1_000)).map_err(|error| Error::General(error.to_string()))?;
    Ok(ServerCertVerified::assertion())
}

/// Checks only that the client has the key of the certificate it shows.
#[derive(Debug)]
struct CheckedLater;

impl ClientCertVerifier for CheckedLater {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

macro_rules! server_verifier {
    ($verifier:ty) => {
        impl ServerCertVerifier for $verifier {
            fn verify_server_cert(
                &self,
                leaf: &CertificateDer<'_>,
                rest: &[CertificateDer<'_>],
                _name: &ServerName<'_>,
                _ocsp: &[u8],
                now: UnixTime,
            ) -> Result<ServerCertVerified, Error> {
                verified(leaf, rest, now, |chain, now_ms| self.verify(chain, now_ms))
            }

            fn verify_tls12_signature(
                &self,
                _message: &[u8],
                _certificate: &CertificateDer<'_>,
                _signature: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, Error> {
                Err(PeerIncompatible::Tls12NotOffered.into())
            }

            fn verify_tls13_signature(
                &self,
                message: &[u8],
                certificate: &CertificateDer<'_>,
                signature: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, Error> {
                verify_signature(message, certificate, signature)
            }

            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                vec![SignatureScheme::ED25519]
            }
        }
    };
}

server_verifier!(PeerVerifier);
server_verifier!(PinVerifier);

fn verify_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    verify_tls13_signature(message, certificate, signature, &algorithms)
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::join::{Candidate, EXPORTER_LABEL, Exporter, admit};
    use crate::{TOKEN_TTL_MS, TokenStore};

    const NOW_MS: u64 = 1_800_000_000_000;
    const YEAR_MS: u64 = 366 * 86_400_000;

    #[derive(Debug)]
    struct At(u64);

    impl WallClock for At {
        fn wall_ms(&self) -> u64 {
            self.0
        }
    }

    fn at(ms: u64) -> Arc<dyn WallClock> {
        Arc::new(At(ms))
    }

    fn found(owner: &str) -> (tempfile::TempDir, Arc<NodeIdentity>) {
        let dir = tempfile::tempdir().unwrap();
        let identity = NodeIdentity::found(dir.path(), owner, NOW_MS).unwrap();
        (dir, Arc::new(identity))
    }

    /// Admits another node to the mesh of `identity`, without a network.
    fn join(dir: &std::path::Path, identity: &NodeIdentity) -> (tempfile::TempDir, Arc<NodeIdentity>) {
        let tokens = TokenStore::open(dir);
        let token = tokens.create(identity, vec!["h:1".to_owned()], TOKEN_TTL_MS, NOW_MS).unwrap();
        let candidate = Candidate::generate().unwrap();
        let answer = admit(identity, &tokens, &candidate.request(&token, &[1; 32]), &[1; 32], NOW_MS);
        let adopted = candidate.accept(&token, answer.unwrap(), NOW_MS).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let node = NodeIdentity::adopt(dir.path(), &candidate, &adopted).unwrap();
        (dir, Arc::new(node))
    }

    struct Session {
        client: ClientConnection,
        server: ServerConnection,
    }

    /// Runs a handshake in memory; the error is that of whichever side failed first.
    fn handshake(client: ClientConfig, server: ServerConfig) -> Result<Session, Error> {
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets()?;
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(Session { client, server })
    }

    fn refusal(result: Result<Session, Error>) -> String {
        match result.map(|_| ()) {
            Err(Error::General(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn two_nodes_of_a_mesh_know_each_other() {
        let (dir, a) = found("ada");
        let (_dir, b) = join(dir.path(), &a);
        let client = client_config(&b, Some(a.node()), at(NOW_MS)).unwrap();
        let session = handshake(client, server_config(&a, at(NOW_MS)).unwrap()).unwrap();
        assert_eq!(session.server.alpn_protocol(), Some(ALPN_MESH));
        assert_eq!(session.server.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        let peer = a.check_peer(session.server.peer_certificates().unwrap(), NOW_MS).unwrap();
        assert_eq!((peer.node, &*peer.owner), (b.node(), "ada"));
        let peer = b.check_peer(session.client.peer_certificates().unwrap(), NOW_MS).unwrap();
        assert_eq!(peer.node, a.node());
    }

    #[test]
    fn the_dialler_refuses_what_it_did_not_mean() {
        let (dir, a) = found("ada");
        let (_dir_b, b) = join(dir.path(), &a);
        let (_dir_x, stranger) = found("ada");
        let server = |identity: &NodeIdentity| server_config(identity, at(NOW_MS)).unwrap();
        let check = |client: ClientConfig, server, expected: &str| {
            let text = refusal(handshake(client, server));
            assert!(text.contains(expected), "{text}");
        };
        let client = |expected, ms| client_config(&b, expected, at(ms)).unwrap();
        check(client(None, NOW_MS), server(&stranger), "another authority");
        check(client(Some(stranger.node()), NOW_MS), server(&a), "was expected");
        check(client(None, NOW_MS + YEAR_MS), server(&a), "expired");
    }

    #[test]
    fn the_listener_sees_strangers_for_what_they_are() {
        let (_dir, a) = found("ada");
        let (_dir_x, stranger) = found("ada");
        #[derive(Debug)]
        struct Gullible;
        impl Gullible {
            fn verify(&self, _: &[CertificateDer<'_>], _: u64) -> Result<(), PeerError> {
                Ok(())
            }
        }
        server_verifier!(Gullible);
        let builder = || client_builder(at(NOW_MS), Gullible).unwrap();
        let chain = vec![stranger.certificate().clone()];
        let mut shown = builder().with_client_auth_cert(chain, stranger.private_key().into()).unwrap();
        shown.alpn_protocols = vec![ALPN_MESH.to_vec()];
        let session = handshake(shown, server_config(&a, at(NOW_MS)).unwrap()).unwrap();
        let peer = a.check_peer(session.server.peer_certificates().unwrap(), NOW_MS);
        assert_eq!(peer, Err(PeerError::Untrusted));
        let mut hidden = builder().with_no_client_auth();
        hidden.alpn_protocols = vec![ALPN_MESH.to_vec()];
        let session = handshake(hidden, server_config(&a, at(NOW_MS)).unwrap()).unwrap();
        assert!(session.server.peer_certificates().is_none());
        // A certificate without its key does not get as far.
        let stolen = vec![a.certificate().clone()];
        let with_other_key = builder().with_client_auth_cert(stolen, stranger.private_key().into());
        assert!(with_other_key.is_err(), "rustls notices before we could");
        // Neither does a protocol that is not ours.
        let mut other = builder().with_no_client_auth();
        other.alpn_protocols = vec![b"h3".to_vec()];
        assert!(handshake(other, server_config(&a, at(NOW_MS)).unwrap()).is_err());
    }

    #[test]
    fn a_joiner_trusts_only_the_pinned_root() {
        let (dir, a) = found("ada");
        let (_dir_b, b) = join(dir.path(), &a);
        let (dir_x, stranger) = found("ada");
        let tokens = TokenStore::open(dir.path());
        let token = tokens.create(&a, vec!["h:1".to_owned()], TOKEN_TTL_MS, NOW_MS).unwrap();
        let client = || join_client_config(&token, at(NOW_MS)).unwrap();
        let session = handshake(client(), server_config(&a, at(NOW_MS)).unwrap()).unwrap();
        assert_eq!(session.server.alpn_protocol(), Some(ALPN_JOIN));
        // Any node of the mesh proves the root, so that it can say whom to ask instead.
        handshake(client(), server_config(&b, at(NOW_MS)).unwrap()).unwrap();
        let text = refusal(handshake(client(), server_config(&stranger, at(NOW_MS)).unwrap()));
        assert!(text.contains("another authority"), "{text}");
        let of_bob = JoinToken { owner: "bob".to_owned(), ..token.clone() };
        let client = join_client_config(&of_bob, at(NOW_MS)).unwrap();
        let text = refusal(handshake(client, server_config(&a, at(NOW_MS)).unwrap()));
        assert!(text.contains("another owner"), "{text}");
        drop(dir_x);
    }

    /// The joiner is made to trust the relay's root (say, by a forged token line), and the relay has a
    /// session with the authority. Both sessions work; the proof does not carry over.
    #[test]
    fn a_relay_in_between_gains_nothing() {
        let (dir, a) = found("ada");
        let (_dir_x, relay) = found("ada");
        let tokens = TokenStore::open(dir.path());
        let token = tokens.create(&a, vec!["h:1".to_owned()], TOKEN_TTL_MS, NOW_MS).unwrap();
        let deceived = JoinToken { root_sha256: sha256(relay.root()), ..token.clone() };
        let outer = handshake(
            join_client_config(&deceived, at(NOW_MS)).unwrap(),
            server_config(&relay, at(NOW_MS)).unwrap(),
        );
        let inner = handshake(
            join_client_config(&token, at(NOW_MS)).unwrap(),
            server_config(&a, at(NOW_MS)).unwrap(),
        );
        let (outer, inner) = (outer.unwrap(), inner.unwrap());
        let export = |session: &Session| {
            let client: Exporter =
                session.client.export_keying_material([0; 32], EXPORTER_LABEL, None).unwrap();
            let server: Exporter =
                session.server.export_keying_material([0; 32], EXPORTER_LABEL, None).unwrap();
            assert_eq!(client, server);
            client
        };
        let candidate = Candidate::generate().unwrap();
        let request = candidate.request(&deceived, &export(&outer));
        let relayed = admit(&a, &tokens, &request, &export(&inner), NOW_MS);
        assert!(matches!(relayed, Err(crate::join::JoinRefusal::Token(crate::TokenRefusal::WrongSecret))));
        let honest = candidate.request(&token, &export(&inner));
        admit(&a, &tokens, &honest, &export(&inner), NOW_MS).unwrap();
    }
}

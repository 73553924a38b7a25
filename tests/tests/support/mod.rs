//! A client that behaves, and one that does not.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_client::{Client, Credentials, Identity, MethodDefinition, Target};
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Asserts that two clients of a node can call each other and share a context.
pub(crate) fn good_client_works(url: &str) {
    Runtime::new().unwrap().block_on(async {
        let login = async |application| {
            let credentials = Credentials { user: "ann".into(), secret: "x".into() };
            Client::connect(url, credentials, Identity::new(application)).await.unwrap()
        };
        let (server, client) = (login("server").await, login("client").await);
        server
            .register(MethodDefinition::new("Good.Echo"), |call| async move { Ok(call.args) })
            .await
            .unwrap();
        let answer = client.invoke("Good.Echo", json!({"n": 1}), Target::Best).await.unwrap();
        assert_eq!(answer.into_value(), json!({"n": 1}));
        client.contexts().set("good", json!({"n": 1})).await.unwrap();
        let seen = timeout(Duration::from_secs(5), async {
            loop {
                match server.contexts().get("good").await.unwrap() {
                    Some(value) => break value,
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        assert_eq!(*seen.await.unwrap(), json!({"n": 1}));
        server.close().await;
        client.close().await;
    });
}

/// Dials a mesh port without a certificate, in several ways, and asserts that each is refused.
pub(crate) fn stranger_dials(port: u16) {
    Runtime::new().unwrap().block_on(async {
        for alpn in ["deskmesh/1", "deskmesh-join/1", "h3"] {
            let Ok(connection) = dial(port, alpn).await else { continue };
            if let Ok(mut stream) = connection.open_uni().await {
                let _ = stream.write_all(&[0xff; 4096]).await;
                let _ = stream.finish();
            }
            if let Ok((mut stream, _)) = connection.open_bi().await {
                let _ = stream.write_all(&[0x7f; 4096]).await;
                let _ = stream.finish();
            }
            let closed = timeout(Duration::from_secs(12), connection.closed()).await;
            assert!(closed.is_ok(), "{alpn}: a stranger stays connected");
        }
    });
}

async fn dial(port: u16, alpn: &str) -> Result<quinn::Connection, Box<dyn std::error::Error>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let config = quinn::crypto::rustls::QuicClientConfig::try_from(tls)?;
    let endpoint = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let connecting =
        endpoint.connect_with(quinn::ClientConfig::new(Arc::new(config)), address, "deskmesh")?;
    Ok(timeout(Duration::from_secs(10), connecting).await??)
}

/// Believes every certificate.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ED25519, rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

//! quinn's settings.

use std::sync::Arc;
use std::time::Duration;

use mesh_identity::{NodeIdentity, tls};
use mesh_model::NodeId;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;

use super::congestion::NeverSilentConfig;
use super::{BindError, LinkLimits};
use crate::clock::Clock;

/// Connections of an earlier life are answered with a reset that the peer can check, so that it
/// notices a restart with the first packet. That takes both keys of the earlier life: one makes the
/// reset, the other tells our connection ids from noise.
pub(super) fn endpoint(identity: &NodeIdentity) -> EndpointConfig {
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, identity.reset_key());
    let connection_id_key = identity.connection_id_key();
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(connection_id_key)));
    config
}

pub(super) fn transport(discover_mtu: bool) -> Arc<TransportConfig> {
    let mtu_discovery = discover_mtu.then(|| {
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(MTU_MAX).minimum_change(MTU_STEP);
        mtu
    });
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_MS_MAX).into()))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS_MAX))
        .max_concurrent_bidi_streams(VarInt::from_u32(BIDI_STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(u64::from(WINDOW_BYTES))
        .initial_mtu(MTU_MIN)
        .min_mtu(MTU_MIN)
        .mtu_discovery_config(mtu_discovery)
        .congestion_controller_factory(Arc::new(NeverSilentConfig::default()))
        .datagram_receive_buffer_size(None);
    Arc::new(config)
}

pub(super) fn server(
    identity: &NodeIdentity,
    transport: &Arc<TransportConfig>,
    limits: &LinkLimits,
    clock: &Clock,
) -> Result<ServerConfig, BindError> {
    let tls = tls::server_config(identity, Arc::new(clock.clone()))?;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config
        .transport_config(Arc::clone(transport))
        .migration(true)
        .max_incoming(limits.handshakes_max)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_TOTAL_BYTES_MAX);
    // Nothing lets a later connection skip the checks of this one.
    config.validation_token.sent(0);
    Ok(config)
}

pub(super) fn client(
    identity: &Arc<NodeIdentity>,
    expected: Option<NodeId>,
    transport: &Arc<TransportConfig>,
    clock: &Clock,
) -> Result<ClientConfig, ClientConfigError> {
    quic_client(tls::client_config(identity, expected, Arc::new(clock.clone()))?, transport)
}

pub(super) fn quic_client(
    tls: rustls::ClientConfig,
    transport: &Arc<TransportConfig>,
) -> Result<ClientConfig, ClientConfigError> {
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::clone(transport));
    Ok(config)
}

/// The settings of a dial could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientConfigError {
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Quic(#[from] NoInitialCipherSuite),
}

const IDLE_MS_MAX: u32 = 20_000;
/// Before the first answer a datagram is sent again after three times this. Nodes are near each other.
const INITIAL_RTT: Duration = Duration::from_millis(100);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// quinn pays for these with memory per connection, used or not.
const UNI_STREAMS_MAX: u32 = 64;
const BIDI_STREAMS_MAX: u32 = 16;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const WINDOW_BYTES: u32 = 8 << 20;
const MTU_MIN: u16 = 1_200;
const MTU_MAX: u16 = 1_452;
/// More than half of what lies between them, so that the search begins with the largest: one probe finds it where
/// there is no tunnel, and each probe is as long as what it tries. If it is lost, one in the middle is tried.
const MTU_STEP: u16 = 127;
/// What is kept of a connection attempt before it is accepted: a client hello and little more.
const INCOMING_BYTES_MAX: u64 = 16 << 10;
const INCOMING_TOTAL_BYTES_MAX: u64 = 1 << 20;

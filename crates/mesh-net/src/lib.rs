//! Sockets, TLS and the clock: QUIC links and the local WebSocket endpoint.

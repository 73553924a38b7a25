//! A small async client for Rust apps, speaking GW3.

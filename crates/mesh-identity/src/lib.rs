//! Node keys, the built-in certificate authority, join tokens and TLS settings.

//! The deskmesh node and its commands.

pub mod admin_client;
mod authenticator;
pub mod cli;
pub mod config;
mod demo;
mod dialer;
mod discovery;
mod fdc3;
pub mod fdc3_bridge;
mod gateway;
mod local;
mod outbox;
pub mod output;
mod owner;
mod reload;
mod remembered;
#[cfg(test)]
mod simulation;
mod tokens;
mod up;
mod watchdog;
pub mod who_sees;

pub use demo::run as demo;
pub use local::websocket;
pub use up::run as up;

//! The deskmesh node and its commands.

pub mod admin_client;
pub mod cli;
pub mod config;
pub mod output;

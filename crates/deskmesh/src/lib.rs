//! The deskmesh node and its commands.

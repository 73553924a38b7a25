//! Nodes as their users have them: the built `deskmesh` program, real sockets, real data directories.
//!
//! [`Node`] starts one, [`Mesh`] two that have joined, and [`Linked`] some whose links can be cut; all go
//! down with their tests, and their logs are printed if a test fails. [`clients`] runs the suites of
//! `tests/clients` against them, and [`raw`] speaks to them with bytes of one's own choice.

pub mod clients;
mod linked;
mod mesh;
mod node;
mod peer;
mod program;
pub mod raw;
mod relay;
mod wait;

pub use crate::linked::Linked;
pub use crate::mesh::Mesh;
pub use crate::node::{Node, NodeOptions, PATIENCE};
pub use crate::peer::{RawPeer, hello};
pub use crate::program::{Finished, program, run, run_in};
pub use crate::wait::{elapsed, until};

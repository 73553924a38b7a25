//! Deterministic simulation of whole meshes, with checkers.
//!
//! [`run`] plays one seed: nodes, links, applications and faults on one thread in virtual time, and
//! checks what applications rely on. The same [`Options`] give the same run, event by event; see
//! `docs/simulation.md`.

mod app;
mod check;
mod checks;
mod connection;
mod day;
mod fault;
mod host;
mod mesh;
mod options;
mod rng;
mod script;
mod value;
mod world;

pub use checks::{Across, CHECKS, Check, Figure, Outcome, Scale};
pub use day::{Day, Held, Made};
pub use options::{Options, Report};
pub use world::run;

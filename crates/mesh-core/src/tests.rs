//! Tests of a whole node, and of several joined by links made of queues.
//!
//! Here nothing is delayed or lost, so each test is one conversation. What delays, cuts, crashes and
//! wrong clocks do is the business of the crate `mesh-sim`.

mod best;
mod calls;
mod causal;
mod drain;
mod exhaustive;
mod forgotten;
mod found;
mod limits;
mod links;
mod lives;
pub(crate) mod merge;
mod mesh;
mod node;
mod poison;
mod rates;
mod relay;
mod restraint;
mod retirement;
mod returning;
mod slow;
mod streams;
mod takeover;
mod visibility;

//! One node of the mesh as a pure state machine.
//!
//! [`Node`] has four verbs: [`handle`](Node::handle) takes an [`Input`],
//! [`handle_timeout`](Node::handle_timeout) the passing of time, [`poll_output`](Node::poll_output)
//! gives what is to be done, [`poll_timeout`](Node::poll_timeout) when to come back. Time is an
//! argument; there is no socket, task, lock or randomness here, and no order that depends on a hash, so
//! the same inputs give the same outputs on every machine.
//!
//! Where to look: who may see what, `session`; who offers what anywhere, `registry`; one call's life,
//! `call`; streams, `stream`; shared contexts, `context` over `content`; clients whose connection broke,
//! `returning`; which of several providers comes first, `best`; pub/sub, `bus`; other nodes and their liveness, `link`; the replicated state beneath it
//! all, `replica`.

mod best;
mod bus;
mod call;
mod causal;
mod content;
mod context;
mod io;
mod key;
mod link;
mod node;
mod party;
mod registry;
mod replica;
mod restriction;
mod returning;
mod served;
mod session;
mod sight;
mod stream;
#[cfg(test)]
mod tests;
mod vector;
mod view;
pub mod visibility;

pub use io::{CloseReason, Input, Notice, Output};
pub use node::{Node, NodeSettings, Timing};
pub use returning::Recognition;
pub use sight::{Onlooker, SightView, Watched};
pub use stream::SlowRule;
pub use view::{AppView, ContextView, MethodView, PeerView, StatusView};

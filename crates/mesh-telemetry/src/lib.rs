//! Traces and logs: what a node tells an operator, by name.

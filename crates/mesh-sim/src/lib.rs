//! Deterministic simulation of whole meshes, with checkers.

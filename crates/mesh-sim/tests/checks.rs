//! The acceptance checks, each with a seed and as much of it as every change can wait for.
//!
//! `cargo xtask sim checks --seeds 20` plays all of them.

use mesh_sim::{CHECKS, Scale};

#[test]
fn every_check_holds() {
    for check in CHECKS {
        let figures = (check.play)(1, Scale::Slice);
        assert!(
            figures.is_ok(),
            "{}: {figures:?}\nagain: cargo xtask sim checks --only {} --slice",
            check.name,
            check.name
        );
    }
}

//! The acceptance checks, each with a seed and as much of it as every change can wait for.
//!
//! `cargo xtask sim checks --seeds 20` plays all of them.

use mesh_sim::{CHECKS, Day, Scale};

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

/// The first hours of the long day, with its logons and a sleep over lunch: `cargo xtask sim day` plays all of it for a thousand desktops.
#[test]
fn a_morning_is_quiet_and_the_same_each_time() {
    let morning = |user| {
        let mut day = Day::new(1, user);
        day.pass_minutes(6 * 60 + 10);
        day.check();
        assert!(day.violations().is_empty(), "{:?}", day.violations());
        day.made()
    };
    for user in 0..2 {
        let made = morning(user);
        assert_eq!(made, morning(user));
        assert_eq!(made.divergences, 0);
        assert!(made.calls.1 > 100 && made.updates.1 > 1_000, "{made:?}");
    }
}

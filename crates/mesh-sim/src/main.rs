//! Plays seeds and says which ones break a promise.

use mesh_sim::{Options, run};

#[expect(clippy::print_stdout, reason = "a command-line tool")]
fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut from, mut count, mut verbose) = (1u64, 100u64, false);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok());
        match (argument.as_str(), number()) {
            ("--seeds", Some(seeds)) => count = seeds,
            ("--from", Some(first)) => from = first,
            ("--seed", Some(seed)) => (from, count, verbose) = (seed, 1, true),
            _ => {
                println!("usage: mesh-sim [--seeds COUNT] [--from SEED] [--seed SEED]");
                return std::process::ExitCode::from(2);
            }
        }
    }
    let mut failed = 0;
    let mut sums = [0u64; 8];
    for seed in from..from + count {
        let options = Options::of(seed);
        let report = run(&options);
        let [data, changes, publications] = report.received;
        let [undelivered, unknown] = report.lost;
        let (calls, ok) = report.calls;
        let counts = [report.frames, calls, ok, undelivered, unknown, data, changes, publications];
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
        if verbose {
            println!("{options:?}\ntrace {:016x}, {} frames", report.trace, report.frames);
        }
        if !report.violations.is_empty() {
            failed += 1;
            println!("seed {seed} failed: {options:?}");
            for violation in report.violations.iter().take(4) {
                println!("  {violation}");
            }
            println!("  again: cargo run --release -p mesh-sim -- --seed {seed}");
        }
    }
    let [frames, calls, ok, undelivered, unknown, data, changes, publications] = sums;
    println!(
        "{count} seeds, {failed} failed; {frames} frames, {calls} calls ({ok} with a result, {undelivered} not delivered, {unknown} unknown), {data} stream data, {changes} context changes, {publications} publications"
    );
    if failed == 0 { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

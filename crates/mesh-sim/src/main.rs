//! Plays seeds and says which ones break a promise.

mod longday;
mod merge;
mod table;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{available_parallelism, scope};

use mesh_sim::{Options, Report, run};

const USAGE: &str =
    "usage: mesh-sim [--seeds COUNT] [--from SEED] [--seed SEED] [--with OPTION]... [--without OPTION]... [--jobs COUNT]
       mesh-sim checks …: the acceptance checks
       mesh-sim day …: a long day of many users
       mesh-sim merge: what it costs to take writes into a large context
  --seeds COUNT   how many seeds to play, 100 if not said
  --from SEED     the first of them, 1 if not said
  --seed SEED     plays one seed twice, prints what it expands to, and compares the traces
  --with OPTION   turns one option on in every run, by its name as a seed prints it
  --without OPTION  turns it off
  --jobs COUNT    threads, as many as there are processors if not said";

struct Arguments {
    from: u64,
    count: u64,
    one: bool,
    /// What is turned on or off, and the words that say so.
    switches: Vec<(String, bool)>,
    jobs: usize,
}

fn arguments() -> Option<Arguments> {
    let jobs = available_parallelism().map_or(1, usize::from);
    let mut parsed = Arguments { from: 1, count: 100, one: false, switches: Vec::new(), jobs };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--seeds" => parsed.count = value.parse().ok()?,
            "--from" => parsed.from = value.parse().ok()?,
            "--seed" => (parsed.from, parsed.count, parsed.one) = (value.parse().ok()?, 1, true),
            "--jobs" => parsed.jobs = value.parse().ok().filter(|jobs| *jobs > 0)?,
            "--with" | "--without" if Options::of(1).switch(&value, true) => {
                parsed.switches.push((value, word == "--with"));
            }
            _ => return None,
        }
    }
    Some(parsed)
}

fn options(seed: u64, switches: &[(String, bool)]) -> Options {
    let mut options = Options::of(seed);
    for (name, on) in switches {
        options.switch(name, *on);
    }
    options
}

#[expect(clippy::print_stdout, reason = "a command-line tool")]
fn tell_failure(report: &Report, switches: &[(String, bool)]) {
    let seed = report.options.seed;
    println!("seed {seed} failed: {:?}", report.options);
    for violation in report.violations.iter().take(4) {
        println!("  {violation}");
    }
    let word = |on: bool| if on { "with" } else { "without" };
    let switches: String = switches.iter().map(|(name, on)| format!(" --{} {name}", word(*on))).collect();
    println!("  again: cargo xtask sim --seed {seed}{switches}");
}

#[expect(clippy::print_stdout, reason = "a command-line tool")]
fn main() -> std::process::ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == "checks").is_some() {
        return table::run(words);
    }
    if words.next_if(|word| word == "merge").is_some() {
        return merge::run();
    }
    if words.next_if(|word| word == "day").is_some() {
        return longday::run(words);
    }
    let Some(Arguments { from, count, one, switches, jobs }) = arguments() else {
        println!("{USAGE}");
        return std::process::ExitCode::from(2);
    };
    let next = AtomicU64::new(from);
    let end = from.saturating_add(count);
    let play = || {
        let (mut failed, mut sums) = (0u64, [0u64; 9]);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return (failed, sums);
            }
            let report = run(&options(seed, &switches));
            let [data, changes, publications] = report.received;
            let ([undelivered, unknown], (calls, ok)) = (report.lost, report.calls);
            let (frames, faults) = (report.frames, report.faults);
            let counts = [frames, faults, calls, ok, undelivered, unknown, data, changes, publications];
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count;
            }
            if !report.violations.is_empty() {
                failed += 1;
                tell_failure(&report, &switches);
            }
        }
    };
    let results: Vec<(u64, [u64; 9])> = scope(|threads| {
        let running: Vec<_> = (0..jobs).map(|_| threads.spawn(play)).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    // A thread that is missing has panicked, and said so.
    let panicked = results.len() < jobs;
    let (mut failed, mut sums) = (u64::from(panicked), [0u64; 9]);
    for (more, counts) in results {
        failed += more;
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    if one {
        let options = options(from, &switches);
        let (first, second) = (run(&options).trace, run(&options).trace);
        println!("{options:?}\ntrace {first:016x}, again {second:016x}");
        failed += u64::from(first != second);
    }
    let [frames, faults, calls, ok, undelivered, unknown, data, changes, publications] = sums;
    println!(
        "{count} seeds, {failed} failed; {faults} faults, {frames} frames, {calls} calls ({ok} with a result, {undelivered} not delivered, {unknown} unknown), {data} stream data, {changes} context changes, {publications} publications"
    );
    if failed == 0 { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

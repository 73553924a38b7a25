//! Plays the acceptance checks over many seeds, and prints a line of figures for each.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{available_parallelism, scope};

use mesh_sim::{CHECKS, Check, Figure, Outcome, Scale};

const USAGE: &str =
    "usage: mesh-sim checks [--seeds COUNT] [--from SEED] [--only NAME]... [--jobs COUNT] [--slice]
  --seeds COUNT  how many seeds to play each check with, 20 if not said
  --from SEED    the first of them, 1 if not said
  --only NAME    plays this check, and others named so
  --jobs COUNT   threads, as many as there are processors if not said
  --slice        plays as much of each as the tests do";

struct Arguments {
    from: u64,
    count: u64,
    only: Vec<String>,
    jobs: usize,
    scale: Scale,
}

fn arguments(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
    let jobs = available_parallelism().map_or(1, usize::from);
    let mut parsed = Arguments { from: 1, count: 20, only: Vec::new(), jobs, scale: Scale::Full };
    while let Some(word) = words.next() {
        if word == "--slice" {
            parsed.scale = Scale::Slice;
            continue;
        }
        let value = words.next()?;
        match word.as_str() {
            "--seeds" => parsed.count = value.parse().ok()?,
            "--from" => parsed.from = value.parse().ok()?,
            "--only" if CHECKS.iter().any(|check| check.name == value) => parsed.only.push(value),
            "--jobs" => parsed.jobs = value.parse().ok().filter(|jobs| *jobs > 0)?,
            _ => return None,
        }
    }
    Some(parsed)
}

/// Plays one check with all seeds; returns what each gave.
fn play(check: &Check, asked: &Arguments) -> Vec<(u64, Outcome)> {
    let (next, results) = (AtomicU64::new(asked.from), Mutex::new(Vec::new()));
    let end = asked.from.saturating_add(asked.count);
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let outcome = (check.play)(seed, asked.scale);
        if let Ok(mut results) = results.lock() {
            results.push((seed, outcome));
        }
    };
    scope(|threads| {
        for _ in 0..asked.jobs {
            threads.spawn(work);
        }
    });
    results.into_inner().unwrap_or_default()
}

#[expect(clippy::print_stdout, reason = "a command-line tool")]
pub(crate) fn run(words: impl Iterator<Item = String>) -> ExitCode {
    let Some(asked) = arguments(words) else {
        println!("{USAGE}");
        for check in CHECKS {
            println!("  {:16} {}", check.name, check.about);
        }
        return ExitCode::from(2);
    };
    let mut failed = 0;
    for check in
        CHECKS.iter().filter(|check| asked.only.is_empty() || asked.only.iter().any(|n| n == check.name))
    {
        let results = play(check, &asked);
        let mut figures: Vec<Figure> = Vec::new();
        // A seed that is missing has panicked, and said so.
        let mut broken = asked.count - results.len() as u64;
        for (seed, outcome) in &results {
            match outcome {
                Ok(of) if figures.is_empty() => figures.clone_from(of),
                Ok(of) => figures.iter_mut().zip(of).for_each(|(figure, other)| figure.take(other)),
                Err(why) => {
                    broken += 1;
                    println!("{} failed with seed {seed}: {why}", check.name);
                    println!("  again: cargo xtask sim checks --only {} --from {seed} --seeds 1", check.name);
                }
            }
        }
        failed += broken;
        let figures: Vec<String> = figures.iter().map(ToString::to_string).collect();
        println!("{}: {} seeds, {broken} failed; {}", check.name, asked.count, figures.join(", "));
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

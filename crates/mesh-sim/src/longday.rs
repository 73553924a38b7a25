//! Plays the long day of many users, and prints what it came to.

use std::process::ExitCode;
use std::thread::{available_parallelism, scope};

use mesh_sim::{Day, Held, Made};

const USAGE: &str = "usage: mesh-sim day [--users COUNT] [--hours COUNT] [--seed SEED] [--jobs COUNT] [--again COUNT]
  --users COUNT  how many users, with two desktops each; 500 if not said
  --hours COUNT  24 if not said
  --seed SEED    1 if not said
  --jobs COUNT   threads, as many as there are processors if not said
  --again COUNT  plays the days of the first so many users a second time, and compares the traces; all if not said";

struct Arguments {
    users: u64,
    hours: u64,
    seed: u64,
    jobs: u64,
    again: u64,
}

fn arguments(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
    let jobs = available_parallelism().map_or(1, |jobs| jobs.get() as u64);
    let mut parsed = Arguments { users: 500, hours: 24, seed: 1, jobs, again: u64::MAX };
    while let Some(word) = words.next() {
        let value: u64 = words.next()?.parse().ok()?;
        match word.as_str() {
            "--users" => parsed.users = value,
            "--hours" => parsed.hours = value,
            "--seed" => parsed.seed = value,
            "--jobs" if value > 0 => parsed.jobs = value,
            "--again" => parsed.again = value,
            _ => return None,
        }
    }
    Some(parsed)
}

/// Lets an hour pass for all users.
fn hour(days: &mut [Day], jobs: u64) {
    let each = days.len().div_ceil(usize::try_from(jobs).unwrap_or(1)).max(1);
    scope(|threads| {
        for some in days.chunks_mut(each) {
            threads.spawn(|| some.iter_mut().for_each(|day| day.pass_minutes(60)));
        }
    });
}

/// Returns the memory of this process, where the system says it.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn held(days: &[Day]) -> Held {
    days.iter().map(Day::held).fold(Held::default(), Held::and)
}

fn made(days: &[Day]) -> Made {
    days.iter().map(Day::made).fold(Made::default(), Made::and)
}

#[expect(clippy::print_stdout, reason = "a command-line tool")]
pub(crate) fn run(words: impl Iterator<Item = String>) -> ExitCode {
    let Some(asked) = arguments(words) else {
        println!("{USAGE}");
        return ExitCode::from(2);
    };
    let begin = |users: u64| -> Vec<Day> { (0..users).map(|user| Day::new(asked.seed, user)).collect() };
    let mut days = begin(asked.users);
    let mut early = None;
    for at in 1..=asked.hours {
        hour(&mut days, asked.jobs);
        let (now, resident) = (held(&days), resident_kib());
        if at == 2 {
            early = Some((now, resident));
        }
        let Made { frames, calls, .. } = made(&days);
        println!(
            "hour {at}: {frames} frames, {} calls, {} entries, {} bytes, {} bytes of state, {} KiB resident",
            calls.0,
            now.entries,
            now.bytes,
            now.written,
            resident.unwrap_or(0)
        );
    }
    let (end, resident) = (held(&days), resident_kib());
    days.iter_mut().for_each(Day::check);
    let all = made(&days);
    let mut failed = all.divergences;
    for violation in days.iter().flat_map(|day| day.violations()).take(10) {
        println!("  {violation}");
    }
    failed += days.iter().map(|day| day.violations().len() as u64).sum::<u64>();
    println!(
        "{} desktops, {} h: {} frames, {} calls ({} ok), {} updates, {} changes seen, {} nodes withdrawn for silence, {} divergences, {} violations, trace {:016x}",
        asked.users * 2,
        asked.hours,
        all.frames,
        all.calls.0,
        all.calls.1,
        all.updates.0,
        all.updates.1,
        all.silences,
        all.divergences,
        failed - all.divergences,
        all.trace
    );
    if let Some((early, resident_early)) = early {
        let share = |now: u64, then: u64| now * 1_000 / then.max(1);
        println!(
            "at the end, in ‰ of hour 2: {} entries, {} bytes, {} bytes of state, {} resident",
            share(end.entries, early.entries),
            share(end.bytes, early.bytes),
            share(end.written, early.written),
            share(resident.unwrap_or(0), resident_early.unwrap_or(0))
        );
    }
    let again = asked.again.min(asked.users);
    let first = usize::try_from(again).unwrap_or(usize::MAX);
    let before = days.into_iter().take(first).map(|day| day.made()).fold(Made::default(), Made::and);
    let mut days = begin(again);
    for _ in 0..asked.hours {
        hour(&mut days, asked.jobs);
    }
    days.iter_mut().for_each(Day::check);
    let after = made(&days);
    println!("{again} users again: trace {:016x}, then {:016x}", before.trace, after.trace);
    failed += u64::from(before != after);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

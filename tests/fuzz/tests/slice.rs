//! A short slice of fuzzing in the ordinary tests: the committed corpus, and seeded inputs.
//!
//! `FUZZ_TIMES=100 cargo test --release -p mesh-fuzz` makes it a long one; with `FUZZ_FROM` it begins at
//! another seed, and with `FUZZ_CORPUS` it also takes the corpora of a folder.

use std::path::{Path, PathBuf};

use mesh_fuzz::seeded::Seeded;
use mesh_fuzz::{TARGETS, Target};

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let more = std::env::var_os("FUZZ_CORPUS").map(PathBuf::from);
    let mut files = Vec::new();
    for folder in [Some(own), more].into_iter().flatten() {
        files.extend(
            std::fs::read_dir(folder.join(name)).expect("a corpus").map(|file| file.expect("a file").path()),
        );
    }
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("an input")).collect()
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(usual)
}

fn slice(name: &str, seeded: u64) {
    let target: Target = TARGETS.iter().find(|(known, _)| *known == name).expect("a target").1;
    let corpus = corpus(name);
    assert!(!corpus.is_empty());
    corpus.iter().for_each(|input| target(input));
    let first = number("FUZZ_FROM", 1);
    for seed in first..first + seeded * number("FUZZ_TIMES", 1) {
        let input = Seeded::new(seed).input(&corpus);
        // The input is needed to play it again, and a panic further in does not tell it.
        let played = std::panic::catch_unwind(|| target(&input));
        assert!(played.is_ok(), "{name}: seed {seed} breaks a promise: {input:?}");
    }
}

#[test]
fn frames_of_applications() {
    slice("gw3_session", 2_000);
}

#[test]
fn deltas_of_contexts() {
    slice("context_delta", 2_000);
}

#[test]
fn frames_of_nodes() {
    slice("mesh_frame", 3_000);
}

#[test]
fn frames_of_fdc3_apps() {
    slice("dacp_session", 1_000);
}

#[test]
fn first_frames_of_fdc3_apps() {
    slice("fdc3_hello", 2_000);
}

#[test]
fn frames_of_desktop_agents_and_bridges() {
    slice("bridge_frame", 3_000);
}

#[test]
fn json_text() {
    slice("json", 20_000);
}

//! Developer commands.
//!
//! - `cargo xtask check`: everything CI runs: format, lints, pure crates for wasm, all tests.
//! - `cargo xtask sim …`: the simulation, with its own options.
//! - `cargo xtask bench …`: the bench table, with its own options.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

/// Crates without I/O, clock and randomness: they must build where there is none of these.
const PURE: [&str; 8] = [
    "mesh-model",
    "mesh-core",
    "mesh-wire",
    "proto-gw3",
    "proto-dacp",
    "proto-bridge",
    "fdc3-directory",
    "fdc3-agent",
];
const WASM: &str = "wasm32-unknown-unknown";

#[expect(clippy::print_stderr, reason = "a command line tool")]
fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let result = match command.as_str() {
        "check" => check(),
        "sim" => cargo(&["run", "--release", "-p", "mesh-sim", "--"], &rest),
        "bench" => cargo(&["build", "--release", "-p", "deskmesh"], &[])
            .and_then(|()| cargo(&["run", "--release", "-p", "mesh-benches", "--"], &rest)),
        other => {
            eprintln!("Error: there is no command `{other}`\nHint: cargo xtask check | sim | bench");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<()> {
    step("format", &["fmt", "--all", "--check"])?;
    step("lints", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    if has_wasm() {
        let mut pure = vec!["build", "--target", WASM];
        for name in PURE {
            pure.extend(["-p", name]);
        }
        step("pure crates, for a machine without clock, sockets or threads", &pure)?;
    } else {
        say(&format!("skipped: the target {WASM} is not installed (rustup target add {WASM})"));
    }
    step("the node", &["build", "-p", "deskmesh"])?;
    step("tests", &["test", "--workspace"])
}

fn has_wasm() -> bool {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    sysroot.is_ok_and(|output| {
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        std::path::Path::new(&path).join("lib/rustlib").join(WASM).join("lib").is_dir()
    })
}

fn step(what: &str, args: &[&str]) -> Result<()> {
    say(&format!("== {what}: cargo {}", args.join(" ")));
    #[expect(clippy::disallowed_methods, reason = "progress for people")]
    let start = Instant::now();
    cargo(args, &[])?;
    say(&format!("== {what}: done in {} s", start.elapsed().as_secs()));
    Ok(())
}

fn cargo(args: &[&str], rest: &[String]) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let status = Command::new(cargo).args(args).args(rest).status().context("cargo does not start")?;
    if !status.success() {
        bail!("`cargo {}` failed", args.join(" "));
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "progress for people")]
fn say(text: &str) {
    eprintln!("{text}");
}

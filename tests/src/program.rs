//! The `deskmesh` program: built once per test binary, and run to its end as a command.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// Returns the path of the program, built as this test was.
///
/// Cargo hands a test the programs of its own package only. It is asked to build this one, which takes a
/// moment if the program is up to date.
///
/// # Panics
///
/// If the program cannot be built.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(build)
}

fn build() -> PathBuf {
    let own = env::current_exe().expect("a test knows where it is");
    // target/PROFILE/deps/test-0123
    let profile_dir = own.ancestors().nth(2).expect("a test is in a target directory");
    let target_dir = profile_dir.parent().expect("a profile is in a target directory");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--package", "deskmesh", "--bin", "deskmesh", "--profile", profile])
        .arg("--target-dir")
        .arg(target_dir)
        .status()
        .expect("cargo can be run");
    assert!(status.success(), "deskmesh cannot be built");
    profile_dir.join("deskmesh").with_extension(env::consts::EXE_EXTENSION)
}

/// Returns a command of the program that sees nothing of this machine's own configuration.
pub(crate) fn command(home: &Path) -> Command {
    let mut command = Command::new(program());
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("DESKMESH_") || name.to_string_lossy().starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"] {
        command.env_remove(name);
    }
    command.env("HOME", home).stdin(Stdio::null());
    command
}

/// What a command said and how it ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs the program to its end.
///
/// # Panics
///
/// If it cannot be started.
pub fn run<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Finished {
    let home = tempfile::tempdir().expect("a temporary directory");
    run_in(home.path(), arguments)
}

/// Runs the program to its end with `home` as the home directory.
///
/// # Panics
///
/// If it cannot be started.
pub fn run_in<'a>(home: &Path, arguments: impl IntoIterator<Item = &'a str>) -> Finished {
    let Output { status, stdout, stderr } =
        command(home).args(arguments).output().expect("deskmesh can be started");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Finished { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

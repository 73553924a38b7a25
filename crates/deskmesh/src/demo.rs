//! `deskmesh demo`.
use std::process::ExitCode;
/// x
#[must_use]
pub fn run(_once: bool) -> ExitCode {
    ExitCode::SUCCESS
}

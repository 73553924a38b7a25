//! `node-control ADDRESS COMMAND…`: what `tests/clients/run.mjs --control` runs.
//!
//! The test that owns the nodes does the work; see `mesh_tests::clients::control`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    match &arguments[..] {
        [_, address, command @ ..]
            if mesh_tests::clients::tell(address, &command.join(" ")).is_ok_and(|done| done) =>
        {
            ExitCode::SUCCESS
        }
        _ => ExitCode::FAILURE,
    }
}

//! `node-control ADDRESS kill|start b`: what `tests/clients/run.mjs --control` runs.
//!
//! The test that owns the node does the work; see `mesh_tests::clients::control`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    match &arguments[..] {
        [_, address, word, _] if mesh_tests::clients::tell(address, word).is_ok_and(|done| done) => {
            ExitCode::SUCCESS
        }
        _ => ExitCode::FAILURE,
    }
}

//! The `deskmesh` program.

use std::process::ExitCode;

use deskmesh::cli::{self, Command};

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if let Some(code) = cli.command.run_client() {
        return code;
    }
    match cli.command {
        Command::Up(args) => deskmesh::up(&args),
        Command::Demo(args) => deskmesh::demo(args.once),
        _ => ExitCode::SUCCESS,
    }
}

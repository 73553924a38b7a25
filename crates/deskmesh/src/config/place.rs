//! Where this platform keeps a program's files, and what it calls the machine and its user.

use std::path::{Path, PathBuf};

use super::Environment;

/// Returns the files that are read if they are there, weakest first.
pub(super) fn config_files(env: &Environment) -> Vec<PathBuf> {
    let system = if cfg!(windows) { directory(env, "PROGRAMDATA") } else { Some(PathBuf::from("/etc")) };
    let user = if cfg!(windows) {
        directory(env, "APPDATA")
    } else if cfg!(target_os = "macos") {
        home(env, "Library/Application Support")
    } else {
        directory(env, "XDG_CONFIG_HOME").or_else(|| home(env, ".config"))
    };
    [system, user].into_iter().flatten().map(|place| place.join(PROGRAM).join("config.toml")).collect()
}

/// Returns where a node keeps its files by default.
pub(super) fn data_dir(env: &Environment) -> Option<PathBuf> {
    let place = if cfg!(windows) {
        directory(env, "LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        home(env, "Library/Application Support")
    } else {
        directory(env, "XDG_STATE_HOME").or_else(|| home(env, ".local/state"))
    };
    Some(place?.join(PROGRAM))
}

/// Returns what the machine calls itself, up to the first dot.
pub(super) fn host_name(env: &Environment) -> String {
    let kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let variable = |name: &str| env.get(name).cloned();
    let command = || {
        let output = std::process::Command::new("hostname").output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    let name = kernel().or_else(|| variable("COMPUTERNAME")).or_else(command).unwrap_or_default();
    match name.trim().split('.').next() {
        Some(name) if !name.is_empty() => name.chars().take(64).collect(),
        _ => "desk".to_owned(),
    }
}

/// Returns the login name of the user who runs this process.
///
/// The account behind the process is asked before the environment, which outlives a change of user.
pub(super) fn user_name(env: &Environment) -> String {
    let variable = |name: &&str| env.get(*name).filter(|name| !name.is_empty()).cloned();
    account()
        .or_else(|| ["USER", "LOGNAME", "USERNAME"].iter().find_map(variable))
        .unwrap_or_else(|| "user".to_owned())
}

/// Returns the name of this process's account, if the password file has it.
#[cfg(unix)]
fn account() -> Option<String> {
    use std::os::unix::fs::MetadataExt;

    let uid = std::fs::metadata("/proc/self").ok()?.uid().to_string();
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

#[cfg(not(unix))]
fn account() -> Option<String> {
    None
}

/// Returns whether a file can be read by others than its owner.
#[cfg(unix)]
pub(crate) fn is_readable_by_others(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    std::fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & 0o044 != 0)
}

#[cfg(not(unix))]
pub(crate) fn is_readable_by_others(_file: &Path) -> bool {
    false
}

/// Returns the directory that a variable names; a relative one is to be ignored, as the XDG base
/// directory specification says.
fn directory(env: &Environment, variable: &str) -> Option<PathBuf> {
    env.get(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn home(env: &Environment, rest: &str) -> Option<PathBuf> {
    Some(directory(env, "HOME")?.join(rest))
}

const PROGRAM: &str = "deskmesh";

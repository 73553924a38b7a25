//! Files that survive a crash: written beside, flushed, then renamed into place.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A file or directory could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Names what was done to which path, for the error.
fn on(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { action, path, source }
}

/// Makes a directory only this user can look into; its parents must exist.
pub(crate) fn create_private_dir(path: &Path) -> Result<(), FileError> {
    private(&mut DirBuilder::new()).create(path).map_err(on("create", path))
}

/// Makes a directory and its parents, unless they exist.
pub(crate) fn ensure_private_dir(path: &Path) -> Result<(), FileError> {
    private(DirBuilder::new().recursive(true)).create(path).map_err(on("create", path))
}

/// Writes a file that must not exist yet, and flushes it to disk.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let write = || {
        let mut file = create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(on("write", path))
}

/// Replaces a file, so that after a crash there is either the old or the new content.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // What an earlier crash left behind would make the create-new below fail for ever.
    remove_if_there(&beside)?;
    write_new(&beside, bytes)?;
    rename(&beside, path)
}

/// Renames, and flushes the directory that holds the new name.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(on("rename to", to))?;
    match to.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Flushes the names in a directory.
#[cfg(unix)]
pub(crate) fn sync_dir(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(on("flush", path))
}

/// Does nothing: a directory cannot be flushed on this system.
#[cfg(not(unix))]
pub(crate) fn sync_dir(_path: &Path) -> Result<(), FileError> {
    Ok(())
}

/// Reads a whole file of at most `bytes_max`; `None` if there is no such file.
pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(on("open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(on("read", path))?;
    if bytes.len() as u64 > bytes_max {
        return Err(on("read", path)(io::Error::new(io::ErrorKind::FileTooLarge, "larger than expected")));
    }
    Ok(Some(bytes))
}

/// Waits until this process is the only one that holds the lock file; dropping the file releases it.
pub(crate) fn lock(path: &Path) -> Result<File, FileError> {
    let open = || {
        let file = with_private_mode(OpenOptions::new().read(true).write(true).create(true)).open(path)?;
        file.lock()?;
        Ok(file)
    };
    open().map_err(on("lock", path))
}

/// Removes a directory with all that is in it, if there is one.
pub(crate) fn remove_dir_if_there(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(on("remove", path)(error)),
        _ => Ok(()),
    }
}

fn remove_if_there(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(on("remove", path)(error)),
        _ => Ok(()),
    }
}

fn create_new(path: &Path) -> io::Result<File> {
    with_private_mode(OpenOptions::new().write(true).create_new(true)).open(path)
}

#[cfg(unix)]
fn with_private_mode(options: &mut OpenOptions) -> &mut OpenOptions {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600)
}

#[cfg(not(unix))]
fn with_private_mode(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

#[cfg(unix)]
fn private(builder: &mut DirBuilder) -> &mut DirBuilder {
    std::os::unix::fs::DirBuilderExt::mode(builder, 0o700)
}

#[cfg(not(unix))]
fn private(builder: &mut DirBuilder) -> &mut DirBuilder {
    builder
}

//! The file by which a running node is found, and asked.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use serde::{Deserialize, Serialize};

/// What a running node says about itself to its owner's commands.
#[derive(Clone, Serialize, Deserialize)]
pub struct NodeFile {
    /// The node's process.
    pub pid: u32,
    /// The node's id, as 32 hexadecimal digits.
    pub node: String,
    /// The node's name.
    pub name: String,
    /// Its local endpoint.
    pub http: SocketAddr,
    /// Where other nodes reach it.
    pub mesh: String,
    /// What a command must show.
    pub secret: String,
}

impl NodeFile {
    /// Returns where the file of a data directory is.
    #[must_use]
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("node.json")
    }

    /// Writes the file, readable by the owner alone. A reader sees the old one or the new, never a part.
    pub fn write(&self, data_dir: &Path) -> io::Result<()> {
        let part = data_dir.join(format!("node.json.{}", std::process::id()));
        // What a crash left behind may have other permissions.
        let _ = fs::remove_file(&part);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&part)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        drop(file);
        fs::rename(&part, Self::path(data_dir))
    }

    /// Reads the file of a data directory.
    pub fn read(data_dir: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(Self::path(data_dir))?)?)
    }

    /// Removes the file of a data directory, as a node does when it goes down.
    pub fn remove(data_dir: &Path) -> io::Result<()> {
        fs::remove_file(Self::path(data_dir))
    }
}

impl fmt::Debug for NodeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, node, name, http, mesh, secret: _ } = self;
        f.debug_struct("NodeFile")
            .field("pid", pid)
            .field("node", node)
            .field("name", name)
            .field("http", http)
            .field("mesh", mesh)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_the_owners() {
        let data_dir = tempfile::tempdir().unwrap();
        super::super::asking::tests::node_file("127.0.0.1:1".parse().unwrap())
            .write(data_dir.path())
            .unwrap();
        let file = NodeFile::read(data_dir.path()).unwrap();
        assert!(!format!("{file:?}").contains("s3cret"));
        file.write(data_dir.path()).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(NodeFile::path(data_dir.path())).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(data_dir.path()).unwrap().count(), 1);
        NodeFile::remove(data_dir.path()).unwrap();
        assert!(NodeFile::read(data_dir.path()).is_err());
    }
}

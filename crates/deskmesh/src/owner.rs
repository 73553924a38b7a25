//! The operating system's side of ownership: private files, and whose a loopback connection is.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;

/// Writes a file that only this user can read.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Returns whether the process at the other end of a loopback connection may be let in: it runs as the
/// user who runs this node, or as root. `None` where this system does not tell.
pub(crate) fn same_user(peer: SocketAddr, local: SocketAddr) -> Option<bool> {
    let uid = uid_of_socket(peer, local)?;
    let own = own_uid()?;
    Some(uid == own || uid == 0)
}

#[cfg(target_os = "linux")]
fn own_uid() -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").ok().map(|metadata| metadata.uid())
}

/// Looks the peer's socket up in the kernel's table.
#[cfg(target_os = "linux")]
fn uid_of_socket(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    let (file, peer, local) = match (peer, local) {
        (SocketAddr::V4(peer), SocketAddr::V4(local)) => {
            let hex = |a: std::net::SocketAddrV4| {
                format!("{:08X}:{:04X}", u32::from_ne_bytes(a.ip().octets()), a.port())
            };
            ("/proc/net/tcp", hex(peer), hex(local))
        }
        (SocketAddr::V6(peer), SocketAddr::V6(local)) => {
            let hex = |a: std::net::SocketAddrV6| {
                let words: String = a
                    .ip()
                    .octets()
                    .chunks(4)
                    .map(|word| format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
                    .collect();
                format!("{words}:{:04X}", a.port())
            };
            ("/proc/net/tcp6", hex(peer), hex(local))
        }
        _ => return None,
    };
    let table = std::fs::read_to_string(file).ok()?;
    let line = table.lines().find(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        words.next() == Some(&peer) && words.next() == Some(&local)
    })?;
    line.split_ascii_whitespace().nth(7)?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
fn own_uid() -> Option<u32> {
    None
}

#[cfg(not(target_os = "linux"))]
fn uid_of_socket(_peer: SocketAddr, _local: SocketAddr) -> Option<u32> {
    None
}

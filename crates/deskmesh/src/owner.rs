//! The operating system's side of ownership: private files, and whose a loopback connection is.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;

/// Writes a file that only this user can read.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_private(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes a file that only this user can read in place of the one that may be there, and returns it open
/// at its end. It outlives this process at once, but not a power cut.
pub(crate) fn replace_private(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let temporary = path.with_extension("json.new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = create_private(&temporary)?;
    file.write_all(bytes)?;
    std::fs::rename(&temporary, path)?;
    Ok(file)
}

fn create_private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Allows this process as many open files as the system lets it have: every application is one.
pub(crate) fn raise_open_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        // It is fewer applications otherwise, and they are refused when it comes to that.
        if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_err() {
            tracing::warn!(?current, ?maximum, "the bound on open files cannot be raised");
        }
    }
}

/// Returns whether the process at the other end of a loopback connection may be let in: it runs as the
/// user who runs this node, or as root. `None` where this system does not tell.
pub(crate) fn same_user(peer: SocketAddr, local: SocketAddr) -> Option<bool> {
    let owner = owner_of_socket(peer, local)?;
    let own = own_uid()?;
    // Nobody's socket is shown as root's; its process may have been anybody's.
    Some(owner.inode != 0 && (owner.uid == own || owner.uid == 0))
}

/// Who has a socket open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only Linux tells whose a socket is"))]
struct Owner {
    uid: u32,
    /// 0 if no process has it open any more.
    inode: u32,
}

#[cfg(target_os = "linux")]
fn own_uid() -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").ok().map(|metadata| metadata.uid())
}

#[cfg(target_os = "linux")]
fn owner_of_socket(peer: SocketAddr, local: SocketAddr) -> Option<Owner> {
    asked(peer, local).or_else(|| listed(peer, local))
}

/// Asks the kernel for the one socket (`sock_diag`): the list of all takes longer, the more there are.
#[cfg(target_os = "linux")]
fn asked(peer: SocketAddr, local: SocketAddr) -> Option<Owner> {
    use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
    use netlink_packet_sock_diag::SockDiagMessage;
    use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
    use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
    use netlink_sys::protocols::NETLINK_SOCK_DIAG;
    use netlink_sys::{Socket, SocketAddr as Port};

    let request = InetRequest {
        family: if peer.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: peer.port(),
            destination_port: local.port(),
            source_address: peer.ip(),
            destination_address: local.ip(),
            interface_id: 0,
            // Any.
            cookie: [0xff; 8],
        },
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let socket = Socket::new(NETLINK_SOCK_DIAG).ok()?;
    // The answer is there when the question has been sent.
    socket.set_non_blocking(true).ok()?;
    socket.send_to(&bytes, &Port::new(0, 0), 0).ok()?;
    let (answer, _) = socket.recv_from_full().ok()?;
    match NetlinkMessage::<SockDiagMessage>::deserialize(&answer).ok()?.payload {
        // Where there is no such connection the kernel looks for a listener on the port.
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found))
            if found.header.socket_id.destination_port == local.port() =>
        {
            Some(Owner { uid: found.header.uid, inode: found.header.inode })
        }
        _ => None,
    }
}

/// Looks the socket up in the kernel's table of all.
#[cfg(target_os = "linux")]
fn listed(peer: SocketAddr, local: SocketAddr) -> Option<Owner> {
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
    let mut words = line.split_ascii_whitespace().skip(7);
    let uid = words.next()?.parse().ok()?;
    let inode = words.nth(1)?.parse().ok()?;
    Some(Owner { uid, inode })
}

#[cfg(not(target_os = "linux"))]
fn own_uid() -> Option<u32> {
    None
}

#[cfg(not(target_os = "linux"))]
fn owner_of_socket(_peer: SocketAddr, _local: SocketAddr) -> Option<Owner> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn both_ways_find_the_owner_of_a_connection_and_of_an_abandoned_one() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, peer) = listener.accept().unwrap();
            let local = accepted.local_addr().unwrap();
            let owner = asked(peer, local).expect("the kernel answers");
            assert_eq!(Some(owner), listed(peer, local));
            assert_eq!(Some(owner.uid), own_uid());
            assert_eq!(same_user(peer, local), Some(true));
            drop(client);
            assert_eq!(same_user(peer, local), Some(false), "no process answers for it any more");
            // The port is in use by a listener only.
            let nobody = SocketAddr::new(peer.ip(), listener.local_addr().unwrap().port());
            assert_eq!(asked(nobody, SocketAddr::new(peer.ip(), 1)), None);
        }
    }
}

//! A relay before a node's UDP port, which other nodes are told of in place of the port.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::clients::lock;

/// How long a thread waits for a datagram before it looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Passes datagrams on to a node and its answers back, except those of nodes that it is told to refuse.
///
/// It ends with this value.
#[derive(Debug)]
pub(crate) struct Relay {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    front: UdpSocket,
    /// The ports of nodes whose datagrams are lost, both ways.
    refused: Mutex<HashSet<u16>>,
    /// How many bytes a second pass in each direction; 0 for all that come.
    bytes_per_second: AtomicU64,
    /// Whether those who send are to appear at other ports.
    rebound: AtomicBool,
    ended: AtomicBool,
}

impl Relay {
    /// Begins to pass on what comes to `front` to a port of this machine.
    pub(crate) fn start(front: UdpSocket, port: u16) -> io::Result<Self> {
        front.set_read_timeout(Some(LOOK_EVERY))?;
        let shared = Shared {
            front,
            refused: Mutex::default(),
            bytes_per_second: AtomicU64::new(0),
            rebound: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        };
        let shared = Arc::new(shared);
        let of_thread = shared.clone();
        thread::spawn(move || of_thread.inwards(port));
        Ok(Self { shared })
    }

    /// Loses all datagrams from and to the node that sends from this port.
    pub(crate) fn refuse(&self, port: u16) {
        lock(&self.shared.refused).insert(port);
    }

    /// Passes on no more bytes a second than this, 0 for all. What comes faster than that is lost.
    pub(crate) fn slow_down(&self, bytes_per_second: u64) {
        self.shared.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Gives all who send other ports, as an address translator does that has forgotten them.
    pub(crate) fn rebind(&self) {
        self.shared.rebound.store(true, Ordering::Relaxed);
    }

    /// Passes on the datagrams of a refused node again.
    pub(crate) fn admit(&self, port: u16) {
        lock(&self.shared.refused).remove(&port);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn inwards(self: Arc<Self>, port: u16) {
        let mut sockets = HashMap::new();
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        while !self.has_ended() {
            let Ok((len, source)) = self.front.recv_from(&mut datagram) else { continue };
            if self.refuses(source) {
                continue;
            }
            self.take_time(len);
            if self.rebound.swap(false, Ordering::Relaxed) {
                sockets.clear();
            }
            // The node tells its neighbours apart by their addresses, so each has a socket of its own.
            let socket = match sockets.entry(source) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => match self.clone().outwards(source, port) {
                    Ok(socket) => place.insert(socket),
                    Err(_) => continue,
                },
            };
            // A datagram may be lost; a node that is down refuses it.
            let _ = socket.send(&datagram[..len]);
        }
    }

    /// Begins to pass on the node's answers to `source`, and returns the socket that the node answers to.
    fn outwards(self: Arc<Self>, source: SocketAddr, port: u16) -> io::Result<Arc<UdpSocket>> {
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?);
        socket.connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        let of_thread = socket.clone();
        thread::spawn(move || {
            let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
            while !self.has_ended() {
                let Ok(len) = of_thread.recv(&mut datagram) else { continue };
                if !self.refuses(source) {
                    self.take_time(len);
                    let _ = self.front.send_to(&datagram[..len], source);
                }
            }
        });
        Ok(socket)
    }

    /// Takes as long as so many bytes do; meanwhile the socket's buffer fills up and loses what comes.
    fn take_time(&self, bytes: usize) {
        let per_second = self.bytes_per_second.load(Ordering::Relaxed);
        if let Some(micros) = (bytes as u64 * 1_000_000).checked_div(per_second) {
            thread::sleep(Duration::from_micros(micros));
        }
    }

    fn refuses(&self, source: SocketAddr) -> bool {
        lock(&self.refused).contains(&source.port())
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

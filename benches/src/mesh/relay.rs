//! The network between measured nodes: UDP relays that delay, lose, hold back and count datagrams.
//!
//! A node says that it is to be dialled at its relay's address. So each link goes through the relay of the
//! node that was dialled, and nobody needs rights or another network namespace for it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::clock;

/// What a network does to datagrams, in both directions alike.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conditions {
    /// How long one way takes.
    pub(crate) delay: Duration,
    /// Which share of the datagrams is lost.
    pub(crate) loss: f64,
    /// What one direction of one link carries; unlimited if nothing is given.
    pub(crate) bits_per_second: Option<u64>,
}

impl Conditions {
    /// Nothing but that delay.
    pub(crate) fn delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }
}

/// What went through a relay, counted in UDP payload as it came, so with what was lost afterwards.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// In both directions.
    pub(crate) bytes: u64,
    /// In both directions.
    pub(crate) datagrams: u64,
}

/// A relay in front of one address; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    front: UdpSocket,
    state: Mutex<State>,
    more: Condvar,
    stopped: AtomicBool,
}

#[derive(Debug)]
struct State {
    conditions: Conditions,
    is_cut: bool,
    blocked: BTreeSet<SocketAddr>,
    flows: BTreeMap<SocketAddr, Flow>,
    /// What is on its way, the earliest on top.
    line: BinaryHeap<Reverse<Travelling>>,
    sent: u64,
    random: u64,
}

/// The datagrams between one source and the target.
#[derive(Debug)]
struct Flow {
    back: Arc<UdpSocket>,
    traffic: Traffic,
    /// When each direction has put its last datagram on the wire.
    busy_until: [Instant; 2],
}

/// Ordered by when it arrives, and then by when it was sent.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Travelling {
    due: Instant,
    number: u64,
    source: SocketAddr,
    way: Way,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    ToTarget,
    ToSource,
}

impl Relay {
    /// Starts a relay to `target`, without any delay at first. `seed` decides what is lost.
    pub(crate) fn start(target: SocketAddr, seed: u64) -> Result<Self> {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("no socket for a relay")?;
        front.set_read_timeout(Some(LOOK_EVERY))?;
        let address = front.local_addr()?;
        let state = State {
            conditions: Conditions::default(),
            is_cut: false,
            blocked: BTreeSet::new(),
            flows: BTreeMap::new(),
            line: BinaryHeap::new(),
            sent: 0,
            // An odd number, as the generator must not start at zero.
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        let shared = Arc::new(Shared {
            target,
            front,
            state: Mutex::new(state),
            more: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        thread::spawn({
            let shared = shared.clone();
            move || shared.receive_front()
        });
        thread::spawn({
            let shared = shared.clone();
            move || shared.deliver()
        });
        Ok(Self { address, shared })
    }

    /// Where the target is reached by way of this relay.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the network for what is sent from now on.
    pub(crate) fn set(&self, conditions: Conditions) {
        self.shared.lock().conditions = conditions;
    }

    /// Cuts the network, or mends it. What is cut is not counted.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.shared.lock().is_cut = is_cut;
    }

    /// Does the same for what that source sends and gets.
    pub(crate) fn block(&self, source: SocketAddr, is_cut: bool) {
        let blocked = &mut self.shared.lock().blocked;
        if is_cut {
            blocked.insert(source)
        } else {
            blocked.remove(&source)
        };
    }

    /// What came so far from and for all sources.
    pub(crate) fn traffic(&self) -> Traffic {
        self.shared.lock().flows.values().fold(Traffic::default(), |sum, flow| Traffic {
            bytes: sum.bytes + flow.traffic.bytes,
            datagrams: sum.datagrams + flow.traffic.datagrams,
        })
    }

    /// What came so far from and for that source.
    pub(crate) fn traffic_of(&self, source: SocketAddr) -> Traffic {
        self.shared.lock().flows.get(&source).map_or_else(Traffic::default, |flow| flow.traffic)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Relaxed);
        self.shared.more.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive_front(self: Arc<Self>) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        while !self.stopped.load(Relaxed) {
            // Fails each time nothing comes for a while, and that is when to look whether this is over.
            let Ok((count, source)) = self.front.recv_from(&mut buffer) else { continue };
            let is_known = self.lock().flows.contains_key(&source);
            if !is_known && self.open(source).is_err() {
                continue;
            }
            self.pass_on(source, Way::ToTarget, &buffer[..count]);
        }
    }

    /// Makes a flow for a source that was not heard before, with a thread for what comes back.
    fn open(self: &Arc<Self>, source: SocketAddr) -> std::io::Result<()> {
        let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?);
        back.connect(self.target)?;
        back.set_read_timeout(Some(LOOK_EVERY))?;
        let now = clock::now();
        let flow = Flow { back: back.clone(), traffic: Traffic::default(), busy_until: [now; 2] };
        self.lock().flows.insert(source, flow);
        let shared = self.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
            while !shared.stopped.load(Relaxed) {
                let Ok(count) = back.recv(&mut buffer) else { continue };
                shared.pass_on(source, Way::ToSource, &buffer[..count]);
            }
        });
        Ok(())
    }

    fn pass_on(&self, source: SocketAddr, way: Way, bytes: &[u8]) {
        let mut state = self.lock();
        let Conditions { delay, loss, bits_per_second } = state.conditions;
        if state.is_cut || state.blocked.contains(&source) {
            return;
        }
        let is_lost = loss > 0.0 && state.chance() < loss;
        let Some(flow) = state.flows.get_mut(&source) else { return };
        flow.traffic.bytes += bytes.len() as u64;
        flow.traffic.datagrams += 1;
        if is_lost {
            return;
        }
        let now = clock::now();
        let mut due = now + delay;
        if let Some(rate) = bits_per_second {
            let busy_until = &mut flow.busy_until[way as usize];
            let begin = (*busy_until).max(now);
            // A full queue drops what comes last, as that of a router does.
            if begin - now > QUEUE_MAX {
                return;
            }
            let on_wire = (bytes.len() + HEADER_BYTES) as u64 * 8;
            *busy_until = begin + Duration::from_nanos(on_wire * 1_000_000_000 / rate);
            due = *busy_until + delay;
        }
        let back = flow.back.clone();
        if due <= now && state.line.is_empty() {
            drop(state);
            self.send(&back, source, way, bytes);
            return;
        }
        state.sent += 1;
        let number = state.sent;
        state.line.push(Reverse(Travelling { due, number, source, way, bytes: bytes.to_vec() }));
        let is_next = state.line.peek().is_some_and(|Reverse(next)| next.number == number);
        drop(state);
        if is_next {
            self.more.notify_one();
        }
    }

    fn deliver(self: Arc<Self>) {
        let mut state = self.lock();
        while !self.stopped.load(Relaxed) {
            let now = clock::now();
            let wait =
                state.line.peek().map_or(LOOK_EVERY, |Reverse(next)| next.due.saturating_duration_since(now));
            if !wait.is_zero() {
                (state, _) = self.more.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let Some(Reverse(Travelling { source, way, bytes, .. })) = state.line.pop() else { continue };
            let Some(back) = state.flows.get(&source).map(|flow| flow.back.clone()) else { continue };
            drop(state);
            self.send(&back, source, way, &bytes);
            state = self.lock();
        }
    }

    fn send(&self, back: &UdpSocket, source: SocketAddr, way: Way, bytes: &[u8]) {
        // A datagram that cannot be sent is a datagram lost.
        let _ = match way {
            Way::ToTarget => back.send(bytes),
            Way::ToSource => self.front.send_to(bytes, source),
        };
    }
}

impl State {
    /// The next number of a fixed row, from 0 to 1 (xorshift).
    fn chance(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A relay with the same network and somebody behind it who sends everything back: what a round trip takes
/// when no node has a part in it.
#[derive(Debug)]
pub(crate) struct Echo {
    socket: tokio::net::UdpSocket,
    stopped: Arc<AtomicBool>,
    _relay: Relay,
}

impl Echo {
    /// Starts one.
    pub(crate) async fn start(conditions: Conditions) -> Result<Self> {
        let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        far.set_read_timeout(Some(LOOK_EVERY))?;
        let relay = Relay::start(far.local_addr()?, 1)?;
        relay.set(conditions);
        let stopped = Arc::new(AtomicBool::new(false));
        let over = stopped.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
            while !over.load(Relaxed) {
                if let Ok((count, from)) = far.recv_from(&mut buffer) {
                    let _ = far.send_to(&buffer[..count], from);
                }
            }
        });
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(relay.address()).await?;
        Ok(Self { socket, stopped, _relay: relay })
    }

    /// One round trip of a datagram as long as a small call.
    pub(crate) async fn round_trip(&self) -> Result<Duration> {
        let (start, mut bytes) = (clock::now(), [0; 250]);
        self.socket.send(&bytes).await?;
        self.socket.recv(&mut bytes).await?;
        Ok(start.elapsed())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stopped.store(true, Relaxed);
    }
}

/// How often a thread that waits looks whether it is still needed.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a datagram may wait for a limited link.
const QUEUE_MAX: Duration = Duration::from_millis(20);
/// What IPv4 and UDP add to each datagram.
const HEADER_BYTES: usize = 28;
const DATAGRAM_BYTES_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(conditions: Conditions, count: u8) -> (Vec<u8>, Duration, Traffic) {
        let (near, far) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        far.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let relay = Relay::start(far.local_addr().unwrap(), 7).unwrap();
        relay.set(conditions);
        let start = clock::now();
        for number in 0..count {
            near.send_to(&[number; 100], relay.address()).unwrap();
        }
        let (mut buffer, mut got, mut last) = ([0; 200], Vec::new(), Duration::ZERO);
        while let Ok(bytes) = far.recv(&mut buffer) {
            assert_eq!(bytes, 100);
            got.push(buffer[0]);
            last = start.elapsed();
        }
        (got, last, relay.traffic())
    }

    #[test]
    fn datagrams_keep_their_order_and_are_counted() {
        let (got, last, traffic) = conversation(Conditions::delay(Duration::from_millis(20)), 50);
        assert_eq!(got, (0..50).collect::<Vec<u8>>());
        assert!(last >= Duration::from_millis(20));
        assert_eq!((traffic.bytes, traffic.datagrams), (5_000, 50));
    }

    #[test]
    fn the_same_seed_loses_the_same() {
        let lossy = Conditions { loss: 0.3, ..Conditions::default() };
        let (first, _, traffic) = conversation(lossy, 100);
        let (second, ..) = conversation(lossy, 100);
        assert!(first.len() > 40 && first.len() < 95, "{}", first.len());
        assert_eq!(first, second);
        assert_eq!(traffic.datagrams, 100);
    }

    #[test]
    fn a_limited_link_takes_its_time() {
        // 50 datagrams of 128 bytes are 51 200 bits.
        let slow = Conditions { bits_per_second: Some(5_120_000), ..Conditions::default() };
        let (got, last, _) = conversation(slow, 50);
        assert_eq!(got.len(), 50);
        assert!(last >= Duration::from_millis(10));
    }

    #[test]
    fn what_is_cut_does_not_come() {
        let far = UdpSocket::bind("127.0.0.1:0").unwrap();
        far.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let relay = Relay::start(far.local_addr().unwrap(), 1).unwrap();
        let near = UdpSocket::bind("127.0.0.1:0").unwrap();
        let say = |number: u8| near.send_to(&[number], relay.address()).unwrap();
        relay.cut(true);
        say(1);
        thread::sleep(Duration::from_millis(50));
        relay.cut(false);
        relay.block(near.local_addr().unwrap(), true);
        say(2);
        thread::sleep(Duration::from_millis(50));
        relay.block(near.local_addr().unwrap(), false);
        say(3);
        let mut buffer = [0; 8];
        assert_eq!((far.recv(&mut buffer).unwrap(), buffer[0]), (1, 3));
        assert_eq!(relay.traffic().bytes, 1);
    }
}

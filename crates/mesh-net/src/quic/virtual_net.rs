//! A network of UDP sockets in memory, on tokio's clock: with latency, loss, and a trace hash.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// The network. Its task runs until the runtime is dropped.
#[derive(Debug)]
pub struct VirtualNet {
    state: Mutex<NetState>,
    changed: Notify,
    start: Instant,
}

#[derive(Debug)]
struct NetState {
    inboxes: BTreeMap<SocketAddr, Inbox>,
    /// By arrival in microseconds, then by order of sending.
    flying: BinaryHeap<Reverse<(u64, u64, Datagram)>>,
    random: u64,
    loss_per_mille: u64,
    sent: u64,
    hash: u64,
}

#[derive(Debug, Default)]
struct Inbox {
    datagrams: VecDeque<Datagram>,
    waker: Option<Waker>,
    is_cut: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl VirtualNet {
    /// Makes a network whose delays and losses follow from a seed.
    #[must_use]
    pub fn new(seed: u64, loss_per_mille: u64) -> Arc<Self> {
        let state = NetState {
            inboxes: BTreeMap::new(),
            flying: BinaryHeap::new(),
            random: seed.wrapping_mul(2).wrapping_add(1),
            loss_per_mille,
            sent: 0,
            hash: 0xcbf2_9ce4_8422_2325,
        };
        let net = Arc::new(Self { state: Mutex::new(state), changed: Notify::new(), start: Instant::now() });
        tokio::spawn(Arc::clone(&net).deliver());
        net
    }

    /// Makes the socket of an address; an earlier one of the same address hears nothing any more.
    pub fn socket(self: &Arc<Self>, address: SocketAddr) -> Arc<VirtualSocket> {
        self.lock().inboxes.insert(address, Inbox::default());
        Arc::new(VirtualSocket { net: Arc::clone(self), address, is_dead: AtomicBool::new(false) })
    }

    /// Lets everything through to and from an address again.
    pub fn heal(&self, address: SocketAddr) {
        self.lock().inboxes.entry(address).or_default().is_cut = false;
    }

    /// Lets nothing through to or from an address.
    pub fn cut(&self, address: SocketAddr) {
        self.lock().inboxes.entry(address).or_default().is_cut = true;
    }

    /// Returns how many datagrams were sent, and a hash of when, from where, to where and how large.
    /// Their bytes are encrypted with fresh keys and differ in each run.
    pub fn trace(&self) -> (u64, u64) {
        let state = self.lock();
        (state.sent, state.hash)
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let now = self.micros();
        let mut state = self.lock();
        state.sent += 1;
        for value in [now, u64::from(from.port()), u64::from(to.port()), bytes.len() as u64] {
            state.hash = (state.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3);
        }
        let is_lost = state.next_random() % 1_000 < state.loss_per_mille;
        let arrival = now + 1_000 + state.next_random() % 4_000;
        let is_cut = [from, to].iter().any(|end| state.inboxes.get(end).is_none_or(|inbox| inbox.is_cut));
        if !is_lost && !is_cut {
            let order = state.sent;
            state.flying.push(Reverse((arrival, order, Datagram { from, to, bytes: bytes.to_vec() })));
            drop(state);
            self.changed.notify_one();
        }
    }

    async fn deliver(self: Arc<Self>) {
        loop {
            let next = self.lock().flying.peek().map(|Reverse((at, ..))| *at);
            let Some(at) = next else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                biased;
                () = sleep_until(self.start + Duration::from_micros(at)) => {}
                () = self.changed.notified() => continue,
            }
            let now = self.micros();
            let mut wakers = Vec::new();
            {
                let mut state = self.lock();
                while state.flying.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
                    let Some(Reverse((_, _, datagram))) = state.flying.pop() else { break };
                    if let Some(inbox) = state.inboxes.get_mut(&datagram.to) {
                        inbox.datagrams.push_back(datagram);
                        wakers.extend(inbox.waker.take());
                    }
                }
            }
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    fn lock(&self) -> MutexGuard<'_, NetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn micros(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }
}

impl NetState {
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// One socket of it.
#[derive(Debug)]
pub struct VirtualSocket {
    net: Arc<VirtualNet>,
    address: SocketAddr,
    is_dead: AtomicBool,
}

impl VirtualSocket {
    /// Sends nothing any more, as if the process had been killed.
    pub fn kill(&self) {
        self.is_dead.store(true, Ordering::Relaxed);
    }
}

impl AsyncUdpSocket for VirtualSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !self.is_dead.load(Ordering::Relaxed) {
            let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
            for datagram in transmit.contents.chunks(size) {
                self.net.send(self.address, transmit.destination, datagram);
            }
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.net.lock();
        let is_dead = self.is_dead.load(Ordering::Relaxed);
        let Some(inbox) = state.inboxes.get_mut(&self.address).filter(|_| !is_dead) else {
            return Poll::Pending;
        };
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some(Datagram { from, bytes, .. }) = inbox.datagrams.pop_front() else { break };
            buffer[..bytes.len()].copy_from_slice(&bytes);
            *meta = RecvMeta::default();
            (meta.addr, meta.len, meta.stride) = (from, bytes.len(), bytes.len());
            count += 1;
        }
        if count == 0 {
            inbox.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

//! What many applications cost one deskmesh node: joining, being there, all publishing at once; and what
//! one that does not read costs the others.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use memchr::memmem::{self, Finder};
use tokio::task::{JoinHandle, JoinSet};

use crate::clock;
use crate::frame::{Opcode, push_masked};
use crate::process::{Meter, rss_kib};
use crate::socket::{CLIENT_MASK, Socket};
use crate::system::{Kit, System};

/// Runs the parts, each against a node of its own, and prints a line for each figure.
pub(crate) async fn run(kit: &Kit) -> Result<()> {
    kit.prepare(System::Deskmesh1).await?;
    join(kit).await.context("joining")?;
    stay(kit).await.context("being there")?;
    burst(kit).await.context("publishing at once")?;
    stalled(kit).await.context("one that does not read")
}

const PEERS: usize = 400;
const SESSIONS: usize = 9_900;
/// Sessions are of several users, within `sessions_per_user_max`.
const SESSIONS_PER_USER: usize = 400;
const PUBLISHERS: usize = 100;
const PUBLICATIONS_EACH: usize = 2_000;
/// How long a part may take before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// All peers of one user join, offer two methods each, and wait until they know all others.
async fn join(kit: &Kit) -> Result<()> {
    let running = System::Deskmesh1.start(kit).await?;
    let meter = Meter::new(running.pids());
    let (before, start) = (meter.read()?, clock::now());
    let address = running.endpoints.near;
    let peer = |number: usize| async move {
        let mut peer = Peer::login(address, "joe", &format!("peer-{number}")).await?;
        let id = &peer.id;
        let join = format!(
            r#"{{"domain":"global","type":"join","destination":"agm","request_id":"j","peer_id":"{id}"}}"#
        );
        let register = format!(
            r#"{{"domain":"agm","type":"register","methods":[{{"id":1,"name":"Scale.One.{number}"}},{{"id":2,"name":"Scale.Two.{number}"}}],"request_id":"r","peer_id":"{id}"}}"#
        );
        peer.send(&[join, register]).await?;
        // Its own methods are announced to it as well.
        let announced = Finder::new(r#""type":"methods-added""#);
        let mut known = 0;
        while known < PEERS {
            peer.socket
                .reader
                .batch(|frame| {
                    known += usize::from(announced.find(frame).is_some());
                    Ok(())
                })
                .await?;
        }
        Ok::<_, anyhow::Error>(peer)
    };
    let peers = tokio::time::timeout(PATIENCE, try_join_all((0..PEERS).map(peer))).await??;
    let (took, after) = (start.elapsed(), meter.read()?);
    let cpu = after.servers - before.servers;
    println!(
        "join: {PEERS} peers of one user with 2 methods each know each other after {took:.2?}; the node used {cpu:.2?} of processor time"
    );
    drop(peers);
    running.stop().await;
    Ok(())
}

/// Many sessions log in, one after the other, and then do nothing.
async fn stay(kit: &Kit) -> Result<()> {
    const STEP: usize = 1_100;
    let running = System::Deskmesh1.start(kit).await?;
    let pid = running.pids()[0];
    let meter = Meter::new(running.pids());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let empty = rss_kib(pid)?;
    let mut sessions = Vec::with_capacity(SESSIONS);
    for number in 0..SESSIONS / STEP {
        let (before, start) = (meter.read()?, clock::now());
        for number in number * STEP..(number + 1) * STEP {
            let user = format!("user-{}", number / SESSIONS_PER_USER);
            let mut peer = Peer::login(running.endpoints.near, &user, "idle").await?;
            peer.socket.reader.forget_buffer();
            sessions.push(peer);
        }
        let cpu = (meter.read()?.servers - before.servers) / STEP as u32;
        println!(
            "stay: sessions {} to {}: {cpu:.1?} of processor time each, {:.0} per second",
            number * STEP + 1,
            (number + 1) * STEP,
            STEP as f64 / start.elapsed().as_secs_f64()
        );
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let full = rss_kib(pid)?;
    println!(
        "stay: {} sessions after hello: {empty} KiB of memory before, {full} KiB after, {:.1} KiB for each",
        sessions.len(),
        (full - empty) as f64 / sessions.len() as f64
    );
    drop(sessions);
    running.stop().await;
    Ok(())
}

/// All publishers write as fast as they can to one subscriber that reads.
async fn burst(kit: &Kit) -> Result<()> {
    const ALL: usize = PUBLISHERS * PUBLICATIONS_EACH;
    let running = System::Deskmesh1.start(kit).await?;
    let (pid, meter) = (running.pids()[0], Meter::new(running.pids()));
    let address = running.endpoints.near;
    let mut subscriber = Peer::subscribed(address, "subscriber").await?;
    let mut publishers = Vec::new();
    for number in 0..PUBLISHERS {
        publishers.push(Peer::login(address, "joe", &format!("publisher-{number}")).await?);
    }
    let watched = Memory::watch(pid)?;
    let (cpu, start) = (meter.read()?, clock::now());
    let mut sending = JoinSet::new();
    for mut publisher in publishers {
        sending.spawn_local(async move {
            let id = &publisher.id;
            let messages: Vec<String> = (0..PUBLICATIONS_EACH)
                .map(|number| {
                    format!(r#"{{"domain":"bus","type":"publish","topic":"scale","peer_id":"{id}","data":{{"n":{number}}}}}"#)
                })
                .collect();
            publisher.send(&messages).await?;
            Ok::<_, anyhow::Error>(publisher)
        });
    }
    let delivered = Rc::new(Cell::new(0));
    let event = Finder::new(r#""type":"event""#);
    let counting = async {
        while delivered.get() < ALL {
            subscriber
                .socket
                .reader
                .batch(|frame| {
                    delivered.set(delivered.get() + usize::from(event.find(frame).is_some()));
                    Ok(())
                })
                .await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let outcome = tokio::time::timeout(PATIENCE, counting).await;
    let (took, cpu) = (start.elapsed(), meter.read()?.servers - cpu.servers);
    println!(
        "burst: {} of {ALL} publications from {PUBLISHERS} connections delivered in {took:.2?}; the node used {cpu:.2?} of processor time and at most {} KiB more memory",
        delivered.get(),
        watched.most_kib()
    );
    outcome??;
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    running.stop().await;
    Ok(())
}

/// Publications at a steady pace to some that read, and to one more that reads as well, or does not.
async fn stalled(kit: &Kit) -> Result<()> {
    for ninth in [Ninth::Reads, Ninth::Stopped, Ninth::Reads, Ninth::Stopped] {
        let Stalled { latencies, most_kib } = steady(kit, ninth, PACED).await?;
        println!(
            "stalled: {READERS} readers{}: {} of {} deliveries; p50 {} µs, p99 {} µs, p99.9 {} µs; at most {most_kib} KiB more memory",
            if ninth == Ninth::Stopped { " beside one that does not read" } else { " and one more" },
            latencies.len(),
            READERS * PACED,
            latencies.value_at_quantile(0.5),
            latencies.value_at_quantile(0.99),
            latencies.value_at_quantile(0.999),
        );
    }
    Ok(())
}

/// What an application does beside those of which the times are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ninth {
    /// It reads as they do.
    Reads,
    /// It reads nothing.
    Stopped,
}

/// What those that read had of a steady flow.
#[derive(Debug)]
pub(crate) struct Stalled {
    /// From the write to each arrival, in microseconds.
    pub(crate) latencies: Histogram<u64>,
    /// The most memory that the node had beside what it had before.
    pub(crate) most_kib: u64,
}

/// One steady flow of so many publications to some that read, and one more.
pub(crate) async fn steady(kit: &Kit, ninth: Ninth, publications: usize) -> Result<Stalled> {
    let running = System::Deskmesh1.start(kit).await?;
    let pid = running.pids()[0];
    let address = running.endpoints.near;
    let mut readers = Vec::new();
    for number in 0..READERS {
        readers.push(Peer::subscribed(address, &format!("reader-{number}")).await?);
    }
    let mut idle = Peer::subscribed(address, "ninth").await?;
    let mut publisher = Peer::login(address, "joe", "publisher").await?;
    let watched = Memory::watch(pid)?;
    let other = tokio::task::spawn_local(async move {
        while ninth == Ninth::Reads && idle.socket.reader.batch(|_| Ok(())).await.is_ok() {}
        // It is closed by the node, and not before that.
        std::future::pending::<()>().await;
        drop(idle);
    });
    let sent: Rc<Cell<Vec<Instant>>> = Rc::default();
    let mut reading = JoinSet::new();
    for mut reader in readers {
        let sent = sent.clone();
        reading.spawn_local(async move {
            let mut latencies = Histogram::<u64>::new(3)?;
            let number = Finder::new(r#""n":"#);
            while latencies.len() < publications as u64 {
                reader
                    .socket
                    .reader
                    .batch(|frame| {
                        let Some(at) = number.find(frame) else { return Ok(()) };
                        let digits = &frame[at + 4..];
                        let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(0);
                        let number: usize = std::str::from_utf8(&digits[..end])?.parse()?;
                        let times = sent.take();
                        let took = times[number].elapsed();
                        sent.set(times);
                        latencies.record(u64::try_from(took.as_micros())?)?;
                        Ok(())
                    })
                    .await?;
            }
            Ok::<_, anyhow::Error>(latencies)
        });
    }
    let filling = "x".repeat(8 << 10);
    let mut pace = tokio::time::interval(Duration::from_millis(2));
    for number in 0..publications {
        pace.tick().await;
        let id = &publisher.id;
        let message = format!(
            r#"{{"domain":"bus","type":"publish","topic":"scale","peer_id":"{id}","data":{{"n":{number},"x":"{filling}"}}}}"#
        );
        let mut times = sent.take();
        times.push(clock::now());
        sent.set(times);
        publisher.send(&[message]).await?;
    }
    let mut latencies = Histogram::<u64>::new(3)?;
    while let Some(reader) = tokio::time::timeout(PATIENCE, reading.join_next()).await? {
        latencies.add(reader??)?;
    }
    let most_kib = watched.most_kib();
    other.abort();
    running.stop().await;
    Ok(Stalled { latencies, most_kib })
}

/// Looks again and again how much memory a process has.
struct Memory {
    before_kib: u64,
    most_kib: Rc<Cell<u64>>,
    watching: JoinHandle<()>,
}

impl Memory {
    fn watch(pid: u32) -> Result<Self> {
        let before_kib = rss_kib(pid)?;
        let most_kib = Rc::new(Cell::new(before_kib));
        let most = most_kib.clone();
        let watching = tokio::task::spawn_local(async move {
            while let Ok(now) = rss_kib(pid) {
                most.set(most.get().max(now));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Ok(Self { before_kib, most_kib, watching })
    }

    /// The most it had beside what it had at first.
    fn most_kib(&self) -> u64 {
        self.most_kib.get() - self.before_kib
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

const READERS: usize = 8;
/// Publications at a steady pace: 500 per second of 8 KiB, so that what one does not read soon exceeds
/// what may wait for it.
const PACED: usize = 4_000;

/// A logged-in connection.
struct Peer {
    socket: Socket,
    id: String,
}

impl Peer {
    async fn login(address: SocketAddr, user: &str, application: &str) -> Result<Self> {
        let socket = Socket::connect(address, "/").await?;
        let mut peer = Self { socket, id: String::new() };
        let hello = format!(
            r#"{{"domain":"global","type":"hello","request_id":"h","identity":{{"application":"{application}"}},"authentication":{{"method":"secret","login":"{user}","secret":"x"}}}}"#
        );
        peer.send(&[hello]).await?;
        let welcome = peer.wait(br#""type":"welcome""#).await?;
        let welcome: serde_json::Value = serde_json::from_slice(&welcome)?;
        peer.id = welcome["peer_id"].as_str().context("a welcome without peer_id")?.to_owned();
        ensure!(!peer.id.contains(['"', '\\']), "an id that needs escapes");
        Ok(peer)
    }

    /// Logs in and subscribes to what is published here.
    async fn subscribed(address: SocketAddr, application: &str) -> Result<Self> {
        let mut peer = Self::login(address, "joe", application).await?;
        let id = &peer.id;
        let requests = [
            format!(
                r#"{{"domain":"global","type":"join","destination":"bus","request_id":"j","peer_id":"{id}"}}"#
            ),
            format!(
                r#"{{"domain":"bus","type":"subscribe","topic":"scale","request_id":"s","peer_id":"{id}"}}"#
            ),
        ];
        peer.send(&requests).await?;
        peer.wait(br#""type":"subscribed""#).await?;
        Ok(peer)
    }

    /// Sends messages with one write.
    async fn send(&mut self, messages: &[String]) -> Result<()> {
        let mut bytes = Vec::new();
        for message in messages {
            push_masked(&mut bytes, Opcode::Text, CLIENT_MASK, message.as_bytes());
        }
        self.socket.writer.send(&bytes).await
    }

    /// Waits for a message with this text in it; an error ends the wait.
    async fn wait(&mut self, text: &[u8]) -> Result<Vec<u8>> {
        let mut found = None;
        while found.is_none() {
            self.socket
                .reader
                .batch(|frame| {
                    if memmem::find(frame, br#""type":"error""#).is_some() {
                        bail!("refused: {}", String::from_utf8_lossy(frame));
                    }
                    if memmem::find(frame, text).is_some() {
                        found = Some(frame.to_vec());
                    }
                    Ok(())
                })
                .await?;
        }
        found.context("there is one")
    }
}

//! What many applications cost one deskmesh node: joining, being there, all publishing at once.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::try_join_all;
use memchr::memmem::{self, Finder};
use tokio::task::JoinSet;

use crate::clock;
use crate::frame::{Opcode, push_masked};
use crate::process::{Meter, rss_kib};
use crate::socket::{CLIENT_MASK, Socket};
use crate::system::{Kit, System};

/// Runs the three parts, each against a node of its own, and prints a line for each figure.
pub(crate) async fn run(kit: &Kit) -> Result<()> {
    kit.prepare(System::Deskmesh1).await?;
    join(kit).await.context("joining")?;
    stay(kit).await.context("being there")?;
    burst(kit).await.context("publishing at once")
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
    let mut subscriber = Peer::login(address, "joe", "subscriber").await?;
    let id = &subscriber.id;
    let requests = [
        format!(
            r#"{{"domain":"global","type":"join","destination":"bus","request_id":"j","peer_id":"{id}"}}"#
        ),
        format!(r#"{{"domain":"bus","type":"subscribe","topic":"scale","request_id":"s","peer_id":"{id}"}}"#),
    ];
    subscriber.send(&requests).await?;
    subscriber.wait(br#""type":"subscribed""#).await?;
    let mut publishers = Vec::new();
    for number in 0..PUBLISHERS {
        publishers.push(Peer::login(address, "joe", &format!("publisher-{number}")).await?);
    }
    let before = rss_kib(pid)?;
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
    let most = Rc::new(Cell::new(before));
    let watched = most.clone();
    let watching = tokio::task::spawn_local(async move {
        while let Ok(now) = rss_kib(pid) {
            watched.set(watched.get().max(now));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
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
    watching.abort();
    println!(
        "burst: {} of {ALL} publications from {PUBLISHERS} connections delivered in {took:.2?}; the node used {cpu:.2?} of processor time and at most {} KiB more memory",
        delivered.get(),
        most.get() - before
    );
    outcome??;
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    running.stop().await;
    Ok(())
}

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

//! Nodes with a network between them, and apps that connect to them.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_client::{Client, Credentials, Identity, MethodDefinition, Timeouts};

use super::relay::{Conditions, Relay};
use crate::clock;
use crate::process::Process;
use crate::system::{Kit, Node};

/// A node behind its relay.
#[derive(Debug)]
pub(crate) struct Desk {
    name: String,
    node: Node,
    /// The running node.
    pub(crate) process: Process,
    /// What others dial.
    pub(crate) relay: Relay,
}

impl Desk {
    async fn start(kit: &Kit, number: usize, token: Option<&str>, conditions: Conditions) -> Result<Self> {
        let mut node = Node::new()?;
        let relay = Relay::start(node.mesh_listen, number as u64 + 1)?;
        relay.set(conditions);
        node.advertised = Some(relay.address());
        let name = format!("desk-{number}");
        let process = node.start(kit, &name, token).await?;
        Ok(Self { name, node, process, relay })
    }

    /// Starts the node again after it has ended, with what it has on disk.
    pub(crate) async fn restart(&mut self, kit: &Kit) -> Result<()> {
        self.process.wait().await?;
        self.process = self.node.start(kit, &self.name, None).await?;
        Ok(())
    }

    /// Connects an app to the node.
    pub(crate) async fn app(&self, application: &str) -> Result<Client> {
        let credentials = Credentials { user: "figures".to_owned(), secret: "figures".to_owned() };
        let url = format!("ws://{}", self.node.listen);
        let client = Client::connect(&url, credentials, Identity::new(application)).await?;
        Ok(client.with_timeouts(Timeouts { wait: PATIENCE, reply: PATIENCE }))
    }
}

/// Nodes of one mesh.
#[derive(Debug)]
pub(crate) struct Desks(pub(crate) Vec<Desk>);

impl Desks {
    /// Starts nodes without any delay between them, and waits until each sees the apps of each.
    pub(crate) async fn start(kit: &Kit, count: usize) -> Result<Self> {
        let mut desks = Self(vec![Desk::start(kit, 0, None, Conditions::default()).await?]);
        for _ in 1..count {
            desks.join(kit, Conditions::default()).await?;
        }
        let mut apps = Vec::new();
        for (number, desk) in desks.0.iter().enumerate() {
            let app = desk.app("settling").await?;
            offer(&app, &format!("Figures.Settled.{number}")).await?;
            apps.push(app);
        }
        for app in &apps {
            for number in 0..count {
                app.wait_for_method(&format!("Figures.Settled.{number}"), PATIENCE).await?;
            }
        }
        for app in apps {
            app.close().await;
        }
        Ok(desks)
    }

    /// Starts one more node, which joins by way of the first one's relay.
    pub(crate) async fn join(&mut self, kit: &Kit, conditions: Conditions) -> Result<()> {
        let token = self.0[0].node.token(kit).await?;
        let desk = Desk::start(kit, self.0.len(), Some(&token), conditions).await?;
        self.0.push(desk);
        Ok(())
    }

    /// Changes the network between all of them.
    pub(crate) fn set(&self, conditions: Conditions) {
        for desk in &self.0 {
            desk.relay.set(conditions);
        }
    }

    /// Cuts all links, or lets them be mended.
    pub(crate) fn cut(&self, is_cut: bool) {
        for desk in &self.0 {
            desk.relay.cut(is_cut);
        }
    }

    /// Cuts all links of one node, or lets them be mended.
    pub(crate) fn cut_off(&self, number: usize, is_cut: bool) {
        for other in 0..self.0.len() {
            self.cut_between(number, other, is_cut);
        }
    }

    /// Cuts the link between two nodes, or lets it be mended.
    pub(crate) fn cut_between(&self, one: usize, other: usize, is_cut: bool) {
        let (one, other) = (&self.0[one], &self.0[other]);
        one.relay.block(other.node.mesh_listen, is_cut);
        other.relay.block(one.node.mesh_listen, is_cut);
    }

    /// Bytes of UDP payload that all relays were given.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.iter().map(|desk| desk.relay.traffic().bytes).sum()
    }

    /// Datagrams that all relays were given.
    pub(crate) fn datagrams(&self) -> u64 {
        self.0.iter().map(|desk| desk.relay.traffic().datagrams).sum()
    }

    /// Bytes of UDP payload on all links of one node.
    pub(crate) fn bytes_of(&self, number: usize) -> u64 {
        let own = &self.0[number];
        let dialled: u64 = self.0.iter().map(|desk| desk.relay.traffic_of(own.node.mesh_listen).bytes).sum();
        own.relay.traffic().bytes + dialled
    }

    /// Ends all nodes.
    pub(crate) async fn stop(self) {
        for desk in self.0 {
            desk.process.stop().await;
        }
    }
}

/// Offers a method that answers with what it is given.
pub(crate) async fn offer(app: &Client, name: &str) -> Result<()> {
    app.register_raw(MethodDefinition::new(name), |call| async move { Ok(call.args.into()) }).await?;
    Ok(())
}

/// Whether an app sees somebody offering that method.
pub(crate) fn sees(app: &Client, name: &str) -> bool {
    app.methods().iter().any(|method| method.name == name)
}

/// Looks every millisecond until that holds, and says how long it took.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<Duration> {
    let start = clock::now();
    while !holds() {
        ensure!(start.elapsed() < PATIENCE, "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(start.elapsed())
}

/// How long anything may take before the part fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

//! Nodes of the same mesh and owner in the local network, found by mDNS.
//!
//! Each node announces a service with its id, its addresses, and a hash that tells meshes and owners apart.
//! What others announce is a hint and no more: anybody in the network can announce anything. A node that is
//! found is dialled under its id, so that whoever answers has to prove that it is that node, and of the same
//! mesh and owner; it is remembered only once it has said so itself over a link.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mdns_sd::{IfKind, ServiceDaemon, ServiceEvent, ServiceInfo};
use mesh_identity::NodeIdentity;
use mesh_model::{NodeId, Text};

use crate::config::key::is_host_port;
use crate::local::Local;

/// The service, and the version of what is said of it.
const SERVICE: &str = "_deskmesh._udp.local.";
const VERSION: &str = "1";
/// Nodes that are found and not known otherwise; further ones are not dialled.
const FOUND_MAX: usize = 256;
/// Addresses that are taken from one announcement.
const ADDRESSES_MAX: usize = 8;
/// A property of a service has at most 255 bytes with its name.
const ADDRESS_LEN_MAX: usize = 250;
/// How often it is looked whether this node has other addresses. Nothing is sent for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Announcement {
    mesh: String,
    node: NodeId,
    addresses: Vec<String>,
}

/// Announces this node and listens to others until the program ends.
pub(crate) async fn run(local: Arc<Local>) {
    if let Err(error) = announce_and_listen(&local).await {
        tracing::error!(%error, "nodes are not looked for by mDNS any more; seeds and known addresses are dialled as before");
    }
}

async fn announce_and_listen(local: &Local) -> Result<(), mdns_sd::Error> {
    let identity = local.gateway.identity();
    let daemon = Daemon(ServiceDaemon::new()?);
    restrict(&daemon.0, local.config.mesh_listen.ip())?;
    let mut own = Announcement { mesh: mesh_hash(identity), node: identity.node(), addresses: Vec::new() };
    let events = daemon.0.browse(SERVICE)?;
    loop {
        let addresses = local.mesh_addresses();
        if addresses != own.addresses {
            own.addresses = addresses;
            // A service that is registered again is announced again.
            daemon.0.register(own.service()?)?;
        }
        let Ok(event) = tokio::time::timeout(LOOK_EVERY, events.recv_async()).await else { continue };
        match event {
            Ok(ServiceEvent::ServiceResolved(service)) => {
                let heard = Announcement::read(|name| service.get_property_val_str(name));
                if let Some(heard) = heard.filter(|heard| heard.mesh == own.mesh && heard.node != own.node) {
                    found(local, heard);
                }
            }
            Ok(ServiceEvent::ServiceRemoved(_, name)) => {
                if let Some(node) = name.split('.').next().and_then(NodeId::parse) {
                    local.gateway.found.remove(&node);
                }
            }
            Ok(_) => {}
            Err(_) => return Err(mdns_sd::Error::Msg("the mDNS thread has ended".to_owned())),
        }
    }
}

fn found(local: &Local, heard: Announcement) {
    let found = &local.gateway.found;
    if found.len() >= FOUND_MAX && !found.contains_key(&heard.node) {
        tracing::debug!(node = %heard.node.short(), "more than {FOUND_MAX} nodes were found by mDNS; this one is not dialled");
        return;
    }
    let addresses: Vec<Text> = heard.addresses.iter().map(|address| address.as_str().into()).collect();
    let before = found.insert(heard.node, addresses.clone());
    if before != Some(addresses) {
        tracing::info!(node = %heard.node.short(), addresses = heard.addresses.join(", "), "a node of this mesh was found by mDNS");
        local.gateway.topology_changed.notify_one();
    }
}

impl Announcement {
    fn service(&self) -> Result<ServiceInfo, mdns_sd::Error> {
        let sockets = self.addresses.iter().filter_map(|address| address.parse::<SocketAddr>().ok());
        let sockets: Vec<SocketAddr> = sockets.collect();
        let hosts: Vec<IpAddr> = sockets.iter().map(SocketAddr::ip).collect();
        let port = sockets.first().map_or(0, SocketAddr::port);
        let (name, host) = (self.node.to_string(), format!("{}.local.", self.node));
        ServiceInfo::new(SERVICE, &name, &host, &hosts[..], port, &self.properties()[..])
    }

    fn properties(&self) -> Vec<(String, String)> {
        let fits = |address: &&String| address.len() <= ADDRESS_LEN_MAX;
        let addresses = self.addresses.iter().filter(fits).take(ADDRESSES_MAX).zip(0..);
        let addresses = addresses.map(|(address, turn)| (format!("a{turn}"), address.clone()));
        let named = [("v", VERSION.to_owned()), ("mesh", self.mesh.clone()), ("node", self.node.to_string())];
        named.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(addresses).collect()
    }

    /// Reads what a service says of itself; nothing if it makes no sense.
    fn read<'a>(property: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        if property("v")? != VERSION {
            return None;
        }
        let addresses = (0..ADDRESSES_MAX).map_while(|turn| property(&format!("a{turn}")));
        let addresses: Vec<String> =
            addresses.filter(|address| is_host_port(address)).map(ToOwned::to_owned).collect();
        let (mesh, node) = (property("mesh")?.to_owned(), NodeId::parse(property("node")?)?);
        (!addresses.is_empty()).then_some(Self { mesh, node, addresses })
    }
}

/// Ends the thread of mDNS with its task.
struct Daemon(ServiceDaemon);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It says goodbye by itself; there is nobody left to tell that it could not.
        let _ = self.0.shutdown();
    }
}

/// Keeps to the interfaces on which other nodes can dial this one.
fn restrict(daemon: &ServiceDaemon, listen: IpAddr) -> Result<(), mdns_sd::Error> {
    if listen.is_unspecified() {
        return daemon.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6]);
    }
    daemon.disable_interface(IfKind::All)?;
    daemon.enable_interface(IfKind::Addr(listen))
}

/// Tells apart the owners of one mesh and of several, without naming them.
fn mesh_hash(identity: &NodeIdentity) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(b"deskmesh discovery\0");
    context.update(ring::digest::digest(&ring::digest::SHA256, identity.root()).as_ref());
    context.update(identity.owner().as_bytes());
    context.finish().as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn announcement() -> Announcement {
        let addresses = vec!["10.0.0.5:8386".to_owned(), "desk-5.corp.example:8386".to_owned()];
        Announcement { mesh: "0a".repeat(16), node: NodeId([7; 16]), addresses }
    }

    fn read(properties: &BTreeMap<String, String>) -> Option<Announcement> {
        Announcement::read(|name| properties.get(name).map(String::as_str))
    }

    #[test]
    fn what_is_announced_is_understood() {
        let service = announcement().service().unwrap();
        assert_eq!((service.get_port(), service.get_addresses().len()), (8386, 1));
        assert_eq!(Announcement::read(|name| service.get_property_val_str(name)), Some(announcement()));
    }

    #[test]
    fn what_makes_no_sense_is_passed_over() {
        let good: BTreeMap<String, String> = announcement().properties().into_iter().collect();
        assert_eq!(read(&good), Some(announcement()));
        for (name, value) in [("v", "2"), ("node", "someone"), ("a0", "nowhere")] {
            let mut bad = good.clone();
            bad.insert(name.to_owned(), value.to_owned());
            bad.remove("a1");
            assert_eq!(read(&bad), None, "{name} is {value}");
        }
        for name in ["v", "mesh", "node", "a0"] {
            let mut bad = good.clone();
            bad.remove(name);
            assert_eq!(read(&bad), None, "without {name}");
        }
    }

    #[test]
    fn long_lists_and_long_names_are_cut() {
        let mut many = announcement();
        many.addresses = (0..40).map(|number| format!("desk-{number}.corp.example:8386")).collect();
        many.addresses.insert(0, format!("{}:8386", "x".repeat(300)));
        let properties: BTreeMap<String, String> = many.properties().into_iter().collect();
        let understood = read(&properties).unwrap();
        assert_eq!(understood.addresses, many.addresses[1..=ADDRESSES_MAX]);
        assert!(many.service().is_ok());
    }

    #[test]
    fn meshes_and_owners_are_told_apart() {
        let found = |owner: &str| {
            let dir = tempfile::tempdir().unwrap();
            NodeIdentity::found(dir.path(), owner, 1_700_000_000_000).unwrap()
        };
        let (one, other) = (found("ann"), found("ann"));
        assert_eq!(mesh_hash(&one), mesh_hash(&one));
        assert_ne!(mesh_hash(&one), mesh_hash(&other));
        assert_eq!(mesh_hash(&one).len(), 32);
    }
}

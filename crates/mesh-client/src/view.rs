//! Who offers what, as far as this client has been told.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::identity::Instance;

/// Every known app, and the methods of each under their lower-case names.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// By peer id; the number is the order of announcement, by which "first" is meant.
    peers: BTreeMap<String, (u64, Arc<Instance>)>,
    announced: u64,
    /// Invariant: in order of announcement, no key without an offer, and no offer of an unknown peer.
    offers: BTreeMap<String, Vec<Offer>>,
}

/// One method of one app.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    order: u64,
    /// Who offers it.
    pub(crate) by: Arc<Instance>,
    /// The id under which the provider knows it, kept as it came: `"1"` is not `1`.
    pub(crate) method_id: Value,
    definition: Arc<Value>,
}

/// A method that somebody offers.
#[derive(Clone, Debug)]
pub struct Method {
    /// The name as its first provider writes it.
    pub name: String,
    /// Whether it is a stream, to be subscribed to instead of called.
    pub is_stream: bool,
    /// Everything its first provider says about it.
    pub definition: Arc<Value>,
    /// Who offers it, first announced first.
    pub providers: Vec<Arc<Instance>>,
}

impl View {
    /// Takes note of an app. Its methods come with `add_methods`.
    pub(crate) fn add_peer(&mut self, instance: Arc<Instance>) {
        let order = self.announced;
        self.announced += 1;
        self.peers.insert(instance.peer_id().to_owned(), (order, instance));
    }

    /// Forgets an app and its methods.
    pub(crate) fn remove_peer(&mut self, peer_id: &str) {
        self.peers.remove(peer_id);
        self.retain_offers(|offer| offer.by.peer_id() != peer_id);
    }

    /// The app of that peer id.
    pub(crate) fn peer(&self, peer_id: &str) -> Option<&Arc<Instance>> {
        self.peers.get(peer_id).map(|(_, instance)| instance)
    }

    /// Takes note of methods; those already known stay as they are.
    pub(crate) fn add_methods(&mut self, peer_id: &str, definitions: Vec<Value>) {
        let Some((order, by)) = self.peers.get(peer_id) else { return };
        for definition in definitions {
            let (Some(name), Some(method_id)) = (definition["name"].as_str(), definition.get("id")) else {
                continue;
            };
            let offers = self.offers.entry(name.to_lowercase()).or_default();
            if offers.iter().any(|known| known.order == *order && known.method_id == *method_id) {
                continue;
            }
            let offer = Offer {
                order: *order,
                by: by.clone(),
                method_id: method_id.clone(),
                definition: Arc::new(definition),
            };
            let at = offers.partition_point(|other| other.order <= *order);
            offers.insert(at, offer);
        }
    }

    /// Forgets methods.
    pub(crate) fn remove_methods(&mut self, peer_id: &str, method_ids: &[Value]) {
        self.retain_offers(|offer| offer.by.peer_id() != peer_id || !method_ids.contains(&offer.method_id));
    }

    fn retain_offers(&mut self, mut keep: impl FnMut(&Offer) -> bool) {
        self.offers.retain(|_, offers| {
            offers.retain(&mut keep);
            !offers.is_empty()
        });
    }

    /// Who offers the method, first announced first, one offer per app.
    pub(crate) fn offers(&self, name: &str) -> Vec<Offer> {
        let mut offers = self.offers.get(&name.to_lowercase()).cloned().unwrap_or_default();
        offers.dedup_by_key(|offer| offer.order);
        offers
    }

    /// The method of that name.
    pub(crate) fn method(&self, name: &str) -> Option<Method> {
        self.offers.get(&name.to_lowercase()).and_then(|offers| method(offers))
    }

    /// Every method, by name.
    pub(crate) fn methods(&self) -> Vec<Method> {
        self.offers.values().filter_map(|offers| method(offers)).collect()
    }
}

fn method(offers: &[Offer]) -> Option<Method> {
    let definition = offers.first()?.definition.clone();
    let mut providers: Vec<_> = offers.iter().map(|offer| offer.by.clone()).collect();
    providers.dedup_by(|a, b| a.peer_id() == b.peer_id());
    Some(Method {
        name: definition["name"].as_str().unwrap_or_default().to_owned(),
        is_stream: definition["flags"]["streaming"] == true,
        definition,
        providers,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn offering(view: &View, name: &str) -> Vec<String> {
        view.offers(name).iter().map(|offer| offer.by.peer_id().to_owned()).collect()
    }

    #[test]
    fn offers_keep_the_order_of_announcement() {
        let mut view = View::default();
        for peer_id in ["p-9", "p-1", "p-5"] {
            view.add_peer(Arc::new(Instance::new(peer_id.into(), true, Map::new())));
        }
        for peer_id in ["p-5", "p-9", "p-1"] {
            view.add_methods(
                peer_id,
                vec![json!({"id": "0", "name": "Sum"}), json!({"id": 0, "name": "sum"})],
            );
        }
        view.add_methods("p-unknown", vec![json!({"id": "0", "name": "Sum"})]);
        assert_eq!(offering(&view, "SUM"), ["p-9", "p-1", "p-5"]);

        view.remove_methods("p-9", &[json!("0")]);
        assert_eq!(offering(&view, "sum"), ["p-9", "p-1", "p-5"], "the id 0 is another method");
        view.remove_methods("p-9", &[json!(0)]);
        view.remove_peer("p-1");
        assert_eq!(offering(&view, "sum"), ["p-5"]);
        assert_eq!(view.methods().len(), 1);
        view.remove_peer("p-5");
        assert!(view.method("sum").is_none());
    }
}

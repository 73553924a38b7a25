//! Whom an app gets that asks for "the best": the table on the page `docs/best.md`, case by case.
//!
//! The app is a stock client: it takes the first provider that was announced as local, else the first that
//! was announced.

use mesh_model::{Area, Command, Event, Lane, LinkMessage, Text, Words};

use super::mesh::{App, Mesh, settings};
use crate::{Input, Node, NodeSettings};

const METHOD: &str = "Price";

/// Where a provider is, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    OwnNode,
    OwnDesktop,
    OtherDesktop,
    Service,
}

impl Place {
    const ALL: [Self; 4] = [Self::OwnNode, Self::OwnDesktop, Self::OtherDesktop, Self::Service];

    const fn node(self) -> usize {
        self as usize
    }
}

/// What becomes of the better of two providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    /// Its node cannot be reached; on the caller's own node: it has left.
    Away,
    /// Its node lives a new life; on the caller's own node: it has left and is there again.
    Restarted,
}

/// What a client library knows.
#[derive(Default)]
struct Table {
    servers: Vec<(Text, bool, bool)>,
}

impl Table {
    fn take(&mut self, event: &Event) {
        match event {
            Event::InstanceAdded { instance, local, .. } => {
                self.servers.push((instance.clone(), *local, false));
            }
            Event::InstanceRemoved { instance, .. } => self.servers.retain(|(id, ..)| id != instance),
            Event::MethodsAdded { server, methods, .. } => {
                let offers = methods.iter().any(|method| method.to_string().contains(METHOD));
                for (_, _, has) in self.servers.iter_mut().filter(|(id, ..)| id == server) {
                    *has |= offers;
                }
            }
            Event::MethodsRemoved { server, .. } => {
                for (_, _, has) in self.servers.iter_mut().filter(|(id, ..)| id == server) {
                    *has = false;
                }
            }
            _ => {}
        }
    }

    fn best(&self) -> Option<&Text> {
        let offering = || self.servers.iter().filter(|(_, _, has)| *has);
        offering().find(|(_, local, _)| *local).or_else(|| offering().next()).map(|(id, ..)| id)
    }
}

/// A node for each place; the caller's is the first, and the second is on the same desktop.
struct Desk {
    mesh: Mesh,
    lives: u64,
}

impl Desk {
    fn new() -> Self {
        let mesh = Mesh::unlinked(4);
        let mut desk = Self { mesh, lives: 1 };
        desk.start(Place::OwnDesktop);
        for a in 0..4 {
            for b in a + 1..4 {
                desk.mesh.link(a, b);
            }
        }
        desk
    }

    /// Begins a life of a place's node.
    fn start(&mut self, place: Place) {
        let own = settings(place.node(), self.lives);
        let name = if place == Place::OwnDesktop { settings(0, 1).name } else { own.name.clone() };
        self.mesh.nodes[place.node()] = Node::new(NodeSettings { name, ..own }, self.mesh.now());
    }

    fn provider(&mut self, place: Place) -> (App, Text) {
        let is_service = place == Place::Service;
        let user = if is_service { "prices" } else { "joe" };
        let (app, instance) = self.mesh.app_with(place.node(), user, "provider", is_service, None);
        self.mesh.register(app, "1", METHOD);
        (app, instance)
    }

    fn caller(&mut self) -> (App, Table) {
        (self.mesh.app(0, "joe").0, Table::default())
    }

    fn best(&mut self, (app, table): &mut (App, Table)) -> Option<Text> {
        for event in self.mesh.events_of(*app) {
            table.take(&event);
        }
        table.best().cloned()
    }

    fn cut_off(&mut self, place: Place) {
        for other in Place::ALL.into_iter().filter(|other| *other != place) {
            self.mesh.cut(place.node(), other.node());
        }
    }

    fn link_again(&mut self, place: Place) {
        for other in Place::ALL.into_iter().filter(|other| *other != place) {
            self.mesh.link(place.node(), other.node());
        }
    }

    /// Takes a provider away.
    fn take_away(&mut self, place: Place, app: App) {
        match place {
            Place::OwnNode => {
                let area = Area::Interop;
                self.mesh.ask(app, |request| Command::Leave { request, area, words: Words::default() });
            }
            place => self.cut_off(place),
        }
    }

    /// Brings it back, and returns its id.
    fn bring_back(&mut self, place: Place, before: Text, state: State) -> Text {
        if place == Place::OwnNode {
            return self.provider(place).1;
        }
        if state == State::Restarted {
            self.lives += 1;
            self.start(place);
        }
        self.link_again(place);
        if state == State::Restarted { self.provider(place).1 } else { before }
    }
}

/// Six pairs of places, three states of the better one, and both orders in which they come: 36 cases, each
/// for one who was there before them and for one who comes after.
#[test]
fn the_best_is_the_documented_one() {
    let mut cases = 0;
    for better in Place::ALL {
        for other in Place::ALL.into_iter().filter(|other| *other > better) {
            for state in [State::Up, State::Away, State::Restarted] {
                for better_first in [true, false] {
                    check(better, other, state, better_first);
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 36);
}

fn check(better: Place, other: Place, state: State, better_first: bool) {
    let case = format!("{better:?} before {other:?}, {state:?}, the better first: {better_first}");
    let mut desk = Desk::new();
    let mut early = desk.caller();
    let (best, second) = if better_first {
        let best = desk.provider(better);
        (best, desk.provider(other))
    } else {
        let second = desk.provider(other);
        (desk.provider(better), second)
    };
    let is_local = better == Place::OwnNode;
    let stays = if is_local || better_first { &best.1 } else { &second.1 };
    assert_eq!(desk.best(&mut early).as_ref(), Some(stays), "{case}: at first");
    let mut late = desk.caller();
    assert_eq!(desk.best(&mut late).as_ref(), Some(&best.1), "{case}: who comes later");

    if state == State::Up {
        return;
    }
    desk.take_away(better, best.0);
    let mut latest = desk.caller();
    for caller in [&mut early, &mut late, &mut latest] {
        assert_eq!(desk.best(caller).as_ref(), Some(&second.1), "{case}: while it is away");
    }
    let back = desk.bring_back(better, best.1.clone(), state);
    assert_eq!(back == best.1, state == State::Away && !is_local, "{case}: its id");
    // Who had to change stays with whom it has, unless there is one on its own node again.
    let keeps = if is_local { &back } else { &second.1 };
    for caller in [&mut early, &mut late, &mut latest] {
        assert_eq!(desk.best(caller).as_ref(), Some(keeps), "{case}: once it is back");
    }
    let mut newcomer = desk.caller();
    assert_eq!(desk.best(&mut newcomer).as_ref(), Some(&back), "{case}: who comes at the end");
}

#[test]
fn a_provider_is_back_under_its_id_and_calls_to_it_go_nowhere_else_meanwhile() {
    let mut desk = Desk::new();
    let mut caller = desk.caller();
    let (_, best) = desk.provider(Place::OtherDesktop);
    let (second_app, second) = desk.provider(Place::Service);
    assert_eq!(desk.best(&mut caller).as_ref(), Some(&best));
    desk.cut_off(Place::OtherDesktop);
    assert_eq!(desk.best(&mut caller).as_ref(), Some(&second));
    desk.mesh.call(caller.0, &best, "1");
    let ended = desk.mesh.take(caller.0, |event| match event {
        Event::CallEnded { outcome, .. } => Some(outcome.word()),
        _ => None,
    });
    assert_eq!(ended, ["not_delivered"]);
    let runs = desk.mesh.take(second_app, |event| matches!(event, Event::Invoke { .. }).then_some(()));
    assert!(runs.is_empty(), "the client has named whom it wants; nobody else is asked");
    desk.link_again(Place::OtherDesktop);
    let mut late = desk.caller();
    assert_eq!(desk.best(&mut late).as_ref(), Some(&best));
}

#[test]
fn providers_of_one_node_come_in_the_order_in_which_they_joined() {
    let mut desk = Desk::new();
    let joined: Vec<Text> = (0..20).map(|_| desk.provider(Place::OtherDesktop).1).collect();
    let told = |desk: &mut Desk, caller: &mut (App, Table)| -> Vec<Text> {
        desk.best(caller);
        caller.1.servers.iter().filter(|(_, _, has)| *has).map(|(id, ..)| id.clone()).collect()
    };
    let mut caller = desk.caller();
    assert_eq!(told(&mut desk, &mut caller), joined);
    desk.cut_off(Place::OtherDesktop);
    assert_eq!(told(&mut desk, &mut caller), [] as [Text; 0]);
    desk.link_again(Place::OtherDesktop);
    assert_eq!(told(&mut desk, &mut caller), joined, "all of a node that is back");
}

#[test]
fn the_nearer_of_two_desktops_comes_first() {
    for near in [1, 2] {
        let mut mesh = Mesh::new(3);
        let links: Vec<_> = mesh.nodes[0].links.iter().map(|(id, link)| (*id, link.peer)).collect();
        for (link, peer) in links {
            let rtt_us = if peer == settings(near, 1).node { 500 } else { 30_000 };
            let message = LinkMessage::Pong { count: 1, sent: mesh.tick().0 - rtt_us };
            mesh.input(0, Input::Link { link, lane: Lane::Control, message });
        }
        let mut desk = Desk { mesh, lives: 1 };
        let providers = [Place::OwnDesktop, Place::OtherDesktop].map(|place| desk.provider(place).1);
        for _ in 0..10 {
            let mut caller = desk.caller();
            assert_eq!(desk.best(&mut caller).as_ref(), Some(&providers[near - 1]));
        }
    }
}

#[test]
fn equal_providers_are_spread_over_callers_and_each_keeps_its_own() {
    let mut desk = Desk { mesh: Mesh::new(3), lives: 1 };
    let providers = [1, 2].map(|node| {
        let (app, instance) = desk.mesh.app(node, "joe");
        desk.mesh.register(app, "1", METHOD);
        instance
    });
    let mut counts = [0, 0];
    for _ in 0..40 {
        let mut caller = desk.caller();
        let best = desk.best(&mut caller).unwrap();
        counts[usize::from(best == providers[1])] += 1;
        // What happens to the other one is no reason to change.
        desk.provider(Place::OtherDesktop);
        assert_eq!(desk.best(&mut caller), Some(best));
    }
    assert!(counts.iter().all(|count| *count >= 8), "{counts:?}");
}

#[test]
fn a_service_on_the_own_node_is_what_a_stock_client_takes() {
    let mut desk = Desk::new();
    desk.provider(Place::OtherDesktop);
    let (app, service) = desk.mesh.app_with(0, "prices", "provider", true, None);
    desk.mesh.register(app, "1", METHOD);
    let mut caller = desk.caller();
    assert_eq!(desk.best(&mut caller).as_ref(), Some(&service));
    // With one of its own user there, too, that one: it is announced first.
    let (_, local) = desk.provider(Place::OwnNode);
    let mut caller = desk.caller();
    assert_eq!(desk.best(&mut caller).as_ref(), Some(&local));
}

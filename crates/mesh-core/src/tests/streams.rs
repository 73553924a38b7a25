//! Streams and the bus between nodes: what travels once, what keeps its order, and what ends.

use std::collections::BTreeSet;

use mesh_model::{
    CallFailure, Cause, Command, Event, Json, LinkId, LinkMessage, Outcome, Request, SessionId, SlowPolicy,
    Text, Words,
};

use super::mesh::{App, Mesh, json};
use crate::visibility::Pattern;
use crate::{Input, SlowRule};

const BRANCH: &str = "\"b\"";

/// A provider on the first node, and apps on the others.
pub(super) struct Stage {
    pub(super) mesh: Mesh,
    pub(super) provider: App,
    pub(super) instance: Text,
    pushed: u64,
}

impl Stage {
    pub(super) fn new(nodes: usize) -> Self {
        let mut mesh = Mesh::new(nodes);
        let (provider, instance) = mesh.app(0, "joe");
        mesh.register(provider, "1", "Prices");
        Self { mesh, provider, instance, pushed: 0 }
    }

    pub(super) fn app(&mut self, node: usize) -> App {
        self.mesh.app(node, "joe").0
    }

    pub(super) fn ask_for(&mut self, app: App) -> Request {
        self.mesh.subscribe(app, &self.instance.clone(), "1")
    }

    /// Accepts all that is asked for, and returns how much that was.
    pub(super) fn accept(&mut self) -> usize {
        let asked = self.mesh.take(self.provider, |event| match event {
            Event::SubscriptionRequested { subscription, .. } => Some(*subscription),
            _ => None,
        });
        for subscription in &asked {
            let accept = Command::Accept { subscription: *subscription, branch: json(BRANCH) };
            self.mesh.send(self.provider, accept);
        }
        asked.len()
    }

    pub(super) fn subscriber(&mut self, node: usize) -> (App, u64) {
        let app = self.app(node);
        self.ask_for(app);
        assert_eq!(self.accept(), 1);
        let subscribed = self.mesh.take(app, |event| match event {
            Event::Subscribed { subscription, .. } => Some(*subscription),
            _ => None,
        });
        (app, subscribed[0])
    }

    pub(super) fn push(&mut self) {
        self.pushed += 1;
        let (branch, data) = (json(BRANCH), json(&self.pushed.to_string()));
        self.mesh.send(self.provider, Command::Push { branch, data, sequence: None, snapshot: None });
    }

    pub(super) fn data(&mut self, app: App) -> Vec<u64> {
        self.mesh.take(app, |event| match event {
            Event::StreamData { data, .. } => data.to_string().parse().ok(),
            _ => None,
        })
    }

    pub(super) fn unsubscribe(&mut self, (app, subscription): (App, u64)) {
        self.mesh.ask(app, |request| Command::Unsubscribe { request, subscription, words: Words::default() });
    }

    fn forget_traffic(&mut self) {
        self.mesh.traffic.clear();
        self.mesh.bytes.clear();
    }

    /// Checks that no node knows of any subscription.
    pub(super) fn assert_nothing_left(&self) {
        for node in &self.mesh.nodes {
            assert!(node.subscriptions.is_empty() && node.remote_branches.is_empty());
            assert!(node.interests.is_empty() && node.branches.is_empty() && node.deadlines.is_empty());
            assert!(node.shed.is_empty());
        }
    }
}

#[test]
fn data_travels_once_to_each_node_however_many_are_subscribed() {
    let mut one_copy = 0;
    for count in [1, 20] {
        let mut stage = Stage::new(3);
        let apps: Vec<(App, u64)> = [1, 2]
            .into_iter()
            .flat_map(|node| vec![node; count])
            .map(|node| stage.subscriber(node))
            .collect();
        stage.forget_traffic();
        for _ in 0..100 {
            stage.push();
        }
        for (app, _) in &apps {
            assert_eq!(stage.data(*app), (1..=100).collect::<Vec<_>>(), "all of it, in order");
        }
        for link in [(0, 1), (0, 2)] {
            assert_eq!(stage.mesh.traffic[&link], 100, "{count} subscribers");
            let bytes = stage.mesh.bytes[&link];
            if count == 1 {
                one_copy = bytes;
            }
            assert!(bytes * 10 <= one_copy * 11, "{bytes} bytes are more than 1.1 times {one_copy}");
        }
        assert!(!stage.mesh.traffic.contains_key(&(1, 2)), "nothing is passed on");
    }
}

#[test]
fn a_node_gets_data_until_the_last_of_its_apps_has_enough() {
    let mut stage = Stage::new(2);
    let apps: Vec<_> = (0..3).map(|_| stage.subscriber(1)).collect();
    for (number, one) in apps.into_iter().enumerate() {
        stage.forget_traffic();
        stage.push();
        assert_eq!(stage.mesh.traffic[&(0, 1)], 1, "without the first {number}");
        stage.unsubscribe(one);
    }
    stage.forget_traffic();
    stage.push();
    assert!(!stage.mesh.traffic.contains_key(&(0, 1)));
    stage.assert_nothing_left();
}

#[test]
fn publications_travel_once_to_each_interested_node_however_many_are_subscribed() {
    let mut one_copy = 0;
    for count in [1, 20] {
        let mut stage = Stage::new(3);
        let apps: Vec<App> = (0..count).map(|_| stage.app(1)).collect();
        for (number, app) in apps.iter().enumerate() {
            // By different patterns, which a node is interested in all the same.
            let pattern = ["news.uk", "news.*", "news>"][number % 3];
            stage.mesh.ask(*app, |request| Command::BusSubscribe {
                request,
                pattern: pattern.into(),
                routing_key: None,
            });
        }
        stage.forget_traffic();
        for number in 1..=100 {
            let data = Json::parse(number.to_string().into_bytes().into()).unwrap();
            let (routing_key, target) = (None, None);
            let publish = Command::BusPublish { topic: "news.uk".into(), routing_key, target, data };
            stage.mesh.send(stage.provider, publish);
        }
        for app in &apps {
            let heard = stage.mesh.take(*app, |event| match event {
                Event::BusEvent { data, .. } => data.to_string().parse::<u64>().ok(),
                _ => None,
            });
            assert_eq!(heard, (1..=100).collect::<Vec<_>>());
        }
        assert_eq!(stage.mesh.traffic[&(0, 1)], 100);
        assert!(!stage.mesh.traffic.contains_key(&(0, 2)), "nobody there is interested");
        let bytes = stage.mesh.bytes[&(0, 1)];
        if count == 1 {
            one_copy = bytes;
        }
        assert!(bytes * 10 <= one_copy * 11, "{bytes} bytes are more than 1.1 times {one_copy}");
    }
}

#[test]
fn order_is_kept_and_nothing_comes_twice_while_links_change_and_flap() {
    let mut stage = Stage::new(2);
    let apps: Vec<App> = (0..3).map(|_| stage.subscriber(1).0).collect();
    let mut seen = vec![Vec::new(); apps.len()];
    for round in 0..12 {
        // What is on its way when the path changes is lost with it, or held up until after the change.
        if round % 2 == 0 {
            stage.mesh.hold = Some(|message| matches!(message, mesh_model::LinkMessage::BranchData { .. }));
        }
        stage.push();
        stage.push();
        match round % 3 {
            0 => stage.mesh.link(round % 2, 1 - round % 2),
            1 => {
                stage.mesh.cut(0, 1);
                stage.push();
                stage.mesh.link(0, 1);
            }
            _ => {}
        }
        let again = stage.accept();
        assert!([0, 3].contains(&again), "asked for again, once each: {again}");
        stage.push();
        stage.mesh.release();
        stage.push();
        for (app, seen) in apps.iter().zip(&mut seen) {
            seen.extend(stage.data(*app));
            assert_eq!(seen.last(), Some(&stage.pushed), "it goes on under the same subscription");
        }
    }
    for seen in seen {
        assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
    }
}

#[test]
fn a_request_that_no_provider_answers_ends() {
    let mut stage = Stage::new(2);
    stage.mesh.nodes[1].settings.limits.call_ms_max = 2_000;
    let app = stage.app(1);
    stage.mesh.events_of(app);
    let request = stage.ask_for(app);
    stage.mesh.wait_ms(1_900);
    assert!(stage.mesh.events_of(app).is_empty());
    stage.mesh.wait_ms(100);
    let outcome = Outcome::Failed(CallFailure::Deadline { millis: 2_000 });
    assert_eq!(stage.mesh.events_of(app), [Event::CallEnded { request, outcome }]);
    stage.assert_nothing_left();
    // The provider was told both; its late word is for nobody.
    stage.accept();
    stage.push();
    assert!(stage.mesh.events_of(app).is_empty());
    stage.assert_nothing_left();
}

#[test]
fn a_subscription_that_no_provider_takes_up_again_ends() {
    let mut stage = Stage::new(2);
    stage.mesh.nodes[1].settings.limits.call_ms_max = 2_000;
    let (app, subscription) = stage.subscriber(1);
    stage.mesh.wait_ms(10_000);
    assert!(stage.mesh.events_of(app).is_empty(), "one that was accepted has no deadline");
    stage.mesh.cut(0, 1);
    stage.mesh.link(0, 1);
    stage.mesh.wait_ms(1_900);
    let is_end = |event: &Event| matches!(event, Event::SubscriptionEnded { .. }).then(|| event.clone());
    assert!(stage.mesh.take(app, is_end).is_empty());
    stage.mesh.wait_ms(100);
    let cause = Cause::Lost;
    assert_eq!(stage.mesh.take(app, is_end), [Event::SubscriptionEnded { subscription, cause }]);
    stage.assert_nothing_left();
}

#[test]
fn a_request_to_a_provider_of_the_same_node_waits_as_long_as_its_client_does() {
    let mut stage = Stage::new(1);
    stage.mesh.nodes[0].settings.limits.call_ms_max = 2_000;
    let app = stage.app(0);
    stage.mesh.events_of(app);
    stage.ask_for(app);
    stage.mesh.wait_ms(60_000);
    assert!(stage.mesh.events_of(app).is_empty());
    stage.accept();
    stage.push();
    assert_eq!(stage.data(app), [1]);
}

#[test]
fn a_provider_that_is_lost_ends_what_waits_for_it() {
    for lost in 0..3 {
        let mut stage = Stage::new(2);
        let app = stage.app(1);
        stage.ask_for(app);
        match lost {
            0 => stage.mesh.cut(0, 1),
            1 => stage.mesh.restart(0, 2),
            _ => {
                let session = SessionId(stage.provider.1);
                stage.mesh.input(0, Input::SessionClosed { session, heard: None });
                stage.mesh.settle();
            }
        }
        let ended: BTreeSet<&str> = stage
            .mesh
            .take(app, |event| match event {
                Event::CallEnded { outcome, .. } => Some(outcome.word()),
                _ => None,
            })
            .into_iter()
            .collect();
        assert_eq!(ended, ["unknown_outcome"].into(), "lost {lost}");
        stage.assert_nothing_left();
    }
}

#[test]
fn a_subscription_that_is_read_too_slowly_ends_on_both_sides() {
    for node in [0, 1] {
        let mut stage = Stage::new(2);
        let (app, subscription) = stage.subscriber(node);
        let (other, _) = stage.subscriber(node);
        stage.mesh.events_of(app);
        let session = SessionId(app.1);
        stage.mesh.input(node, Input::TooSlow { session, subscription });
        stage.mesh.settle();
        let cause = Cause::TooSlow;
        assert_eq!(stage.mesh.events_of(app), [Event::SubscriptionEnded { subscription, cause }]);
        let gone = stage.mesh.take(stage.provider, |event| match event {
            Event::SubscriberGone { cause, .. } => Some(cause.clone()),
            _ => None,
        });
        assert_eq!(gone, [Cause::TooSlow], "its provider is told why");
        stage.push();
        assert!(stage.data(app).is_empty());
        assert_eq!(stage.data(other), [1], "the other one goes on");
        // Said twice, it is nothing new.
        stage.mesh.input(node, Input::TooSlow { session, subscription });
        stage.mesh.settle();
        assert!(stage.mesh.events_of(app).is_empty());
    }
}

#[test]
fn a_request_whose_private_data_is_not_read_is_answered() {
    for node in [0, 1] {
        let mut stage = Stage::new(2);
        let app = stage.app(node);
        stage.mesh.events_of(app);
        let request = stage.ask_for(app);
        let own = &stage.mesh.nodes[node].sessions[&SessionId(app.1)];
        let subscription = *own.subscribed.first().unwrap();
        stage.mesh.input(node, Input::TooSlow { session: SessionId(app.1), subscription });
        stage.mesh.settle();
        let [Event::CallEnded { request: answered, .. }] = &stage.mesh.events_of(app)[..] else {
            panic!("it is answered, and once");
        };
        assert_eq!(*answered, request);
        stage.assert_nothing_left();
    }
}

#[test]
fn the_first_rule_for_a_streams_name_decides_at_the_subscribers_node() {
    let rule = |stream: &str, policy| SlowRule { stream: Pattern::parse(stream).unwrap(), policy };
    let mut stage = Stage::new(2);
    stage.mesh.nodes[1].settings.slow_rules = vec![
        rule("Other", SlowPolicy::DropOldest),
        rule("/^Pri/", SlowPolicy::Latest),
        rule("/./", SlowPolicy::End),
    ];
    let apps = [stage.subscriber(0).0, stage.subscriber(1).0];
    stage.push();
    let policies = apps.map(|app| {
        stage.mesh.take(app, |event| match event {
            Event::StreamData { policy, gap: 0, .. } => Some(policy.clone()),
            _ => None,
        })
    });
    assert_eq!(policies, [vec![SlowPolicy::AsPublications], vec![SlowPolicy::Latest]]);
}

/// Tells a node that a link has no room for a message.
pub(super) fn not_sent(stage: &mut Stage, node: usize, message: LinkMessage) {
    let link: LinkId = *stage.mesh.nodes[node].links.keys().next().unwrap();
    stage.mesh.input(node, Input::NotSent { link, message, limit: "session_queues_bytes_max".into() });
    stage.mesh.settle();
}

#[test]
fn private_data_that_a_link_has_no_room_for_ends_its_subscription_only() {
    let mut stage = Stage::new(2);
    let [(one, subscription), (other, _)] = [1, 1].map(|node| stage.subscriber(node));
    let id = mesh_model::CallId(subscription);
    let data = LinkMessage::PrivateData { id, data: json("0"), sequence: None, snapshot: None, after: 0 };
    not_sent(&mut stage, 0, data);
    stage.push();
    assert_eq!([one, other].map(|app| stage.data(app).len()), [0, 1]);
}

#[test]
fn calls_and_requests_that_a_link_has_no_room_for_are_overloaded() {
    let mut stage = Stage::new(2);
    let app = stage.app(1);
    stage.mesh.hold = Some(|message| matches!(message, LinkMessage::Call { .. }));
    stage.mesh.call(app, &stage.instance.clone(), "1");
    stage.ask_for(app);
    stage.mesh.events_of(app);
    let lost: Vec<_> = stage.mesh.held().filter(|m| matches!(m, LinkMessage::Call { .. })).cloned().collect();
    assert_eq!(lost.len(), 2);
    for message in lost {
        not_sent(&mut stage, 1, message);
    }
    let ended = stage.mesh.take(app, |event| match event {
        Event::CallEnded { outcome, .. } => Some(outcome.clone()),
        _ => None,
    });
    let limit = Text::from("session_queues_bytes_max");
    assert_eq!(ended, vec![Outcome::Failed(CallFailure::Overloaded { limit }); 2]);
    assert!(stage.mesh.nodes[1].calls.is_empty());
    stage.assert_nothing_left();
}

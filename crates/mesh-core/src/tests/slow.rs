//! Links that have no room for stream data: their subscriptions rest, and go on by themselves.

use mesh_model::{CallFailure, Cause, Command, Event, LinkMessage, Outcome, SlowPolicy};

use super::mesh::{App, json};
use super::streams::{Stage, not_sent};
use crate::visibility::Pattern;
use crate::{Input, Notice, SlowRule};

impl Stage {
    /// The link from the provider's node has no room for data of its branch.
    fn shed(&mut self) {
        let branch = self.mesh.nodes[0].branches.values().next().unwrap().number();
        let data = json("0");
        let data = LinkMessage::BranchData { branch, data, sequence: None, snapshot: None, after: 0 };
        not_sent(self, 0, data);
    }

    /// There is room again.
    fn ease(&mut self) {
        let links: Vec<_> = self.mesh.nodes[0].links.keys().copied().collect();
        for link in links {
            self.mesh.input(0, Input::LinkEased { link });
        }
        self.mesh.settle();
    }

    fn ends(&mut self, app: App) -> Vec<Cause> {
        self.mesh.take(app, |event| match event {
            Event::SubscriptionEnded { cause, .. } | Event::SubscriberGone { cause, .. } => {
                Some(cause.clone())
            }
            _ => None,
        })
    }

    fn slow_links(&self) -> usize {
        self.mesh.notices.iter().filter(|(_, notice)| matches!(notice, Notice::LinkSlow { .. })).count()
    }
}

#[test]
fn subscriptions_over_a_slow_link_go_on_when_it_has_room_again() {
    let mut stage = Stage::new(2);
    let [(local, _), (one, _), (other, last)] = [0, 1, 1].map(|node| stage.subscriber(node));
    stage.shed();
    assert_eq!(stage.ends(stage.provider), [Cause::TooSlow, Cause::TooSlow], "its provider is told");
    assert_eq!(stage.slow_links(), 1, "and the operator, once");
    stage.push();
    stage.mesh.wait_ms(1_000);
    assert_eq!([local, one, other].map(|app| stage.data(app).len()), [1, 0, 0]);
    assert_eq!(stage.accept(), 0, "nobody asks while there is no room");

    stage.ease();
    stage.mesh.wait_ms(300);
    assert_eq!(stage.accept(), 2, "the provider is asked again");
    stage.push();
    assert_eq!([local, one, other].map(|app| stage.data(app)), [vec![2], vec![2], vec![2]]);
    let ends = |stage: &mut Stage| [one, other].map(|app| stage.ends(app));
    assert_eq!(ends(&mut stage), [vec![], vec![]], "and the subscribers hear nothing of it");
    assert_eq!(stage.mesh.nodes[0].shed.len(), 0);
    stage.unsubscribe((other, last));
    stage.push();
    assert_eq!([one, other].map(|app| stage.data(app).len()), [1, 0]);
}

#[test]
fn a_link_that_is_slow_again_and_again_is_asked_less_often() {
    let mut stage = Stage::new(2);
    let (app, _) = stage.subscriber(1);
    let mut rests = Vec::new();
    for _ in 0..8 {
        stage.shed();
        stage.ease();
        let began = stage.mesh.tick();
        while stage.accept() == 0 {
            stage.mesh.wait_ms(100);
        }
        rests.push(stage.mesh.tick().since(began) / 1_000_000);
    }
    assert!(rests.is_sorted() && rests[0] == 0 && rests[7] == 8, "{rests:?}");
    stage.mesh.wait_ms(60_000);
    stage.shed();
    stage.ease();
    stage.mesh.wait_ms(300);
    assert_eq!(stage.accept(), 1, "what was long ago does not count");
    stage.push();
    assert_eq!(stage.data(app), [1]);
}

#[test]
fn a_stream_that_must_be_whole_ends_on_a_slow_link() {
    let mut stage = Stage::new(2);
    let stream = Pattern::parse("Prices").unwrap();
    stage.mesh.nodes[1].settings.slow_rules = vec![SlowRule { stream, policy: SlowPolicy::End }];
    let (app, _) = stage.subscriber(1);
    stage.shed();
    stage.ease();
    assert_eq!(stage.ends(app), [Cause::TooSlow]);
    stage.assert_nothing_left();
}

#[test]
fn what_ends_while_a_link_is_slow_ends_on_both_sides() {
    // Given up by the subscriber.
    let mut stage = Stage::new(2);
    let subscriber = stage.subscriber(1);
    stage.shed();
    stage.unsubscribe(subscriber);
    stage.ease();
    stage.mesh.wait_ms(500);
    assert_eq!(stage.accept(), 0);
    stage.assert_nothing_left();

    // Its provider leaves, before its node has told the other, or after.
    for told in [false, true] {
        let mut stage = Stage::new(2);
        let (app, _) = stage.subscriber(1);
        stage.shed();
        if told {
            stage.ease();
        }
        let session = mesh_model::SessionId(stage.provider.1);
        stage.mesh.input(0, Input::SessionClosed { session, heard: None });
        stage.mesh.settle();
        assert_eq!(stage.ends(app), [Cause::Disconnected]);
        stage.ease();
        stage.assert_nothing_left();
    }

    // The link breaks: what is held is asked for over the next one, once.
    for told in [false, true] {
        let mut stage = Stage::new(2);
        let (app, _) = stage.subscriber(1);
        stage.shed();
        if told {
            stage.ease();
        }
        stage.mesh.cut(0, 1);
        stage.mesh.wait_ms(500);
        stage.mesh.link(0, 1);
        stage.ease();
        assert_eq!(stage.accept(), 1);
        stage.mesh.wait_ms(500);
        assert_eq!(stage.accept(), 0);
        stage.push();
        assert_eq!(stage.data(app), [1]);
    }
}

#[test]
fn a_request_that_there_is_no_room_for_is_made_once_more_if_it_is_not_the_first() {
    let mut stage = Stage::new(2);
    let (app, _) = stage.subscriber(1);
    stage.shed();
    stage.ease();
    stage.mesh.wait_ms(300);
    // Its provider's outbox is full.
    let (session, id) = stage
        .mesh
        .take(stage.provider, |event| match event {
            Event::SubscriptionRequested { subscription, .. } => Some(*subscription),
            _ => None,
        })
        .first()
        .map(|id| (mesh_model::SessionId(stage.provider.1), *id))
        .unwrap();
    stage.mesh.input(0, Input::NotTaken { session, id, limit: "outbox_calls_bytes_max".into() });
    stage.mesh.settle();
    stage.mesh.wait_ms(600);
    assert_eq!(stage.accept(), 1);
    stage.push();
    assert_eq!(stage.data(app), [1]);
    // One that is refused is over.
    stage.shed();
    stage.ease();
    stage.mesh.wait_ms(1_100);
    let asked = stage.mesh.take(stage.provider, |event| match event {
        Event::SubscriptionRequested { subscription, .. } => Some(*subscription),
        _ => None,
    });
    let (request, words) = (stage.mesh.request(), mesh_model::Words::default());
    let refuse = Command::Fail { request, id: asked[0], words, context: None };
    stage.mesh.send(stage.provider, refuse);
    assert_eq!(stage.ends(app).len(), 1);
    stage.assert_nothing_left();
}

#[test]
fn a_request_that_is_not_accepted_yet_is_answered() {
    let mut stage = Stage::new(2);
    let app = stage.app(1);
    stage.ask_for(app);
    let id = *stage.mesh.nodes[1].subscriptions.keys().next().unwrap();
    stage.mesh.events_of(app);
    let data = LinkMessage::PrivateData { id, data: json("0"), sequence: None, snapshot: None, after: 0 };
    not_sent(&mut stage, 0, data);
    let ended = stage.mesh.take(app, |event| match event {
        Event::CallEnded { outcome, .. } => Some(outcome.clone()),
        _ => None,
    });
    assert_eq!(ended, [Outcome::Failed(CallFailure::CalleeGone)]);
    stage.assert_nothing_left();
}

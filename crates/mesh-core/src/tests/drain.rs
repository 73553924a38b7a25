//! Direct links that take the place of relayed ones while something is on its way there.

use mesh_model::link::{Carried, LinkMessage};
use mesh_model::{Command, Event, Json};

use super::mesh::json;
use super::relay::Triangle;

fn carried(message: &LinkMessage, wanted: impl Fn(&LinkMessage) -> bool) -> bool {
    matches!(message, LinkMessage::Relay { carried: Carried::Message(carried), .. } if wanted(carried))
}

fn a_call(message: &LinkMessage) -> bool {
    carried(message, |message| matches!(message, LinkMessage::Call { .. }))
}

fn an_end(message: &LinkMessage) -> bool {
    carried(message, |message| matches!(message, LinkMessage::CallEnd { .. }))
}

fn data(message: &LinkMessage) -> bool {
    carried(message, |message| {
        matches!(message, LinkMessage::BranchData { .. } | LinkMessage::Publish { .. })
    })
}

impl Triangle {
    fn relayed() -> Self {
        let mut triangle = Self::new();
        triangle.mesh.wait_ms(1_100);
        triangle.ends();
        triangle.runs();
        triangle
    }

    fn links(&self) -> [usize; 2] {
        [0, 1].map(|node| self.mesh.nodes[node].links.len())
    }
}

#[test]
fn a_call_that_is_on_its_way_by_way_of_the_third_is_answered() {
    let mut triangle = Triangle::relayed();
    triangle.mesh.hold = Some(a_call);
    triangle.call();
    triangle.mesh.link(0, 1);
    assert_eq!(triangle.by_way_of(), None);
    triangle.mesh.wait_ms(2_500);
    assert!(triangle.ends().is_empty());
    assert_eq!(triangle.links(), [3, 3], "the relayed one is still there");
    triangle.mesh.release();
    let [invocation] = triangle.runs()[..] else { panic!("it runs once") };
    triangle.mesh.wait_ms(1_000);
    assert_eq!(triangle.links(), [2, 2], "it has served its purpose");
    triangle.answer(invocation);
    assert_eq!(triangle.ends(), ["ok"]);
    triangle.mesh.assert_equal();
}

#[test]
fn an_end_that_is_on_its_way_by_way_of_the_third_counts() {
    let mut triangle = Triangle::relayed();
    triangle.call();
    let [invocation] = triangle.runs()[..] else { panic!("it runs once") };
    triangle.mesh.hold = Some(an_end);
    triangle.answer(invocation);
    triangle.mesh.link(0, 1);
    triangle.mesh.wait_ms(200);
    triangle.mesh.release();
    triangle.mesh.wait_ms(1_000);
    assert_eq!(triangle.ends(), ["ok"], "once");
    assert_eq!(triangle.links(), [2, 2]);
    assert!(triangle.runs().is_empty());
}

#[test]
fn what_is_lost_on_its_way_is_given_up_and_will_not_run() {
    let mut triangle = Triangle::relayed();
    triangle.mesh.hold = Some(a_call);
    triangle.call();
    triangle.mesh.link(0, 1);
    triangle.mesh.wait_ms(31_000);
    assert_eq!(triangle.ends(), ["not_delivered"]);
    triangle.mesh.release();
    triangle.mesh.wait_ms(1_000);
    assert!(triangle.runs().is_empty() && triangle.ends().is_empty());
    assert_eq!(triangle.links(), [2, 2]);

    // The way there breaks.
    let mut triangle = Triangle::relayed();
    triangle.mesh.hold = Some(a_call);
    triangle.call();
    triangle.mesh.link(0, 1);
    triangle.mesh.cut(0, 2);
    assert_eq!(triangle.ends(), ["not_delivered"], "at once");
}

/// The direct link is gone before the relayed one has drained: the next relayed one knows of the call.
#[test]
fn a_direct_link_that_breaks_again_loses_no_call_that_runs() {
    let mut triangle = Triangle::relayed();
    triangle.call();
    let [invocation] = triangle.runs()[..] else { panic!("it runs once") };
    triangle.mesh.link(0, 1);
    triangle.mesh.cut(0, 1);
    triangle.mesh.wait_ms(100);
    assert_eq!(triangle.by_way_of(), Some("node2".into()));
    triangle.answer(invocation);
    assert_eq!(triangle.ends(), ["ok"]);
}

#[test]
fn a_request_for_a_subscription_is_made_again_over_the_direct_link() {
    let mut triangle = Triangle::relayed();
    let (near, far, server) = (triangle.near, triangle.far, triangle.far_instance.clone());
    triangle.mesh.hold = Some(a_call);
    triangle.mesh.subscribe(near, &server, "1");
    triangle.mesh.link(0, 1);
    triangle.mesh.release();
    let asked = triangle.mesh.take(far, |event| match event {
        Event::SubscriptionRequested { subscription, .. } => Some(*subscription),
        _ => None,
    });
    let branch = Json::string("b");
    assert_eq!(asked.len(), 1, "once: what comes late is not taken");
    triangle.mesh.send(far, Command::Accept { subscription: asked[0], branch: branch.clone() });
    let push = |number: u8| {
        let (branch, data) = (branch.clone(), json(&number.to_string()));
        Command::Push { branch, data, sequence: None, snapshot: None }
    };
    triangle.mesh.send(far, push(1));
    let got = triangle.mesh.take(near, |event| match event {
        Event::Subscribed { .. } => Some("subscribed".to_owned()),
        Event::StreamData { data, .. } => Some(data.to_string()),
        Event::CallEnded { .. } => Some("ended".to_owned()),
        _ => None,
    });
    assert_eq!(got, ["subscribed", "1"]);
}

/// The answer to the first request is late, and must not end the second.
#[test]
fn a_late_refusal_of_a_request_that_was_made_again_does_not_count() {
    let mut triangle = Triangle::relayed();
    let (near, far, server) = (triangle.near, triangle.far, triangle.far_instance.clone());
    triangle.mesh.subscribe(near, &server, "1");
    let asked = |triangle: &mut Triangle| {
        triangle.mesh.take(far, |event| match event {
            Event::SubscriptionRequested { subscription, .. } => Some(*subscription),
            _ => None,
        })
    };
    let first = asked(&mut triangle)[0];
    triangle.mesh.hold = Some(an_end);
    let (session, limit) = (mesh_model::SessionId(far.1), "outbox_calls_bytes_max".into());
    triangle.mesh.input(1, crate::Input::NotTaken { session, id: first, limit });
    triangle.mesh.link(0, 1);
    triangle.mesh.release();
    let second = asked(&mut triangle)[0];
    triangle.mesh.send(far, Command::Accept { subscription: second, branch: Json::string("b") });
    let answers = triangle.mesh.take(near, |event| match event {
        Event::Subscribed { .. } => Some("subscribed"),
        Event::CallEnded { outcome, .. } => Some(outcome.word()),
        _ => None,
    });
    assert_eq!(answers, ["subscribed"]);
}

/// Data that comes late by way of the third would be out of its order.
#[test]
fn stream_data_and_publications_do_not_mix() {
    let mut triangle = Triangle::relayed();
    let (near, far, server) = (triangle.near, triangle.far, triangle.far_instance.clone());
    let request = triangle.mesh.request();
    let pattern = "t".into();
    triangle.mesh.send(near, Command::BusSubscribe { request, pattern, routing_key: None });
    triangle.mesh.subscribe(near, &server, "1");
    let branch = Json::string("b");
    let accept = |triangle: &mut Triangle| {
        let asked = triangle.mesh.take(far, |event| match event {
            Event::SubscriptionRequested { subscription, .. } => Some(*subscription),
            _ => None,
        });
        triangle.mesh.send(far, Command::Accept { subscription: asked[0], branch: branch.clone() });
    };
    accept(&mut triangle);
    let push = |triangle: &mut Triangle, number: u8| {
        let (branch, data) = (branch.clone(), json(&number.to_string()));
        triangle.mesh.send(far, Command::Push { branch, data: data.clone(), sequence: None, snapshot: None });
        let topic = "t".into();
        triangle.mesh.send(far, Command::BusPublish { topic, routing_key: None, target: None, data });
    };
    triangle.mesh.hold = Some(data);
    push(&mut triangle, 1);
    triangle.mesh.link(0, 1);
    accept(&mut triangle);
    push(&mut triangle, 2);
    triangle.mesh.release();
    push(&mut triangle, 3);
    let got = triangle.mesh.take(near, |event| match event {
        Event::StreamData { data, .. } | Event::BusEvent { data, .. } => Some(data.to_string()),
        _ => None,
    });
    assert_eq!(got, ["2", "2", "3", "3"]);
}

use mesh_model::{Answer, Arguments, CallFailure, Json, Request};

use super::*;

const ONE: SessionId = SessionId(1);

fn limits() -> LimitsConfig {
    LimitsConfig {
        session_outbox_bytes_max: 100_000,
        outbox_control_bytes_max: 1_000,
        outbox_calls_bytes_max: 2_000,
        outbox_context_conflate_bytes: 3_000,
        outbox_context_bytes_max: 6_000,
        outbox_stream_bytes_max: 4_000,
        ..LimitsConfig::default()
    }
}

fn request(face: Domain) -> Request {
    Request { id: Json::from_static("1"), face: face as u8 }
}

fn text(len: usize) -> Json {
    Json::string(&"x".repeat(len))
}

fn done(session: SessionId) -> Item {
    Item::Event(session, Event::Done { request: request(Domain::Global) })
}

fn changed(session: SessionId, context: &str, updater: &str, len: usize) -> Item {
    let (context, updater) = (context.into(), updater.into());
    Item::Event(session, Event::ContextUpdated { context, updater, delta: text(len) })
}

fn published(number: u64) -> Item {
    let data = Json::string(&number.to_string());
    Item::Event(ONE, Event::BusEvent { subscription: number, publisher: text(250), data })
}

fn invoke(invocation: u64, len: usize) -> Item {
    let arguments = Arguments { positional: Some(text(len)), named: None, flags: None, context: None };
    let (method, caller) = (Json::from_static("1"), Text::from("p-1"));
    Item::Event(ONE, Event::Invoke { invocation, method, caller, arguments })
}

fn result(len: usize) -> Item {
    let outcome = Outcome::Answered(Answer::Result(Some(text(len))));
    Item::Event(ONE, Event::CallEnded { request: request(Domain::Agm), outcome })
}

/// Says in short what waits, in order.
fn drained(outbox: &Outbox) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        match outbox.take() {
            Taken::Items(items) => found.extend(items.iter().map(|item| match item {
                Item::Event(session, Event::Done { .. }) => format!("done {}", session.0),
                Item::Event(_, Event::ContextUpdated { context, .. }) => format!("change {context}"),
                Item::Event(_, Event::ContextSnapshot { context, .. }) => format!("snapshot {context}"),
                Item::Event(_, Event::BusEvent { subscription, .. }) => format!("event {subscription}"),
                Item::Event(_, Event::Invoke { invocation, .. }) => format!("invoke {invocation}"),
                Item::Event(_, Event::CallEnded { .. }) => "ended".to_owned(),
                other => format!("{other:?}"),
            })),
            Taken::Mark => {
                let (session, context, updater) = outbox.take_mark().unwrap();
                found.push(format!("value {context} for {} by {updater}", session.0));
            }
            Taken::End(_) => return found,
        }
    }
}

fn check_closed(outbox: &Outbox, limit: &str) {
    let with = outbox.closed().expect("the connection is to be closed");
    assert_eq!(with.code, 1013);
    assert!(with.reason.contains(limit), "{}", with.reason);
    assert!(with.reason.len() <= 123, "a close frame has no room for: {}", with.reason);
    assert!(matches!(outbox.take(), Taken::End(Some(_))), "nothing waits any more");
}

#[test]
fn answers_have_room_of_their_own_and_close_at_their_bound() {
    let outbox = Outbox::new(&limits());
    for number in 0..7 {
        outbox.push(published(number));
    }
    for _ in 0..3 {
        outbox.push(done(ONE));
    }
    assert!(outbox.closed().is_none(), "streams do not use up what is kept for answers");
    outbox.push(done(ONE));
    check_closed(&outbox, "outbox_control_bytes_max");
}

#[test]
fn one_item_may_be_larger_than_its_bound() {
    let outbox = Outbox::new(&limits());
    outbox.push(invoke(1, 10_000));
    outbox.push(published(1));
    outbox.push(changed(ONE, "c", "p", 1));
    assert_eq!(drained(&outbox), ["invoke 1", "event 1", "change c"]);
}

#[test]
fn a_large_call_does_not_keep_small_ones_out() {
    let outbox = Outbox::new(&limits());
    for item in [invoke(1, 50_000), invoke(2, 10), result(10)] {
        assert_eq!(outbox.push(item), Pushed::default());
    }
    assert_eq!(outbox.push(invoke(3, 5_000)).not_taken.map(|(number, _)| number), Some(3));
    assert_eq!(drained(&outbox), ["invoke 1", "invoke 2", "ended"]);
    assert_eq!(outbox.push(invoke(4, 5_000)), Pushed::default(), "nothing of the first still counts");
}

#[test]
fn a_call_that_is_not_taken_is_told_and_a_result_closes() {
    let outbox = Outbox::new(&limits());
    assert_eq!(outbox.push(invoke(0, 1_500)), Pushed::default());
    assert_eq!(outbox.push(invoke(1, 300)), Pushed::default());
    let limit = Text::from("outbox_calls_bytes_max (2000)");
    assert_eq!(outbox.push(invoke(2, 500)).not_taken, Some((2, limit)));
    let failed = Outcome::Failed(CallFailure::CalleeGone);
    outbox.push(Item::Event(ONE, Event::CallEnded { request: request(Domain::Agm), outcome: failed }));
    assert_eq!(drained(&outbox), ["invoke 0", "invoke 1", "ended"]);
    assert_eq!(outbox.push(invoke(3, 1_500)), Pushed::default());
    outbox.push(result(1_500));
    outbox.push(result(10));
    check_closed(&outbox, "outbox_calls_bytes_max");
}

#[test]
fn streams_close_or_lose_the_oldest() {
    let outbox = Outbox::new(&limits());
    let crowded: Vec<bool> = (0..7).map(|number| outbox.push(published(number)).crowded).collect();
    assert_eq!(crowded, [false, false, false, true, true, true, true]);
    outbox.push(published(7));
    check_closed(&outbox, "outbox_stream_bytes_max");

    let slow_stream_consumer = SlowStreamConsumer::DropOldest;
    let outbox = Outbox::new(&LimitsConfig { slow_stream_consumer, ..limits() });
    outbox.push(invoke(1, 1));
    let dropped: u64 = (0..20).map(|number| outbox.push(published(number)).dropped).sum();
    assert_eq!(dropped, 13);
    let kept: Vec<String> = (13..20).map(|number| format!("event {number}")).collect();
    assert_eq!(drained(&outbox), [vec!["invoke 1".to_owned()], kept].concat());
}

#[test]
fn changes_of_a_context_become_one_in_the_place_of_the_first() {
    let outbox = Outbox::new(&limits());
    outbox.push(changed(ONE, "other", "p-1", 1));
    outbox.push(changed(ONE, "c", "p-1", 1_000));
    outbox.push(invoke(1, 1));
    // Another session of the connection has its own.
    outbox.push(changed(SessionId(2), "c", "p-2", 1));
    outbox.push(changed(ONE, "c", "p-2", 1_000));
    for _ in 0..1_000 {
        outbox.push(changed(ONE, "c", "p-3", 1_000));
    }
    outbox.push(invoke(2, 1));
    assert_eq!(
        drained(&outbox),
        ["change other", "value c for 1 by p-3", "invoke 1", "change c", "invoke 2"]
    );
    // Once written, it begins anew.
    outbox.push(changed(ONE, "c", "p-1", 1));
    assert_eq!(drained(&outbox), ["change c"]);
}

#[test]
fn a_present_value_comes_behind_the_clients_own_changes() {
    // Before the mark is made.
    let outbox = Outbox::new(&limits());
    outbox.push(changed(ONE, "c", "p-1", 1_500));
    outbox.push(done(ONE));
    outbox.push(done(SessionId(2)));
    outbox.push(changed(ONE, "c", "p-1", 1_500));
    assert_eq!(drained(&outbox), ["done 1", "value c for 1 by p-1", "done 2"]);

    // And after it.
    outbox.push(changed(ONE, "c", "p-1", 1_500));
    outbox.push(changed(ONE, "c", "p-1", 1_500));
    outbox.push(invoke(1, 1));
    outbox.push(done(ONE));
    assert_eq!(drained(&outbox), ["invoke 1", "done 1", "value c for 1 by p-1"]);

    // A value that the client has asked for is older than one that is looked up later.
    outbox.push(changed(ONE, "c", "p-1", 1_500));
    outbox.push(changed(ONE, "c", "p-1", 1_500));
    let (context, name, data) = (Text::from("c"), Text::from("n"), text(1));
    let request = request(Domain::Global);
    outbox.push(Item::Event(ONE, Event::ContextSnapshot { request, context, name, data }));
    outbox.push(changed(ONE, "c", "p-2", 1));
    assert_eq!(drained(&outbox), ["snapshot c", "value c for 1 by p-2"]);
}

#[tokio::test(start_paused = true)]
async fn too_many_contexts_close_after_the_write_deadline() {
    let outbox = Outbox::new(&limits());
    let push = |range: std::ops::Range<u64>| {
        for number in range {
            outbox.push(changed(ONE, &format!("c-{number}"), "p-1", 1_000));
        }
    };
    push(0..100);
    assert!(outbox.closed().is_none(), "the client may still catch up");
    assert!(outbox.too_slow().reason.contains("outbox_context_bytes_max"));
    tokio::time::advance(Duration::from_secs(11)).await;
    push(100..101);
    check_closed(&outbox, "outbox_context_bytes_max");

    let outbox = Outbox::new(&limits());
    assert!(outbox.too_slow().reason.contains("write_deadline_ms"));
}

#[test]
fn all_together_has_a_bound() {
    let outbox = Outbox::new(&limits());
    let added = |number: u64| {
        let (instance, identity) = (number.to_string().into(), text(1_000));
        Item::Event(ONE, Event::InstanceAdded { instance, identity, local: true })
    };
    for number in 0..75 {
        outbox.push(added(number));
        assert!(outbox.closed().is_none());
    }
    for number in 0..10 {
        outbox.push(added(number));
    }
    check_closed(&outbox, "session_outbox_bytes_max");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_room_does_not_wait_for_ever() {
    let outbox = std::sync::Arc::new(Outbox::new(&limits()));
    for number in 0..7 {
        outbox.push(published(number));
    }
    let waiting = {
        let outbox = outbox.clone();
        let until = Instant::now() + Duration::from_secs(1);
        tokio::spawn(async move { outbox.relieved(until).await })
    };
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drained(&outbox);
    waiting.await.unwrap();

    // One who does not read at all is waited for once.
    for number in 0..6 {
        outbox.push(published(number));
    }
    let start = Instant::now();
    outbox.relieved(start + Duration::from_secs(1)).await;
    assert_eq!(start.elapsed(), PROGRESS, "others must not wait for what does not happen");
    assert!(!outbox.push(published(6)).crowded);
    outbox.relieved(start + Duration::from_secs(5)).await;
    assert_eq!(start.elapsed(), PROGRESS);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_one_that_has_stopped_reading() {
    let outbox = Outbox::new(&limits());
    outbox.push(published(0));
    drained(&outbox);
    tokio::time::sleep(PROGRESS).await;
    // It may have had nothing to read.
    let pushed: Vec<bool> = (0..7).map(|number| outbox.push(published(number)).crowded).collect();
    assert!(pushed.contains(&true));
    tokio::time::sleep(PROGRESS).await;
    assert!(!outbox.push(published(7)).crowded, "it had its time");
}

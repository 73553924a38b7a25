use mesh_model::{Answer, Arguments, CallFailure, Json, Request, SlowPolicy};

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
        outbox_subscription_bytes_max: 2_000,
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
    Item::Event(session, Event::Done { request: request(Domain::Global), changed: None })
}

fn changed(session: SessionId, context: &str, updater: &str, len: usize) -> Item {
    let (context, updater) = (context.into(), updater.into());
    Item::Event(session, Event::ContextUpdated { context, updater, delta: text(len) })
}

fn published(number: u64) -> Item {
    let data = Json::string(&number.to_string());
    Item::Event(ONE, Event::BusEvent { subscription: number, publisher: text(250), data })
}

/// About 500 bytes of a stream.
fn streamed(subscription: u64, data: &str, policy: SlowPolicy) -> Item {
    let text = format!("{{\"d\":\"{data}\",\"filler\":\"{}\"}}", "x".repeat(220));
    let data = Json::parse(text.into_bytes().into()).unwrap();
    let (private, sequence, snapshot, gap) = (false, None, None, 0);
    Item::Event(ONE, Event::StreamData { subscription, private, data, sequence, snapshot, policy, gap })
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
                Item::Event(_, Event::StreamData { subscription, data, gap, .. }) => {
                    let value = data.member("d").and_then(|value| value.as_text()).unwrap();
                    let gap = if *gap > 0 { format!(" after {gap}") } else { String::new() };
                    format!("data {value} for {subscription}{gap}")
                }
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

#[tokio::test(start_paused = true)]
async fn less_waits_for_a_client_that_does_not_read() {
    let outbox = Outbox::new(&limits());
    for number in 0..3 {
        outbox.push(published(number));
    }
    tokio::time::advance(PROGRESS).await;
    assert_eq!(outbox.push(published(3)), Pushed::default());
    let CloseWith { code, reason } = outbox.closed().unwrap();
    assert_eq!(code, 1013);
    assert!(reason.contains("1500") && reason.contains("outbox_stream_bytes_max, 4000"), "{reason}");

    let slow_stream_consumer = SlowStreamConsumer::DropOldest;
    let outbox = Outbox::new(&LimitsConfig { slow_stream_consumer, ..limits() });
    for number in 0..6 {
        outbox.push(published(number));
    }
    tokio::time::advance(PROGRESS).await;
    assert_eq!(outbox.push(published(6)).dropped, 5, "down to the lower bound");
    // It reads again.
    assert_eq!(drained(&outbox), ["event 5", "event 6"]);
    let all: u64 = (0..6).map(|number| outbox.push(published(number)).dropped).sum();
    assert_eq!(all, 0);
}

#[test]
fn the_longest_reason_fits_into_a_close_frame() {
    let limits = LimitsConfig { outbox_stream_bytes_max: 1 << 40, ..limits() };
    let CloseWith { reason, .. } = Outbox::new(&limits).bounds.over_streams(false);
    assert!(reason.len() <= 123, "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_policy_counts_with_publications() {
    // Whatever waits of it alone, and for however long.
    let outbox = Outbox::new(&limits());
    for number in 0..2 {
        tokio::time::advance(PROGRESS).await;
        let item = if number % 2 == 0 { streamed(1, "a", SlowPolicy::AsPublications) } else { published(9) };
        assert_eq!(outbox.push(item), Pushed::default(), "there is room, and it does not read");
        assert!(outbox.closed().is_none());
    }
    outbox.push(streamed(1, "b", SlowPolicy::AsPublications));
    outbox.push(streamed(1, "c", SlowPolicy::AsPublications));
    assert!(outbox.closed().unwrap().reason.contains("outbox_stream_bytes_max"));

    let slow_stream_consumer = SlowStreamConsumer::DropOldest;
    let outbox = Outbox::new(&LimitsConfig { slow_stream_consumer, ..limits() });
    let push = |number: u64| {
        outbox.push(published(9));
        outbox.push(streamed(1, &number.to_string(), SlowPolicy::AsPublications));
    };
    (0..20).for_each(push);
    assert!(outbox.closed().is_none());
    let kept = drained(&outbox);
    assert_eq!(kept.iter().filter(|item| *item == "event 9").count(), 3, "the oldest of both go: {kept:?}");
    let data: Vec<&String> = kept.iter().filter(|item| item.starts_with("data")).collect();
    assert_eq!(data, ["data 16 for 1 after 16", "data 17 for 1", "data 18 for 1", "data 19 for 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_not_read_ends_and_no_other_one_does() {
    let outbox = Outbox::new(&limits());
    outbox.push(done(ONE));
    outbox.push(streamed(2, "other", SlowPolicy::End));
    for _ in 0..5 {
        assert_eq!(outbox.push(streamed(1, "a", SlowPolicy::End)).too_slow, []);
    }
    // It is behind, and may catch up.
    tokio::time::advance(PROGRESS - Duration::from_millis(1)).await;
    assert_eq!(outbox.push(streamed(1, "a", SlowPolicy::End)).too_slow, []);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(outbox.push(streamed(1, "a", SlowPolicy::End)).too_slow, [(ONE, 1)]);
    assert_eq!(drained(&outbox), ["done 1", "data other for 2"], "nothing of it waits any more");

    // One that reads is behind only since it has last caught up.
    for _ in 0..3 {
        for _ in 0..5 {
            assert_eq!(outbox.push(streamed(1, "a", SlowPolicy::End)).too_slow, []);
        }
        tokio::time::advance(PROGRESS * 2).await;
        assert_eq!(drained(&outbox).len(), 5);
    }
}

#[test]
fn the_oldest_of_a_subscription_is_left_out_and_the_gap_is_told() {
    let outbox = Outbox::new(&limits());
    outbox.push(done(ONE));
    outbox.push(streamed(2, "other", SlowPolicy::End));
    let push = |number: u64| outbox.push(streamed(1, &number.to_string(), SlowPolicy::DropOldest)).dropped;
    assert_eq!((0..10).map(push).sum::<u64>(), 6);
    assert_eq!(
        drained(&outbox),
        [
            "done 1",
            "data other for 2",
            "data 6 for 1 after 6",
            "data 7 for 1",
            "data 8 for 1",
            "data 9 for 1"
        ]
    );
    push(10);
    assert_eq!(drained(&outbox), ["data 10 for 1"], "a gap is told once");
}

#[test]
fn of_the_latest_only_the_newest_waits_by_key_or_without() {
    let outbox = Outbox::new(&limits());
    for number in 0..1_000 {
        outbox.push(streamed(1, &number.to_string(), SlowPolicy::Latest));
        outbox.push(streamed(2, &(number % 2).to_string(), SlowPolicy::LatestByKey("d".into())));
        outbox.push(streamed(3, "no key", SlowPolicy::LatestByKey("other".into())));
    }
    assert_eq!(
        drained(&outbox),
        ["data 999 for 1 after 999", "data 0 for 2 after 998", "data no key for 3 after 999", "data 1 for 2"]
    );
    // What was read is not replaced any more.
    outbox.push(streamed(1, "next", SlowPolicy::Latest));
    assert_eq!(drained(&outbox), ["data next for 1"]);
    // More keys than there is room for.
    for number in 0..10 {
        outbox.push(streamed(2, &number.to_string(), SlowPolicy::LatestByKey("d".into())));
    }
    assert_eq!(drained(&outbox), ["data 6 for 2 after 6", "data 7 for 2", "data 8 for 2", "data 9 for 2"]);
}

#[test]
fn only_who_would_end_is_waited_for() {
    for (policy, waits) in [(SlowPolicy::End, true), (SlowPolicy::DropOldest, false)] {
        let outbox = Outbox::new(&limits());
        let crowded: Vec<bool> =
            (0..4).map(|_| outbox.push(streamed(1, "a", policy.clone())).crowded).collect();
        assert_eq!(crowded, [false, false, waits, waits], "{policy:?}");
    }
}

#[test]
fn private_data_is_not_replaced_by_newer() {
    let outbox = Outbox::new(&limits());
    for number in 0..3 {
        let Item::Event(session, Event::StreamData { subscription, data, policy, .. }) =
            streamed(1, &number.to_string(), SlowPolicy::Latest)
        else {
            unreachable!("it is stream data");
        };
        let (private, sequence, snapshot, gap) = (true, None, None, 0);
        let event = Event::StreamData { subscription, private, data, sequence, snapshot, policy, gap };
        outbox.push(Item::Event(session, event));
    }
    assert_eq!(drained(&outbox), ["data 0 for 1", "data 1 for 1", "data 2 for 1"]);
}

#[test]
fn streams_and_publications_are_shed_in_the_stated_order() {
    let outbox = Outbox::new(&LimitsConfig {
        slow_stream_consumer: SlowStreamConsumer::DropOldest,
        outbox_stream_bytes_max: 3_500,
        ..limits()
    });
    let publish = || published(9);
    let oldest = || streamed(2, "old", SlowPolicy::DropOldest);
    // About 500 bytes each, but for those of the bus.
    for item in [streamed(1, "new", SlowPolicy::Latest), oldest(), publish(), oldest(), publish()] {
        assert_eq!(outbox.push(item).dropped, 0, "there is room");
    }
    let mut left = Vec::new();
    let mut ended = Vec::new();
    for number in 3..12 {
        // Each is a subscription of its own, so that none is over its own bound.
        let pushed = outbox.push(streamed(number, "whole", SlowPolicy::End));
        ended.extend(pushed.too_slow.iter().map(|(_, subscription)| *subscription));
        let queue = outbox.lock();
        let waits = |class: Class| queue.bytes[class as usize] > 0;
        left.push(STREAMS.map(waits));
        assert!(queue.stream_bytes() <= 3_500);
    }
    // First publications go, then what keeps the latest, then the oldest, and then subscriptions end.
    let gone: Vec<usize> =
        STREAMS.iter().enumerate().map(|(at, _)| left.iter().filter(|left| left[at]).count()).collect();
    assert!(gone[0] < gone[1] && gone[1] < gone[2] && gone[2] < gone[3], "{left:?}");
    assert!(!ended.is_empty() && outbox.closed().is_none());
    assert_eq!(left.last(), Some(&[false, false, false, true]));
}

#[test]
fn what_a_client_does_not_read_of_any_policy_stays_within_the_bound() {
    let policies =
        [SlowPolicy::End, SlowPolicy::DropOldest, SlowPolicy::Latest, SlowPolicy::LatestByKey("d".into())];
    let outbox = Outbox::new(&limits());
    for number in 0..2_000usize {
        let policy = policies[number * 7 % 4].clone();
        outbox.push(streamed(
            (number * 7 % 4) as u64 + 10 * (number % 3) as u64,
            &number.to_string(),
            policy,
        ));
        let queue = outbox.lock();
        assert!(queue.stream_bytes() <= 4_000, "outbox_stream_bytes_max");
        let of_subscriptions: usize = queue.subscriptions.values().map(|waiting| waiting.bytes).sum();
        assert_eq!(of_subscriptions, queue.stream_bytes(), "what is counted twice agrees");
        let slots = queue.items.iter().filter(|item| matches!(item, Item::Slot(_))).count();
        assert_eq!(slots, queue.slots.len());
    }
    assert!(outbox.closed().is_none());
    drained(&outbox);
    let queue = outbox.lock();
    assert_eq!((queue.stream_bytes(), queue.slots.len()), (0, 0));
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

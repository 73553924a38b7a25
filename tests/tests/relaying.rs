//! Two nodes that lose every datagram to and from each other, and a third that reaches both.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_client::{Client, Credentials, Identity, MethodDefinition, Target};
use mesh_tests::{Linked, Node, PATIENCE, until};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Returns what a node says of another: its state, and by way of whom it is reached.
fn peer(node: &Node, name: &str) -> (String, Option<String>) {
    let peers = node.ask_json("peers");
    let row = peers.as_array().unwrap().iter().find(|peer| peer["name"] == name).unwrap();
    (row["state"].as_str().unwrap().to_owned(), row["by_way_of"].as_str().map(ToOwned::to_owned))
}

#[track_caller]
fn assert_reached(nodes: &Linked, by_way_of: Option<&str>) {
    let expected = ("up".to_owned(), by_way_of.map(ToOwned::to_owned));
    for (node, other) in [("a", "desk-b"), ("b", "desk-a")] {
        let node = nodes.node(node);
        assert!(until(PATIENCE, || peer(node, other) == expected), "{other} is {:?}", peer(node, other));
    }
}

async fn login(url: &str, application: &str) -> Client {
    let credentials = Credentials { user: "ann".into(), secret: "x".into() };
    Client::connect(url, credentials, Identity::new(application)).await.unwrap()
}

/// Calls, a stream, publications and a context go through the third node, none lost and none twice; then
/// the direct way is back and takes over.
#[test]
fn what_is_sent_through_a_third_node_arrives_once() {
    const CALLS: u64 = 200;
    let mut nodes = Linked::start(3);
    assert_reached(&nodes, None);
    assert!(nodes.obey(&["cut", "a", "b"]));
    assert_reached(&nodes, Some("desk-c"));
    let urls = nodes.urls();
    let runtime = Runtime::new().unwrap();
    let ran = Arc::new(AtomicU64::new(0));
    let (client, server) =
        runtime.block_on(async { (login(&urls[0], "near").await, login(&urls[1], "far").await) });
    runtime.block_on(async {
        let counted = ran.clone();
        let echo = move |call: mesh_client::Call| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move { Ok(call.args) }
        };
        server.register(MethodDefinition::new("Far.Echo"), echo).await.unwrap();
        client.wait_for_method("Far.Echo", PATIENCE).await.unwrap();
        for number in 0..CALLS {
            // Every tenth is too large for the lanes of calls.
            let weight = if number % 10 == 0 { "w".repeat(100_000) } else { String::new() };
            let arguments = json!({"n": number, "w": weight});
            let answer = client.invoke("Far.Echo", arguments.clone(), Target::Best).await.unwrap();
            assert_eq!(answer.into_value(), arguments);
        }
        assert_eq!(ran.load(Ordering::Relaxed), CALLS);

        let (stream, mut requests) = server.stream(MethodDefinition::new("Far.Stream")).await.unwrap();
        let accepts = tokio::spawn(async move { requests.next().await.unwrap().accept().await.unwrap() });
        let mut feed = client.subscribe("Far.Stream", json!({}), Target::Best).await.unwrap();
        accepts.await.unwrap();
        let mut messages = client.bus().subscribe("far").await.unwrap();
        // The interest has to get there before the publication.
        let first = timeout(PATIENCE, async {
            loop {
                server.bus().publish("far", json!("first")).await.unwrap();
                if let Ok(Some(message)) = timeout(Duration::from_millis(100), messages.next()).await {
                    break message.data.value().unwrap();
                }
            }
        });
        assert_eq!(first.await.unwrap(), json!("first"));
        for number in 0..CALLS {
            stream.push(json!(number)).await.unwrap();
            server.bus().publish("far", json!(number)).await.unwrap();
        }
        for number in 0..CALLS {
            let event = timeout(PATIENCE, feed.next()).await.unwrap().unwrap();
            assert_eq!(event.data.value().unwrap(), json!(number));
        }
        let mut published = Vec::new();
        while published.len() < CALLS as usize {
            let data = timeout(PATIENCE, messages.next()).await.unwrap().unwrap().data.value().unwrap();
            published.extend(data.as_u64());
        }
        assert_eq!(published, (0..CALLS).collect::<Vec<_>>());

        client.contexts().set("both", json!({"near": 1})).await.unwrap();
        let seen = timeout(PATIENCE, async {
            while server.contexts().get("both").await.unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        seen.await.unwrap();
    });

    // The way back, while calls go on: each is answered, and none ran twice.
    assert!(nodes.obey(&["heal", "a", "b"]));
    let before = ran.load(Ordering::Relaxed);
    let caller = runtime.spawn(async move {
        let (mut done, mut made) = (0, 0);
        loop {
            made += 1;
            let answer = client.invoke("Far.Echo", json!({"n": made}), Target::Best).await;
            done += u64::from(answer.is_ok());
            if made >= CALLS {
                return (client, done, made);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_reached(&nodes, None);
    let (client, done, made) = runtime.block_on(caller).unwrap();
    let after = ran.load(Ordering::Relaxed) - before;
    assert_eq!((done, after), (made, made), "done, and run");
    runtime.block_on(async {
        client.close().await;
        server.close().await;
    });
}

/// The node between is told not to relay.
#[test]
fn relaying_can_be_turned_off() {
    let mut nodes = Linked::start_with(3, |_| "relay = false\n".to_owned());
    assert!(nodes.obey(&["cut", "a", "b"]));
    let a = nodes.node("a");
    assert!(until(PATIENCE, || peer(a, "desk-b").0 == "unreachable"));
    // State goes round by way of the third all the same.
    let runtime = Runtime::new().unwrap();
    let urls = nodes.urls();
    runtime.block_on(async {
        let (near, far) = (login(&urls[0], "near").await, login(&urls[1], "far").await);
        near.contexts().set("both", json!({"near": 1})).await.unwrap();
        let seen = timeout(PATIENCE, async {
            while far.contexts().get("both").await.unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        seen.await.unwrap();
        near.close().await;
        far.close().await;
    });
    assert_eq!(peer(a, "desk-b").0, "unreachable");
}

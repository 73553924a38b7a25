//! The visibility lists of a running node, changed while apps use it, and the command that explains them.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::fs;
use std::time::Duration;

use mesh_client::{Client, Credentials, Identity, MethodDefinition};
use mesh_tests::{Finished, Mesh, Node, until};
use serde_json::json;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(10);

async fn login(node: &Node, application: &str) -> Client {
    let credentials = Credentials { user: "ann".into(), secret: "x".into() };
    Client::connect(&node.url(), credentials, Identity::new(application)).await.unwrap()
}

/// Returns whether a node knows a context or a method of this name.
fn knows(node: &Node, question: &str, name: &str) -> bool {
    node.ask_json(question).as_array().unwrap().iter().any(|row| row["name"] == name)
}

fn say(node: &Node, arguments: &[&str]) -> String {
    let Finished { code, stdout, stderr } = node.ask(arguments);
    assert_eq!(code, Some(0), "{stderr}");
    stdout
}

#[test]
fn lists_hide_take_back_and_give_while_the_node_runs() {
    let mesh = Mesh::two_with(
        "[visibility]\ncontexts = [{ context = \"/^desk-notes/\", restrictions = \"local\" }]\n",
    );
    let (a, b) = (&mesh.a, &mesh.b);
    let runtime = Runtime::new().unwrap();
    let (app, far) = runtime.block_on(async {
        let app = login(a, "blotter").await;
        let far = login(b, "chart").await;
        for method in ["T42.Wnd.Create", "Orders.Place"] {
            app.register(MethodDefinition::new(method), |_| async { Ok(json!({})) }).await.unwrap();
        }
        for name in ["desk-notes.1", "___workspace___1", "___channel___Red", "prices"] {
            app.contexts().set(name, json!({"from": "a"})).await.unwrap();
        }
        (app, far)
    });
    assert!(until(PATIENCE, || knows(b, "contexts", "prices") && knows(b, "methods", "Orders.Place")));
    assert!(knows(b, "contexts", "___channel___Red"));
    for name in ["desk-notes.1", "___workspace___1"] {
        assert!(knows(a, "contexts", name) && !knows(b, "contexts", name), "{name}");
    }
    assert!(!knows(b, "methods", "T42.Wnd.Create"));
    assert!(far.methods().iter().all(|method| method.name != "T42.Wnd.Create"));

    // Who sees what, and why.
    let said = say(a, &["who-sees", "context", "desk-notes.1", "--explain"]);
    assert!(said.contains("local, by visibility.contexts, 1"), "{said}");
    assert!(said.contains("seen by      blotter"), "{said}");
    assert!(
        said.contains("hidden from  chart") && said.contains("on desk-b: the visibility lists"),
        "{said}"
    );
    assert!(said.contains("anything else → cluster"), "{said}");
    let said = say(a, &["who-sees", "method", "T42.Wnd.Create"]);
    assert!(said.contains("by built in") && said.contains("hidden from  chart"), "{said}");
    let said = say(a, &["who-sees", "context", "never.was"]);
    assert!(said.contains("There is no never.was") && said.contains("It would be cluster"), "{said}");
    let said = say(a, &["who-sees", "app", "blotter"]);
    assert!(said.contains("in interop: cluster") && said.contains("in bus: cluster"), "{said}");

    // Other lists, read while everybody is there. What is local to b by its own lists stays unknown to it.
    fs::write(b.home().join("config.toml"), "").unwrap();
    let said = say(b, &["reload"]);
    assert!(said.contains("In force now: visibility.contexts."), "{said}");
    let file = a.home().join("config.toml");
    fs::write(
        &file,
        "[visibility]\ncontexts = [{ context = \"prices\", restrictions = \"local\" }]\n\
         methods = [{ identity = { application = \"blotter\" }, restrictions = \"local\" }]\n",
    )
    .unwrap();
    let said = say(a, &["reload"]);
    assert!(said.contains("In force now: visibility.contexts, visibility.methods."), "{said}");
    assert!(until(PATIENCE, || {
        knows(b, "contexts", "desk-notes.1")
            && !knows(b, "contexts", "prices")
            && !knows(b, "methods", "Orders.Place")
    }));
    assert!(knows(a, "contexts", "prices"), "what is taken back lives on where it is");
    assert!(until(PATIENCE, || far.methods().iter().all(|method| method.name != "Orders.Place")));
    let value = runtime.block_on(far.contexts().get("desk-notes.1")).unwrap().unwrap();
    assert_eq!(*value, json!({"from": "a"}));

    // A mistake changes nothing.
    fs::write(&file, "[visibility]\ncontexts = [{ context = \"/(/\", restrictions = \"local\" }]\n").unwrap();
    let Finished { code, stderr, .. } = a.ask(&["reload"]);
    assert_ne!(code, Some(0));
    assert!(stderr.contains("rule 1") && stderr.contains("regular expression"), "{stderr}");
    assert!(!knows(b, "contexts", "prices"));
    // What needs a restart is named.
    fs::write(&file, "[limits]\ncalls_per_session_max = 7\n").unwrap();
    let said = say(a, &["reload"]);
    assert!(said.contains("only after a restart: limits.calls_per_session_max"), "{said}");
    assert!(until(PATIENCE, || knows(b, "contexts", "prices") && knows(b, "methods", "Orders.Place")));

    // B-PS-7: the bus is local as soon as the lists say so, and crosses again without a restart.
    let mut feed = runtime.block_on(far.bus().subscribe("t")).unwrap();
    // A publication is not answered; what is asked behind it is.
    let publish = |n: u64| {
        runtime.block_on(async {
            app.bus().publish("t", json!(n)).await.unwrap();
            app.contexts().set("after", json!({"n": n})).await.unwrap();
        });
    };
    assert!(until(PATIENCE, || {
        publish(1);
        feed.try_next().is_some()
    }));
    fs::write(&file, "[visibility]\npeers = [{ domain = \"bus\", restrictions = \"local\" }]\n").unwrap();
    say(a, &["reload"]);
    publish(2);
    fs::write(&file, "").unwrap();
    say(a, &["reload"]);
    publish(3);
    loop {
        let next = runtime.block_on(async { tokio::time::timeout(PATIENCE, feed.next()).await });
        let got: u64 =
            next.expect("what is published when the lists allow it again").unwrap().data.parse().unwrap();
        assert_ne!(got, 2);
        if got == 3 {
            break;
        }
    }
    runtime.block_on(async {
        app.close().await;
        far.close().await;
    });
}

//! The program as an operator meets it: what it says when something is wrong, and how it ends.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::fs;

use mesh_tests::{Finished, Mesh, Node, NodeOptions, PATIENCE, run, until};

/// Asserts that a command failed with this code, a problem and a hint.
fn check_refused(finished: &Finished, code: i32, problem: &str) {
    let Finished { code: ended, stdout, stderr } = finished;
    assert_eq!(*ended, Some(code), "{stderr}");
    assert!(stdout.is_empty(), "nothing is answered: {stdout}");
    let error = stderr.lines().find(|line| line.starts_with("Error: ")).unwrap_or_default();
    assert!(error.contains(problem), "`{problem}` is not in: {stderr}");
    assert!(stderr.lines().any(|line| line.starts_with("Hint: ") && line.len() > 12), "no hint: {stderr}");
}

/// Runs a node that must not come up, to its end.
fn refused_up(node: &Node) -> Finished {
    let mut child = node
        .command()
        .stdout(fs::File::create(node.home().join("stdout")).unwrap())
        .stderr(fs::File::create(node.home().join("stderr")).unwrap())
        .spawn()
        .unwrap();
    let mut status = None;
    until(PATIENCE, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    let _ = child.kill();
    let _ = child.wait();
    let said = |name| fs::read_to_string(node.home().join(name)).unwrap();
    // The log stands on standard output or error, too; only what must be there is looked for.
    Finished { code: status.expect("it ends").code(), stdout: String::new(), stderr: said("stderr") }
}

fn named(name: &str) -> NodeOptions {
    NodeOptions { name: name.into(), ..NodeOptions::default() }
}

#[test]
fn a_data_directory_has_one_node() {
    let node = Node::start(named("first"));
    let again = refused_up(&node);
    check_refused(&again, 1, "data");
    assert!(node.is_ready(), "the first goes on");
    assert_eq!(node.ask_json("status")["name"], "first");
}

#[test]
fn a_port_that_is_taken() {
    let node = Node::start(named("first"));
    let second = Node::prepared(named("second"));
    let taken = format!("127.0.0.1:{}", node.http_port());
    let dir = second.data_dir();
    let dir = dir.to_str().unwrap();
    let mesh = format!("127.0.0.1:{}", second.mesh_port());
    let finished = run(["up", "--data-dir", dir, "--listen", &taken, "--mesh-listen", &mesh]);
    check_refused(&finished, 1, &taken);

    let (listen, taken) =
        (format!("127.0.0.1:{}", second.http_port()), format!("127.0.0.1:{}", node.mesh_port()));
    let finished = run(["up", "--data-dir", dir, "--listen", &listen, "--mesh-listen", &taken]);
    check_refused(&finished, 1, &taken);
    assert!(!second.data_dir().join("node.json").exists(), "a node that is not up leaves no address behind");
}

#[test]
fn a_command_line_that_makes_no_sense() {
    check_refused(&run(["up", "--lisen", "127.0.0.1:1"]), 2, "'--lisen'");
    check_refused(&run(["statu"]), 2, "'statu'");
    check_refused(&run(["up", "--listen", "here"]), 2, "'here'");
    check_refused(&run(["token", "create", "--ttl", "15"]), 2, "'15'");
}

#[test]
fn a_configuration_that_cannot_be_used() {
    for (config, problem) in [
        ("nmae = \"desk\"\n", "nmae"),
        ("[limits]\nmessage_bytes_max = \"many\"\n", "message_bytes_max"),
        ("listen = [\"0.0.0.0:8385\"]\n", "listen"),
        ("name = \n", "line 1"),
    ] {
        let node = Node::prepared(NodeOptions { config: config.into(), ..named("desk") });
        check_refused(&refused_up(&node), 78, problem);
        let file = node.home().join("config.toml");
        check_refused(&run(["config", "check", "--config", file.to_str().unwrap()]), 78, problem);
        assert!(!node.data_dir().exists(), "nothing was made");
    }
    check_refused(&run(["config", "check", "--config", "/nowhere/config.toml"]), 78, "/nowhere/config.toml");
}

#[test]
fn a_token_that_is_none() {
    for token in ["x", "dm1.AAAA", ""] {
        let node = Node::prepared(NodeOptions { join: Some(token.into()), ..named("desk") });
        let finished = refused_up(&node);
        assert!(matches!(finished.code, Some(1 | 78)), "`{token}`: {finished:?}");
        check_refused(&finished, finished.code.unwrap(), "");
        assert!(!node.data_dir().join("node.json").exists());
    }
}

#[test]
fn a_token_works_once_and_comes_from_the_authority() {
    let mut a = Node::start(named("desk-a"));
    let token = a.token();
    let join = |name, token: &str| NodeOptions { join: Some(token.into()), ..named(name) };
    let b = Node::start(join("desk-b", &token));
    let late = Node::prepared(join("desk-c", &token));
    check_refused(&refused_up(&late), 1, "cannot join");

    let finished = b.ask(&["token", "create"]);
    assert_ne!(finished.code, Some(0));
    check_refused(&finished, finished.code.unwrap(), "authority");

    // Its maker forgets no token that was used.
    a.kill();
    a.up();
    let late = Node::prepared(join("desk-d", &token));
    check_refused(&refused_up(&late), 1, "cannot join");
    let fresh = Node::start(join("desk-e", &a.token()));
    assert!(until(PATIENCE, || fresh.ask_json("peers").as_array().is_some_and(|peers| !peers.is_empty())));
}

#[test]
fn answers_are_json_for_programs() {
    let Mesh { a, b } = Mesh::two();
    let status = a.ask_json("status");
    assert_eq!((&status["name"], &status["user"]), (&"desk-a".into(), &"ann".into()));
    assert_eq!(status["listen"][0], a.url());
    assert_eq!(status["peers"], 1);
    let peers = b.ask_json("peers");
    assert_eq!(peers[0]["name"], "desk-a");
    assert_eq!(peers[0]["node"], status["node"]);
    for question in ["apps", "methods", "contexts"] {
        assert_eq!(a.ask_json(question), serde_json::json!([]), "{question}");
    }
    for question in ["status", "peers", "apps", "methods", "contexts"] {
        let Finished { code, stdout, .. } = a.ask(&[question]);
        assert_eq!(code, Some(0), "{question}");
        assert!(!stdout.trim().is_empty() && !stdout.contains('{'), "a table: {stdout}");
    }
}

#[test]
fn a_signal_ends_it_in_good_order() {
    let mut node = Node::start(named("desk"));
    let file = node.data_dir().join("node.json");
    assert!(file.exists());
    let status = node.terminate();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(!file.exists(), "the address and the secret are gone");
    node.up();
    assert!(file.exists());
    // After a crash the file stays, and commands say what that means.
    node.kill();
    assert!(file.exists());
    check_refused(&node.ask(&["status"]), 3, "");
    node.up();
    assert_eq!(node.ask_json("status")["name"], "desk");
}

#[test]
fn nobody_is_there_to_answer() {
    let node = Node::prepared(named("desk"));
    for question in
        [&["status"][..], &["peers", "--json"], &["apps"], &["methods"], &["contexts"], &["token", "create"]]
    {
        check_refused(&node.ask(question), 3, "");
    }
}

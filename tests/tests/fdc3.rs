//! The published FDC3 libraries, in Node.js and in a browser, against the built program.

use std::path::Path;
use std::sync::{Arc, Mutex};

use mesh_tests::Linked;
use mesh_tests::clients::{control, lock, run_fdc3};

/// One at a time: they measure how long things take, and each keeps the machine busy.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn libraries_on_one_node() {
    let _turn = lock(&TURN);
    let folder = tempfile::tempdir().unwrap();
    let apps = folder.path().join("apps.json");
    run_fdc3(&["headless.mjs", "--write-directory", path(&apps)]);
    let node = Linked::start_with(1, |_| directories(&apps));
    run_fdc3(&["headless.mjs", "--a", &endpoint(&node, 0)]);
}

#[test]
fn libraries_on_two_nodes() {
    let _turn = lock(&TURN);
    let folder = tempfile::tempdir().unwrap();
    let nodes = two_nodes(folder.path());
    run_fdc3(&["headless.mjs", "--a", &endpoint(&nodes, 0), "--b", &endpoint(&nodes, 1)]);
}

#[test]
fn handlers_that_fail() {
    let _turn = lock(&TURN);
    let folder = tempfile::tempdir().unwrap();
    let apps = folder.path().join("apps.json");
    run_fdc3(&["headless.mjs", "--write-directory", path(&apps)]);
    let settings = |_| format!("{}intent_result_timeout_s = 2\n", directories(&apps));
    let (one, two) = (Linked::start_with(1, settings), Linked::start_with(2, settings));
    run_fdc3(&["headless.mjs", "--suite", "failing", "--a", &endpoint(&one, 0)]);
    run_fdc3(&["headless.mjs", "--suite", "failing", "--a", &endpoint(&two, 0), "--b", &endpoint(&two, 1)]);
}

#[test]
fn libraries_when_links_are_cut() {
    let _turn = lock(&TURN);
    let folder = tempfile::tempdir().unwrap();
    let nodes = two_nodes(folder.path());
    let [a, b] = [0, 1].map(|at| endpoint(&nodes, at));
    let nodes = Arc::new(Mutex::new(nodes));
    let program = format!("'{}' {}", env!("CARGO_BIN_EXE_node-control"), control(&nodes));
    let cut = ["headless.mjs", "--suite", "links", "--lib", "old", "--control", &program];
    run_fdc3(&[&cut[..], &["--a", &a, "--b", &b]].concat());
}

#[test]
fn apps_that_a_full_node_does_not_take() {
    let _turn = lock(&TURN);
    check_browser();
    let folder = tempfile::tempdir().unwrap();
    let config = |apps: &Path| format!("{}[limits]\nsessions_per_user_max = 3\n", directories(apps));
    let apps = folder.path().join("apps.json");
    run_fdc3(&["headless.mjs", "--write-directory", path(&apps)]);
    let node = Linked::start_with(1, |_| config(&apps));
    run_fdc3(&["headless.mjs", "--a", &endpoint(&node, 0), "--full", "--only", "full"]);
    let pages = folder.path().join("pages.json");
    let port = free_port();
    run_fdc3(&["browser.mjs", "--write-directory", path(&pages), "--app-port", &port]);
    let node = Linked::start_with(1, |_| config(&pages));
    let url = node.urls()[0].replace("ws://", "http://");
    run_fdc3(&["browser.mjs", "--node", &url, "--app-port", &port, "--full"]);
}

fn check_browser() {
    let browser = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
    assert!(
        Path::new(&browser).exists(),
        "the browser tests are not skipped: install Chromium, or name it in the variable CHROMIUM"
    );
}

#[test]
fn apps_in_a_browser() {
    let _turn = lock(&TURN);
    check_browser();
    let folder = tempfile::tempdir().unwrap();
    let apps = folder.path().join("apps.json");
    let port = free_port();
    run_fdc3(&["browser.mjs", "--write-directory", path(&apps), "--app-port", &port]);
    let node = Linked::start_with(1, |_| directories(&apps));
    let url = node.urls()[0].replace("ws://", "http://");
    let nodes = Arc::new(Mutex::new(node));
    let program = format!("'{}' {}", env!("CARGO_BIN_EXE_node-control"), control(&nodes));
    let restart = format!("{program} kill a && {program} start a");
    run_fdc3(&["browser.mjs", "--node", &url, "--app-port", &port, "--restart", &restart]);
}

/// Two nodes, each with its part of the test apps.
fn two_nodes(folder: &Path) -> Linked {
    let apps = |place: char| folder.join(format!("{place}.json"));
    for place in ['a', 'b'] {
        run_fdc3(&["headless.mjs", "--write-directory", path(&apps(place)), "--place", &place.to_string()]);
    }
    Linked::start_with(2, |place| directories(&apps(place)))
}

fn directories(file: &Path) -> String {
    format!("[fdc3]\ndirectories = ['{}']\n", file.display())
}

fn endpoint(nodes: &Linked, at: usize) -> String {
    format!("{}/fdc3", nodes.urls()[at])
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn free_port() -> String {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound socket").port().to_string()
}

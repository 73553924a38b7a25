//! What is not sent, since the other end gets it from somebody else.

use mesh_model::{Lifetime, LinkMessage};

use super::mesh::Mesh;
use crate::link::Link;

/// Nodes that tell each other their neighbours, and have no links yet.
fn mesh(count: usize) -> Mesh {
    let mut mesh = Mesh::unlinked(count);
    for node in &mut mesh.nodes {
        node.settings.relay = true;
    }
    mesh
}

fn entries(mesh: &Mesh, from: usize, to: usize) -> usize {
    mesh.entries.get(&(from, to)).copied().unwrap_or(0)
}

#[test]
fn news_comes_from_its_writer_alone() {
    let mut mesh = mesh(3);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        mesh.link(a, b);
    }
    let (app, _) = mesh.app(0, "ann");
    mesh.entries.clear();
    mesh.create(app, "c", "{\"k\":1}", Lifetime::Retained);
    mesh.assert_equal();
    mesh.wait_ms(5_000);
    assert!(entries(&mesh, 0, 1) > 0 && entries(&mesh, 0, 2) == entries(&mesh, 0, 1));
    assert_eq!((entries(&mesh, 1, 2), entries(&mesh, 2, 1)), (0, 0));
}

#[test]
fn what_the_other_does_not_say_it_has_is_sent_after_all() {
    let mut mesh = mesh(3);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        mesh.link(a, b);
    }
    let (app, _) = mesh.app(0, "ann");
    mesh.wait_ms(3_000);
    mesh.hold = Some(|message| matches!(message, LinkMessage::Have { .. }));
    mesh.entries.clear();
    mesh.create(app, "c", "{\"k\":1}", Lifetime::Retained);
    assert_eq!(entries(&mesh, 1, 2), 0);
    mesh.wait_ms(1_100);
    assert_eq!(entries(&mesh, 1, 2), entries(&mesh, 0, 2));
}

#[test]
fn news_is_passed_on_at_once_to_whom_its_writer_does_not_reach() {
    let mut mesh = mesh(3);
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        mesh.link(a, b);
    }
    let (app, _) = mesh.app(0, "ann");
    mesh.wait_ms(3_000);
    mesh.cut(0, 2);
    mesh.entries.clear();
    mesh.create(app, "c", "{\"k\":1}", Lifetime::Retained);
    assert!(entries(&mesh, 1, 2) > 0);
    mesh.assert_equal();
}

/// The third node meets the two others, and what the first brings is on its way.
fn meeting() -> Mesh {
    let mut mesh = mesh(3);
    mesh.link(0, 1);
    let (app, _) = mesh.app(0, "ann");
    mesh.create(app, "c", "{\"k\":1}", Lifetime::Retained);
    mesh.wait_ms(3_000);
    mesh.entries.clear();
    mesh.hold = Some(|message| matches!(message, LinkMessage::Batch { .. }));
    mesh.link(2, 0);
    mesh.link(2, 1);
    assert!(entries(&mesh, 0, 2) > 0);
    assert_eq!(entries(&mesh, 1, 2), 0);
    mesh
}

#[test]
fn of_several_links_that_open_one_brings_what_is_missing() {
    let mut mesh = meeting();
    mesh.release();
    mesh.assert_equal();
    assert_eq!(entries(&mesh, 1, 2), 0);
    assert!(mesh.nodes[2].peers().iter().all(|peer| peer.state == "up"));
}

#[test]
fn another_brings_it_at_once_if_that_one_breaks() {
    let mut mesh = meeting();
    mesh.cut(2, 0);
    assert!(entries(&mesh, 1, 2) > 0);
    mesh.release();
    mesh.assert_equal();
}

#[test]
fn another_brings_it_if_that_one_takes_long() {
    let mut mesh = meeting();
    mesh.wait_ms(900);
    assert_eq!(entries(&mesh, 1, 2), 0);
    mesh.wait_ms(200);
    assert!(entries(&mesh, 1, 2) > 0);
    mesh.release();
    mesh.assert_equal();
}

#[test]
fn a_batch_says_only_what_has_changed_of_its_senders_vector() {
    let mut mesh = Mesh::new(4);
    let app = mesh.app(0, "joe").0;
    mesh.create(app, "c", "{}", Lifetime::Retained);
    mesh.wait_ms(5_000);
    assert!(mesh.nodes[0].replica.vector().whole().len() >= 4);
    mesh.hold = Some(|message| matches!(message, LinkMessage::Batch { .. }));
    let context = mesh.context(0, "c").unwrap();
    mesh.update(app, &context, r#"{"added":{"n":1}}"#);
    let news: Vec<usize> = mesh
        .held()
        .filter_map(|message| match message {
            LinkMessage::Batch { end: Some(end), .. } => Some(end.vector.len() + end.floor.len()),
            _ => None,
        })
        .collect();
    assert_eq!(news, [1; 3]);
    mesh.release();
    mesh.wait_ms(5_000);
    mesh.assert_equal();
}

#[test]
fn a_batch_that_overtakes_what_it_goes_on_from_waits_for_it() {
    let mut mesh = Mesh::unlinked(2);
    let app = mesh.app(0, "joe").0;
    mesh.create(app, "c", r#"{"n":1}"#, Lifetime::Retained);
    mesh.hold = Some(|message| matches!(message, LinkMessage::DomainOpen { .. }));
    mesh.link(0, 1);
    mesh.release_to(0);
    assert!(mesh.nodes[1].links.values().all(Link::has_early));
    assert_eq!(mesh.value(1, "c"), None);
    mesh.release();
    assert_eq!(mesh.value(1, "c").as_deref(), Some(r#"{"n":1}"#));
    assert!(!mesh.nodes[1].links.values().any(Link::has_early));
    mesh.assert_equal();
}

#[test]
fn batch_bytes_max_bounds_what_comes_before_the_domain_is_opened() {
    let mut mesh = Mesh::unlinked(2);
    let app = mesh.app(0, "joe").0;
    let value = format!(r#"{{"n":"{}"}}"#, "x".repeat(5_000));
    mesh.create(app, "c", &value, Lifetime::Retained);
    mesh.nodes[1].settings.limits.batch_bytes_max = 4_000;
    mesh.hold = Some(|message| matches!(message, LinkMessage::DomainOpen { .. }));
    mesh.link(0, 1);
    mesh.release_to(0);
    assert!(mesh.nodes[1].links.is_empty());
}

#[test]
fn the_digests_of_an_idle_domain_have_no_vectors() {
    let mut mesh = mesh(4);
    for (a, b) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
        mesh.link(a, b);
    }
    let app = mesh.app(0, "joe").0;
    mesh.create(app, "c", "{}", Lifetime::Retained);
    // Each has heard from each what it has covered.
    mesh.wait_ms(100_000);
    mesh.hold = Some(|message| matches!(message, LinkMessage::Digest { .. }));
    mesh.wait_ms(31_000);
    let said: Vec<_> = mesh
        .held()
        .filter_map(|message| match message {
            LinkMessage::Digest { vector, heard, .. } => {
                Some((vector.len(), heard.len(), heard.iter().map(|heard| heard.vector.len()).sum::<usize>()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(said, [(0, 2, 0); 12]);
    mesh.release();
    mesh.assert_equal();
}

//! Removals that some nodes have forgotten and others have not, when somebody returns who missed them.

use mesh_model::Lifetime;

use super::mesh::{App, Mesh};

fn command(mesh: &mut Mesh, app: App, command: &str) {
    let context = mesh.context(app.0, "c").unwrap();
    mesh.update(app, &context, &format!("{{\"commands\":[{command}]}}"));
}

/// A removal below a whole value hides a part of it. Nobody may drop it while that value stands; but a node
/// that has no such value may, and then be sent one that was written before the removal.
#[test]
fn a_whole_value_from_afar_comes_with_what_was_removed_from_it() {
    let mut mesh = Mesh::unlinked(3);
    for number in 0..3 {
        let timing = &mut mesh.nodes[number].settings.timing;
        timing.tombstone_ms = 5_000;
        // Only the first looks often for what it may forget.
        timing.digest_ms = if number == 0 { 1_000 } else { 3_600_000 };
        mesh.nodes[number].next_digest =
            mesh.tick().plus_millis(mesh.nodes[number].settings.timing.digest_ms);
    }
    mesh.link(0, 1);
    mesh.link(1, 2);
    let [app, away] = [1, 2].map(|node| mesh.app(node, "joe").0);
    mesh.create(app, "c", "{}", Lifetime::Retained);
    command(&mut mesh, app, r#"{"type":"set","path":"a.b","value":1},{"type":"set","path":"z","value":1}"#);
    mesh.cut(1, 2);
    command(&mut mesh, away, r#"{"type":"set","path":"a","value":{"b":2,"d":2}}"#);
    mesh.wait_ms(100);
    command(&mut mesh, app, r#"{"type":"remove","path":"a.b"}"#);
    command(&mut mesh, app, r#"{"type":"remove","path":"z"}"#);
    let kept = mesh.nodes[0].replica.len();
    mesh.wait_ms(20_000);
    assert_eq!(mesh.nodes[0].replica.len(), kept - 1, "the first node has forgotten one of the removals");
    mesh.link(1, 2);
    mesh.wait_ms(2_000);
    let values = [0, 1, 2].map(|node| mesh.value(node, "c").unwrap());
    assert_eq!(values, [r#"{"a":{"d":2}}"#; 3]);
    mesh.assert_equal();
    for node in &mesh.nodes {
        node.replica.check();
    }
    // As long as the value stands, it is not forgotten again.
    mesh.wait_ms(20_000);
    assert_eq!(mesh.value(0, "c").unwrap(), r#"{"a":{"d":2}}"#);
}

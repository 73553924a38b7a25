//! Entries that nobody understands: they are kept and passed on as they are, and harm nothing.

use bytes::Bytes;
use mesh_model::{Event, Text};

use super::mesh::{Mesh, json};
use crate::content::Write;
use crate::key::{self, ContextKey, UserKey};

#[test]
fn what_cannot_be_understood_is_passed_on_raw_and_ends_nothing() {
    let mut mesh = Mesh::unlinked(3);
    mesh.link(0, 1);
    mesh.link(1, 2);
    let (near, _) = mesh.app(0, "joe");
    let (far, instance) = mesh.app(1, "joe");
    mesh.register(far, "1", "Add");
    let owner = mesh.nodes[0].settings.node;
    let user = UserKey::new(Some(&Text::from("joe")));
    let context = ContextKey { user: user.clone(), name: "c".into() };
    let known = mesh.identities[&near].clone();
    let of_known = mesh.nodes[0].sessions.values().find(|s| s.identity == known).unwrap().instance.clone();
    let poison: Vec<(Bytes, &[u8])> = vec![
        (key::instance(owner, &"p-x".into()), b"\x00\xffnothing"),
        (key::instance(owner, &"p-y".into()), b""),
        (key::method(owner, &of_known, b"\"7\""), b"{\"id\":\"7\",\"name\":"),
        (key::method(owner, &of_known, b"\"8\""), b"{\"id\":\"another\",\"name\":\"Wrong\"}"),
        (key::node(owner), b"\xc3\x28"),
        (key::retired(mesh.nodes[2].settings.node), b"soon"),
        (context.header(), b"?"),
        (key::below(&context.root(), b"k"), b"{\"a\":"),
        (Bytes::from_static(b"Zof a later version"), b"\x01\x02"),
    ];
    for (key, value) in &poison {
        mesh.nodes[0].write(vec![Write { key: key.clone(), value: Some(Bytes::copy_from_slice(value)) }]);
    }
    mesh.wait_ms(1_000);
    for node in &mesh.nodes {
        for (key, value) in &poison {
            let kept = node.replica.get(key).and_then(|entry| entry.value.as_deref());
            assert_eq!(kept, Some(*value), "{key:?}");
        }
    }
    // Nobody is shown any of it, and all goes on.
    assert_eq!(mesh.nodes[2].remote.len(), 2);
    assert!(mesh.nodes[2].remote[&of_known].methods.is_empty());
    assert!(mesh.context(2, "c").is_none());
    mesh.assert_equal();
    mesh.call(near, &instance, "1");
    let runs = mesh.take(far, |event| matches!(event, Event::Invoke { .. }).then_some(()));
    assert_eq!(runs.len(), 1);
    let (other, _) = mesh.app(2, "joe");
    mesh.create(other, "c", "{\"k\":1}", mesh_model::Lifetime::Retained);
    assert_eq!(mesh.nodes[0].context_value(&context), json("{\"k\":1}"));
}

//! What happens at the bounds that no test elsewhere reaches, by their names.

use mesh_model::limits::NAME_BYTES_MAX;
use mesh_model::{Command, Event, Lifetime, LinkMessage, Permissions, Request};

use super::mesh::{App, Mesh, json};
use crate::Notice;

#[test]
fn batch_bytes_max_closes_the_link_and_says_so() {
    let mut mesh = Mesh::new(2);
    let (app, _) = mesh.app(0, "joe");
    mesh.nodes[1].settings.limits.batch_bytes_max = 4_000;
    mesh.create(app, "fits", &format!("{{\"a\":\"{}\"}}", "x".repeat(2_000)), Lifetime::Retained);
    assert!(mesh.value(1, "fits").is_some());
    mesh.create(app, "does not", &format!("{{\"a\":\"{}\"}}", "x".repeat(5_000)), Lifetime::Retained);
    assert!(mesh.nodes[1].links.is_empty(), "a batch that is not taken whole is not taken");
    assert!(mesh.value(1, "does not").is_none());
    let named = |notice: &(usize, Notice)| matches!(notice, (1, Notice::NodeDown { reason, .. }) if reason.contains("batch_bytes_max"));
    assert!(mesh.notices.iter().any(named), "{:?}", mesh.notices);
}

#[test]
fn held_messages_max_lets_all_through_that_wait_for_a_write() {
    let mut mesh = Mesh::new(2);
    mesh.nodes[1].settings.limits.held_messages_max = 3;
    let (caller, _) = mesh.app(0, "joe");
    let (callee, instance) = mesh.app(1, "joe");
    mesh.register(callee, "1", "Add");
    mesh.events_of(callee);
    let runs = |mesh: &mut Mesh| {
        mesh.take(callee, |event| matches!(event, Event::Invoke { .. }).then_some(())).len()
    };
    // The write that all of them come after does not arrive.
    mesh.hold = Some(|message| matches!(message, LinkMessage::Batch { .. }));
    mesh.create(caller, "written before", "{}", Lifetime::Retained);
    for _ in 0..3 {
        mesh.call(caller, &instance, "1");
    }
    assert_eq!(runs(&mut mesh), 0);
    mesh.call(caller, &instance, "1");
    assert_eq!(runs(&mut mesh), 4);
    // It waits again for what comes now, but not for ever.
    mesh.call(caller, &instance, "1");
    assert_eq!(runs(&mut mesh), 0);
    mesh.wait_ms(600);
    assert_eq!(runs(&mut mesh), 1);
}

/// Returns whether a command made from a request was refused.
fn is_refused(mesh: &mut Mesh, app: App, command: impl FnOnce(Request) -> Command) -> bool {
    mesh.events_of(app);
    let asked = mesh.ask(app, command);
    let refused = mesh.take(app, |event| match event {
        Event::Refused { request, reason } if *request == asked => Some(reason.clone()),
        _ => None,
    });
    for reason in &refused {
        assert!(reason.to_string().contains("name_bytes_max"), "{reason}");
    }
    !refused.is_empty()
}

#[test]
fn name_bytes_max_of_methods_contexts_and_topics() {
    let mut mesh = Mesh::new(1);
    let (app, _) = mesh.app(0, "joe");
    for (length, refused) in [(NAME_BYTES_MAX, false), (NAME_BYTES_MAX + 1, true)] {
        let name = "n".repeat(length);
        let methods = vec![json(&format!("{{\"id\":\"{length}\",\"name\":\"{name}\"}}"))];
        assert_eq!(is_refused(&mut mesh, app, |request| Command::Register { request, methods }), refused);
        let create = |request| Command::CreateContext {
            request,
            name: name.as_str().into(),
            data: None,
            lifetime: Lifetime::Retained,
            permissions: Permissions::default(),
        };
        assert_eq!(is_refused(&mut mesh, app, create), refused);
        let pattern = name.as_str().into();
        let subscribe = |request| Command::BusSubscribe { request, pattern, routing_key: None };
        assert_eq!(is_refused(&mut mesh, app, subscribe), refused);
    }
}

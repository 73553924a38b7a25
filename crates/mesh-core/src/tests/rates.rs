//! How often an application may do what others have to follow.

use mesh_model::{Command, Event, Lifetime, Reason};

use super::mesh::{App, Mesh, json};

const RATE: u64 = 10;
const AT_ONCE: usize = 50;

/// Changes a context this often, and returns how many changes were refused.
fn changes(mesh: &mut Mesh, app: App, count: usize) -> usize {
    let context = mesh.context(0, "c").unwrap();
    mesh.events_of(app);
    for number in 0..count {
        let (context, delta) = (context.clone(), json(&format!("{{\"updated\":{{\"n\":{number}}}}}")));
        mesh.ask(app, |request| Command::UpdateContext { request, context, delta });
    }
    let refusals = mesh.take(app, |event| match event {
        Event::Refused { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    let expected = Reason::Limit { limit: "context_updates_per_second_max", max: RATE };
    assert!(refusals.iter().all(|reason| *reason == expected), "{refusals:?}");
    refusals.len()
}

#[test]
fn context_updates_per_second_max_is_for_each_application_and_allows_bursts() {
    let mut mesh = Mesh::new(1);
    mesh.nodes[0].settings.limits.context_updates_per_second_max = RATE;
    let [one, other] = ["joe"; 2].map(|user| mesh.app(0, user).0);
    mesh.create(one, "c", "{}", Lifetime::Retained);
    assert_eq!(changes(&mut mesh, one, AT_ONCE), 1, "one of them was the creation");
    assert_eq!(changes(&mut mesh, other, AT_ONCE + 3), 3);
    assert_eq!(mesh.value(0, "c").unwrap(), "{\"n\":49}");
    mesh.wait_ms(1_000);
    assert_eq!(changes(&mut mesh, one, 13), 3);
    mesh.wait_ms(60_000);
    assert_eq!(changes(&mut mesh, one, AT_ONCE + 5), 5, "what was not used is not saved up for ever");
}

#[test]
fn there_is_no_rate_unless_it_is_set() {
    let mut mesh = Mesh::new(1);
    let (app, _) = mesh.app(0, "joe");
    mesh.create(app, "c", "{}", Lifetime::Retained);
    assert_eq!(changes(&mut mesh, app, 2_000), 0);
}

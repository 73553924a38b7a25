//! A message is not seen before what its sender had seen; who knows nothing of a write does not wait for it.

use mesh_model::{Area, Command, Event, Lifetime, LinkMessage, SessionId, Text};

use super::mesh::{App, Mesh, json};
use crate::Input;

/// An app that writes, two on its node that call, and one to be called on each of two other nodes.
struct Stage {
    mesh: Mesh,
    writer: App,
    callers: [(App, Text); 2],
    callees: [(App, Text); 2],
}

impl Stage {
    fn new() -> Self {
        let mut mesh = Mesh::new(3);
        let writer = mesh.app(0, "joe").0;
        let callers = [(); 2].map(|()| mesh.app(0, "joe"));
        let callees = [1, 2].map(|node| mesh.app(node, "joe"));
        for (app, _) in callers.iter().chain(&callees) {
            mesh.register(*app, "1", "Add");
        }
        mesh.create(writer, "c", "{}", Lifetime::Retained);
        Self { mesh, writer, callers, callees }
    }

    /// Has the writer change the context, which no other node hears of for now.
    fn write(&mut self) {
        self.mesh.hold = Some(|message| matches!(message, LinkMessage::Batch { .. }));
        let context = self.mesh.context(0, "c").unwrap();
        self.mesh.update(self.writer, &context, r#"{"added":{"n":1}}"#);
    }

    /// Calls an app of another node, and returns whether it is asked at once.
    fn is_asked(&mut self, caller: App, callee: usize) -> bool {
        let (app, instance) = self.callees[callee].clone();
        self.mesh.call(caller, &instance, "1");
        self.invoked(app)
    }

    fn invoked(&mut self, app: App) -> bool {
        self.mesh.take(app, |event| matches!(event, Event::Invoke { .. }).then_some(())).len() == 1
    }

    fn caller(&self) -> App {
        self.callers[0].0
    }
}

#[test]
fn who_knows_nothing_of_a_write_does_not_wait_for_it() {
    let mut stage = Stage::new();
    stage.write();
    // They are in different lanes, and what one waits for is nothing to the other.
    assert!(!stage.is_asked(stage.writer, 0));
    assert!(stage.is_asked(stage.caller(), 0));
    stage.mesh.release();
    assert!(stage.invoked(stage.callees[0].0));
}

#[test]
fn a_new_context_is_announced_and_not_waited_for() {
    let mut stage = Stage::new();
    stage.mesh.hold = Some(|message| matches!(message, LinkMessage::Batch { .. }));
    stage.mesh.create(stage.writer, "new", r#"{"n":1}"#, Lifetime::Retained);
    assert!(stage.is_asked(stage.caller(), 0));
    // Who enters it knows what is in it.
    let (caller, context) = (stage.caller(), stage.mesh.context(0, "new").unwrap());
    stage.mesh.ask(caller, |request| Command::SubscribeContext { request, context });
    assert!(!stage.is_asked(caller, 0));
}

#[test]
fn who_is_told_of_a_write_waits_for_it() {
    type Tell = fn(&mut Stage);
    let ways: [(&str, Tell); 4] = [
        ("a change", |stage| {
            let (caller, context) = (stage.caller(), stage.mesh.context(0, "c").unwrap());
            stage.mesh.ask(caller, |request| Command::SubscribeContext { request, context });
            stage.write();
        }),
        ("a publication", |stage| {
            let caller = stage.caller();
            stage.mesh.ask(caller, |request| Command::BusSubscribe {
                request,
                pattern: "t".into(),
                routing_key: None,
            });
            stage.write();
            let publish =
                Command::BusPublish { topic: "t".into(), routing_key: None, target: None, data: json("1") };
            stage.mesh.send(stage.writer, publish);
        }),
        ("a call, by way of another", |stage| {
            stage.write();
            let [(last, first_asked), (between, then_asked)] = stage.callers.clone();
            stage.mesh.call(stage.writer, &then_asked, "1");
            assert!(stage.invoked(between));
            stage.mesh.call(between, &first_asked, "1");
            assert!(stage.invoked(last));
        }),
        ("an app that registers, and leaves", |stage| {
            stage.write();
            stage.mesh.ask(stage.writer, |request| Command::Leave {
                request,
                area: Area::Interop,
                words: Default::default(),
            });
            stage.mesh.input(0, Input::SessionClosed { session: SessionId(stage.writer.1), heard: None });
        }),
    ];
    for (way, tell) in ways {
        let mut stage = Stage::new();
        tell(&mut stage);
        assert!(!stage.is_asked(stage.caller(), 0), "{way}");
        stage.mesh.release();
        assert!(stage.invoked(stage.callees[0].0), "{way}");
    }
}

#[test]
fn who_is_told_of_a_write_by_another_node_waits_for_it() {
    let mut stage = Stage::new();
    stage.write();
    // One of the others has it, and calls.
    stage.mesh.release_to(1);
    let (app, asked) = stage.callers[0].clone();
    stage.mesh.call(stage.callees[0].0, &asked, "1");
    assert!(stage.invoked(app));
    assert!(stage.is_asked(app, 0), "that node knows");
    assert!(!stage.is_asked(app, 1), "the third does not");
    assert!(stage.is_asked(stage.callers[1].0, 1), "nobody has told that one");
    stage.mesh.release();
    assert!(stage.invoked(stage.callees[1].0));
}

#[test]
fn a_node_that_claims_to_know_what_was_never_written_holds_nobody_up() {
    let mut stage = Stage::new();
    let (_, asked) = stage.callers[0].clone();
    let link = *stage.mesh.nodes[0].links.keys().next().unwrap();
    let lane = mesh_model::Lane::Session(0);
    stage.mesh.input(0, Input::Link { link, lane, message: LinkMessage::Covered { seq: u64::MAX } });
    for callee in [0, 1] {
        stage.mesh.call(stage.callees[callee].0, &asked, "1");
    }
    for callee in [0, 1] {
        assert!(stage.is_asked(stage.caller(), callee));
    }
}

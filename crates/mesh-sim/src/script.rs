//! What applications do, at random.

use mesh_model::{Area, Arguments, Command, Json, Lifetime, Permissions, Text, Words};
use serde_json::json;

use crate::app::{CallRecord, Pending};
use crate::value::{delta, object, to_json, value};
use crate::world::{Phase, World};

const METHODS: [&str; 5] = ["m0", "m1", "m2", "s0", "s1"];
const BRANCHES: [&str; 3] = ["x", "y", "z"];
const CONTEXTS: [(&str, Lifetime); 4] = [
    ("r0", Lifetime::Retained),
    ("r1", Lifetime::Retained),
    ("o0", Lifetime::Ownership),
    ("c0", Lifetime::RefCounted),
];
const PATTERNS: [&str; 3] = ["t.a", "t.*", "t>"];

fn id(name: &str) -> Json {
    to_json(&json!(name))
}

impl World {
    fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    /// One step of one application.
    pub(crate) fn act(&mut self, app: usize) {
        if self.apps[app].instance.is_none() {
            return;
        }
        if self.phase == Phase::Quiet {
            while !self.apps[app].running.is_empty() {
                self.answer(app);
            }
            return self.accept_all(app);
        }
        if !self.apps[app].interop {
            if !self.apps[app].pending.values().any(|p| matches!(p, Pending::Join { .. })) {
                for (area, bus) in [(Area::Interop, false), (Area::Bus, true)] {
                    let request = self.apps[app].request(Pending::Join { bus });
                    self.command(app, Command::Join { request, area, restrictions: None });
                }
            }
            return;
        }
        match self.rng.range(0, 99) {
            0..=9 => self.register(app),
            10..=13 => self.unregister(app),
            14..=29 => self.call(app),
            30..=41 => self.answer(app),
            42..=49 => self.subscribe(app),
            50..=53 => self.accept_all(app),
            54..=63 => self.push(app),
            64..=67 => self.end_stream(app),
            68..=72 => self.enter(app),
            73..=84 => self.update(app),
            85 => self.context_end(app),
            86..=89 => self.bus_subscribe(app),
            90..=95 => {
                self.publish(app);
            }
            96 if self.rng.chance(60) => {
                let bus = self.rng.chance(30);
                let area = if bus { Area::Bus } else { Area::Interop };
                let request = self.apps[app].request(Pending::Leave { bus });
                self.command(app, Command::Leave { request, area, words: Words::default() });
                if bus {
                    let request = self.apps[app].request(Pending::Join { bus });
                    self.command(app, Command::Join { request, area, restrictions: None });
                }
            }
            97 if self.rng.chance(60) => self.close_app(app),
            _ => {}
        }
    }

    fn register(&mut self, app: usize) {
        let Some(name) = self.rng.pick(&METHODS).copied() else { return };
        let registering =
            self.apps[app].pending.values().any(|p| matches!(p, Pending::Register(_) | Pending::Unregister));
        if registering || self.apps[app].own.contains(name) {
            return;
        }
        let definition = json!({ "id": name, "name": format!("M.{name}"), "flags": { "streaming": name.starts_with('s') } });
        let request = self.apps[app].request(Pending::Register(vec![name.to_owned()]));
        self.command(app, Command::Register { request, methods: vec![to_json(&definition)] });
    }

    fn unregister(&mut self, app: usize) {
        let own: Vec<String> = self.apps[app].own.iter().cloned().collect();
        let Some(name) = self.rng.pick(&own) else { return };
        let methods = vec![id(name)];
        let request = self.apps[app].request(Pending::Unregister);
        self.command(app, Command::Unregister { request, methods });
    }

    /// Returns a method that somebody offers, a stream or not.
    fn offered(&mut self, app: usize, kind: char) -> Option<(Text, String)> {
        let all: Vec<(Text, String)> = self.apps[app]
            .known
            .iter()
            .flat_map(|(server, ids)| ids.iter().map(move |id| (server.clone(), id.clone())))
            .filter(|(_, id)| id.starts_with(kind))
            .collect();
        self.rng.pick(&all).cloned()
    }

    fn call(&mut self, app: usize) {
        if let Some((server, method)) = self.offered(app, 'm') {
            self.call_to(app, server, &method);
        }
    }

    pub(crate) fn call_to(&mut self, app: usize, server: Text, method: &str) {
        let call = self.calls.len();
        let user = self.apps[app].user;
        self.calls.push(CallRecord { user, executions: 0, ended: None });
        // A large one takes the way beside the lanes.
        let weight = if self.rng.chance(3) { "w".repeat(70_000) } else { String::new() };
        let named = Some(to_json(&json!({ "t": call, "w": weight })));
        let arguments = Arguments { named, ..Arguments::default() };
        let request = self.apps[app].request(Pending::Call(call));
        self.command(app, Command::Call { request, server, method: id(method), arguments, trace: None });
    }

    fn answer(&mut self, app: usize) {
        if self.apps[app].running.is_empty() {
            return;
        }
        let count = self.apps[app].running.len() as u64;
        let at = usize::try_from(self.rng.range(0, count - 1)).unwrap_or(0);
        let (invocation, call) = self.apps[app].running.remove(at);
        if self.rng.chance(20) {
            let request = self.apps[app].unanswered();
            let words = Words { uri: Some(id("app.error")), reason: Some(id("no")) };
            self.command(app, Command::Fail { request, id: invocation, words, context: None });
        } else {
            let result = Some(to_json(&json!({ "r": call, "u": format!("{}#", self.apps[app].user) })));
            self.command(app, Command::Yield { invocation, result });
        }
    }

    fn subscribe(&mut self, app: usize) {
        let Some((server, method)) = self.offered(app, 's') else { return };
        let token = self.token();
        let arguments = Arguments { named: Some(to_json(&json!({ "s": token }))), ..Arguments::default() };
        let request = self.apps[app].request(Pending::Subscribe(token));
        self.command(app, Command::Subscribe { request, server, method: id(&method), arguments });
    }

    fn accept_all(&mut self, app: usize) {
        let open: Vec<u64> =
            self.apps[app].asked.iter().filter(|(_, a)| a.branch.is_none()).map(|(s, _)| *s).collect();
        for subscription in open {
            if self.rng.chance(15) {
                self.apps[app].asked.remove(&subscription);
                let request = self.apps[app].unanswered();
                let words = Words::default();
                self.command(app, Command::Fail { request, id: subscription, words, context: None });
            } else {
                self.accept(app, subscription);
            }
        }
    }

    fn accept(&mut self, app: usize, subscription: u64) {
        let Some(branch) = self.rng.pick(&BRANCHES).copied() else { return };
        if let Some(asked) = self.apps[app].asked.get_mut(&subscription) {
            asked.branch = Some(branch.to_owned());
            self.command(app, Command::Accept { subscription, branch: id(branch) });
        }
    }

    fn push(&mut self, app: usize) {
        let bound: Vec<u64> =
            self.apps[app].asked.iter().filter(|(_, a)| a.branch.is_some()).map(|(s, _)| *s).collect();
        let Some(subscription) = self.rng.pick(&bound).copied() else { return };
        for _ in 0..self.rng.range(1, 4) {
            match self.rng.range(0, 4) {
                0 => self.push_to(app, subscription),
                _ => {
                    let Some(branch) = self.rng.pick(&BRANCHES).copied() else { return };
                    self.push_branch(app, branch);
                }
            }
        }
        if !self.options.faultless() && self.rng.chance(10) {
            // Bound anew, perhaps to another branch.
            self.accept(app, subscription);
        }
    }

    pub(crate) fn push_branch(&mut self, app: usize, branch: &str) {
        let known = &mut self.apps[app];
        let n = known.pushed.entry(branch.to_owned()).or_insert(0);
        *n += 1;
        let data = to_json(&json!({ "b": branch, "n": n, "u": format!("{}#", known.user) }));
        self.command(app, Command::Push { branch: id(branch), data, sequence: None, snapshot: None });
    }

    fn push_to(&mut self, app: usize, subscription: u64) {
        let n = self.token();
        let Some(token) = self.apps[app].asked.get(&subscription).map(|asked| asked.token) else { return };
        if self.options.faultless() {
            return; // The numbers of private data have gaps, which count as losses there.
        }
        let data = to_json(&json!({ "n": n, "s": token }));
        self.command(app, Command::PushTo { subscription, data, sequence: None, snapshot: None });
    }

    fn end_stream(&mut self, app: usize) {
        if self.rng.chance(50) {
            let held: Vec<u64> = self.apps[app].held.keys().copied().collect();
            let Some(subscription) = self.rng.pick(&held).copied() else { return };
            let request = self.apps[app].request(Pending::Unsubscribe(subscription));
            self.command(app, Command::Unsubscribe { request, subscription, words: Words::default() });
        } else {
            let bound: Vec<u64> =
                self.apps[app].asked.iter().filter(|(_, a)| a.branch.is_some()).map(|(s, _)| *s).collect();
            let Some(subscription) = self.rng.pick(&bound).copied() else { return };
            self.apps[app].asked.remove(&subscription);
            let request = self.apps[app].unanswered();
            self.command(app, Command::Drop { request, subscription, words: Words::default() });
        }
    }

    fn enter(&mut self, app: usize) {
        let user = self.apps[app].user;
        if self.rng.chance(50) {
            let Some((name, lifetime)) = self.rng.pick(&CONTEXTS).copied() else { return };
            let data = object(&mut self.rng, user, 2);
            let request = self.apps[app].request(Pending::Create(data.clone()));
            let (name, data) = (name.into(), Some(to_json(&data)));
            return self.command(
                app,
                Command::CreateContext { request, name, data, lifetime, permissions: Permissions::default() },
            );
        }
        let known: Vec<Text> = self.apps[app].contexts.keys().cloned().collect();
        let Some(context) = self.rng.pick(&known).cloned() else { return };
        let request = self.apps[app].request(Pending::Enter);
        self.command(app, Command::SubscribeContext { request, context });
    }

    fn update(&mut self, app: usize) {
        let user = self.apps[app].user;
        let known: Vec<Text> = self.apps[app].contexts.keys().cloned().collect();
        let Some(context) = self.rng.pick(&known).cloned() else { return };
        let change = delta(&mut self.rng, user);
        let request = self.apps[app].request(Pending::Update(context.clone(), change.clone()));
        self.command(app, Command::UpdateContext { request, context, delta: to_json(&change) });
    }

    fn context_end(&mut self, app: usize) {
        let known: Vec<Text> = self.apps[app].contexts.keys().cloned().collect();
        let Some(context) = self.rng.pick(&known).cloned() else { return };
        if self.rng.chance(50) {
            let request = self.apps[app].request(Pending::Destroy);
            self.command(app, Command::DestroyContext { request, context });
        } else {
            let request = self.apps[app].request(Pending::Exit(context.clone()));
            self.command(app, Command::UnsubscribeContext { request, context });
        }
    }

    fn bus_subscribe(&mut self, app: usize) {
        let topics: Vec<u64> = self.apps[app].topics.keys().copied().collect();
        if self.rng.chance(30)
            && let Some(subscription) = self.rng.pick(&topics).copied()
        {
            let request = self.apps[app].request(Pending::BusUnsubscribe(subscription));
            return self.command(app, Command::BusUnsubscribe { request, subscription });
        }
        let Some(pattern) = self.rng.pick(&PATTERNS).copied() else { return };
        let request = self.apps[app].request(Pending::BusSubscribe(pattern.to_owned()));
        self.command(app, Command::BusSubscribe { request, pattern: pattern.into(), routing_key: None });
    }

    pub(crate) fn publish(&mut self, app: usize) -> u64 {
        let token = self.token();
        let extra = value(&mut self.rng, self.apps[app].user, 1);
        let data = to_json(&json!({ "k": token, "v": extra }));
        let topic = if self.rng.chance(50) { "t.a" } else { "t.b" };
        self.command(app, Command::BusPublish { topic: topic.into(), routing_key: None, target: None, data });
        token
    }
}

//! Whole nodes over quinn and TLS on a virtual network, under tokio's paused clock: same seed, same packets.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::visibility::Visibility;
use mesh_core::{Input, NodeSettings, Timing};
use mesh_identity::join::{self, Candidate};
use mesh_identity::{NodeIdentity, TokenStore};
use mesh_model::{
    Answer, Area, Arguments, CallFailure, Command, DomainId, Event, Incarnation, Json, Lifetime, Limits,
    Outcome, Permissions, Request, SessionId, Text,
};
use mesh_net::clock::Clock;
use mesh_net::quic::virtual_net::VirtualNet;
use mesh_net::quic::{CloseCode, LinkLimits, MeshEndpoint};
use mesh_telemetry::Telemetry;
use tokio::time::Instant;

use crate::config::LimitsConfig;
use crate::dialer;
use crate::gateway::Gateway;
use crate::outbox::{Item, Outbox, Taken};

const NOW_MS: u64 = 1_790_000_000_000;

/// Two identities of one owner. Made once, since their keys are random and decide who dials whom.
fn identities(dirs: [&Path; 2]) -> [Arc<NodeIdentity>; 2] {
    let first = NodeIdentity::found(dirs[0], "ada", NOW_MS).unwrap();
    let tokens = TokenStore::open(dirs[0]);
    let token = tokens.create(&first, vec!["10.0.0.1:1".to_owned()], 60_000, NOW_MS).unwrap();
    let candidate = Candidate::generate().unwrap();
    let exporter = [7; 32];
    let answer =
        join::admit(&first, &tokens, &candidate.request(&token, &exporter), &exporter, NOW_MS).unwrap();
    let adopted = candidate.accept(&token, answer, NOW_MS).unwrap();
    let second = NodeIdentity::adopt(dirs[1], &candidate, &adopted).unwrap();
    [Arc::new(first), Arc::new(second)]
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 8386))
}

fn start(
    net: &Arc<VirtualNet>,
    identity: &Arc<NodeIdentity>,
    dir: &Path,
    number: u8,
    seeds: Vec<String>,
) -> Arc<Gateway> {
    let clock = Clock::start_at(NOW_MS);
    let settings = NodeSettings {
        node: identity.node(),
        incarnation: Incarnation(NOW_MS),
        name: Text::from(format!("node{number}")),
        addresses: vec![address(number).to_string().into()],
        domain: DomainId([1; 16]),
        id_secret: u128::from(number),
        visibility: Visibility::default(),
        relay: true,
        slow_rules: Vec::new(),
        limits: Limits::default(),
        timing: Timing::default(),
    };
    let gateway = Gateway::new(
        settings,
        clock.clone(),
        identity.clone(),
        TokenStore::open(dir),
        Telemetry::disabled(),
        0.0,
    );
    let socket = net.socket(address(number));
    let endpoint = MeshEndpoint::bind_abstract(
        identity.clone(),
        socket,
        gateway.clone(),
        LinkLimits::default(),
        clock,
        Some([number; 32]),
    );
    gateway.set_endpoint(endpoint.unwrap());
    tokio::spawn(gateway.clone().run_timers());
    tokio::spawn(dialer::run(gateway.clone(), seeds, dir.to_owned()));
    gateway
}

/// An application without a socket.
struct App {
    gateway: Arc<Gateway>,
    outbox: Arc<Outbox>,
    session: SessionId,
    seen: Vec<Event>,
}

impl App {
    fn new(gateway: &Arc<Gateway>, name: &str) -> Self {
        let outbox = Arc::new(Outbox::new(&LimitsConfig::default()));
        let session = gateway.open_session(&outbox);
        let mut app = Self { gateway: gateway.clone(), outbox, session, seen: Vec::new() };
        let identity = Json::assembled(format!("{{\"application\":\"{name}\"}}").into_bytes());
        let user = Some(Text::from("joe"));
        app.ask(|request| Command::Attach {
            request,
            identity,
            user: user.clone(),
            login: user,
            service: false,
        });
        app.ask(|request| Command::Join { request, area: Area::Interop, restrictions: None });
        app
    }

    fn ask(&mut self, command: impl FnOnce(Request) -> Command) {
        let request = Request { id: Json::from_static("1"), face: 0 };
        self.gateway.input(Input::Session { session: self.session, command: command(request) });
    }

    fn read(&mut self) {
        while let Taken::Items(items) = self.outbox.take() {
            for item in items {
                if let Item::Event(_, event) = item {
                    self.seen.push(event);
                }
            }
        }
    }

    /// Waits for an event, in virtual time, and returns what is made of it. It is seen once.
    async fn wait<T>(&mut self, what: &str, within: Duration, pick: impl Fn(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + within;
        loop {
            self.read();
            if let Some(at) = self.seen.iter().position(|event| pick(event).is_some()) {
                return pick(&self.seen.remove(at)).unwrap();
            }
            assert!(Instant::now() < deadline, "not within {within:?}: {what}; there is {:#?}", self.seen);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Two nodes with an app each, of which the second knows what the first offers.
struct Met {
    gateways: [Arc<Gateway>; 2],
    provider: App,
    caller: App,
    server: Text,
}

async fn meet(net: &Arc<VirtualNet>, identities: &[Arc<NodeIdentity>; 2], dirs: [&Path; 2]) -> Met {
    for dir in dirs {
        let _ = std::fs::remove_file(dir.join("peers.json"));
    }
    let a = start(net, &identities[0], dirs[0], 1, vec![]);
    let b = start(net, &identities[1], dirs[1], 2, vec![address(1).to_string()]);
    let (mut provider, mut caller) = (App::new(&a, "provider"), App::new(&b, "caller"));
    let method = Json::from_static("{\"id\":\"0\",\"name\":\"M\"}");
    let methods = vec![method];
    provider.ask(|request| Command::Register { request, methods });
    let server = caller
        .wait("the method on the other node", Duration::from_secs(20), |event| match event {
            Event::MethodsAdded { server, local: false, .. } => Some(server.clone()),
            _ => None,
        })
        .await;
    Met { gateways: [a, b], provider, caller, server }
}

fn call(request: Request, server: &Text, arguments: Arguments) -> Command {
    let method = Json::from_static("\"0\"");
    Command::Call { request, server: server.clone(), method, arguments, trace: None }
}

const fn invoked(event: &Event) -> Option<u64> {
    match event {
        Event::Invoke { invocation, .. } => Some(*invocation),
        _ => None,
    }
}

fn ended(event: &Event) -> Option<Outcome> {
    match event {
        Event::CallEnded { outcome, .. } => Some(outcome.clone()),
        _ => None,
    }
}

/// One run: two nodes meet, call, share, lose each other and meet again. Returns the packets' trace.
fn run(seed: u64, identities: &[Arc<NodeIdentity>; 2], dirs: [&Path; 2]) -> (u64, u64) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let long = Duration::from_secs(20);
        let net = VirtualNet::new(seed, 20);
        let Met { gateways: [a, b], mut provider, mut caller, server } = meet(&net, identities, dirs).await;
        let call = |request, server: &Text| call(request, server, Arguments::default());
        for _ in 0..50 {
            caller.ask(|request| call(request, &server));
            let invocation = provider.wait("the call", long, invoked).await;
            let result = Some(Json::from_static("{\"ok\":1}"));
            provider.ask(|_| Command::Yield { invocation, result });
            let outcome = caller.wait("the result", long, ended).await;
            assert!(matches!(outcome, Outcome::Answered(Answer::Result(Some(_)))), "{outcome:?}");
        }
        let data = Some(Json::from_static("{\"a\":1}"));
        provider.ask(|request| Command::CreateContext {
            request,
            name: "K".into(),
            data,
            lifetime: Lifetime::Retained,
            permissions: Permissions::default(),
        });
        let of_name = |event: &Event| match event {
            Event::ContextAdded { context, .. } => Some(context.clone()),
            _ => None,
        };
        let at_a = provider.wait("its context", long, of_name).await;
        let at_b = caller.wait("the context", long, of_name).await;

        // The network goes while a call runs.
        caller.ask(|request| call(request, &server));
        provider.wait("the call", long, invoked).await;
        net.cut(address(1));
        let cut_at = Instant::now();
        let outcome = caller.wait("the end of the call", Duration::from_secs(2), ended).await;
        assert!(matches!(outcome, Outcome::Failed(CallFailure::UnknownOutcome { .. })), "{outcome:?}");
        caller
            .wait("the withdrawal", Duration::from_secs(2), |event| match event {
                Event::InstanceRemoved { instance, .. } if *instance == server => Some(()),
                _ => None,
            })
            .await;
        assert!(cut_at.elapsed() <= Duration::from_secs(2), "withdrawn after {:?}", cut_at.elapsed());
        // Both sides go on writing.
        let delta = |key: &str| Json::assembled(format!("{{\"added\":{{\"{key}\":2}}}}").into_bytes());
        provider.ask(|request| Command::UpdateContext { request, context: at_a, delta: delta("left") });
        caller.ask(|request| Command::UpdateContext { request, context: at_b, delta: delta("right") });
        tokio::time::sleep(Duration::from_secs(5)).await;
        net.heal(address(1));
        let again = caller
            .wait("the provider again", Duration::from_secs(30), |event| match event {
                Event::MethodsAdded { server, local: false, .. } => Some(server.clone()),
                _ => None,
            })
            .await;
        assert_eq!(again, server, "under its old id");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let look = |gateway: &Gateway| {
            gateway.look(|node| (node.state_hash(), node.status().divergences, node.contexts()[0].keys))
        };
        assert_eq!(look(&a), look(&b));
        assert_eq!((look(&a).1, look(&a).2), (0, 3), "no divergence, and all three keys");
        net.trace()
    })
}

#[test]
fn two_whole_nodes_meet_part_and_meet_again_the_same_way_for_the_same_seed() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let paths = [dirs[0].path(), dirs[1].path()];
    let identities = identities(paths);
    for seed in 1..=10 {
        let first = run(seed, &identities, paths);
        assert_eq!(first, run(seed, &identities, paths), "seed {seed}: another run sent other packets");
    }
}

/// Plays a conversation between two nodes that know each other, in virtual time.
fn play<F: Future<Output = ()>>(talk: impl FnOnce(Arc<VirtualNet>, Met) -> F) {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let paths = [dirs[0].path(), dirs[1].path()];
    let identities = identities(paths);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let net = VirtualNet::new(1, 20);
        let met = meet(&net, &identities, paths).await;
        talk(net, met).await;
    });
}

#[test]
fn small_calls_pass_a_large_one_and_its_large_result() {
    play(|_net, Met { gateways: _gateways, mut provider, mut caller, server }| async move {
        let long = Duration::from_secs(120);
        let large = Json::string(&"x".repeat(7 << 20));
        let arguments = Arguments { named: Some(large.clone()), ..Arguments::default() };
        caller.ask(|request| call(request, &server, arguments));
        for _ in 0..20 {
            caller.ask(|request| call(request, &server, Arguments::default()));
        }
        let mut invocations = Vec::new();
        for _ in 0..21 {
            let arrived = |event: &Event| match event {
                Event::Invoke { invocation, arguments, .. } => Some((*invocation, arguments.len())),
                _ => None,
            };
            invocations.push(provider.wait("a call", long, arrived).await);
        }
        assert_eq!(invocations.pop().map(|(_, len)| len), Some(large.len()), "the large one comes last");
        let first = invocations[0].0;
        provider.ask(|_| Command::Yield { invocation: first, result: Some(large.clone()) });
        for (invocation, _) in invocations.drain(1..) {
            provider.ask(|_| Command::Yield { invocation, result: None });
        }
        for _ in 0..19 {
            let outcome = caller.wait("a result", long, ended).await;
            assert_eq!(outcome, Outcome::Answered(Answer::Result(None)), "the large one comes last");
        }
        let outcome = caller.wait("the large result", long, ended).await;
        assert_eq!(outcome, Outcome::Answered(Answer::Result(Some(large))));
    });
}

/// Closes a node's links as it does when one cannot take what is sent.
fn close_links(gateway: &Gateway) {
    let links: Vec<_> = gateway.links.iter().map(|link| *link.key()).collect();
    for link in links {
        gateway.endpoint().unwrap().close(link, CloseCode::OVERLOADED, "the test");
    }
}

#[test]
fn a_call_outlives_the_link_that_it_went_over() {
    play(|_net, Met { gateways: [a, b], mut provider, mut caller, server }| async move {
        let long = Duration::from_secs(10);
        for round in 0..10 {
            caller.ask(|request| call(request, &server, Arguments::default()));
            let invocation = provider.wait("the call", long, invoked).await;
            let gateway = if round % 2 == 0 { &a } else { &b };
            close_links(gateway);
            let result = Some(Json::from_static("1"));
            provider.ask(|_| Command::Yield { invocation, result: result.clone() });
            let outcome = caller.wait("the result", long, ended).await;
            assert_eq!(outcome, Outcome::Answered(Answer::Result(result)));
            // Both may have dialled: one link is left.
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        caller.read();
        assert!(!caller.seen.iter().any(|event| ended(event).is_some()), "one end for each");
    });
}

//! Calls.

use std::collections::{BTreeMap, VecDeque};

use mesh_core::Timing;
use mesh_model::{Event, Limits, Text};

use super::{Outcome, Scale, ensure, least, most, sum};
use crate::check::tables_left;
use crate::mesh::{App, Mesh, Plan, call_number, written};

/// What is known of calls, by their number.
#[derive(Debug, Default)]
struct Book {
    /// Which request is which call.
    asked: BTreeMap<(App, String), u64>,
    ended: BTreeMap<u64, &'static str>,
    ran: BTreeMap<u64, u64>,
    /// What its callee is to answer, and when.
    running: VecDeque<(u64, App, u64)>,
    next: u64,
}

impl Book {
    fn call(&mut self, mesh: &mut Mesh, app: App, server: &Text) -> u64 {
        let number = self.next;
        self.next += 1;
        // An end may be told before this returns.
        let request = mesh.call(app, server, number);
        self.asked.insert((app, request.id.to_string()), number);
        number
    }

    /// Takes what an app was told; callees answer `after` that many microseconds, or never.
    fn read(&mut self, mesh: &mut Mesh, app: App, after: Option<(u64, u64)>) -> Result<(), String> {
        for (at, event) in mesh.told(app) {
            match event {
                Event::Invoke { invocation, arguments, .. } => {
                    let number = call_number(&arguments);
                    let ran = self.ran.entry(number).or_insert(0);
                    *ran += 1;
                    ensure!(*ran == 1, "call {number} ran twice");
                    if let Some((low, high)) = after {
                        let wait = mesh.rng.range(low, high);
                        self.running.push_back((at + wait, app, invocation));
                    }
                }
                Event::CallEnded { request, outcome } => {
                    self.end(app, &request.id.to_string(), outcome.word())?
                }
                Event::Refused { request, .. } => self.end(app, &request.id.to_string(), "refused")?,
                _ => {}
            }
        }
        Ok(())
    }

    fn end(&mut self, app: App, request: &str, word: &'static str) -> Result<(), String> {
        let Some(number) = self.asked.get(&(app, request.to_owned())) else { return Ok(()) };
        ensure!(self.ended.insert(*number, word).is_none(), "call {number} ended twice");
        Ok(())
    }

    /// Answers what is due.
    fn answer(&mut self, mesh: &mut Mesh) {
        let now = mesh.now_us;
        let (due, rest): (VecDeque<_>, _) =
            std::mem::take(&mut self.running).into_iter().partition(|(at, ..)| *at <= now);
        self.running = rest;
        for (_, app, invocation) in due {
            mesh.answer(app, invocation);
        }
    }

    /// Each call has ended, and as it says.
    fn check(&self) -> Result<(), String> {
        for number in 0..self.next {
            let (ran, ended) =
                (self.ran.get(&number).copied().unwrap_or(0), self.ended.get(&number).copied());
            ensure!(ended.is_some(), "call {number} has no end");
            ensure!(ended != Some("ok") || ran == 1, "call {number} was answered and ran {ran} times");
            let never = matches!(ended, Some("not_delivered" | "refused" | "no_target"));
            ensure!(!never || ran == 0, "call {number} ended as {ended:?} and ran");
        }
        Ok(())
    }

    fn count(&self, word: &str) -> u64 {
        self.ended.values().filter(|ended| **ended == word).count() as u64
    }
}

/// Two or more nodes; a callee on the last, which offers `m`, and a caller on each of the others.
fn callers(plan: Plan) -> (Mesh, Vec<App>, App, Text) {
    let hosts = plan.hosts;
    let mut mesh = Mesh::new(plan);
    let callers = (0..hosts - 1).map(|host| mesh.app(host)).collect();
    let callee = mesh.app(hosts - 1);
    mesh.register(callee, "m", false);
    mesh.wait_ms(3_000);
    let server = mesh.instance(callee);
    mesh.forget_events();
    (mesh, callers, callee, server)
}

pub(super) fn one_answer(seed: u64, scale: Scale) -> Outcome {
    let limits = Limits { call_ms_max: 8_000, ..Limits::default() };
    let plan = Plan { relay: true, limits, ..Plan::new(seed, 3) };
    let (mut mesh, callers, callee, server) = callers(plan);
    mesh.loss = 1;
    let (mut book, total, mut step) = (Book::default(), scale.of(100_000, 3_000), 0);
    while book.next < total {
        // 200 calls a second, and each second a fault.
        if step % 200 == 0 {
            mesh.heal();
            let (a, b) = [(0, 2), (1, 2), (0, 1)][usize::try_from(mesh.rng.range(0, 2)).unwrap_or(0)];
            match mesh.rng.range(0, 5) {
                0 | 1 => {
                    let both = mesh.rng.chance(50);
                    mesh.break_between(a, b, both);
                }
                2 => mesh.part(&[a], &[b]),
                3 => mesh.deafen(a, b),
                4 => mesh.keep_apart(a, b),
                _ => mesh.dial_again(a, b),
            }
        }
        step += 1;
        let caller = callers[usize::from(mesh.rng.chance(40))];
        book.call(&mut mesh, caller, &server);
        mesh.wait_ms(5);
        for app in &callers {
            book.read(&mut mesh, *app, None)?;
        }
        book.read(&mut mesh, callee, Some((0, 1_500_000)))?;
        book.answer(&mut mesh);
    }
    mesh.heal();
    for _ in 0..200 {
        mesh.wait_ms(50);
        for app in &callers {
            book.read(&mut mesh, *app, None)?;
        }
        book.read(&mut mesh, callee, Some((0, 1_500_000)))?;
        book.answer(&mut mesh);
    }
    book.check()?;
    let words = ["ok", "not_delivered", "unknown_outcome", "no_target", "deadline", "refused", "overloaded"];
    let counted: u64 = words.iter().map(|word| book.count(word)).sum();
    ensure!(counted == total, "{counted} outcomes of {total} calls");
    let unreachable = book.count("no_target") + book.count("refused");
    Ok(vec![
        sum("calls, one end each", total),
        sum("ok", book.count("ok")),
        sum("not_delivered", book.count("not_delivered")),
        sum("unknown_outcome", book.count("unknown_outcome")),
        sum("for a callee that was not shown", unreachable),
        sum("deadline", book.count("deadline")),
    ])
}

/// What happens to a call of which moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    /// The link breaks with the call on its way; the callee's node lives.
    OnItsWay,
    /// The callee's node is gone, and the caller's has been told.
    Before,
    /// It is gone with the call on its way.
    InFlight,
    /// The callee has it, and does not answer.
    Running,
    /// The answer has left.
    Answered,
}

pub(super) fn honest_outcomes(seed: u64, scale: Scale) -> Outcome {
    let trials = scale.of(1_000, 12);
    let kinds = [
        (Kill::OnItsWay, "not_delivered", "‰ not_delivered when the path broke before delivery"),
        (Kill::Before, "not_delivered", "‰ not_delivered when the node was known to be gone"),
        (
            Kill::InFlight,
            "unknown_outcome",
            "‰ unknown_outcome when the node died before delivery, unknown to the caller",
        ),
        (Kill::Running, "unknown_outcome", "‰ unknown_outcome when it died before its answer"),
        (Kill::Answered, "ok", "‰ ok when it died after its answer left"),
    ];
    let mut figures = vec![sum("trials of each kind", trials)];
    for (kind, word, name) in kinds {
        let (mut mesh, callers, mut callee, mut server) = callers(Plan::new(seed ^ (kind as u64) << 32, 2));
        let caller = callers[0];
        let mut book = Book::default();
        for _ in 0..trials {
            let phase = mesh.rng.range(0, 400_000);
            mesh.wait_us(phase);
            match kind {
                Kill::OnItsWay => {
                    book.call(&mut mesh, caller, &server);
                    let both = mesh.rng.chance(50);
                    mesh.break_between(0, 1, both);
                }
                Kill::Before => {
                    mesh.kill(1);
                    mesh.tell_of_death(1);
                    book.call(&mut mesh, caller, &server);
                }
                Kill::InFlight => {
                    book.call(&mut mesh, caller, &server);
                    let part = mesh.rng.range(0, 400);
                    mesh.wait_us(part);
                    mesh.kill(1);
                }
                Kill::Running => {
                    book.call(&mut mesh, caller, &server);
                    let part = mesh.rng.range(1_500, 600_000);
                    mesh.wait_us(part);
                    book.read(&mut mesh, callee, None)?;
                    mesh.kill(1);
                }
                Kill::Answered => {
                    book.call(&mut mesh, caller, &server);
                    mesh.wait_ms(3);
                    book.read(&mut mesh, callee, Some((0, 0)))?;
                    book.answer(&mut mesh);
                    mesh.kill(1);
                }
            }
            if kind == Kill::OnItsWay {
                mesh.wait_ms(2_500);
                book.read(&mut mesh, callee, None)?;
            } else {
                let down = mesh.rng.range(1, 2_500);
                mesh.wait_ms(down);
                mesh.start(1);
                callee = mesh.app(1);
                mesh.register(callee, "m", false);
                mesh.wait_ms(2_500);
                server = mesh.instance(callee);
            }
            book.read(&mut mesh, caller, None)?;
        }
        mesh.wait_ms(3_000);
        book.read(&mut mesh, caller, None)?;
        book.check()?;
        let share = book.count(word) * 1_000 / trials;
        ensure!(share >= 999, "{kind:?}: {share} ‰ {word}, the others {:?}", book.ended);
        figures.push(least(name, share));
    }
    Ok(figures)
}

pub(super) fn re_attach(seed: u64, scale: Scale) -> Outcome {
    let total = scale.of(1_000, 100);
    let plan = Plan { timing: Timing::wan(), relay: true, ..Plan::new(seed, 3) };
    let (mut mesh, callers, callee, server) = callers(plan);
    let mut book = Book::default();
    for _ in 0..total {
        let caller = callers[usize::from(mesh.rng.chance(50))];
        book.call(&mut mesh, caller, &server);
        let gap = mesh.rng.range(0, 1_000_000 / total);
        mesh.wait_us(gap);
    }
    mesh.wait_ms(50);
    book.read(&mut mesh, callee, Some((5_000_000, 5_000_000)))?;
    // Each path breaks, with or without a sign.
    let told = mesh.rng.chance(50);
    mesh.part(&[0], &[1, 2]);
    mesh.part(&[1], &[2]);
    if told {
        for host in 0..3 {
            mesh.break_links(host);
        }
    }
    mesh.wait_ms(3_000);
    mesh.heal();
    for _ in 0..200 {
        mesh.wait_ms(50);
        book.read(&mut mesh, callee, Some((5_000_000, 5_000_000)))?;
        book.answer(&mut mesh);
        for app in &callers {
            book.read(&mut mesh, *app, None)?;
        }
    }
    book.check()?;
    let (ok, ran) = (book.count("ok"), book.ran.len() as u64);
    ensure!(ok == total && ran == total, "{ok} of {total} calls ok, {ran} ran: {:?}", book.ended);
    Ok(vec![sum("running calls, all ok and run once", ok)])
}

pub(super) fn fence(seed: u64, scale: Scale) -> Outcome {
    let rounds = scale.of(100, 10);
    // The path asked is a second direct link, or one that takes the place of a relayed one.
    let relay = seed.is_multiple_of(2);
    let plan = Plan { timing: Timing::wan(), relay, ..Plan::new(seed, 3) };
    let (mut mesh, callers, callee, server) = callers(plan);
    let (caller, mut book, mut late) = (callers[0], Book::default(), 0);
    for _ in 0..rounds {
        if relay {
            mesh.keep_apart(0, 2);
            mesh.break_between(0, 2, true);
            mesh.wait_ms(2_500);
        }
        mesh.slow_calls_us = 4_000_000;
        for _ in 0..10 {
            book.call(&mut mesh, caller, &server);
        }
        let wait = mesh.rng.range(0, 2_000);
        mesh.wait_ms(wait);
        if relay {
            mesh.heal();
        } else {
            // The caller's end is gone; it dials anew, and asks over the new link.
            mesh.break_between(0, 2, false);
        }
        mesh.wait_ms(6_000);
        late += 10;
        book.read(&mut mesh, callee, Some((0, 0)))?;
        book.answer(&mut mesh);
        mesh.wait_ms(100);
        mesh.slow_calls_us = 0;
        mesh.wait_ms(5_000);
        book.read(&mut mesh, callee, Some((0, 0)))?;
        book.answer(&mut mesh);
        mesh.wait_ms(100);
        book.read(&mut mesh, caller, None)?;
    }
    book.check()?;
    // A relayed link drains when a direct one takes its place: what is late on it still arrives, and runs once.
    let word = if relay { "ok" } else { "not_delivered" };
    ensure!(book.count(word) == late, "of {late} late calls {} ended as {word}", book.count(word));
    Ok(vec![
        sum("late calls, none ran after its end or twice", late),
        sum("not_delivered, where a second link was asked", book.count("not_delivered")),
        sum("ok, where a relayed link drained", book.count("ok")),
    ])
}

pub(super) fn tables(seed: u64, scale: Scale) -> Outcome {
    let limits = Limits { call_ms_max: 5_000, ..Limits::default() };
    let plan = Plan { relay: true, limits, trip_us: (5_000, 20_000), ..Plan::new(seed, 3) };
    let (mut mesh, callers, callee, server) = callers(plan);
    let (caller, mut book) = (callers[0], Book::default());
    // Nobody answers, and nothing breaks: each ends at its deadline, at both ends.
    let total = scale.of(500, 50);
    let first = mesh.now_us;
    for _ in 0..total {
        book.call(&mut mesh, caller, &server);
    }
    mesh.wait_ms(4_900);
    let pending = |mesh: &Mesh, host| mesh.node(host).map_or(0, |node| node.status().calls_pending as u64);
    ensure!(pending(&mesh, 2) == total, "{} calls run", pending(&mesh, 2));
    let over = mesh.wait_until(10_000, |mesh| pending(mesh, 0) + pending(mesh, 2) == 0);
    ensure!(over.is_some(), "calls are left after their deadline");
    let over = (mesh.now_us - first) / 1_000 - 5_000;
    ensure!(over <= 40 + 20, "the last call ended {over} ms after its deadline");
    book.read(&mut mesh, callee, None)?;
    book.read(&mut mesh, caller, None)?;
    ensure!(book.count("deadline") == total, "{:?}", book.ended);
    // Whatever else becomes of them.
    for _ in 0..scale.of(50, 10) {
        for _ in 0..10 {
            book.call(&mut mesh, caller, &server);
        }
        let wait = mesh.rng.range(0, 300);
        mesh.wait_ms(wait);
        match mesh.rng.range(0, 3) {
            0 => mesh.break_between(0, 2, true),
            1 => mesh.part(&[0], &[2]),
            2 => mesh.deafen(2, 0),
            _ => {}
        }
        let wait = mesh.rng.range(0, 4_000);
        mesh.wait_ms(wait);
        mesh.heal();
        if mesh.rng.chance(50) {
            book.read(&mut mesh, callee, Some((0, 0)))?;
            book.answer(&mut mesh);
        }
    }
    mesh.leave(caller);
    mesh.leave(callee);
    mesh.leave(callers[1]);
    mesh.wait_ms(60_000);
    for host in 0..3 {
        let left = mesh.node(host).map(tables_left).unwrap_or_default();
        ensure!(left.is_empty(), "node {host} keeps {left:?}");
    }
    Ok(vec![sum("calls", book.next), most("ms from a deadline to the end at both nodes", over)])
}

pub(super) fn causal_call(seed: u64, scale: Scale) -> Outcome {
    let plan = Plan { relay: true, ..Plan::new(seed, 3) };
    let (mut mesh, apps) = super::state::with_context(plan);
    let (caller, callee) = (apps[0], apps[2]);
    mesh.enter(callee, "c");
    mesh.register(callee, "m", false);
    mesh.wait_ms(1_000);
    let server = mesh.instance(callee);
    mesh.forget_events();
    mesh.loss = 2;
    let (mut seen, mut book, mut changes) = (0, Book::default(), 0);
    let (rounds, mut next_change) = (scale.of(100_000, 3_000), 0);
    for round in 0..rounds {
        if mesh.now_us >= next_change {
            // The path changes: broken and dialled again, dialled twice, or by way of the third node.
            mesh.heal();
            match mesh.rng.range(0, 2) {
                0 => mesh.break_between(0, 2, true),
                1 => mesh.dial_again(0, 2),
                _ => {
                    mesh.keep_apart(0, 2);
                    mesh.break_between(0, 2, true);
                }
            }
            changes += 1;
            next_change = mesh.now_us + mesh.rng.range(1_000_000, 4_000_000);
        }
        mesh.set(caller, "c", "round", round);
        let number = book.call(&mut mesh, caller, &server);
        ensure!(number == round, "{number} is not {round}");
        mesh.wait_ms(5);
        for told in mesh.told(callee) {
            if let (_, Event::Invoke { arguments, invocation, .. }) = &told {
                let number = call_number(arguments);
                ensure!(number <= seen, "call {number} came after value {seen} only");
                *book.ran.entry(number).or_insert(0) += 1;
                mesh.answer(callee, *invocation);
            }
            seen = written(&[told], "round").into_iter().fold(seen, u64::max);
        }
        book.read(&mut mesh, caller, None)?;
        mesh.told(apps[1]);
    }
    mesh.heal();
    mesh.wait_ms(10_000);
    book.read(&mut mesh, callee, None)?;
    let ok = book.count("ok");
    ensure!(ok > rounds / 2, "only {ok} of {rounds} calls were answered");
    Ok(vec![
        sum("updates, each followed by a call", rounds),
        sum("answered", ok),
        sum("changes of path", changes),
    ])
}

//! Whom an app gets that asks for the best of several providers; see `docs/best.md`.

use mesh_model::{Event, Text};

use super::{Outcome, Scale, ensure, sum};
use crate::mesh::{App, Mesh, Plan};

/// Where a provider is, best first. Each is on the host of that number; the caller is on the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    OwnNode,
    OwnDesktop,
    OtherDesktop,
    Service,
}

const PLACES: [Place; 4] = [Place::OwnNode, Place::OwnDesktop, Place::OtherDesktop, Place::Service];

/// What becomes of the better of two providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Away,
    Restarted,
}

/// What a client library knows: who there is, whether local, and whether with the method.
#[derive(Debug, Default)]
struct Table(Vec<(Text, bool, bool)>);

impl Table {
    fn take(&mut self, event: Event) {
        match event {
            Event::InstanceAdded { instance, local, .. } => self.0.push((instance, local, false)),
            Event::InstanceRemoved { instance, .. } => self.0.retain(|(id, ..)| *id != instance),
            Event::MethodsAdded { server, .. } => self.offers(&server, true),
            Event::MethodsRemoved { server, .. } => self.offers(&server, false),
            _ => {}
        }
    }

    fn offers(&mut self, server: &Text, offers: bool) {
        for (_, _, has) in self.0.iter_mut().filter(|(id, ..)| id == server) {
            *has = offers;
        }
    }

    /// Returns the first that was announced as local, else the first.
    fn best(&self) -> Option<&Text> {
        let offering = || self.0.iter().filter(|(_, _, has)| *has);
        offering().find(|(_, local, _)| *local).or_else(|| offering().next()).map(|(id, ..)| id)
    }
}

fn provider(mesh: &mut Mesh, place: Place) -> (App, Text) {
    let user = (place != Place::Service).then_some("ann");
    let app = mesh.app_of(place as usize, "provider", user);
    mesh.register(app, "m", false);
    mesh.wait_ms(50);
    let instance = mesh.instance(app);
    (app, instance)
}

fn caller(mesh: &mut Mesh) -> (App, Table) {
    let app = mesh.app(0);
    mesh.wait_ms(50);
    (app, Table::default())
}

fn chosen(mesh: &mut Mesh, (app, table): &mut (App, Table)) -> Option<Text> {
    for (_, event) in mesh.told(*app) {
        table.take(event);
    }
    table.best().cloned()
}

pub(super) fn best(seed: u64, scale: Scale) -> Outcome {
    let (mut cases, mut played) = (0, 0);
    for better in PLACES {
        for other in PLACES.into_iter().filter(|other| *other > better) {
            for state in [State::Up, State::Away, State::Restarted] {
                for better_first in [true, false] {
                    if scale == Scale::Slice && !(cases + seed).is_multiple_of(3) {
                        cases += 1;
                        continue;
                    }
                    one(seed << 8 | cases, better, other, state, better_first)?;
                    cases += 1;
                    played += 1;
                }
            }
        }
    }
    Ok(vec![sum("cases, the documented winner in each", played)])
}

fn one(seed: u64, better: Place, other: Place, state: State, better_first: bool) -> Result<(), String> {
    let case = format!("{better:?}, {state:?}, before {other:?}, there first: {better_first}");
    let plan = Plan { named: [(1, 0)].into_iter().collect(), ..Plan::new(seed, 4) };
    let mut mesh = Mesh::new(plan);
    mesh.wait_ms(2_000);
    let mut early = caller(&mut mesh);
    let mut providers = [(better, None), (other, None)];
    if !better_first {
        providers.reverse();
    }
    for (place, made) in &mut providers {
        *made = Some(provider(&mut mesh, *place));
    }
    let made =
        |wanted| providers.iter().find(|(place, _)| *place == wanted).and_then(|(_, made)| made.clone());
    let (Some((app, first)), Some((_, second))) = (made(better), made(other)) else { return Ok(()) };
    let host = better as usize;
    let own = better == Place::OwnNode;
    // Clients prefer what is local, whenever it comes.
    let sticky = if better_first || own { &first } else { &second };
    let got = chosen(&mut mesh, &mut early);
    ensure!(got.as_ref() == Some(sticky), "{case}: who was there first got {got:?}, not {sticky}");
    let back = match state {
        State::Up => first.clone(),
        State::Away | State::Restarted => {
            if own {
                mesh.leave(app);
            } else if state == State::Restarted {
                mesh.kill(host);
            } else {
                let all: Vec<usize> = (0..4).filter(|at| *at != host).collect();
                mesh.part(&[host], &all);
            }
            mesh.wait_ms(3_000);
            let got = chosen(&mut mesh, &mut early);
            ensure!(got.as_ref() == Some(&second), "{case}: while it is away, {got:?} is the best");
            let mut late = caller(&mut mesh);
            let got = chosen(&mut mesh, &mut late);
            ensure!(got.as_ref() == Some(&second), "{case}: a newcomer gets {got:?} while it is away");
            mesh.leave(late.0);
            if own {
                provider(&mut mesh, better).1
            } else if state == State::Restarted {
                mesh.start(host);
                mesh.wait_ms(1_000);
                provider(&mut mesh, better).1
            } else {
                mesh.heal();
                mesh.wait_ms(2_000);
                first.clone()
            }
        }
    };
    mesh.wait_ms(500);
    // Back to what is local; else whoever has one stays with it.
    let stays = if own {
        &back
    } else if state == State::Up {
        sticky
    } else {
        &second
    };
    let got = chosen(&mut mesh, &mut early);
    ensure!(got.as_ref() == Some(stays), "{case}: at last {got:?}, not {stays}");
    let mut late = caller(&mut mesh);
    let got = chosen(&mut mesh, &mut late);
    ensure!(got.as_ref() == Some(&back), "{case}: a newcomer gets {got:?}, not {back}");
    Ok(())
}

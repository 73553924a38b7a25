//! How should inputs reach the core: called inline under a lock, or sent to a task that owns it?
//!
//! Two tasks call each other through a stand-in for the core that moves a message from one queue to the
//! other, as a node does between two connections. Prints the round trip of both ways.
//!
//! `cargo run --release -p mesh-benches --example core_input`

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{Notify, mpsc};

const ROUNDS: usize = 200_000;

/// A connection's queue and its waking.
#[derive(Debug, Default)]
struct Outbox {
    queue: Mutex<VecDeque<u64>>,
    wake: Notify,
}

impl Outbox {
    fn push(&self, message: u64) {
        self.queue.lock().expect("nobody panics here").push_back(message);
        self.wake.notify_one();
    }

    async fn next(&self) -> u64 {
        loop {
            if let Some(message) = self.queue.lock().expect("nobody panics here").pop_front() {
                return message;
            }
            self.wake.notified().await;
        }
    }
}

/// The stand-in: as much state as needs a lock.
#[derive(Debug, Default)]
struct Core {
    handled: u64,
}

#[derive(Clone)]
enum Way {
    Inline(Arc<Mutex<Core>>),
    Task(mpsc::Sender<(usize, u64)>),
}

impl Way {
    async fn input(&self, outboxes: &[Arc<Outbox>; 2], to: usize, message: u64) {
        match self {
            Self::Inline(core) => {
                let mut core = core.lock().expect("nobody panics here");
                core.handled += 1;
                outboxes[to].push(message);
            }
            Self::Task(tx) => tx.send((to, message)).await.expect("the owner lives as long as this"),
        }
    }
}

async fn measure(way: Way, outboxes: [Arc<Outbox>; 2]) -> Vec<u64> {
    let answering = {
        let (way, outboxes) = (way.clone(), outboxes.clone());
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let message = outboxes[1].next().await;
                way.input(&outboxes, 0, message).await;
            }
        })
    };
    let calling = tokio::spawn(async move {
        let mut nanos = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            #[expect(clippy::disallowed_methods, reason = "a bench measures time")]
            let start = Instant::now();
            way.input(&outboxes, 1, round as u64).await;
            outboxes[0].next().await;
            nanos.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        nanos
    });
    let nanos = calling.await.expect("nobody panics here");
    answering.await.expect("nobody panics here");
    nanos
}

#[expect(clippy::print_stdout, reason = "the result of a bench")]
fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    for _ in 0..3 {
        for name in ["inline under a lock", "owning task"] {
            let mut nanos = runtime.block_on(async {
                let outboxes = [Arc::new(Outbox::default()), Arc::new(Outbox::default())];
                let way = if name == "owning task" {
                    let (tx, mut rx) = mpsc::channel::<(usize, u64)>(1024);
                    let outboxes = outboxes.clone();
                    tokio::spawn(async move {
                        let mut core = Core::default();
                        while let Some((to, message)) = rx.recv().await {
                            core.handled += 1;
                            outboxes[to].push(message);
                        }
                        core
                    });
                    Way::Task(tx)
                } else {
                    Way::Inline(Arc::default())
                };
                measure(way, outboxes).await
            });
            nanos.sort_unstable();
            let at = |share: usize| nanos[nanos.len() * share / 1000];
            println!("{name:<20} round trip p50 {:>6} ns, p99 {:>6} ns", at(500), at(990));
        }
    }
}

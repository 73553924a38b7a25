//! The load: closed loops of calls, windows of deliveries, and a steady rate.
//!
//! Everything here runs on one thread. A task reads a batch, prepares what follows from it and writes once,
//! so the generator never costs more than the frames it moves. The clock is read once per batch.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::clock;
use crate::process::{Cpu, Meter};
use crate::protocol::{Answer, Fanout, Inbox, Invoke, Marker, Outbox, Peer, SUBSCRIBERS};

/// How long a run warms up and measures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Load before the measurement begins.
    pub(crate) warm_up: Duration,
    /// The measurement.
    pub(crate) measure: Duration,
}

/// What one run measured.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Sample {
    /// Median latency.
    pub(crate) p50_us: f64,
    /// 99th percentile of latency.
    pub(crate) p99_us: f64,
    /// Round trips or deliveries per second.
    pub(crate) per_second: f64,
    /// Processor time of all server processes per round trip or delivery.
    pub(crate) server_cpu_us: f64,
    /// How busy the generator's only thread was, 1 being all the time.
    pub(crate) generator_busy: f64,
}

/// Keeps `in_flight` calls open.
pub(crate) async fn invoke(setup: Invoke, in_flight: usize, plan: Plan, meter: &Meter) -> Result<Sample> {
    let Invoke { mut caller, callee, mut call, reply, answer } = setup;
    let callee = Guard(spawn_local(answer_calls(callee, answer)));
    let Peer { inbox, outbox } = &mut caller;

    // Interest may still be travelling between nodes: ask until somebody answers.
    probe("an answer to a call", || call.with(PROBE).to_vec(), inbox, outbox, &reply).await?;

    let mut watch = Watch::start(plan, meter)?;
    let mut sent_at = vec![clock::now(); in_flight];
    for slot in 0..in_flight {
        outbox.push(call.with(slot as u32));
    }
    outbox.flush().await?;
    let mut arrived = Vec::with_capacity(in_flight);
    loop {
        let batch = inbox.batch(|message| {
            arrived.extend(reply.number(message)?.map(|slot| slot as usize));
            Ok(())
        });
        timeout(PATIENCE, batch).await.context("a call was not answered")??;
        let now = clock::now();
        if watch.has_ended(now, meter)? {
            break;
        }
        for slot in arrived.drain(..) {
            let Some(sent_at) = sent_at.get_mut(slot) else { continue };
            watch.record(now - *sent_at);
            *sent_at = now;
            outbox.push(call.with(slot as u32));
        }
        outbox.flush().await?;
    }
    if callee.0.is_finished() {
        bail!("the callee lost its connection");
    }
    watch.finish()
}

async fn answer_calls(mut callee: Peer, mut answer: Answer) -> Result<()> {
    loop {
        let batch = callee.inbox.batch(|message| {
            answer.push(message, &mut callee.outbox);
            Ok(())
        });
        batch.await?;
        callee.outbox.flush().await?;
    }
}

/// Publishes at a steady rate and measures each delivery from its write to its arrival.
pub(crate) async fn fanout_at_rate(setup: Fanout, plan: Plan, meter: &Meter) -> Result<Sample> {
    let Fanout { publisher, subscribers, mut message, seen } = setup;
    let Peer { mut outbox, inbox } = publisher;
    let ring = Rc::new(RefCell::new(vec![clock::now(); RING_LEN]));
    let watch = Rc::new(RefCell::new(None));
    let deliveries = Deliveries::new(subscribers, seen, {
        let (ring, watch) = (ring.clone(), watch.clone());
        move |now, number| {
            let mut watch = watch.borrow_mut();
            if let (Some(watch), Some(sent_at)) =
                (watch.as_mut(), ring.borrow().get(number as usize % RING_LEN))
            {
                let watch: &mut Watch = watch;
                watch.record(now - *sent_at);
            }
        }
    });
    let drain = Guard(spawn_local(drain(inbox)));
    deliveries.probe(&mut || message.with(PROBE).to_vec(), &mut outbox).await?;

    *watch.borrow_mut() = Some(Watch::start(plan, meter)?);
    let mut ticks = interval(Duration::from_secs(1) / PUBLISHES_PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0_u32.. {
        ticks.tick().await;
        deliveries.check()?;
        let now = clock::now();
        if let Some(watch) = watch.borrow_mut().as_mut()
            && watch.has_ended(now, meter)?
        {
            break;
        }
        ring.borrow_mut()[number as usize % RING_LEN] = now;
        outbox.push(message.with(number));
        outbox.flush().await?;
        if u64::from(number) > deliveries.count() / SUBSCRIBERS as u64 + PUBLISHES_PER_SECOND as u64 * 5 {
            bail!("deliveries are five seconds behind at {PUBLISHES_PER_SECOND} publishes per second");
        }
    }
    if drain.0.is_finished() {
        bail!("the publisher lost its connection");
    }
    let watch = watch.take().context("the run did not begin")?;
    watch.finish()
}

/// Publishes as fast as deliveries keep up: at most [`WINDOW`] messages not yet delivered to all.
pub(crate) async fn fanout_full(setup: Fanout, plan: Plan, meter: &Meter) -> Result<Sample> {
    let Fanout { publisher, subscribers, mut message, seen } = setup;
    let Peer { mut outbox, inbox } = publisher;
    let deliveries = Deliveries::new(subscribers, seen, |_, _| {});
    let drain = Guard(spawn_local(drain(inbox)));
    deliveries.probe(&mut || message.with(PROBE).to_vec(), &mut outbox).await?;

    let mut watch = Watch::start(plan, meter)?;
    let mut published = 0_u64;
    let mut counted = 0;
    loop {
        let delivered = deliveries.count();
        let now = clock::now();
        let ended = watch.has_ended(now, meter)?;
        watch.count(delivered - counted);
        counted = delivered;
        if ended {
            break;
        }
        let target = delivered / SUBSCRIBERS as u64 + WINDOW;
        while published < target {
            outbox.push(message.with(published as u32));
            published += 1;
        }
        outbox.flush().await?;
        timeout(PATIENCE, deliveries.more()).await.with_context(|| {
            format!("deliveries stopped: {delivered} of {}", published * SUBSCRIBERS as u64)
        })?;
        deliveries.check()?;
    }
    if drain.0.is_finished() {
        bail!("the publisher lost its connection");
    }
    watch.finish()
}

/// The subscribers of a fan-out, each reading in its own task.
struct Deliveries {
    shared: Rc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    count: Cell<u64>,
    probed: Cell<usize>,
    failure: RefCell<Option<anyhow::Error>>,
    more: Notify,
}

impl Deliveries {
    /// Starts reading; `delivered` hears the time and number of each message.
    fn new(subscribers: Vec<Peer>, seen: Marker, delivered: impl Fn(Instant, u32) + 'static) -> Self {
        let shared = Rc::new(Shared::default());
        let (seen, delivered) = (Rc::new(seen), Rc::new(delivered));
        let mut tasks = JoinSet::new();
        for subscriber in subscribers {
            let (shared, seen, delivered) = (shared.clone(), seen.clone(), delivered.clone());
            tasks.spawn_local(async move {
                if let Err(error) = receive(subscriber, &shared, &seen, &*delivered).await {
                    shared.failure.replace(Some(error));
                    shared.more.notify_one();
                }
            });
        }
        Self { shared, tasks }
    }

    /// Publishes until every subscriber has heard something, then lets the line fall silent.
    async fn probe(&self, message: &mut impl FnMut() -> Vec<u8>, outbox: &mut Outbox) -> Result<()> {
        for _ in 0..PROBES_MAX {
            outbox.push(&message());
            outbox.flush().await?;
            tokio::time::sleep(PROBE_INTERVAL).await;
            self.check()?;
            if self.shared.probed.get() == self.tasks.len() {
                return Ok(());
            }
        }
        bail!("only {} of {} subscribers hear the publisher", self.shared.probed.get(), self.tasks.len())
    }

    fn count(&self) -> u64 {
        self.shared.count.get()
    }

    fn check(&self) -> Result<()> {
        match self.shared.failure.take() {
            Some(error) => Err(error.context("a subscriber failed")),
            None => Ok(()),
        }
    }

    async fn more(&self) {
        self.shared.more.notified().await;
    }
}

async fn receive(
    subscriber: Peer,
    shared: &Shared,
    seen: &Marker,
    delivered: &impl Fn(Instant, u32),
) -> Result<()> {
    let Peer { mut inbox, outbox: _outbox } = subscriber;
    let mut numbers = Vec::new();
    let mut probed = false;
    loop {
        let batch = inbox.batch(|message| {
            numbers.extend(seen.number(message)?);
            Ok(())
        });
        batch.await?;
        let now = clock::now();
        let mut count = 0;
        for number in numbers.drain(..) {
            if number == PROBE {
                shared.probed.set(shared.probed.get() + usize::from(!probed));
                probed = true;
            } else {
                delivered(now, number);
                count += 1;
            }
        }
        if count > 0 {
            shared.count.set(shared.count.get() + count);
            shared.more.notify_one();
        }
    }
}

/// Reads what a publisher is told (acknowledgements, pings) and forgets it.
async fn drain(mut inbox: Inbox) -> Result<()> {
    loop {
        inbox.batch(|_| Ok(())).await?;
    }
}

async fn probe(
    what: &str,
    mut message: impl FnMut() -> Vec<u8>,
    inbox: &mut Inbox,
    outbox: &mut Outbox,
    seen: &Marker,
) -> Result<()> {
    for _ in 0..PROBES_MAX {
        outbox.push(&message());
        outbox.flush().await?;
        let mut answered = false;
        let wait = async {
            while !answered {
                let batch = inbox.batch(|message| {
                    answered |= seen.number(message)? == Some(PROBE);
                    Ok(())
                });
                batch.await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        if let Ok(ended) = timeout(PROBE_INTERVAL, wait).await {
            return ended;
        }
    }
    bail!("{what} did not come");
}

/// The stopwatch of one run: skips the warm-up, then collects latencies, counts and processor time.
struct Watch {
    measure_from: Instant,
    measure: Duration,
    measuring: Option<(Instant, Cpu)>,
    ended: Option<(Instant, Cpu)>,
    latencies: Histogram<u32>,
    count: u64,
}

impl Watch {
    fn start(plan: Plan, meter: &Meter) -> Result<Self> {
        // A first reading warms the paths under /proc.
        meter.read()?;
        Ok(Self {
            measure_from: clock::now() + plan.warm_up,
            measure: plan.measure,
            measuring: None,
            ended: None,
            latencies: Histogram::new_with_bounds(1, 60_000_000_000, 3)?,
            count: 0,
        })
    }

    /// Whether the measurement is over; also notices when it begins.
    fn has_ended(&mut self, now: Instant, meter: &Meter) -> Result<bool> {
        match self.measuring {
            None if now >= self.measure_from => self.measuring = Some((now, meter.read()?)),
            Some((from, _)) if now >= from + self.measure => self.ended = Some((now, meter.read()?)),
            _ => {}
        }
        Ok(self.ended.is_some())
    }

    fn record(&mut self, latency: Duration) {
        if self.measuring.is_some() && self.ended.is_none() {
            self.count += 1;
            self.latencies.saturating_record(latency.as_nanos() as u64);
        }
    }

    fn count(&mut self, deliveries: u64) {
        if self.measuring.is_some() {
            self.count += deliveries;
        }
    }

    fn finish(self) -> Result<Sample> {
        let (Some((from, cpu_from)), Some((to, cpu_to))) = (self.measuring, self.ended) else {
            bail!("the run ended before it was measured");
        };
        if self.count == 0 {
            bail!("nothing arrived while it was measured");
        }
        let seconds = (to - from).as_secs_f64();
        let quantile = |q| self.latencies.value_at_quantile(q) as f64 / 1000.0;
        Ok(Sample {
            p50_us: quantile(0.50),
            p99_us: quantile(0.99),
            per_second: self.count as f64 / seconds,
            server_cpu_us: (cpu_to.servers - cpu_from.servers).as_secs_f64() * 1e6 / self.count as f64,
            generator_busy: (cpu_to.own - cpu_from.own).as_secs_f64() / seconds,
        })
    }
}

/// A task that ends with its owner.
struct Guard(tokio::task::JoinHandle<Result<()>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How long anything may take before the run fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How many publishes may be on their way to the slowest subscriber.
///
/// All of them in one write stay below 32 KiB. On loopback a segment holds 64 KiB, and the kernel keeps a
/// write back that the receiver's window (46 KiB after many small messages) cannot take whole, until a probe
/// fires 200 ms later.
pub(crate) const WINDOW: u64 = 128;
/// The moderate rate at which delivery latency is measured.
pub(crate) const PUBLISHES_PER_SECOND: u32 = 500;
const PROBE: u32 = 99_999_999;
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
const PROBES_MAX: usize = 100;
/// Send times of the latest messages; longer than any backlog that a run survives.
const RING_LEN: usize = 1 << 14;

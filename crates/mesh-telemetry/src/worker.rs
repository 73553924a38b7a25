//! The thread that batches spans and posts them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::SpanExporter;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::export::SHUTDOWN_TIMEOUT;
use crate::{SpanRecord, names};

/// Takes spans from the queue, in batches, to the exporter.
pub(crate) struct Worker<E> {
    exporter: E,
    scope: InstrumentationScope,
    spans_rx: mpsc::Receiver<SpanRecord>,
    stop_rx: watch::Receiver<bool>,
    dropped: Arc<AtomicU64>,
    /// Spans of the batch being posted: lost if the post is abandoned.
    in_flight: u64,
    report: Report,
}

/// What the operator was told last.
struct Report {
    collector: String,
    /// The count of dropped spans at the last warning.
    dropped: u64,
    warned_at: Option<Instant>,
    failing: bool,
}

/// Works until told to stop, then sends the rest for as long as a shutdown may take.
pub(crate) async fn run<E: SpanExporter>(mut worker: Worker<E>) {
    let mut stop_rx = worker.stop_rx.clone();
    let stopped = async move {
        stopped(&mut stop_rx).await;
        sleep(SHUTDOWN_TIMEOUT).await;
    };
    tokio::select! {
        () = worker.forward() => {}
        () = stopped => {}
    }
    worker.spans_rx.close();
    let waiting = worker.spans_rx.len() as u64;
    worker.dropped.fetch_add(worker.in_flight + waiting, Ordering::Relaxed);
}

impl<E: SpanExporter> Worker<E> {
    pub(crate) fn new(
        exporter: E,
        spans_rx: mpsc::Receiver<SpanRecord>,
        stop_rx: watch::Receiver<bool>,
        dropped: Arc<AtomicU64>,
        collector: String,
    ) -> Self {
        let scope =
            InstrumentationScope::builder(names::SCOPE).with_version(env!("CARGO_PKG_VERSION")).build();
        let report = Report { collector, dropped: 0, warned_at: None, failing: false };
        Self { exporter, scope, spans_rx, stop_rx, dropped, in_flight: 0, report }
    }

    /// Posts batches until the queue is closed and empty.
    async fn forward(&mut self) {
        loop {
            let batch = self.next_batch().await;
            if batch.is_empty() {
                return;
            }
            self.in_flight = batch.len() as u64;
            let spans = batch.into_iter().map(|span| span.into_span_data(&self.scope)).collect();
            let result = self.exporter.export(spans).await;
            if result.is_err() {
                self.dropped.fetch_add(self.in_flight, Ordering::Relaxed);
            }
            self.in_flight = 0;
            self.report.after_export(&result, self.dropped.load(Ordering::Relaxed));
        }
    }

    /// Returns the spans of the next post: a full batch, or what came within [`BATCH_DELAY`] of the
    /// first. An empty batch is the end.
    async fn next_batch(&mut self) -> Vec<SpanRecord> {
        let mut batch = Vec::new();
        let mut due = None;
        while batch.len() < BATCH_LEN_MAX {
            let room = BATCH_LEN_MAX - batch.len();
            tokio::select! {
                received = self.spans_rx.recv_many(&mut batch, room) => {
                    if received == 0 {
                        break;
                    }
                    due.get_or_insert_with(|| Instant::now() + BATCH_DELAY);
                }
                // Once closed, the queue yields what it has without waiting.
                () = stopped(&mut self.stop_rx), if !self.spans_rx.is_closed() => self.spans_rx.close(),
                () = reached(due) => break,
            }
        }
        batch
    }
}

impl Report {
    /// Tells the operator, at most once a minute, that spans were lost.
    fn after_export(&mut self, result: &Result<(), OTelSdkError>, dropped: u64) {
        let now = Instant::now();
        let due = self.warned_at.is_none_or(|at| now - at >= WARN_INTERVAL);
        if dropped > self.dropped && due {
            let error = result.as_ref().err().map(tracing::field::display);
            tracing::warn!(
                collector = self.collector,
                dropped = dropped - self.dropped,
                dropped_total = dropped,
                error,
                "spans are lost: the collector does not take them"
            );
            self.dropped = dropped;
            self.warned_at = Some(now);
            self.failing = true;
        }
        if result.is_ok() && self.failing && dropped == self.dropped {
            tracing::info!(collector = self.collector, "the collector takes spans again");
            self.failing = false;
        }
    }
}

/// Waits for the word to stop; an owner that vanished has said it.
async fn stopped(stop_rx: &mut watch::Receiver<bool>) {
    let _ = stop_rx.wait_for(|stop| *stop).await;
}

async fn reached(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// How many spans travel in one post.
const BATCH_LEN_MAX: usize = 512;

/// How long the first span of a batch waits for others. Short, since somebody may be watching.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// How long the operator has peace after a warning.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::SpanData;

    use super::*;
    use crate::export::QUEUE_LEN_MAX;
    use crate::{SpanKind, SpanStatus};

    /// Answers each post after a while, with what it is told to.
    #[derive(Clone, Debug, Default)]
    struct FakeExporter(Arc<Mutex<Fake>>);

    #[derive(Debug, Default)]
    struct Fake {
        batch_lens: Vec<usize>,
        failing: bool,
        takes: Duration,
    }

    impl SpanExporter for FakeExporter {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            let (takes, failing) = {
                let mut fake = self.0.lock().unwrap();
                fake.batch_lens.push(batch.len());
                (fake.takes, fake.failing)
            };
            sleep(takes).await;
            if failing { Err(OTelSdkError::InternalFailure("connection refused".into())) } else { Ok(()) }
        }
    }

    struct Bench {
        fake: FakeExporter,
        spans_tx: mpsc::Sender<SpanRecord>,
        stop_tx: watch::Sender<bool>,
        dropped: Arc<AtomicU64>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Bench {
        fn start(fake: Fake) -> Self {
            let fake = FakeExporter(Arc::new(Mutex::new(fake)));
            let (spans_tx, spans_rx) = mpsc::channel(QUEUE_LEN_MAX);
            let (stop_tx, stop_rx) = watch::channel(false);
            let dropped = Arc::new(AtomicU64::new(0));
            let worker = Worker::new(fake.clone(), spans_rx, stop_rx, dropped.clone(), "collector:1".into());
            Self { fake, spans_tx, stop_tx, dropped, task: tokio::spawn(run(worker)) }
        }

        fn send(&self, count: usize) {
            for _ in 0..count {
                self.spans_tx.try_send(span()).unwrap();
            }
        }

        async fn stop(self) -> (Vec<usize>, u64, Duration) {
            let began = Instant::now();
            self.stop_tx.send_replace(true);
            self.task.await.unwrap();
            let batch_lens = self.fake.0.lock().unwrap().batch_lens.clone();
            (batch_lens, self.dropped.load(Ordering::Relaxed), began.elapsed())
        }
    }

    fn span() -> SpanRecord {
        SpanRecord {
            trace_id: 1,
            span_id: 2,
            parent_span_id: None,
            name: "m".into(),
            kind: SpanKind::Internal,
            start_unix_nanos: 1,
            end_unix_nanos: 2,
            attributes: Vec::new(),
            status: SpanStatus::Ok,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn batches_by_time_and_by_number() {
        let bench = Bench::start(Fake::default());
        bench.send(3);
        sleep(BATCH_DELAY / 2).await;
        bench.send(2);
        sleep(BATCH_DELAY).await;
        bench.send(BATCH_LEN_MAX + 1);
        sleep(BATCH_DELAY * 2).await;
        assert_eq!(bench.stop().await, (vec![5, BATCH_LEN_MAX, 1], 0, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn sends_the_rest_at_the_end() {
        let bench = Bench::start(Fake { takes: Duration::from_millis(10), ..Fake::default() });
        bench.send(QUEUE_LEN_MAX);
        let (batch_lens, dropped, took) = bench.stop().await;
        assert_eq!((batch_lens, dropped), (vec![BATCH_LEN_MAX; QUEUE_LEN_MAX / BATCH_LEN_MAX], 0));
        assert!(took < Duration::from_secs(1), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_in_time_and_counts() {
        let bench = Bench::start(Fake { takes: Duration::from_secs(60), ..Fake::default() });
        bench.send(700);
        let (_, dropped, took) = bench.stop().await;
        assert_eq!((dropped, took), (700, SHUTDOWN_TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn warns_once_a_minute_and_tells_the_recovery() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        let _guard = tracing::subscriber::set_default(subscriber);

        let bench = Bench::start(Fake { failing: true, ..Fake::default() });
        // Two minutes and a half without a collector, a span each second.
        for _ in 0..150 {
            bench.send(1);
            sleep(Duration::from_secs(1)).await;
        }
        sleep(Duration::from_secs(2)).await;
        assert_eq!(bench.dropped.load(Ordering::Relaxed), 150);
        let warnings = log.lines("WARN");
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(
            warnings[0].contains("collector:1") && warnings[0].contains("connection refused"),
            "{warnings:?}"
        );

        bench.fake.0.lock().unwrap().failing = false;
        for _ in 0..90 {
            bench.send(1);
            sleep(Duration::from_secs(1)).await;
        }
        let (_, dropped, _) = bench.stop().await;
        assert_eq!(dropped, 150);
        // The losses since the third warning are still told, and then the recovery.
        assert_eq!(log.lines("WARN").len(), 4);
        assert_eq!(log.lines("INFO").len(), 1);
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        fn lines(&self, level: &str) -> Vec<String> {
            let bytes = self.0.lock().unwrap().clone();
            let text = String::from_utf8(bytes).unwrap();
            text.lines().filter(|line| line.contains(level)).map(str::to_owned).collect()
        }
    }

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

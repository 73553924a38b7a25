//! The figures as text, Markdown and JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::load::{PUBLISHES_PER_SECOND, Sample, WINDOW};
use crate::machine::Machine;
use crate::protocol::{PAYLOAD_BYTES, SUBSCRIBERS};
use crate::scenario::Scenario;
use crate::system::System;

/// Everything one run of the bench found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    rounds: usize,
    measure_ms: u128,
    payload_bytes: usize,
    subscribers: usize,
    window: u64,
    publishes_per_second: u32,
    systems: Vec<Measured>,
    skipped: BTreeMap<&'static str, String>,
    failures: Vec<String>,
    ratios: Vec<Ratio>,
}

/// One system's figures.
#[derive(Debug, Serialize)]
struct Measured {
    system: System,
    version: String,
    /// Resident memory of each process after start, before any client; the median of the rounds.
    idle_rss_kib: Vec<u64>,
    /// The same after the last scenario.
    used_rss_kib: Vec<u64>,
    scenarios: Vec<Figures>,
}

/// The best round and the median of all, figure by figure.
///
/// Noise only ever adds: a round in which the scheduler or a neighbour got in the way says less about a
/// system than one in which nobody did. So comparisons use the best, and the median tells how far it is.
#[derive(Debug, Serialize)]
struct Figures {
    scenario: Scenario,
    best: Sample,
    median: Sample,
    rounds: Vec<Sample>,
}

/// A system compared with others in one scenario; a missing one is null.
///
/// Latency ratios below 1 and rate ratios above 1 are better than what is compared with.
#[derive(Debug, Serialize)]
struct Ratio {
    system: System,
    scenario: Scenario,
    p50_to_floor: Option<f64>,
    p50_to_gateway_ws: Option<f64>,
    p50_to_nats: Option<f64>,
    rate_to_floor: Option<f64>,
    rate_to_gateway_ws: Option<f64>,
    rate_to_nats: Option<f64>,
}

/// Collects samples while the bench runs.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    versions: BTreeMap<System, String>,
    skipped: BTreeMap<&'static str, String>,
    failures: Vec<String>,
    samples: BTreeMap<(System, Scenario), Vec<Sample>>,
    idle_rss_kib: BTreeMap<System, Vec<Vec<u64>>>,
    used_rss_kib: BTreeMap<System, Vec<Vec<u64>>>,
}

impl Collector {
    /// Notes a system that will run.
    pub(crate) fn prepared(&mut self, system: System, version: String) {
        self.versions.insert(system, version);
    }

    /// Notes a system that is missing, and why.
    pub(crate) fn skipped(&mut self, system: System, why: String) {
        self.skipped.insert(system.name(), why);
    }

    /// Notes a run that failed.
    pub(crate) fn failed(&mut self, what: String) {
        self.failures.push(what);
    }

    /// Whether any run failed.
    pub(crate) fn has_failures(&self) -> bool {
        !self.failures.is_empty()
    }

    /// Adds one run.
    pub(crate) fn sample(&mut self, system: System, scenario: Scenario, sample: Sample) {
        self.samples.entry((system, scenario)).or_default().push(sample);
    }

    /// Adds resident memory of a system's processes, before and after its scenarios.
    pub(crate) fn memory(&mut self, system: System, idle_kib: Vec<u64>, used_kib: Vec<u64>) {
        self.idle_rss_kib.entry(system).or_default().push(idle_kib);
        self.used_rss_kib.entry(system).or_default().push(used_kib);
    }

    /// Takes the medians and compares.
    pub(crate) fn finish(self, machine: Machine, rounds: usize, measure_ms: u128) -> Report {
        let systems: Vec<_> = self
            .versions
            .iter()
            .map(|(&system, version)| Measured {
                system,
                version: version.clone(),
                idle_rss_kib: median_columns(self.idle_rss_kib.get(&system)),
                used_rss_kib: median_columns(self.used_rss_kib.get(&system)),
                scenarios: Scenario::ALL
                    .into_iter()
                    .filter_map(|scenario| {
                        let rounds = self.samples.get(&(system, scenario))?.clone();
                        Some(Figures {
                            scenario,
                            best: best_sample(&rounds),
                            median: median_sample(&rounds),
                            rounds,
                        })
                    })
                    .collect(),
            })
            .collect();
        let mut report = Report {
            machine,
            rounds,
            measure_ms,
            payload_bytes: PAYLOAD_BYTES,
            subscribers: SUBSCRIBERS,
            window: WINDOW,
            publishes_per_second: PUBLISHES_PER_SECOND,
            systems,
            skipped: self.skipped,
            failures: self.failures,
            ratios: Vec::new(),
        };
        report.ratios = report.compare();
        report
    }
}

impl Report {
    /// Plain text for a terminal.
    pub(crate) fn text(&self) -> String {
        self.render(Table::text, "", "")
    }

    /// Markdown for documentation.
    pub(crate) fn markdown(&self) -> String {
        self.render(Table::markdown, "### ", "- ")
    }

    fn render(&self, table: fn(&Table) -> String, heading: &str, item: &str) -> String {
        let mut out = String::new();
        for line in self.facts() {
            let _ = writeln!(out, "{item}{line}");
        }
        for made in self.tables() {
            let _ = write!(out, "\n{heading}{}\n\n{}", made.title, table(&made));
        }
        out
    }

    fn facts(&self) -> Vec<String> {
        let Machine { cores, processor, kernel, memory_mib, load_average } = &self.machine;
        let mut facts = vec![
            format!(
                "{cores} cores ({processor}), {memory_mib} MiB of memory, Linux {kernel}; \
                 load average before the run {load_average}"
            ),
            format!(
                "{} rounds of {} ms per scenario; {} bytes of payload; window of {} publishes, \
                 latency of a fan-out at {} publishes per second",
                self.rounds, self.measure_ms, self.payload_bytes, self.window, self.publishes_per_second
            ),
        ];
        if cfg!(debug_assertions) {
            facts.push("load generator and floors are a debug build: these figures mean little".to_owned());
        }
        facts.extend(
            self.systems.iter().map(|measured| {
                format!("{}: {}", measured.system.title(), measured.version.replace('\n', " "))
            }),
        );
        facts.extend(self.skipped.iter().map(|(name, why)| format!("{name} skipped: {why}")));
        facts.extend(self.failures.iter().map(|what| format!("failed: {what}")));
        facts
    }

    fn tables(&self) -> Vec<Table> {
        let mut tables: Vec<_> =
            Scenario::ALL.into_iter().map(|scenario| self.scenario_table(scenario)).collect();
        tables.push(self.ratio_table());
        tables.push(self.memory_table());
        tables.retain(|table| !table.rows.is_empty());
        tables
    }

    fn scenario_table(&self, scenario: Scenario) -> Table {
        let mut table = Table::new(
            scenario.title(),
            [
                "system",
                "p50 µs",
                "p99 µs",
                "per second",
                "median p50 µs",
                "median per second",
                "server CPU µs each",
                "generator busy",
            ],
        );
        for measured in &self.systems {
            let Some(Figures { best, median, .. }) = measured.figures(scenario) else { continue };
            table.rows.push(vec![
                measured.system.title().to_owned(),
                format!("{:.0}", best.p50_us),
                format!("{:.0}", best.p99_us),
                thousands(best.per_second),
                format!("{:.0}", median.p50_us),
                thousands(median.per_second),
                format!("{:.2}", best.server_cpu_us),
                format!("{:.0} %", best.generator_busy * 100.0),
            ]);
        }
        table
    }

    fn ratio_table(&self) -> Table {
        let mut table = Table::new(
            "ratios (p50: below 1 is better; rate: above 1 is better)",
            [
                "system",
                "scenario",
                "p50 / floor",
                "p50 / gateway-ws",
                "p50 / NATS",
                "rate / floor",
                "rate / gateway-ws",
                "rate / NATS",
            ],
        );
        for ratio in &self.ratios {
            let cell = |value: Option<f64>| value.map_or("–".to_owned(), ratio_text);
            table.rows.push(vec![
                ratio.system.title().to_owned(),
                ratio.scenario.title().to_owned(),
                cell(ratio.p50_to_floor),
                cell(ratio.p50_to_gateway_ws),
                cell(ratio.p50_to_nats),
                cell(ratio.rate_to_floor),
                cell(ratio.rate_to_gateway_ws),
                cell(ratio.rate_to_nats),
            ]);
        }
        table
    }

    fn memory_table(&self) -> Table {
        let mut table =
            Table::new("resident memory per process", ["system", "idle MiB", "after the load MiB"]);
        let cell = |kib: &[u64]| {
            kib.iter().map(|kib| format!("{:.1}", *kib as f64 / 1024.0)).collect::<Vec<_>>().join(" + ")
        };
        for measured in self.systems.iter().filter(|measured| !measured.idle_rss_kib.is_empty()) {
            table.rows.push(vec![
                measured.system.title().to_owned(),
                cell(&measured.idle_rss_kib),
                cell(&measured.used_rss_kib),
            ]);
        }
        table
    }

    fn compare(&self) -> Vec<Ratio> {
        let figures = |system: System, scenario| {
            let measured = self.systems.iter().find(|measured| measured.system == system)?;
            Some(measured.figures(scenario)?.best)
        };
        let mut ratios = Vec::new();
        for measured in &self.systems {
            let system = measured.system;
            if system == system.floor() {
                continue;
            }
            for scenario in Scenario::ALL {
                let Some(own) = figures(system, scenario) else { continue };
                let to = |other: System| figures(other, scenario).filter(|_| other != system);
                let p50 = |other: System| Some(own.p50_us / to(other)?.p50_us);
                let rate = |other: System| Some(own.per_second / to(other)?.per_second);
                ratios.push(Ratio {
                    system,
                    scenario,
                    p50_to_floor: p50(system.floor()),
                    p50_to_gateway_ws: p50(System::GatewayWs),
                    p50_to_nats: p50(system.nats()),
                    rate_to_floor: rate(system.floor()),
                    rate_to_gateway_ws: rate(System::GatewayWs),
                    rate_to_nats: rate(system.nats()),
                });
            }
        }
        ratios
    }
}

impl Measured {
    fn figures(&self, scenario: Scenario) -> Option<&Figures> {
        self.scenarios.iter().find(|figures| figures.scenario == scenario)
    }
}

struct Table {
    title: &'static str,
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new<const N: usize>(title: &'static str, header: [&'static str; N]) -> Self {
        Self { title, header: header.to_vec(), rows: Vec::new() }
    }

    fn text(&self) -> String {
        let widths: Vec<_> = (0..self.header.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| row[column].chars().count());
                cells.max().unwrap_or(0).max(self.header[column].chars().count())
            })
            .collect();
        let mut out = String::new();
        let header = self.header.iter().map(|&cell| cell.to_owned()).collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for ((column, cell), width) in row.iter().enumerate().zip(&widths) {
                let pad = " ".repeat(width - cell.chars().count());
                // Words to the left, figures to the right.
                let is_word = self.rows[0][column].starts_with(char::is_alphabetic);
                line += &if is_word { format!("{cell}{pad}  ") } else { format!("{pad}{cell}  ") };
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }

    fn markdown(&self) -> String {
        let mut out = format!("| {} |\n|", self.header.join(" | "));
        for cell in &self.rows[0] {
            out += if cell.starts_with(char::is_alphabetic) { "---|" } else { "---:|" };
        }
        out.push('\n');
        for row in &self.rows {
            let _ = writeln!(out, "| {} |", row.join(" | "));
        }
        out
    }
}

/// Latencies of the round with the lowest median, the rest of the round with the highest rate.
fn best_sample(rounds: &[Sample]) -> Sample {
    let quickest = rounds.iter().min_by(|a, b| a.p50_us.total_cmp(&b.p50_us));
    let busiest = rounds.iter().max_by(|a, b| a.per_second.total_cmp(&b.per_second));
    match (quickest, busiest) {
        (Some(&Sample { p50_us, p99_us, .. }), Some(&busiest)) => Sample { p50_us, p99_us, ..busiest },
        _ => Sample::default(),
    }
}

fn median_sample(rounds: &[Sample]) -> Sample {
    let of = |field: fn(&Sample) -> f64| median(rounds.iter().map(field).collect());
    Sample {
        p50_us: of(|sample| sample.p50_us),
        p99_us: of(|sample| sample.p99_us),
        per_second: of(|sample| sample.per_second),
        server_cpu_us: of(|sample| sample.server_cpu_us),
        generator_busy: of(|sample| sample.generator_busy),
    }
}

fn median_columns(rounds: Option<&Vec<Vec<u64>>>) -> Vec<u64> {
    let Some(rounds) = rounds else { return Vec::new() };
    let columns = rounds.iter().map(Vec::len).min().unwrap_or(0);
    (0..columns)
        .map(|column| median(rounds.iter().map(|round| round[column] as f64).collect()) as u64)
        .collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

fn ratio_text(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.4}") } else { format!("{ratio:.2}") }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_round_is_compared_and_the_median_is_shown() {
        let sample = |p50_us, per_second| Sample { p50_us, per_second, ..Sample::default() };
        let mut collector = Collector::default();
        for (system, p50_us) in [(System::FloorWs, 10.0), (System::Deskmesh1, 15.0)] {
            collector.prepared(system, "1".to_owned());
            for round in [sample(p50_us, 3000.0), sample(p50_us + 100.0, 5000.0), sample(p50_us + 2.0, 1.0)] {
                collector.sample(system, Scenario::InvokeOne, round);
            }
        }
        let report = collector.finish(Machine::read(), 3, 100);
        let [ratio] = &report.ratios[..] else { panic!("{:?}", report.ratios) };
        assert_eq!((ratio.p50_to_floor, ratio.rate_to_floor), (Some(1.5), Some(1.0)));
        assert_eq!(ratio.p50_to_nats, None);
        assert!(
            report.markdown().contains("| deskmesh, one node | 15 | 0 | 5 000 | 17 | 3 000 |"),
            "{}",
            report.markdown()
        );
        assert!(report.text().contains("deskmesh, one node"));
    }
}

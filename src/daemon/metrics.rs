//! What is counted, and how Prometheus sees it. The loop owns plain numbers; the text is made of a copy of them.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::status::StatusBody;
use crate::machine::kv::{command::CommandId, operation};
use crate::protocol::peer::TransferReason;
use crate::replica::{Event, Role, TransferStatus};
use crate::resp::CommandStat;

/// Bounds of a histogram's buckets, in seconds.
const TURN_BOUNDS: [f64; 9] = [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.02, 0.125, 0.5];
const CUT_OVER_BOUNDS: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Counts of durations by bucket.
#[derive(Debug, Clone)]
pub struct Histogram {
    bounds: [f64; 9],
    counts: [u64; 10],
    sum: f64,
}

impl Histogram {
    fn new(bounds: [f64; 9]) -> Self {
        Self { bounds, counts: [0; 10], sum: 0.0 }
    }

    /// Counts one duration.
    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.bounds.len());
        self.counts[bucket] += 1;
        self.sum += seconds;
    }
}

/// Everything that is counted since the start.
#[derive(Debug, Clone)]
pub struct Counters {
    /// Operations executed.
    pub operations: u64,
    /// Connections of clients.
    pub connections: u64,
    /// Connections of clients turned away.
    pub rejected: u64,
    /// Bytes read from clients.
    pub input_bytes: u64,
    /// Bytes written to clients.
    pub output_bytes: u64,
    /// Events by name.
    pub events: BTreeMap<&'static str, u64>,
    /// How often each way was taken to fill a follower, by why.
    rejoins: BTreeMap<&'static str, u64>,
    /// Duration of turns.
    pub turns: Histogram,
    /// From suspicion (or request) to serving.
    pub cut_overs: Histogram,
    /// Writes to the journal, with their sync in mode `sync`.
    pub journal: Histogram,
    /// Calls of the built-in machine's commands on the Redis port, by number.
    commands: Vec<u64>,
    /// Errors told on the Redis port, by their code.
    errors: BTreeMap<String, u64>,
    /// What was already counted when Redis' own counters were reset.
    baseline: [u64; 5],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            operations: 0,
            connections: 0,
            rejected: 0,
            input_bytes: 0,
            output_bytes: 0,
            events: BTreeMap::new(),
            rejoins: BTreeMap::new(),
            turns: Histogram::new(TURN_BOUNDS),
            cut_overs: Histogram::new(CUT_OVER_BOUNDS),
            journal: Histogram::new(TURN_BOUNDS),
            commands: Vec::new(),
            errors: BTreeMap::new(),
            baseline: [0; 5],
        }
    }
}

/// Codes of errors that are counted one by one.
const MOST_CODES: usize = 64;

impl Counters {
    /// Counts an event under its name.
    pub fn event(&mut self, name: &'static str, event: &Event) {
        *self.events.entry(name).or_default() += 1;
        let way = match event {
            Event::CutOver { took_us, .. } => return self.cut_overs.observe(Duration::from_micros(*took_us)),
            Event::DeltaRejoin { .. } => "delta",
            Event::TransferResumed { .. } => "transfer resumed",
            Event::TransferStarted { .. } => "transfer: holds nothing",
            Event::NeedsTransfer { reason: TransferReason::Diverged { .. }, .. } => "state diverged",
            Event::NeedsTransfer { reason: TransferReason::LogTooShort, .. } => "log too short",
            _ => return,
        };
        *self.rejoins.entry(way).or_default() += 1;
    }

    fn all(&self) -> [u64; 5] {
        [self.operations, self.connections, self.rejected, self.input_bytes, self.output_bytes]
    }

    /// CONFIG RESETSTAT: Redis' figures start from nothing; Prometheus' never go back.
    pub fn reset_redis(&mut self) {
        self.baseline = self.all();
        self.commands.clear();
        self.errors.clear();
    }

    /// Counts a call on the Redis port, and its reply as far as it is known.
    pub fn called(&mut self, operation: &[u8], reply: &[u8]) {
        if let Ok(command) = operation::command(operation) {
            let number = command as usize;
            if number >= self.commands.len() {
                self.commands.resize(number + 1, 0);
            }
            self.commands[number] += 1;
        }
        self.replied(reply);
    }

    /// Counts the reply if it is an error, in whatever protocol: they all begin alike.
    pub fn replied(&mut self, reply: &[u8]) {
        let Some(text) = reply.strip_prefix(b"-") else { return };
        let code = text.split(|byte| matches!(byte, b' ' | b'\r')).next().unwrap_or_default();
        let code = String::from_utf8_lossy(&code[..code.len().min(32)]).into_owned();
        if self.errors.len() < MOST_CODES || self.errors.contains_key(&code) {
            *self.errors.entry(code).or_default() += 1;
        }
    }

    /// Calls by command. How long each took is not measured: a look at the clock costs as much as the command.
    pub fn command_stats(&self) -> Vec<CommandStat> {
        let calls = (0..).zip(&self.commands).filter(|(_, calls)| **calls > 0);
        calls
            .filter_map(|(number, calls)| {
                let name = CommandId::from_number(number)?.spec().name.to_owned();
                Some(CommandStat { name, calls: *calls, microseconds: 0 })
            })
            .collect()
    }

    /// Error replies by their code.
    pub fn error_stats(&self) -> Vec<(String, u64)> {
        self.errors.iter().map(|(code, count)| (code.clone(), *count)).collect()
    }

    /// Operations, connections, rejected ones, bytes in and bytes out, as INFO shows them.
    pub fn redis(&self) -> [u64; 5] {
        let mut shown = self.all();
        for (shown, before) in shown.iter_mut().zip(self.baseline) {
            *shown -= before;
        }
        shown
    }
}

#[derive(Debug)]
struct Page {
    status: StatusBody,
    counters: Counters,
}

const ROLES: [(Role, &str); 8] = [
    (Role::Starting, "starting"),
    (Role::Joining, "joining"),
    (Role::Spare, "spare"),
    (Role::Backup, "backup"),
    (Role::TakingOver, "taking_over"),
    (Role::Primary, "primary"),
    (Role::Fenced, "fenced"),
    (Role::Stopped, "stopped"),
];

impl Page {
    fn gauges(&self, encoder: &mut DescriptorEncoder) -> std::fmt::Result {
        let status = &self.status;
        let mut one = |name: &str, help: &str, value: u64| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
        };
        one("cutover_epoch_number", "Highest epoch known", status.epoch)?;
        one("cutover_log_index", "Last index of the log", status.index)?;
        one("cutover_committed_index", "Last committed index known", status.committed)?;
        one("cutover_applied_index", "Last applied index", status.applied)?;
        one("cutover_persisted_index", "Last index in the own journal, as durable as the mode says", status.persisted)?;
        one("cutover_snapshot_index", "Last index of the newest snapshot on disk", status.snapshot_index)?;
        one(
            "cutover_waits_for_seize_state",
            "1 when an operator must decide",
            u64::from(status.waits_for_seize.is_some()),
        )?;
        one("cutover_lag_entries", "Entries known and not applied", status.lag_entries)?;
        one("cutover_log_bytes", "Bytes of the log", status.log_bytes)?;
        one("cutover_machine_bytes", "Bytes of the state, roughly", status.machine_bytes)?;
        one("cutover_in_sync_state", "1 when this replica is in sync", u64::from(status.in_sync))?;
        one("cutover_serving_state", "1 when this replica executes operations", u64::from(status.serving))?;
        one("cutover_sessions_open", "Open sessions", status.sessions as u64)?;
        one("cutover_clients_connected", "Connected clients", status.clients as u64)?;
        one("cutover_client_bytes", "Bytes that clients have waiting", status.client_bytes)?;
        let members = status.record.as_ref().map_or(0, |record| record.in_sync.len());
        one("cutover_in_sync_replicas", "Replicas that the record names in sync", members as u64)?;
        let age = ConstGauge::new(f64::from(status.journal_age_ms) / 1000.0);
        let help = "Age of the oldest write that the disk has not done";
        age.encode(encoder.encode_descriptor("cutover_journal_age_seconds", help, None, MetricType::Gauge)?)?;
        let lag = ConstGauge::new(status.lag_ms as f64 / 1000.0);
        let help = "Time since the primary was heard";
        lag.encode(encoder.encode_descriptor("cutover_lag_seconds", help, None, MetricType::Gauge)?)
    }

    fn families(&self, encoder: &mut DescriptorEncoder) -> std::fmt::Result {
        let help = "1 for the role that the replica has";
        let mut roles = encoder.encode_descriptor("cutover_replica_role", help, None, MetricType::Gauge)?;
        for (role, name) in ROLES {
            let gauge = ConstGauge::new(i64::from(self.status.role == role));
            gauge.encode(roles.encode_family(&[("role", name)])?)?;
        }
        let mode = self.status.durability.clone();
        let mut modes = encoder.encode_descriptor("cutover_durability_mode", "The mode", None, MetricType::Gauge)?;
        ConstGauge::new(1i64).encode(modes.encode_family(&[("mode", mode)])?)?;
        self.followers(encoder)?;
        self.transfers(encoder)?;
        let mut events = encoder.encode_descriptor("cutover_events", "Events by name", None, MetricType::Counter)?;
        for (name, count) in &self.counters.events {
            ConstCounter::new(*count).encode(events.encode_family(&[("event", *name)])?)?;
        }
        let about = "Ways in which followers got what they missed, and reasons why nothing less would do";
        let mut rejoins = encoder.encode_descriptor("cutover_rejoins", about, None, MetricType::Counter)?;
        for (way, count) in &self.counters.rejoins {
            ConstCounter::new(*count).encode(rejoins.encode_family(&[("way", *way)])?)?;
        }
        Ok(())
    }

    fn followers(&self, encoder: &mut DescriptorEncoder) -> std::fmt::Result {
        type Figure = fn(&super::status::FollowerBody) -> f64;
        let figures: [(&str, &str, Figure); 2] = [
            ("cutover_follower_lag_entries", "Entries a follower has not acknowledged", |f| f.lag_entries as f64),
            ("cutover_follower_silence_seconds", "Time since its last acknowledgement", |f| {
                f.silence_ms as f64 / 1000.0
            }),
        ];
        for (name, help, figure) in figures {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for follower in &self.status.followers {
                let labels = [("replica", follower.name.as_str())];
                ConstGauge::new(figure(follower)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// The transfers that this replica sends, and the one it gets, under the name of the replica that gets it.
    fn transfers(&self, encoder: &mut DescriptorEncoder) -> std::fmt::Result {
        type Figure = fn(&TransferStatus) -> f64;
        let figures: [(&str, &str, Figure); 6] = [
            ("cutover_transfer_bytes", "Bytes of the state transfer so far", |it| it.bytes as f64),
            ("cutover_transfer_expected_bytes", "Bytes that it will have, roughly", |it| it.of_bytes as f64),
            ("cutover_transfer_entries", "Entries (keys) transferred so far", |it| it.entries as f64),
            ("cutover_transfer_expected_entries", "Entries that the snapshot has", |it| it.of_entries as f64),
            ("cutover_transfer_bytes_per_second", "Its rate since it began", |it| it.bytes_per_s as f64),
            ("cutover_transfer_left_seconds", "Time left at that rate", |it| {
                it.left_ms.unwrap_or_default() as f64 / 1000.0
            }),
        ];
        let sent = self.status.followers.iter().filter_map(|it| Some((it.name.as_str(), it.transfer?)));
        let gets = self.status.receiving.map(|transfer| (self.status.name.as_str(), transfer));
        let all: Vec<_> = sent.chain(gets).collect();
        for (name, help, figure) in figures {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (replica, transfer) in &all {
                let labels = [("replica", *replica)];
                ConstGauge::new(figure(transfer)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn counters(&self, encoder: &mut DescriptorEncoder) -> std::fmt::Result {
        let counters = &self.counters;
        let figures = [
            ("cutover_operations_executed", "Operations executed", counters.operations),
            ("cutover_connections_accepted", "Connections of clients", counters.connections),
            ("cutover_connections_rejected", "Connections of clients turned away", counters.rejected),
            ("cutover_client_input_bytes", "Bytes read from clients", counters.input_bytes),
            ("cutover_client_output_bytes", "Bytes written to clients", counters.output_bytes),
        ];
        for (name, help, value) in figures {
            ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let histograms = [
            ("cutover_turn_seconds", "Duration of the loop's turns", &counters.turns),
            ("cutover_journal_write_seconds", "One write to the journal, with its sync", &counters.journal),
            ("cutover_cut_over_seconds", "From suspicion or request to serving", &counters.cut_overs),
        ];
        for (name, help, histogram) in histograms {
            let bounds = histogram.bounds.iter().copied().chain(std::iter::once(f64::INFINITY));
            let buckets: Vec<(f64, u64)> = bounds.zip(histogram.counts).collect();
            let count = histogram.counts.iter().sum();
            encoder.encode_descriptor(name, help, None, MetricType::Histogram)?.encode_histogram::<NoLabelSet>(
                histogram.sum,
                count,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
        self.gauges(&mut encoder)?;
        self.families(&mut encoder)?;
        self.counters(&mut encoder)
    }
}

/// The text of `/metrics`.
pub fn page(status: StatusBody, counters: Counters) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page { status, counters }));
    let mut out = String::new();
    // Writing into a String fails only if a collector does, and ours writes nothing but numbers.
    let _ = text::encode(&mut out, &registry);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::kv::request;

    #[test]
    fn calls_and_errors_are_counted_until_they_are_reset() {
        let mut counters = Counters::default();
        counters.called(&request("GET", &[b"k"]), b"_\r\n");
        counters.called(&request("GET", &[b"l"]), b"-WRONGTYPE Operation against\r\n");
        counters.replied(b"-ERR unknown command\r\n");
        counters.replied(b"+OK\r\n");
        let get = CommandStat { name: "GET".into(), calls: 2, microseconds: 0 };
        assert_eq!(counters.command_stats(), [get]);
        assert_eq!(counters.error_stats(), [("ERR".to_owned(), 1), ("WRONGTYPE".to_owned(), 1)]);
        for number in 0..1000 {
            counters.replied(format!("-CODE{number} x\r\n").as_bytes());
        }
        assert_eq!(counters.error_stats().len(), MOST_CODES);
        counters.reset_redis();
        assert_eq!((counters.command_stats(), counters.error_stats()), (vec![], vec![]));
    }
}

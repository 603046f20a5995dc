//! What `/metrics` tells, in Prometheus' form.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::protocol::{ArbiterRole, ArbiterStatus, Question};
use crate::record::Answer;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Change {
    change: &'static str,
    answer: &'static str,
}

/// All metrics of one arbiter.
pub(super) struct Metrics {
    registry: Registry,
    term: Gauge,
    leading: Gauge,
    has_leader: Gauge,
    commit: Gauge,
    applied: Gauge,
    groups: Gauge,
    callers: Gauge,
    leader_changes: Counter,
    questions: Family<Kind, Counter>,
    answers: Family<Change, Counter>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("cutover_arbiter");
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let (term, leading) = (gauge("term", "Raft term"), gauge("leading", "1 when this arbiter leads"));
        let has_leader = gauge("has_leader", "1 when this arbiter knows a leader");
        let commit = gauge("commit_index", "Last log index known to be committed");
        let applied = gauge("applied_index", "Last log index applied");
        let groups = gauge("groups", "Groups with a record");
        let callers = gauge("callers", "Connected replicas, clients and operators");
        let (leader_changes, questions) = (Counter::default(), Family::default());
        let answers = Family::default();
        registry.register("leader_changes", "How often the known leader changed", leader_changes.clone());
        registry.register("questions", "Questions asked by callers of this arbiter", questions.clone());
        registry.register("answers", "Proposals decided, as applied here", answers.clone());
        Self {
            registry,
            term,
            leading,
            has_leader,
            commit,
            applied,
            groups,
            callers,
            leader_changes,
            questions,
            answers,
        }
    }

    pub(super) fn callers(&self, callers: usize) {
        self.callers.set(callers as i64);
    }

    pub(super) fn leader_changed(&self) {
        self.leader_changes.inc();
    }

    pub(super) fn question(&self, question: &Question) {
        let kind = match question {
            Question::TestAndSet(_) => "test_and_set",
            Question::Read(_) => "read",
            Question::History(_) => "history",
            Question::Groups => "groups",
            Question::Status => "status",
        };
        self.questions.get_or_create(&Kind { kind }).inc();
    }

    pub(super) fn answer(&self, change: &'static str, answer: &Answer) {
        let answer = match answer {
            Answer::Granted(_) => "granted",
            Answer::Refused { .. } => "refused",
        };
        self.answers.get_or_create(&Change { change, answer }).inc();
    }

    /// Everything as text, with what `status` says.
    pub(super) fn encode(&self, status: &ArbiterStatus) -> Result<String, fmt::Error> {
        self.term.set(status.term as i64);
        self.leading.set(i64::from(status.role == ArbiterRole::Leader));
        self.has_leader.set(i64::from(status.leader.is_some()));
        self.commit.set(status.commit as i64);
        self.applied.set(status.applied as i64);
        self.groups.set(status.groups as i64);
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

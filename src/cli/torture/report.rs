//! What a run found, for people and for scripts.

use serde::Serialize;

use crate::history::Verdict;
use crate::history::linear;

use super::recording::Line;
use super::workload::Tally;

/// What is said of the digests when the group has one copy at the end: that is not this check's failure, and it is no
/// comparison either.
pub const ONE_COPY: &str = "not compared: there is one copy";

/// What `--json` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// True when nothing is wrong and everything was checked.
    pub ok: bool,
    /// Additions that were answered.
    pub acked: u64,
    /// Additions of which nobody knows: their deadline passed.
    pub unknown: u64,
    /// Operations that were certainly not executed, and were told so.
    pub refused: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Acknowledged additions, or ones shown to a reader, that are not there.
    pub lost: u64,
    /// Additions that are there more often than asked for.
    pub duplicated: u64,
    /// Additions out of order.
    pub reordered: u64,
    /// Reads that missed what was known before they began.
    pub stale: u64,
    /// Things there, or seen, that nobody asked for.
    pub phantom: u64,
    /// Is there one order of all operations in which every answer holds?
    #[serde(flatten)]
    pub order: Order,
    /// The file that holds everything the clients did, if one was asked for.
    pub history: Option<String>,
    /// Why that file was not written.
    pub history_error: Option<String>,
    /// Answers that no such operation ever gets.
    pub surprises: u64,
    /// The longest interval in which no client got an answer, in milliseconds.
    pub longest_gap_ms: u64,
    /// All such intervals of 20 ms or more, in the order of their start.
    pub gaps_ms: Vec<u64>,
    /// How many intervals there were between two answers, by length.
    pub gap_histogram: Vec<Bucket>,
    /// How often the primary changed, the final cut-over included.
    pub cutovers: u64,
    /// The cut-over forced at the end, if there were two in sync.
    pub final_cutover: Option<FinalCutover>,
    /// `complete`, or what could not be read.
    pub read_back: String,
    /// `equal`, `differ`, `skipped`, [`ONE_COPY`], or why they could not be compared.
    pub digests: String,
    /// How long the clients worked, in milliseconds.
    pub duration_ms: u64,
    /// To run the same choices again.
    pub seed: u64,
    /// What a person should know.
    pub notes: Vec<String>,
    /// The first violations, by name.
    pub offences: Vec<String>,
}

/// The checker's verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Order {
    /// `yes`, `no`, `undecided`; the empty string before it was judged.
    pub linearisable: String,
    /// Why, unless it is `yes`.
    pub linearisable_why: Option<String>,
    /// The answers that fit into no order, with their operations, if it is `no`.
    pub offending_window: Vec<Line>,
}

impl Order {
    /// Takes over what the checker found.
    pub fn judge(&mut self, verdict: &linear::Verdict) {
        let (word, window) = match verdict {
            linear::Verdict::Yes => ("yes", None),
            linear::Verdict::No(window) => ("no", Some(window)),
            linear::Verdict::Undecided { .. } => ("undecided", None),
        };
        self.linearisable = word.to_owned();
        self.linearisable_why = (*verdict != linear::Verdict::Yes).then(|| verdict.to_string());
        self.offending_window = window.map_or_else(Vec::new, |window| window.calls.iter().map(Line::of).collect());
    }

    /// What is wrong: undecided is no proof of anything.
    pub fn wrong(&self) -> Option<String> {
        (self.linearisable != "yes").then(|| match self.linearisable.as_str() {
            "no" => String::from("not linearisable"),
            _ => String::from("linearisable: undecided"),
        })
    }

    fn text(&self) -> String {
        format!("linearisable {}\n", self.linearisable_why.as_deref().unwrap_or(&self.linearisable))
    }
}

/// What `--check` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// Operations in the file.
    pub operations: u64,
    /// Whether every object was read back at the end of the run.
    pub read_back_complete: bool,
    /// The verdict.
    #[serde(flatten)]
    pub order: Order,
}

impl Judged {
    /// One JSON object on one line.
    pub fn json(&self) -> String {
        one_line(self)
    }

    /// For people.
    pub fn text(&self) -> String {
        let read_back = if self.read_back_complete { "complete" } else { "not complete" };
        format!("operations  {}\nread back   {read_back}\n{}", self.operations, self.order.text())
    }

    /// What is wrong, or was not checked.
    pub fn wrong(&self) -> Option<String> {
        let unread = (!self.read_back_complete).then(|| String::from("not everything was read back at the end"));
        self.order.wrong().or(unread)
    }
}

fn one_line(report: &impl Serialize) -> String {
    let mut text = serde_json::to_string(report).expect("plain data is JSON");
    text.push('\n');
    text
}

/// A bar of the histogram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// Shorter than this many milliseconds (and no shorter than the bar before).
    pub below_ms: u64,
    /// How many.
    pub count: u64,
}

/// The cut-over at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FinalCutover {
    /// Who was primary.
    pub from: String,
    /// Who is.
    pub to: String,
    /// From the request to the new record, in milliseconds.
    pub took_ms: u64,
}

impl Report {
    /// Takes over what the clients counted.
    pub fn count(&mut self, tally: &Tally) {
        self.acked = tally.acked;
        self.unknown = tally.unknown;
        self.refused = tally.refused;
        self.surprises = tally.surprised;
        self.notes.extend(tally.surprises.iter().cloned());
        self.longest_gap_ms = tally.gaps.longest_ms();
        self.gaps_ms = tally.gaps.long().iter().map(|gap| gap.milliseconds()).collect();
        self.gap_histogram =
            tally.gaps.histogram().into_iter().map(|(below_ms, count)| Bucket { below_ms, count }).collect();
    }

    /// Takes over what the checkers found.
    pub fn judge(&mut self, verdict: &Verdict) {
        self.reads = verdict.reads;
        self.lost = verdict.lost;
        self.duplicated = verdict.duplicated;
        self.reordered = verdict.reordered;
        self.stale = verdict.stale;
        self.phantom = verdict.phantom;
        self.offences = verdict.offences.iter().map(ToString::to_string).collect();
    }

    /// Takes over whether there is one order of everything.
    pub fn judge_order(&mut self, verdict: &linear::Verdict) {
        self.order.judge(verdict);
    }

    /// Sets `ok`, and gives what is wrong, if anything.
    pub fn conclude(&mut self) -> Option<String> {
        let counts = [
            (self.lost, "lost"),
            (self.duplicated, "duplicated"),
            (self.reordered, "reordered"),
            (self.stale, "stale"),
            (self.phantom, "phantom"),
            (self.surprises, "answered with nonsense"),
        ];
        let mut wrong: Vec<String> =
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        wrong.extend(self.order.wrong());
        if self.acked == 0 {
            wrong.push(String::from("nothing was acknowledged"));
        }
        if self.read_back != "complete" {
            wrong.push(format!("not everything could be read back ({})", self.read_back));
        }
        wrong.extend(self.history_error.clone());
        if !["equal", "skipped", ONE_COPY].contains(&self.digests.as_str()) {
            wrong.push(format!("digests: {}", self.digests));
        }
        self.ok = wrong.is_empty();
        (!self.ok).then(|| wrong.join(", "))
    }

    /// One JSON object on one line.
    pub fn json(&self) -> String {
        one_line(self)
    }

    /// For people.
    pub fn text(&self) -> String {
        let seconds = self.duration_ms as f64 / 1000.0;
        let mut text = format!(
            "acked       {} ({:.0}/s over {seconds:.1} s)\nunknown     {}\nrefused     {}\nreads       {}\n\n",
            self.acked,
            self.acked as f64 / seconds.max(0.001),
            self.unknown,
            self.refused,
            self.reads
        );
        text.push_str(&format!(
            "lost        {}\nduplicated  {}\nreordered   {}\nstale       {}\nphantom     {}\n",
            self.lost, self.duplicated, self.reordered, self.stale, self.phantom
        ));
        text.push_str(&self.order.text());
        text.push('\n');
        let cut = self.final_cutover.as_ref().map_or_else(
            || String::from("none forced at the end"),
            |cut| format!("the last one forced, {} to {} in {} ms", cut.from, cut.to, cut.took_ms),
        );
        text.push_str(&format!("cut-overs   {} ({cut})\n", self.cutovers));
        text.push_str(&format!("read back   {}\ndigests     {}\n\n", self.read_back, self.digests));
        text.push_str(&self.gaps_text());
        for line in self.notes.iter().chain(&self.offences) {
            text.push_str(&format!("\n  {line}"));
        }
        if !self.notes.is_empty() || !self.offences.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("\nseed {}\n", self.seed));
        text
    }

    fn gaps_text(&self) -> String {
        const BAR: usize = 40;
        let mut text = format!("longest gap without an answer to anyone: {} ms\n", self.longest_gap_ms);
        if !self.gaps_ms.is_empty() {
            const SHOWN: usize = 20;
            let shown: Vec<String> = self.gaps_ms.iter().take(SHOWN).map(ToString::to_string).collect();
            let more = if self.gaps_ms.len() > SHOWN { ", ..." } else { "" };
            text.push_str(&format!("gaps of 20 ms or more: {}{more}\n", shown.join(", ")));
        }
        for bucket in &self.gap_histogram {
            // By magnitude: one long gap must show beside a million short ones.
            let magnitude = (u64::BITS - bucket.count.leading_zeros()) as usize;
            let bar = "#".repeat(magnitude.min(BAR));
            text.push_str(&format!("  < {:>6} ms  {:>9}  {bar}\n", bucket.below_ms, bucket.count));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean() -> Report {
        Report {
            acked: 10,
            read_back: String::from("complete"),
            digests: String::from("equal"),
            duration_ms: 1000,
            order: Order { linearisable: String::from("yes"), ..Order::default() },
            ..Report::default()
        }
    }

    #[test]
    fn the_json_has_what_scripts_read() {
        let mut report = Report {
            gaps_ms: vec![37, 512],
            gap_histogram: vec![Bucket { below_ms: 1, count: 9 }],
            final_cutover: Some(FinalCutover { from: "a".into(), to: "b".into(), took_ms: 12 }),
            ..clean()
        };
        report.conclude();
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        for key in ["acked", "unknown", "lost", "duplicated", "reordered", "longest_gap_ms", "cutovers"] {
            assert!(json[key].is_u64(), "{key}");
        }
        assert_eq!(json["gaps_ms"], serde_json::json!([37, 512]));
        assert_eq!(json["ok"], true);
        assert_eq!(json["linearisable"], "yes");
        assert_eq!(json["offending_window"], serde_json::json!([]));
        assert_eq!(report.json().lines().count(), 1);
    }

    #[test]
    fn anything_wrong_or_unchecked_is_not_ok() {
        assert_eq!(clean().conclude(), None);
        let wrong: Vec<Report> = vec![
            Report { lost: 1, ..clean() },
            Report { duplicated: 1, ..clean() },
            Report { reordered: 1, ..clean() },
            Report { stale: 1, ..clean() },
            Report { phantom: 1, ..clean() },
            Report { surprises: 1, ..clean() },
            Report { acked: 0, ..clean() },
            Report { order: Order::default(), ..clean() },
            Report { read_back: String::from("no arbiter"), ..clean() },
            Report { digests: String::from("differ"), ..clean() },
            Report { history_error: Some(String::from("cannot write run.jsonl")), ..clean() },
        ];
        for mut report in wrong {
            assert!(report.conclude().is_some(), "{report:?}");
            assert!(!report.ok);
        }
        assert_eq!(Report { digests: String::from("skipped"), ..clean() }.conclude(), None);
        let alone = Report { digests: String::from(ONE_COPY), ..clean() };
        assert_eq!(alone.clone().conclude(), None);
        assert!(alone.text().contains("digests     not compared"), "{}", alone.text());
        let judged = |read_back_complete| Judged { read_back_complete, operations: 1, order: clean().order };
        assert_eq!(judged(true).wrong(), None);
        assert!(judged(false).wrong().is_some());
    }

    #[test]
    fn no_order_and_no_verdict_are_told_and_are_not_ok() {
        let call = linear::Call {
            client: 3,
            object: "x".into(),
            ask: linear::Ask::Total,
            invoked: 1,
            outcome: linear::Outcome::Answered { at: 2, answer: linear::Answer::Count(7) },
        };
        let mut bad = clean();
        bad.judge_order(&linear::check(&[call], linear::BOUND));
        assert_eq!(bad.conclude().as_deref(), Some("not linearisable"));
        let json: serde_json::Value = serde_json::from_str(&bad.json()).unwrap();
        assert_eq!(json["linearisable"], "no");
        assert_eq!(json["offending_window"][0]["outcome"], serde_json::json!({"answered": {"count": 7}}));
        assert!(bad.text().contains("no: x: the answers of 1 operations between 1 and 2"), "{}", bad.text());
        let mut open = clean();
        open.judge_order(&linear::Verdict::Undecided { object: "x".into(), bound: 5 });
        assert_eq!(open.conclude().as_deref(), Some("linearisable: undecided"));
    }

    #[test]
    fn the_text_names_offences_and_gaps() {
        let report = Report {
            offences: vec![String::from("lost: x: element 2 was acknowledged and is not there")],
            gaps_ms: vec![25],
            longest_gap_ms: 25,
            ..clean()
        };
        let text = report.text();
        assert!(text.contains("element 2 was acknowledged") && text.contains("gaps of 20 ms or more: 25"), "{text}");
    }
}

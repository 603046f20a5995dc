//! What happened, in one line each: from the record that the arbiters show, and from the children's log lines.
//!
//! Membership is told from the record only, because that is what decides; the log lines add what no record says
//! (state transfers, warnings). Deliberately not here: who prints it.

use cutover_arbiter::record::{Change, GroupRecord};
use serde_json::Value;

/// Log events of replicas that are worth a line although they are no warnings.
const WORTH_TELLING: [&str; 7] = [
    "cutover.done",
    "transfer.started",
    "transfer.progress",
    "transfer.done",
    "rejoin.delta",
    "rejoin.went_back",
    "replica.new_incarnation",
];

/// Warnings about what the record tells already.
const TOLD_BY_THE_RECORD: [&str; 2] = ["backup.removed", "primary.deposed"];

/// What a log line means for a person, if it is worth telling.
pub(super) fn log_line(line: &str) -> Option<String> {
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(line) else {
        // Not from the log: a refusal at start, a panic.
        return (!line.trim().is_empty()).then(|| line.chars().take(500).collect());
    };
    let level = fields.get("level").and_then(Value::as_str).unwrap_or_default();
    let message = fields.get("message").and_then(Value::as_str).unwrap_or_default();
    let event = message.split([' ', ':']).next().unwrap_or_default();
    let serious = matches!(level, "WARN" | "ERROR");
    if TOLD_BY_THE_RECORD.contains(&event) || (!serious && !WORTH_TELLING.contains(&event)) {
        return None;
    }
    let mut told = if serious { format!("{}: {message}", level.to_lowercase()) } else { message.to_owned() };
    for (name, value) in &fields {
        if !matches!(name.as_str(), "timestamp" | "level" | "message" | "target") {
            told += &match value {
                Value::String(text) => format!(" {name}={text}"),
                other => format!(" {name}={other}"),
            };
        }
    }
    Some(told)
}

/// What became of the group between two records that were seen; records in between may have been missed.
pub(super) fn record(before: Option<&GroupRecord>, now: &GroupRecord) -> Vec<String> {
    let epoch = now.epoch;
    let primary = &now.primary.replica;
    let Some(before) = before else {
        return vec![format!("epoch {epoch}: {primary} is primary; in sync: {}", in_sync(now))];
    };
    let mut told = Vec::new();
    if before.primary.replica != *primary {
        let how = match now.last_change.change {
            Change::HandOver { .. } => "switchover",
            Change::Seize { .. } => "seized, data may be lost",
            Change::Adopt { .. } => "adopted",
            _ => "cut-over",
        };
        told.push(format!("epoch {epoch}: {how}: {primary} is primary (was {})", before.primary.replica));
    } else if before.primary.incarnation != now.primary.incarnation {
        told.push(format!("epoch {epoch}: {primary} is primary in a new life"));
    } else if matches!(now.last_change.change, Change::Resume) {
        told.push(format!("epoch {epoch}: {primary} goes on as primary"));
    }
    for member in &before.in_sync {
        if !now.has(&member.replica, member.incarnation) {
            told.push(format!("epoch {epoch}: {} removed; in sync: {}", member.replica, in_sync(now)));
        }
    }
    for member in &now.in_sync {
        if !before.has(&member.replica, member.incarnation) && member.replica != *primary {
            told.push(format!("epoch {epoch}: {} is in sync; in sync: {}", member.replica, in_sync(now)));
        }
    }
    told
}

/// The names of those in sync, the primary first.
pub(super) fn in_sync(record: &GroupRecord) -> String {
    let primary = &record.primary.replica;
    let others = record.in_sync.iter().map(|member| &member.replica).filter(|name| *name != primary);
    std::iter::once(primary).chain(others).map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_arbiter::record::{Epoch, GroupId, Incarnation, LastChange, Member, Mode, Position, RequestId};

    fn member(name: &str, life: u128) -> Member {
        Member { replica: name.parse().unwrap(), incarnation: Incarnation(life), addresses: Default::default() }
    }

    fn group(epoch: u64, members: &[(&str, u128)], change: Change) -> GroupRecord {
        let in_sync: Vec<Member> = members.iter().map(|(name, life)| member(name, *life)).collect();
        GroupRecord {
            group: "demo".parse().unwrap(),
            group_id: GroupId(1),
            epoch: Epoch(epoch),
            mode: Mode::Memory,
            min_in_sync: 1,
            primary: in_sync[0].clone(),
            in_sync,
            last_change: LastChange { change, proposer: None, request: RequestId(1), commit: Position::default() },
        }
    }

    #[test]
    fn a_cut_over_and_the_loss_of_the_old_primary_are_both_told() {
        let before = group(2, &[("r1", 1), ("r2", 2)], Change::Resume);
        let told = record(Some(&before), &group(3, &[("r2", 2)], Change::TakeOver));
        assert_eq!(told, ["epoch 3: cut-over: r2 is primary (was r1)", "epoch 3: r1 removed; in sync: r2"]);
    }

    #[test]
    fn missed_records_leave_nothing_out() {
        let before = group(2, &[("r1", 1), ("r2", 2)], Change::Resume);
        let told = record(Some(&before), &group(5, &[("r2", 2), ("r3", 3)], Change::Admit { member: member("r3", 3) }));
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[2].contains("r3 is in sync"));
    }

    #[test]
    fn a_new_life_of_a_backup_is_a_removal_and_an_admission() {
        let before = group(2, &[("r1", 1), ("r2", 2)], Change::Resume);
        let told = record(Some(&before), &group(4, &[("r1", 1), ("r2", 9)], Change::Admit { member: member("r2", 9) }));
        assert!(told[0].contains("r2 removed") && told[1].contains("r2 is in sync"), "{told:?}");
    }

    #[test]
    fn warnings_and_transfers_are_told_the_rest_is_not() {
        let told = log_line(
            r#"{"timestamp":"t","level":"INFO","message":"transfer.progress","bytes":5,"of":10,"replica":"r3","target":"x"}"#,
        );
        assert_eq!(told.as_deref(), Some("transfer.progress bytes=5 of=10 replica=r3"));
        assert_eq!(log_line(r#"{"level":"INFO","message":"role.changed"}"#), None);
        assert!(log_line(r#"{"level":"WARN","message":"peer.lost"}"#).unwrap().starts_with("warn: peer.lost"));
        assert_eq!(log_line("cutover: no room").as_deref(), Some("cutover: no room"));
        assert_eq!(log_line(""), None);
    }
}

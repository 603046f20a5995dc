//! `cutover adopt`: arbiters that lost their data learn a group anew from a replica that holds its state; or raise it
//! above a fence, if they come back with what they had after an adoption that was broken off.
//!
//! What must hold: a grant of the lost arbiters may still be on its way to somebody, who would go on with it beside the
//! adopted one. So every other replica first promises durably to do nothing below the epoch of the adoption, or its
//! operator asserts that it is stopped. Arbiters that show all that anybody knows of lost nothing: then whoever is in sync
//! may lead, as after any take-over, and their test-and-set is all that is needed.

use cutover_arbiter::record::{Addresses, Answer, Change, Epoch, GroupName, GroupRecord, MAX_RISE, Proposal};

use super::failure::{ExitCode, Failure};
use super::fence::{self, Others};
use super::group::{Group, ReplicaStatus, fresh_request, print, unanswered};
use super::operator::{GroupArgs, help};

/// Brings a group's record back to arbiters that lost it.
#[derive(Debug, clap::Args)]
#[command(after_help = help!("Example:
  cutover adopt --arbiters a:7440,b:7440,c:7440 --group orders --http r1:7403 --others r2:7403,r3:7403

Give the replica that held the most: of several, the one with the highest epoch, then the highest index, in its
/status. It becomes primary, alone in sync; the others join it.

Every other replica that it, or any of them, knows of is found and fenced first: it serves and acknowledges nothing
until it hears of the new record. Name with --others whatever none of them may know of. For one that does not answer,
--fenced NAME is your word that it is stopped and stays so. One operator at a time.
An adoption that was broken off is gone on with by the same command. If the arbiters come back with what they had
meanwhile, it raises the group above the fence instead, for a replica that is in sync by their record, and nothing is lost.
Exit codes: 0 done, 4 refused (the arbiters know the group and nobody is fenced, the replica holds none, another may run unseen, data may be
lost), 5 unreachable."))]
pub struct Args {
    #[command(flatten)]
    group: GroupArgs,
    /// The http address of the replica that holds the state.
    #[arg(long, value_name = "HOST:PORT")]
    http: String,
    /// The http addresses of the group's other replicas, as far as they may not know of one another.
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    others: Vec<String>,
    /// You have made sure that this replica, which does not answer, is stopped and stays so until the group is known
    /// again.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    fenced: Vec<String>,
    /// You accept that operations which clients were told are done may be lost.
    #[arg(long)]
    accept_data_loss: bool,
}

/// # Errors
/// See the command's help.
pub async fn run(args: Args) -> Result<(), Failure> {
    let group = args.group.open()?;
    let status = ReplicaStatus::ask(&args.http, group.timeout).await?;
    // What can be known to be impossible, before anybody is asked to stop serving.
    propose(&group.name, &status, &args.http, (Epoch(0), status.epoch))?;
    let mut also = args.others.clone();
    also.extend(args.group.replicas()?);
    also.retain(|address| *address != args.http);
    let others = fence::find(&group, &status, &also).await?;
    // Read after everybody was asked: what anybody knows of was granted before.
    let record = group.find_record().await?;
    if let Some(record) = record.as_ref().filter(|record| record.epoch >= others.newest(&status)) {
        let epoch = raised(record, &status, others.highest(&status))?;
        others.refuse_the_unfenced(&args.fenced)?;
        refuse_the_silent(&status, &others, args.accept_data_loss)?;
        return adopt(&group, propose(&group.name, &status, &args.http, (record.epoch, epoch))?).await;
    }
    let shown = record.map_or(Epoch(0), |record| record.epoch);
    others.refuse_the_unfenced(&args.fenced)?;
    refuse_loss(&status, &others, args.accept_data_loss, others.newest(&status))?;
    let epoch = others.fence_above(&status, shown);
    let before = others.fence(&group, epoch).await?;
    print(&told(&others, epoch));
    // One of them may have heard of a grant between its answer and its promise.
    let status = ReplicaStatus::ask(&args.http, group.timeout).await?;
    let newest = before.max(others.newest(&status));
    refuse_loss(&status, &others, args.accept_data_loss, newest)?;
    adopt(&group, propose(&group.name, &status, &args.http, (shown, epoch))?).await
}

/// The epoch that brings back whoever is fenced above a record which has lost nothing: `highest` is the highest that any
/// replica shows.
///
/// # Errors
/// Nobody is, or the chosen one may lack what the group has committed.
fn raised(record: &GroupRecord, status: &ReplicaStatus, highest: Epoch) -> Result<Epoch, Failure> {
    let refuse = |what: String| Err(Failure::new(ExitCode::StateRefuses, what));
    let (name, epoch) = (&status.name, record.epoch);
    if highest <= epoch {
        return refuse(format!(
            "the arbiters know {}: primary {} in epoch {epoch}; there is nothing to adopt",
            record.group, record.primary.replica
        ));
    }
    let commit = record.last_change.commit;
    let which = match record.has(name, status.incarnation) {
        true if highest.0 >= epoch.0.saturating_add(MAX_RISE) => {
            format!("too far below for the arbiters: {MAX_RISE} at most")
        }
        true if status.held >= commit => return Ok(Epoch(highest.0 + 1)),
        true => format!("and {name} holds entries up to {}: its data is an older image", status.held.index),
        false => format!("in which {name}, in its present life, is not in sync"),
    };
    refuse(format!(
        "the arbiters know {} in epoch {epoch}, committed up to {}, {which}. It is to be raised above epoch {highest}, at \
         which others are fenced: choose one in sync ({}); if none of them lives, see `cutover seize`",
        record.group,
        commit.index,
        in_sync(record)
    ))
}

async fn adopt(group: &Group, mut proposal: Proposal) -> Result<(), Failure> {
    proposal.request = fresh_request()?;
    match group.arbiters.test_and_set(proposal, group.timeout).await.map_err(unanswered)? {
        Answer::Granted(record) => {
            print(&format!(
                "{} is known in epoch {}: primary {}, alone in sync; the others join it\n",
                record.group, record.epoch, record.primary.replica
            ));
            Ok(())
        }
        Answer::Refused { reason, .. } => {
            Err(Failure::new(ExitCode::StateRefuses, format!("the arbiters refuse: {reason}")))
        }
    }
}

fn told(others: &Others, epoch: Epoch) -> String {
    let mut text = String::new();
    for name in others.answering.keys() {
        text.push_str(&format!("{name} does nothing below epoch {epoch} any more\n"));
    }
    for silent in &others.silent {
        text.push_str(&format!("{} is stopped, by your word\n", silent.who));
    }
    text
}

/// Nothing that a client was told can be missing from a member in sync of the newest record, if everybody is asked who
/// could know of a newer one.
fn refuse_loss(status: &ReplicaStatus, others: &Others, accepted: bool, newest: Epoch) -> Result<(), Failure> {
    let name = &status.name;
    let own = status.record.as_ref().filter(|record| record.epoch == newest);
    refuse_the_silent(status, others, accepted)?;
    let why = match own.or_else(|| others.record_of(newest)) {
        Some(record) if record.has(name, status.incarnation) => return Ok(()),
        Some(record) => {
            format!("in epoch {newest}, the newest, {} had everything, and {name} may not", in_sync(record))
        }
        None => format!("nobody shows the record of epoch {newest}, the newest, so nobody can tell who had everything"),
    };
    refuse_unless(accepted, why, status, others)
}

/// Whoever is silent may have been granted more than anybody shows, also by arbiters that came back with less.
fn refuse_the_silent(status: &ReplicaStatus, others: &Others, accepted: bool) -> Result<(), Failure> {
    if others.silent.is_empty() {
        return Ok(());
    }
    let silent: Vec<&str> = others.silent.iter().map(|silent| silent.who.as_str()).collect();
    let (silent, name) = (silent.join(", "), &status.name);
    let why = format!("{silent} may have gone on alone before it was stopped, and told clients of what {name} lacks");
    refuse_unless(accepted, why, status, others)
}

fn refuse_unless(accepted: bool, why: String, status: &ReplicaStatus, others: &Others) -> Result<(), Failure> {
    let name = &status.name;
    if accepted {
        return Ok(());
    }
    let best = others.answering.values().map(|other| &other.status).max_by_key(|other| other.held);
    let advice = match best.filter(|best| best.held > status.held) {
        Some(best) => format!("{} holds more ({}, {name}: {})", best.name, best.index, status.index),
        None => format!("{name} holds most of those who answer ({})", status.index),
    };
    let what = format!("{why}. {advice}. --accept-data-loss is your word that what is missing may be lost");
    Err(Failure::new(ExitCode::StateRefuses, what))
}

fn in_sync(record: &GroupRecord) -> String {
    record.in_sync.iter().map(|member| member.replica.as_str()).collect::<Vec<_>>().join(" and ")
}

/// The epochs are those of the record that the arbiters show, 0 for none, and of the one to be made.
fn propose(
    group: &GroupName,
    status: &ReplicaStatus,
    http: &str,
    (shown, epoch): (Epoch, Epoch),
) -> Result<Proposal, Failure> {
    let refuse = |what: String| Failure::new(ExitCode::StateRefuses, what);
    let name = &status.name;
    if let Some(theirs) = status.group.as_ref().filter(|theirs| *theirs != group) {
        return Err(refuse(format!("{name} belongs to group {theirs}, not {group}")));
    }
    let group_id = status.group_id.or(status.record.as_ref().map(|record| record.group_id));
    let mode = status.mode.or(status.record.as_ref().map(|record| record.mode));
    let (Some(group_id), Some(mode)) = (group_id, mode) else {
        return Err(refuse(format!("{name} holds no data of any group; choose a replica that does")));
    };
    if status.epoch > epoch {
        let what =
            format!("{name} knows epoch {} by now, above {epoch}; ask again, and nobody else beside you", status.epoch);
        return Err(refuse(what));
    }
    if status.epoch == Epoch(0) {
        return Err(refuse(format!("{name} knows no epoch; choose a replica that held the group's state")));
    }
    let member = status.member(Addresses { http: http.to_owned(), ..Addresses::default() });
    if member.addresses.peer.is_empty() {
        return Err(refuse(format!("{name} does not say where other replicas reach it")));
    }
    // With the epochs of the entries themselves: an epoch may have changed since without one, and a commit position
    // above what the replica holds would make its own state an older image.
    let (commit, held) = (status.commit, status.held);
    let min_in_sync = status.record.as_ref().map_or(1, |record| record.min_in_sync);
    Ok(Proposal {
        group: group.clone(),
        expected_epoch: shown,
        request: cutover_arbiter::record::RequestId(0),
        proposer: None,
        change: Change::Adopt { group_id, member, epoch: Epoch(epoch.0 - 1), mode, min_in_sync, commit },
        commit,
        held,
        floor: Epoch(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;
    use cutover_arbiter::record::{Mode, Position};

    fn status() -> ReplicaStatus {
        serde_json::from_value(serde_json::json!({
            "name": "a", "incarnation": format!("{:032x}", 1), "role": "fenced", "epoch": 9, "group": "g",
            "group_id": format!("{:032x}", 99), "mode": "sync", "index": 12, "committed": 11,
            "held": { "epoch": 8, "index": 12 }, "commit": { "epoch": 7, "index": 11 },
            "peer": "a:1", "client": "a:2", "redis": "a:3", "http": "a:4",
        }))
        .unwrap()
    }

    #[test]
    fn the_record_is_made_from_what_the_replica_says() {
        let proposal = propose(&"g".parse().unwrap(), &status(), "a:4", (Epoch(0), Epoch(20))).unwrap();
        let Change::Adopt { member, epoch, mode, commit, min_in_sync, .. } = proposal.change else { panic!() };
        assert_eq!((member, epoch, mode, min_in_sync), (samples::member("a", 1), Epoch(19), Mode::Sync, 1));
        assert_eq!(commit, Position { epoch: Epoch(7), index: 11 }, "of the entry's epoch, not of the replica's");
        assert_eq!(proposal.held, Position { epoch: Epoch(8), index: 12 });
        assert_eq!((proposal.expected_epoch, proposal.proposer), (Epoch(0), None));
    }

    fn others(name: &str, epoch: u64, record: Option<GroupRecord>) -> Others {
        let other = ReplicaStatus { name: name.parse().unwrap(), epoch: Epoch(epoch), record, ..status() };
        let mut others = Others::default();
        others.answering.insert(other.name.clone(), fence::Answering { address: "h:1".into(), status: other });
        others
    }

    /// Seed 903124: a grant of the lost arbiters reached r3 after everybody had been looked at.
    #[test]
    fn a_grant_that_another_heard_of_meanwhile_is_no_secret() {
        let record = samples::record();
        let in_sync = ReplicaStatus { epoch: Epoch(7), record: Some(record.clone()), ..status() };
        let same = others("b", 7, Some(record));
        assert!(refuse_loss(&in_sync, &same, false, same.newest(&in_sync)).is_ok());
        let refused = refuse_loss(&in_sync, &same, false, Epoch(8)).unwrap_err();
        assert!(refused.message.contains("nobody shows the record of epoch 8"), "{refused}");
        assert!(refuse_loss(&in_sync, &same, true, Epoch(8)).is_ok(), "by the operator's word");
    }

    #[test]
    fn who_was_not_in_sync_is_adopted_only_by_an_operators_word() {
        let mut record = samples::record();
        record.in_sync.retain(|member| member.replica.as_str() != "a");
        let others = others("b", 7, Some(record));
        let removed = ReplicaStatus { epoch: Epoch(6), ..status() };
        let refused = refuse_loss(&removed, &others, false, others.newest(&removed)).unwrap_err();
        assert!(refused.message.contains("b had everything"), "{refused}");
    }

    #[test]
    fn an_earlier_fence_hides_no_epoch() {
        let mut others = others("b", 23, None);
        others.answering.values_mut().for_each(|other| other.status.fenced_from = Some(Epoch(7)));
        assert_eq!(others.newest(&ReplicaStatus { epoch: Epoch(7), ..status() }), Epoch(7));
    }

    /// The others were fenced at 23, the adoption was broken off, and the arbiters came back with epoch 7.
    #[test]
    fn arbiters_that_came_back_with_everything_raise_the_group_above_the_fence() {
        let record = samples::record();
        let chosen = ReplicaStatus { epoch: Epoch(7), held: Position { epoch: Epoch(7), index: 41 }, ..status() };
        assert_eq!(raised(&record, &chosen, Epoch(23)).unwrap(), Epoch(24));
        let nothing = raised(&record, &chosen, Epoch(7)).unwrap_err();
        assert!(nothing.message.contains("nothing to adopt"), "{nothing}");
        let older = ReplicaStatus { held: Position { epoch: Epoch(6), index: 39 }, ..chosen.clone() };
        assert!(raised(&record, &older, Epoch(23)).unwrap_err().message.contains("older image"));
        let removed = ReplicaStatus { name: "c".parse().unwrap(), ..chosen };
        let refused = raised(&record, &removed, Epoch(23)).unwrap_err();
        assert!(refused.message.contains("a and b") && refused.message.contains("cutover seize"), "{refused}");
    }

    #[test]
    fn a_replica_without_state_or_of_another_group_is_refused() {
        let other = propose(&"h".parse().unwrap(), &status(), "a:4", (Epoch(0), Epoch(20))).unwrap_err();
        assert!(other.message.contains("belongs to group g"), "{other}");
        let empty = ReplicaStatus { group_id: None, ..status() };
        assert!(
            propose(&"g".parse().unwrap(), &empty, "a:4", (Epoch(0), Epoch(20)))
                .unwrap_err()
                .message
                .contains("holds no data")
        );
        let young = ReplicaStatus { epoch: Epoch(0), ..status() };
        assert_eq!(
            propose(&"g".parse().unwrap(), &young, "a:4", (Epoch(0), Epoch(20))).unwrap_err().code,
            ExitCode::StateRefuses
        );
    }
}

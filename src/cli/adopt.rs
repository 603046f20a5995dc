//! `cutover adopt`: arbiters that lost their data learn a group anew from a replica that holds its state.

use cutover_arbiter::record::{Addresses, Answer, Change, Epoch, GroupName, Proposal};

use super::failure::{ExitCode, Failure};
use super::group::{GroupArgs, ReplicaStatus, fresh_request, print, unanswered};

/// Brings a group's record back to arbiters that lost it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  cutover adopt --arbiters a:7440,b:7440,c:7440 --group orders --http r1:7403

Give the replica that held the most: of several, the one with the highest epoch, then the highest index, in its
/status. It becomes primary, alone in sync; the others join it.
Exit codes: 0 done, 4 refused (the arbiters know the group, or the replica holds none), 5 unreachable.")]
pub struct Args {
    #[command(flatten)]
    group: GroupArgs,
    /// The http address of the replica that holds the state.
    #[arg(long, value_name = "HOST:PORT")]
    http: String,
}

/// # Errors
/// See the command's help.
pub async fn run(args: Args) -> Result<(), Failure> {
    let group = args.group.open()?;
    if let Some(record) = group.find_record().await? {
        let what = format!(
            "the arbiters know {}: primary {} in epoch {}; there is nothing to adopt",
            group.name, record.primary.replica, record.epoch
        );
        return Err(Failure::new(ExitCode::StateRefuses, what));
    }
    let status = ReplicaStatus::ask(&args.http, group.timeout).await?;
    let mut proposal = propose(&group.name, &status, &args.http)?;
    proposal.request = fresh_request()?;
    match group.arbiters.test_and_set(proposal, group.timeout).await.map_err(unanswered)? {
        Answer::Granted(record) => {
            print(&format!(
                "{} is known again: primary {} in epoch {}, alone in sync\n",
                record.group, record.primary.replica, record.epoch
            ));
            Ok(())
        }
        Answer::Refused { reason, .. } => {
            Err(Failure::new(ExitCode::StateRefuses, format!("the arbiters refuse: {reason}")))
        }
    }
}

fn propose(group: &GroupName, status: &ReplicaStatus, http: &str) -> Result<Proposal, Failure> {
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
        expected_epoch: Epoch(0),
        request: cutover_arbiter::record::RequestId(0),
        proposer: None,
        change: Change::Adopt { group_id, member, epoch: status.epoch, mode, min_in_sync, commit },
        commit,
        held,
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
        let proposal = propose(&"g".parse().unwrap(), &status(), "a:4").unwrap();
        let Change::Adopt { member, epoch, mode, commit, min_in_sync, .. } = proposal.change else { panic!() };
        assert_eq!((member, epoch, mode, min_in_sync), (samples::member("a", 1), Epoch(9), Mode::Sync, 1));
        assert_eq!(commit, Position { epoch: Epoch(7), index: 11 }, "of the entry's epoch, not of the replica's");
        assert_eq!(proposal.held, Position { epoch: Epoch(8), index: 12 });
        assert_eq!((proposal.expected_epoch, proposal.proposer), (Epoch(0), None));
    }

    #[test]
    fn a_replica_without_state_or_of_another_group_is_refused() {
        let other = propose(&"h".parse().unwrap(), &status(), "a:4").unwrap_err();
        assert!(other.message.contains("belongs to group g"), "{other}");
        let empty = ReplicaStatus { group_id: None, ..status() };
        assert!(propose(&"g".parse().unwrap(), &empty, "a:4").unwrap_err().message.contains("holds no data"));
        let young = ReplicaStatus { epoch: Epoch(0), ..status() };
        assert_eq!(propose(&"g".parse().unwrap(), &young, "a:4").unwrap_err().code, ExitCode::StateRefuses);
    }
}

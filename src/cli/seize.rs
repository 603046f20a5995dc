//! `cutover seize`: an operator makes a replica primary although data may be lost. The last resort, for a group whose
//! every in-sync member is gone.

use std::collections::BTreeMap;

use cutover_arbiter::record::{Addresses, Answer, Change, Epoch, GroupRecord, MAX_RISE, Member, Proposal, ReplicaName};

use super::failure::{ExitCode, Failure};
use super::group::{Group, ReplicaStatus, fresh_request, print, unanswered};
use super::http::HttpError;
use super::operator::{GroupArgs, help};
use super::status::ask_all;

/// Makes a replica primary, alone in sync, although what the others acknowledged may be lost.
#[derive(Debug, clap::Args)]
#[command(after_help = help!("Example:
  cutover seize --data ./dev --replica r2 --accept-data-loss --fenced

Refused while any in-sync member answers with the life that the record names: then nothing need be lost. Whoever
answers anything else than another life of it is taken for alive.
Exit codes: 0 done, 2 a flag is missing, 4 refused, 5 arbiters or the replica unreachable."))]
pub struct Args {
    #[command(flatten)]
    group: GroupArgs,
    /// Who becomes primary.
    #[arg(long)]
    replica: ReplicaName,
    /// Its http address, when the record does not name it.
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
    /// You accept that operations which clients were told are done may be lost.
    #[arg(long)]
    accept_data_loss: bool,
    /// The replica may hold nothing at all: the group begins again, empty.
    #[arg(long)]
    from_nothing: bool,
    /// You have made sure that every present in-sync member is stopped and stays so: power off, process gone, or
    /// network cut for good.
    #[arg(long)]
    fenced: bool,
}

/// # Errors
/// See the command's help.
pub async fn run(args: Args) -> Result<(), Failure> {
    check_flags(args.accept_data_loss, args.fenced)?;
    let group = args.group.open()?;
    let record = group.record().await?;
    refuse_while_alive(&group, &record, &args.replica).await?;
    let address = find(&group, &record, &args.replica, args.http.as_deref()).await?;
    let status = ReplicaStatus::ask(&address, group.timeout).await?;
    if status.name != args.replica {
        let what = format!("at {address} answers {}, not {}", status.name, args.replica);
        return Err(Failure::new(ExitCode::StateRefuses, what));
    }
    let known = record.member(&args.replica).map(|member| member.addresses.clone());
    let member = status.member(known.unwrap_or(Addresses { http: address, ..Addresses::default() }));
    check_member(&record, &status, &member)?;
    refuse_the_empty(&record, &status, args.from_nothing)?;
    let floor = floor(&record, &answering(&group, &record, &status, &args.group.replicas()?).await?);
    let (held, commit) = (status.held, status.commit);
    let proposal = Proposal {
        group: group.name.clone(),
        expected_epoch: record.epoch,
        request: fresh_request()?,
        proposer: None,
        change: Change::Seize { member },
        commit,
        held,
        floor,
    };
    match group.arbiters.test_and_set(proposal, group.timeout).await.map_err(unanswered)? {
        Answer::Granted(new) => {
            print(&format!(
                "{} is primary in epoch {}, alone in sync\n{}\n",
                new.primary.replica,
                new.epoch,
                loss(&record, &status)
            ));
            Ok(())
        }
        Answer::Refused { reason, .. } => {
            Err(Failure::new(ExitCode::StateRefuses, format!("the arbiters refuse: {reason}")))
        }
    }
}

fn check_flags(accept_data_loss: bool, fenced: bool) -> Result<(), Failure> {
    let mut missing = Vec::new();
    if !accept_data_loss {
        missing.push(
            "--accept-data-loss: the replica may not hold everything that clients were told is done; what it lacks is gone for good",
        );
    }
    if !fenced {
        missing.push(
            "--fenced: you have made sure that every present in-sync member is stopped and stays so; one that runs on unseen could go on answering",
        );
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(ExitCode::Usage, format!("seize needs your word for it:\n  {}", missing.join("\n  "))))
}

/// While the very life that the record names answers, nothing need be lost and nothing may be seized.
async fn refuse_while_alive(group: &Group, record: &GroupRecord, wanted: &ReplicaName) -> Result<(), Failure> {
    let answers =
        ask_all(record.in_sync.iter().map(|member| (&member.replica, &member.addresses)), group.timeout).await;
    for member in &record.in_sync {
        let Member { replica, addresses, .. } = member;
        let what = match answers.get(replica) {
            _ if addresses.http.is_empty() => {
                format!("the record does not say where {replica} answers, so nobody can tell whether it lives")
            }
            Some(Ok(answer)) if answer.name != *replica => {
                format!("at {} answers {}, so nobody can tell whether {replica} lives", addresses.http, answer.name)
            }
            Some(Ok(answer)) if answer.incarnation == member.incarnation => {
                let advice = if answer.fenced_from.is_some() {
                    "it is fenced, and nothing need be lost: `cutover adopt` raises the group above the fence"
                } else if replica == wanted {
                    "it can lead without losing anything: wait for it to take over or resume"
                } else {
                    "stop it for good if it must go, or use `cutover switchover`"
                };
                format!("{replica} is in sync and answers at {}; {advice}", addresses.http)
            }
            // Of another life, which holds nothing that was acknowledged.
            Some(Ok(_)) => continue,
            // Only silence is silence: whoever answers anything, and be it nonsense, runs.
            Some(Err(HttpError::Unreachable { .. } | HttpError::TimedOut { .. })) => continue,
            Some(Err(error @ HttpError::Nonsense { .. })) => {
                format!("{replica} is in sync, and something answers in its place: {error}")
            }
            None => format!("{replica} was not asked"),
        };
        return Err(Failure::new(ExitCode::StateRefuses, what));
    }
    Ok(())
}

/// The http address of the replica: as given, as the record has it, or as the primary tells of its followers.
async fn find(
    group: &Group,
    record: &GroupRecord,
    replica: &ReplicaName,
    given: Option<&str>,
) -> Result<String, Failure> {
    if let Some(address) = given {
        return Ok(address.to_owned());
    }
    if let Some(member) = record.member(replica) {
        return Ok(member.addresses.http.clone());
    }
    // The record of an earlier epoch may have named it.
    let past = group.arbiters.history(&group.name, group.timeout).await.map_err(unanswered)?;
    let known = past.iter().rev().find_map(|item| item.record.member(replica));
    known.map(|member| member.addresses.http.clone()).ok_or_else(|| {
        Failure::new(ExitCode::Usage, format!("where is {replica}? no record names it: give --http HOST:PORT"))
    })
}

fn check_member(record: &GroupRecord, status: &ReplicaStatus, member: &Member) -> Result<(), Failure> {
    let refuse = |what: String| Err(Failure::new(ExitCode::StateRefuses, what));
    if let Some(theirs) = status.group_id
        && theirs != record.group_id
    {
        return refuse(format!("{} holds data of another group ({theirs})", member.replica));
    }
    // A fence is an operator's number, and no grant of theirs.
    let known = status.known();
    if known > record.epoch {
        return refuse(format!(
            "{} knows epoch {known}, the arbiters {}: they lost their data; see `cutover adopt`",
            member.replica, record.epoch
        ));
    }
    if member.addresses.peer.is_empty() {
        return refuse(format!("{} does not say where other replicas reach it", member.replica));
    }
    Ok(())
}

/// An empty replica is seized only on purpose: a spare that no record names may hold everything.
fn refuse_the_empty(record: &GroupRecord, status: &ReplicaStatus, on_purpose: bool) -> Result<(), Failure> {
    let known = record.last_change.commit.index;
    if on_purpose || status.index > 0 || known == 0 {
        return Ok(());
    }
    let what = format!(
        "{} holds nothing, but the group had committed up to {known}. Look at /status of every replica, the spares \
         too, and seize the one with the highest index; if there is none, --from-nothing begins anew with an empty \
         group",
        status.name
    );
    Err(Failure::new(ExitCode::StateRefuses, what))
}

/// Everybody of the group who answers: whoever a record names that the arbiters remember, or the chosen one, and these.
/// Nobody needs to; who does not, and stands fenced above the new record, says so once it is there.
async fn answering(
    group: &Group,
    record: &GroupRecord,
    chosen: &ReplicaStatus,
    also: &[String],
) -> Result<Vec<ReplicaStatus>, Failure> {
    let past = group.arbiters.history(&group.name, group.timeout).await.map_err(unanswered)?;
    let records = past.iter().map(|item| &item.record).chain([record]).chain(&chosen.record);
    let members = records.flat_map(|record| &record.in_sync).map(|member| (&member.replica, &member.addresses));
    let followers = chosen.followers.iter().map(|follower| (&follower.name, &follower.addresses));
    // Of one that moved, the last address counts.
    let replicas: BTreeMap<_, _> = members.chain(followers).collect();
    let mut answering = vec![chosen.clone()];
    answering.extend(ask_all(replicas.into_iter(), group.timeout).await.into_values().filter_map(Result::ok));
    for address in also {
        answering.extend(ReplicaStatus::ask(address, group.timeout).await.ok());
    }
    answering.retain(|other| other.group_id.is_none_or(|theirs| theirs == record.group_id));
    answering.retain(|other| other.group.as_ref().is_none_or(|theirs| *theirs == record.group));
    Ok(answering)
}

/// Above every fence that is in force: granted less, whoever was fenced would stay away, and be it the chosen one. Nobody
/// is believed who shows more than arbiters ever raise an epoch by.
fn floor(record: &GroupRecord, answering: &[ReplicaStatus]) -> Epoch {
    let most = record.epoch.0.saturating_add(MAX_RISE - 1);
    let shown = answering.iter().map(|status| status.epoch).filter(|epoch| epoch.0 <= most).max().unwrap_or_default();
    if shown > record.epoch { Epoch(shown.0 + 1) } else { Epoch(0) }
}

/// What is known to be lost, by position.
fn loss(before: &GroupRecord, status: &ReplicaStatus) -> String {
    let known = before.last_change.commit;
    let (index, epoch) = (status.index, status.epoch);
    if index < known.index {
        format!(
            "lost at least the entries {} to {}: the group had committed up to {} (epoch {}), {} holds up to {index}",
            index + 1,
            known.index,
            known.index,
            known.epoch,
            status.name
        )
    } else {
        format!(
            "{} holds entries up to {index} (epoch {epoch}); whatever was acknowledged beyond is lost, the arbiters \
             knew of {} as committed",
            status.name, known.index
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    fn status(index: u64, epoch: u64) -> ReplicaStatus {
        serde_json::from_value(serde_json::json!({
            "name": "c", "incarnation": format!("{:032x}", 3), "role": "fenced", "epoch": epoch, "index": index,
            "group_id": format!("{:032x}", 99),
        }))
        .unwrap()
    }

    #[test]
    fn both_flags_are_asked_for_and_explained() {
        let neither = check_flags(false, false).unwrap_err();
        assert_eq!(neither.code, ExitCode::Usage);
        assert!(neither.message.contains("--accept-data-loss:") && neither.message.contains("--fenced:"));
        let one = check_flags(true, false).unwrap_err();
        assert!(!one.message.contains("--accept-data-loss:") && one.message.contains("--fenced:"));
        assert!(check_flags(true, true).is_ok());
    }

    #[test]
    fn what_is_lost_is_told_by_position() {
        let record = samples::record();
        assert!(loss(&record, &status(37, 6)).starts_with("lost at least the entries 38 to 40"));
        assert!(loss(&record, &status(44, 6)).contains("holds entries up to 44"));
    }

    /// Fenced at 21 by an adoption that was broken off; then the arbiters came back with epoch 7.
    #[test]
    fn a_seizure_is_above_every_fence_and_below_every_nonsense() {
        let record = samples::record();
        let fenced = |epoch, from| ReplicaStatus { fenced_from: Some(Epoch(from)), ..status(44, epoch) };
        assert_eq!(floor(&record, &[status(44, 7)]), Epoch(0), "the next one");
        assert_eq!(floor(&record, &[status(44, 7), fenced(21, 7)]), Epoch(22));
        assert_eq!(floor(&record, &[fenced(21, 7), status(44, u64::MAX)]), Epoch(22));
        assert!(check_member(&record, &fenced(21, 7), &samples::member("c", 3)).is_ok());
        let knows_more = check_member(&record, &fenced(21, 8), &samples::member("c", 3)).unwrap_err();
        assert!(knows_more.message.contains("cutover adopt"), "{knows_more}");
    }

    #[test]
    fn a_replica_of_another_group_or_of_a_later_epoch_is_refused() {
        let record = samples::record();
        let member = samples::member("c", 3);
        assert!(check_member(&record, &status(1, 7), &member).is_ok());
        assert!(check_member(&record, &status(1, 8), &member).unwrap_err().message.contains("cutover adopt"));
        let mut stranger = status(1, 7);
        stranger.group_id = Some(cutover_arbiter::record::GroupId(1));
        assert!(check_member(&record, &stranger, &member).unwrap_err().message.contains("another group"));
    }

    /// Answers every connection with `body`, as a replica's http port would.
    async fn answering(status: &'static str, body: String) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    async fn refused(http: [String; 2]) -> Option<String> {
        let mut record = samples::record();
        for (member, http) in record.in_sync.iter_mut().zip(http) {
            member.addresses.http = http;
        }
        let options = cutover_arbiter::client::ClientOptions::default();
        let arbiters = cutover_arbiter::client::ArbiterClient::new(options);
        let group = Group { name: record.group.clone(), arbiters, timeout: std::time::Duration::from_secs(5) };
        refuse_while_alive(&group, &record, &"b".parse().unwrap()).await.err().map(|failure| failure.message)
    }

    #[tokio::test]
    async fn nobody_alive_is_nobody_in_the_way() {
        let nobody = || String::from("127.0.0.1:1");
        assert_eq!(refused([nobody(), nobody()]).await, None);
        let status = |name: &str, life: u128| {
            format!(r#"{{"name":"{name}","incarnation":"{life:032x}","role":"fenced","epoch":7}}"#)
        };
        let another_life = answering("200 OK", status("b", 77)).await;
        assert_eq!(refused([nobody(), another_life]).await, None);
        let alive = answering("200 OK", status("b", 2)).await;
        assert!(refused([nobody(), alive]).await.unwrap().contains("b is in sync and answers"));
    }

    #[tokio::test]
    async fn whoever_answers_anything_is_not_gone() {
        let nobody = || String::from("127.0.0.1:1");
        let busy = answering("503 Service Unavailable", String::from("busy")).await;
        assert!(refused([nobody(), busy]).await.unwrap().contains("something answers in its place"));
        let garbled = answering("200 OK", String::from("hello")).await;
        assert!(refused([nobody(), garbled]).await.unwrap().contains("something answers in its place"));
        assert!(refused([nobody(), String::new()]).await.unwrap().contains("does not say where b answers"));
    }
}

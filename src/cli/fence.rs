//! The other replicas of a group that an operator makes known anew: who they are, which of them answers, and what each
//! of those promises before anybody is made primary.
//!
//! Deliberately not here: who is made primary (`adopt`), and what the promise is worth (`replica::fence`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cutover_arbiter::record::{Addresses, Epoch, GroupRecord, Member, ReplicaName};
use serde::Deserialize;

use super::failure::{ExitCode, Failure};
use super::group::{Group, ReplicaStatus};
use super::http::{self, HttpError};
use crate::replica::{FURTHEST, fence_epoch};

/// Replicas that are followed from record to record, at most.
const MOST: usize = 64;

/// A replica that answers.
#[derive(Debug, Clone)]
pub struct Answering {
    /// Its http address.
    pub address: String,
    /// What it says of itself.
    pub status: ReplicaStatus,
}

/// One that does not, or of which nobody says where it would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silent {
    /// Its name, or its address where nobody tells the name.
    pub who: String,
    /// The addresses tried.
    pub addresses: BTreeSet<String>,
    /// What came of it.
    pub why: String,
}

/// Everybody but the chosen one.
#[derive(Debug, Default)]
pub struct Others {
    /// Those who answer.
    pub answering: BTreeMap<ReplicaName, Answering>,
    /// Those who do not.
    pub silent: Vec<Silent>,
}

/// What a fence answers.
#[derive(Debug, Deserialize)]
struct Fenced {
    before: Epoch,
}

/// Finds the other replicas: by the records and followers that the chosen one and every other tell of, and by `also`.
///
/// # Errors
/// Something answers that is not a replica of this group, or holds another group's data.
pub async fn find(group: &Group, chosen: &ReplicaStatus, also: &[String]) -> Result<Others, Failure> {
    let mut others = Others::default();
    let mut wanted: BTreeMap<ReplicaName, BTreeSet<String>> = BTreeMap::new();
    let mut problems: BTreeMap<String, String> = BTreeMap::new();
    let mut queue: Vec<String> = also.to_vec();
    note(chosen, &mut wanted, &mut queue);
    let mut asked = BTreeSet::new();
    while let Some(address) = queue.pop() {
        if address.is_empty() || asked.len() == MOST || !asked.insert(address.clone()) {
            continue;
        }
        match ReplicaStatus::ask(&address, group.timeout).await {
            Ok(status) => {
                check_group(group, chosen, &status, &address)?;
                note(&status, &mut wanted, &mut queue);
                if status.name == chosen.name && status.incarnation != chosen.incarnation {
                    let what = format!(
                        "{address} calls itself {}, too, and is another life than the one that is to be adopted: stop \
                         it for good",
                        status.name
                    );
                    return Err(Failure::new(ExitCode::StateRefuses, what));
                }
                if status.name != chosen.name {
                    others.answering.entry(status.name.clone()).or_insert(Answering { address, status });
                }
            }
            // Only silence is silence: whoever answers anything, and be it nonsense, runs.
            Err(error @ HttpError::Nonsense { .. }) => {
                let what = format!("{error}; it runs and cannot be fenced: stop it for good");
                return Err(Failure::new(ExitCode::StateRefuses, what));
            }
            Err(error) => _ = problems.insert(address, error.to_string()),
        }
    }
    wanted.retain(|name, _| *name != chosen.name && !others.answering.contains_key(name));
    for (name, addresses) in wanted {
        let why = addresses.iter().map(|address| problems.remove(address).unwrap_or_else(|| stranger(address)));
        let why = why.collect::<Vec<_>>().join("; ");
        let why = if why.is_empty() { String::from("nobody says where its http port is") } else { why };
        others.silent.push(Silent { who: name.to_string(), addresses, why });
    }
    for address in also.iter().filter(|address| problems.contains_key(*address)) {
        let (who, addresses) = (address.clone(), BTreeSet::from([address.clone()]));
        others.silent.push(Silent { who, addresses, why: problems[address].clone() });
    }
    Ok(others)
}

fn stranger(address: &str) -> String {
    format!("at {address} another replica answers")
}

/// Takes note of every replica that `status` tells of.
fn note(status: &ReplicaStatus, wanted: &mut BTreeMap<ReplicaName, BTreeSet<String>>, queue: &mut Vec<String>) {
    let members = status.record.iter().flat_map(|record| &record.in_sync);
    let members = members.map(|Member { replica, addresses, .. }| (replica, addresses));
    let followers = status.followers.iter().map(|follower| (&follower.name, &follower.addresses));
    for (name, Addresses { http, .. }) in members.chain(followers) {
        let addresses = wanted.entry(name.clone()).or_default();
        if !http.is_empty() {
            addresses.insert(http.clone());
            queue.push(http.clone());
        }
    }
}

fn check_group(group: &Group, chosen: &ReplicaStatus, other: &ReplicaStatus, address: &str) -> Result<(), Failure> {
    let refuse = |what: String| Err(Failure::new(ExitCode::StateRefuses, what));
    let name = &other.name;
    if other.group.as_ref() != Some(&group.name) {
        let theirs = other.group.as_ref().map_or_else(|| String::from("no group"), ToString::to_string);
        return refuse(format!("at {address} answers {name} of {theirs}, not a replica of {}", group.name));
    }
    if let (Some(ours), Some(theirs)) = (chosen.group_id, other.group_id)
        && ours != theirs
    {
        return refuse(format!(
            "{name} at {address} holds another group of this name ({theirs}, {} holds {ours}); stop whichever is not \
             meant, and do not name it",
            chosen.name
        ));
    }
    Ok(())
}

impl Others {
    /// Everyone who does not answer must be asserted to be stopped: he may be primary, or become it by a grant that is
    /// on its way to him.
    ///
    /// # Errors
    /// Who was not.
    pub fn refuse_the_unfenced(&self, fenced: &[String]) -> Result<(), Failure> {
        let asserted =
            |silent: &&Silent| !fenced.iter().any(|said| *said == silent.who || silent.addresses.contains(said));
        let open: Vec<String> =
            self.silent.iter().filter(asserted).map(|silent| format!("{}: {}", silent.who, silent.why)).collect();
        if open.is_empty() {
            return Ok(());
        }
        let what = format!(
            "not every other replica answers, and one that runs on unseen could go on answering clients beside the \
             adopted one. Start it, or make sure that it is stopped and stays so until the group is known again, and \
             say --fenced NAME for it:\n  {}",
            open.join("\n  ")
        );
        Err(Failure::new(ExitCode::StateRefuses, what))
    }

    /// An epoch above everything that the lost arbiters can have granted, and above what they show.
    pub fn fence_above(&self, chosen: &ReplicaStatus, shown: Epoch) -> Epoch {
        let all = self.answering.values().map(|other| &other.status).chain([chosen]);
        fence_epoch(all.map(|status| (status.epoch, status.fenced_from)).chain([(shown, None)]))
    }

    /// The highest epoch that anybody shows, a fence or not.
    pub fn highest(&self, chosen: &ReplicaStatus) -> Epoch {
        self.answering.values().map(|other| other.status.epoch).max().unwrap_or_default().max(chosen.epoch)
    }

    /// The highest epoch that anybody who answers knew without a fence.
    pub fn newest(&self, chosen: &ReplicaStatus) -> Epoch {
        self.answering.values().map(|other| other.status.known()).max().unwrap_or_default().max(chosen.known())
    }

    /// Has everyone who answers promise that he does nothing below `epoch` any more, and keep that across restarts.
    /// Returns the highest epoch that any of them knew.
    ///
    /// # Errors
    /// One that does not promise. Those before him have; that is no harm, and done again the next time.
    pub async fn fence(&self, group: &Group, epoch: Epoch) -> Result<Epoch, Failure> {
        let mut newest = Epoch::default();
        for (name, Answering { address, .. }) in &self.answering {
            let ask = ReplicaStatus::ask(address, group.timeout).await;
            let now = ask.map_err(|error| {
                let what = format!("{name} answered, and does not any more: {error}. Try again, or stop it for good");
                Failure::new(ExitCode::Unreachable, what)
            })?;
            // Given up, it must not come true later, when somebody else may have been adopted.
            let window = group.timeout.max(ASKS_ITS_ARBITERS) * FIND_ROUNDS;
            let until = now.boot_ms.saturating_add(window.as_millis() as u64);
            for step in steps(now.epoch, epoch) {
                let path = format!("/fence?group={}&epoch={step}&until={until}", http::escape(group.name.as_str()));
                let answer = http::post(address, &path, window).await.map_err(|error| {
                    let what =
                        format!("{name} answered, and does not promise now: {error}. Try again, or stop it for good");
                    Failure::new(ExitCode::Unreachable, what)
                })?;
                let fenced: Result<Fenced, _> = serde_json::from_str(&answer.body);
                match fenced {
                    Ok(fenced) if answer.is_success() => newest = newest.max(fenced.before),
                    _ => {
                        let what = format!("{name} is not fenced: {}", answer.reason());
                        return Err(Failure::new(ExitCode::StateRefuses, what));
                    }
                }
            }
        }
        Ok(newest)
    }

    /// The record of `epoch`, if anyone but the chosen one shows it.
    pub fn record_of(&self, epoch: Epoch) -> Option<&GroupRecord> {
        let mut records = self.answering.values().filter_map(|other| other.status.record.as_ref());
        records.find(|record| record.epoch == epoch)
    }
}

/// The fences to be asked for, one after the other: no replica takes more than so much at once. More than one is needed
/// only after a mistaken one somewhere else.
fn steps(known: Epoch, fence: Epoch) -> impl Iterator<Item = Epoch> {
    // By half of that, so that the last step is none that is too small.
    let step = move |known: u64| if fence.0.saturating_sub(known) <= FURTHEST { fence.0 } else { known + FURTHEST / 2 };
    std::iter::successors(Some(step(known.0)), move |last| (*last < fence.0).then(|| step(*last))).map(Epoch)
}

/// A fence may take so many times the patience: others are asked, and fenced, before it.
const FIND_ROUNDS: u32 = 4;

/// A replica asks its arbiters first, and those may not answer: so long it waits for them.
const ASKS_ITS_ARBITERS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;

    fn status(name: &str, epoch: u64, record: bool) -> ReplicaStatus {
        let mut status: ReplicaStatus = serde_json::from_value(serde_json::json!({
            "name": name, "incarnation": format!("{:032x}", 1), "role": "backup", "epoch": epoch, "group": "g",
        }))
        .unwrap();
        status.record = record.then(samples::record);
        status
    }

    fn silent(who: &str, address: &str) -> Silent {
        Silent { who: who.into(), addresses: BTreeSet::from([address.into()]), why: "refused".into() }
    }

    #[test]
    fn whoever_a_record_names_is_looked_for() {
        let (mut wanted, mut queue) = (BTreeMap::new(), Vec::new());
        note(&status("a", 7, true), &mut wanted, &mut queue);
        assert_eq!(wanted.keys().map(ToString::to_string).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(queue, ["a:4", "b:4"]);
    }

    #[test]
    fn who_does_not_answer_must_be_named_one_by_one() {
        let others = Others { silent: vec![silent("r2", "h:1"), silent("h:9", "h:9")], ..Others::default() };
        let refused = others.refuse_the_unfenced(&["r2".into()]).unwrap_err();
        assert_eq!(refused.code, ExitCode::StateRefuses);
        assert!(refused.message.contains("h:9: refused") && !refused.message.contains("r2: "), "{refused}");
        assert!(others.refuse_the_unfenced(&["h:1".into(), "h:9".into()]).is_ok());
    }

    #[test]
    fn a_fence_that_is_far_above_is_asked_for_in_steps() {
        let all = |known, fence| steps(Epoch(known), Epoch(fence)).map(|step| step.0).collect::<Vec<_>>();
        assert_eq!(all(5, 21), [21]);
        assert_eq!(all(21, 21), [21], "promised already, it is asked again");
        assert_eq!(all(5, 6 + FURTHEST), [5 + FURTHEST / 2, 6 + FURTHEST], "a step of one would be refused");
    }

    #[test]
    fn the_fence_is_above_every_epoch_that_is_shown_and_a_grant_on_its_way() {
        let mut others = Others::default();
        others
            .answering
            .insert("b".parse().unwrap(), Answering { address: "h:1".into(), status: status("b", 9, false) });
        let fence = others.fence_above(&status("a", 7, true), Epoch(0));
        assert!(fence >= Epoch(11), "{fence}: a replica that knows 9 may hear of a grant of 10");
    }
}

//! Which change of a record is legal (the table of design section 3), as one pure function.
//!
//! The arbiter checks every rule itself, so that a faulty replica cannot talk it into split brain. Deliberately not
//! here: repeated requests and memory ([`super::Registers`]).

use super::{Addresses, Change, Epoch, GroupRecord, LastChange, Member, Position, Proposal, RefusalReason};

/// The most members an in-sync set may have.
pub const MAX_IN_SYNC: usize = 16;
/// The longest address a member may have, in bytes.
pub const MAX_ADDRESS: usize = 256;

/// The most that an operator's word may raise the epoch above the record's. Fences rise by 16, and replicas that were
/// away for years differ by millions; one mistaken number must not use up the epochs that there are.
pub const MAX_RISE: u64 = 1 << 48;
/// Where there is no record to compare with: no epoch above it is adopted.
const HIGHEST_ADOPTED: Epoch = Epoch(1 << 62);

/// The record that `proposal` makes of `record`.
pub(super) fn decide(record: Option<&GroupRecord>, proposal: &Proposal) -> Result<GroupRecord, RefusalReason> {
    check_limits(&proposal.change)?;
    check_floor(record, proposal)?;
    match (record, &proposal.change) {
        (Some(_), Change::Create { .. }) => Err(RefusalReason::Exists),
        // Asked of arbiters that had lost it, which came back since with what they had.
        (Some(_), Change::Adopt { .. }) if proposal.expected_epoch == Epoch(0) => Err(RefusalReason::Exists),
        (None, Change::Create { .. }) => create(proposal),
        (record, Change::Adopt { .. }) => adopt(record, proposal),
        (None, _) => Err(RefusalReason::NoSuchGroup),
        (Some(record), _) => change(record, proposal),
    }
}

fn refuse<T>(why: impl Into<String>) -> Result<T, RefusalReason> {
    Err(RefusalReason::NotAllowed(why.into()))
}

fn check_limits(change: &Change) -> Result<(), RefusalReason> {
    let member = match change {
        Change::Create { member, .. }
        | Change::Admit { member }
        | Change::Seize { member }
        | Change::Adopt { member, .. } => Some(member),
        Change::TakeOver | Change::Resume | Change::Remove { .. } | Change::HandOver { .. } => None,
    };
    if let Some(member) = member {
        let Addresses { peer, client, redis, http } = &member.addresses;
        if [peer, client, redis, http].iter().any(|address| address.len() > MAX_ADDRESS) {
            return refuse(format!("an address of {} is longer than {MAX_ADDRESS} bytes", member.replica));
        }
    }
    if let Change::Create { min_in_sync, .. } | Change::Adopt { min_in_sync, .. } = change
        && !(1..=MAX_IN_SYNC).contains(&usize::from(*min_in_sync))
    {
        return refuse(format!("min_in_sync is {min_in_sync}; it must be from 1 to {MAX_IN_SYNC}"));
    }
    Ok(())
}

/// Only an operator, and only a seizure, leaves epochs out.
fn check_floor(record: Option<&GroupRecord>, proposal: &Proposal) -> Result<(), RefusalReason> {
    let floor = proposal.floor;
    match (&proposal.change, record) {
        _ if floor == Epoch(0) => Ok(()),
        (Change::Seize { .. }, Some(record)) => check_rise(record, floor),
        (Change::Seize { .. }, None) => Ok(()),
        _ => refuse(format!("{} takes the next epoch, and no floor", proposal.change.name())),
    }
}

fn check_rise(record: &GroupRecord, epoch: Epoch) -> Result<(), RefusalReason> {
    if epoch.0 <= record.epoch.0.saturating_add(MAX_RISE) {
        return Ok(());
    }
    refuse(format!("epoch {epoch} is too far above the record's, {}: the most is {MAX_RISE} more", record.epoch))
}

fn check_epoch(expected: Epoch, actual: Epoch) -> Result<(), RefusalReason> {
    if expected == actual { Ok(()) } else { Err(RefusalReason::Epoch { expected, actual }) }
}

fn next(epoch: Epoch) -> Result<Epoch, RefusalReason> {
    match epoch.0.checked_add(1) {
        Some(next) => Ok(Epoch(next)),
        None => refuse("the epoch cannot rise any further"),
    }
}

fn create(proposal: &Proposal) -> Result<GroupRecord, RefusalReason> {
    let Change::Create { group_id, member, mode, min_in_sync } = &proposal.change else {
        return refuse("not a create");
    };
    check_epoch(proposal.expected_epoch, Epoch(0))?;
    if proposal.proposer.as_ref() != Some(&(member.replica.clone(), member.incarnation)) {
        return refuse(format!("only {} itself may create the group with itself as primary", member.replica));
    }
    if proposal.held.index != 0 || proposal.commit.index != 0 {
        return refuse("a replica that holds data never creates a group; the operator may adopt it");
    }
    Ok(GroupRecord {
        group: proposal.group.clone(),
        group_id: *group_id,
        epoch: Epoch(1),
        mode: *mode,
        min_in_sync: *min_in_sync,
        primary: member.clone(),
        in_sync: vec![member.clone()],
        last_change: last_change(proposal, Position::default()),
    })
}

fn adopt(record: Option<&GroupRecord>, proposal: &Proposal) -> Result<GroupRecord, RefusalReason> {
    let Change::Adopt { group_id, member, epoch, mode, min_in_sync, commit } = &proposal.change else {
        return refuse("not an adopt");
    };
    check_epoch(proposal.expected_epoch, record.map_or(Epoch(0), |record| record.epoch))?;
    check_operator(proposal)?;
    check_within(*commit, proposal)?;
    if commit.epoch > *epoch {
        return refuse(format!("the commit position is of epoch {}, above the replica's {epoch}", commit.epoch));
    }
    let new = next(*epoch)?;
    match record {
        Some(record) if record.group_id != *group_id => {
            return refuse(format!("the record is of another group of this name ({})", record.group_id));
        }
        Some(record) if new <= record.epoch => {
            return refuse(format!("epoch {new} is not above the record's, {}", record.epoch));
        }
        Some(record) => check_rise(record, new)?,
        None if new > HIGHEST_ADOPTED => {
            return refuse(format!("epoch {new} is above {HIGHEST_ADOPTED}, the highest that is adopted"));
        }
        None => {}
    }
    // Who holds all that the record names as committed keeps the record's word: an older image of it is known by that.
    let known = record.map(|record| record.last_change.commit).filter(|known| proposal.held >= *known);
    let commit = known.unwrap_or_default().max(*commit);
    Ok(GroupRecord {
        group: proposal.group.clone(),
        group_id: *group_id,
        epoch: new,
        mode: record.map_or(*mode, |record| record.mode),
        min_in_sync: record.map_or(*min_in_sync, |record| record.min_in_sync),
        primary: member.clone(),
        in_sync: vec![member.clone()],
        last_change: last_change(proposal, commit),
    })
}

/// Every change of a record that exists.
fn change(record: &GroupRecord, proposal: &Proposal) -> Result<GroupRecord, RefusalReason> {
    check_epoch(proposal.expected_epoch, record.epoch)?;
    let mut new = record.clone();
    new.epoch = next(record.epoch)?;
    let stored = record.last_change.commit;
    let seized = matches!(proposal.change, Change::Seize { .. });
    // A commit position from an epoch that was never granted would lock every honest member out for ever.
    if proposal.commit.epoch > record.epoch {
        return refuse(format!("the commit position is of epoch {}, above the record's", proposal.commit.epoch));
    }
    new.last_change = last_change(proposal, if seized { proposal.commit } else { stored.max(proposal.commit) });
    match &proposal.change {
        Change::TakeOver => {
            let proposer = in_sync_proposer(record, proposal)?;
            if proposer.replica == record.primary.replica {
                return refuse("the primary cannot take over from itself; it resumes");
            }
            check_image(proposal, stored)?;
            new.in_sync.retain(|member| member.replica != record.primary.replica);
            new.primary = proposer.clone();
        }
        Change::Resume => {
            check_primary(record, proposal)?;
            check_image(proposal, stored)?;
        }
        Change::Remove { replica, incarnation } => {
            check_primary(record, proposal)?;
            if *replica == record.primary.replica {
                return refuse("the primary cannot remove itself; it hands over first");
            }
            if !record.has(replica, *incarnation) {
                return refuse(format!("this life of {replica} is not in sync"));
            }
            new.in_sync.retain(|member| member.replica != *replica);
        }
        Change::Admit { member } => {
            check_primary(record, proposal)?;
            if record.member(&member.replica).is_some() {
                return refuse(format!("{} is in sync already; an earlier life is removed first", member.replica));
            }
            if record.in_sync.len() >= MAX_IN_SYNC {
                return refuse(format!("the in-sync set has {MAX_IN_SYNC} members, which is the limit"));
            }
            new.in_sync.push(member.clone());
        }
        Change::HandOver { to, incarnation } => {
            check_primary(record, proposal)?;
            if *to == record.primary.replica {
                return refuse("the primary cannot hand over to itself");
            }
            match record.member(to) {
                Some(member) if member.incarnation == *incarnation => new.primary = member.clone(),
                _ => return refuse(format!("this life of {to} is not in sync")),
            }
        }
        Change::Seize { member } => {
            check_operator(proposal)?;
            check_within(proposal.commit, proposal)?;
            new.epoch = new.epoch.max(proposal.floor);
            new.primary = member.clone();
            new.in_sync = vec![member.clone()];
        }
        Change::Create { .. } | Change::Adopt { .. } => return Err(RefusalReason::Exists),
    }
    Ok(new)
}

fn last_change(proposal: &Proposal, commit: Position) -> LastChange {
    LastChange {
        change: proposal.change.clone(),
        proposer: proposal.proposer.clone(),
        request: proposal.request,
        commit,
    }
}

fn check_operator(proposal: &Proposal) -> Result<(), RefusalReason> {
    match &proposal.proposer {
        None => Ok(()),
        Some((replica, _)) => {
            refuse(format!("{} is for an operator, not for replica {replica}", proposal.change.name()))
        }
    }
}

/// A commit position above what the chosen replica holds would make of its state an older image at once, and nobody
/// could lead.
fn check_within(commit: Position, proposal: &Proposal) -> Result<(), RefusalReason> {
    let held = proposal.held;
    if commit > held {
        return refuse(format!("the commit position {commit:?} lies above what the replica holds, {held:?}"));
    }
    Ok(())
}

fn check_primary(record: &GroupRecord, proposal: &Proposal) -> Result<(), RefusalReason> {
    match &proposal.proposer {
        Some((replica, incarnation)) if record.is_primary(replica, *incarnation) => Ok(()),
        Some((replica, _)) => refuse(format!(
            "{} is for the primary, and this life of {replica} is not the primary",
            proposal.change.name()
        )),
        None => refuse(format!("{} is for the primary, not for an operator", proposal.change.name())),
    }
}

fn in_sync_proposer<'a>(record: &'a GroupRecord, proposal: &Proposal) -> Result<&'a Member, RefusalReason> {
    let Some((replica, incarnation)) = &proposal.proposer else {
        return refuse(format!("{} is for a replica in sync, not for an operator", proposal.change.name()));
    };
    match record.member(replica) {
        Some(member) if member.incarnation == *incarnation || planted!("P1") => Ok(member),
        _ => refuse(format!("this life of {replica} is not in sync")),
    }
}

fn check_image(proposal: &Proposal, stored: Position) -> Result<(), RefusalReason> {
    if proposal.held >= stored || planted!("P1") {
        Ok(())
    } else {
        Err(RefusalReason::OldImage { held: proposal.held, commit: stored })
    }
}

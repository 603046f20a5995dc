//! The core's events as people find them: one log line each, by a name that can be searched for.

use cutover_arbiter::record::Epoch;

use crate::replica::{Event, TransferStatus};

/// The name under which an event is logged and counted.
pub fn name(event: &Event) -> &'static str {
    match event {
        Event::Role { .. } => "replica.role",
        Event::Granted { .. } => "cutover.granted",
        Event::Refused { .. } => "cutover.refused",
        Event::Suspected { .. } => "replica.suspected",
        Event::CutOver { .. } => "cutover.done",
        Event::Deposed { .. } => "primary.deposed",
        Event::Removed { .. } => "backup.removed",
        Event::Admitted { .. } => "backup.admitted",
        Event::NeedsTransfer { .. } => "rejoin.transfer",
        Event::TransferStarted { .. } => "transfer.started",
        Event::TransferProgress { .. } => "transfer.progress",
        Event::TransferDone { .. } => "transfer.done",
        Event::TransferResumed { .. } => "transfer.resumed",
        Event::FellBehind { .. } => "replica.fell_behind",
        Event::DeltaRejoin { .. } => "rejoin.delta",
        Event::TailCut { .. } => "log.tail_cut",
        Event::Diverged { .. } => "replica.diverged",
        Event::Poisonous { .. } => "operation.poisonous",
        Event::NewIncarnation { .. } => "replica.new_incarnation",
        Event::ClockSkew { .. } => "clock.skew",
        Event::PeerRefused { .. } => "peer.refused",
        Event::ArbitersForgot { .. } => "arbiters.forgot",
        Event::FencedByOperator { .. } => "replica.fenced",
        Event::FenceStands { .. } => "replica.stays_fenced",
        Event::WaitsForSeize { .. } => "group.waits_for_seize",
        Event::Restarted { .. } => "replica.restarted",
        Event::Rejoined { .. } => "rejoin.follows",
        Event::GoesBack { .. } => "rejoin.goes_back",
        Event::WentBack { .. } => "rejoin.went_back",
        Event::KeepsState { .. } => "rejoin.keeps_state",
        Event::CannotGoBack { .. } => "rejoin.cannot_go_back",
        Event::SnapshotInstalled { .. } => "snapshot.installed",
        Event::JournalFailed { .. } => "journal.failed",
        Event::JournalStalled { .. } => "journal.stalled",
    }
}

/// Writes the event's line.
pub fn log(event: &Event) {
    let name = name(event);
    match event {
        Event::Role { from, to, epoch } => tracing::info!(%epoch, "{name} {from:?} -> {to:?}"),
        Event::Granted { change, epoch } => tracing::info!(%epoch, change, "{name} the arbiters granted it"),
        Event::Refused { change, reason } => tracing::info!(change, %reason, "{name} the arbiters refused it"),
        Event::Suspected { replica, why } => tracing::warn!(%replica, why, "{name}"),
        Event::CutOver { epoch, took_us, drained } => {
            tracing::info!(%epoch, took_us, drained, "{name} this replica is primary and serves");
        }
        Event::Deposed { epoch } => tracing::warn!(%epoch, "{name} another replica is primary"),
        Event::Removed { replica, epoch } => {
            tracing::warn!(%replica, %epoch, "{name} the group has one copy less");
        }
        Event::Admitted { replica, epoch } => tracing::info!(%replica, %epoch, "{name} it is in sync"),
        Event::NeedsTransfer { primary, reason } => {
            tracing::info!(%primary, %reason, "{name} what this replica holds cannot be joined to the log as it is");
        }
        Event::TransferStarted { replica, reason } => tracing::info!(%replica, %reason, "{name}"),
        Event::TransferProgress { replica, status } => {
            let TransferStatus { bytes, of_bytes, entries, of_entries, bytes_per_s, left_ms } = *status;
            let left_ms = left_ms.unwrap_or_default();
            tracing::info!(%replica, bytes, of_bytes, entries, of_entries, bytes_per_s, left_ms, "{name}");
        }
        Event::TransferDone { replica, status, index } => {
            let TransferStatus { bytes, entries, bytes_per_s, .. } = *status;
            tracing::info!(%replica, bytes, entries, bytes_per_s, index, "{name}");
        }
        Event::TransferResumed { replica, chunk, bytes } => {
            tracing::info!(%replica, chunk, bytes, "{name} it goes on where the link broke");
        }
        Event::FellBehind { replica, log_bytes } => {
            tracing::warn!(%replica, log_bytes, "{name} the log kept for it grew too long; it must come again for a fresh snapshot: give it a faster link or machine, or raise transfer-journal-bytes (in mode memory: transfer-log-bytes)");
        }
        Event::DeltaRejoin { replica, common, entries } => {
            tracing::info!(%replica, common, entries, "{name} it needs only the entries after the common point");
        }
        Event::TailCut { keep, entries } => {
            tracing::warn!(keep, entries, "{name} entries that lost a cut-over, never released, were cut");
        }
        Event::Diverged { index, operation } => {
            tracing::error!(index, operation, "{name} the result differs from the primary's; state transfer follows");
        }
        Event::Poisonous { index, operation, panic } => {
            tracing::error!(index, operation, panic, "{name} the operation panicked; the panic is its reply");
        }
        Event::NewIncarnation { incarnation, why } => tracing::info!(%incarnation, why, "{name}"),
        Event::ClockSkew { skew_us } => {
            tracing::warn!(
                skew_us,
                "{name} the wall clock and the group clock are far apart; check time synchronisation"
            );
        }
        Event::ArbitersForgot { known, shown } => {
            tracing::error!(%known, %shown, "{name} the arbiters lost their data; this replica keeps its state and serves no longer: restore the arbiters, or have it adopted");
        }
        Event::FencedByOperator { known, epoch } => {
            tracing::warn!(%known, %epoch, "{name} an operator lets the arbiters know the group anew; until then this replica serves and acknowledges nothing");
        }
        Event::FenceStands { fence, shown: Epoch(0) } => {
            tracing::error!(%fence, "{name} the arbiters know no such group, and this replica does nothing below the fence: `cutover adopt` was not finished; /readyz says how to go on with it");
        }
        Event::FenceStands { fence, shown } => {
            tracing::error!(%fence, %shown, "{name} the arbiters know the group in a lower epoch, and this replica does nothing below the fence: it stays away until `cutover adopt` raises the group above it; /readyz says how");
        }
        Event::PeerRefused { replica, reason } => tracing::warn!(replica, reason, "{name}"),
        Event::WaitsForSeize { holds } => {
            tracing::error!(
                holds,
                "{name} every in-sync member came back in another life; an operator must decide, /readyz says how"
            );
        }
        Event::Restarted { snapshot, last, epoch, lost: None } => {
            tracing::info!(snapshot, last, %epoch, "{name} it goes on from its own disk, and what it promised holds");
        }
        Event::Restarted { snapshot, last, epoch, lost: Some(why) } => {
            tracing::warn!(snapshot, last, %epoch, why, "{name} it goes on from its own disk, and can only join");
        }
        Event::Rejoined { common, from } => {
            tracing::info!(common, from, "{name} it follows again, and needs only the entries after the common point");
        }
        Event::GoesBack { common, applied } => {
            tracing::info!(
                common,
                applied,
                "{name} it executed what lost a cut-over, and begins with its own snapshot"
            );
        }
        Event::WentBack { snapshot, applied } => {
            tracing::info!(snapshot, applied, "{name} its state is made anew from its own snapshot and journal");
        }
        Event::CannotGoBack { why } => {
            tracing::warn!(why, "{name} its own disk does not give what it needs");
        }
        Event::KeepsState { primary } => {
            tracing::warn!(
                %primary,
                "{name} the primary has no use for this state, which is kept until the primary has had this replica removed"
            );
        }
        Event::SnapshotInstalled { index } => tracing::info!(index, "{name}"),
        Event::JournalFailed { reason } => {
            tracing::error!(reason, "{name} nothing more is acknowledged; this replica stops");
        }
        Event::JournalStalled { age_ms } => {
            tracing::error!(age_ms, "{name} the disk does not answer; a primary hands over, a backup leaves");
        }
    }
}

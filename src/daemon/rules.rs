//! What must hold between the options of a replica, each with its reason; the words are those of the command line.

use std::time::Duration;

use cutover_arbiter::http::CONNECTIONS;
use cutover_arbiter::wire::DEFAULT_LIMIT;

use super::options::Options;
use super::peers::MOST_LINKS;
use crate::protocol::client::WINDOW_BYTES;
use crate::protocol::entry::longest_request;
use crate::replica::IN_FLIGHT_BYTES;

/// What may wait for another replica's socket at the least: all that may be on its way, and one block more.
const LEAST_PEER_OUTPUT: usize = IN_FLIGHT_BYTES + DEFAULT_LIMIT;

/// The first rule that the options break, if they break one.
pub fn broken(options: &Options) -> Option<String> {
    let timers = timers(options);
    let copies = options.create.and_then(|create| min_in_sync(create.min_in_sync, options.copies));
    timers.or(copies).or_else(|| sizes(options))
}

/// What is wrong with the fewest in-sync replicas of a group with so many copies, if anything is.
pub fn min_in_sync(fewest: u8, copies: usize) -> Option<String> {
    let holds = fewest >= 1 && usize::from(fewest) <= copies;
    (!holds).then(|| {
        format!(
            "min-in-sync ({fewest}) must be from 1 to copies ({copies}): with fewer copies than it asks for, no operation is ever executed"
        )
    })
}

/// Open files that are not clients', at most: links to other replicas, http, and what journal and arbiters need.
const OTHER_FILES: usize = MOST_LINKS + CONNECTIONS + 128;

/// How many clients there may be with so many open files. The journal must get its next file whatever clients do: one that
/// cannot be opened is a disk that failed, which is final, and the backup that takes over gets the same clients.
pub fn clients_within(wanted: usize, files: u64) -> usize {
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    wanted.min(files.saturating_sub(OTHER_FILES).max(files / 4)).max(1)
}

fn show(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// A number of bytes as a person would write it.
pub fn bytes(bytes: usize) -> String {
    const UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

fn timers(options: &Options) -> Option<String> {
    let (heartbeat, drop, suspect) = (options.heartbeat, options.drop_backup_after, options.suspect_after);
    let rules = [
        (
            heartbeat >= Duration::from_millis(5),
            format!("heartbeat ({}) is below 5ms: an idle primary would do nothing but send", show(heartbeat)),
        ),
        (
            drop > heartbeat * 2,
            format!(
                "drop-backup-after ({}) must be more than twice heartbeat ({}): otherwise one late acknowledgement removes a healthy backup",
                show(drop),
                show(heartbeat)
            ),
        ),
        (
            suspect > drop,
            format!(
                "suspect-after ({}) must be longer than drop-backup-after ({}): when the link between two healthy machines breaks, the primary must be the first to notice, so that it stays",
                show(suspect),
                show(drop)
            ),
        ),
        (
            options.switchover_timeout >= suspect,
            format!(
                "switchover-timeout ({}) must be at least suspect-after ({}): a switchover must outlast one silence that nobody suspects",
                show(options.switchover_timeout),
                show(suspect)
            ),
        ),
        (
            !options.propose_again_after.is_zero() && options.propose_again_after <= options.switchover_timeout,
            format!(
                "propose-again-after ({}) must be above 0 and at most switchover-timeout ({}): otherwise an unanswered proposal is never repeated in time",
                show(options.propose_again_after),
                show(options.switchover_timeout)
            ),
        ),
        (
            !options.readmit_after.is_zero(),
            String::from("readmit-after is 0: a faulty backup would come and go without end"),
        ),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map(|(_, reason)| reason)
}

fn sizes(options: &Options) -> Option<String> {
    let suspect = options.suspect_after;
    let rules = [
        ((1..=16).contains(&options.copies), String::from("copies must be from 1 to 16; the primary's own counts")),
        (
            options.append_bytes >= 1024 && options.append_bytes <= options.unacknowledged_bytes,
            format!(
                "append-bytes ({}) must be from 1KiB to unacknowledged-bytes ({}): otherwise no full append could be sent",
                bytes(options.append_bytes),
                bytes(options.unacknowledged_bytes)
            ),
        ),
        (
            options.unacknowledged_bytes <= options.log_bytes,
            format!(
                "unacknowledged-bytes ({}) must be at most log-bytes ({}): what a follower has not acknowledged must still be in the log",
                bytes(options.unacknowledged_bytes),
                bytes(options.log_bytes)
            ),
        ),
        (
            options.log_bytes <= options.limits.transfer_log_bytes,
            format!(
                "transfer-log-bytes ({}) must be at least log-bytes ({}): what is kept for everybody is kept for a joiner, too",
                bytes(options.limits.transfer_log_bytes),
                bytes(options.log_bytes)
            ),
        ),
        (
            options.limits.transfer_journal_bytes >= options.snapshot_bytes,
            format!(
                "transfer-journal-bytes ({}) must be at least snapshot-bytes ({}): what is kept on disk for a joiner is counted by the snapshots that were taken since",
                bytes(usize::try_from(options.limits.transfer_journal_bytes).unwrap_or(usize::MAX)),
                bytes(usize::try_from(options.snapshot_bytes).unwrap_or(usize::MAX))
            ),
        ),
        (
            options.max_clients >= 1 && options.max_in_flight >= 1 && options.max_client_memory >= 1,
            String::from(
                "max-clients, max-in-flight and max-client-memory must be above 0: otherwise no client could ever be served",
            ),
        ),
        (
            options.max_request <= longest_request(options.append_bytes),
            format!(
                "max-request ({}) is above its ceiling of {} bytes: a request travels between replicas in one frame of {}, with up to {} of replies that its entry carries and what stands before it in its block; append-bytes ({}) takes from it, and nothing else moves it. A value grows beyond it by APPEND",
                bytes(options.max_request),
                longest_request(options.append_bytes),
                bytes(DEFAULT_LIMIT),
                bytes(WINDOW_BYTES),
                bytes(options.append_bytes)
            ),
        ),
        (
            options.max_peer_output >= LEAST_PEER_OUTPUT,
            format!(
                "max-peer-output ({}) must be at least {}: otherwise what is on its way to another replica, and one long entry, would close its link",
                bytes(options.max_peer_output),
                bytes(LEAST_PEER_OUTPUT)
            ),
        ),
        (
            options.snapshot_bytes >= 64 << 10,
            String::from("snapshot-bytes is below 64KiB: the disk would do nothing but take snapshots"),
        ),
        (
            options.journal_stall_limit >= suspect,
            format!(
                "journal-stall-limit ({}) must be at least suspect-after ({}): disks pause now and then, and a hand-over costs more than a short pause",
                show(options.journal_stall_limit),
                show(suspect)
            ),
        ),
        (
            !options.handshake_deadline.is_zero(),
            String::from("handshake-timeout is 0: every connection would be closed at once"),
        ),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map(|(_, reason)| reason)
}

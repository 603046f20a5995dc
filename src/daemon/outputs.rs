//! What each of the core's outputs means here, and the pictures of the replica that others ask for.

use std::time::Duration;

use cutover_arbiter::record::Mode;

use super::connection::{Connection, Kind};
use super::events;
use super::library::tell;
use super::reactor::Source;
use super::side::Errand;
use super::status::{StatusBody, Surroundings};
use super::turn::Shell;
use super::workers;
use crate::machine::StateMachine;
use crate::port::Parting;
use crate::replica::{Admission, DiskTask, Event, Input, Output, Role, Status, StopReason};
use crate::resp::{self, Serving};

/// Digests that are kept.
const DIGESTS: usize = 16;
/// How long a stopping replica writes what it owes.
const LINGER: Duration = Duration::from_millis(500);

impl<M: StateMachine> Shell<M> {
    /// Runs the core's outputs in order.
    pub(super) fn run_outputs(&mut self) {
        while !self.outbox.outputs.is_empty() {
            let mut outputs = std::mem::take(&mut self.outbox.outputs);
            for output in outputs.drain(..) {
                self.run_output(output);
            }
            // The room of the list is kept for the next turn.
            if self.outbox.outputs.is_empty() {
                self.outbox.outputs = outputs;
            }
        }
    }

    fn run_output(&mut self, output: Output<M>) {
        match output {
            Output::Send(link, message) => self.send(link, &message),
            output @ (Output::Persist { .. }
            | Output::Claim { .. }
            | Output::InstallSnapshot { .. }
            | Output::ReadLog { .. }
            | Output::GoBack { .. }
            | Output::Snapshot { .. }
            | Output::AbandonSnapshot { .. }) => self.ask_disk(output),
            Output::Dial { link, address } => self.dial(link, &address),
            Output::Close(link) => self.close_link(link),
            Output::Propose(proposal) => self.errand(Errand::Propose(proposal)),
            Output::Read { ticket } => self.errand(Errand::Read(ticket)),
            Output::Transfer { transfer, encoding } => match workers::transfer(encoding) {
                Ok(pieces) => {
                    self.sources.add(Source::Transfers);
                    self.transfers.insert(transfer, pieces);
                }
                Err(error) => {
                    tracing::error!(%error, "transfer.failed no thread for it");
                    self.inputs.push_back(Input::TransferFailed { transfer });
                }
            },
            Output::Decode(decoding) => self.workers.decode(decoding),
            Output::Digest { index, core, snapshot } => {
                if !self.workers.digest(index, core, snapshot) {
                    tracing::warn!(index, "digest.skipped too many digests wait to be computed");
                }
            }
            Output::MarkPlaced { ticket, index } => {
                if let Some(asker) = self.marks.remove(&ticket) {
                    // Who asked may have gone.
                    let _ = asker.send(index);
                }
            }
            Output::SwitchoverEnded { ticket, result } => {
                if let Some(asker) = self.switchovers.remove(&ticket) {
                    let _ = asker.send(result.map(|record| *record));
                }
            }
            Output::Fenced { ticket, result } => {
                if let Some(asker) = self.fences.remove(&ticket) {
                    let _ = asker.send(result);
                }
            }
            Output::Discard(garbage) => self.workers.discard(garbage),
            Output::Deposed => self.deposed(),
            Output::Event(event) => self.event(&event),
            Output::Stop(reason) => self.stop(reason),
        }
    }

    /// Notes what the disk is to be asked for, as far as the mode wants it there.
    fn ask_disk(&mut self, output: Output<M>) {
        let Some(DiskTask { done, work }) = self.core.disk_task(output) else { return };
        self.inputs.extend(done.map(|sequence| Input::Persisted { sequence }));
        match (&self.disk, work) {
            (Some(_), Some(work)) => self.for_disk.push(work),
            (None, Some(_)) if self.core.mode() != Mode::Memory => {
                let mode = self.core.mode();
                let reason = format!("the group's durability is {mode}, and this replica has no data directory");
                self.inputs.push_back(Input::JournalFailed { reason });
            }
            _ => {}
        }
    }

    /// Hands it to the disk, in order.
    pub(super) fn hand_to_disk(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.push(&mut self.for_disk);
        }
    }

    pub(super) fn errand(&self, errand: Errand) {
        if self.errands.send(errand).is_err() {
            tracing::error!("side.gone the thread that asks the arbiters has ended");
        }
    }

    fn event(&mut self, event: &Event) {
        events::log(event);
        // The log may be all that an operator has at hand.
        if matches!(event, Event::WaitsForSeize { .. })
            && let Some(command) = self.status_body().waits_for_seize
        {
            tracing::error!("{} the command: {command}", events::name(event));
        }
        self.counters.event(events::name(event), event);
        self.serving_stale = true;
    }

    fn stop(&mut self, reason: StopReason) {
        match &reason {
            StopReason::Asked => tracing::info!("replica.stopped"),
            reason => tracing::error!(%reason, "replica.stopped"),
        }
        self.stopping.get_or_insert((reason, self.now.boot + LINGER));
    }

    /// Nothing that is held is ever sent; what each connection still hears is for its port to say.
    fn deposed(&mut self) {
        self.waiting.clear();
        self.serving_stale = true;
        for key in self.connections.keys() {
            let Some(mut connection) = self.connections.lend(key) else { continue };
            let Connection { transport, kind } = &mut *connection;
            let parting = match kind {
                Kind::Redis(redis) => redis.deposed(&mut transport.output),
                Kind::Library(library) => {
                    tell(&mut transport.output, &library.port.deposed(&self.core));
                    transport.closing = true;
                    Parting::Keep
                }
                Kind::Peer(_) => {
                    self.connections.give_back(key, connection);
                    continue;
                }
            };
            transport.again(&mut self.listed);
            self.connections.give_back(key, connection);
            match parting {
                Parting::Close => self.drop_connection(key),
                Parting::Keep => self.mark_dirty(key),
            }
        }
    }

    /// Keeps a digest and answers those who waited for it.
    pub(super) fn keep_digest(&mut self, index: u64, digest: u64) {
        tracing::info!(index, digest = format!("{digest:016x}"), "digest.done");
        if self.digests.len() == DIGESTS {
            self.digests.pop_front();
        }
        self.digests.push_back((index, digest));
        for (at, asker) in std::mem::take(&mut self.digest_askers) {
            if at == index {
                let _ = asker.send(digest);
            } else if !asker.is_closed() {
                self.digest_askers.push((at, asker));
            }
        }
    }

    /// Learns from the core whether, and for whom, this replica serves.
    pub(super) fn refresh_serving(&mut self) {
        let admission = self.core.admission();
        if admission == self.admission && !self.serving_stale {
            return;
        }
        self.serving_stale = false;
        self.serving = match admission {
            Admission::Open | Admission::Paused => Serving::Primary,
            Admission::Closed => match self.core.status().role {
                Role::Starting => Serving::Loading,
                _ => Serving::ReadOnly { primary: self.primary_redis() },
            },
        };
        self.admission = admission;
    }

    /// Where the primary's Redis port is, unless that is this replica.
    fn primary_redis(&self) -> Option<String> {
        let primary = &self.core.record()?.primary;
        (primary.replica != self.options.name && !primary.addresses.redis.is_empty())
            .then(|| primary.addresses.redis.clone())
    }

    /// What `/status` tells.
    pub(super) fn status_body(&self) -> StatusBody {
        let around = Surroundings {
            group: self.options.group.to_string(),
            addresses: self.addresses.clone(),
            serving: self.admission == Admission::Open,
            clients: self.clients,
            client_bytes: self.client_memory as u64,
            operations: self.counters.operations,
            uptime_s: self.now.boot.saturating_sub(self.started).as_secs(),
            boot_ms: self.now.boot.as_millis() as u64,
            arbiters: self.options.arbiters.clone(),
        };
        StatusBody::new(self.core.status(), around)
    }

    /// What INFO, ROLE and their kin tell.
    pub(super) fn redis_view(&self) -> resp::Status {
        let status = self.core.status();
        let [commands, connections, rejected, input, output] = self.counters.redis();
        let events = |name| self.counters.events.get(name).copied().unwrap_or_default();
        let record = status.record.as_ref();
        let entries = self.core.machine().entries();
        let error_stats = self.counters.error_stats();
        resp::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            process_id: std::process::id(),
            run_id: format!("{:0>40}", status.incarnation.to_string()),
            replication_id: format!("{:0>40}", record.map_or_else(String::new, |record| record.group_id.to_string())),
            redis_address: redis_address(&self.addresses.redis),
            wall_us: self.now.wall,
            now_ms: self.now.boot.as_millis() as u64,
            uptime_s: self.now.boot.saturating_sub(self.started).as_secs(),
            role: self.redis_role(&status),
            group: self.options.group.to_string(),
            replica: self.options.name.to_string(),
            epoch: status.epoch.0,
            in_sync: record.map_or(0, |record| record.in_sync.len()),
            commit_index: status.committed,
            applied_index: status.applied,
            loading: self.serving == Serving::Loading,
            durability: record.map_or_else(|| "unknown".into(), |record| record.mode.to_string()),
            connected_clients: self.clients as u64,
            max_clients: self.options.max_clients as u64,
            blocked_clients: self.waits.len() as u64,
            total_connections: connections,
            rejected_connections: rejected,
            total_commands: commands,
            input_bytes: input,
            output_bytes: output,
            state_transfers: events("transfer.done"),
            delta_rejoins: events("rejoin.delta"),
            used_memory: status.machine_bytes + status.log_bytes,
            uncounted_memory: status.log_bytes,
            max_memory: self.core.memory_limit().unwrap_or_default(),
            keys: entries.all,
            expiring_keys: entries.expiring,
            command_stats: self.counters.command_stats(),
            error_replies: error_stats.iter().map(|(_, count)| count).sum(),
            error_stats,
            config: self.options.redis_settings(&self.addresses.redis),
            ..resp::Status::default()
        }
    }

    fn redis_role(&self, status: &Status) -> resp::Role {
        if self.admission == Admission::Open {
            let backups = status.followers.iter().map(|follower| resp::Backup {
                address: redis_address(&follower.addresses.redis),
                state: match follower.role {
                    Role::Joining | Role::Starting => resp::BackupState::Transfer,
                    _ => resp::BackupState::Online,
                },
                index: follower.acknowledged,
                lag_s: follower.silence.as_secs(),
            });
            return resp::Role::Primary { backups: backups.collect() };
        }
        let (name, link) = match status.role {
            Role::Starting => ("starting", resp::Link::Connect),
            Role::Joining => ("joining", resp::Link::Sync),
            Role::Spare => ("spare", resp::Link::Connected),
            Role::Backup => ("backup", resp::Link::Connected),
            Role::TakingOver => ("taking_over", resp::Link::Connecting),
            Role::Primary => ("primary, not confirmed", resp::Link::Connecting),
            Role::Fenced => ("fenced", resp::Link::Connecting),
            Role::Stopped => ("stopped", resp::Link::Connect),
        };
        resp::Role::Other {
            name,
            primary: self.primary_redis().as_deref().map(redis_address),
            link,
            heard_s: status.silence.map(|silence| silence.as_secs()),
        }
    }
}

fn redis_address(address: &str) -> resp::Address {
    match address.rsplit_once(':') {
        Some((host, port)) => resp::Address { host: host.to_owned(), port: port.parse().unwrap_or_default() },
        None => resp::Address::default(),
    }
}

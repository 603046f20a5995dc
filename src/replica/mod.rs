//! The sans-IO core of a replica: log, output rule, suspicion, cut-over, admission, sessions.
//!
//! A [`Replica`] owns no clock, socket, thread or source of randomness. The shell (the daemon, the simulator, the
//! model checker) drives it in *turns*:
//!
//! 1. [`Replica::begin`] with the time, read once per turn;
//! 2. any number of [`Replica::step`] (peers, arbiters, disk, operator), [`Replica::decoded`] (a snapshot's chunks) and
//!    [`Replica::request`] (clients);
//! 3. [`Replica::forward`], with what others wait for, which the shell sends at once;
//! 4. [`Replica::end`], which fires what is due, composes at most a few appends per follower and one acknowledgement,
//!    and fills the [`Outbox`]; the shell runs the outputs in order and owes nothing more;
//! 5. [`Replica::apply`], after the acknowledgement has left: a follower catches up with what is committed.
//!
//! Between turns it waits for input or for [`Replica::next_deadline`].
//!
//! A reply comes with a [`Hold`] and waits in its connection until [`Replica::release`] covers it; the shell writes
//! nothing to a client that is not covered. While [`Replica::admission`] is `Paused` the shell leaves requests in
//! their connections' buffers. After [`Output::Deposed`] whatever is still held is dropped, never sent.
//!
//! | file | what it decides |
//! |---|---|
//! | `records` | what a group record means for this replica, and every change of role |
//! | `proposals` | the one change in flight, and what counts as its answer |
//! | `follow` | a follower: dial, common point, append |
//! | `acknowledge` | what a follower acknowledges, and when |
//! | `suspicion` | when a backup suspects its primary, and asks to take over |
//! | `receive` | a joiner: the snapshot it is given |
//! | `back` | who executed what lost a cut-over makes its state anew from its own disk |
//! | `transfers` | state transfers as the primary sees them |
//! | `primary` | the required set, commit, rounds, release |
//! | `followers` | what each follower is sent |
//! | `members` | suspicion of backups, admission, hand-over |
//! | `requests` | what clients want |
//! | `fence` | an operator's fence, before forgetful arbiters are told of the group anew |
//! | `limits` | what one replica lets grow, and how far |
//! | `durable` | what was asked of the disk, and what waits for it |
//! | `restart` | how a replica begins from what it finds on its disk |
//! | `persist` | what each output means for the disk; beginning on a data directory |
//! | `state`, `sessions`, `log`, `clock` | what is replicated, and how it is kept |

mod acknowledge;
mod api;
mod apply;
mod back;
mod clock;
mod durable;
mod event;
mod explore;
mod fence;
mod few;
mod follow;
mod followers;
mod limits;
mod log;
mod members;
mod persist;
mod primary;
mod proposals;
mod reads;
mod receive;
mod records;
mod requests;
mod restart;
mod seizure;
mod sessions;
mod state;
mod suspicion;
mod transfers;
#[cfg(test)]
mod two;

use std::collections::BTreeMap;
use std::time::Duration;

pub use api::{
    Admission, Claim, Config, CreateOptions, Disposition, FollowerStatus, Hold, Input, LinkId, Now, Origin, Outbox,
    Output, Refused, Release, Request, Role, Status, StopReason, decoded_outcome, opened_session,
};
use back::Rebuilding;
pub use back::Rebuilt;
use bytes::Bytes;
use cutover_arbiter::planted;
use cutover_arbiter::record::{Epoch, GroupRecord, Incarnation, Index, Member, Position, ReplicaName, RequestId};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::machine::{Garbage, StateMachine};
use crate::protocol::peer::{PeerControl, PeerMessage, Round};
use clock::GroupClock;
use durable::Durable;
pub use event::Event;
use fence::Fences;
pub use fence::{FURTHEST, FenceRefused, fence_epoch};
use follow::Follow;
pub use followers::IN_FLIGHT_BYTES;
pub use limits::Limits;
use log::Log;
pub use persist::{BeginError, DiskTask};
use primary::Primary;
use proposals::Pending;
pub use receive::{Decoded, Decoding};
pub use restart::Restored;
use state::State;
#[doc(hidden)]
pub use state::core_part;
pub use transfers::{Encoding, Piece, TransferRoom, TransferStatus};

/// The core of one replica. See the module's documentation for how it is driven.
pub struct Replica<M: StateMachine> {
    config: Config,
    make: fn() -> M,
    now: Now,
    /// When the shell was told to come back at the latest: coming later means that this loop did not run.
    expected: Option<Duration>,
    random: ChaCha8Rng,
    incarnation: Incarnation,
    state: State<M>,
    log: Log,
    clock: GroupClock,
    record: Option<GroupRecord>,
    /// The highest epoch ever heard of; nothing of a lower one is followed.
    known_epoch: Epoch,
    role: Stance<M::Restore>,
    disk: Durable,
    proposal: Option<Pending>,
    /// Requests of this life that may still be granted, with the epoch they expect: only they make this replica
    /// primary without a `Resume`.
    own_requests: BTreeMap<RequestId, Epoch>,
    links: BTreeMap<LinkId, Link>,
    /// Lives met at a member's address that are not the one the record names.
    met: BTreeMap<ReplicaName, Incarnation>,
    next_link: LinkId,
    next_ticket: u64,
    /// Reads without an answer, with the epoch known when they were asked.
    reads: BTreeMap<u64, Epoch>,
    handshakes: u64,
    garbage: Vec<Garbage>,
    scratch: Scratch,
    waits_for_seize: bool,
    acknowledgement_put_off: bool,
    /// The state was read from disk, and no primary has told the clock since.
    restarted: bool,
    stopping: Option<Stopping>,
    fences: Fences,
    /// An older state that another thread makes, whether anybody still waits for it or not: one at a time.
    rebuilding: Option<Rebuilding>,
}

/// An entry as tests see it.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryAt {
    /// The log ends before it.
    Missing,
    /// The log begins after it; the state contains it.
    Below,
    /// Its epoch and its bytes.
    Is(Epoch, Bytes),
}

/// The few numbers that tests look at after every turn.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vitals {
    /// Last index of the log, entries of the present turn included.
    pub last: Index,
    /// The same without them.
    pub held: Index,
    /// Applied; on the primary: executed.
    pub applied: Index,
    /// The running hash there.
    pub check: u64,
    /// Known to be committed.
    pub committed: Index,
    /// The highest epoch ever heard of.
    pub known_epoch: Epoch,
    /// The epoch in which it is primary.
    pub leads: Option<Epoch>,
    /// The last round that it sent.
    pub round: Round,
    /// The life that is required though the record does not name it.
    pub joint: Option<Incarnation>,
    /// A planned cut-over is under way, and until when it may be: new requests wait.
    pub hands_over: Option<Duration>,
    /// A follower that may acknowledge no more before it has applied more.
    pub held_back: bool,
    /// Bytes of its log.
    pub log_bytes: usize,
    /// The group clock as it has it.
    pub clock: crate::machine::Timestamp,
    /// The group clock of the last entry applied, and up to where reads may show it.
    pub times: (crate::machine::Timestamp, crate::machine::Timestamp),
}

/// What a replica does at present; each variant carries what is legal only there.
#[derive(Debug, Clone, Hash)]
enum Stance<R> {
    /// Follows the primary, or looks for it.
    Follow(Box<Follow<R>>),
    /// Executes operations.
    Primary(Box<Primary>),
    /// Does nothing any more.
    Stopped,
}

/// A shutdown in progress.
#[derive(Debug, Clone, Hash)]
struct Stopping {
    /// Stop by then whatever happens.
    deadline: Duration,
    reason: StopReason,
}

/// Buffers used again from entry to entry.
#[derive(Clone, Default)]
struct Scratch {
    captured: Vec<u8>,
    reply: Vec<u8>,
}

/// What a live connection to another replica is for.
#[derive(Debug, Clone, PartialEq, Hash)]
enum Link {
    /// Accepted; its `Hello` has not come.
    Accepted,
    /// A follower of this primary.
    Follower,
    /// Dialled to see who lives there.
    Probe { member: Member, accepted: bool },
    /// Dialled to follow the replica there.
    Upstream,
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl<M: StateMachine> Replica<M> {
    /// A replica that holds nothing, in a new incarnation. `make` makes an empty machine.
    pub fn new(now: Now, config: Config, make: fn() -> M) -> Self {
        let mut random = ChaCha8Rng::from_seed(config.seed);
        let mut incarnation = Incarnation(draw(&mut random));
        if planted!("P8") {
            incarnation = Incarnation(config.name.as_str().bytes().fold(7, |all, byte| all << 8 | u128::from(byte)));
        }
        Self {
            state: State::new(make()),
            make,
            now,
            // Before its first turn it is late for nothing.
            expected: Some(Duration::MAX),
            random,
            incarnation,
            log: Log::default(),
            clock: GroupClock::default(),
            record: None,
            known_epoch: Epoch::default(),
            role: Stance::Follow(Box::new(Follow::new(now.boot))),
            disk: Durable::new(
                Claim { incarnation, group_id: None, mode: None, epoch: Epoch::default(), fenced_from: None },
                0,
                0,
            ),
            proposal: None,
            own_requests: BTreeMap::new(),
            links: BTreeMap::new(),
            met: BTreeMap::new(),
            next_link: 1,
            next_ticket: 1,
            reads: BTreeMap::new(),
            handshakes: 0,
            garbage: Vec::new(),
            scratch: Scratch::default(),
            waits_for_seize: false,
            acknowledgement_put_off: false,
            restarted: false,
            stopping: None,
            fences: Fences::default(),
            rebuilding: None,
            config,
        }
    }

    /// Begins a turn: the one reading of the time in it.
    pub fn begin(&mut self, now: Now) {
        // A shell that does not say when it rests is due as soon as its last turn's end left things.
        let expected = self.expected.take().or_else(|| self.due_back(self.next_deadline()));
        let late = expected.map_or(Duration::ZERO, |expected| now.boot.saturating_sub(expected.max(self.now.boot)));
        self.now = Now { boot: self.now.boot.max(now.boot), wall: now.wall };
        self.clock.advance(self.now);
        if late > self.config.suspect_after / proposals::LATE_PART {
            self.woken(late);
        }
    }

    /// This loop did not run for `late`: whatever silence it finds is its own. A primary confirms its epoch before it
    /// executes anything (requests may have been waiting all that time).
    fn woken(&mut self, late: Duration) {
        match &mut self.role {
            Stance::Follow(_) if planted!("H17") => {}
            Stance::Follow(follow) => follow.excuse(late),
            Stance::Primary(primary) => primary.woken(late),
            Stance::Stopped => {}
        }
    }

    /// Takes one input.
    pub fn step(&mut self, input: Input, out: &mut Outbox<M>) {
        if matches!(self.role, Stance::Stopped) {
            return;
        }
        match input {
            Input::Accepted(link) => {
                self.links.insert(link, Link::Accepted);
            }
            Input::Dialled(link) => self.dialled(link, out),
            Input::DialFailed { link, refused } => self.link_lost(link, refused, out),
            Input::LinkClosed(link) => self.link_lost(link, false, out),
            Input::Peer(link, message) => self.peer(link, message, out),
            Input::PeerPart(link) => self.heard_in_part(link),
            Input::Record(record) => self.watched(record, out),
            Input::Answer { request, answer } => self.answered(request, answer, out),
            Input::Unanswered(request) if planted!("H15") => {
                let reason = cutover_arbiter::record::RefusalReason::NoSuchGroup;
                let answer = cutover_arbiter::record::Answer::Refused { record: self.record.clone(), reason };
                self.answered(request, answer, out);
            }
            Input::Unanswered(request) => self.unanswered(request),
            Input::Read { ticket, record } => self.read_answered(ticket, record, out),
            Input::ReadFailed { ticket } => self.read_failed(ticket, out),
            Input::Persisted { sequence } => self.persisted(sequence, out),
            Input::LogRead { ticket, blocks } => self.log_read(ticket, blocks, out),
            Input::SnapshotWritten { ticket } => self.snapshot_written(ticket),
            Input::JournalFailed { reason } => self.journal_failed(reason, out),
            Input::Snapshot { transfer, piece } => self.snapshot_chunk(transfer, piece, out),
            Input::TransferFailed { transfer } => self.transfer_failed(transfer, out),
            Input::Switchover { to, ticket } => self.switchover(to, ticket, out),
            Input::Mark { ticket } => self.mark(ticket, out),
            Input::Fence { epoch, until, ticket } => self.fence(epoch, until, ticket, out),
            Input::Shutdown => self.shutdown(out),
        }
    }

    fn peer(&mut self, link: LinkId, message: PeerMessage, out: &mut Outbox<M>) {
        let Some(kind) = self.links.get(&link) else { return };
        match (kind.clone(), message) {
            (_, PeerMessage::Control(PeerControl::Record(record))) => self.learn_from_peer(*record, out),
            (Link::Accepted, PeerMessage::Control(PeerControl::Hello(hello))) => self.hello(link, *hello, out),
            (Link::Follower, PeerMessage::Ack(ack)) => self.ack(link, ack),
            (Link::Follower, PeerMessage::Control(PeerControl::Taken { handshake, next })) => {
                self.chunks_taken(link, handshake, next, out);
            }
            (Link::Probe { member, .. }, PeerMessage::Control(answer)) => self.probed(link, &member, answer, out),
            (Link::Upstream, PeerMessage::Control(answer)) => self.upstream(link, answer, out),
            (Link::Upstream, PeerMessage::Append(append)) => self.append(link, append, out),
            (Link::Upstream, PeerMessage::Chunk(chunk)) => self.chunk(link, chunk, out),
            // Anything else is out of place: a stale message of a link whose purpose changed, or nonsense.
            (_, message) => {
                let reason = format!("a message out of place: {message:.80?}");
                self.event(out, Event::PeerRefused { replica: format!("link {link}"), reason });
                self.close(link, out);
                self.link_lost(link, false, out);
            }
        }
    }

    /// What others wait for, ahead of the turn's end: entries for the followers, in mode `memory` the acknowledgement of a
    /// follower. A shell sends it before it goes on to [`Self::end`], which sees to everything else and would see to this.
    pub fn forward(&mut self, out: &mut Outbox<M>) {
        match &self.role {
            Stance::Primary(primary) if primary.forwards() => self.forward_entries(out),
            Stance::Follow(_) if self.in_memory() => self.acknowledge_ahead(out),
            Stance::Primary(_) | Stance::Follow(_) | Stance::Stopped => {}
        }
    }

    /// Ends a turn: fires what is due and composes what goes out.
    pub fn end(&mut self, out: &mut Outbox<M>) {
        self.repeat_proposal(out);
        self.stop_if_due(out);
        match self.role {
            Stance::Follow(_) => self.end_follow(out),
            Stance::Primary(_) => self.end_primary(out),
            Stance::Stopped => {}
        }
        self.answer_fences(out);
        if !self.garbage.is_empty() {
            out.outputs.push(Output::Discard(std::mem::take(&mut self.garbage)));
        }
        if let Some(skew_us) =
            matches!(self.role, Stance::Primary(_)).then(|| self.clock.skew_to_warn_of(self.now)).flatten()
        {
            self.event(out, Event::ClockSkew { skew_us });
        }
    }

    /// How far replies may be released.
    pub fn release(&self) -> Release {
        match &self.role {
            Stance::Primary(primary) if !self.disk.failed => {
                let release = primary.release(self.record.as_ref());
                // A restart must not forget the epoch in which anything was told, a read alone in sync included.
                Release { open: release.open && self.epoch_is_durable(primary.epoch), ..release }
            }
            _ => Release::default(),
        }
    }

    /// Whether requests may be handed in.
    pub fn admission(&self) -> Admission {
        match &self.role {
            Stance::Primary(primary) => primary.admission(),
            _ => Admission::Closed,
        }
    }

    /// The turn is over, and all that followed its end: when the next one must begin at the latest, as boot time. A loop
    /// that comes later than it is due stood still, and [`Self::begin`] takes it for that.
    pub fn rest(&mut self) -> Option<Duration> {
        let deadline = self.next_deadline();
        self.expected = self.due_back(deadline);
        deadline
    }

    /// When [`Self::begin`] … [`Self::end`] must run at the latest, as boot time.
    pub fn next_deadline(&self) -> Option<Duration> {
        let role = match &self.role {
            Stance::Follow(follow) => self.follow_deadline(follow),
            Stance::Primary(primary) => self.primary_deadline(primary),
            Stance::Stopped => return None,
        };
        let proposal = self.proposal.as_ref().and_then(|pending| pending.repeat_at);
        let stopping = self.stopping.as_ref().map(|stopping| stopping.deadline);
        [role, proposal, stopping, self.stall_deadline()].into_iter().flatten().min()
    }

    /// The newest record this replica knows.
    pub fn record(&self) -> Option<&GroupRecord> {
        self.record.as_ref()
    }

    /// This replica's present life.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Bytes that the machine may hold while this replica is primary.
    pub fn memory_limit(&self) -> Option<u64> {
        self.config.limits.memory
    }

    /// Changes [`Limits::memory`] from the next operation on. It holds for this replica alone, and only while it
    /// is primary: the others replay what it decided.
    pub fn set_memory_limit(&mut self, limit: Option<u64>) {
        self.config.limits.memory = limit;
    }

    /// The machine, to be looked at.
    pub fn machine(&self) -> &M {
        &self.state.machine
    }

    /// The few numbers that the invariants of tests need after every turn.
    #[doc(hidden)]
    pub fn vitals(&self) -> Vitals {
        let (committed, leads, round, joint, hands_over) = match &self.role {
            Stance::Follow(follow) => (follow.commit(), None, 0, None, None),
            Stance::Primary(primary) => {
                let joint = primary.joint.as_ref().map(|member| member.incarnation);
                (primary.commit, Some(primary.epoch), primary.round, joint, primary.handed_over_until())
            }
            Stance::Stopped => (0, None, 0, None, None),
        };
        Vitals {
            last: self.last_index(),
            held: self.log.last().index,
            applied: self.state.applied.index,
            check: self.state.hash,
            committed,
            known_epoch: self.known_epoch,
            leads,
            round,
            joint,
            hands_over,
            held_back: self.holds_back(),
            log_bytes: self.log.bytes(),
            clock: self.clock.now(),
            times: (self.state.time, self.state.ceiling),
        }
    }

    /// What the log holds at `index`, for the invariants of tests.
    #[doc(hidden)]
    pub fn entry_at(&self, index: Index) -> EntryAt {
        if index > self.log.last().index {
            return EntryAt::Missing;
        }
        let block = self.log.from(index).and_then(|mut blocks| blocks.next());
        let entry = block.and_then(|block| block.from(index)).and_then(|block| block.upto(index));
        entry.map_or(EntryAt::Below, |block| EntryAt::Is(block.epoch, block.bytes))
    }

    /// Which epoch the entry at `index` is of, also below the log, for the invariants of tests; `None` when the list of
    /// epoch starts does not reach back so far.
    #[doc(hidden)]
    pub fn epoch_at(&self, index: Index) -> Option<Epoch> {
        Some(self.log.epoch_at(index)).filter(|epoch| *epoch != Epoch::default())
    }

    /// A picture for people.
    pub fn status(&self) -> Status {
        let receiving = match &self.role {
            Stance::Follow(follow) => follow.transfer_status(self.now.boot),
            _ => None,
        };
        let (role, committed, silence, followers) = match &self.role {
            Stance::Follow(follow) => {
                (self.follow_role(follow), follow.commit(), Some(self.now.boot.saturating_sub(follow.heard())), vec![])
            }
            Stance::Primary(primary) => (Role::Primary, primary.commit, None, self.follower_status(primary)),
            Stance::Stopped => (Role::Stopped, 0, None, vec![]),
        };
        Status {
            name: self.config.name.clone(),
            incarnation: self.incarnation,
            role,
            epoch: self.known_epoch,
            record: self.record.clone(),
            index: self.last_index(),
            committed,
            held: self.log.last(),
            commit: self.commit_position(),
            applied: self.state.applied.index,
            log_base: self.log.base(),
            log_bytes: self.log.bytes() as u64,
            machine_bytes: self.state.machine.memory(),
            sessions: self.state.sessions.len(),
            clock: self.clock.now(),
            silence,
            receiving,
            followers,
            persisted: self.disk.persisted,
            journal_age_ms: self.disk.age_ms(self.now.boot),
            snapshot_index: self.disk.installed,
            waits_for_seize: self.waits_for_seize,
            proposing: self.proposal.as_ref().map(|pending| pending.proposal.change.name()),
            fenced_from: self.fenced_from(),
            shown_below_fence: self.shown_below_fence(),
            group_id: self.claim().group_id,
            mode: self.claim().mode,
        }
    }

    /// Last index of the log, entries of the present turn included.
    fn last_index(&self) -> Index {
        match &self.role {
            Stance::Primary(primary) => self.log.last().index + u64::from(primary.builder.count),
            _ => self.log.last().index,
        }
    }

    fn myself(&self) -> Member {
        Member {
            replica: self.config.name.clone(),
            incarnation: self.incarnation,
            addresses: self.config.addresses.clone(),
        }
    }

    fn event(&self, out: &mut Outbox<M>, event: Event) {
        out.outputs.push(Output::Event(event));
    }

    fn send(&self, link: LinkId, control: PeerControl, out: &mut Outbox<M>) {
        out.outputs.push(Output::Send(link, PeerMessage::Control(control)));
    }

    fn close(&self, link: LinkId, out: &mut Outbox<M>) {
        out.outputs.push(Output::Close(link));
    }

    fn dial(&mut self, address: &str, kind: Link, out: &mut Outbox<M>) -> LinkId {
        let link = self.next_link;
        self.next_link += 2;
        self.links.insert(link, kind);
        out.outputs.push(Output::Dial { link, address: address.to_owned() });
        link
    }

    /// Asks the arbiters for the record, linearisably. Returns the ticket.
    fn read_record(&mut self, out: &mut Outbox<M>) -> u64 {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.reads.insert(ticket, self.known_epoch);
        out.outputs.push(Output::Read { ticket });
        ticket
    }

    /// Position of the highest committed entry known here.
    fn commit_position(&self) -> Position {
        let index = match &self.role {
            Stance::Follow(follow) => follow.commit().min(self.log.last().index),
            Stance::Primary(primary) => primary.commit,
            Stance::Stopped => 0,
        };
        Position { epoch: self.log.epoch_at(index), index }
    }

    /// Throws away all state and begins a new life. Only a replica that can no longer lead may do so, and from here on
    /// it cannot: no record names the new incarnation.
    fn begin_anew(&mut self, why: &'static str, out: &mut Outbox<M>) {
        if !planted!("H4a") {
            self.incarnation = Incarnation(draw(&mut self.random));
        }
        self.forget_kept();
        self.forget_state();
        self.disk.begin_anew();
        if let Stance::Follow(follow) = &mut self.role {
            follow.forget_commit();
        }
        self.own_requests.clear();
        self.proposal = None;
        self.event(out, Event::NewIncarnation { incarnation: self.incarnation, why });
    }

    /// Empties state and log; the old ones are dropped elsewhere.
    fn forget_state(&mut self) {
        let old = std::mem::replace(&mut self.state, State::new((self.make)()));
        self.garbage.push(Box::new(old));
        self.log = Log::default();
        self.disk.forget();
        // What is being made is of a life that is over, or of a state that is.
        self.rebuilding = self.rebuilding.map(Rebuilding::superseded);
    }
}

/// A random 128-bit number.
fn draw(random: &mut ChaCha8Rng) -> u128 {
    (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64())
}

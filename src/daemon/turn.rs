//! The loop: it owns the core and every connection, and lives in turns.
//!
//! A turn reads the time once, reads what is ready, hands it to the core, ends the core's turn, runs its outputs,
//! releases what is covered, and writes once per connection. Nothing in it waits. What another thread found comes in
//! as a [`Message`]. Deliberately not here: protocols (`peers`, `library`, `redis`), and what each output means
//! (`outputs`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::AsFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cutover_arbiter::alarm::Alarm;
use cutover_arbiter::record::{Addresses, Epoch, GroupRecord};
use tokio::sync::{mpsc, oneshot};

use super::RunError;
use super::clock;
use super::connection::{Connection, Kind, Progress};
use super::disk::{Disk, Persisted};
use super::metrics::Counters;
use super::options::Options;
use super::peers::Links;
use super::ports::Listeners;
use super::reactor::{Reactor, Source, Sources, Whose};
use super::redis::Waits;
use super::side::{Errand, Message, Question};
use super::slab::{Key, Slab};
use super::workers::{Encoded, Workers};
use crate::journal::Work;
use crate::machine::StateMachine;
use crate::protocol::peer::TransferId;
use crate::replica::{Admission, FenceRefused, Hold, Input, Now, Outbox, Release, Replica, StopReason};
use crate::resp::Serving;

/// Most bytes read from one client in one turn.
pub const READ_PER_TURN: usize = 128 << 10;
/// After this long a turn takes no more requests, so that heartbeats leave and other connections have their share.
const TURN: Duration = Duration::from_millis(5);
/// How often a turn looks at its own exact clock, in requests.
const LOOK: u32 = 32;
/// Who may wait for digests at a time.
const DIGEST_ASKERS: usize = 64;
/// Messages from other threads taken in one turn.
const MESSAGES: usize = 256;
/// Bytes of the buffer that everything is read into first.
const SCRATCH: usize = 64 << 10;

/// What other threads ring.
pub(super) struct Wakers {
    messages: Waker,
    pub(super) workers: Waker,
    pub(super) transfers: Waker,
}

impl Wakers {
    fn new(reactor: &Reactor) -> Self {
        Self {
            messages: reactor.waker(Source::Messages),
            workers: reactor.waker(Source::Workers),
            transfers: reactor.waker(Source::Transfers),
        }
    }
}

/// The loop's state.
pub struct Shell<M: StateMachine> {
    pub(super) options: Options,
    pub(super) addresses: Addresses,
    pub(super) core: Replica<M>,
    pub(super) outbox: Outbox<M>,
    pub(super) now: Now,
    pub(super) started: Duration,
    pub(super) reactor: Reactor,
    /// Connections to look at in this turn, and from the next one on.
    keys: VecDeque<Key>,
    pub(super) listed: VecDeque<Key>,
    /// What else to look at, and how other threads say so.
    pub(super) sources: Sources,
    pub(super) wakers: Wakers,
    /// Everything is read into it first.
    pub(super) scratch: Box<[u8]>,
    pub(super) connections: Slab<Box<Connection>>,
    pub(super) links: Links,
    /// Connections of clients.
    pub(super) clients: usize,
    /// Bytes that all of them hold.
    pub(super) client_memory: usize,
    /// Every hold that a connection waits for, in the order in which they were given.
    pub(super) waiting: VecDeque<(Hold, Key)>,
    /// Beyond this many the connections that are gone are taken out.
    pub(super) waiting_limit: usize,
    pub(super) waits: Waits,
    /// Connections whose requests wait for admission.
    pub(super) parked: BTreeSet<Key>,
    /// Connections with something to write.
    pub(super) dirty: Vec<Key>,
    /// Who must have introduced himself by when.
    pub(super) handshakes: VecDeque<(Duration, Key)>,
    /// What the shell itself has to tell the core.
    pub(super) inputs: VecDeque<Input>,
    pub(super) admission: Admission,
    pub(super) serving: Serving,
    /// Something happened that may change what `serving` says.
    pub(super) serving_stale: bool,
    pub(super) release: Release,
    /// The operation at hand, and the core's reply to it.
    pub(super) operation: Vec<u8>,
    pub(super) reply: Vec<u8>,
    pub(super) counters: Counters,
    pub(super) workers: Workers<M>,
    /// The disk's thread; a replica without a data directory has none.
    pub(super) disk: Option<Disk<M::Snapshot>>,
    /// What it is asked for in this turn.
    pub(super) for_disk: Vec<Work<M::Snapshot>>,
    pub(super) errands: mpsc::UnboundedSender<Errand>,
    pub(super) transfers: BTreeMap<TransferId, Encoded>,
    pub(super) switchovers: BTreeMap<u64, oneshot::Sender<Result<GroupRecord, String>>>,
    pub(super) marks: BTreeMap<u64, oneshot::Sender<Option<u64>>>,
    pub(super) fences: BTreeMap<u64, oneshot::Sender<Result<Epoch, FenceRefused>>>,
    /// The last digests, and who waits for one.
    pub(super) digests: VecDeque<(u64, u64)>,
    pub(super) digest_askers: Vec<(u64, oneshot::Sender<u64>)>,
    pub(super) stopping: Option<(StopReason, Duration)>,
    pub(super) messages: mpsc::Receiver<Message>,
    pub(super) listeners: Listeners,
    /// No connection is accepted before this: the system had no room for one.
    pub(super) accept_after: Duration,
    idle_check: Duration,
    /// Clients' word of newer records is not looked into before this.
    pub(super) hinted_until: Duration,
    tickets: u64,
    asked_to_stop: bool,
    alarm: Alarm,
    turn_began: Duration,
    looks: u32,
    over: bool,
}

/// What follows a turn.
enum Next {
    /// Another one, now.
    AtOnce,
    /// Another one, when there is news.
    News,
    /// Nothing.
    Over,
}

/// What a loop is made of.
pub struct Parts<M: StateMachine> {
    /// What the replica was told.
    pub options: Options,
    /// Where it is reached.
    pub addresses: Addresses,
    /// The core.
    pub core: Replica<M>,
    /// What it said while it was made.
    pub outbox: Outbox<M>,
    /// The disk's thread.
    pub disk: Option<Disk<M::Snapshot>>,
    /// The time with which the core was made.
    pub now: Now,
    /// What it sleeps on.
    pub reactor: Reactor,
    /// Its ports.
    pub listeners: Listeners,
    /// Wakes it when something is due.
    pub alarm: Alarm,
    /// Its threads.
    pub workers: Workers<M>,
    /// What other threads say.
    pub messages: mpsc::Receiver<Message>,
    /// To the side thread.
    pub errands: mpsc::UnboundedSender<Errand>,
}

impl<M: StateMachine> Shell<M> {
    /// A loop before its first turn.
    ///
    /// # Errors
    /// The system cannot tell it of its ports or its alarm.
    pub fn new(parts: Parts<M>) -> std::io::Result<Self> {
        let Parts {
            options,
            addresses,
            core,
            outbox,
            disk,
            now,
            reactor,
            listeners,
            alarm,
            workers,
            messages,
            errands,
        } = parts;
        listeners.watch(&reactor)?;
        reactor.watch_source(alarm.as_fd(), Source::Alarm)?;
        Ok(Self {
            options,
            addresses,
            core,
            outbox,
            now,
            started: now.boot,
            wakers: Wakers::new(&reactor),
            reactor,
            keys: VecDeque::new(),
            listed: VecDeque::new(),
            // The first turn makes itself known to all of them.
            sources: Sources::all(),
            scratch: vec![0; SCRATCH].into(),
            connections: Slab::default(),
            links: Links::default(),
            clients: 0,
            client_memory: 0,
            waiting: VecDeque::new(),
            waiting_limit: super::release::WAITING,
            waits: Waits::new(),
            parked: BTreeSet::new(),
            dirty: Vec::new(),
            handshakes: VecDeque::new(),
            inputs: VecDeque::new(),
            admission: Admission::Closed,
            serving: Serving::Loading,
            serving_stale: true,
            release: Release::default(),
            operation: Vec::new(),
            reply: Vec::new(),
            counters: Counters::default(),
            workers,
            disk,
            for_disk: Vec::new(),
            errands,
            transfers: BTreeMap::new(),
            switchovers: BTreeMap::new(),
            marks: BTreeMap::new(),
            fences: BTreeMap::new(),
            digests: VecDeque::new(),
            digest_askers: Vec::new(),
            stopping: None,
            messages,
            listeners,
            accept_after: Duration::ZERO,
            idle_check: Duration::ZERO,
            hinted_until: Duration::ZERO,
            tickets: 0,
            asked_to_stop: false,
            alarm,
            turn_began: Duration::ZERO,
            looks: 0,
            over: false,
        })
    }

    /// Turns until the replica stops.
    ///
    /// # Errors
    /// Why it stopped, unless it was asked to.
    pub fn live(mut self) -> Result<(), RunError> {
        // A defect ends the loop, not what must still be put in order behind it.
        let result = catch_unwind(AssertUnwindSafe(|| self.turns())).unwrap_or(Err(RunError::Panicked));
        // Sockets close first: dropping a large state takes its time.
        let Self { connections, listeners, .. } = self;
        drop((connections, listeners));
        result
    }

    fn turns(&mut self) -> Result<(), RunError> {
        loop {
            let at_once = match self.turn()? {
                Next::Over => return Ok(()),
                Next::AtOnce => true,
                Next::News => false,
            };
            self.reactor.wait(at_once).map_err(|error| RunError::System { what: "news of its sockets", error })?;
        }
    }

    /// Takes the news, which a look at the system has brought.
    fn hear_news(&mut self) {
        for (whose, news) in self.reactor.news() {
            match whose {
                Whose::Source(source) => self.sources.add(source),
                Whose::Connection(place) => {
                    if let Some(connection) = self.connections.at(place) {
                        connection.transport.hear(news, &mut self.listed);
                    }
                }
            }
        }
        self.sources.merge(self.reactor.rung());
        self.keys.append(&mut self.listed);
    }

    fn turn(&mut self) -> Result<Next, RunError> {
        (self.looks, self.over) = (0, false);
        self.now = clock::now();
        let operations = self.counters.operations;
        self.core.begin(self.now);
        self.refresh_serving();
        self.hear_news();
        self.hear_disk();
        self.take_messages();
        self.accept();
        self.take_decoded();
        if self.admission != Admission::Paused && !self.parked.is_empty() {
            self.keys.extend(std::mem::take(&mut self.parked));
        }
        self.drive_ready();
        if self.counters.operations == operations {
            self.release_at_once();
        }
        self.feed_transfers();
        self.hear_disk();
        self.settle();
        self.hand_to_disk();
        self.release_replies();
        self.settle_waits();
        self.check_deadlines();
        self.flush();
        let behind = self.apply();
        self.hand_to_disk();
        let ended = self.ended();
        self.note_turn(operations);
        if ended? {
            return Ok(Next::Over);
        }
        let quiet = self.core.may_learn_late_of_its_disk();
        if let Some(disk) = &self.disk {
            disk.may_be_quiet(quiet);
        }
        let heard = !quiet && self.hear_disk();
        let unparked = !self.parked.is_empty() && self.core.admission() != Admission::Paused;
        self.arm().map_err(|error| RunError::System { what: "its timer", error })?;
        let listed = !self.keys.is_empty() || !self.listed.is_empty();
        let left = listed || !self.inputs.is_empty() || !self.dirty.is_empty();
        // Ports that may accept nothing for a while stay among the sources; the alarm is set for that.
        let accepts = self.accept_after <= self.now.boot;
        let calls = if accepts { self.sources } else { self.sources.without(Source::Ports) };
        let at_once = behind || heard || left || unparked || !calls.is_empty();
        Ok(if at_once { Next::AtOnce } else { Next::News })
    }

    /// True when this turn has lasted long enough. Any operation may be slow, so each is followed by a look at the coarse
    /// clock, some milliseconds behind but next to free.
    pub(super) fn over_budget(&mut self) -> bool {
        self.looks += 1;
        // One is always taken, and a turn that has no other needs no clock.
        let exactly = self.looks == 2 || self.looks.is_multiple_of(LOOK);
        if self.looks == 2 {
            self.turn_began = clock::coarse();
        }
        if self.looks > 1 && !self.over {
            self.over = (exactly && clock::boot().saturating_sub(self.now.boot) >= TURN)
                || clock::coarse().saturating_sub(self.turn_began) >= TURN;
        }
        self.over
    }

    /// A number never given before in this life; rises.
    pub(super) fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Hands one input to the core.
    pub(super) fn step(&mut self, input: Input) {
        self.core.step(input, &mut self.outbox);
    }

    fn take_messages(&mut self) {
        if !self.sources.take(Source::Messages) {
            return;
        }
        for _ in 0..MESSAGES {
            match self.messages.poll_recv(&mut Context::from_waker(&self.wakers.messages)) {
                Poll::Ready(Some(message)) => {
                    // What the disk had done before is heard before.
                    self.hear_disk();
                    self.message(message);
                }
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
        self.sources.add(Source::Messages);
    }

    /// Takes what the disk has done; true when there was anything.
    fn hear_disk(&mut self) -> bool {
        if !self.disk.as_ref().is_some_and(Disk::has_said) {
            return false;
        }
        let mut heard = false;
        while let Some(Persisted { sequence, took }) = self.disk.as_ref().and_then(Disk::done) {
            if let Some(took) = took {
                self.counters.journal.observe(took);
            }
            self.step(Input::Persisted { sequence });
            heard = true;
        }
        heard
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Record(record) => self.step(Input::Record(record)),
            Message::Answer(request, answer) => self.step(Input::Answer { request, answer }),
            Message::Unanswered(request) => self.step(Input::Unanswered(request)),
            Message::Read(ticket, Some(record)) => self.step(Input::Read { ticket, record }),
            Message::Read(ticket, None) => self.step(Input::ReadFailed { ticket }),
            Message::Dialled(link, result) => self.dialled(link, result),
            Message::ReadDone { key, ticket, reply } => self.read_done(key, ticket, reply),
            Message::Digest { index, digest } => self.keep_digest(index, digest),
            // It is taken with the rest of what the disk has done.
            Message::Persisted => {}
            Message::Older(older) => self.go_back(older),
            Message::LogRead { ticket, blocks } => self.step(Input::LogRead { ticket, blocks }),
            Message::SnapshotWritten(ticket) => self.step(Input::SnapshotWritten { ticket }),
            Message::DiskFailed(reason) => self.step(Input::JournalFailed { reason }),
            Message::Question(question) => self.question(question),
            Message::Shutdown if self.asked_to_stop => {
                tracing::warn!("replica.stopping asked twice: it stops at once");
                self.stopping.get_or_insert((StopReason::Asked, Duration::ZERO)).1 = Duration::ZERO;
            }
            Message::Shutdown => {
                self.asked_to_stop = true;
                tracing::info!("replica.stopping it hands over if it can");
                self.step(Input::Shutdown);
            }
        }
    }

    fn question(&mut self, question: Question) {
        match question {
            Question::Status(sender) => {
                // Who asked may have gone.
                let _ = sender.send((self.status_body(), self.counters.clone()));
            }
            Question::Switchover(to, sender) => {
                let ticket = self.next_ticket();
                self.switchovers.retain(|_, asker| !asker.is_closed());
                self.switchovers.insert(ticket, sender);
                self.step(Input::Switchover { to, ticket });
            }
            Question::Mark(sender) => {
                let ticket = self.next_ticket();
                self.marks.retain(|_, asker| !asker.is_closed());
                self.marks.insert(ticket, sender);
                self.step(Input::Mark { ticket });
            }
            Question::Fence { sender, .. } if sender.is_closed() => {}
            Question::Fence { epoch, until, sender } => {
                let ticket = self.next_ticket();
                self.fences.retain(|_, asker| !asker.is_closed());
                self.fences.insert(ticket, sender);
                self.step(Input::Fence { epoch, until, ticket });
            }
            Question::Digest(index, sender) => match self.digests.iter().find(|(at, _)| *at == index) {
                Some((_, digest)) => {
                    let _ = sender.send(*digest);
                }
                None => {
                    self.digest_askers.retain(|(_, asker)| !asker.is_closed());
                    // Whoever is one too many hears at once that there is none: places at the port are for all.
                    if self.digest_askers.len() < DIGEST_ASKERS {
                        self.digest_askers.push((index, sender));
                    }
                }
            },
        }
    }

    fn read_done(&mut self, key: Key, ticket: u64, reply: Option<Vec<u8>>) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(reply) = reply else {
            tracing::error!(client = connection.transport.peer(), "operation.poisonous a large read panicked");
            return self.drop_connection(key);
        };
        match &mut connection.kind {
            Kind::Redis(redis) => redis.port.fill(ticket, reply),
            Kind::Library(library) => library.port.fill(ticket, reply, &mut self.core),
            Kind::Peer(_) => return,
        }
        connection.transport.again(&mut self.listed);
        // Its hold may have been covered long ago and will not come up again.
        self.release_one(key);
    }

    /// Looks at the connections that are ready: other replicas first, so that nobody is suspected whose message lies
    /// in a buffer.
    fn drive_ready(&mut self) {
        for _ in 0..self.keys.len() {
            let Some(key) = self.keys.pop_front() else { break };
            match self.connections.get_mut(key).map(|connection| &connection.kind) {
                None => {}
                Some(Kind::Peer(_)) => self.drive(key),
                Some(_) => self.keys.push_back(key),
            }
        }
        while !self.over
            && let Some(key) = self.keys.pop_front()
        {
            self.drive(key);
        }
    }

    fn drive(&mut self, key: Key) {
        let Some(mut connection) = self.connections.lend(key) else { return };
        let Connection { transport, kind } = &mut *connection;
        transport.looked_at();
        transport.blocked = false;
        let progress = match kind {
            Kind::Redis(redis) => self.drive_redis(key, transport, redis),
            Kind::Library(library) => self.drive_library(key, transport, library),
            Kind::Peer(peer) => self.drive_peer(transport, peer),
        };
        match progress {
            Progress::Hungry => {}
            Progress::Drop => {
                self.connections.give_back(key, connection);
                return self.drop_connection(key);
            }
            Progress::Parked => {
                self.parked.insert(key);
            }
            Progress::Blocked => transport.blocked = true,
            Progress::Again => transport.again(&mut self.listed),
        }
        let writes = !transport.output.is_empty() || transport.closing;
        self.connections.give_back(key, connection);
        self.weigh(key);
        if writes {
            self.mark_dirty(key);
        }
    }

    /// Puts a connection on the list of those to be written.
    pub(super) fn mark_dirty(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && !std::mem::replace(&mut connection.transport.dirty, true)
        {
            self.dirty.push(key);
        }
    }

    /// Closes a connection now, whatever waits in it.
    pub(super) fn drop_connection(&mut self, key: Key) {
        let Some(connection) = self.connections.remove(key) else { return };
        self.parked.remove(&key);
        self.client_memory -= connection.transport.weighed;
        match connection.kind {
            Kind::Redis(_) | Kind::Library(_) => self.clients -= 1,
            Kind::Peer(peer) => {
                self.links.remove(peer.link);
                self.inputs.push_back(Input::LinkClosed(peer.link));
            }
        }
    }

    /// Runs outputs and tells the core what came of them, until nothing more comes.
    fn settle(&mut self) {
        self.run_outputs();
        self.feed_inputs();
        self.core.forward(&mut self.outbox);
        self.run_outputs();
        self.flush_peers();
        self.core.end(&mut self.outbox);
        self.run_outputs();
        self.flush_peers();
        // What a persisted block allows (an acknowledgement, a commit) still leaves in this turn. The bound is only
        // against a core that never settles; what is left goes with the next turn.
        for _ in 0..16 {
            if self.inputs.is_empty() {
                break;
            }
            self.feed_inputs();
            self.core.end(&mut self.outbox);
            self.run_outputs();
        }
        self.flush_peers();
    }

    fn feed_inputs(&mut self) {
        for _ in 0..1024 {
            let Some(input) = self.inputs.pop_front() else { break };
            self.step(input);
            self.run_outputs();
        }
    }

    fn check_deadlines(&mut self) {
        let now = self.now.boot;
        while let Some(&(deadline, key)) = self.handshakes.front()
            && deadline <= now
        {
            self.handshakes.pop_front();
            let silent = self.connections.get_mut(key).is_some_and(|connection| match &connection.kind {
                Kind::Redis(_) => false,
                Kind::Library(library) => !library.port.introduced(),
                Kind::Peer(peer) => !peer.introduced,
            });
            if silent {
                tracing::debug!("handshake.late a connection said nothing in time and was closed");
                self.drop_connection(key);
            }
        }
        if let Some(idle) = self.options.idle_timeout
            && self.idle_check <= now
        {
            self.idle_check = now + Duration::from_secs(1);
            for key in self.connections.keys() {
                let silent = self.connections.get_mut(key).is_some_and(|connection| {
                    !matches!(connection.kind, Kind::Peer(_))
                        && connection.transport.heard + idle <= now
                        && !connection.transport.blocked
                });
                if silent && !self.parked.contains(&key) {
                    self.drop_connection(key);
                }
            }
        }
    }

    /// True once the replica has stopped and what it owes is written or cannot be.
    ///
    /// # Errors
    /// The same, when it was not asked to.
    fn ended(&self) -> Result<bool, RunError> {
        let Some((reason, deadline)) = &self.stopping else { return Ok(false) };
        let owes = self.connections.iter().any(|(_, connection)| !connection.transport.output.is_empty());
        if owes && *deadline > self.now.boot {
            return Ok(false);
        }
        match reason {
            StopReason::Asked => Ok(true),
            reason => Err(RunError::Stopped(reason.clone())),
        }
    }

    fn note_turn(&mut self, operations_before: u64) {
        let took = clock::boot().saturating_sub(self.now.boot);
        self.counters.turns.observe(took);
        if took > self.options.suspect_after / 4 {
            let operations = self.counters.operations - operations_before;
            // A follower executes nothing for clients, and has no operation that could be named.
            let named = operations > 0 && !self.operation.is_empty();
            tracing::warn!(
                took_ms = took.as_millis() as u64,
                operations,
                connections = self.connections.len(),
                last = if named { M::name(&self.operation) } else { String::from("none") },
                "turn.slow heartbeats were late by as much"
            );
        }
    }

    /// Wakes the loop at the next deadline of the core or of a connection.
    fn arm(&mut self) -> std::io::Result<()> {
        if self.sources.take(Source::Alarm) {
            self.alarm.rang();
        }
        let waits =
            self.waits.iter().filter_map(|key| self.connections.peek(*key)).filter_map(|connection| match &connection
                .kind
            {
                Kind::Redis(redis) => redis.deadline(),
                Kind::Library(_) | Kind::Peer(_) => None,
            });
        let idle = self.options.idle_timeout.map(|_| self.idle_check);
        let accept = (self.accept_after > self.now.boot).then_some(self.accept_after);
        let stop = self.stopping.as_ref().map(|(_, deadline)| *deadline);
        let handshake = self.handshakes.front().map(|(deadline, _)| *deadline);
        let own = [self.core.rest(), idle, accept, stop, handshake];
        match own.into_iter().flatten().chain(waits).min() {
            // What is due and stays so does not make the loop a busy one.
            Some(deadline) => self.alarm.set(self.now.boot, deadline.max(self.now.boot + Duration::from_millis(1))),
            None => Ok(()),
        }
    }
}

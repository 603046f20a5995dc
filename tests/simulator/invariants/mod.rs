//! What must hold, by the names of faults.md, one function each, run as things happen and kept incremental.
//!
//! | invariant | function | run when |
//! |---|---|---|
//! | S1 one grant per epoch | `grants::s1_one_grant_per_epoch`, `grants::s1_first_answer` | an arbiter applies a grant; an answer comes |
//! | S2 one releaser | `release::s2_one_releaser` | a reply is released |
//! | O1 output rule | `release::o1_output_rule` | a reply is released |
//! | O2 closure | `takeover::o2_closure` | a replica becomes primary |
//! | O3 acknowledgement fence | `takeover::o3_ack_fence` | an acknowledgement is sent |
//! | O4 reads are outputs | `release::o4_reads_are_outputs` | a reply is released that is not its own entry's |
//! | S3 prefix agreement | `Group::verify` in `canon` | the canon or a log grows |
//! | S4 released is durable | `prefix::s4_released_is_held`; `durable::s4_released_is_durable` | the canon, the record, or a log changes; sampled, by recovery from copies of the disks |
//! | S4, what it takes | `prefix::s4_nothing_in_sync_is_thrown_away`, `prefix::s4_acknowledged_is_committed_or_undone` | a new incarnation; an acknowledgement |
//! | S5 the larger set binds | `release::o1_output_rule` (joint), `prefix::s4_released_is_held` (admission) | as those |
//! | S6 equality | `prefix::s6_equality`, `prefix::s6_running_hash`, `Group::push` | marks; after every turn; the canon grows |
//! | S7 exactly once | `sessions::s7_once`, `sessions::s7_same_reply`, `sessions::s7_own_operation` | the canon grows; a reply is released; a client hears an answer |
//! | S7 in order | `Order::s7_in_order` in `order` | a client hears an answer |
//! | S8 shape | `prefix::s8_shape`, `grants::s8_made_by_its_primary`, `grants::s8_one_life_in_an_epoch` | the canon grows; an append is sent |
//! | S9 persistence | `takeover::s9_acknowledged_is_persisted`; `durable::s9_promised_is_there` | an acknowledgement is sent; a process comes back |
//! | H1 epochs are remembered | `durable::h1_epoch_is_remembered` | after every turn; a process comes back |
//! | S10 no empty authority | `grants::s8_made_by_its_primary`; `durable::s10_proven` | appends, chunks, welcomes; a process comes back |
//! | S11 logical time | `prefix::s11_logical_time`, `client::s11_clock`, `client::s11_clock_of_a_new_primary` | the canon grows; a client is told the clock; a cut-over |
//! | S12 fail stop | `takeover::s12_fail_stop`; `World::disk_done` | an acknowledgement or a reply after a divergence or an error of the disk; a call of it failed |
//! | S13 the client's view | `client::s13_real_time`, and the whole history at the end | a client hears an answer |
//! | H17 silence is not one's own | `World::h17_silence_is_not_its_own` in `takeover` | a backup suspects a silent primary |
//! | R1 … R11 | `raft` | every step of an arbiter; R9 has no subject yet: there is no change of membership |
//! | L1 … L7 | `liveness` | the phase after the storm |
//! | the rules of design section 4 | `duties` | the moment at which each binds |

pub mod client;
pub mod durable;
pub mod duties;
pub mod grants;
pub mod liveness;
pub mod order;
pub mod prefix;
pub mod raft;
pub mod release;
pub mod sessions;
pub mod takeover;

use bytes::Bytes;
use cutover::protocol::entry::Block;
use cutover::protocol::peer::{PeerControl, PeerMessage};
use cutover::replica::{EntryAt, Event, Input, LinkId, Now, Role};
use cutover_arbiter::record::{Answer, Epoch, Incarnation, Index, Mode, Proposal};

use durable::Asked;

use super::canon::{Canonical, Core, Group};
use super::world::{Id, Verdict, World};

impl Group {
    /// A core is about to take an input. True when it is an acknowledgement that must count for nothing.
    pub fn takes(&mut self, id: Id, core: &Core, input: &Input) -> bool {
        match input {
            Input::Persisted { sequence } => self.persisted(id, *sequence),
            Input::Answer { request, answer: Answer::Refused { .. } } => _ = self.refused.insert(*request),
            Input::JournalFailed { .. } => {
                if let Some(life) = self.lives.get_mut(&id) {
                    life.failed = true;
                }
            }
            Input::Peer(link, PeerMessage::Control(PeerControl::Hello(hello))) => {
                let from = &hello.from;
                self.followers.insert((id, *link), (from.replica.clone(), from.incarnation, 0));
            }
            Input::Peer(_, PeerMessage::Control(PeerControl::Welcome(_))) => {
                if let Some(life) = self.lives.get_mut(&id) {
                    life.welcomes += 1;
                }
            }
            Input::Peer(link, PeerMessage::Ack(ack)) => {
                let Some(epoch) = core.vitals().leads else { return true };
                let Some((_, incarnation, handshake)) = self.followers.get(&(id, *link)) else { return true };
                if ack.epoch != epoch || ack.incarnation != *incarnation || ack.handshake != *handshake {
                    return true;
                }
                let heard = self.heard.entry((id, *incarnation)).or_default();
                heard.epoch = epoch;
                heard.verified = heard.verified.max(ack.verified);
                heard.round = heard.round.max(ack.round);
            }
            _ => {}
        }
        false
    }

    /// A core sends a frame.
    pub fn sends(&mut self, id: Id, core: &Core, link: LinkId, message: &PeerMessage) -> Verdict {
        match message {
            PeerMessage::Append(append) => {
                if let Some(block) = append.block.as_ref().filter(|_| core.mode() == Mode::Memory) {
                    self.stood_in_the_log(id, block);
                }
                self.s8_made_by_its_primary(core, append.head.epoch, "appends")?;
                self.epoch_began_durably(id, core, append.head.epoch, "appends")?;
                self.sent_an_append(id, append.head.epoch);
                self.s8_one_life_in_an_epoch(id, core, append.head.epoch)
            }
            PeerMessage::Chunk(chunk) => {
                if chunk.head.last {
                    self.hands_on(id, core, link, chunk.head.index);
                }
                self.s8_made_by_its_primary(core, chunk.head.epoch, "transfers state")
            }
            PeerMessage::Control(PeerControl::Welcome(welcome)) => {
                if let Some(follower) = self.followers.get_mut(&(id, link)) {
                    follower.2 = welcome.handshake;
                }
                self.shows_what_it_acknowledged(id, core, link, welcome)?;
                self.epoch_began_durably(id, core, welcome.epoch, "welcomes")?;
                self.s8_made_by_its_primary(core, welcome.epoch, "welcomes")
            }
            PeerMessage::Ack(ack) => {
                self.s12_fail_stop(id, core)?;
                self.o3_ack_fence(id, core, ack)?;
                self.s4_acknowledged_is_committed_or_undone(id, core)?;
                self.promises(id, ack.epoch);
                self.s9_acknowledged_is_persisted(id, core, ack)
            }
            PeerMessage::Control(PeerControl::Hello(hello)) => {
                self.shows_its_record(core, hello.record.as_deref())?;
                self.shows_a_durable_life(id, core)
            }
            PeerMessage::Control(PeerControl::Alive { record, .. } | PeerControl::Refuse { record, .. }) => {
                self.shows_its_record(core, record.as_deref())?;
                self.shows_a_durable_life(id, core)
            }
            PeerMessage::Control(_) => Ok(()),
        }
    }

    /// A core proposes a change.
    ///
    /// # Errors
    /// It may not.
    pub fn proposes(&mut self, id: Id, core: &Core, proposal: &Proposal) -> Verdict {
        if let Some(life) = self.lives.get_mut(&id)
            && proposal.change.name() == "take_over"
        {
            life.fenced = Some(life.welcomes);
        }
        let known = |(_, _, other): &(Id, _, Proposal)| other.request == proposal.request;
        if proposal.expected_epoch.0 == self.newest_epoch() && !self.proposals.iter().any(known) {
            self.proposals.push((id, core.incarnation(), proposal.clone()));
            self.fresh.insert(proposal.request);
        }
        if !self.asked.insert(proposal.request) {
            return Ok(());
        }
        if let Some(led) = core.vitals().leads {
            self.epoch_began_durably(id, core, led, "proposes")?;
        }
        self.may_propose(id, core, proposal)
    }

    /// A core says that something happened.
    pub fn event(&mut self, id: Id, core: &Core, event: &Event) -> Verdict {
        self.owes_an_append(id, event);
        match event {
            Event::Role { to: Role::Primary, .. } => {
                // What was acknowledged to an earlier reign says nothing in this one.
                self.heard.retain(|(primary, _), _| *primary != id);
                if let Some(life) = self.lives.get_mut(&id) {
                    life.executed = core.vitals().last;
                }
                Ok(())
            }
            Event::CutOver { epoch, .. } => {
                // Until its epoch is on its disk, whoever was seized may lose what it held in memory alone.
                self.reign_begins(id, core, *epoch)?;
                self.s11_clock_of_a_new_primary(core, *epoch)?;
                self.o2_closure(id, core, *epoch)
            }
            Event::TailCut { keep, .. } => {
                if let Some(life) = self.lives.get_mut(&id) {
                    life.verified = life.verified.min(*keep);
                    life.acknowledged.1 = life.acknowledged.1.min(*keep);
                }
                self.stale = true;
                Ok(())
            }
            Event::TransferDone { index, replica, .. } if core.status().name == *replica => {
                let inherited = self.inherited.remove(&core.incarnation()).unwrap_or_default();
                let in_memory = self.record().is_none_or(|record| record.mode == Mode::Memory);
                if let Some(life) = self.lives.get_mut(&id) {
                    // With a journal it holds nothing before its snapshot is in place.
                    let base = if in_memory { *index } else { 0 };
                    (life.base, life.persisted, life.verified) = (base, base, 0);
                    life.writing.values_mut().for_each(|asked| asked.last = 0);
                    life.written = inherited;
                }
                self.stale = true;
                Ok(())
            }
            Event::NewIncarnation { incarnation, .. } => {
                self.new_life(id, core, *incarnation);
                Ok(())
            }
            Event::Diverged { .. } => {
                if let Some(life) = self.lives.get_mut(&id) {
                    life.diverged = true;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// It takes another life, with its state or without. The one before may yet come back, until this one is on disk.
    fn new_life(&mut self, id: Id, core: &Core, incarnation: Incarnation) {
        let before = self.lives.get(&id).cloned();
        if before.as_ref().is_some_and(|life| life.incarnation == incarnation) {
            if let Some(life) = self.lives.get_mut(&id).filter(|_| core.vitals().last == 0) {
                (life.verified, life.base, self.stale) = (0, 0, true);
                life.written.clear();
            }
            return;
        }
        self.born(id, core.status().name, incarnation, before.as_ref().map_or(0, |life| life.log_limit));
        let Some(before) = before else { return };
        if core.vitals().last > 0
            && let Some(life) = self.lives.get_mut(&id)
        {
            (life.written, life.persisted, life.base) = (before.written.clone(), before.persisted, before.base);
        }
        self.replaced.entry(id).or_insert(before);
    }

    /// It promises something in an epoch.
    pub fn promises(&mut self, id: Id, epoch: Epoch) {
        if let Some(life) = self.lives.get_mut(&id) {
            life.promised = life.promised.max(epoch);
        }
    }

    /// After every turn of a core.
    pub fn turn_ended(&mut self, id: Id, core: &Core, now: Now) -> Verdict {
        if let Some(life) = self.lives.get_mut(&id) {
            // A snapshot that nobody had committed may have been thrown away, without a word.
            life.verified = life.verified.min(core.vitals().last);
        }
        self.verify(id, core)?;
        self.duties_of_a_turn(id, core, now)?;
        self.s6_running_hash(id, core)?;
        self.executes(id, core);
        self.h1_epoch_is_remembered(id, core)?;
        self.l6_memory_is_bounded(id, core)
    }

    /// A core has taken an input or ended a turn: how far it may release while enough are in sync.
    pub fn executes(&mut self, id: Id, core: &Core) {
        let (vitals, release) = (core.vitals(), core.release());
        let enough = core.record().is_some_and(|record| record.in_sync.len() >= usize::from(record.min_in_sync));
        let Some(life) = self.lives.get_mut(&id) else { return };
        if vitals.leads.is_some() {
            life.executed = life.executed.max(vitals.last);
        }
        if enough && release.open {
            life.enough = life.enough.max(release.commit);
        }
    }

    /// In mode `memory` no disk hears of entries: what stands in the log is noted after each step of a core, before it is
    /// trimmed. What is sealed and trimmed in one step has been sent, and is noted by that.
    pub fn remembers(&mut self, id: Id, core: &Core) {
        if core.record().is_none_or(|record| record.mode != Mode::Memory) {
            return;
        }
        let Self { canon, lives, .. } = self;
        let known = |index, epoch, bytes: &Bytes| is_canonical(canon, index, epoch, bytes);
        let Some(life) = lives.get_mut(&id).filter(|life| life.incarnation == core.incarnation()) else { return };
        life.written
            .retain(|index, (epoch, bytes)| core.entry_at(*index) != EntryAt::Missing && !known(*index, *epoch, bytes));
        for index in (1..=core.vitals().last).rev() {
            match core.entry_at(index) {
                // Executed in this turn, not yet in the log.
                EntryAt::Missing => {}
                EntryAt::Is(epoch, bytes) if !known(index, epoch, &bytes) => {
                    if life.written.insert(index, (epoch, bytes.clone())) == Some((epoch, bytes)) {
                        return;
                    }
                }
                EntryAt::Is(..) | EntryAt::Below => return,
            }
        }
    }

    /// Entries that a log had for a moment at least.
    fn stood_in_the_log(&mut self, id: Id, block: &Block) {
        let Self { canon, lives, .. } = self;
        let Some(life) = lives.get_mut(&id) else { return };
        for (index, bytes) in one_by_one(block) {
            if !is_canonical(canon, index, block.epoch, &bytes) {
                life.written.insert(index, (block.epoch, bytes));
            }
        }
    }

    /// A core hands a write to its disk.
    pub fn writes(&mut self, id: Id, sequence: u64, cut: Option<Index>, blocks: &[Block], asked: Asked) {
        let Self { canon, lives, .. } = self;
        let Some(life) = lives.get_mut(&id) else { return };
        // A tail that lost a cut-over stands where the canon says otherwise, and an operator's word may make it the canon.
        let known = |index, epoch, bytes: &Bytes| is_canonical(canon, index, epoch, bytes);
        life.written
            .retain(|index, (epoch, bytes)| cut.is_none_or(|cut| *index <= cut) && !known(*index, *epoch, bytes));
        for block in blocks {
            for (index, bytes) in one_by_one(block) {
                if !known(index, block.epoch, &bytes) {
                    life.written.insert(index, (block.epoch, bytes));
                }
            }
        }
        if let Some(cut) = cut {
            life.persisted = life.persisted.min(cut);
            life.writing.values_mut().for_each(|asked| asked.last = asked.last.min(cut));
        }
        life.writing.insert(sequence, asked);
    }
}

/// True when the canon has just this at `index`.
fn is_canonical(canon: &[Canonical], index: Index, epoch: Epoch, bytes: &Bytes) -> bool {
    canon.get(index as usize - 1).is_some_and(|canonical| (canonical.epoch, &canonical.bytes) == (epoch, bytes))
}

/// The entries of a block, each by itself.
fn one_by_one(block: &Block) -> impl Iterator<Item = (Index, Bytes)> {
    let one = |index| Some((index, block.from(index)?.upto(index)?.bytes));
    (block.first..=block.last()).filter_map(one)
}

impl World {
    /// What depends on more than one replica, after anything changed that it depends on.
    pub fn look_at_all(&mut self, group: usize) {
        if std::mem::take(&mut self.groups[group].stale) {
            let first = self.arbiters.len();
            let verdict = self.groups[group].s4_released_is_held(&self.replicas, first);
            self.check(verdict);
        }
    }

    /// An arbiter applied a grant.
    pub fn granted(&mut self, arbiter: Id, record: &cutover_arbiter::record::GroupRecord) {
        let now = self.now;
        let Some(group) = self.groups.iter_mut().position(|group| group.name == record.group) else { return };
        match self.groups[group].s1_one_grant_per_epoch(now, record) {
            Ok(false) => {}
            Ok(true) => {
                self.say(|| {
                    let change = record.last_change.change.name();
                    format!("a{} grants epoch {}: {change}, {}", arbiter + 1, record.epoch, record.primary.replica)
                });
                self.report.epochs += 1;
                self.notice_grant(group, record);
                self.look_at_all(group);
            }
            Err(why) => self.check(Err(why)),
        }
    }
}

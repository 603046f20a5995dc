//! A replica's data directory: identity, journal and snapshots, and what of them is kept across a restart.
//!
//! ```text
//! identity              who this is; names the life whose state counts
//! life-000003/          the state of one life
//!   journal-000000000001, …
//!   snapshot-00000000000000004711
//! set-aside-000002/     the state of an earlier life, for people; the two newest are kept
//! ```
//!
//! State is replaced by one rename: a new directory is made, the identity that names it (and the new incarnation) takes
//! the old one's place, and only then is the old directory set aside. A crash anywhere leaves the old life whole or the
//! new one begun, never a mixture.

use std::mem;

use cutover_arbiter::planted;
use cutover_arbiter::record::{Epoch, GroupId, GroupName, Incarnation, Index, Mode, Position, ReplicaName};

use super::disk::{Disk, DiskError};
use super::doubt;
use super::error::JournalError;
use super::identity::{self, BootId, Identity};
use super::reader::{LogReader, Older, Wanted};
use super::scan::Ending;
use super::segments::{Before, Segments};
use super::snapshot::{self, DAMAGED, SnapshotHead, SnapshotReader, SnapshotWriter};
use crate::machine;
use crate::protocol::entry::Block;

const LIFE: &str = "life-";
const ASIDE: &str = "set-aside-";
/// Earlier lives that are kept for people.
const KEPT_ASIDE: usize = 2;
/// Snapshots that are kept: the newest, and one to fall back to when it turns out to be damaged.
const KEPT_SNAPSHOTS: usize = 2;

/// Who opens a directory.
#[derive(Debug, Clone)]
pub struct Opening {
    /// The group.
    pub group: GroupName,
    /// The replica.
    pub replica: ReplicaName,
    /// The machine whose log it is.
    pub machine: machine::Identity,
    /// The present run of the operating system.
    pub boot: BootId,
    /// Random; seeds the checksums of the segments of this run.
    pub salt: u64,
    /// Bytes after which a new segment begins.
    pub segment_bytes: u64,
}

/// What a replica is, as far as a restart must know it; small, and durable by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The life of its state.
    pub incarnation: Incarnation,
    /// The group's identity, once known.
    pub group_id: Option<GroupId>,
    /// The group's durability, once known.
    pub mode: Option<Mode>,
    /// The highest epoch known, unless the log names a higher one.
    pub epoch: Epoch,
    /// While that is an operator's fence: the highest epoch known before it.
    pub fenced_from: Option<Epoch>,
}

impl From<&Identity> for Claim {
    fn from(identity: &Identity) -> Self {
        let &Identity { incarnation, group_id, mode, epoch, fenced_from, .. } = identity;
        Self { incarnation, group_id, mode, epoch, fenced_from }
    }
}

/// What becomes of the state when a claim is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Kept,
    /// It is set aside; the claim begins with nothing.
    SetAside,
}

/// Whether what this life acknowledged and promised is certainly still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is: the incarnation goes on.
    Yes,
    /// It may not be: a new incarnation, which joins and never leads.
    No(&'static str),
}

/// What an earlier run left.
#[derive(Debug)]
pub struct Found<D: Disk> {
    /// Whether its promises still hold.
    pub kept: Kept,
    /// What it was.
    pub claim: Claim,
    /// The newest good snapshot.
    pub snapshot: Option<SnapshotReader<D>>,
    /// The entries after it.
    pub blocks: Vec<Block>,
    /// Of these, known to be committed.
    pub commit: Index,
    /// What was done to the files, a line each, for the log.
    pub notes: Vec<String>,
}

/// Entries to be made as durable as the mode says, after a cut.
#[derive(Debug, Clone, Default)]
pub struct Write {
    /// Everything beyond this entry goes first.
    pub cut: Option<Position>,
    /// Then these follow.
    pub blocks: Vec<Block>,
}

impl Write {
    /// Bytes of the entries.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.bytes.len()).sum()
    }
}

/// A snapshot that cannot be read.
#[derive(Debug)]
struct Spoilt {
    index: Index,
    path: String,
    offset: u64,
    what: String,
}

/// An open data directory. The caller holds the lock that keeps other processes out.
#[derive(Debug)]
pub struct Directory<D: Disk> {
    disk: D,
    opening: Opening,
    identity: Option<Identity>,
    segments: Segments<D>,
    /// Indexes of the snapshots in place, oldest first.
    snapshots: Vec<Index>,
    /// Marks of syncs that failed before this start: they go once it is durable what became of that.
    doubts: Vec<String>,
    failed: bool,
}

impl<D: Disk> Directory<D> {
    /// Opens the directory and reads what an earlier run left in it; nothing is promised before the first
    /// [`Self::claim`].
    ///
    /// # Errors
    /// The disk failed, a file is damaged, or the directory is another replica's.
    pub fn open(disk: D, opening: Opening) -> Result<(Self, Option<Found<D>>), JournalError> {
        let names = disk.list("")?;
        let identity = Identity::read(&disk, &names)?;
        let segments = Segments::new(disk.clone(), "", opening.salt, opening.segment_bytes, Position::default());
        let mut directory =
            Self { disk, opening, identity, segments, snapshots: Vec::new(), doubts: Vec::new(), failed: false };
        let Some(identity) = directory.identity.clone() else {
            directory.check_empty(&names)?;
            return Ok((directory, None));
        };
        directory.check_owner(&identity)?;
        // What is read and believed is on the device and stays there: the run before may have ended between the renaming
        // of its identity and the syncing of that, and this one writes it again only if it says something else.
        directory.disk.sync_directory("")?;
        let found = directory.recover(&identity)?;
        Ok((directory, Some(found)))
    }

    /// Without an identity nothing may be here but what the very first claim left when it was interrupted.
    fn check_empty(&self, names: &[String]) -> Result<(), JournalError> {
        for life in names.iter().filter(|name| number(LIFE, name).is_some()) {
            if !self.disk.list(life)?.is_empty() {
                return Err(JournalError::damaged(identity::FILE, 0, format!("it is missing beside {life}")));
            }
        }
        Ok(())
    }

    fn check_owner(&self, identity: &Identity) -> Result<(), JournalError> {
        let Opening { group, replica, machine, .. } = &self.opening;
        if (&identity.group, &identity.replica) != (group, replica) {
            return Err(JournalError::Foreign {
                theirs: format!("{} of group {}", identity.replica, identity.group),
                ours: format!("{replica} of group {group}"),
            });
        }
        if identity.machine != *machine {
            return Err(JournalError::Version {
                file: identity::FILE.to_owned(),
                found: format!("machine '{}' version {}", identity.machine.name, identity.machine.version),
                known: format!("machine '{}' version {}", machine.name, machine.version),
            });
        }
        Ok(())
    }

    fn recover(&mut self, identity: &Identity) -> Result<Found<D>, JournalError> {
        let claim = Claim::from(identity);
        let same_boot = identity.boot == self.opening.boot;
        let (ending, kept) = match (identity.mode, identity.ended) {
            (None | Some(Mode::Memory), _) => {
                let kept = Kept::No("mode memory keeps nothing across a restart");
                self.segments = self.empty_journal(identity.life);
                return Ok(Found { kept, claim, snapshot: None, blocks: Vec::new(), commit: 0, notes: Vec::new() });
            }
            (Some(_), Some(_)) => (Ending::Closed, Kept::Yes),
            (Some(_), None) if same_boot => (Ending::Killed, Kept::Yes),
            (Some(Mode::Sync), None) => (Ending::PowerLost, Kept::Yes),
            (Some(Mode::Buffered), None) if planted!("D4") => (Ending::Unsynced, Kept::Yes),
            (Some(Mode::Buffered), None) => (
                Ending::Unsynced,
                Kept::No("the system stopped before what mode buffered had acknowledged was certainly on disk"),
            ),
        };
        let directory = life(identity.life);
        if !self.disk.list("")?.contains(&directory) {
            return Err(JournalError::damaged(&directory, 0, "the directory that holds the state is missing"));
        }
        let names = self.disk.list(&directory)?;
        let mut notes = Vec::new();
        let (snapshot, damaged) = self.newest_snapshot(&directory, &names)?;
        // Never more than two segments are not synced, and none in `sync` but for a record that nobody was told of.
        let unsynced = if ending == Ending::Killed && identity.mode == Some(Mode::Buffered) { 2 } else { 0 };
        let before = Before { ending, end: identity.ended, snapshot, unsynced };
        let salts = (self.opening.salt, self.opening.segment_bytes);
        let recovered = Segments::recover(&self.disk, &directory, &names, salts, before)?;
        self.segments = recovered.segments;
        let names = self.disk.list(&directory)?;
        self.doubts = doubt::names(&names).map(|name| format!("{directory}/{name}")).collect();
        notes.extend(recovered.notes);
        let kept = match recovered.lost {
            Some(why) if kept == Kept::Yes => Kept::No(why),
            _ => kept,
        };
        let last = self.segments.last();
        // The journal goes on behind every snapshot but the one that a joiner begins with: that one has no other.
        if let Some(Spoilt { path, offset, what, .. }) = damaged.iter().find(|spoilt| last.index < spoilt.index)
            && kept == Kept::Yes
        {
            let what = format!("{what}, and nothing else here reaches as far");
            return Err(JournalError::damaged(path, *offset, what));
        }
        self.put_aside(&directory, damaged, &mut notes)?;
        if kept == Kept::Yes && last < identity.held {
            let what = format!(
                "the journal in it ends with entry {} of epoch {}, but {} of epoch {} was there",
                last.index, last.epoch, identity.held.index, identity.held.epoch
            );
            return Err(JournalError::damaged(&directory, 0, what));
        }
        let snapshot = match snapshot {
            None => None,
            Some(position) => {
                let path = format!("{directory}/{}", snapshot::name(position.index));
                Some(SnapshotReader::open(self.disk.clone(), &path)?)
            }
        };
        Ok(Found { kept, claim, snapshot, blocks: recovered.blocks, commit: recovered.commit, notes })
    }

    /// The newest snapshot that is whole, and the newer ones that are damaged. Unfinished ones are removed.
    fn newest_snapshot(
        &mut self,
        directory: &str,
        names: &[String],
    ) -> Result<(Option<Position>, Vec<Spoilt>), JournalError> {
        let mut damaged = Vec::new();
        for leftover in names.iter().filter(|name| snapshot::is_leftover(name)) {
            self.disk.remove(&format!("{directory}/{leftover}"))?;
        }
        self.snapshots = names.iter().filter_map(|name| snapshot::index(name)).collect();
        self.snapshots.sort_unstable();
        while let Some(index) = self.snapshots.last().copied() {
            let path = format!("{directory}/{}", snapshot::name(index));
            match SnapshotReader::open(self.disk.clone(), &path).and_then(SnapshotReader::verify) {
                Ok(head) if head.machine == self.opening.machine && head.position.index == index => {
                    return Ok((Some(head.position), damaged));
                }
                Ok(head) => {
                    return Err(JournalError::Version {
                        file: path,
                        found: format!("machine '{}' version {}", head.machine.name, head.machine.version),
                        known: format!("machine '{}'", self.opening.machine.name),
                    });
                }
                Err(JournalError::Damaged { offset, what, .. }) => {
                    damaged.push(Spoilt { index, path, offset, what });
                    self.snapshots.pop();
                }
                Err(error) => return Err(error),
            }
        }
        Ok((None, damaged))
    }

    /// Damaged snapshots that are not missed.
    fn put_aside(&self, directory: &str, damaged: Vec<Spoilt>, notes: &mut Vec<String>) -> Result<(), DiskError> {
        for Spoilt { path, offset, what, .. } in &damaged {
            notes.push(format!("{path} is damaged at offset {offset}: {what}; an older one is used"));
            self.disk.rename(path, &(path.clone() + DAMAGED))?;
        }
        if damaged.is_empty() { Ok(()) } else { self.disk.sync_directory(directory) }
    }

    /// Says durably what this replica is from now on. The clean-shutdown mark goes with the first one.
    ///
    /// # Errors
    /// The disk failed.
    pub fn claim(&mut self, claim: Claim, fate: Fate) -> Result<(), JournalError> {
        self.guarded(|this| {
            let begun = this.identity.as_ref().map(|identity| identity.life);
            let number = match (begun, fate) {
                (Some(number), Fate::Kept) => number,
                (begun, _) => this.new_life(begun.unwrap_or_default() + 1)?,
            };
            let held = this.segments.last();
            this.write_identity(claim, number, held, None)?;
            let doubts = mem::take(&mut this.doubts);
            if begun == Some(number) {
                doubts.iter().try_for_each(|mark| this.disk.remove(mark))?;
            }
            this.tidy(number)
        })
    }

    fn new_life(&mut self, number: u64) -> Result<u64, DiskError> {
        let directory = life(number);
        if self.disk.list("")?.contains(&directory) {
            // Begun before a crash, and named by no identity.
            self.disk.remove_directory(&directory)?;
        }
        self.disk.make_directory(&directory)?;
        self.disk.sync_directory("")?;
        self.segments = self.empty_journal(number);
        self.snapshots.clear();
        Ok(number)
    }

    fn empty_journal(&self, number: u64) -> Segments<D> {
        let Opening { salt, segment_bytes, .. } = self.opening;
        Segments::new(self.disk.clone(), &life(number), salt, segment_bytes, Position::default())
    }

    fn write_identity(
        &mut self,
        claim: Claim,
        life: u64,
        held: Position,
        ended: Option<identity::End>,
    ) -> Result<(), DiskError> {
        let Opening { group, replica, machine, boot, .. } = self.opening.clone();
        let Claim { incarnation, group_id, mode, epoch, fenced_from } = claim;
        let next = Identity {
            group,
            replica,
            machine,
            group_id,
            mode,
            incarnation,
            epoch,
            boot,
            life,
            held,
            ended,
            fenced_from,
        };
        if self.identity.as_ref() != Some(&next) {
            next.write(&self.disk)?;
            self.identity = Some(next);
        }
        Ok(())
    }

    /// Sets aside what is not the present life, and forgets the oldest of it.
    fn tidy(&mut self, present: u64) -> Result<(), DiskError> {
        let names = self.disk.list("")?;
        let mut aside: Vec<u64> = names.iter().filter_map(|name| number(ASIDE, name)).collect();
        let mut changed = false;
        for old in names.iter().filter_map(|name| number(LIFE, name)).filter(|number| *number != present) {
            changed = true;
            if self.disk.list(&life(old))?.iter().all(|name| snapshot::is_leftover(name)) {
                self.disk.remove_directory(&life(old))?;
            } else {
                self.disk.rename(&life(old), &set_aside(old))?;
                aside.push(old);
            }
        }
        aside.sort_unstable();
        while aside.len() > KEPT_ASIDE {
            changed = true;
            self.disk.remove_directory(&set_aside(aside.remove(0)))?;
        }
        if changed { self.disk.sync_directory("") } else { Ok(()) }
    }

    /// Makes all of it as durable as the mode says, in as few writes and syncs as can be: group commit.
    ///
    /// # Errors
    /// The disk failed. What of it is there nobody knows, and nothing more is written.
    pub fn write(&mut self, writes: Vec<Write>, commit: Index) -> Result<(), JournalError> {
        self.guarded(|this| {
            let mode = this.mode();
            if mode == Mode::Memory {
                return Ok(());
            }
            let mut blocks = Vec::new();
            for write in writes {
                if let Some(keep) = write.cut {
                    this.segments.append(mode, &mem::take(&mut blocks), commit)?;
                    this.cut(mode, keep)?;
                }
                blocks.extend(write.blocks);
            }
            this.segments.append(mode, &blocks, commit)
        })
    }

    /// A cut below what the identity says was there: the identity says so first, or the cut would look like a loss.
    fn cut(&mut self, mode: Mode, keep: Position) -> Result<(), DiskError> {
        if let Some(identity) = self.identity.clone().filter(|identity| keep < identity.held) {
            self.write_identity(Claim::from(&identity), identity.life, keep, None)?;
        }
        self.segments.cut(mode, keep)
    }

    fn mode(&self) -> Mode {
        let claimed = self.identity.as_ref().and_then(|identity| identity.mode);
        claimed.expect("the core claims its group and mode before it persists anything")
    }

    /// Begins a snapshot beside what is there. It may be written by another thread meanwhile.
    ///
    /// # Errors
    /// The disk failed.
    pub fn begin_snapshot(&mut self, position: Position) -> Result<SnapshotWriter<D>, JournalError> {
        self.guarded(|this| {
            let path = format!("{}/{}", this.life(), snapshot::unfinished(position.index));
            let head = SnapshotHead { position, machine: this.opening.machine.clone() };
            SnapshotWriter::create(this.disk.clone(), &path, &head)
        })
    }

    /// Reads the journal, by a thread of its own, while it is written.
    pub fn reader(&self) -> LogReader<D> {
        LogReader::new(self.disk.clone(), self.life())
    }

    /// What a state at or below `wanted.upto` can be made of, by a thread of its own, while the journal is written.
    pub fn older(&self, ticket: u64, wanted: Wanted) -> Older<D> {
        let below = self.snapshots.iter().rev().copied().filter(|index| *index <= wanted.upto);
        Older::new(ticket, below.collect(), self.reader(), wanted)
    }

    /// Puts a finished snapshot into place and removes what it makes superfluous, but no entry beyond `keep`. The
    /// snapshot's last entry is committed.
    ///
    /// # Errors
    /// The disk failed.
    pub fn install_snapshot(&mut self, position: Position, keep: Index) -> Result<(), JournalError> {
        self.guarded(|this| {
            let directory = this.life();
            let path = |name: String| format!("{directory}/{name}");
            this.disk.rename(&path(snapshot::unfinished(position.index)), &path(snapshot::name(position.index)))?;
            this.disk.sync_directory(&directory)?;
            this.snapshots.push(position.index);
            this.segments.begins_after(position)?;
            let many = this.snapshots.len().saturating_sub(KEPT_SNAPSHOTS);
            let old: Vec<Index> = this.snapshots.drain(..many).collect();
            // The journal reaches back to the older of the two, in case the newer one turns out to be damaged.
            let covered = this.snapshots.first().copied().unwrap_or_default().min(keep);
            for index in &old {
                this.disk.remove(&path(snapshot::name(*index)))?;
            }
            this.segments.prune(covered)?;
            if old.is_empty() { Ok(()) } else { this.disk.sync_directory(&directory) }
        })
    }

    /// Removes a snapshot that will not be put into place.
    ///
    /// # Errors
    /// The disk failed.
    pub fn abandon_snapshot(&mut self, index: Index) -> Result<(), JournalError> {
        self.guarded(|this| {
            let directory = this.life();
            let name = snapshot::unfinished(index);
            if this.disk.list(&directory)?.contains(&name) {
                this.disk.remove(&format!("{directory}/{name}"))?;
            }
            Ok::<(), DiskError>(())
        })
    }

    /// Syncs everything and leaves the clean-shutdown mark. Nothing may be written after it.
    ///
    /// # Errors
    /// The disk failed: there is no mark, and the next start sees an ordinary crash.
    pub fn close(mut self) -> Result<(), JournalError> {
        self.guarded(|this| {
            let Some(identity) = this.identity.clone() else { return Ok(()) };
            let end = this.segments.close()?;
            this.write_identity(Claim::from(&identity), identity.life, end.last, Some(end))
        })
    }

    /// What it said last that it is.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    fn life(&self) -> String {
        life(self.identity.as_ref().map_or(0, |identity| identity.life))
    }

    /// An error is final.
    fn guarded<T, E: Into<JournalError>>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, JournalError> {
        if self.failed {
            return Err(JournalError::Failed);
        }
        let done = work(self);
        self.failed = done.is_err();
        done.map_err(Into::into)
    }
}

fn life(number: u64) -> String {
    format!("{LIFE}{number:06}")
}

fn set_aside(number: u64) -> String {
    format!("{ASIDE}{number:06}")
}

fn number(prefix: &str, name: &str) -> Option<u64> {
    name.strip_prefix(prefix).and_then(|digits| digits.parse().ok())
}

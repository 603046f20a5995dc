//! The small file that says who this replica is and what it promised: read first, written beside and renamed.

use cutover_arbiter::planted;
use cutover_arbiter::record::{Epoch, GroupId, GroupName, Incarnation, Mode, Position, ReplicaName};
use serde::{Deserialize, Serialize};

use super::disk::{Disk, DiskError};
use super::error::JournalError;
use crate::machine;

/// One run of the operating system: a page cache survives a process, not a boot.
pub type BootId = u128;

/// Name of the file, and of the one that becomes it.
pub(super) const FILE: &str = "identity";
const NEXT: &str = "identity.new";

const MAGIC: &[u8; 8] = b"CUTOVERI";
const VERSION: u32 = 2;
/// The format before: without `fenced_from` at its end, so that a fence looked like any other epoch after a restart.
const FENCELESS: u32 = 1;
/// Magic, version, length, checksum.
const HEAD: usize = 8 + 4 + 4 + 4;

/// Everything durable that is neither journal nor snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its group.
    pub group: GroupName,
    /// Its name.
    pub replica: ReplicaName,
    /// The machine whose log this is.
    pub machine: machine::Identity,
    /// The group's identity, once known.
    pub group_id: Option<GroupId>,
    /// The group's durability, once known.
    pub mode: Option<Mode>,
    /// The life of its state.
    pub incarnation: Incarnation,
    /// The highest epoch it knew.
    pub epoch: Epoch,
    /// The boot during which it last ran.
    pub boot: BootId,
    /// Number of the directory that holds its state.
    pub life: u64,
    /// The journal held at least so much when this was written: one that ends earlier has lost something.
    pub held: Position,
    /// The clean-shutdown mark: everything was synced, and the journal ended exactly here.
    pub ended: Option<End>,
    /// While its epoch is an operator's fence: the highest epoch it knew before.
    pub fenced_from: Option<Epoch>,
}

/// Where a journal ended when it was closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Number of the last segment; 0 when there was none.
    pub segment: u64,
    /// Its length, in bytes.
    pub length: u64,
    /// The last entry.
    pub last: Position,
}

impl Identity {
    /// Reads the file; `None` when there is none.
    pub(super) fn read<D: Disk>(disk: &D, names: &[String]) -> Result<Option<Self>, JournalError> {
        if !names.iter().any(|name| name == FILE) {
            return Ok(None);
        }
        let file = disk.open(FILE)?;
        let length = disk.length(&file)?;
        let damaged = |offset, what: &str| JournalError::damaged(FILE, offset, what);
        if length > 1 << 20 {
            return Err(damaged(0, "it is far too long"));
        }
        let mut bytes = vec![0; length as usize];
        let read = disk.read(&file, 0, &mut bytes)?;
        bytes.truncate(read);
        let Some((head, body)) = bytes.split_at_checked(HEAD) else {
            return Err(damaged(bytes.len() as u64, "it ends in the middle"));
        };
        if &head[..8] != MAGIC {
            return Err(damaged(0, "it is no identity file"));
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if ![FENCELESS, VERSION].contains(&word(8)) {
            return Err(JournalError::Version {
                file: FILE.to_owned(),
                found: format!("format {}", word(8)),
                known: format!("formats {FENCELESS} and {VERSION}"),
            });
        }
        if word(12) as usize != body.len() || word(16) != crc32c::crc32c(body) {
            return Err(damaged(HEAD as u64, "its checksum does not fit"));
        }
        let mut body = body.to_vec();
        if word(8) == FENCELESS {
            body.extend(postcard::to_allocvec(&None::<Epoch>).expect("nothing is plain data"));
        }
        let identity = postcard::from_bytes(&body).map_err(|error| damaged(HEAD as u64, &error.to_string()))?;
        Ok(Some(identity))
    }

    /// Makes this the file: written beside, synced, renamed, the directory synced.
    pub(super) fn write<D: Disk>(&self, disk: &D) -> Result<(), DiskError> {
        let body = postcard::to_allocvec(self).expect("an identity is plain data");
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&(body.len() as u32).to_le_bytes());
        head[16..20].copy_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        let mut file = disk.create(NEXT)?;
        disk.append(&mut file, &[&head, &body])?;
        disk.sync(&file)?;
        disk.rename(NEXT, FILE)?;
        if planted!("D5") { Ok(()) } else { disk.sync_directory("") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::memory_disk::MemoryDisk;

    fn identity(fenced_from: Option<Epoch>) -> Identity {
        Identity {
            group: "g".parse().unwrap(),
            replica: "r".parse().unwrap(),
            machine: machine::Identity { name: "test".into(), version: 1 },
            group_id: Some(GroupId(9)),
            mode: Some(Mode::Sync),
            incarnation: Incarnation(3),
            epoch: Epoch(21),
            boot: 1,
            life: 2,
            held: Position { epoch: Epoch(4), index: 7 },
            ended: None,
            fenced_from,
        }
    }

    fn read(disk: &MemoryDisk) -> Result<Option<Identity>, JournalError> {
        Identity::read(disk, &[FILE.to_owned()])
    }

    #[test]
    fn a_fence_is_remembered() {
        let disk = MemoryDisk::nameless();
        identity(Some(Epoch(5))).write(&disk).unwrap();
        assert_eq!(read(&disk).unwrap(), Some(identity(Some(Epoch(5)))));
    }

    /// What a release wrote that knew nothing of it must not stop the next one's start.
    #[test]
    fn the_format_before_is_read_and_no_other() {
        let disk = MemoryDisk::nameless();
        identity(None).write(&disk).unwrap();
        let file = disk.open(FILE).unwrap();
        let mut bytes = vec![0; disk.length(&file).unwrap() as usize];
        disk.read(&file, 0, &mut bytes).unwrap();
        assert_eq!(bytes.pop(), Some(0), "no fence is the last of it");
        for (format, good) in [(FENCELESS, true), (VERSION + 1, false)] {
            let body = bytes.len() - HEAD;
            bytes[8..12].copy_from_slice(&format.to_le_bytes());
            bytes[12..16].copy_from_slice(&(body as u32).to_le_bytes());
            let checksum = crc32c::crc32c(&bytes[HEAD..]);
            bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
            disk.remove(FILE).unwrap();
            let mut file = disk.create(FILE).unwrap();
            disk.append(&mut file, &[&bytes]).unwrap();
            match read(&disk) {
                Ok(found) => assert_eq!((found, good), (Some(identity(None)), true)),
                Err(error) => assert!(matches!(error, JournalError::Version { .. }) && !good, "{error}"),
            }
        }
    }
}

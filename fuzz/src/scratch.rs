//! A data directory of a replica on a disk in memory, in which one file is the fuzzer's.

use cutover::journal::memory_disk::MemoryDisk;
use cutover::journal::{Claim, Directory, Disk as _, Fate, Opening};
use cutover::machine::Identity;
use cutover_arbiter::record::{Epoch, GroupId, Incarnation, Mode};

/// Who opens it, in this boot of the machine.
pub fn opening(boot: u128) -> Opening {
    Opening {
        group: "g".parse().expect("a good name"),
        replica: "a".parse().expect("a good name"),
        machine: Identity { name: "m".to_owned(), version: 1 },
        boot,
        salt: 7,
        segment_bytes: 512,
    }
}

/// What it is.
pub fn claim(mode: Mode) -> Claim {
    Claim {
        incarnation: Incarnation(5),
        group_id: Some(GroupId(6)),
        mode: Some(mode),
        epoch: Epoch(1),
        fenced_from: None,
    }
}

/// A directory after its first claim.
pub fn directory(mode: Mode) -> (MemoryDisk, Directory<MemoryDisk>) {
    let disk = MemoryDisk::default();
    let (mut directory, found) = Directory::open(disk.clone(), opening(1)).expect("an empty disk");
    assert!(found.is_none());
    directory.claim(claim(mode), Fate::Kept).expect("a disk that works");
    (disk, directory)
}

/// The directory that holds the state.
pub fn life(disk: &MemoryDisk) -> String {
    let names = disk.list("").expect("a disk that works");
    names.into_iter().find(|name| name.starts_with("life-")).expect("made by the first claim")
}

/// Makes a file of these bytes.
pub fn put(disk: &MemoryDisk, path: &str, bytes: &[u8]) {
    let mut file = disk.create(path).expect("a disk that works");
    disk.append(&mut file, &[bytes]).expect("a disk that works");
    disk.sync(&file).expect("a disk that works");
}

/// Writes a number where it stands, if there is room.
pub fn write_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

/// Reads a number where it stands.
pub fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

//! A snapshot or the identity of a replica, read back by a whole start.

use bytes::Bytes;
use cutover::journal::{Directory, Fate, SnapshotPart};
use cutover_arbiter::record::{Epoch, Mode, Position};

use crate::scratch::{self, read_u32, write_u32};

const AT: Position = Position { epoch: Epoch(1), index: 7 };
const FILE: &str = "snapshot-00000000000000000007";
const IDENTITY: &str = "identity";

/// The first byte chooses the file, and whether checksums are made to fit.
pub fn check(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let mut bytes = bytes.to_vec();
    let (disk, directory) = scratch::directory(Mode::Buffered);
    drop(directory);
    if kind & 1 == 0 {
        if kind & 2 == 0 {
            mend(&mut bytes);
        }
        scratch::put(&disk, &format!("{}/{FILE}", scratch::life(&disk)), &bytes);
    } else {
        if kind & 2 == 0 {
            mend_identity(&mut bytes);
        }
        scratch::put(&disk, IDENTITY, &bytes);
    }
    let Ok((mut directory, Some(found))) = Directory::open(disk.clone(), scratch::opening(1)) else { return };
    if let Some(mut snapshot) = found.snapshot {
        let mut parts = Vec::new();
        while let Some(part) = snapshot.part().expect("it was read to its end before it was believed") {
            parts.push(part);
        }
        assert_eq!(read_back(&parts), parts);
    }
    // What it was is what it says it is from now on.
    directory.claim(found.claim, Fate::Kept).expect("a disk that works");
    let before = directory.identity().cloned();
    drop(directory);
    if let Ok((again, Some(found))) = Directory::open(disk, scratch::opening(1)) {
        assert_eq!(again.identity().cloned(), before);
        assert_eq!(found.claim.incarnation, before.expect("it was claimed").incarnation);
    }
}

fn written(parts: &[SnapshotPart]) -> (cutover::journal::memory_disk::MemoryDisk, String) {
    let (disk, mut directory) = scratch::directory(Mode::Buffered);
    let mut writer = directory.begin_snapshot(AT).expect("a disk that works");
    for part in parts {
        writer.part(part).expect("a disk that works");
    }
    writer.finish().expect("a disk that works");
    directory.install_snapshot(AT, AT.index).expect("a disk that works");
    let path = format!("{}/{FILE}", scratch::life(&disk));
    (disk, path)
}

fn read_back(parts: &[SnapshotPart]) -> Vec<SnapshotPart> {
    let (disk, _) = written(parts);
    let (_, found) = Directory::open(disk, scratch::opening(1)).expect("what was just written");
    let mut snapshot = found.expect("an identity").snapshot.expect("a snapshot");
    std::iter::from_fn(|| snapshot.part().expect("what was just written")).collect()
}

fn mend(bytes: &mut [u8]) {
    const PIECE_HEAD: usize = 9;
    let Some(head) = bytes.get_mut(..16) else { return };
    head.copy_from_slice(b"CUTOVERS\x01\0\0\0\0\0\0\0");
    let mut at = 16;
    while bytes.len() - at >= PIECE_HEAD {
        let piece = &mut bytes[at..];
        let length = (read_u32(piece, 1) as usize).min(piece.len() - PIECE_HEAD);
        write_u32(piece, 1, length as u32);
        let sum = crc32c::crc32c_append(crc32c::crc32c(&piece[..1]), &piece[PIECE_HEAD..PIECE_HEAD + length]);
        write_u32(piece, 5, sum);
        at += PIECE_HEAD + length;
    }
}

fn mend_identity(bytes: &mut [u8]) {
    const HEAD: usize = 20;
    if bytes.len() < HEAD {
        return;
    }
    // The present version of it, and the one before.
    let version = 1 + (bytes[8] & 1);
    bytes[..12].copy_from_slice(b"CUTOVERI\0\0\0\0");
    bytes[8] = version;
    let length = (bytes.len() - HEAD) as u32;
    write_u32(bytes, 12, length);
    let sum = crc32c::crc32c(&bytes[HEAD..]);
    write_u32(bytes, 16, sum);
}

/// See the crate.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for dice in crate::dice(30) {
        let parts: Vec<_> = dice
            .chunks(50)
            .enumerate()
            .map(|(number, part)| match number {
                0 => SnapshotPart::Core(Bytes::copy_from_slice(part)),
                _ => SnapshotPart::Machine(Bytes::copy_from_slice(part)),
            })
            .collect();
        let (disk, path) = written(&parts);
        seeds.push([&[0], &disk.content(&path).expect("it was written")[..]].concat());
    }
    // A length that the file does not have.
    let long = [&b"\x02CUTOVERS\x01\0\0\0\0\0\0\0\x01"[..], &(120u32 << 20).to_le_bytes(), &[0; 4]].concat();
    seeds.push(long);
    for mode in [Mode::Memory, Mode::Buffered, Mode::Sync] {
        let (disk, directory) = scratch::directory(mode);
        seeds.push([&[1], &disk.content(IDENTITY).expect("it was claimed")[..]].concat());
        directory.close().expect("a disk that works");
        seeds.push([&[1], &disk.content(IDENTITY).expect("it was claimed")[..]].concat());
    }
    seeds
}

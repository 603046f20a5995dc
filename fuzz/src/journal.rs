//! A segment of the journal, read back by a whole start: what is recovered is recovered again, and goes on.

use cutover::journal::memory_disk::MemoryDisk;
use cutover::journal::{Directory, Disk as _, Fate, Write};
use cutover::protocol::entry::Block;
use cutover_arbiter::record::{Epoch, Mode};

use crate::peer::drawn_block;
use crate::scratch::{self, read_u32, write_u32};

const RECORD_HEAD: usize = 52;
const RECORD_MAGIC: &[u8; 4] = b"rec1";
/// Magic and version of a segment's head, which a real one tells.
const KIND: usize = 16;
/// Where the salt stands in it.
const SALT: std::ops::Range<usize> = 24..32;

/// A segment as it is written: the path of its file, its head, and one record.
fn written(mode: Mode) -> (MemoryDisk, String, Vec<u8>, usize) {
    let (disk, mut directory) = scratch::directory(mode);
    let block = drawn_block(&[1, 2, 3], 1).expect("a block");
    directory.write(vec![Write { cut: None, blocks: vec![block] }], 0).expect("a disk that works");
    let path = segment(&disk).expect("just written");
    let bytes = disk.content(&path).expect("just written");
    let head = bytes.windows(4).position(|window| window == RECORD_MAGIC).expect("a record behind the head");
    (disk, path, bytes, head)
}

/// The first segment of the journal.
fn segment(disk: &MemoryDisk) -> Option<String> {
    disk.files().into_iter().find(|path| path.contains("/journal-"))
}

/// The first byte chooses the mode, whether the machine was started anew since, and whether checksums are made to fit.
pub fn check(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let mode = if kind & 1 == 0 { Mode::Buffered } else { Mode::Sync };
    let boot = 1 + u128::from(kind >> 1 & 1);
    let (disk, path, real, head) = written(mode);
    let mut bytes = bytes.to_vec();
    if kind & 4 == 0 {
        mend(&mut bytes, &real[..KIND], head);
    }
    disk.remove(&path).expect("a disk that works");
    scratch::put(&disk, &path, &bytes);
    let Ok((mut directory, Some(found))) = Directory::open(disk.clone(), scratch::opening(boot)) else { return };
    let mut blocks = found.blocks;
    for block in &blocks {
        block.validate().expect("a recovered block is whole");
        for entry in block.entries() {
            drop(entry);
        }
    }
    // It goes on behind what was found, and another start finds both.
    directory.claim(found.claim, Fate::Kept).expect("a disk that works");
    let last = blocks.last().map_or((Epoch(0), 0), |block| (block.epoch, block.last()));
    let Some(next) = last.1.checked_add(1).filter(|next| *next < u64::MAX / 2) else { return };
    let more = Block { epoch: last.0, ..drawn_block(&[1, 2, 3], next).expect("a block") };
    let write = Write { cut: None, blocks: vec![more.clone()] };
    directory.write(vec![write], found.commit).expect("a disk that works");
    drop(directory);
    blocks.push(more);
    let (_, again) = Directory::open(disk, scratch::opening(boot)).expect("what was just written");
    let again = again.expect("there is an identity");
    assert_eq!(entries(&again.blocks), entries(&blocks));
    assert!(again.commit >= found.commit, "{} after {}", again.commit, found.commit);
}

fn entries(blocks: &[Block]) -> Vec<(Epoch, u64, Vec<u8>)> {
    let single = |block: &Block| {
        let block = block.clone();
        (block.first..=block.last()).filter_map(move |index| {
            let one = block.from(index)?.upto(index)?;
            Some((one.epoch, index, one.bytes.to_vec()))
        })
    };
    blocks.iter().flat_map(|block| single(block).collect::<Vec<_>>()).collect()
}

/// Makes every checksum fit, and lengths that reach beyond the end.
fn mend(bytes: &mut [u8], kind: &[u8], length: usize) {
    let Some(head) = bytes.get_mut(..length) else { return };
    head[..KIND].copy_from_slice(kind);
    let checksum = crc32c::crc32c(&head[..length - 4]);
    write_u32(head, length - 4, checksum);
    let seed = crc32c::crc32c(&bytes[SALT]);
    let mut at = length;
    while bytes.len() - at >= RECORD_HEAD {
        let record = &mut bytes[at..];
        let room = record.len() - RECORD_HEAD;
        let length = (read_u32(record, 4) as usize).min(room);
        record[..4].copy_from_slice(RECORD_MAGIC);
        write_u32(record, 4, length as u32);
        let body = crc32c::crc32c_append(seed, &record[RECORD_HEAD..RECORD_HEAD + length]);
        write_u32(record, 8, body);
        let checksum = crc32c::crc32c_append(seed, &record[..RECORD_HEAD - 4]);
        write_u32(record, RECORD_HEAD - 4, checksum);
        at += RECORD_HEAD + length;
    }
}

/// See the crate.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (number, dice) in crate::dice(40).enumerate() {
        let mode = if number % 2 == 0 { Mode::Buffered } else { Mode::Sync };
        let (disk, mut directory) = scratch::directory(mode);
        let mut next = 1;
        for part in dice.chunks(60).take(4) {
            let Some(block) = drawn_block(part, next) else { continue };
            // Now and then what was just written is cut off again.
            let cut = (next > 1 && part.len() % 3 == 0)
                .then(|| cutover_arbiter::record::Position { epoch: Epoch(1), index: next - 1 });
            next = block.last() + 1;
            directory.write(vec![Write { cut, blocks: vec![block] }], next / 2).expect("a disk that works");
        }
        if let Some(bytes) = segment(&disk).and_then(|path| disk.content(&path)) {
            seeds.push([&[number as u8 & 3], &bytes[..]].concat());
        }
    }
    assert!(seeds.len() > 20, "only {} segments", seeds.len());
    seeds
}

//! The store against crashes, failing disks, damage and mistaken owners.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use redb::StorageBackend;

use super::*;
use crate::raft::{SnapshotMeta, Term};

/// A disk in memory that survives its process. The `fail_at`-th write, truncation or sync fails, and so does
/// everything after it; what was written since the last sync is then lost, or kept, as the test asks.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    live: Vec<u8>,
    synced: Vec<u8>,
    operations: u64,
    fail_at: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Unsynced {
    Lost,
    Kept,
}

impl Disk {
    fn operations(&self) -> u64 {
        self.0.lock().expect("no test panics holding it").operations
    }

    /// The machine after a power loss, its disk healthy again.
    fn after_crash(&self, unsynced: Unsynced) -> Disk {
        let inner = self.0.lock().expect("no test panics holding it");
        let image = match unsynced {
            Unsynced::Lost => inner.synced.clone(),
            Unsynced::Kept => inner.live.clone(),
        };
        Disk(Arc::new(Mutex::new(Inner { live: image.clone(), synced: image, ..Inner::default() })))
    }

    fn fail_at(&self, operation: u64) {
        self.0.lock().expect("no test panics holding it").fail_at = Some(operation);
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) -> io::Result<()> {
        let mut inner = self.0.lock().expect("no test panics holding it");
        inner.operations += 1;
        if inner.fail_at.is_some_and(|at| inner.operations >= at) {
            return Err(io::Error::other("injected"));
        }
        change(&mut inner);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().expect("no test panics holding it").live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.0.lock().expect("no test panics holding it");
        let start = offset as usize;
        match inner.live.get(start..start + out.len()) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|inner| inner.live.resize(len as usize, 0))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|inner| inner.synced = inner.live.clone())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(|inner| inner.live[offset as usize..offset as usize + data.len()].copy_from_slice(data))
    }
}

fn entry(index: LogIndex, term: Term) -> Entry {
    Entry { term, index, data: Bytes::from(format!("command {index} of term {term}")) }
}

fn batch(sequence: u64) -> PersistBatch {
    PersistBatch { sequence, hard_state: None, truncate_from: None, entries: Vec::new(), snapshot: None }
}

fn hard(term: Term, vote: Option<NodeId>) -> Option<HardState> {
    Some(HardState { term, vote })
}

/// A life: votes, entries, a lost tail replaced, a snapshot.
fn life() -> Vec<PersistBatch> {
    let snapshot = Snapshot { meta: SnapshotMeta { index: 2, term: 1 }, data: Bytes::from_static(b"state") };
    vec![
        PersistBatch { hard_state: hard(1, Some(1)), ..batch(1) },
        PersistBatch { entries: (1..=4).map(|index| entry(index, 1)).collect(), ..batch(2) },
        PersistBatch {
            hard_state: hard(2, None),
            truncate_from: Some(3),
            entries: vec![entry(3, 2), entry(4, 2)],
            ..batch(3)
        },
        PersistBatch { snapshot: Some(snapshot), entries: vec![entry(5, 2)], ..batch(4) },
        PersistBatch { truncate_from: Some(5), ..batch(5) },
    ]
}

fn open(disk: &Disk) -> Result<Store, StoreError> {
    Store::open_with_backend(Path::new("test.redb"), disk.clone())
}

/// What a load gives after each number of batches.
fn states() -> Vec<Restored> {
    (0..=life().len())
        .map(|count| {
            let mut store = open(&Disk::default()).unwrap();
            life().iter().take(count).for_each(|batch| store.persist(batch).unwrap());
            store.load().unwrap()
        })
        .collect()
}

#[test]
fn a_batch_cuts_appends_and_compacts() {
    let states = states();
    assert_eq!(states[0], Restored::default());
    assert_eq!(states[2].entries.len(), 4);
    assert_eq!(states[3].entries.iter().map(|entry| entry.term).collect::<Vec<_>>(), [1, 1, 2, 2]);
    assert_eq!(states[3].hard_state, HardState { term: 2, vote: None });
    assert_eq!(states[4].entries.first().map(|entry| entry.index), Some(3));
    assert_eq!(states[5].entries.last().map(|entry| entry.index), Some(4));
}

#[test]
fn a_closed_file_opens_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new").join("raft.redb");
    let mut store = Store::open(&path).unwrap();
    life().iter().for_each(|batch| store.persist(batch).unwrap());
    drop(store);
    assert_eq!(Some(&Store::open(&path).unwrap().load().unwrap()), states().last());
}

#[test]
fn a_second_opener_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raft.redb");
    let store = Store::open(&path).unwrap();
    let error = Store::open(&path).expect_err("it is open");
    assert_eq!(error, StoreError::InUse { path: path.clone() });
    drop(store);
    Store::open(&path).unwrap();
}

#[test]
fn another_arbiters_file_is_refused_by_name() {
    let mut store = open(&Disk::default()).unwrap();
    let mine = Identity { cluster: 7, node: 1 };
    assert_eq!(store.identity(), Ok(None));
    store.set_identity(mine).unwrap();
    store.set_identity(mine).unwrap();
    assert_eq!(store.identity(), Ok(Some(mine)));
    for other in [Identity { cluster: 7, node: 2 }, Identity { cluster: 8, node: 1 }] {
        let error = store.set_identity(other).expect_err("it belongs to another");
        assert!(error.to_string().contains("belongs to arbiter 1 of cluster"), "{error}");
    }
    store.persist(&life()[0]).expect("a refused owner is not a failed disk");
}

/// D1 and D7: every write and sync of a life fails once, by number. The batch is an error, nothing is written after
/// it, and the next start finds every batch that returned and at most the one that did not.
#[test]
fn whichever_write_or_sync_fails_the_next_start_finds_a_prefix() {
    let states = states();
    let healthy = Disk::default();
    let mut store = open(&healthy).unwrap();
    let opened = healthy.operations();
    life().iter().for_each(|batch| store.persist(batch).unwrap());
    let all = healthy.operations();
    let mut failed_before_the_end = 0;
    for at in opened + 1..=all {
        for unsynced in [Unsynced::Lost, Unsynced::Kept] {
            let disk = Disk::default();
            let mut store = open(&disk).unwrap();
            disk.fail_at(at);
            let done = life().iter().take_while(|batch| store.persist(batch).is_ok()).count();
            if done < life().len() {
                failed_before_the_end += 1;
                let error = store.persist(&life()[done]).expect_err("no write after a failed one");
                assert!(matches!(error, StoreError::Stopped { .. }), "{error}");
            }
            let found = open(&disk.after_crash(unsynced)).unwrap().load().unwrap();
            let possible = [Some(&states[done]), states.get(done + 1)];
            assert!(possible.contains(&Some(&found)), "operation {at}, {unsynced:?}: {done} batches done, {found:?}");
        }
    }
    assert!(failed_before_the_end > 10, "the faults hit the batches");
}

/// Any byte of the file: it opens to what it held, or is refused with its name; never to something else.
#[test]
fn damage_is_refused_or_harmless() {
    let disk = Disk::default();
    let mut store = open(&disk).unwrap();
    life().iter().for_each(|batch| store.persist(batch).unwrap());
    drop(store);
    let image = disk.after_crash(Unsynced::Kept).0.lock().unwrap().live.clone();
    let truth = states().pop();
    let text = b"command 4 of term 2";
    let places: Vec<usize> = (0..image.len() - text.len()).filter(|&at| image[at..].starts_with(text)).collect();
    assert!(!places.is_empty());
    let mut damaged = image.clone();
    for at in places {
        damaged[at] ^= 1;
    }
    let damaged = Disk(Arc::new(Mutex::new(Inner { live: damaged, ..Inner::default() })));
    match open(&damaged).and_then(|store| store.load()) {
        Ok(found) => assert_eq!(Some(found), truth),
        Err(error) => assert!(error.to_string().contains("test.redb is damaged"), "{error}"),
    }
}

#[test]
fn what_is_not_a_store_is_refused_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, vec![b'x'; 10_000]).unwrap();
    let error = Store::open(&path).expect_err("not a store");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("notes.txt"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), vec![b'x'; 10_000], "it is left as it was");
}

#[test]
fn a_log_that_raft_never_wrote_is_refused() {
    for (entries, hard_state) in [
        (vec![entry(1, 1), entry(3, 1)], hard(1, None)),
        (vec![entry(1, 2), entry(2, 1)], hard(2, None)),
        (vec![entry(1, 2)], hard(1, None)),
    ] {
        let mut store = open(&Disk::default()).unwrap();
        store.persist(&PersistBatch { hard_state, entries, ..batch(1) }).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Damaged { .. })));
    }
}

#[test]
fn what_was_left_by_a_death_while_the_file_was_made_is_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("arbiter.redb");
    std::fs::write(path.with_extension("new"), vec![0; 70_000]).unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(store.load().unwrap(), Restored::default());
    drop(store);
    assert!(!path.with_extension("new").exists());
    std::fs::write(&path, vec![0; 70_000]).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::Damaged { .. })), "under its own name it is");
}

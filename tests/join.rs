//! A replica that starts with nothing joins a group of half a gigabyte while clients write, by state transfer, is
//! admitted, and takes over when the primary is killed: every acknowledged value is read back from it, and when the
//! killed one has come back both copies are equal.

mod support;

use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;

use cutover::machine::kv::value::Value;
use cutover_arbiter::record::Change;
use nix::sys::signal::Signal;
use serde_json::Value as Json;
use support::group::{SOON, get, names};
use support::guest::Guest;
use support::redis::Redis;
use support::{DevGroup, Options};

/// What the group holds, in bytes of values.
const STATE: usize = 500_000_000;
const VALUE: usize = 16 << 10;
const WRITERS: usize = 4;
/// Keys of each writer.
const KEYS: usize = STATE.div_ceil(VALUE * WRITERS);
/// Values sent at once while the group is filled.
const FILLING: usize = 256;
/// Values sent at once afterwards.
const WRITING: usize = 1;
/// How long a state of this size may take, on a machine that does something else, too.
const TRANSFERRED: Duration = Duration::from_secs(120);

/// A client with keys of its own, which remembers what it was told of them.
struct Writer {
    number: usize,
    redis: Redis,
    keys: Vec<Written>,
    /// The key whose turn it is.
    next: usize,
}

/// Numbers of a key's values, from 1.
#[derive(Debug, Default, Clone)]
struct Written {
    sent: u64,
    acknowledged: u64,
}

impl Written {
    /// What a reader may find: what was acknowledged, or what was sent since.
    fn due(&self) -> RangeInclusive<u64> {
        self.acknowledged..=self.sent
    }
}

impl Writer {
    fn new(group: &DevGroup, number: usize) -> Self {
        Self { number, redis: group.redis("r1"), keys: vec![Written::default(); KEYS], next: 0 }
    }

    /// Writes a new value of so many keys; false when the connection was closed before all were answered.
    fn write(&mut self, count: usize) -> bool {
        let keys: Vec<usize> = (self.next..self.next + count).map(|key| key % KEYS).collect();
        self.next += count;
        let sent = keys.iter().map(|key| {
            self.keys[*key].sent += 1;
            ["SET".to_owned(), name(self.number, *key), value(self.number, *key, self.keys[*key].sent)].into()
        });
        let acknowledged = self.redis.acknowledged(&sent.collect::<Vec<_>>());
        for key in &keys[..acknowledged] {
            self.keys[*key].acknowledged = self.keys[*key].sent;
        }
        acknowledged == count
    }

    /// Reads every key and fails unless each has the value that was acknowledged last, or one sent after it.
    fn find_everything(&self, mut redis: Redis) {
        for (key, written) in self.keys.iter().enumerate() {
            let name = name(self.number, key);
            let Value::Bulk(found) = redis.must(&["GET", &name]) else { panic!("{name} is gone: {written:?}") };
            let found = String::from_utf8(found).expect("text was written");
            let number = found.split(' ').next().and_then(|number| number.parse().ok()).expect("a number in front");
            assert!(written.due().contains(&number), "{name} has value {number}: {written:?}");
            assert!(found == value(self.number, key, number), "{name} has parts of another value than {number}");
        }
    }
}

fn name(writer: usize, key: usize) -> String {
    format!("value:{writer}:{key}")
}

/// Its number and noise that belongs to no other value.
fn value(writer: usize, key: usize, number: u64) -> String {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    let mut text = format!("{number} ");
    let mut noise = ((writer * KEYS + key) as u64 + 1) << 24 | number;
    while text.len() < VALUE {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        text.extend(noise.to_le_bytes().map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()])));
    }
    text.truncate(VALUE);
    text
}

/// Fills a group of one with [`STATE`] bytes.
fn filled(group: &DevGroup) -> Vec<Writer> {
    let fill = |number| {
        let mut writer = Writer::new(group, number);
        thread::spawn(move || {
            while writer.next < KEYS {
                assert!(writer.write(FILLING.min(KEYS - writer.next)), "nobody was killed yet");
            }
            writer
        })
    };
    let filling: Vec<_> = (0..WRITERS).map(fill).collect();
    filling.into_iter().map(|writer| writer.join().expect("it was filled")).collect()
}

/// A joiner that had been spared the state, or that had come while nobody wrote, would show nothing.
fn came_by_transfer_under_load(group: &DevGroup, guest: &Guest) {
    let transfers = group.told("transfer.done");
    let whole = |line: &Json| line["bytes"].as_u64() >= Some(STATE as u64) && line["entries"].as_u64() > Some(0);
    assert!(transfers.iter().any(|line| line["replica"] == "guest" && whole(line)), "{transfers:#?}");
    let primary = group.process("r1").http.expect("a port for http");
    let metrics = get(&format!("127.0.0.1:{primary}"), "/metrics").expect("metrics");
    assert!(metrics.contains("cutover_rejoins_total{way=\"transfer: holds nothing\"}"), "{metrics}");
    let joined = guest.status().expect("a backup");
    assert!(joined.in_sync && joined.machine_bytes >= STATE as u64, "{joined:#?}");
}

#[test]
fn a_replica_that_starts_with_nothing_joins_half_a_gigabyte_under_load_and_takes_over() {
    let restart_after = Some(Duration::from_secs(2));
    let replica_options = ["--copies", "2"].map(String::from).to_vec();
    let mut group = DevGroup::start(&Options { replicas: 1, restart_after, replica_options, ..Options::default() });
    let writers = filled(&group);
    let full = group.status("r1").expect("a primary");
    assert!(full.machine_bytes >= STATE as u64, "{full:#?}");

    let load = group.torture();
    group.wait_for_load();
    let write = |mut writer: Writer| {
        thread::spawn(move || {
            while writer.write(WRITING) {}
            writer
        })
    };
    let writing: Vec<_> = writers.into_iter().map(write).collect();
    let guest = Guest::join(&group, &[], &[]);
    let pair = group.wait_in_sync_within(2, TRANSFERRED);
    assert_eq!((pair.primary.replica.as_str(), names(&pair).contains(&"guest".to_owned())), ("r1", true), "{pair:?}");
    came_by_transfer_under_load(&group, &guest);
    group.wait_for_load();
    group.verify();

    group.kill("r1", Signal::SIGKILL);
    let after = group.wait_for_record("the joiner to take over", |record| record.primary.replica.as_str() == "guest");
    assert!(matches!(after.last_change.change, Change::TakeOver), "{after:?}");
    group.wait_until("its answer", SOON, |_| match guest.status()? {
        status if status.serving => Ok(()),
        status => Err(format!("{status:?}")),
    });
    let reading = writing.into_iter().map(|writer| {
        let writer = writer.join().expect("its connection closed");
        let redis = guest.redis();
        thread::spawn(move || writer.find_everything(redis))
    });
    for reader in reading.collect::<Vec<_>>() {
        reader.join().expect("everything acknowledged is there");
    }
    group.wait_in_sync_within(2, TRANSFERRED);
    group.wait_for_load();
    load.finish();
    group.verify();
}

//! The whole system under faults, in one thread, from one seed, in virtual time: the production cores of arbiters (Raft
//! and registers), replicas and clients, over a network, disks and clocks that misbehave.
//!
//! | | |
//! |---|---|
//! | `cargo test --test simulator` | the fixed batch, and every seed that ever failed |
//! | `SEED=42 cargo seed` | one seed, with its trace |
//! | `SEEDS=5000 cargo soak` | so many seeds from `FROM` on, on all cores, with a progress line |
//!
//! | file | |
//! |---|---|
//! | `world`, `run` | processes, the queue, virtual time; a run from beginning to end |
//! | `arbiters`, `asking` | the shell of an arbiter; how anyone asks them |
//! | `replicas`, `doors`, `leaky` | the shell of a replica; its client ports; its machine |
//! | `disks`, `recovery` | its disk, with the production journal on it; how it begins from what is there |
//! | `clients`, `workload` | clients; what they ask, and the record of what they heard |
//! | `stubborn` | a client that takes every liberty |
//! | `network`, `clocks`, `faults`, `harm`, `swarm` | what misbehaves, what may be harmed, and what a seed draws |
//! | `operator` | who seizes a group that nobody may lead |
//! | `canon`, `invariants` | what an observer knows, and what must hold of it |
//! | `counters`, `trace` | what a batch has seen; what a person can read |
//! | `batch` | many seeds on several cores |
//! | `planted` | the same runs against bugs planted on purpose |
//! | `scenarios` | single cores driven by hand, one story each |
#![allow(clippy::print_stdout, reason = "a replayed seed shows its trace")]

mod arbiters;
mod asking;
mod batch;
mod canon;
mod clients;
mod clocks;
mod comeback;
mod counters;
mod disks;
mod doors;
mod faults;
mod harm;
mod invariants;
mod leaky;
mod network;
mod operator;
#[cfg(feature = "planted")]
mod planted;
mod recovery;
mod replicas;
mod run;
mod scenarios;
mod stubborn;
mod swarm;
mod trace;
mod workload;
mod world;

use trace::Show;

/// Seeds that once failed, with what was wrong.
const PAST_FAILURES: &[u64] = &[
    // A replica named primary by another's hand-over, and a primary before its EpochStart was durable, were due again
    // at once until they were answered: a processor busy for nothing.
    6, 7, 24, 29,
    // A spare acknowledged up to the base of its log, which it had trimmed before its disk had said that it holds it.
    148, 153, 182,
    // A joiner threw away entries that came with an old age of its primary's output, and had to begin anew.
    138, // A backup that had asked to take over and followed again called itself taking over for ever.
    507, // A spare that diverged handed its new life to the disk in its next turn, which never came.
    14,
    341, // A healthy new primary was deposed: a backup met another life of the old one, learnt the new record from it, and
    // suspected the primary of that one.
    91,
    // The arbiters' leader replied to a question of an arbiter's earlier life, and it was taken for the answer to
    // another: a Remove in flight for ever.
    33163,
    // Not the cores but their judge: a read that runs again on a new primary may answer otherwise than the old one,
    // whose own answer was acknowledged late and still released.
    32667, // A joiner went on behind a second snapshot with a gap in its journal.
    18,
    // A replica that restarted before it knew its group's mode wrote its journal into the root of the file system.
    97, 195, 396, // A backup whose disk hung kept its loop busy: it was due at once to suspect nobody.
    134,
    // A read alone in sync was released in an epoch that was not durable yet; a backup whom forgetful arbiters refused
    // asked again at the speed of the network; the judge expected what a disk had been asked for in vain.
    301521, 301742, 300611,
    // A start that died between renaming its identity and syncing that; the next one believed what it read, and a loss of
    // power brought the one before back, with its clean-shutdown mark.
    506080,
    // Seize and Adopt put a replica's epoch beside the index of an entry of an earlier one: the only copy was an older
    // image of what it held. A read from before an adoption fenced who had been adopted.
    503686, 503745, 508685,
    // Not the cores but their judge: what a second operator's word brings back, an older image that holds all that was
    // released and not all that was committed, a watch that begins at a dying arbiter, rot in what a loss of power makes
    // the last record, the clock of a primary whose epoch is over.
    400970, 503088, 508412, 501194, 401179, 502601, 504799, 505884,
    // A backup whose machine had stood still, its network with it, called its primary silent at once: it was not due
    // before that very moment, and so excused too little.
    4, 36, 38,
    // Judges: a clock that a stale primary shows nobody; what was lost by an operator's word and lives on in a copy; a
    // stop that had not been yet.
    1489, 430, 478, 564,
    // A grant of arbiters that had lost everything was on its way to one replica while its operator adopted another: two
    // primaries. Who is not adopted is fenced first; and at the same epoch by every attempt, or a late grant leaves him out.
    903124, 903180,
    903258, // A replica that was adopted was fenced by the answer to what it had asked the arbiters before.
    947,    // A backup that had stood still twice: its judge expected too much of what it can know of that.
    901452,
    // A loss of power took a cut that was not synced, and the tail came back behind a synced snapshot of what followed it.
    800963, // A joiner's only snapshot was damaged, and it came back in the same life with nothing.
    601822, 603740, 615021,
    // Judges: "not executed", said after an operator's word; an acknowledgement from before an older image; who is asked to
    // join in this turn did not have to confirm the rounds before it.
    605815, 608196, 513396, // A joiner was found in another life, and its old one was admitted all the same.
    902199, // A primary that stood still was taken for dead, and answered all the same when it woke: what had waited for its
    // own disk, a grant of its own that was old news, a round of the members it no longer had.
    50, 149, 433, 519, 681, // The operator chose a joiner whose snapshot was never put into place then.
    999, // Their judges: a rotten journal, the seized who followed the one taken for dead.
    1001444, 806, 921,
    // Arbiters came back with what they had after an adoption that was broken off: whoever was fenced for it stood above
    // every epoch that they granted, and stayed away for ever.
    707, 762,
    // One whose older image the arbiters had refused showed its new life before its disk knew of it, on a link that it
    // had dialled in that very turn.
    5_001_651,
    // A deposed primary was admitted while it had executed what a third member never heard of: that one took over, and
    // it had to throw its state away, in sync.
    5_003_119,
    // A spare that stood still learnt in its first turn that it had become a backup, and called its primary silent.
    6_002_756,
    // Judges: who an operator chose puts its snapshot into place; a snapshot that nobody had committed and was thrown
    // away; an older image that lacks only what its primary has not released.
    307, 3_001_156, 3_001_245,
    // The group clock was slewed by nothing in turns of less than 100 us: each was rounded down by itself.
    6_007_820,
    // A hand-over was granted after its proposer had gone on without it: in sync by the record, it threw its state away.
    7_101_925,
    // Judges: who was asked to stop while its disk hung hands over by that hand-over; what an operator needs who has taken
    // a primary for dead stayed broken for good.
    7_001_363, 7_005_050,
    // A primary that was asked to stop ended with the hand-over of another's, which had a moment left.
    7_105_428,
    // Its judge: what an older image had asked for came out of its links after the image was taken away.
    7_105_954,
    // A primary that was asked to stop had handed over to one that died, took over from it, and stopped.
    7_307_983,
    // Judges: what a lone primary told of the time before an operator took it for dead, and never heard back whether it
    // was; what arbiters that had lost everything had sent before.
    7_301_695, 7_313_899, 7_312_043,
    // Judges: an older image that caught up while its wish to take over was refused; a client with nothing to send on a
    // connection to a machine that had lost power; what replicas had asked, forgotten with what arbiters had sent.
    7_408_152, 7_416_792, 7_403_712,
    // Judges: a reply that an operator's word had lost came late to a stubborn client; arbiters that lost everything while
    // no copy could be read any more.
    7_510_109, 7_511_391,
    // Arbiters came back below a fence; the one read that would have told the fenced replica failed, and no watch told
    // the record again: it never said that the fence stood in the way.
    8_102_392,
    // A hand-over was proposed to who had been removed since the arbiters were asked, and had come back.
    8_201_938,
    // Their judge: a primary had not heard the life that it had admitted, and another one of the same name all the time.
    8_300_266,
];

/// Seeds in which something happens that must happen and seldom does: a restored image that somebody knows to be old; a
/// failed sync that took what had been acknowledged.
const RARE: &[u64] = &[625, 720, 1143, 699, 1024, 1314, 924, 1008];

#[test]
fn nothing_released_is_ever_lost() {
    let seeds = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
    let all: Vec<u64> = (1..=seeds).chain(PAST_FAILURES.iter().chain(RARE).copied()).collect();
    batch::run(&all, 2, batch::Progress::Silent).judge();
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [7, 8] {
        let [one, other] = [0, 1].map(|_| run::run(seed, Show::Kept).1);
        assert_eq!(one.trace.kept, other.trace.kept);
        assert_eq!(one.trace.digest(), other.trace.digest());
    }
}

#[test]
#[ignore = "replays one seed with its trace: set SEED"]
fn one_seed() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    match run::run(seed, Show::Lines).0 {
        Ok(report) => println!("{}", report.table()),
        Err(why) => panic!("seed {seed}: {why}"),
    }
}

#[test]
#[ignore = "a soak: SEEDS=n seeds from FROM, on all cores"]
fn many_seeds() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (from, seeds) = (number("FROM", 1000u64), number("SEEDS", 1000u64));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    batch::run(&(from..from + seeds).collect::<Vec<_>>(), cores, batch::Progress::Lines).judge();
}

//! What one seed draws before it begins: how large the world is, its thresholds, and which faults it will see, how
//! strong and how often (swarm testing: a run that has every fault at once seldom gets anywhere).

use cutover_arbiter::record::Mode;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::clients::Manner;
use super::counters::Fault;
use super::world::Time;

/// The parameters of a run.
#[derive(Debug, Clone)]
pub struct Swarm {
    pub arbiters: usize,
    /// Replicas of each group.
    pub groups: Vec<usize>,
    /// Clients of the library, and Redis clients, of each group.
    pub library: usize,
    pub redis: usize,
    pub stubborn: usize,
    pub copies: usize,
    pub min_in_sync: u8,
    /// How durably each group holds what it acknowledges, and whether its replicas have a data directory at all.
    pub modes: Vec<Mode>,
    pub has_disk: Vec<bool>,
    /// Longest write of a replica's disk.
    pub disk: Time,
    pub segment_bytes: u64,
    pub snapshot_bytes: u64,
    /// A disk that hangs for longer makes its replica give up, in milliseconds.
    pub stall_ms: u64,
    /// Recoveries are interrupted, too.
    pub dies_in_recovery: bool,
    /// Longest write of an arbiter's disk.
    pub arbiter_disk: Time,
    pub latency: (Time, Time),
    /// How long an established connection over a link that is cut in one direction still carries the other one.
    pub one_way: Time,
    /// Of a thousand messages between arbiters, how many come twice, and how many late.
    pub duplicates: u32,
    pub reorders: u32,
    /// Longest pause of a client between two operations.
    pub pace: Time,
    /// Operations that a client now and then asks for in one breath.
    pub burst: u32,
    /// Operations that a library client has under way at most.
    pub window: usize,
    /// Of twenty operations, how many only read.
    pub reads: u32,
    /// How long a client waits for an answer.
    pub deadline: Time,
    pub session_timeout: Time,
    pub log_bytes: usize,
    pub append_bytes: usize,
    pub unacknowledged_bytes: usize,
    pub chunk: usize,
    pub snapshot_after: u64,
    pub raft_append: usize,
    /// The faults of this run, each with its weight.
    pub faults: Vec<(Fault, u32)>,
    /// Mean time between two faults in a storm.
    pub gap: Time,
    /// Length of the part with faults.
    pub storm: Time,
    /// Of a hundred messages on a cut link, how many come out of it when it heals.
    pub clogs: u32,
}

impl Swarm {
    pub fn drawn(seed: u64) -> Self {
        let random = &mut ChaCha8Rng::seed_from_u64(seed ^ 0xFA17_0000);
        let mut faults = Vec::new();
        for fault in Fault::ALL.iter().filter(|fault| !fault.is_reaction() && !fault.needs_a_journal()) {
            if random.random_bool(0.45) {
                faults.push((*fault, weight(*fault) * random.random_range(1..=3)));
            }
        }
        if faults.len() < 3 {
            faults.extend([(Fault::Isolate, 4), (Fault::CrashReplica, 2), (Fault::PairLink, 2)]);
        }
        for reaction in [Fault::AfterCutOver, Fault::TransferBroken] {
            if random.random_bool(0.3) {
                faults.push((reaction, 0));
            }
        }
        let groups =
            if random.random_bool(0.12) { vec![2, 2] } else { vec![[2, 2, 3, 3, 4][random.random_range(0..5)]] };
        let copies = random.random_range(2..=3usize);
        let read_heavy = random.random_bool(0.15);
        let disk = if random.random_bool(0.5) { random.random_range(1..5_000) } else { 0 };
        // What concerns the disks is drawn apart, so that nothing else changes with it.
        let own = &mut ChaCha8Rng::seed_from_u64(seed ^ 0xD15C_0000);
        let mode = |own: &mut ChaCha8Rng| match own.random_range(0..10) {
            0..3 => Mode::Memory,
            3..6 => Mode::Buffered,
            _ => Mode::Sync,
        };
        let modes: Vec<Mode> = groups.iter().map(|_| mode(own)).collect();
        let has_disk = modes.iter().map(|mode| *mode != Mode::Memory || own.random_bool(0.5)).collect();
        if modes.iter().any(|mode| *mode != Mode::Memory) {
            for fault in Fault::ALL.iter().filter(|fault| fault.needs_a_journal()) {
                if own.random_bool(0.35) {
                    faults.push((*fault, own.random_range(1..=3)));
                }
            }
        }
        Self {
            modes,
            has_disk,
            segment_bytes: own.random_range(400..12_000),
            snapshot_bytes: [1_500, 6_000, 25_000, u64::MAX][own.random_range(0..4)],
            stall_ms: [800, 2_500, 600_000, 600_000][own.random_range(0..4)],
            dies_in_recovery: own.random_bool(0.3),
            arbiters: if random.random_bool(0.25) { 5 } else { 3 },
            library: random.random_range(1..=3),
            redis: random.random_range(1..=2),
            stubborn: usize::from(random.random_bool(0.4)),
            copies,
            min_in_sync: if random.random_bool(0.25) { 2 } else { 1 },
            disk,
            arbiter_disk: [500, 3_000, 15_000][random.random_range(0..3)],
            latency: (30, [150, 600, 3_000, 8_000][random.random_range(0..4)]),
            one_way: [1_500_000, 1_500_000, 20_000_000][random.random_range(0..3)],
            duplicates: [0, 0, 30][random.random_range(0..3)],
            reorders: [0, 0, 60][random.random_range(0..3)],
            pace: [150_000, 250_000, 400_000][random.random_range(0..3)],
            burst: [1, 1, 3, 8][random.random_range(0..4)],
            window: random.random_range(1..=8),
            reads: if read_heavy { 17 } else { [6, 10][random.random_range(0..2)] },
            deadline: [700_000, 2_000_000, 6_000_000][random.random_range(0..3)],
            session_timeout: [1_500_000, 6_000_000, 300_000_000][random.random_range(0..3)],
            log_bytes: random.random_range(200..15_000),
            append_bytes: random.random_range(100..5_000),
            unacknowledged_bytes: [2_000, 20_000, 1 << 20][random.random_range(0..3)],
            chunk: random.random_range(200..1_500),
            snapshot_after: random.random_range(5..24),
            raft_append: random.random_range(200..4_000),
            faults,
            gap: [350_000, 800_000, 1_800_000][random.random_range(0..3)],
            storm: random.random_range(42_000_000..50_000_000),
            clogs: [0, 50, 100][random.random_range(0..3)],
            groups,
        }
    }

    /// Who the so many-th client of a group is.
    pub fn manner(&self, number: usize) -> Manner {
        if number < self.library {
            Manner::Library
        } else if number < self.library + self.redis {
            Manner::Redis
        } else {
            Manner::Stubborn
        }
    }

    pub fn has(&self, fault: Fault) -> bool {
        self.faults.iter().any(|(known, _)| *known == fault)
    }

    /// One of the run's faults.
    pub fn fault(&self, random: &mut ChaCha8Rng) -> Fault {
        let total: u32 = self.faults.iter().map(|(_, weight)| weight).sum();
        let mut left = random.random_range(0..total.max(1));
        for (fault, weight) in &self.faults {
            if left < *weight {
                return *fault;
            }
            left -= weight;
        }
        Fault::Isolate
    }
}

/// Isolating exactly one process finds most: it has extra weight.
fn weight(fault: Fault) -> u32 {
    match fault {
        Fault::Isolate => 6,
        Fault::CrashReplica | Fault::PairLink | Fault::Pause | Fault::PauseMidTurn | Fault::OneWay => 3,
        Fault::ArbitersDown | Fault::ArbitersRestart | Fault::WallJump | Fault::ClientStopped => 1,
        _ => 2,
    }
}

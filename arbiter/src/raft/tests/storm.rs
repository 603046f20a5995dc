//! Many seeds of stormy weather, each followed by calm in which everything must settle.
//!
//! `RAFT_SEEDS=20000` runs so many, `RAFT_SEED=7` that one alone.

use rand::RngExt;

use super::cluster::{Cluster, Faults};
use super::invariants::Seen;
use crate::raft::NodeId;

/// Seeds that once failed, run for ever.
const ONCE_FAILED: &[u64] = &[];

fn weather(cluster: &mut Cluster) -> Faults {
    let random = &mut cluster.random;
    let mut some = |of: f64| if random.random_bool(0.6) { random.random_range(0.0..of) } else { 0.0 };
    let (loss, duplicate, crash, cut, pause) = (some(0.2), some(0.2), some(0.004), some(0.01), some(0.003));
    let (delay_ms, disk_ms) = (random.random_range(0..25), random.random_range(0..20));
    Faults { loss, duplicate, delay_ms, disk_ms, crash, cut, pause }
}

/// What stays broken when everything else heals: faults that always heal would hide a core that needs everyone.
#[derive(Clone, Copy)]
enum Stays {
    /// Nothing.
    Nothing,
    /// This arbiter is away for ever.
    Away(NodeId),
    /// This one is heard and hears nothing.
    Deaf(NodeId),
    /// These two cannot speak to each other.
    Apart(NodeId, NodeId),
}

impl Stays {
    fn drawn(seed: u64, size: u64) -> Self {
        let one = 1 + seed % size;
        match (seed / 4) % 6 {
            _ if size == 1 => Stays::Nothing,
            0 | 1 => Stays::Away(one),
            2 => Stays::Deaf(one),
            3 => Stays::Apart(one, 1 + one % size),
            _ => Stays::Nothing,
        }
    }

    fn breaks(self, cluster: &mut Cluster) {
        match self {
            Stays::Nothing | Stays::Away(_) => {}
            Stays::Deaf(deaf) => cluster.cut.extend(cluster.nodes.keys().map(|&other| (other, deaf))),
            Stays::Apart(one, other) => cluster.cut.extend([(one, other), (other, one)]),
        }
    }
}

/// A follower is cut off for a while and comes back: the leader that the others heard all the time goes on leading
/// (thesis 4.2.3 and 9.6).
fn nobody_is_disturbed(cluster: &mut Cluster, leader: NodeId) {
    let term = cluster.raft(leader).term();
    let Some(away) = cluster.nodes.keys().copied().find(|&id| id != leader) else { return };
    let others: Vec<NodeId> = cluster.nodes.keys().copied().filter(|&id| id != away).collect();
    for other in others {
        cluster.cut.extend([(away, other), (other, away)]);
    }
    cluster.run(250);
    cluster.cut.clear();
    cluster.run(150);
    let now = cluster.leader().map(|id| (id, cluster.raft(id).term()));
    assert_eq!(now, Some((leader, term)), "an arbiter that was away for a while disturbed a healthy leader");
}

pub fn storm(seed: u64) -> Seen {
    let size = [1, 3, 3, 5][seed as usize % 4];
    let mut cluster = Cluster::new(size, seed, Faults::NONE);
    for _ in 0..4 {
        cluster.faults = weather(&mut cluster);
        for _ in 0..400 {
            cluster.advance();
            if cluster.random.random_bool(0.3) {
                cluster.client();
            }
        }
        // A quiet spell, so that a storm does not only ever meet an empty log.
        cluster.faults = Faults::NONE;
        cluster.run(50);
    }
    let stays = Stays::drawn(seed, size);
    cluster.heal(if let Stays::Away(id) = stays { Some(id) } else { None });
    stays.breaks(&mut cluster);
    // So long that whoever leads in vain has noticed it.
    cluster.run(300);
    for _ in 0..2000 {
        cluster.advance();
        if cluster.pending().is_none() {
            break;
        }
    }
    assert_eq!(cluster.pending(), None, "seed {seed}: not settled two seconds after everything healed");
    let before = cluster.ghost.committed().len();
    let leader = cluster.leader().expect("a settled cluster has a leader");
    cluster.propose(leader);
    cluster.run(100);
    assert!(cluster.ghost.committed().len() > before, "seed {seed}: a proposal in calm weather is committed");
    if matches!(stays, Stays::Nothing) {
        nobody_is_disturbed(&mut cluster, leader);
    }
    cluster.ghost.seen
}

fn add(total: &mut Seen, one: Seen) {
    total.restarts += one.restarts;
    total.elections += one.elections;
    total.tails_cut += one.tails_cut;
    total.snapshots_installed += one.snapshots_installed;
    total.reads_ready += one.reads_ready;
    total.reads_cancelled += one.reads_cancelled;
    total.old_terms_committed += one.old_terms_committed;
}

#[test]
fn storms_break_no_invariant_and_calm_settles() {
    let only = std::env::var("RAFT_SEED").ok().map(|seed| seed.parse().expect("RAFT_SEED is a number"));
    let count = std::env::var("RAFT_SEEDS").map_or(400, |count| count.parse().expect("RAFT_SEEDS is a number"));
    let seeds = ONCE_FAILED.iter().copied().chain(1..=count).filter(|seed| only.is_none_or(|only: u64| only == *seed));
    let mut seen = Seen::default();
    for seed in seeds {
        match std::panic::catch_unwind(|| storm(seed)) {
            Ok(one) => add(&mut seen, one),
            Err(_) => panic!("seed {seed} failed; run it alone with RAFT_SEED={seed}"),
        }
    }
    if only.is_none() {
        let Seen {
            restarts,
            elections,
            tails_cut,
            snapshots_installed,
            reads_ready,
            reads_cancelled,
            old_terms_committed,
        } = seen;
        let all =
            [restarts, elections, tails_cut, snapshots_installed, reads_ready, reads_cancelled, old_terms_committed];
        assert!(all.iter().all(|&count| count > 0), "the storms missed something that must happen: {seen:?}");
    }
}

#[test]
fn a_seed_run_twice_gives_the_same_trace() {
    let trace = |seed| {
        let mut cluster = Cluster::new(3, seed, Faults { loss: 0.1, delay_ms: 10, ..Faults::NONE });
        for _ in 0..500 {
            cluster.advance();
            cluster.client();
        }
        cluster.nodes.values().map(|node| (node.machine, node.disk.hard)).collect::<Vec<_>>()
    };
    assert_eq!(trace(7), trace(7));
}

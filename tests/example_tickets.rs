//! The tickets example: its machine is deterministic, its copies are copies, and what it sold outlives a primary.
#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it")]

#[path = "../examples/tickets/counter.rs"]
mod counter;
#[path = "../examples/tickets/machine.rs"]
mod machine;
#[path = "../examples/tickets/stage.rs"]
mod stage;

use cutover::machine::{Changes, Env, ReadEnv, Restore as _, Snapshot as _, StateMachine as _, seeded};
use machine::{Answer, Ask, Tickets, encode};

/// Applies on a primary and on a backup; both must answer and report the same.
struct Pair {
    primary: Tickets,
    backup: Tickets,
    random: rand_chacha::ChaCha8Rng,
    index: u64,
}

impl Pair {
    fn new(seed: u64) -> Self {
        Self { primary: Tickets::default(), backup: Tickets::default(), random: seeded(seed), index: 0 }
    }

    fn ask(&mut self, ask: &Ask) -> Answer {
        self.index += 1;
        let operation = encode(ask);
        let (mut values, mut garbage) = (Vec::new(), Vec::new());
        let (mut here, mut there) = (Changes::default(), Changes::default());
        let (mut reply, mut copy) = (Vec::new(), Vec::new());
        let mut env = Env::capture_into(0, self.index, &mut self.random, &mut values, &mut here, &mut garbage);
        self.primary.apply(&operation, &mut env, &mut reply);
        env.finish().unwrap();
        let mut env = Env::replay(0, self.index, &values, &mut there, &mut garbage);
        self.backup.apply(&operation, &mut env, &mut copy);
        env.finish().unwrap();
        assert_eq!((&reply, here.state()), (&copy, there.state()));
        assert_eq!(self.primary, self.backup);
        postcard::from_bytes(&reply).unwrap()
    }
}

#[test]
fn a_backup_draws_the_winners_that_the_primary_drew() {
    let mut pair = Pair::new(7);
    for (number, buyer) in (1..).zip(["ada", "grace", "barbara"]) {
        assert_eq!(pair.ask(&Ask::Sell(buyer.into())), Answer::Ticket(number, buyer.into()));
    }
    let mut drawn: Vec<u64> = (0..3)
        .map(|_| match pair.ask(&Ask::Draw) {
            Answer::Ticket(ticket, _) => ticket,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pair.backup.winners, drawn);
    drawn.sort_unstable();
    assert_eq!(drawn, [1, 2, 3], "each ticket wins once");
    assert!(matches!(pair.ask(&Ask::Draw), Answer::No(_)));
}

#[test]
fn a_copy_in_chunks_of_any_size_is_the_same_state() {
    let mut pair = Pair::new(1);
    for buyer in ["ada", "grace", "barbara"] {
        pair.ask(&Ask::Sell(buyer.into()));
    }
    pair.ask(&Ask::Draw);
    for target in [0, 1, 7, 1000] {
        let mut snapshot = pair.primary.snapshot();
        let mut restore = Tickets::restore();
        while let Some(chunk) = snapshot.next_chunk(target) {
            restore.chunk(&chunk).unwrap();
        }
        assert_eq!(restore.finish().unwrap(), pair.primary);
    }
}

#[test]
fn nonsense_is_answered_and_changes_nothing() {
    let mut random = seeded(0);
    let mut reply = Vec::new();
    let tickets = Tickets::default();
    tickets.read(b"\xff\xff", &ReadEnv::new(0, &mut random), &mut reply);
    assert!(matches!(postcard::from_bytes(&reply), Ok(Answer::No(_))));
    let mut pair = Pair::new(0);
    assert!(matches!(pair.ask(&Ask::Sell(String::new())), Answer::No(_)));
    assert!(matches!(pair.ask(&Ask::Sell("x".repeat(1000))), Answer::No(_)));
    assert_eq!(pair.primary, Tickets::default());
}

#[tokio::test]
async fn what_was_sold_and_drawn_outlives_the_primary() {
    let mut stage = stage::Stage::set("tickets-test").await.unwrap();
    let counter = counter::Counter::open(stage.arbiters(), "tickets-test").await.unwrap();
    for (number, buyer) in (1..).zip(["ada", "grace", "barbara"]) {
        assert_eq!(counter.sell(buyer).await.unwrap(), Answer::Ticket(number, buyer.into()));
    }
    let Answer::Ticket(winner, _) = counter.draw().await.unwrap() else { panic!("three tickets wait") };
    let before = counter.list().await.unwrap();
    stage.stop_primary().await.unwrap();
    assert_eq!(counter.list().await.unwrap(), before);
    assert_eq!(counter.sell("frances").await.unwrap(), Answer::Ticket(4, "frances".into()));
    let Answer::Tickets(after) = counter.list().await.unwrap() else { panic!("a list was asked for") };
    assert_eq!((after.holders.len(), after.winners), (4, vec![winner]));
    stage.strike();
}

//! The rules one by one, then random soups of commands against the invariants.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::record::{Addresses, GroupId, Incarnation, MAX_RISE, Member, Mode, Position, ReplicaName};

fn member(name: &str, life: u128) -> Member {
    Member {
        replica: name.parse().unwrap(),
        incarnation: Incarnation(life),
        addresses: Addresses { peer: format!("{name}:7001"), ..Addresses::default() },
    }
}

fn at(epoch: u64, index: u64) -> Position {
    Position { epoch: Epoch(epoch), index }
}

struct World {
    registers: Registers,
    request: u128,
}

impl World {
    fn new() -> Self {
        Self { registers: Registers::default(), request: 0 }
    }

    fn proposal(&mut self, who: Option<&Member>, expected: u64, change: Change) -> Proposal {
        self.request += 1;
        Proposal {
            group: "g".parse().unwrap(),
            expected_epoch: Epoch(expected),
            request: RequestId(self.request),
            proposer: who.map(|who| (who.replica.clone(), who.incarnation)),
            change,
            commit: Position::default(),
            held: Position::default(),
            floor: Epoch(0),
        }
    }

    fn ask(&mut self, who: Option<&Member>, expected: u64, change: Change) -> Answer {
        let proposal = self.proposal(who, expected, change);
        self.registers.apply(Command { at_ms: 1, proposal })
    }

    fn granted(&mut self, who: Option<&Member>, expected: u64, change: Change) -> GroupRecord {
        match self.ask(who, expected, change) {
            Answer::Granted(record) => record,
            refused => panic!("expected a grant, got {refused:?}"),
        }
    }

    fn refused(&mut self, who: Option<&Member>, expected: u64, change: Change) -> RefusalReason {
        match self.ask(who, expected, change) {
            Answer::Refused { reason, .. } => reason,
            granted => panic!("expected a refusal, got {granted:?}"),
        }
    }

    /// A group of `a` (primary) and `b`, at epoch 2.
    fn pair() -> (Self, Member, Member) {
        let (mut world, a, b) = (World::new(), member("a", 1), member("b", 2));
        world.granted(Some(&a), 0, create(&a));
        world.granted(Some(&a), 1, Change::Admit { member: b.clone() });
        (world, a, b)
    }
}

fn create(member: &Member) -> Change {
    Change::Create { group_id: GroupId(9), member: member.clone(), mode: Mode::Memory, min_in_sync: 1 }
}

fn adopt(member: &Member, epoch: u64) -> Change {
    Change::Adopt {
        group_id: GroupId(9),
        member: member.clone(),
        epoch: Epoch(epoch),
        mode: Mode::Sync,
        min_in_sync: 1,
        commit: at(epoch, 4),
    }
}

fn not_allowed(reason: &RefusalReason) -> bool {
    matches!(reason, RefusalReason::NotAllowed(_))
}

#[test]
fn the_first_create_wins_and_the_second_sees_the_record() {
    let (mut world, a, b) = (World::new(), member("a", 1), member("b", 2));
    let record = world.granted(Some(&a), 0, create(&a));
    assert_eq!((record.epoch, record.in_sync.len()), (Epoch(1), 1));
    assert_eq!(world.refused(Some(&b), 0, create(&b)), RefusalReason::Exists);
}

#[test]
fn a_replica_that_holds_data_never_creates() {
    let (mut world, a) = (World::new(), member("a", 1));
    let mut proposal = world.proposal(Some(&a), 0, create(&a));
    proposal.held = at(1, 1);
    assert!(matches!(world.registers.apply(Command { at_ms: 1, proposal }), Answer::Refused { .. }));
    assert!(not_allowed(&world.refused(Some(&member("b", 2)), 0, create(&a))), "only for oneself");
}

#[test]
fn take_over_is_for_a_backup_in_sync_in_the_life_that_was_admitted() {
    let (mut world, a, b) = World::pair();
    assert!(not_allowed(&world.refused(Some(&a), 2, Change::TakeOver)));
    assert!(not_allowed(&world.refused(Some(&member("b", 3)), 2, Change::TakeOver)));
    assert!(not_allowed(&world.refused(Some(&member("c", 3)), 2, Change::TakeOver)));
    assert!(not_allowed(&world.refused(None, 2, Change::TakeOver)));
    assert!(matches!(world.refused(Some(&b), 1, Change::TakeOver), RefusalReason::Epoch { .. }));
    let record = world.granted(Some(&b), 2, Change::TakeOver);
    assert_eq!((record.primary.clone(), record.in_sync), (b.clone(), vec![b]));
    assert!(matches!(world.refused(Some(&a), 2, Change::Resume), RefusalReason::Epoch { .. }), "the loser of the race");
}

#[test]
fn a_restored_old_image_neither_takes_over_nor_resumes() {
    let (mut world, a, b) = World::pair();
    let mut proposal = world.proposal(Some(&a), 2, Change::Resume);
    (proposal.commit, proposal.held) = (at(2, 10), at(2, 12));
    assert!(matches!(world.registers.apply(Command { at_ms: 1, proposal }), Answer::Granted(_)));
    for (who, change) in [(&b, Change::TakeOver), (&a, Change::Resume)] {
        let mut proposal = world.proposal(Some(who), 3, change);
        proposal.held = at(1, 90);
        let answer = world.registers.apply(Command { at_ms: 1, proposal });
        assert!(matches!(answer, Answer::Refused { reason: RefusalReason::OldImage { .. }, .. }), "{answer:?}");
    }
}

#[test]
fn remove_admit_and_hand_over_are_for_the_primary() {
    let (mut world, a, b) = World::pair();
    let (gone, c) = (Change::Remove { replica: b.replica.clone(), incarnation: b.incarnation }, member("c", 3));
    assert!(not_allowed(&world.refused(Some(&b), 2, gone.clone())));
    assert!(not_allowed(&world.refused(
        Some(&a),
        2,
        Change::Remove { replica: a.replica.clone(), incarnation: a.incarnation }
    )));
    assert!(not_allowed(&world.refused(Some(&a), 2, Change::Admit { member: member("b", 7) })), "never the name twice");
    assert!(not_allowed(&world.refused(
        Some(&a),
        2,
        Change::HandOver { to: c.replica.clone(), incarnation: c.incarnation }
    )));
    let record = world.granted(Some(&a), 2, Change::HandOver { to: b.replica.clone(), incarnation: b.incarnation });
    assert_eq!((record.primary.clone(), record.in_sync.len()), (b.clone(), 2));
    assert!(not_allowed(&world.refused(Some(&a), 3, gone)));
    let record = world.granted(Some(&b), 3, Change::Remove { replica: a.replica.clone(), incarnation: a.incarnation });
    assert_eq!(record.in_sync, vec![b]);
}

#[test]
fn operators_seize_and_adopt_and_replicas_do_not() {
    let (mut world, a, b) = World::pair();
    let lost = member("b", 99);
    assert!(not_allowed(&world.refused(Some(&b), 2, Change::Seize { member: lost.clone() })));
    assert_eq!(world.refused(None, 0, adopt(&a, 7)), RefusalReason::Exists);
    let record = world.granted(None, 2, Change::Seize { member: lost.clone() });
    assert_eq!(record.in_sync, vec![lost]);
    let mut world = World::new();
    assert!(not_allowed(&world.refused(Some(&a), 0, adopt(&a, 7))));
    let mut adoption = world.proposal(None, 0, adopt(&a, 7));
    // The position of an entry that the replica does not hold would shut it out for ever.
    let refused = world.registers.apply(Command { at_ms: 1, proposal: adoption.clone() });
    assert!(matches!(refused, Answer::Refused { reason, .. } if not_allowed(&reason)));
    (adoption.held, adoption.request) = (at(7, 4), RequestId(999));
    let Answer::Granted(record) = world.registers.apply(Command { at_ms: 1, proposal: adoption }) else { panic!() };
    assert_eq!((record.epoch, record.last_change.commit), (Epoch(8), at(7, 4)));
}

/// Replicas that were fenced at 21 follow nothing below it: granted epoch 3, whoever is seized would stay alone, or
/// refuse its own grant.
#[test]
fn a_seizure_rises_above_every_fence_and_no_further_than_it_may() {
    let (mut world, a, b) = World::pair();
    let above = |mut proposal: Proposal, floor| {
        proposal.floor = Epoch(floor);
        Command { at_ms: 1, proposal }
    };
    let seize = Change::Seize { member: b.clone() };
    let too_far = above(world.proposal(None, 2, seize.clone()), 3 + MAX_RISE);
    assert!(matches!(world.registers.apply(too_far), Answer::Refused { reason, .. } if not_allowed(&reason)));
    let by_replica = above(world.proposal(Some(&a), 2, Change::Resume), 22);
    assert!(matches!(world.registers.apply(by_replica), Answer::Refused { reason, .. } if not_allowed(&reason)));
    let granted = above(world.proposal(None, 2, seize.clone()), 22);
    let first = world.registers.apply(granted.clone());
    assert!(matches!(&first, Answer::Granted(record) if record.epoch == Epoch(22)), "{first:?}");
    assert_eq!(world.registers.apply(granted), first, "asked again");
    let low = above(world.proposal(None, 22, seize), 7);
    let next = world.registers.apply(low);
    assert!(matches!(&next, Answer::Granted(record) if record.epoch == Epoch(23)), "{next:?}");
}

#[test]
fn a_record_that_stands_below_a_fence_is_adopted_above_it_by_who_was_shown_it() {
    let (mut world, a, b) = World::pair();
    let adoption = |world: &mut World, who: &Member, expected, epoch| {
        let mut proposal = world.proposal(None, expected, adopt(who, epoch));
        proposal.held = at(epoch, 4);
        world.registers.apply(Command { at_ms: 1, proposal })
    };
    let refusal = |answer: Answer| match answer {
        Answer::Refused { reason, .. } => reason,
        granted => panic!("{granted:?}"),
    };
    assert_eq!(refusal(adoption(&mut world, &a, 0, 20)), RefusalReason::Exists, "asked when they had lost it");
    assert!(matches!(refusal(adoption(&mut world, &a, 1, 20)), RefusalReason::Epoch { .. }));
    assert!(not_allowed(&refusal(adoption(&mut world, &a, 2, 1))), "not above the record");
    assert!(not_allowed(&refusal(adoption(&mut world, &a, 2, 2 + MAX_RISE))));
    let Answer::Granted(record) = adoption(&mut world, &b, 2, 20) else { panic!() };
    assert_eq!((record.epoch, &record.primary, record.in_sync.len()), (Epoch(21), &b, 1));
    assert_eq!((record.mode, record.min_in_sync), (Mode::Memory, 1), "as it was made");
    let mut stranger = adopt(&a, 40);
    if let Change::Adopt { group_id, .. } = &mut stranger {
        *group_id = GroupId(10);
    }
    let mut proposal = world.proposal(None, 21, stranger);
    proposal.held = at(40, 4);
    assert!(not_allowed(&refusal(world.registers.apply(Command { at_ms: 1, proposal }))));
    assert!(not_allowed(&refusal(adoption(&mut World::new(), &a, 0, u64::MAX - 1))));
}

/// Else an older image of who was raised above a fence would pass for what it was.
#[test]
fn who_holds_what_the_record_names_as_committed_does_not_lower_it_by_being_adopted() {
    for (held, commit) in [(at(20, 6), at(20, 4)), (at(20, 3), at(20, 2))] {
        let (mut world, a, _) = World::pair();
        let mut first = world.proposal(None, 2, adopt(&a, 20));
        first.held = at(20, 4);
        world.registers.apply(Command { at_ms: 1, proposal: first });
        let mut again = adopt(&a, 40);
        if let Change::Adopt { commit, .. } = &mut again {
            *commit = at(20, 2);
        }
        let mut proposal = world.proposal(None, 21, again);
        proposal.held = held;
        let answer = world.registers.apply(Command { at_ms: 1, proposal });
        assert!(matches!(&answer, Answer::Granted(record) if record.last_change.commit == commit), "{answer:?}");
    }
}

#[test]
fn a_command_of_the_format_before_is_read() {
    let mut world = World::new();
    let proposal = world.proposal(None, 2, Change::Seize { member: member("a", 1) });
    let command = Command { at_ms: 1, proposal };
    let mut before = command.encode().to_vec();
    assert_eq!((before[0], before.pop()), (COMMAND_VERSION, Some(0)), "the floor is the last of it");
    before[0] = FLOORLESS;
    assert_eq!(Command::decode(&before), Ok(command));
}

#[test]
fn a_repeated_request_gets_its_first_answer_while_remembered_and_seizures_stay_for_ever() {
    let (mut world, a, _) = World::pair();
    let seize = world.granted(None, 2, Change::Seize { member: a.clone() });
    let first = world.proposal(Some(&a), 3, Change::Resume);
    let answer = world.registers.apply(Command { at_ms: 5, proposal: first.clone() });
    for epoch in 4..4 + HISTORY as u64 - 1 {
        world.granted(Some(&a), epoch, Change::Resume);
    }
    assert_eq!(world.registers.apply(Command { at_ms: 6, proposal: first.clone() }), answer);
    let mut other = first;
    other.change = Change::TakeOver;
    assert!(matches!(world.registers.apply(Command { at_ms: 6, proposal: other }), Answer::Refused { .. }));
    world.granted(Some(&a), 3 + HISTORY as u64, Change::Resume);
    let history = world.registers.history(&"g".parse().unwrap());
    assert_eq!(history.len(), HISTORY + 1);
    assert_eq!(history[0].record, seize);
}

#[test]
fn limits_hold() {
    let (mut world, mut a) = (World::new(), member("a", 1));
    let mut zero = create(&a);
    if let Change::Create { min_in_sync, .. } = &mut zero {
        *min_in_sync = 0;
    }
    assert!(not_allowed(&world.refused(Some(&a), 0, zero)));
    a.addresses.http = "x".repeat(crate::record::MAX_ADDRESS + 1);
    assert!(not_allowed(&world.refused(Some(&a), 0, create(&a))));
    a.addresses.http.clear();
    for number in 0..MAX_GROUPS {
        let mut proposal = world.proposal(Some(&a), 0, create(&a));
        proposal.group = format!("g{number}").parse().unwrap();
        assert!(matches!(world.registers.apply(Command { at_ms: 1, proposal }), Answer::Granted(_)));
    }
    assert!(not_allowed(&world.refused(Some(&a), 0, create(&a))));
}

#[test]
fn another_format_is_named() {
    let mut bytes = Registers::default().encode().to_vec();
    bytes[0] = 9;
    assert_eq!(Registers::decode(&bytes), Err(CodecError::Version { what: "snapshot", found: 9, known: 1 }));
    assert!(matches!(Command::decode(&[]), Err(CodecError::Malformed { .. })));
}

fn any_member() -> impl Strategy<Value = Member> {
    (0..4usize, 0..3u128).prop_map(|(name, life)| member(["a", "b", "c", "d"][name], life))
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => any_member().prop_map(|member| create(&member)),
        4 => Just(Change::TakeOver),
        2 => Just(Change::Resume),
        3 => any_member().prop_map(|m| Change::Remove { replica: m.replica, incarnation: m.incarnation }),
        6 => any_member().prop_map(|member| Change::Admit { member }),
        3 => any_member().prop_map(|m| Change::HandOver { to: m.replica, incarnation: m.incarnation }),
        1 => any_member().prop_map(|member| Change::Seize { member }),
        1 => (any_member(), 0..5u64).prop_map(|(member, epoch)| adopt(&member, epoch)),
    ]
}

/// How a random proposal is bent towards legality: `true` takes what the record says.
#[derive(Debug, Clone)]
struct Step {
    change: Change,
    who: Option<Member>,
    honest_epoch: bool,
    honest_primary: bool,
    epoch: u64,
    request: u128,
    commit: (u64, u64),
    held: (u64, u64),
    floor: u64,
}

fn any_step() -> impl Strategy<Value = Step> {
    let positions = ((0..6u64, 0..6u64), (0..6u64, 0..6u64));
    (
        any_change(),
        prop::option::weighted(0.9, any_member()),
        prop::bool::weighted(0.8),
        any::<bool>(),
        0..8u64,
        0..400u128,
        positions,
        prop_oneof![6 => Just(0), 1 => 0..200u64, 1 => any::<u64>()],
    )
        .prop_map(|(change, who, honest_epoch, honest_primary, epoch, request, (commit, held), floor)| Step {
            change,
            who,
            honest_epoch,
            honest_primary,
            epoch,
            request,
            commit,
            held,
            floor,
        })
}

fn proposal_of(step: &Step, record: Option<&GroupRecord>) -> Proposal {
    let group: GroupName = "g".parse().unwrap();
    let who = match record {
        Some(record) if step.honest_primary => Some(record.primary.clone()),
        _ => step.who.clone(),
    };
    let honest = record.map_or(Epoch(0), |record| record.epoch);
    Proposal {
        group,
        expected_epoch: if step.honest_epoch { honest } else { Epoch(step.epoch) },
        request: RequestId(step.request),
        proposer: who.map(|who| (who.replica, who.incarnation)),
        change: step.change.clone(),
        commit: at(step.commit.0, step.commit.1),
        held: at(step.held.0, step.held.1),
        floor: Epoch(step.floor),
    }
}

/// The primary is in sync, each replica at most once, and the bounds hold.
fn assert_shape(record: &GroupRecord) {
    let names: BTreeSet<&ReplicaName> = record.in_sync.iter().map(|member| &member.replica).collect();
    assert_eq!(names.len(), record.in_sync.len(), "a name twice in {record:?}");
    assert!(record.in_sync.contains(&record.primary), "the primary is not in sync in {record:?}");
    assert!(record.min_in_sync >= 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// S1: one grant per epoch, epochs rise by exactly one but for an operator's word, a repeated request gets its first
    /// answer; and no soup of commands bends a record out of shape or lowers its commit.
    #[test]
    fn s1_one_grant_per_epoch(steps in prop::collection::vec(any_step(), 1..120)) {
        let group: GroupName = "g".parse().unwrap();
        let mut registers = Registers::default();
        let mut first_grants: BTreeMap<RequestId, (Proposal, Answer)> = BTreeMap::new();
        for step in steps {
            let before = registers.get(&group).cloned();
            let proposal = proposal_of(&step, before.as_ref());
            let answer = registers.apply(Command { at_ms: 1, proposal: proposal.clone() });
            let after = registers.get(&group).cloned();
            match &answer {
                Answer::Granted(record) if !first_grants.contains_key(&proposal.request) => {
                    assert_shape(record);
                    prop_assert_eq!(after.as_ref(), Some(record));
                    if let Some(before) = before {
                        let by_operator = is_seizure(record)
                            || matches!(record.last_change.change, Change::Adopt { .. });
                        let rise = record.epoch.0 - before.epoch.0;
                        prop_assert!(rise == 1 || by_operator && (1..=MAX_RISE).contains(&rise));
                        prop_assert!(by_operator || record.last_change.commit >= before.last_change.commit);
                    }
                    first_grants.insert(proposal.request, (proposal, answer));
                }
                Answer::Granted(_) => {
                    let (first, given) = &first_grants[&proposal.request];
                    prop_assert_eq!((&first.change, given), (&proposal.change, &answer));
                    prop_assert_eq!(before, after);
                }
                Answer::Refused { .. } => prop_assert_eq!(before, after),
            }
        }
        prop_assert_eq!(Registers::decode(&registers.encode()), Ok(registers.clone()));
        for (first, given) in first_grants.into_values() {
            prop_assert_eq!(registers.apply(Command { at_ms: 2, proposal: first }), given);
        }
    }

    #[test]
    fn garbage_is_neither_command_nor_snapshot_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Command::decode(&bytes);
        let _ = Registers::decode(&bytes);
    }
}

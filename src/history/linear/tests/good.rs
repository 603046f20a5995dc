//! Long histories that are linearisable by the way they were made: each operation takes effect at a moment inside its
//! interval, some answers are withheld, and of those some take effect late or never. The checker must say yes, and
//! quickly; and it must find one wrong answer among thousands.

use proptest::prelude::*;

use super::random::{Kind, Making, made};
use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_takes_effect_inside_its_interval_is_linearisable(
        seed in any::<u64>(),
        clients in 1u64..9,
        unknown in 0u32..15,
        kind in prop_oneof![Just(Kind::Register), Just(Kind::Counter), Just(Kind::Growing), Just(Kind::Queue)],
    ) {
        // What a queue holds depends on everything that was done to it.
        let unknown = if kind == Kind::Queue { unknown / 5 } else { unknown };
        let calls = made(&Making { seed, clients, operations: 300, unknown, kind, unique: seed % 2 == 0 });
        let verdict = check(&calls, BOUND);
        // With answers missing there may be more orders of a queue than anyone can look through; none may be called wrong.
        let many = kind == Kind::Queue && unknown > 0;
        let undecided = matches!(verdict, Verdict::Undecided { .. });
        prop_assert!(verdict == Verdict::Yes || (many && undecided), "{verdict}");
    }
}

#[test]
fn a_hundred_thousand_operations_are_judged_in_a_moment() {
    for (kind, unknown) in [(Kind::Counter, 1), (Kind::Growing, 1), (Kind::Register, 0)] {
        let making = Making { seed: 3, clients: 8, operations: 100_000, unknown, kind, unique: true };
        let calls = made(&making);
        assert_eq!(check(&calls, 0), Verdict::Yes, "{kind:?}");
    }
}

#[test]
fn many_clients_on_one_object() {
    for kind in [Kind::Counter, Kind::Growing] {
        let calls = made(&Making { seed: 5, clients: 200, operations: 4_000, unknown: 2, kind, unique: true });
        assert_eq!(check(&calls, 200_000), Verdict::Yes, "{kind:?}");
    }
    let calls =
        made(&Making { seed: 5, clients: 16, operations: 2_000, unknown: 2, kind: Kind::Register, unique: true });
    assert_eq!(check(&calls, 200_000), Verdict::Yes);
}

#[test]
fn one_wrong_answer_among_thousands_is_found_and_shown_in_few_operations() {
    for kind in [Kind::Counter, Kind::Growing, Kind::Register] {
        let mut calls = made(&Making { seed: 11, clients: 5, operations: 4_000, unknown: 3, kind, unique: true });
        let wrong = calls
            .iter()
            .skip(2_500)
            .position(|call| matches!(call.outcome.answer(), Some(Answer::Count(_) | Answer::Value(_))))
            .expect("such an answer")
            + 2_500;
        if let Outcome::Answered { answer, .. } = &mut calls[wrong].outcome {
            *answer = match answer {
                Answer::Count(count) => Answer::Count(*count / 2),
                _ => Answer::Value(Some(1)),
            };
        }
        let Verdict::No(window) = check(&calls, BOUND) else { panic!("{kind:?}: not found") };
        assert!(window.minimal && window.calls.len() <= 4, "{kind:?}: {window}");
        assert!(window.calls.contains(&calls[wrong]), "{kind:?}: {window}");
    }
}

#[test]
fn the_same_history_gets_the_same_verdict_in_any_order_of_its_lines() {
    let mut calls =
        made(&Making { seed: 2, clients: 4, operations: 200, unknown: 8, kind: Kind::Register, unique: false });
    calls.push(Call {
        client: 9,
        object: Arc::from("x"),
        ask: Ask::Read,
        invoked: Stamp::MAX - 1,
        outcome: Outcome::Answered { at: Stamp::MAX, answer: Answer::Value(Some(99)) },
    });
    let verdict = check(&calls, BOUND);
    assert!(matches!(verdict, Verdict::No(_)));
    assert_eq!(check(&calls, BOUND), verdict);
    calls.reverse();
    let Verdict::No(window) = check(&calls, BOUND) else { panic!("no longer found") };
    assert_eq!(window.calls.len(), 1, "{window}");
}

//! The checker against one that tries every order of every choice of unknown operations.

use proptest::prelude::*;

use super::model::Held;
use super::*;

/// Tries everything: any operation that no other one must precede comes next, and unknown ones may be left out.
fn has_an_order(calls: &[Call], placed: u32, held: &Held) -> bool {
    let open = |number: usize| placed & (1 << number) == 0;
    let left: Vec<usize> = (0..calls.len()).filter(|number| open(*number)).collect();
    if left.iter().all(|number| calls[*number].outcome.at().is_none()) {
        return true;
    }
    left.iter().any(|number| {
        let call = &calls[*number];
        let first = left.iter().all(|other| {
            let other = &calls[*other];
            other.outcome.at().is_none_or(|at| at.max(other.invoked) >= call.invoked)
        });
        let mut then = held.clone();
        let Some(answer) = then.execute(call.ask).filter(|_| first) else { return false };
        call.outcome.answer().is_none_or(|told| *told == answer) && has_an_order(calls, placed | 1 << number, &then)
    })
}

fn brute(calls: &[Call]) -> bool {
    has_an_order(calls, 0, &Held::default())
}

/// The history as if only these answers were known.
fn believing(calls: &[Call], believed: &[Call]) -> Vec<Call> {
    let mut left = believed.to_vec();
    calls
        .iter()
        .map(|call| match left.iter().position(|other| other == call) {
            Some(place) => left.swap_remove(place),
            None => Call { outcome: Outcome::Unknown, ..call.clone() },
        })
        .collect()
}

fn register() -> BoxedStrategy<Ask> {
    let value = 0i64..3;
    let compared = (prop::option::of(value.clone()), value.clone());
    prop_oneof![
        2 => Just(Ask::Read),
        2 => value.prop_map(Ask::Write),
        2 => compared.prop_map(|(expected, new)| Ask::CompareAndSet { expected, new }),
        1 => Just(Ask::Remove),
    ]
    .boxed()
}

fn counter() -> BoxedStrategy<Ask> {
    prop_oneof![3 => (1i64..3).prop_map(Ask::Add), 2 => Just(Ask::Total)].boxed()
}

fn growing() -> BoxedStrategy<Ask> {
    prop_oneof![4 => (0i64..3).prop_map(Ask::Append), 2 => Just(Ask::ReadAll), 1 => Just(Ask::Length), 1 => Just(Ask::Last)]
        .boxed()
}

fn queue() -> BoxedStrategy<Ask> {
    prop_oneof![4 => growing(), 1 => (0i64..3).prop_map(Ask::Prepend), 1 => Just(Ask::PopFirst), 1 => Just(Ask::PopLast)]
        .boxed()
}

/// Mostly of one kind of object, so that the answers have a chance.
fn asks(most: usize) -> impl Strategy<Value = Vec<Ask>> {
    let of = |ask: BoxedStrategy<Ask>| prop::collection::vec(ask, 1..most);
    prop_oneof![
        3 => of(register()),
        2 => of(counter()),
        1 => of(prop_oneof![counter(), register()].boxed()),
        2 => of(queue()),
        2 => of(growing()),
        1 => of(prop_oneof![register(), counter(), queue()].boxed()),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Timing {
    from: Stamp,
    length: Stamp,
    /// How it ends: the lower, the sooner it is unknown.
    end: u8,
    /// Executes at all if its outcome is unknown.
    takes_effect: bool,
}

fn timing() -> impl Strategy<Value = Timing> {
    (0u64..24, 0u64..8, 0u8..10, any::<bool>()).prop_map(|(from, length, end, takes_effect)| Timing {
        from,
        length,
        end,
        takes_effect,
    })
}

/// Executes the asks in the order of their beginnings or, where they overlap, not quite; and tells what came of it.
/// Of ten outcomes about `unknown` are unknown.
fn history(asks: &[Ask], timings: &[Timing], unknown: u8) -> Vec<Call> {
    let mut order: Vec<usize> = (0..asks.len()).collect();
    order.sort_by_key(|number| (timings[*number].from + timings[*number].length / 2, *number));
    let mut held = Held::default();
    let mut calls = Vec::new();
    for number in order {
        let Timing { from, length, end, takes_effect } = timings[number];
        let unheard = end < unknown;
        let executed = if unheard && !takes_effect { None } else { held.execute(asks[number]) };
        let at = from + length;
        let outcome = match executed {
            None if unheard => Outcome::Unknown,
            None => continue,
            Some(answer) => match end {
                _ if unheard => Outcome::Unknown,
                9 => Outcome::Executed { at },
                _ => Outcome::Answered { at, answer },
            },
        };
        calls.push(Call { client: number as u64, object: Arc::from("x"), ask: asks[number], invoked: from, outcome });
    }
    calls
}

/// Another answer than the one that was told.
fn mutated(mut calls: Vec<Call>, which: prop::sample::Index, how: u8) -> Vec<Call> {
    if calls.is_empty() {
        return calls;
    }
    let at = which.index(calls.len());
    if let Outcome::Answered { answer, .. } = &mut calls[at].outcome {
        match answer {
            Answer::Count(count) => *count += if how.is_multiple_of(2) { 1 } else { -1 },
            Answer::Swapped(held) => *held = !*held,
            Answer::Value(value) => *value = if how.is_multiple_of(2) { Some(i64::from(how % 3)) } else { None },
            Answer::Elements(elements) if how.is_multiple_of(3) || elements.is_empty() => elements.push(1),
            Answer::Elements(elements) if how % 3 == 1 => elements.reverse(),
            Answer::Elements(elements) => drop(elements.pop()),
            Answer::Done => {}
        }
    }
    calls
}

/// The two agree; and what the window shows is offending and minimal, by the other checker's word.
fn judge(calls: &[Call]) -> Result<bool, TestCaseError> {
    let expected = brute(calls);
    match check(calls, BOUND) {
        Verdict::Yes => prop_assert!(expected, "yes, and there is no order"),
        Verdict::No(window) => {
            prop_assert!(!expected, "no, and there is an order");
            prop_assert!(window.minimal);
            let only = believing(calls, &window.calls);
            prop_assert!(!brute(&only), "these answers are possible: {window}");
            for number in 0..window.calls.len() {
                let mut fewer = window.calls.clone();
                fewer.remove(number);
                prop_assert!(brute(&believing(calls, &fewer)), "{number} is not needed: {window}");
            }
        }
        Verdict::Undecided { .. } => prop_assert!(false, "undecided"),
    }
    Ok(expected)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn true_histories_are_linearisable(asks in asks(8), timings in prop::collection::vec(timing(), 8), unknown in 0u8..7) {
        let calls = history(&asks, &timings, unknown);
        prop_assert!(judge(&calls)?);
    }

    #[test]
    fn the_two_agree_on_histories_with_one_wrong_answer(
        asks in asks(8),
        timings in prop::collection::vec(timing(), 8),
        unknown in 0u8..7,
        which in any::<prop::sample::Index>(),
        how in any::<u8>(),
    ) {
        judge(&mutated(history(&asks, &timings, unknown), which, how))?;
    }

    #[test]
    fn the_two_agree_on_histories_made_of_nothing(
        asks in asks(7),
        timings in prop::collection::vec(timing(), 8),
        unknown in 0u8..7,
        shuffled in prop::collection::vec(any::<u8>(), 8),
    ) {
        // The answers of one execution, at the times of another.
        let mut calls = history(&asks, &timings, unknown);
        for (call, shift) in calls.iter_mut().zip(shuffled) {
            let moved = u64::from(shift % 12);
            call.invoked = (call.invoked + moved) % 20;
            if let Outcome::Answered { at, .. } | Outcome::Executed { at } = &mut call.outcome {
                *at = call.invoked + u64::from(shift / 12) % 8;
            }
        }
        judge(&calls)?;
    }
}

/// The comparison above means something only if both verdicts are common.
#[test]
fn the_comparison_sees_both_verdicts() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut counts = [0; 2];
    for _ in 0..500 {
        let asks = asks(8).new_tree(&mut runner).expect("a value").current();
        let timings = prop::collection::vec(timing(), 8).new_tree(&mut runner).expect("a value").current();
        let which = any::<prop::sample::Index>().new_tree(&mut runner).expect("a value").current();
        let calls = mutated(history(&asks, &timings, 1), which, asks.len() as u8);
        counts[usize::from(brute(&calls))] += 1;
    }
    assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
}

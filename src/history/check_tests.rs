//! Known good histories must pass, and each kind of violation, planted alone, must be found and named.

use proptest::prelude::*;

use super::*;

/// One operation after the other, ten nanoseconds each, unless told otherwise.
struct Script {
    history: History,
    now: Stamp,
}

impl Script {
    fn new() -> Self {
        Self { history: History::new("x"), now: 0 }
    }

    fn at(mut self, now: Stamp) -> Self {
        self.now = now;
        self
    }

    fn done(mut self, action: Action, seen: u32) -> Self {
        let (invoked, at) = (self.now, self.now + 5);
        self.now += 10;
        self.history.operations.push(Operation { client: 0, action, invoked, ending: Ending::Answered { at, seen } });
        self
    }

    fn unknown(mut self, action: Action) -> Self {
        self.history.operations.push(Operation { client: 1, action, invoked: self.now, ending: Ending::Unknown });
        self.now += 10;
        self
    }

    fn counter(&self, value: u64) -> Verdict {
        check(&self.history, &ReadBack::Counter(value))
    }

    fn list(&self, elements: &[Element]) -> Verdict {
        check(&self.history, &ReadBack::List(elements.iter().copied().map(Some).collect()))
    }
}

use Action::{Append, Increment, Look, LookAtEnd};

fn counts(verdict: &Verdict) -> [u64; 5] {
    [verdict.lost, verdict.duplicated, verdict.reordered, verdict.stale, verdict.phantom]
}

const CLEAN: [u64; 5] = [0; 5];

#[test]
fn a_counter_that_counts_is_clean() {
    let script = Script::new().done(Increment, 1).done(Look, 1).done(Increment, 2).done(Increment, 3);
    let verdict = script.counter(3);
    assert_eq!(counts(&verdict), CLEAN, "{:?}", verdict.offences);
    assert_eq!((verdict.acked, verdict.unknown, verdict.reads), (3, 0, 1));
    assert!(verdict.is_clean());
}

#[test]
fn an_unknown_increment_may_count_now_or_later_or_never() {
    let with_it = Script::new().done(Increment, 1).unknown(Increment).done(Increment, 3);
    assert!(with_it.counter(3).is_clean());
    let without_it = Script::new().done(Increment, 1).unknown(Increment).done(Increment, 2);
    assert!(without_it.counter(2).is_clean());
    assert!(without_it.counter(3).is_clean(), "it may still be executed after everything else");
    assert_eq!(without_it.unknown_count(), 1);
}

impl Script {
    fn unknown_count(&self) -> u64 {
        self.history.unknown()
    }
}

#[test]
fn a_counter_that_fell_back_lost_something() {
    let seen_at_once = Script::new().done(Increment, 1).done(Increment, 2).done(Increment, 2).counter(2);
    assert_eq!(counts(&seen_at_once), [1, 0, 0, 0, 0]);
    let seen_in_the_end = Script::new().done(Increment, 1).done(Increment, 2).counter(1);
    assert_eq!(counts(&seen_in_the_end), [1, 0, 0, 0, 0]);
    let shown_to_a_reader = Script::new().unknown(Increment).done(Look, 1).counter(0);
    assert_eq!(counts(&shown_to_a_reader), [1, 0, 0, 0, 0]);
}

#[test]
fn a_loss_does_not_hide_behind_an_unknown_increment() {
    let script = Script::new().unknown(Increment).done(Increment, 2).done(Increment, 3).done(Increment, 3);
    assert_eq!(counts(&script.counter(3)), [1, 0, 0, 0, 0]);
}

#[test]
fn an_increment_executed_twice_is_duplicated() {
    let seen_at_once = Script::new().done(Increment, 1).done(Increment, 3).counter(3);
    assert_eq!(counts(&seen_at_once), [0, 1, 0, 0, 0]);
    let seen_in_the_end = Script::new().done(Increment, 1).unknown(Increment).counter(3);
    assert_eq!(counts(&seen_in_the_end), [0, 1, 0, 0, 0]);
}

#[test]
fn an_unknown_increment_cannot_have_counted_before_it_was_asked_for() {
    let script = Script::new().done(Increment, 2).unknown(Increment);
    assert_eq!(counts(&script.counter(2)), [0, 1, 0, 0, 0]);
}

#[test]
fn answers_out_of_order_are_reordered() {
    // The unknown one makes all three values possible, but 3 was told before the one told 2 began.
    let script = Script::new().unknown(Increment).done(Increment, 3).done(Increment, 2);
    assert_eq!(script.counter(3).reordered, 0, "3 of 2 asked for: that is a duplicate");
    let script = Script::new().unknown(Increment).unknown(Increment).done(Increment, 3).done(Increment, 2);
    assert_eq!(counts(&script.counter(3)), [0, 0, 1, 0, 0]);
}

#[test]
fn a_read_that_missed_what_was_known_is_stale() {
    let script = Script::new().done(Increment, 1).done(Increment, 2).done(Look, 1);
    assert_eq!(counts(&script.counter(2)), [0, 0, 0, 1, 0]);
    let backwards = Script::new().unknown(Increment).done(Look, 1).done(Look, 0);
    assert_eq!(counts(&backwards.counter(1)), [0, 0, 0, 1, 0]);
}

#[test]
fn overlapping_operations_may_be_ordered_either_way() {
    let script = Script::new().done(Increment, 2).at(3).done(Increment, 1).at(4).done(Look, 0);
    assert!(script.counter(2).is_clean());
}

#[test]
fn a_list_in_order_is_clean() {
    let script = Script::new()
        .done(Append(10), 1)
        .unknown(Append(11))
        .unknown(Append(12))
        .done(Append(13), 3)
        .done(LookAtEnd, 13)
        .done(Look, 3);
    assert!(script.list(&[10, 12, 13]).is_clean());
    assert!(script.list(&[10, 11, 13, 12]).is_clean(), "an unknown append may come late");
}

#[test]
fn a_missing_element_is_lost_and_what_moved_up_is_not_reordered() {
    let script = Script::new().done(Append(1), 1).done(Append(2), 2).done(Append(3), 3);
    let verdict = script.list(&[1, 3]);
    assert_eq!(counts(&verdict), [1, 0, 0, 0, 0]);
    assert_eq!(verdict.offences[0].to_string(), "lost: x: element 2 was acknowledged and is not there");
}

#[test]
fn what_a_reader_saw_must_stay() {
    let script = Script::new().unknown(Append(1)).done(LookAtEnd, 1);
    assert_eq!(counts(&script.list(&[])), [1, 0, 0, 0, 0]);
    let script = Script::new().unknown(Append(1)).done(Look, 1);
    assert_eq!(counts(&script.list(&[])), [1, 0, 0, 0, 0]);
}

#[test]
fn an_element_that_stands_twice_is_duplicated() {
    let script = Script::new().done(Append(1), 1).unknown(Append(2)).done(Append(3), 3);
    assert_eq!(counts(&script.list(&[1, 2, 3, 2])), [0, 1, 0, 0, 0]);
    assert_eq!(counts(&script.list(&[1, 1, 3])), [0, 1, 0, 0, 0]);
}

#[test]
fn elements_out_of_order_are_reordered() {
    let script = Script::new().done(Append(1), 1).done(Append(2), 2);
    assert_eq!(script.list(&[2, 1]).reordered, 2, "each stands where the other was said to stand");
    let unknown_ahead = Script::new().done(Append(1), 1).unknown(Append(2));
    assert_eq!(counts(&unknown_ahead.list(&[2, 1])), [0, 0, 2, 0, 0]);
}

#[test]
fn an_element_that_does_not_stand_where_its_answer_said_is_reordered() {
    // Both overlap, so real time allows either order; the answers do not.
    let script = Script::new().done(Append(1), 1).at(2).done(Append(2), 2);
    assert!(script.list(&[1, 2]).is_clean());
    assert_eq!(counts(&script.list(&[2, 1])), [0, 0, 2, 0, 0]);
}

#[test]
fn a_stale_look_at_a_list_is_found_by_length_and_by_element() {
    let script = Script::new().done(Append(1), 1).done(Append(2), 2);
    assert_eq!(counts(&script.list(&[1, 2])), CLEAN);
    let by_length = Script::new().done(Append(1), 1).done(Append(2), 2).done(Look, 1);
    assert_eq!(counts(&by_length.list(&[1, 2])), [0, 0, 0, 1, 0]);
    let by_element = Script::new().done(Append(1), 1).done(Append(2), 2).done(LookAtEnd, 1);
    assert_eq!(counts(&by_element.list(&[1, 2])), [0, 0, 0, 1, 0]);
}

#[test]
fn what_nobody_wrote_is_a_phantom() {
    let script = Script::new().done(Append(1), 1);
    assert_eq!(script.list(&[1, 9]).phantom, 1);
    assert_eq!(check(&script.history, &ReadBack::List(vec![Some(1), None])).phantom, 1);
    assert_eq!(Script::new().done(Append(1), 1).done(LookAtEnd, 7).list(&[1]).phantom, 1);
    assert_eq!(Script::new().done(Look, 1).unknown(Append(1)).list(&[1]).phantom, 1);
}

#[test]
fn verdicts_add_up_and_name_only_so_many() {
    let mut sum = Verdict::default();
    for _ in 0..NAMED + 5 {
        sum.add(Script::new().done(Append(1), 1).list(&[]));
    }
    assert_eq!((sum.lost, sum.acked, sum.offences.len()), (NAMED as u64 + 5, NAMED as u64 + 5, NAMED));
}

/// What a correct object answers to concurrent clients: every operation takes effect at a point inside its interval,
/// and some answers are withheld.
fn executed(plan: &[(u8, u8, u8, bool)], list: bool) -> (History, ReadBack) {
    let mut order: Vec<(Stamp, usize)> =
        plan.iter().enumerate().map(|(n, (before, ..))| (n as u64 * 20 + u64::from(*before), n)).collect();
    order.sort_unstable();
    let mut history = History::new("p");
    let mut elements = Vec::new();
    for (effect, n) in order {
        let (before, after, what, told) = plan[n];
        let action = match what % 4 {
            0 | 1 if list => Append(n as Element),
            0 | 1 => Increment,
            2 if list && !elements.is_empty() => LookAtEnd,
            _ => Look,
        };
        if action.adds() {
            elements.push(Some(n as Element));
        }
        let seen = match action {
            LookAtEnd => elements.last().copied().flatten().unwrap_or(0),
            _ => elements.len() as u32,
        };
        let ending = if told { Ending::Answered { at: effect + u64::from(after), seen } } else { Ending::Unknown };
        history.operations.push(Operation { client: 0, action, invoked: effect - u64::from(before), ending });
    }
    let read_back = if list { ReadBack::List(elements) } else { ReadBack::Counter(elements.len() as u64) };
    (history, read_back)
}

proptest! {
    #[test]
    fn what_a_correct_object_answers_is_clean(
        plan in prop::collection::vec((0u8..90, 0u8..90, any::<u8>(), prop::bool::weighted(0.9)), 0..120),
        list in any::<bool>(),
    ) {
        let (history, read_back) = executed(&plan, list);
        let verdict = check(&history, &read_back);
        prop_assert!(verdict.is_clean(), "{:?}", verdict.offences);
    }

    #[test]
    fn one_acknowledged_element_taken_away_is_always_lost(
        plan in prop::collection::vec((0u8..90, 0u8..90, any::<u8>(), prop::bool::weighted(0.9)), 1..60),
        which in any::<prop::sample::Index>(),
    ) {
        let (history, read_back) = executed(&plan, true);
        let ReadBack::List(mut elements) = read_back else { unreachable!() };
        let acknowledged: Vec<Element> = history.operations.iter().filter_map(|operation| match operation {
            Operation { action: Append(element), ending: Ending::Answered { .. }, .. } => Some(*element),
            _ => None,
        }).collect();
        prop_assume!(!acknowledged.is_empty());
        let gone = acknowledged[which.index(acknowledged.len())];
        elements.retain(|element| *element != Some(gone));
        prop_assert!(check(&history, &ReadBack::List(elements)).lost >= 1);
    }
}

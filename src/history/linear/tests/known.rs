//! Histories written down by hand, each with the verdict that a person can see.

use super::*;
use Answer::{Count, Done, Elements, Swapped, Value};
use Ask::{Add, Append, Last, Length, PopFirst, PopLast, Prepend, Read, ReadAll, Remove, Total, Write};

fn cas(expected: i64, new: i64) -> Ask {
    Ask::CompareAndSet { expected: Some(expected), new }
}

fn create(new: i64) -> Ask {
    Ask::CompareAndSet { expected: None, new }
}

#[test]
fn nothing_at_all_is_linearisable() {
    assert!(Script::new().is_linearisable());
    assert!(Script::new().unknown(1, 0, Write(1)).is_linearisable());
}

#[test]
fn one_after_the_other() {
    let good = Script::new()
        .told(1, 0, 1, Read, Value(None))
        .told(1, 2, 3, Write(5), Done)
        .told(2, 4, 5, Read, Value(Some(5)))
        .told(2, 6, 7, cas(5, 6), Swapped(true))
        .told(1, 8, 9, cas(5, 7), Swapped(false))
        .told(1, 10, 11, Read, Value(Some(6)))
        .told(1, 12, 13, Remove, Count(1))
        .told(1, 14, 15, Remove, Count(0))
        .told(1, 16, 17, Read, Value(None));
    assert!(good.is_linearisable());
}

#[test]
fn a_stale_read_is_not() {
    let bad = Script::new().told(1, 0, 10, Write(1), Done).told(2, 20, 30, Write(2), Done).told(
        3,
        40,
        50,
        Read,
        Value(Some(1)),
    );
    assert_eq!(bad.offenders(), [1, 2, 3], "without either write's answer the read could be explained");
    let overlapping = Script::new().told(1, 0, 10, Write(1), Done).told(2, 20, 30, Write(2), Done).told(
        3,
        25,
        50,
        Read,
        Value(Some(1)),
    );
    assert!(overlapping.is_linearisable());
}

#[test]
fn two_readers_that_see_two_writes_in_different_orders_are_not() {
    let bad = Script::new()
        .told(1, 0, 100, Write(1), Done)
        .told(2, 0, 100, Write(2), Done)
        .told(3, 10, 20, Read, Value(Some(1)))
        .told(3, 30, 40, Read, Value(Some(2)))
        .told(4, 50, 60, Read, Value(Some(1)));
    assert_eq!(bad.offenders(), [3, 3, 4], "each was written once, whenever that was");
}

#[test]
fn a_read_that_went_back_within_one_client_is_not() {
    let bad = Script::new()
        .told(1, 0, 10, Write(1), Done)
        .told(2, 20, 100, Write(2), Done)
        .told(3, 30, 40, Read, Value(Some(2)))
        .told(3, 50, 60, Read, Value(Some(1)));
    assert!(!bad.is_linearisable());
}

#[test]
fn a_read_of_what_was_never_written_is_not() {
    let bad = Script::new().told(1, 0, 10, Write(1), Done).told(2, 5, 20, Read, Value(Some(9))).told(
        3,
        30,
        40,
        Read,
        Value(Some(1)),
    );
    assert_eq!(bad.offenders(), [2], "alone impossible, whatever the others did");
}

#[test]
fn a_read_from_the_future_is_not() {
    let bad = Script::new().told(2, 0, 10, Read, Value(Some(1))).told(1, 20, 30, Write(1), Done);
    assert_eq!(bad.offenders(), [2]);
}

#[test]
fn a_lost_update_is_not() {
    let bad = Script::new().told(1, 0, 10, Add(1), Count(1)).told(2, 20, 30, Add(1), Count(2)).told(
        1,
        40,
        50,
        Add(1),
        Count(2),
    );
    assert_eq!(bad.offenders(), [2, 1]);
    let gone = Script::new().told(1, 0, 10, Write(7), Done).told(2, 20, 30, Read, Value(None));
    assert_eq!(gone.offenders(), [1, 2]);
}

#[test]
fn one_comparison_that_succeeds_for_two_is_not() {
    let bad = Script::new().told(1, 0, 10, Write(0), Done).told(2, 20, 40, cas(0, 1), Swapped(true)).told(
        3,
        20,
        40,
        cas(0, 2),
        Swapped(true),
    );
    assert_eq!(bad.offenders(), [2, 3]);
    let good = Script::new().told(1, 0, 10, Write(0), Done).told(2, 20, 40, cas(0, 1), Swapped(true)).told(
        3,
        20,
        40,
        cas(0, 2),
        Swapped(false),
    );
    assert!(good.is_linearisable());
    let twice_created =
        Script::new().told(1, 0, 10, create(1), Swapped(true)).told(2, 20, 30, create(2), Swapped(true));
    assert_eq!(twice_created.offenders(), [1, 2]);
}

#[test]
fn a_comparison_that_failed_without_a_reason_is_not() {
    let bad = Script::new().told(1, 0, 10, Write(3), Done).told(2, 20, 30, cas(3, 4), Swapped(false));
    assert_eq!(bad.offenders(), [1, 2]);
    let unseen =
        Script::new().told(1, 0, 10, Write(3), Done).unknown(3, 0, Write(8)).told(2, 20, 30, cas(3, 4), Swapped(false));
    assert!(unseen.is_linearisable(), "the unknown write was there by then");
}

#[test]
fn an_unknown_write_may_take_effect_late() {
    let late = Script::new()
        .unknown(1, 0, Write(9))
        .told(2, 10, 20, Write(1), Done)
        .told(2, 30, 40, Read, Value(Some(1)))
        .told(2, 1_000_000, 1_000_001, Read, Value(Some(9)));
    assert!(late.is_linearisable());
    let twice = Script::new()
        .unknown(1, 0, Write(9))
        .told(2, 10, 20, Read, Value(Some(9)))
        .told(2, 30, 40, Write(1), Done)
        .told(2, 50, 60, Read, Value(Some(9)));
    assert!(!twice.is_linearisable(), "but once only");
}

#[test]
fn an_unknown_write_may_never_take_effect() {
    let never = Script::new()
        .unknown(1, 0, Write(9))
        .unknown(1, 5, Add(3))
        .unknown(1, 6, Remove)
        .told(2, 10, 20, Write(1), Done)
        .told(2, 30, 40, Read, Value(Some(1)))
        .told(3, 50, 60, Add(1), Count(2));
    assert!(never.is_linearisable());
}

#[test]
fn an_unknown_write_cannot_take_effect_before_it_began() {
    let bad = Script::new().told(2, 0, 10, Read, Value(Some(9))).unknown(1, 20, Write(9));
    assert!(!bad.is_linearisable());
}

#[test]
fn an_unknown_comparison_takes_effect_only_where_it_holds() {
    let good =
        Script::new().unknown(1, 0, cas(1, 2)).told(2, 10, 20, Write(1), Done).told(2, 30, 40, Read, Value(Some(2)));
    assert!(good.is_linearisable());
    let bad =
        Script::new().unknown(1, 0, cas(7, 2)).told(2, 10, 20, Write(1), Done).told(2, 30, 40, Read, Value(Some(2)));
    assert!(!bad.is_linearisable());
}

#[test]
fn a_double_increment_is_not() {
    let bad = Script::new().told(1, 0, 10, Add(1), Count(1)).told(1, 20, 30, Add(1), Count(3));
    assert_eq!(bad.offenders(), [1], "two were asked for in all");
    let good = Script::new().told(1, 0, 10, Add(1), Count(1)).unknown(2, 5, Add(1)).told(1, 20, 30, Add(1), Count(3));
    assert!(good.is_linearisable());
}

#[test]
fn two_increments_with_one_answer_are_not() {
    let bad = Script::new().told(1, 0, 10, Add(1), Count(1)).told(2, 5, 12, Add(1), Count(1));
    assert_eq!(bad.offenders(), [1, 2]);
}

#[test]
fn a_counter_read_too_low_is_not() {
    let bad = Script::new().told(1, 0, 10, Add(5), Count(5)).told(2, 20, 30, Add(5), Count(10)).told(
        3,
        40,
        50,
        Total,
        Count(5),
    );
    assert_eq!(bad.offenders(), [2, 3], "the earlier increment is not needed to see it");
}

#[test]
fn what_was_executed_with_an_unknown_answer_must_show() {
    let executed = |at| Outcome::Executed { at };
    let good = Script::new().call(1, 0, Add(1), executed(10)).told(2, 20, 30, Total, Count(1));
    assert!(good.is_linearisable());
    let bad = Script::new().call(1, 0, Add(1), executed(10)).told(2, 20, 30, Total, Count(0));
    assert_eq!(bad.offenders(), [1, 2]);
}

#[test]
fn a_list_in_order_is_linearisable() {
    let good = Script::new()
        .told(1, 0, 10, Append(1), Count(1))
        .told(2, 5, 20, Append(2), Count(2))
        .told(3, 25, 30, ReadAll, Elements(vec![1, 2]))
        .told(3, 35, 40, Last, Value(Some(2)))
        .told(1, 45, 50, Prepend(0), Count(3))
        .told(1, 55, 60, PopFirst, Value(Some(0)))
        .told(1, 65, 70, PopLast, Value(Some(2)))
        .told(1, 75, 80, PopLast, Value(Some(1)))
        .told(1, 85, 90, PopLast, Value(None))
        .told(1, 95, 99, ReadAll, Elements(vec![]))
        .told(1, 100, 101, Length, Count(0));
    assert!(good.is_linearisable());
}

#[test]
fn reordered_appends_are_not() {
    let bad = Script::new().told(1, 0, 10, Append(1), Count(1)).told(2, 20, 30, Append(2), Count(2)).told(
        3,
        40,
        50,
        ReadAll,
        Elements(vec![2, 1]),
    );
    assert_eq!(bad.offenders(), [2, 3], "the second stood second");
    let overlapping = Script::new().told(1, 0, 25, Append(1), Count(2)).told(2, 20, 30, Append(2), Count(1)).told(
        3,
        40,
        50,
        ReadAll,
        Elements(vec![2, 1]),
    );
    assert!(overlapping.is_linearisable());
}

#[test]
fn a_duplicated_append_is_not() {
    let bad = Script::new().told(1, 0, 10, Append(1), Count(1)).told(2, 20, 30, ReadAll, Elements(vec![1, 1]));
    assert_eq!(bad.offenders(), [2]);
    let asked_twice = Script::new().told(1, 0, 10, Append(1), Count(1)).unknown(1, 5, Append(1)).told(
        2,
        20,
        30,
        ReadAll,
        Elements(vec![1, 1]),
    );
    assert!(asked_twice.is_linearisable());
}

#[test]
fn a_lost_append_is_not() {
    let bad = Script::new()
        .told(1, 0, 10, Append(1), Count(1))
        .told(1, 20, 30, Append(2), Count(2))
        .told(1, 40, 50, Append(3), Count(3))
        .told(2, 60, 70, ReadAll, Elements(vec![1, 3]));
    // By its own word the third stands third, and the list has two elements.
    assert_eq!(bad.offenders(), [1, 2]);
}

#[test]
fn unknown_appends_fill_gaps_and_nothing_else() {
    let good = Script::new()
        .unknown(1, 0, Append(1))
        .unknown(2, 0, Append(2))
        .unknown(3, 0, Append(3))
        .told(4, 10, 20, Append(4), Count(3))
        .told(4, 30, 40, ReadAll, Elements(vec![3, 1, 4]))
        .told(4, 50, 60, ReadAll, Elements(vec![3, 1, 4, 2]));
    assert!(good.is_linearisable());
    let bad = Script::new().unknown(1, 0, Append(1)).told(4, 10, 20, Append(4), Count(1)).told(
        4,
        30,
        40,
        ReadAll,
        Elements(vec![1, 4]),
    );
    assert_eq!(bad.offenders(), [4, 4]);
}

#[test]
fn an_element_taken_by_two_is_not() {
    let bad = Script::new().told(1, 0, 10, Append(1), Count(1)).told(2, 20, 40, PopFirst, Value(Some(1))).told(
        3,
        20,
        40,
        PopLast,
        Value(Some(1)),
    );
    assert_eq!(bad.offenders(), [2, 3]);
    let nothing_there = Script::new().told(1, 0, 10, Append(1), Count(1)).told(2, 20, 40, PopFirst, Value(None));
    assert_eq!(nothing_there.offenders(), [1, 2]);
    let taken_by_an_unknown = Script::new().told(1, 0, 10, Append(1), Count(1)).unknown(3, 0, PopFirst).told(
        2,
        20,
        40,
        PopFirst,
        Value(None),
    );
    assert!(taken_by_an_unknown.is_linearisable());
}

#[test]
fn a_queue_out_of_order_is_not() {
    let bad = Script::new()
        .told(1, 0, 10, Append(1), Count(1))
        .told(1, 20, 30, Append(2), Count(2))
        .told(2, 40, 50, PopFirst, Value(Some(2)))
        .told(2, 60, 70, PopFirst, Value(Some(1)));
    assert!(!bad.is_linearisable());
}

#[test]
fn a_write_before_the_answer_and_after_it_is_told_apart_by_one_unit() {
    let touching = Script::new().told(1, 0, 10, Write(1), Done).told(2, 10, 20, Read, Value(None));
    assert!(touching.is_linearisable(), "what begins as another ends overlaps it");
    let apart = Script::new().told(1, 0, 10, Write(1), Done).told(2, 11, 20, Read, Value(None));
    assert!(!apart.is_linearisable());
}

#[test]
fn an_answer_of_the_wrong_kind_is_not() {
    for (ask, answer) in [(Read, Done), (Write(1), Count(1)), (Append(1), Done), (ReadAll, Count(0)), (Add(1), Done)] {
        assert!(!Script::new().told(1, 0, 1, ask, answer).is_linearisable(), "{ask:?}");
    }
    let mixed = Script::new().told(1, 0, 10, Append(1), Count(1)).told(1, 20, 30, Add(1), Count(1));
    assert!(!mixed.is_linearisable());
}

#[test]
fn an_answer_before_its_question_is_taken_as_at_once() {
    assert!(Script::new().told(1, 10, 5, Write(1), Done).told(1, 20, 21, Read, Value(Some(1))).is_linearisable());
}

#[test]
fn objects_are_judged_one_by_one_and_the_first_offence_is_shown() {
    let on = |object: &str, script: Script| {
        script.calls.into_iter().map(|call| Call { object: Arc::from(object), ..call }).collect::<Vec<_>>()
    };
    let good = on("a", Script::new().told(1, 0, 10, Write(1), Done).told(1, 20, 30, Read, Value(Some(1))));
    let late = on("b", Script::new().told(2, 100, 110, Read, Value(Some(1))));
    let early = on("c", Script::new().told(3, 40, 50, Add(1), Count(2)));
    assert_eq!(check(&good, BOUND), Verdict::Yes);
    let Verdict::No(window) = check(&[good, late, early].concat(), BOUND) else { panic!("two offend") };
    assert_eq!((&*window.object, window.from, window.until, window.others), ("c", 40, 50, 0));
    let told = Verdict::No(window).to_string();
    assert_eq!(
        told,
        "no: c: the answers of 1 operations between 40 and 50 fit into no order, whatever became of 0 others\n  \
         client 3: c: Add(1), asked at 40, answered Count(2) at 50"
    );
}

#[test]
fn the_bound_is_kept_and_named() {
    let mut script = Script::new();
    for client in 0..14 {
        script = script.told(client, 0, 1000 + client, Write(client as i64), Done);
    }
    // Nobody wrote it; without a bound, every order of fourteen writes is tried before that is known.
    let calls = script.told(99, 2000, 2001, cas(77, 78), Swapped(true)).calls;
    let verdict = check(&calls, 100);
    assert_eq!(verdict, Verdict::Undecided { object: Arc::from("x"), bound: 100 });
    assert_eq!(verdict.to_string(), "undecided: x: no answer within 100 remembered configurations");
    assert!(matches!(check(&calls, BOUND), Verdict::No(_)));
}

#[test]
fn an_offence_beside_an_undecided_object_is_an_offence() {
    let mut script = Script::new();
    for client in 0..14 {
        script = script.told(client, 0, 1000 + client, Write(client as i64), Done);
    }
    let mut calls = script.told(99, 2000, 2001, cas(77, 78), Swapped(true)).calls;
    calls.push(Call {
        client: 7,
        object: Arc::from("y"),
        ask: Add(1),
        invoked: 0,
        outcome: Outcome::Answered { at: 1, answer: Count(2) },
    });
    assert!(matches!(check(&calls, 100), Verdict::No(window) if &*window.object == "y"));
}

//! Judges a recorded history against what stands there in the end.
//!
//! What must hold of an object that only grows and names the place of every addition (after Elle's list-append,
//! Kingsbury and Alvaro, VLDB 2020, section 3: recoverability makes anomalies visible one by one):
//!
//! - an answered addition is there in the end (*lost* otherwise), once (*duplicated* otherwise), and where its answer
//!   said; one that began after another was answered stands behind it (*reordered* otherwise);
//! - an unknown addition is there at most once, not ahead of what was answered before it began;
//! - a read sees at least what any client was shown before it began (*stale* otherwise), nothing that nobody had
//!   asked for by then (*phantom* otherwise), and what it saw stays (*lost* otherwise).
//!
//! One cause is counted once: where something was lost, the places behind it are not reordered as well. Each check
//! is a sort and a sweep, so a run of millions of operations is judged in about a second.
//!
//! Deliberately not here: a search for an order in which every answer holds; that is [`super::linear`]. These checks say
//! *what* went wrong and how often, and cannot be undecided.

use std::collections::BTreeMap;

use super::{Action, Element, Ending, History, Operation, ReadBack, Stamp};

/// Offences named one by one in a verdict; the rest is only counted.
pub const NAMED: usize = 40;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Something acknowledged, or shown to a reader, is not there.
    Lost,
    /// Something is there more often than it was asked for.
    Duplicated,
    /// Two things are not in the order in which they were done.
    Reordered,
    /// A read did not see what was known before it began.
    Stale,
    /// Something is there, or was seen, that nobody asked for.
    Phantom,
}

impl Kind {
    /// As a report spells it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Lost => "lost",
            Kind::Duplicated => "duplicated",
            Kind::Reordered => "reordered",
            Kind::Stale => "stale",
            Kind::Phantom => "phantom",
        }
    }
}

/// One violation, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offence {
    /// Which kind.
    pub kind: Kind,
    /// Of which object.
    pub object: String,
    /// What was found.
    pub what: String,
}

impl std::fmt::Display for Offence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.kind.name(), self.object, self.what)
    }
}

/// What the checks found; verdicts of several objects add up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Additions that were answered.
    pub acked: u64,
    /// Additions of which nobody knows.
    pub unknown: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// See [`Kind::Lost`].
    pub lost: u64,
    /// See [`Kind::Duplicated`].
    pub duplicated: u64,
    /// See [`Kind::Reordered`].
    pub reordered: u64,
    /// See [`Kind::Stale`].
    pub stale: u64,
    /// See [`Kind::Phantom`].
    pub phantom: u64,
    /// The first offences, by name; at most [`NAMED`].
    pub offences: Vec<Offence>,
}

impl Verdict {
    /// True when nothing is wrong.
    pub fn is_clean(&self) -> bool {
        [self.lost, self.duplicated, self.reordered, self.stale, self.phantom].iter().all(|count| *count == 0)
    }

    /// Adds another object's verdict.
    pub fn add(&mut self, other: Verdict) {
        self.acked += other.acked;
        self.unknown += other.unknown;
        self.reads += other.reads;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.stale += other.stale;
        self.phantom += other.phantom;
        let room = NAMED.saturating_sub(self.offences.len());
        self.offences.extend(other.offences.into_iter().take(room));
    }

    fn blame(&mut self, kind: Kind, count: u64, object: &str, what: impl FnOnce() -> String) {
        if count == 0 {
            return;
        }
        *match kind {
            Kind::Lost => &mut self.lost,
            Kind::Duplicated => &mut self.duplicated,
            Kind::Reordered => &mut self.reordered,
            Kind::Stale => &mut self.stale,
            Kind::Phantom => &mut self.phantom,
        } += count;
        if self.offences.len() < NAMED {
            self.offences.push(Offence { kind, object: object.to_owned(), what: what() });
        }
    }

    fn misplaces_nothing(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.phantom == 0
    }
}

/// Judges one object's history.
pub fn check(history: &History, read_back: &ReadBack) -> Verdict {
    let reads = history.operations.iter().filter(|operation| !operation.action.adds()).count() as u64;
    let mut verdict =
        Verdict { acked: history.acknowledged(), unknown: history.unknown(), reads, ..Verdict::default() };
    match read_back {
        ReadBack::Counter(value) => {
            let sightings = sightings(history, &BTreeMap::new());
            check_total(history, &sightings, *value, &mut verdict);
            check_order(history, &sightings, &mut verdict);
        }
        ReadBack::List(elements) => {
            let places = check_elements(history, elements, &mut verdict);
            let sightings = sightings(history, &places);
            check_places(history, elements, &places, &mut verdict);
            check_shown(history, &sightings, elements.len() as u64, &mut verdict);
            check_order(history, &sightings, &mut verdict);
        }
    }
    verdict
}

/// A client was told that the object had this size, between these two moments.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    adds: bool,
    client: u16,
    invoked: Stamp,
    at: Stamp,
    size: u64,
}

/// Every answer as a sighting, in the order in which the operations began. A look at an element that is not there in
/// the end saw no size; [`check_elements`] deals with it.
fn sightings(history: &History, places: &BTreeMap<Element, usize>) -> Vec<Sighting> {
    let mut sightings: Vec<Sighting> = history
        .operations
        .iter()
        .filter_map(|operation| {
            let Ending::Answered { at, seen } = operation.ending else { return None };
            let size = match operation.action {
                Action::LookAtEnd => *places.get(&seen)? as u64 + 1,
                _ => u64::from(seen),
            };
            let Operation { client, invoked, action, .. } = *operation;
            Some(Sighting { adds: action.adds(), client, invoked, at, size })
        })
        .collect();
    sightings.sort_by_key(|sighting| sighting.invoked);
    sightings
}

/// Counts of a counter: what is missing, what is too much. A loss or a double execution shifts everything after it,
/// so the largest shift is how many there were.
fn check_total(history: &History, sightings: &[Sighting], value: u64, verdict: &mut Verdict) {
    let object = &history.object;
    let mut repeats = 0;
    let mut sizes: Vec<u64> = sightings.iter().filter(|sighting| sighting.adds).map(|sighting| sighting.size).collect();
    sizes.sort_unstable();
    for pair in sizes.windows(2) {
        repeats += u64::from(pair[0] == pair[1]);
    }
    let shown = sightings.iter().map(|sighting| sighting.size).max().unwrap_or(0);
    let missing = verdict.acked.max(shown).saturating_sub(value);
    let fallen = deepest_fall(sightings);
    let (acked, unknown) = (verdict.acked, verdict.unknown);
    verdict.blame(Kind::Lost, repeats.max(missing).max(fallen), object, || {
        format!(
            "{acked} increments were answered, {shown} was the highest value shown, {value} stands there; \
             {repeats} answers came twice"
        )
    });
    let too_much = value.saturating_sub(acked + unknown);
    let ahead = furthest_ahead(history, sightings);
    verdict.blame(Kind::Duplicated, too_much.max(ahead), object, || {
        format!("{acked} increments were answered and {unknown} are unknown, {value} stands there")
    });
}

/// By how much an addition's answer fell short of what must have been there: every addition answered before it began,
/// and itself.
fn deepest_fall(sightings: &[Sighting]) -> u64 {
    let mut answered: Vec<Stamp> = sightings.iter().filter(|s| s.adds).map(|s| s.at).collect();
    answered.sort_unstable();
    let mut before = 0;
    let mut deepest = 0;
    for sighting in sightings {
        while answered.get(before).is_some_and(|at| *at < sighting.invoked) {
            before += 1;
        }
        if sighting.adds {
            deepest = deepest.max((before as u64 + 1).saturating_sub(sighting.size));
        }
    }
    deepest
}

/// By how much an answer exceeded everything that had been asked for by then.
fn furthest_ahead(history: &History, sightings: &[Sighting]) -> u64 {
    let mut asked: Vec<Stamp> =
        history.operations.iter().filter(|operation| operation.action.adds()).map(|o| o.invoked).collect();
    asked.sort_unstable();
    sightings
        .iter()
        .map(|sighting| sighting.size.saturating_sub(asked.partition_point(|invoked| *invoked <= sighting.at) as u64))
        .max()
        .unwrap_or(0)
}

/// A list's elements: each answered one there, each one once, none that nobody wrote, none seen and gone. Returns
/// where each element first stands.
fn check_elements(history: &History, elements: &[Option<Element>], verdict: &mut Verdict) -> BTreeMap<Element, usize> {
    let object = &history.object;
    let mut places = BTreeMap::new();
    let mut asked = BTreeMap::new();
    for operation in &history.operations {
        if let Action::Append(element) = operation.action {
            asked.insert(element, operation);
        }
    }
    for (place, element) in elements.iter().enumerate() {
        match element {
            Some(element) if asked.contains_key(element) => {
                let first = *places.entry(*element).or_insert(place);
                verdict.blame(Kind::Duplicated, u64::from(first != place), object, || {
                    format!("element {element} stands at {} and again at {}", first + 1, place + 1)
                });
            }
            _ => verdict.blame(Kind::Phantom, 1, object, || format!("nobody wrote what stands at {}", place + 1)),
        }
    }
    let mut gone = BTreeMap::new();
    for operation in &history.operations {
        let Ending::Answered { seen, .. } = operation.ending else { continue };
        match operation.action {
            Action::Append(element) if !places.contains_key(&element) => {
                gone.insert(element, "was acknowledged");
            }
            Action::LookAtEnd if !asked.contains_key(&seen) => {
                verdict.blame(Kind::Phantom, 1, object, || format!("a read saw {seen}, which nobody wrote"));
            }
            Action::LookAtEnd if !places.contains_key(&seen) => {
                gone.entry(seen).or_insert("was shown to a reader");
            }
            _ => {}
        }
    }
    for (element, how) in gone {
        verdict.blame(Kind::Lost, 1, object, || format!("element {element} {how} and is not there"));
    }
    places
}

/// The order of a list's elements: nothing stands ahead of what had been answered before it began, and each stands
/// where its answer said.
fn check_places(
    history: &History,
    elements: &[Option<Element>],
    places: &BTreeMap<Element, usize>,
    verdict: &mut Verdict,
) {
    let mut standing: Vec<Option<&Operation>> = vec![None; elements.len()];
    for operation in &history.operations {
        if let Action::Append(element) = operation.action
            && let Some(place) = places.get(&element)
        {
            standing[*place] = Some(operation);
        }
    }
    let unshifted = verdict.misplaces_nothing();
    let mut answered_behind: Option<(Stamp, usize)> = None;
    for (place, operation) in standing.iter().enumerate().rev() {
        let Some(operation) = operation else { continue };
        let overtook = answered_behind.filter(|(at, _)| *at < operation.invoked);
        let told = match operation.ending {
            Ending::Answered { seen, .. } => Some(u64::from(seen)),
            Ending::Unknown => None,
        };
        let displaced = told.filter(|told| unshifted && *told != place as u64 + 1);
        match (overtook, displaced) {
            (Some((_, behind)), _) => verdict.blame(Kind::Reordered, 1, &history.object, || {
                format!("what stands at {} began after what stands at {} was answered", place + 1, behind + 1)
            }),
            (None, Some(told)) => verdict.blame(Kind::Reordered, 1, &history.object, || {
                format!("what was answered with length {told} stands at {}", place + 1)
            }),
            (None, None) => {}
        }
        if let Ending::Answered { at, .. } = operation.ending
            && answered_behind.is_none_or(|(earliest, _)| at < earliest)
        {
            answered_behind = Some((at, place));
        }
    }
}

/// Lengths that were shown: none longer than what stands there, none longer than what had been asked for.
fn check_shown(history: &History, sightings: &[Sighting], length: u64, verdict: &mut Verdict) {
    let shown = sightings.iter().map(|sighting| sighting.size).max().unwrap_or(0);
    if verdict.misplaces_nothing() {
        verdict.blame(Kind::Lost, shown.saturating_sub(length), &history.object, || {
            format!("length {shown} was shown to a client, {length} elements stand there")
        });
        verdict.blame(Kind::Phantom, furthest_ahead(history, sightings), &history.object, || {
            String::from("a client was shown a length that nobody had asked for by then")
        });
    }
}

/// Real time: whatever began after a size was shown to anyone sees at least that size, and an addition more.
fn check_order(history: &History, sightings: &[Sighting], verdict: &mut Verdict) {
    let mut ended: Vec<&Sighting> = sightings.iter().collect();
    ended.sort_by_key(|sighting| sighting.at);
    let mut ended = ended.into_iter().peekable();
    let unshifted = verdict.misplaces_nothing() && verdict.reordered == 0;
    let mut known: Option<&Sighting> = None;
    for sighting in sightings {
        while let Some(before) = ended.next_if(|before| before.at < sighting.invoked) {
            if known.is_none_or(|known| known.size < before.size) {
                known = Some(before);
            }
        }
        let Some(known) = known else { continue };
        let tell = || {
            format!(
                "client {} was told {} at {} ns, after client {} was told {} at {} ns",
                sighting.client, sighting.size, sighting.at, known.client, known.size, known.at
            )
        };
        if !sighting.adds && sighting.size < known.size {
            verdict.blame(Kind::Stale, 1, &history.object, tell);
        } else if sighting.adds && unshifted && sighting.size <= known.size {
            verdict.blame(Kind::Reordered, 1, &history.object, tell);
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;

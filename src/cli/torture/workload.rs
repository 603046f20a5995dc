//! The clients: each does one operation after the other, on objects of its own and on objects that all share, and
//! records what it was told.
//!
//! Its own counter must count without a gap but for unknowns; the shared ones catch what one client alone cannot see,
//! a read that misses what another was told. Lists are left behind when they have grown long, so that reading one
//! back takes bounded pages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::store::{Store, StoreError};
use crate::client::{Client, ClientOptions, ConnectError, OperationError};
use crate::history::{Action, Element, Ending, Gaps, History, Operation, Stamp};
use crate::machine::seeded;

/// Elements after which a list is left behind for a new one.
const LIST_LENGTH: u32 = 5_000;
/// Operations that are recorded in one run, so that a long one stays within some 100 MB.
const RECORDED: u64 = 2_000_000;
/// Gaps of this many nanoseconds or more are reported one by one.
const WORTH_TELLING: u64 = 20_000_000;
/// After an operation that was certainly not executed, so that a refusal is not asked for in a busy loop.
const AFTER_REFUSAL: Duration = Duration::from_millis(5);

/// What the clients do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Each arbiter's `host:port`.
    pub arbiters: Vec<String>,
    /// The group's name.
    pub group: String,
    /// How many clients.
    pub clients: u16,
    /// For how long operations are begun.
    pub duration: Duration,
    /// After which an operation is unknown.
    pub deadline: Duration,
    /// What the clients' choices are drawn from.
    pub seed: u64,
    /// Begins the names of all keys, so that runs do not meet.
    pub prefix: String,
}

impl Plan {
    /// A new client of the group.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self, name: String) -> Result<Client, ConnectError> {
        let options = ClientOptions { name, deadline: self.deadline, ..ClientOptions::default() };
        Client::connect_with(self.arbiters.clone(), &self.group, options).await
    }
}

/// What has been counted so far.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Additions answered.
    pub acked: u64,
    /// Additions of which nobody knows.
    pub unknown: u64,
    /// Operations that were certainly not executed.
    pub refused: u64,
    /// Intervals without an answer to anyone.
    pub gaps: Gaps,
    /// Answers that no such operation ever gets, the first few.
    pub surprises: Vec<String>,
    /// How many of them.
    pub surprised: u64,
}

/// What all clients share.
#[derive(Debug)]
pub struct Shared {
    started: Instant,
    stopping: AtomicBool,
    /// The next element of the shared lists.
    next: AtomicU32,
    tally: Mutex<Tally>,
}

impl Shared {
    /// The clock begins to run.
    pub fn start() -> Self {
        let tally = Tally {
            acked: 0,
            unknown: 0,
            refused: 0,
            gaps: Gaps::new(0, WORTH_TELLING),
            surprises: Vec::new(),
            surprised: 0,
        };
        Self {
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            next: AtomicU32::new(0),
            tally: Mutex::new(tally),
        }
    }

    /// No client begins another operation.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// A copy of what has been counted.
    pub fn tally(&self) -> Tally {
        self.lock().clone()
    }

    /// How long it has been running.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The clients are done: the time since the last answer is a gap as well.
    pub fn end(&self) -> Tally {
        let mut tally = self.lock();
        tally.gaps.end(self.now());
        tally.clone()
    }

    /// The time since the load began, which goes on when it has ended.
    pub fn now(&self) -> Stamp {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        // Every critical section leaves the tally whole, even if a panic ended it.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an operation's end. `None`: there is nothing to record.
    fn ended(&self, action: Action, result: &Result<Seen, StoreError>) -> Option<(Action, Ending)> {
        let mut tally = self.lock();
        match result {
            Ok(seen) => {
                let at = self.now();
                tally.gaps.answered(at);
                tally.acked += u64::from(action.adds());
                Some(match seen {
                    Seen::Number(seen) => (action, Ending::Answered { at, seen: *seen }),
                    // An empty list has no last element, and no length: that is what was seen.
                    Seen::Nothing => (Action::Look, Ending::Answered { at, seen: 0 }),
                })
            }
            Err(StoreError::Operation(error)) if error.has_no_side_effects() => {
                tally.refused += 1;
                None
            }
            Err(StoreError::Operation(_)) => {
                tally.unknown += u64::from(action.adds());
                action.adds().then_some((action, Ending::Unknown))
            }
            Err(surprise @ StoreError::Surprise { .. }) => {
                tally.surprised += 1;
                if tally.surprises.len() < 5 {
                    tally.surprises.push(surprise.to_string());
                }
                action.adds().then_some((action, Ending::Unknown))
            }
        }
    }
}

/// What a client recorded, by object.
pub type Recorded = BTreeMap<String, Vec<Operation>>;

/// One client of the torture.
pub struct Worker {
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    number: u16,
    store: Store,
    random: ChaCha8Rng,
    appended: u32,
    recorded: Recorded,
}

/// What an answer said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// A value, a length, or the element at the end.
    Number(u32),
    /// There is no element at the end.
    Nothing,
}

/// What a step touches.
struct Target {
    object: String,
    action: Action,
}

impl Worker {
    /// A client that is connected already.
    pub fn new(plan: Arc<Plan>, shared: Arc<Shared>, number: u16, client: Client) -> Self {
        let random = seeded(plan.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(u64::from(number)));
        Self { plan, shared, number, store: Store(client), random, appended: 0, recorded: Recorded::new() }
    }

    /// Works until the time is over or the run is stopped; gives what it recorded.
    pub async fn run(mut self) -> Recorded {
        let mut done = 0;
        while !self.over() {
            let target = self.choose();
            let invoked = self.shared.now();
            let result = self.ask(&target).await;
            // An object is read back whatever became of this: what was certainly not executed must not be there.
            let operations = self.recorded.entry(target.object).or_default();
            if let Some((action, ending)) = self.shared.ended(target.action, &result) {
                operations.push(Operation { client: self.number, action, invoked, ending });
            }
            match result {
                Ok(_) | Err(StoreError::Surprise { .. }) => {}
                Err(StoreError::Operation(error)) => self.recover(&error).await,
            }
            done += 1;
            self.pace(done).await;
        }
        self.recorded
    }

    fn over(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed) || self.shared.started.elapsed() >= self.plan.duration
    }

    /// A long run goes slower, so that what is recorded stays bounded.
    async fn pace(&self, done: u64) {
        let budget = (RECORDED / u64::from(self.plan.clients)).max(1) as f64;
        let due = self.plan.duration.mul_f64((done as f64 / budget).min(1.0));
        if due > self.shared.started.elapsed() {
            tokio::time::sleep_until(self.shared.started + due).await;
        }
    }

    fn choose(&mut self) -> Target {
        let shared = self.random.next_u32().is_multiple_of(4);
        let action = match self.random.next_u32() % 100 {
            0..=54 => {
                let element = if shared { self.shared.next.fetch_add(1, Ordering::Relaxed) } else { self.appended };
                if !shared {
                    self.appended += 1;
                }
                Action::Append(element)
            }
            55..=79 => Action::Increment,
            80..=89 => Action::Look,
            _ => Action::LookAtEnd,
        };
        let look_at_counter = action == Action::Look && self.random.next_u32().is_multiple_of(2);
        let object = if action == Action::Increment || look_at_counter {
            self.counter(shared)
        } else {
            self.list(shared, action)
        };
        Target { object, action }
    }

    fn counter(&self, shared: bool) -> String {
        let prefix = &self.plan.prefix;
        if shared { format!("{prefix}:counter:all") } else { format!("{prefix}:counter:{}", self.number) }
    }

    /// The list an element belongs to; a read looks at the one that was written last.
    fn list(&self, shared: bool, action: Action) -> String {
        let prefix = &self.plan.prefix;
        let newest = if shared { self.shared.next.load(Ordering::Relaxed) } else { self.appended };
        let element: Element = match action {
            Action::Append(element) => element,
            _ => newest.saturating_sub(1),
        };
        let part = element / LIST_LENGTH;
        if shared { format!("{prefix}:list:all:{part}") } else { format!("{prefix}:list:{}:{part}", self.number) }
    }

    async fn ask(&self, target: &Target) -> Result<Seen, StoreError> {
        let object = target.object.as_str();
        match target.action {
            Action::Append(element) => self.store.append(object, element).await.map(Seen::Number),
            Action::Increment => self.store.increment(object).await.map(Seen::Number),
            Action::Look if object.contains(":counter:") => self.store.value(object).await.map(Seen::Number),
            Action::Look => self.store.length(object).await.map(Seen::Number),
            Action::LookAtEnd => end(&self.store.range(object, -1, -1).await?),
        }
    }

    /// Gets ready for the next operation after one without an answer.
    async fn recover(&mut self, error: &OperationError) {
        if error.has_no_side_effects() {
            tokio::time::sleep(AFTER_REFUSAL).await;
        }
        if !matches!(error, OperationError::SessionExpired { .. } | OperationError::Closed) {
            return;
        }
        while !self.over() {
            match self.plan.connect(format!("torture-{}", self.number)).await {
                Ok(client) => {
                    self.store = Store(client);
                    return;
                }
                Err(_) => tokio::time::sleep(AFTER_REFUSAL).await,
            }
        }
    }
}

/// What the last element of a list, alone, says.
fn end(elements: &[Option<Element>]) -> Result<Seen, StoreError> {
    match elements {
        [] => Ok(Seen::Nothing),
        [Some(element)] => Ok(Seen::Number(*element)),
        // Nobody wrote what is no number, and nobody asked for more than one.
        other => Err(StoreError::Surprise { command: "LRANGE", reply: format!("{other:?}") }),
    }
}

/// One history per object, out of what all clients recorded.
pub fn merge(recorded: impl IntoIterator<Item = Recorded>) -> Vec<History> {
    let mut objects = Recorded::new();
    for part in recorded {
        for (object, operations) in part {
            objects.entry(object).or_default().extend(operations);
        }
    }
    objects.into_iter().map(|(object, operations)| History { object, operations }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Kind, ReadBack, check};

    fn operation(client: u16, invoked: Stamp, seen: u32) -> Operation {
        Operation { client, action: Action::Increment, invoked, ending: Ending::Answered { at: invoked + 1, seen } }
    }

    #[test]
    fn what_two_clients_did_to_one_object_is_one_history() {
        let one = Recorded::from([(String::from("all"), vec![operation(1, 0, 1)])]);
        let other = Recorded::from([
            (String::from("all"), vec![operation(2, 10, 1)]),
            (String::from("own"), vec![operation(2, 20, 1)]),
        ]);
        let histories = merge([one, other]);
        assert_eq!(histories.iter().map(|history| history.operations.len()).collect::<Vec<_>>(), [2, 1]);
        let verdict = check(&histories[0], &ReadBack::Counter(1));
        assert_eq!(verdict.offences[0].kind, Kind::Lost, "each alone saw nothing wrong");
    }

    #[test]
    fn only_what_may_have_happened_is_recorded() {
        let shared = Shared::start();
        let closed = Err(StoreError::Operation(OperationError::Closed));
        assert_eq!(shared.ended(Action::Increment, &closed), None);
        let surprise = Err(StoreError::Surprise { command: "INCR", reply: String::from("-ERR") });
        assert_eq!(shared.ended(Action::Increment, &surprise), Some((Action::Increment, Ending::Unknown)));
        assert_eq!(shared.ended(Action::Look, &surprise), None);
        let seen = shared.ended(Action::Look, &Ok(Seen::Number(3)));
        assert!(matches!(seen, Some((Action::Look, Ending::Answered { seen: 3, .. }))), "{seen:?}");
        let tally = shared.tally();
        assert_eq!((tally.acked, tally.unknown, tally.refused, tally.surprised), (0, 0, 1, 2));
    }

    #[test]
    fn a_read_that_saw_an_empty_list_after_an_append_was_answered_is_stale() {
        let shared = Shared::start();
        let mut history = History::new("all:list:0");
        for (action, result) in [
            (Action::Append(0), Ok(Seen::Number(1))),
            (Action::LookAtEnd, end(&[])),
            (Action::LookAtEnd, end(&[Some(0)])),
        ] {
            let invoked = shared.now() + 1;
            std::thread::yield_now();
            let (action, ending) = shared.ended(action, &result).expect("it is recorded");
            history.operations.push(Operation { client: 1, action, invoked, ending });
        }
        let verdict = check(&history, &ReadBack::List(vec![Some(0)]));
        assert_eq!((verdict.stale, verdict.offences[0].kind), (1, Kind::Stale), "{verdict:?}");
        assert!(matches!(end(&[None]), Err(StoreError::Surprise { .. })), "an element that is no number fails the run");
    }
}

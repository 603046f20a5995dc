//! How a replica, a client or an operator asks the arbiters: any of them, the fastest first, until one answers.
//!
//! [`ArbiterClient`] keeps one connection per arbiter (`link`), made when it is first needed and kept while
//! anything is watched. A question goes to the arbiter that leads, as far as known; one that does not answer within
//! [`ClientOptions::hedge`] is not waited for: the next one is asked too. That is safe because every question can be
//! repeated: a test-and-set carries its request id, and the arbiters give a repeated request its first answer.
//!
//! Deliberately not here: what to do with an answer, or without one. A question that found no answer in its time is
//! [`Unanswered`], which says nothing about whether the change was made.

mod link;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::net::Routes;
use crate::protocol::{ArbiterStatus, Question, Reply};
use crate::record::{Answer, GroupName, GroupRecord, HistoryItem, Proposal};

use crate::backoff::Backoff;
use link::{Ask, Link, LinkError};
use watch::Registry;

pub use watch::Watch;

/// How to reach the arbiters.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Each arbiter's `host:port`; any subset of them will do, all of them is best.
    pub arbiters: Vec<String>,
    /// Who asks, for the arbiters' logs.
    pub name: String,
    /// An arbiter that accepts no connection within this time counts as unreachable for now.
    pub connect_timeout: Duration,
    /// An arbiter that has not answered a question within this time is asked again.
    pub attempt_timeout: Duration,
    /// An arbiter that has not answered within this time is joined by the next one.
    pub hedge: Duration,
    /// Addresses to dial elsewhere than they say; see [`Routes`].
    pub routes: Vec<(String, String)>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            arbiters: Vec::new(),
            name: String::from("unnamed"),
            connect_timeout: Duration::from_millis(200),
            attempt_timeout: Duration::from_secs(1),
            hedge: Duration::from_millis(50),
            routes: Vec::new(),
        }
    }
}

/// No arbiter answered in time. Not a refusal: a proposal may have been granted, or may yet be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no arbiter of [{arbiters}] answered within {waited:?} (last: {last}); check that a majority of them runs and is reachable"
)]
pub struct Unanswered {
    /// Whom we asked.
    pub arbiters: String,
    /// For how long.
    pub waited: Duration,
    /// What the last failed attempt said.
    pub last: String,
}

/// A handle on the arbiters; clones share the connections. The last one dropped closes them.
#[derive(Debug, Clone)]
pub struct ArbiterClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    links: Vec<Link>,
    /// Index of the link to ask first.
    preferred: AtomicUsize,
    registry: Arc<Registry>,
    options: ClientOptions,
}

impl ArbiterClient {
    /// Spawns one task per arbiter onto the current tokio runtime. Nothing is dialled before the first question.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(options: ClientOptions) -> Self {
        let registry = Arc::new(Registry::default());
        let routes = Routes::new(options.routes.clone());
        let links = options
            .arbiters
            .iter()
            .map(|address| Link::spawn(address.clone(), routes.clone(), &options, Arc::clone(&registry)))
            .collect();
        Self { inner: Arc::new(Inner { links, preferred: AtomicUsize::new(0), registry, options }) }
    }

    /// Proposes a change until it is granted or refused. The same request id is shown to as many arbiters as need
    /// be; it is decided once.
    ///
    /// # Errors
    /// [`Unanswered`] after `deadline`: it is unknown whether the change was, or will be, made. Propose again with the
    /// same request id, or learn a record of a higher epoch.
    pub async fn test_and_set(&self, proposal: Proposal, deadline: Duration) -> Result<Answer, Unanswered> {
        self.ask(Question::TestAndSet(Box::new(proposal)), deadline, |reply| match reply {
            Reply::Answer(answer) => {
                if let Answer::Granted(record) | Answer::Refused { record: Some(record), .. } = &answer {
                    self.inner.registry.learn(record.clone());
                }
                Some(answer)
            }
            _ => None,
        })
        .await
    }

    /// The group's record, as it stood at some moment after this call began; `None` when there is no such group.
    ///
    /// # Errors
    /// [`Unanswered`] after `deadline`.
    pub async fn read(&self, group: &GroupName, deadline: Duration) -> Result<Option<GroupRecord>, Unanswered> {
        self.ask(Question::Read(group.clone()), deadline, |reply| match reply {
            Reply::Record(record) => {
                if let Some(record) = &record {
                    self.inner.registry.learn(record.clone());
                }
                Some(record)
            }
            _ => None,
        })
        .await
    }

    /// The group's changes that the arbiters remember, oldest first: the newest ones, and every seizure.
    ///
    /// # Errors
    /// [`Unanswered`] after `deadline`.
    pub async fn history(&self, group: &GroupName, deadline: Duration) -> Result<Vec<HistoryItem>, Unanswered> {
        self.ask(Question::History(group.clone()), deadline, |reply| match reply {
            Reply::History(items) => Some(items),
            _ => None,
        })
        .await
    }

    /// The records of all groups.
    ///
    /// # Errors
    /// [`Unanswered`] after `deadline`.
    pub async fn groups(&self, deadline: Duration) -> Result<Vec<GroupRecord>, Unanswered> {
        self.ask(Question::Groups, deadline, |reply| match reply {
            Reply::Groups(records) => Some(records),
            _ => None,
        })
        .await
    }

    /// How the arbiter at `address` stands, asked over a connection of its own.
    ///
    /// # Errors
    /// [`Unanswered`] when that very arbiter does not answer within `deadline`.
    pub async fn status(&self, address: &str, deadline: Duration) -> Result<ArbiterStatus, Unanswered> {
        let unanswered = |last: String| Unanswered { arbiters: address.to_owned(), waited: deadline, last };
        match tokio::time::timeout(deadline, link::status_of(address, &self.inner.options)).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => Err(unanswered(error.to_string())),
            Err(_) => Err(unanswered(String::from("no answer in time"))),
        }
    }

    /// Hears of every new record of `group`, from every arbiter that can be reached, for as long as it lives.
    pub fn watch(&self, group: GroupName) -> Watch {
        Watch::new(group, Arc::clone(&self.inner.registry), Arc::clone(&self.inner))
    }

    /// The configured addresses of the arbiters.
    pub fn arbiters(&self) -> &[String] {
        &self.inner.options.arbiters
    }

    /// Asks until `accept` takes a reply. A reply of the wrong kind counts as none.
    async fn ask<T>(
        &self,
        question: Question,
        deadline: Duration,
        accept: impl Fn(Reply) -> Option<T>,
    ) -> Result<T, Unanswered> {
        let mut last = String::from("none was reachable yet");
        match tokio::time::timeout(deadline, self.attempts(&question, &mut last, accept)).await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(Unanswered { arbiters: self.inner.options.arbiters.join(", "), waited: deadline, last }),
        }
    }

    async fn attempts<T>(&self, question: &Question, last: &mut String, accept: impl Fn(Reply) -> Option<T>) -> T {
        let (links, options) = (&self.inner.links, &self.inner.options);
        if links.is_empty() {
            *last = String::from("no arbiter is configured");
            return std::future::pending().await;
        }
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
        let (sender, mut answers) = mpsc::unbounded_channel();
        let mut next = self.inner.preferred.load(Ordering::Relaxed) % links.len();
        // Arbiters that were asked and have not replied. Replies to an attempt that was given up still count.
        let mut open = BTreeSet::new();
        let mut failed = 0;
        let mut launch_at = Instant::now();
        loop {
            let idle = (0..links.len()).map(|step| (next + step) % links.len()).find(|index| !open.contains(index));
            let mut wake = launch_at;
            match idle {
                Some(index) if Instant::now() >= launch_at => {
                    links[index].ask(Ask { link: index, question: question.clone(), answer: sender.clone() });
                    open.insert(index);
                    next = index + 1;
                    let patience = if open.len() < links.len() { options.hedge } else { options.attempt_timeout };
                    launch_at = Instant::now() + patience;
                    wake = launch_at;
                }
                Some(_) => {}
                // Everyone was asked and everyone was given time: what they did with it is lost.
                None if Instant::now() >= launch_at => {
                    open.clear();
                    continue;
                }
                None => {}
            }
            let outcome = tokio::select! {
                biased;
                Some(outcome) = answers.recv() => outcome,
                () = sleep_until(wake) => continue,
            };
            let (index, outcome) = outcome;
            open.remove(&index);
            match outcome {
                Ok((leader, reply)) => {
                    self.prefer(index, leader);
                    next = self.inner.preferred.load(Ordering::Relaxed);
                    match reply {
                        Reply::Retry { reason } => *last = format!("{}: {reason}", links[index].address),
                        other => match accept(other) {
                            Some(answer) => return answer,
                            None => *last = format!("{}: a reply to another question", links[index].address),
                        },
                    }
                }
                Err(error) => *last = format!("{}: {error}", links[index].address),
            }
            // The next one is asked at once; when all have failed, after a pause in which late answers still count.
            failed += 1;
            let pause = if failed % links.len() == 0 { backoff.draw() } else { Duration::ZERO };
            launch_at = Instant::now() + pause;
        }
    }

    /// Asks the leader first next time, if we know which link is his, else the one that answered.
    fn prefer(&self, answered: usize, leader: Option<u64>) {
        let links = &self.inner.links;
        let index = leader.and_then(|leader| links.iter().position(|link| link.arbiter() == Some(leader)));
        self.inner.preferred.store(index.unwrap_or(answered), Ordering::Relaxed);
    }
}

/// One attempt's outcome: which link, and the leader it named with the reply.
type Outcome = (usize, Result<(Option<u64>, Reply), LinkError>);

//! The task that owns the connection and the clock, and runs what the core decides.
//!
//! A turn waits for one event, takes all commands that are ready, steps the core, and ends with one write.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use cutover_arbiter::client::Watch;
use cutover_arbiter::record::GroupRecord;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Sleep, sleep_until};

use super::api::{ClientOptions, OperationError, Reply, RequestRef};
use super::core::{Config, Core, Event, Input, Moment, Output, Ticket};
use super::handle::Permits;
use super::socket::{Socket, SocketEvent};
use crate::protocol::client::Outcome;

/// Commands taken in one turn at most, so that a turn stays short.
const COMMANDS_PER_TURN: usize = 1024;

/// What a handle asks of the task.
#[derive(Debug)]
pub(super) enum Command {
    /// One operation.
    Submit {
        operation: Bytes,
        write: bool,
        deadline: Instant,
        answer: oneshot::Sender<Result<Reply, OperationError>>,
        permits: Permits,
    },
    /// What became of a request?
    Outcome { request: RequestRef, deadline: Instant, answer: oneshot::Sender<Result<Outcome, OperationError>> },
    /// Answer everybody and end.
    Close { done: oneshot::Sender<()> },
}

/// Where newer records come from.
pub(super) trait Records: Send + 'static {
    /// Waits for the next one; for ever if there is none. Safe to cancel.
    fn changed(&mut self) -> impl Future<Output = GroupRecord> + Send;
}

impl Records for Watch {
    fn changed(&mut self) -> impl Future<Output = GroupRecord> + Send {
        Watch::changed(self)
    }
}

/// Who waits for an answer; the permits come back with it.
#[derive(Debug)]
enum Caller {
    Operation { answer: oneshot::Sender<Result<Reply, OperationError>>, _permits: Permits },
    Question(oneshot::Sender<Result<Outcome, OperationError>>),
}

struct Driver {
    core: Core,
    started: Instant,
    socket: Socket,
    callers: BTreeMap<Ticket, Caller>,
    tickets: Ticket,
    outputs: Vec<Output>,
    publish: watch::Sender<Option<GroupRecord>>,
    closing: Vec<oneshot::Sender<()>>,
    group: String,
}

enum Wake {
    Commands(usize),
    Record(Box<GroupRecord>),
    Socket(SocketEvent),
    Time,
}

/// Runs until the client is closed, or all handles are dropped and everything is answered.
pub(super) async fn run(
    record: GroupRecord,
    mut records: impl Records,
    options: ClientOptions,
    mut queue: mpsc::UnboundedReceiver<Command>,
    publish: watch::Sender<Option<GroupRecord>>,
) {
    let config = Config {
        name: options.name.chars().take(64).collect(),
        machine: options.machine.clone(),
        session_timeout: options.session_timeout,
        connect_timeout: options.connect_timeout,
        window: options.window,
    };
    let started = Instant::now();
    let mut driver = Driver {
        group: record.group.to_string(),
        core: Core::new(config, record),
        started,
        socket: Socket::new(&options),
        callers: BTreeMap::new(),
        tickets: 0,
        outputs: Vec::new(),
        publish,
        closing: Vec::new(),
    };
    let mut commands = Vec::new();
    let mut handles_exist = true;
    let mut alarm = Alarm { at: started, sleep: Box::pin(sleep_until(started)), set: false };
    driver.step(Moment::ZERO, Input::Tick);
    driver.run_outputs();
    while driver.closing.is_empty() && (handles_exist || !driver.core.is_idle()) {
        alarm.set(driver.core.next_deadline().map(|moment| started + moment));
        let wake = tokio::select! {
            record = records.changed() => Wake::Record(Box::new(record)),
            event = driver.socket.event() => Wake::Socket(event),
            count = queue.recv_many(&mut commands, COMMANDS_PER_TURN), if handles_exist => Wake::Commands(count),
            () = &mut alarm.sleep, if alarm.set => Wake::Time,
        };
        let now = started.elapsed();
        match wake {
            Wake::Commands(0) => handles_exist = false,
            Wake::Commands(_) => {}
            Wake::Record(record) => driver.step(now, Input::Record(record)),
            Wake::Socket(event) => driver.on_socket(now, event),
            Wake::Time => {
                alarm.set = false;
                driver.step(now, Input::Tick);
            }
        }
        while commands.len() < COMMANDS_PER_TURN
            && let Ok(command) = queue.try_recv()
        {
            commands.push(command);
        }
        for command in commands.drain(..) {
            driver.on_command(now, command);
        }
        driver.run_outputs();
    }
    for done in std::mem::take(&mut driver.closing) {
        // Nobody need wait for it.
        let _ = done.send(());
    }
}

impl Drop for Driver {
    /// However the task ends, with its runtime for example: what was sent may have been executed, and its callers are
    /// told so.
    fn drop(&mut self) {
        self.step(self.started.elapsed(), Input::Close);
        self.run_outputs();
    }
}

/// The core's next deadline as a timer. Set anew only when it comes earlier: an early ring costs one idle step, and
/// most deadlines are met.
struct Alarm {
    at: Instant,
    sleep: Pin<Box<Sleep>>,
    set: bool,
}

impl Alarm {
    fn set(&mut self, at: Option<Instant>) {
        if let Some(at) = at
            && (!self.set || at < self.at)
        {
            self.sleep.as_mut().reset(at);
            self.at = at;
            self.set = true;
        }
    }
}

impl Driver {
    fn step(&mut self, now: Moment, input: Input) {
        self.core.step(now, input, &mut self.outputs);
    }

    fn on_command(&mut self, now: Moment, command: Command) {
        self.tickets += 1;
        let ticket = self.tickets;
        let since_start = |deadline: Instant| deadline.saturating_duration_since(self.started);
        match command {
            Command::Submit { operation, write, deadline, answer, permits } => {
                let deadline = since_start(deadline);
                self.callers.insert(ticket, Caller::Operation { answer, _permits: permits });
                self.step(now, Input::Submit { ticket, operation, write, deadline });
            }
            Command::Outcome { request, deadline, answer } => {
                let deadline = since_start(deadline);
                self.callers.insert(ticket, Caller::Question(answer));
                self.step(now, Input::Ask { ticket, request, deadline });
            }
            Command::Close { done } => {
                self.closing.push(done);
                self.step(now, Input::Close);
            }
        }
    }

    fn on_socket(&mut self, now: Moment, event: SocketEvent) {
        let Some(connection) = self.socket.connection() else { return };
        match event {
            SocketEvent::Connected => self.step(now, Input::Connected(connection)),
            SocketEvent::Lost(problem) => self.step(now, Input::Lost { connection, problem }),
            SocketEvent::Readable => loop {
                match self.socket.next_message() {
                    Ok(Some(message)) => self.step(now, Input::Received(connection, message)),
                    Ok(None) => break,
                    Err(problem) => {
                        self.step(now, Input::Lost { connection, problem });
                        break;
                    }
                }
            },
        }
    }

    fn run_outputs(&mut self) {
        for output in std::mem::take(&mut self.outputs) {
            match output {
                Output::Dial { connection, address } => self.socket.dial(connection, address),
                Output::Send(connection, message) => self.socket.send(connection, &message),
                Output::HangUp(connection) => self.socket.hang_up(connection),
                Output::Answer(ticket, result) => {
                    if let Some(Caller::Operation { answer, .. }) = self.callers.remove(&ticket) {
                        // The caller may have stopped waiting; the operation stays as it is.
                        let _ = answer.send(result);
                    }
                }
                Output::Told(ticket, result) => {
                    if let Some(Caller::Question(answer)) = self.callers.remove(&ticket) {
                        let _ = answer.send(result);
                    }
                }
                Output::Record(record) => {
                    self.publish.send_replace(Some(*record));
                }
                Output::Event(event) => self.log(&event),
            }
        }
        self.socket.flush();
    }

    fn log(&self, event: &Event) {
        let group = &self.group;
        match event {
            Event::Serving { address, resent } => tracing::debug!(%group, %address, resent, "client.serving"),
            Event::Down { problem } => tracing::debug!(%group, %problem, "client.down"),
            Event::SessionOpened(session) => tracing::debug!(%group, %session, "client.session_opened"),
            Event::SessionExpired { session, unknown } => {
                tracing::warn!(%group, %session, unknown, "client.session_expired");
            }
        }
    }
}

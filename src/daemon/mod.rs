//! The shell of a replica: sockets, threads and time around the core.
//!
//! One thread, *the loop* (`turn`), owns the core and every connection of clients and replicas; no lock, channel or
//! other thread lies between a client's bytes and the log. Everything that may take long lives elsewhere and talks to
//! the loop by messages: the arbiters, http and signals on the *side* thread, snapshots, digests, large reads and
//! dropping on *workers*.
//!
//! | file | concern |
//! |---|---|
//! | `options` | what a replica is told, checked |
//! | `turn`, `outputs` | the loop; what each output of the core means |
//! | `reactor`, `slab`, `connection` | what the loop sleeps on; connections by number; sockets and buffers |
//! | `ports`, `peers`, `library`, `redis` | the three ports of the loop, and what comes in by each |
//! | `data`, `disk`, `file_disk` | the data directory before the loop begins; the disk's thread; real files |
//! | `side`, `http`, `signals`, `workers` | other threads |
//! | `status`, `metrics`, `events` | what people and machines are told |
//! | `clock`, `socket` | time, sockets |
//!
//! Deliberately not here: every decision about replication (that is [`crate::replica`]).

mod background;
mod clock;
mod connection;
mod data;
mod disk;
mod events;
mod file_disk;
mod http;
mod library;
mod memory;
mod metrics;
mod near;
mod options;
mod outputs;
#[cfg(test)]
mod pair_tests;
mod peers;
mod ports;
mod reactor;
mod redis;
mod release;
pub mod rules;
mod side;
mod signals;
mod slab;
mod slices;
mod socket;
pub mod status;
#[cfg(test)]
mod tests;
mod turn;
mod workers;

use std::io;
use std::net::TcpListener;
use std::thread;

use cutover_arbiter::alarm::Alarm;
use cutover_arbiter::record::Addresses;
use tokio::sync::mpsc;

pub use data::DataError;
pub use options::{Advertised, Options, OptionsError, Ports};
pub use socket::ListenError;

use crate::machine::StateMachine;
use crate::replica::{Config, Outbox, Replica, StopReason};
use data::Data;
use disk::DiskThread;
use ports::Listeners;
use reactor::Reactor;
use side::{Message, Side};
use turn::{Parts, Shell};
use workers::Workers;

/// Messages to the loop that may wait; whoever sends more waits.
const MESSAGES: usize = 1024;

/// Why a replica does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It was told something that cannot work.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// A port could not be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Its data directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The system refused something it needs.
    #[error("the system refused {what}: {error}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        error: io::Error,
    },
    /// It stopped by itself.
    #[error("the replica stopped: {0}")]
    Stopped(StopReason),
    /// A defect: it stopped rather than go on with a state it cannot trust.
    #[error("the replica stopped on a defect of its own; the log above names it, please report it")]
    Panicked,
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |error| RunError::System { what, error }
}

/// The opened ports of a replica that does not run yet.
struct Opened<M> {
    options: Options,
    data: Option<Data<M>>,
    addresses: Addresses,
    peer: TcpListener,
    client: TcpListener,
    redis: Option<TcpListener>,
    http: TcpListener,
    sender: mpsc::Sender<Message>,
    messages: mpsc::Receiver<Message>,
    /// Whether it owns the process: signals, file limits, the service manager.
    owns_process: bool,
}

/// A replica on a thread of its own: for tests, examples and programs that embed one.
#[derive(Debug)]
pub struct Handle {
    addresses: Addresses,
    sender: mpsc::Sender<Message>,
    thread: thread::JoinHandle<Result<(), RunError>>,
}

impl Handle {
    /// Where the replica is reached.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Asks it to hand over and stop; a second time, to stop at once. Returns without waiting.
    pub fn shutdown(&self) {
        // A full channel means a loop that does not turn: then nothing can be asked of it. A closed one has stopped.
        let _ = self.sender.try_send(Message::Shutdown);
    }

    /// Waits until it has stopped.
    ///
    /// # Errors
    /// Why it stopped, unless it was asked to.
    pub fn join(self) -> Result<(), RunError> {
        self.thread.join().unwrap_or(Err(RunError::Panicked))
    }
}

/// Runs a replica of the machine that `make` makes until it stops; SIGTERM and SIGINT ask it to hand over first.
///
/// # Errors
/// It could not start, or stopped without being asked to.
pub fn run<M: StateMachine>(mut options: Options, make: fn() -> M) -> Result<(), RunError> {
    let wanted = options.max_clients;
    options.max_clients = raise_file_limit().map_or(wanted, |files| rules::clients_within(wanted, files));
    if options.max_clients < wanted {
        tracing::warn!(
            wanted,
            max_clients = options.max_clients,
            "limit.clients fewer clients are taken than max-clients says: the system allows this process too few open files (ulimit -n, LimitNOFILE)"
        );
    }
    open::<M>(options, true)?.live(make)
}

/// Starts a replica on a thread of its own and returns once its ports are open. It takes no signals.
///
/// # Errors
/// It could not start.
pub fn start<M: StateMachine>(options: Options, make: fn() -> M) -> Result<Handle, RunError> {
    let opened = open::<M>(options, false)?;
    let (addresses, sender) = (opened.addresses.clone(), opened.sender.clone());
    let thread = thread::Builder::new()
        .name("cutover-loop".into())
        .spawn(move || opened.live(make))
        .map_err(system("a thread for the loop"))?;
    Ok(Handle { addresses, sender, thread })
}

/// What is on disk is read before any port is open: until then its process is as good as gone, and nobody waits for it.
fn open<M: StateMachine>(options: Options, owns_process: bool) -> Result<Opened<M>, RunError> {
    options.validate()?;
    let data = options.data.as_deref().map(|path| Data::open(path, &options)).transpose()?;
    let peer = socket::listen("peer", &options.listen.peer)?;
    let client = socket::listen("client", &options.listen.client)?;
    let redis = options.listen.redis.as_deref().map(|address| socket::listen("redis", address)).transpose()?;
    let http = socket::listen("http", &options.listen.http)?;
    let told = |given: &Option<String>, listener: &TcpListener| -> Result<String, RunError> {
        let bound = listener.local_addr().map_err(system("a port's own address"))?;
        Ok(socket::advertised(given.as_deref(), bound))
    };
    let addresses = Addresses {
        peer: told(&options.advertise.peer, &peer)?,
        client: told(&options.advertise.client, &client)?,
        redis: redis.as_ref().map_or(Ok(String::new()), |redis| told(&options.advertise.redis, redis))?,
        http: told(&options.advertise.http, &http)?,
    };
    let (sender, messages) = mpsc::channel(MESSAGES);
    Ok(Opened { options, data, addresses, peer, client, redis, http, sender, messages, owns_process })
}

impl<M: StateMachine> Opened<M> {
    /// Lives on this thread until the replica stops.
    fn live(self, make: fn() -> M) -> Result<(), RunError> {
        if tokio::runtime::Handle::try_current().is_ok() {
            // Its channels would take the runtime's turns for their own, and stop when those are over.
            let error = io::Error::other("this one belongs to an async runtime: use `start`, or `spawn_blocking`");
            return Err(RunError::System { what: "a thread of the loop's own", error });
        }
        let reactor = Reactor::new().map_err(system("an event loop"))?;
        let Self { options, data, addresses, peer, client, redis, http, sender, messages, owns_process } = self;
        let (errands, errand_queue) = mpsc::unbounded_channel();
        let side = Side { http, messages: sender.clone(), errands: errand_queue, signals: owns_process };
        let side = side.start(&options).map_err(system("a thread for http and arbiters"))?;
        let workers = Workers::start(&sender).map_err(system("threads for large work"))?;
        let (now, mut outbox, config) = (clock::now(), Outbox::default(), config(&options, &addresses));
        let (core, disk) = match (data, &options.data) {
            (Some(data), Some(path)) => {
                let (core, owned) = data.begin(path, now, config, make, &mut outbox)?;
                let disk = DiskThread::start(owned, sender.clone()).map_err(system("a thread for the disk"))?;
                (core, Some(disk))
            }
            _ => (Replica::new(now, config, make), None),
        };
        let (thread, disk) = disk.unzip();
        tracing::info!(
            name = %options.name,
            group = %options.group,
            peer = addresses.peer,
            client = addresses.client,
            redis = addresses.redis,
            http = addresses.http,
            "replica.started"
        );
        let alarm = Alarm::new().map_err(system("a timer"));
        let [peer, client] = [peer, client].map(mio::net::TcpListener::from_std);
        let listeners = Listeners { peer, client, redis: redis.map(mio::net::TcpListener::from_std) };
        let result = alarm.and_then(|alarm| {
            let parts = Parts {
                options,
                addresses,
                core,
                outbox,
                disk,
                now,
                reactor,
                listeners,
                alarm,
                workers,
                messages,
                errands,
            };
            let shell = Shell::new(parts).map_err(system("news of its ports"))?;
            notify(owns_process, sd_notify::NotifyState::Ready);
            shell.live()
        });
        notify(owns_process, sd_notify::NotifyState::Stopping);
        match (thread, &result) {
            (Some(thread), Ok(())) => thread.close(),
            (Some(thread), Err(_)) => thread.end(),
            (None, _) => {}
        }
        if side.join().is_err() {
            tracing::error!("side.panicked the thread of http and arbiters ended on a defect");
        }
        result
    }
}

fn config(options: &Options, addresses: &Addresses) -> Config {
    Config {
        name: options.name.clone(),
        addresses: addresses.clone(),
        group: options.group.clone(),
        create: options.create,
        copies: options.copies,
        suspect_after: options.suspect_after,
        drop_backup_after: options.drop_backup_after,
        heartbeat: options.heartbeat,
        switchover_timeout: options.switchover_timeout,
        propose_again_after: options.propose_again_after,
        readmit_after: options.readmit_after,
        log_bytes: options.log_bytes,
        unacknowledged_bytes: options.unacknowledged_bytes,
        append_bytes: options.append_bytes,
        snapshot_bytes: options.snapshot_bytes,
        journal_stall_limit: options.journal_stall_limit,
        limits: options.limits,
        seed: clock::seed(),
    }
}

/// Tells the service manager, if there is one.
fn notify(owns_process: bool, state: sd_notify::NotifyState<'_>) {
    if owns_process && let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "service.unreachable the service manager was not told");
    }
}

/// As many open files as the system allows: every client is one. Returns how many, if there is a limit.
fn raise_file_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "limit.files the limit of open files stays at {:?}", limit.current);
    }
    getrlimit(Resource::Nofile).current
}

//! When a daemon is to end: a signal, or the end of its standard input.

use std::io::Read;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::failure::{ExitCode, Failure};

/// What ends a daemon, apart from SIGTERM, which always does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// The end of standard input does: a supervisor that holds the other end has died.
    pub when_stdin_closes: bool,
    /// SIGINT does not: it came to the whole foreground process group and the supervisor deals with it.
    pub ignore_sigint: bool,
}

/// Why a daemon was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// Standard input came to its end.
    StdinClosed,
}

impl Cause {
    /// For log lines.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Terminate => "SIGTERM",
            Cause::Interrupt => "SIGINT",
            Cause::StdinClosed => "standard input was closed",
        }
    }
}

/// Waits for the signals and for standard input.
#[derive(Debug)]
pub struct Shutdown {
    options: StopOptions,
    terminate: Signal,
    interrupt: Signal,
    stdin: oneshot::Receiver<()>,
    /// Held when standard input is not watched, so that the receiver never wakes.
    _unwatched: Option<oneshot::Sender<()>>,
}

impl Shutdown {
    /// Begins to listen; from now on no signal is lost. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system refuses a signal handler or a thread.
    pub fn listen(options: StopOptions) -> Result<Self, Failure> {
        let refused = |what: &str, error: std::io::Error| {
            Failure::new(ExitCode::Configuration, format!("cannot listen for {what}: {error}"))
        };
        let terminate = signal(SignalKind::terminate()).map_err(|error| refused("SIGTERM", error))?;
        let interrupt = signal(SignalKind::interrupt()).map_err(|error| refused("SIGINT", error))?;
        let (sender, stdin) = oneshot::channel();
        let mut unwatched = Some(sender);
        if options.when_stdin_closes {
            let sender = unwatched.take();
            std::thread::Builder::new()
                .name("stdin".into())
                .spawn(move || {
                    drain(std::io::stdin().lock());
                    sender.map(|sender| sender.send(()))
                })
                .map_err(|error| refused("the end of standard input", error))?;
        }
        Ok(Self { options, terminate, interrupt, stdin, _unwatched: unwatched })
    }

    /// The next reason to end. Safe to cancel; may be called again, a signal may come twice.
    pub async fn requested(&mut self) -> Cause {
        loop {
            let watched = self._unwatched.is_none();
            tokio::select! {
                _ = self.terminate.recv() => return Cause::Terminate,
                _ = self.interrupt.recv() => if !self.options.ignore_sigint { return Cause::Interrupt },
                _ = &mut self.stdin, if watched && !self.stdin.is_terminated() => return Cause::StdinClosed,
            }
        }
    }
}

/// Reads until the other end is closed; what is said is of no interest.
fn drain(mut input: impl Read) {
    let mut waste = [0_u8; 256];
    loop {
        match input.read(&mut waste) {
            Ok(0) => return,
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return,
            _ => {}
        }
    }
}

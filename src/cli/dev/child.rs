//! One child process: started, listened to, reaped.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child as SystemChild, ChildStdin, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::sync::mpsc;

use super::plan::{Kind, Planned};

/// The longest line of a log that is read whole, in bytes.
const MAX_LINE: u64 = 64 * 1024;

/// What a child's threads tell.
#[derive(Debug)]
pub(super) enum ChildEvent {
    /// It wrote a line to its log.
    Line { process: usize, line: String },
    /// It exited, and waits to be reaped. `pid` tells this life from others.
    Exited { process: usize, pid: u32 },
}

/// A running child. It is reaped only by [`Child::reap`], so its process id is its own until then.
#[derive(Debug)]
pub(super) struct Child {
    process: SystemChild,
    /// Closing it tells the child to end; so does our own end, however it comes.
    stdin: Option<ChildStdin>,
}

impl Child {
    /// Starts `planned` from this process' own binary; `at` is its place in the plan.
    pub(super) fn start(
        planned: &Planned,
        more: &[String],
        log: File,
        at: usize,
        events: &mpsc::Sender<ChildEvent>,
    ) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(&planned.arguments).args(more);
        // The command line tells everything that matters to what it does, so that `ps` and a person who repeats it see
        // the same: nothing of our own environment does.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CUTOVER_")) {
            command.env_remove(name);
        }
        if planned.kind == Kind::Replica {
            // State in huge pages: the kernel then takes less time to tear a killed process' memory down, and only
            // after that it closes the sockets by which others notice.
            command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
        }
        // A process group of its own: Ctrl-C reaches only us, and a child that is stopped when we are killed is woken
        // by the kernel (an orphaned group) and finds its standard input closed.
        command.process_group(0).stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(Stdio::piped());
        let mut process = command.spawn()?;
        let pid = process.id();
        let stdin = process.stdin.take();
        if let Some(stderr) = process.stderr.take() {
            let events = events.clone();
            std::thread::Builder::new().name("child log".into()).spawn(move || follow_log(stderr, log, at, &events))?;
        }
        let events = events.clone();
        std::thread::Builder::new().name("child exit".into()).spawn(move || {
            wait_without_reaping(pid);
            // Nobody listens any more when we are ending.
            let _ = events.blocking_send(ChildEvent::Exited { process: at, pid });
        })?;
        Ok(Self { process, stdin })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Tells the child to end, by closing its standard input.
    pub(super) fn ask_to_end(&mut self) {
        self.stdin = None;
    }

    /// Kills it, stopped or not.
    pub(super) fn kill(&self) {
        if let Some(pid) = Pid::from_raw(self.process.id().cast_signed()) {
            // It may have exited by itself; it is not reaped, so the id is still its own.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Takes note of its end, after [`ChildEvent::Exited`].
    pub(super) fn reap(mut self) -> io::Result<ExitStatus> {
        self.process.wait()
    }
}

fn wait_without_reaping(pid: u32) {
    let Some(pid) = Pid::from_raw(pid.cast_signed()) else { return };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
}

/// Copies the child's log lines to its log file and tells each. Ends with the child's standard error.
fn follow_log(stderr: impl Read, mut log: File, process: usize, events: &mpsc::Sender<ChildEvent>) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        // A full disk must not stop the group; the line is still told.
        let _ = log.write_all(&line);
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        // A child must never wait for whoever reads our output: what does not fit is in the log file all the same.
        let _ = events.try_send(ChildEvent::Line { process, line });
    }
}

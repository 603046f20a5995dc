//! A replica that the test itself starts beside a group's own, with nothing, and under conditions of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cutover::daemon::status::StatusBody;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::DevGroup;
use super::group::status_at;
use super::redis::Redis;

/// Its place in each block of ten ports; `dev` itself uses the first ones.
const PLACE: u16 = 9;

/// A running replica, called `guest` unless the test says otherwise. Dropping it kills it.
pub struct Guest {
    child: Child,
    data: PathBuf,
    base: u16,
    place: u16,
}

impl Guest {
    /// Starts it with `options` and, in its environment, `variables`.
    pub fn join(group: &DevGroup, options: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::join_under(group, &[], options, variables)
    }

    /// As [`Guest::join`], with words before its command line: a program that runs it.
    pub fn join_under(group: &DevGroup, wrapper: &[&str], options: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::join_as(group, ("guest", PLACE), wrapper, options, variables)
    }

    /// As [`Guest::join_under`], by another name and on the ports of another place, below 10, for a test of several.
    pub fn join_as(
        group: &DevGroup,
        (name, place): (&str, u16),
        wrapper: &[&str],
        options: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let base = group.process("r1").redis.expect("a port for Redis");
        let log = File::options().create(true).append(true).open(group.data().join(format!("log/{name}.log")));
        let log = log.and_then(|log| if name == "guest" { log.set_len(0).map(|()| log) } else { Ok(log) });
        let log = log.expect("a log");
        let words = [wrapper, &[env!("CARGO_BIN_EXE_cutover")]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.args(["replica", "--name", name, "--log", "json", "--group", &group.name()]);
        command.args(["--arbiters", &group.arbiters().join(",")]).arg("--data").arg(group.data().join(name));
        for (port, block) in [("--redis-port", 0), ("--http-port", 10), ("--client-port", 20), ("--peer-port", 30)] {
            command.args([port, &(base + block + place).to_string()]);
        }
        command.args(options).envs(variables.iter().copied());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("a replica starts");
        Self { child, data: group.data().join(name), base, place }
    }

    /// True when its process has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends the process that holds this data directory, whoever runs it, and waits for its end.
    pub fn kill_holder(&mut self, data: &Path) {
        if self.begin_to_kill_holder(data) {
            let _ = self.child.wait();
        }
    }

    /// The same, without waiting; false when it has ended.
    pub fn begin_to_kill_holder(&mut self, data: &Path) -> bool {
        let pid = fs::read_to_string(data.join("replica.lock")).ok().and_then(|pid| pid.trim().parse().ok());
        let pid = pid.filter(|_| !self.has_ended());
        if let Some(pid) = pid {
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is ours and has not been waited for");
        }
        pid.is_some()
    }

    /// Waits for the end of whoever runs it.
    pub fn wait(mut self) {
        let _ = self.child.wait();
    }

    /// Where it answers over http.
    pub fn http_port(&self) -> u16 {
        self.base + 10 + self.place
    }

    /// What it says of itself.
    pub fn status(&self) -> Result<StatusBody, String> {
        status_at(&format!("127.0.0.1:{}", self.base + 10 + self.place))
    }

    /// Where Redis clients reach it.
    pub fn redis_port(&self) -> u16 {
        self.base + self.place
    }

    /// Where other replicas reach it.
    pub fn peer_port(&self) -> u16 {
        self.base + 30 + self.place
    }

    /// A Redis connection to it.
    pub fn redis(&self) -> Redis {
        Redis::connect(self.redis_port()).unwrap_or_else(|error| panic!("guest: {error}"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Under a tracer it outlives that, and goes on to dial: whoever gets its group's ports next would be told of a
        // group that is not his.
        let runner = i32::try_from(self.child.id()).ok();
        let pid: Option<i32> =
            fs::read_to_string(self.data.join("replica.lock")).ok().and_then(|pid| pid.trim().parse().ok());
        if let Some(pid) = pid.filter(|pid| runner.is_some() && parent_of(*pid) == runner) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process that started this one, while that is there.
fn parent_of(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

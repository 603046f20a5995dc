//! What a batch of seeds has seen: the faults injected by kind, and what must happen at least once or the batch proves
//! nothing (faults.md, "Must happen").

use std::fmt::Write as _;

macro_rules! counted {
    ($(#[$meta:meta])* $name:ident { $($(#[$note:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$note])* $variant,)* }

        impl $name {
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            pub fn text(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

counted! {
    /// What must happen at least once in a batch of seeds.
    Must {
        RaceWonByPrimary = "a race for one epoch won by the primary",
        RaceWonByBackup = "a race for one epoch won by the backup",
        UnacknowledgedAtOld = "a cut-over with unacknowledged entries at the old primary",
        NeverReleased = "a new primary drained entries that were never released",
        LostRemove = "a granted Remove whose reply was lost",
        StaleAck = "a stale acknowledgement dropped",
        WokeWithRequests = "a stopped primary woke with buffered requests",
        TransferAborted = "a state transfer aborted midway",
        OldLifeRefused = "an old incarnation refused",
        RetryAfterCutOver = "a retry answered from the session table after a cut-over",
        ArbiterSnapshot = "an arbiter's snapshot installed",
        TailCut = "a log tail cut on rejoin",
        DeltaRejoin = "a delta rejoin",
        FullRejoin = "a full rejoin",
        FellBehind = "a follower given up, since too much of the log would have been kept for it",
        WentBack = "a deposed primary made its state anew from its own disk, without a restart",
        WentBackToSnapshot = "... with a snapshot on it",
        CouldNotGoBack = "... could not, and got a state transfer",
        KeptState = "a copy kept that the primary had no use for, until it was removed",
        SuspectedGone = "a primary suspected at once, since its process is gone",
        SuspectedClosed = "... since it closed the connection before a handshake",
        SuspectedLife = "... since another life answers at its address",
        MemberGone = "a backup suspected at once, since its process is gone",
        MemberClosed = "... since it closed the connection before a handshake",
        MemberLife = "... since another life answers at its address",
        MemberCameBack = "... since it came back in another life",
        DoesNotPersist = "a backup suspected that answers and does not persist",
        SuspectedAgain = "a backup refused and still named that suspected again, its primary silent",
        Untrusted = "a copy that differed while it drained its log in a cut-over stopped",
        CutOver = "a cut-over",
        SwitchedOver = "a switchover",
        Resumed = "a resume",
        Admitted = "an admission",
        Diverged = "a divergence found, and its replica in a new life",
        CancelledLate = "a request that came after it had been cancelled",
        OutcomeClosed = "an undecided sequence closed by an outcome query",
        Unknown = "an operation whose outcome its client never learnt",
        SessionExpired = "a session expired under its client",
        ArbiterDiskFailed = "an arbiter stopped by its disk",
        OldTermFrame = "a frame of an old epoch delivered after a cut-over",
        PairWithoutArbiters = "an intact pair served without arbiters (L3)",
        Digests = "state digests of two replicas compared",
        BrokenRest = "a liveness phase in which a part stayed broken",
        KeptItsLife = "a restart from the journal in the same life",
        LostItsLife = "a new life after a restart, since what was promised could not be proven",
        SyncLost = "a life that ended since a failed sync had lost something, and came back without a person",
        SurvivedPowerLoss = "a machine lost power and its life went on, in mode sync",
        AllPowerSync = "all machines of a group lost power at once, and mode sync lost nothing",
        TornTail = "a torn tail of a journal cut",
        SnapshotInstalled = "a snapshot put into place on disk",
        SnapshotUsed = "a restart from a snapshot on disk",
        JournalsRead = "the journals read back from copies of the disks",
        DiedAtDisk = "a process died at a step of its disk",
        DiedInRecovery = "a process died in the middle of its recovery",
        StoppedByDisk = "a replica stopped by its disk",
        DiskHandOver = "a primary whose disk failed handed over",
        Stalled = "a disk hung for longer than it may",
        DamageRefused = "a damaged journal refused at the start",
        ImageRefused = "an older image of a replica's data refused",
        Seized = "a group seized by its operator",
        Mistaken = "a lone primary that only stood still taken for dead",
        Adopted = "a group adopted by arbiters that had lost their data",
        Raised = "a group raised above a fence, its arbiters back with what they had",
    }
}

counted! {
    /// The faults that are injected.
    Fault {
        CrashReplica = "F1 crash of a replica",
        PowerReplica = "F3 power loss of a replica's machine",
        CrashArbiter = "F1 crash of an arbiter",
        CrashLeader = "F31 crash of the arbiters' leader",
        ArbitersDown = "F33 majority of the arbiters lost",
        ArbitersRestart = "F34 all arbiters restarted",
        ArbiterDiskError = "F7 error of an arbiter's disk",
        ArbiterDiskSlow = "F9 slow disk of an arbiter",
        DiskSlow = "F9 slow disk of a replica",
        DiskHang = "F9 hung disk of a replica",
        Isolate = "F13 one process isolated",
        Split = "F13 partition of any shape",
        OneWay = "F14 one-way link",
        PairLink = "F15 link between two replicas cut",
        ArbitersAway = "F16 arbiters unreachable from a replica",
        Flap = "F17 flapping link",
        Slow = "F18 slow link",
        Lossy = "F21 lossy link",
        Reset = "F21 connections reset, frames cut or damaged",
        LoseReplies = "replies of the arbiters lost",
        Pause = "F23 process stopped",
        PauseMidTurn = "F24 process stopped between decision and release",
        Freeze = "F23 machine stopped, its network with it",
        Suspend = "F27 machine suspended, its boot clock with it",
        Starve = "F25 starved process",
        WallJump = "F26 wall clock set",
        ClientStopped = "F28 client stopped",
        TransferBroken = "F30 state transfer broken",
        AfterCutOver = "F39 fault within moments of a cut-over",
        Switchover = "switchover asked for",
        Shutdown = "replica asked to stop",
        Leak = "F37 a machine that is not deterministic",
        CrashAll = "F1 crash of all replicas of a group at once",
        PowerAll = "F4 power loss of all machines of a group at once",
        DiesAtDisk = "F2 crash at a step of a replica's disk",
        DiskError = "F7 error of a replica's disk, then success",
        DiskFull = "F10 full disk of a replica",
        BitRot = "F6 bit rot in a replica's data",
        Emptied = "F11 a replica returns empty",
        OldImage = "F12 a replica returns with an older image of its data",
        ArbitersForget = "F11 all arbiters return empty",
    }
}

impl Fault {
    /// It follows something else that happened.
    pub fn is_reaction(self) -> bool {
        matches!(self, Fault::AfterCutOver | Fault::TransferBroken)
    }

    /// It says something only where replicas have a journal.
    pub fn needs_a_journal(self) -> bool {
        self >= Fault::CrashAll
    }
}

/// The totals of a batch.
#[derive(Debug, Clone, Default)]
pub struct Report {
    must: Vec<u64>,
    faults: Vec<u64>,
    pub seeds: u64,
    /// Virtual microseconds.
    pub simulated: u64,
    pub steps: u64,
    pub asked: u64,
    pub answered: u64,
    pub epochs: u64,
    /// Histories of which the checker could not say whether they are linearisable.
    pub undecided: u64,
}

impl Report {
    pub fn saw(&mut self, what: Must) {
        bump(&mut self.must, what as usize, 1);
    }

    pub fn saw_if(&mut self, condition: bool, what: Must) {
        if condition {
            self.saw(what);
        }
    }

    pub fn injected(&mut self, fault: Fault) {
        bump(&mut self.faults, fault as usize, 1);
    }

    pub fn seen(&self, what: Must) -> u64 {
        self.must.get(what as usize).copied().unwrap_or_default()
    }

    fn count(&self, fault: Fault) -> u64 {
        self.faults.get(fault as usize).copied().unwrap_or_default()
    }

    pub fn faults(&self) -> u64 {
        self.faults.iter().sum()
    }

    pub fn add(&mut self, other: &Report) {
        other.must.iter().enumerate().for_each(|(at, count)| bump(&mut self.must, at, *count));
        other.faults.iter().enumerate().for_each(|(at, count)| bump(&mut self.faults, at, *count));
        self.seeds += other.seeds;
        self.simulated += other.simulated;
        self.steps += other.steps;
        self.asked += other.asked;
        self.answered += other.answered;
        self.epochs += other.epochs;
        self.undecided += other.undecided;
    }

    /// What must have happened and has not, and which faults never came.
    pub fn missing(&self) -> Vec<&'static str> {
        let happened = Must::ALL.iter().filter(|what| self.seen(**what) == 0).map(|what| what.text());
        let injected = Fault::ALL.iter().filter(|fault| self.count(**fault) == 0).map(|fault| fault.text());
        happened.chain(injected).collect()
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} seeds, {:.1} simulated hours, {} operations asked, {} answered, {} epochs, {} steps, {} undecided\n",
            self.seeds,
            self.simulated as f64 / 3.6e9,
            self.asked,
            self.answered,
            self.epochs,
            self.steps,
            self.undecided,
        );
        for fault in Fault::ALL {
            let _ = writeln!(text, "{:>10} {}", self.count(*fault), fault.text());
        }
        text.push_str("must happen:\n");
        for what in Must::ALL {
            let _ = writeln!(text, "{:>10} {}", self.seen(*what), what.text());
        }
        text
    }
}

fn bump(counts: &mut Vec<u64>, at: usize, by: u64) {
    if counts.len() <= at {
        counts.resize(at + 1, 0);
    }
    counts[at] += by;
}

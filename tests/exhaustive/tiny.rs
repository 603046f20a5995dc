//! The smallest machine that shows what was executed, and in which order: a list of numbers.

use cutover::machine::{Access, Env, Identity, ReadEnv, ReadOutcome, Restore, Snapshot, StateMachine};

/// The operation that reads the list; every other byte is put at its end.
pub const READ: u8 = 0;

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tiny {
    pub list: Vec<u8>,
}

impl StateMachine for Tiny {
    type Snapshot = View;
    type Restore = Making;

    fn identity() -> Identity {
        Identity { name: "tiny".to_owned(), version: 1 }
    }

    fn access(operation: &[u8]) -> Access {
        if operation == [READ] { Access::Read } else { Access::Write }
    }

    fn apply(&mut self, operation: &[u8], env: &mut Env<'_>, reply: &mut Vec<u8>) {
        self.list.extend_from_slice(operation);
        env.changed(operation);
        reply.push(self.list.len() as u8);
    }

    fn read(&self, _: &[u8], _: &ReadEnv<'_>, reply: &mut Vec<u8>) -> ReadOutcome {
        reply.extend_from_slice(&self.list);
        ReadOutcome::Done
    }

    fn snapshot(&self) -> View {
        View(Some(self.list.clone()))
    }

    fn restore() -> Making {
        Making::default()
    }
}

pub struct View(Option<Vec<u8>>);

impl Snapshot for View {
    fn next_chunk(&mut self, _: usize) -> Option<Vec<u8>> {
        self.0.take()
    }
}

#[derive(Debug, Clone, Default, Hash)]
pub struct Making(Vec<u8>);

impl Restore for Making {
    type Machine = Tiny;

    fn chunk(&mut self, chunk: &[u8]) -> Result<(), String> {
        self.0.extend_from_slice(chunk);
        Ok(())
    }

    fn finish(self) -> Result<Tiny, String> {
        Ok(Tiny { list: self.0 })
    }
}

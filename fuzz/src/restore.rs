//! Chunks of the key-value machine's state, as a joiner takes them.

use cutover::machine::kv::KeyValue;
use cutover::machine::{Restore as _, Snapshot as _, StateMachine as _};

use crate::operations;

/// The first byte says how long a chunk is. A state that can be read is written and read again the same.
pub fn check(data: &[u8]) {
    let Some((length, bytes)) = data.split_first() else { return };
    let chunks: Vec<_> = bytes.chunks(usize::from(*length) + 1).map(<[u8]>::to_vec).collect();
    let Ok(machine) = restored(&chunks) else { return };
    let written = chunks_of(&machine, 64);
    let again = restored(&written).expect("what was written is read");
    assert_eq!(chunks_of(&again, 64), written);
    assert_eq!(again.memory(), machine.memory());
    assert_eq!(chunks_of(&again, 1 << 20).concat(), chunks_of(&machine, 1 << 20).concat());
}

fn restored(chunks: &[Vec<u8>]) -> Result<KeyValue, String> {
    let mut restore = KeyValue::restore();
    for chunk in chunks {
        restore.chunk(chunk)?;
    }
    restore.finish()
}

fn chunks_of(machine: &KeyValue, target: usize) -> Vec<Vec<u8>> {
    let mut snapshot = machine.snapshot();
    std::iter::from_fn(|| snapshot.next_chunk(target)).collect()
}

/// See the crate.
pub fn seeds() -> Vec<Vec<u8>> {
    let machines = operations::seeds().into_iter().map(|seed| operations::run(&seed));
    machines.map(|machine| [&[63], &chunks_of(&machine, 1 << 20).concat()[..]].concat()).collect()
}

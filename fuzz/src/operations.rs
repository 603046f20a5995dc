//! Operations of the key-value machine: a primary executes them, a backup replays them, and both end up equal.

use bytes::BytesMut;
use cutover::machine::kv::command::CommandId;
use cutover::machine::kv::{KeyValue, operation, value};
use cutover::machine::{Access, Changes, Env, Garbage, ReadEnv, ReadOutcome, Snapshot as _, StateMachine as _, seeded};
use cutover::resp::Format;

/// Most operations of one input.
const MOST: usize = 64;
/// What the machine may hold, in bytes.
const MEMORY: u64 = 1 << 20;
/// Words that commands know.
const WORDS: &[&str] = &[
    "k",
    "l",
    "0",
    "1",
    "-1",
    "10",
    "3.5",
    "inf",
    "nan",
    "EX",
    "PX",
    "NX",
    "XX",
    "GET",
    "KEEPTTL",
    "WITHSCORES",
    "BYSCORE",
    "LIMIT",
    "MATCH",
    "*",
    "COUNT",
    "REPLACE",
    "PERSIST",
    "(1",
    "[a",
    "+",
    "-",
    "",
    "99999999999999999999",
    "a b",
];

/// Bytes are operations: a command's number, how many arguments, and for each a word or a length and so many bytes.
pub fn check(data: &[u8]) {
    let machine = run(data);
    let mut snapshot = machine.snapshot();
    while snapshot.next_chunk(256).is_some() {}
}

/// Executes and replays them; gives the machine.
pub fn run(mut data: &[u8]) -> KeyValue {
    let mut primary = Copy::new();
    let mut backup = Copy::new();
    let mut random = seeded(1);
    let mut values = Vec::new();
    let (now, mut index) = (1_700_000_000_000_000, 1);
    let mut env = Env::capture_into(now, index, &mut random, &mut values, &mut primary.changes, &mut primary.garbage);
    primary.machine.genesis(&mut env);
    let mut env = Env::replay(now, index, &values, &mut backup.changes, &mut backup.garbage);
    backup.machine.genesis(&mut env);
    for number in 0..MOST {
        let Some(operation) = next(&mut data) else { break };
        let now = now + number as u64 * 700;
        index += 1;
        let mut reply = Vec::new();
        if KeyValue::access(&operation) == Access::Read {
            let env = ReadEnv::new(now, &mut random);
            if let ReadOutcome::Deferred(work) = primary.machine.read(&operation, &env, &mut reply) {
                work(&mut reply);
            }
        } else {
            values.clear();
            let mut env =
                Env::capture_into(now, index, &mut random, &mut values, &mut primary.changes, &mut primary.garbage)
                    .with_memory_limit(Some(MEMORY));
            primary.machine.apply(&operation, &mut env, &mut reply);
            let mut replayed = Vec::new();
            let mut env = Env::replay(now, index, &values, &mut backup.changes, &mut backup.garbage);
            backup.machine.apply(&operation, &mut env, &mut replayed);
            env.finish().expect("every captured value is used, and no other");
            assert_eq!(reply, replayed);
            assert_eq!(primary.changes.state(), backup.changes.state(), "{}", KeyValue::name(&operation));
        }
        value::parse(&reply).unwrap_or_else(|error| panic!("{}: {error}: {reply:?}", KeyValue::name(&operation)));
        for format in [Format::Resp2, Format::Resp3] {
            format.encode(&reply, &mut BytesMut::new());
        }
    }
    assert_eq!(primary.machine.memory(), backup.machine.memory());
    primary.machine
}

struct Copy {
    machine: KeyValue,
    changes: Changes,
    garbage: Vec<Garbage>,
}

impl Copy {
    fn new() -> Self {
        Self { machine: KeyValue::default(), changes: Changes::default(), garbage: Vec::new() }
    }
}

/// The next operation; now and then one that is none.
fn next(data: &mut &[u8]) -> Option<Vec<u8>> {
    let number = u16::from(byte(data)?) | u16::from(byte(data)? & 1) << 8;
    let count = usize::from(byte(data)? % 7);
    let mut arguments: Vec<Vec<u8>> = Vec::new();
    for _ in 0..count {
        let kind = byte(data).unwrap_or_default();
        arguments.push(match usize::from(kind) {
            word @ 0..200 => WORDS[word % WORDS.len()].as_bytes().to_vec(),
            length => {
                let (now, later) = data.split_at((length - 200).min(data.len()));
                *data = later;
                now.to_vec()
            }
        });
    }
    let Some(command) = CommandId::from_number(number) else {
        return Some([&number.to_le_bytes()[..], &arguments.concat()].concat());
    };
    // A string may be as long as Redis lets it be, which is more memory than a fuzzer has.
    let far = |argument: &Vec<u8>| {
        std::str::from_utf8(argument).is_ok_and(|text| text.parse::<u64>().is_ok_and(|at| at > 100_000))
    };
    if command == CommandId::SetRange && arguments.get(1).is_some_and(far) {
        return next(data);
    }
    let mut out = Vec::new();
    operation::encode(command, arguments.iter().map(Vec::as_slice), &mut out);
    let (again, read) = operation::decode(&out).expect("what was written is read");
    assert_eq!((again, read.collect::<Vec<_>>()), (command, arguments.iter().map(Vec::as_slice).collect()));
    Some(out)
}

fn byte(data: &mut &[u8]) -> Option<u8> {
    let (first, rest) = data.split_first()?;
    *data = rest;
    Some(*first)
}

/// Every command with a few arguments, and long stories of several.
pub fn seeds() -> Vec<Vec<u8>> {
    let every = (0..512u16).filter(|number| CommandId::from_number(*number).is_some());
    let mut seeds: Vec<_> = every
        .flat_map(|number| (0..4u8).map(move |count| vec![number as u8, (number >> 8) as u8, count, 0, 2, 3, 9]))
        .collect();
    seeds.extend(crate::dice(60));
    seeds
}

//! A backup that replays what the primary captured is its equal, and so is one restored from a snapshot.

use proptest::prelude::*;

use super::harness::{Primary, chunks, restored};
use crate::machine::kv::command::CommandId;
use crate::machine::kv::{KeyValue, operation};
use crate::machine::{Changes, Env, StateMachine as _, seeded};

/// Random words for a command: mostly sensible, sometimes not.
pub(super) fn random_operation(random: &mut impl rand::Rng) -> Vec<u8> {
    let id = CommandId::ALL[random.next_u32() as usize % CommandId::ALL.len()];
    let spec = id.spec();
    let least = spec.arity.unsigned_abs() as usize - 1;
    let count = if spec.arity < 0 { least + random.next_u32() as usize % 4 } else { least };
    let words: Vec<Vec<u8>> = (0..count).map(|at| random_word(random, at == 0 && spec.first_key > 0)).collect();
    let mut bytes = Vec::new();
    operation::encode(id, words.iter().map(Vec::as_slice), &mut bytes);
    bytes
}

fn random_word(random: &mut impl rand::Rng, key: bool) -> Vec<u8> {
    const WORDS: &[&str] = &[
        "NX",
        "XX",
        "GET",
        "KEEPTTL",
        "EX",
        "PX",
        "EXAT",
        "PXAT",
        "GT",
        "LT",
        "CH",
        "INCR",
        "REV",
        "BYSCORE",
        "BYLEX",
        "LIMIT",
        "WITHSCORES",
        "COUNT",
        "MATCH",
        "TYPE",
        "PERSIST",
        "REPLACE",
        "DB",
        "-inf",
        "+inf",
        "(1",
        "[a",
        "-",
        "+",
        "*",
        "k*",
        "nan",
        "1e400",
        "9223372036854775807",
        "-9223372036854775808",
        "",
        "0.5",
        "string",
    ];
    let pick = random.next_u32();
    match pick % 10 {
        _ if key => format!("k{}", random.next_u32() % 12).into_bytes(),
        0..=2 => format!("k{}", random.next_u32() % 12).into_bytes(),
        3..=5 => (i64::from(random.next_u32() % 200) - 20).to_string().into_bytes(),
        6..=7 => WORDS[random.next_u32() as usize % WORDS.len()].as_bytes().to_vec(),
        8 => vec![b'x'; random.next_u32() as usize % 40],
        _ => format!("m{}", random.next_u32() % 50).into_bytes(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_backup_ends_up_equal(seed in any::<u64>()) {
        let mut random = seeded(seed);
        let mut primary = Primary::new(seed);
        for _ in 0..600 {
            primary.now += u64::from(random.next_u32() % 20_000);
            let operation = random_operation(&mut random);
            primary.apply(operation);
        }
        let (mut backup, mut changes, mut garbage) = (KeyValue::new(), Changes::default(), Vec::new());
        for (index, applied) in primary.log.iter().enumerate() {
            let mut reply = Vec::new();
            let mut env = Env::replay(applied.now, index as u64 + 1, &applied.values, &mut changes, &mut garbage);
            match &applied.operation {
                Some(operation) => backup.apply(operation, &mut env, &mut reply),
                None => backup.genesis(&mut env),
            }
            prop_assert_eq!(env.finish(), Ok(()));
            prop_assert_eq!(&reply, &applied.reply);
            // In the middle, another backup takes over from a snapshot.
            if index == 300 {
                backup = restored(&chunks(&backup, 100)).unwrap();
            }
        }
        prop_assert_eq!(&changes, &primary.changes);
        prop_assert_eq!(chunks(&backup, 1000), chunks(&primary.machine, 1000));
        prop_assert_eq!(backup.next_deadline(), primary.machine.next_deadline());
        prop_assert_eq!(backup.memory(), primary.machine.memory());
    }
}

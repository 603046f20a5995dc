//! The key-value machine against a real redis-server: the same random commands on both, the same replies.
//!
//! Needs `redis-server` (7.0 or newer) in the path; without one the test says so on stderr and passes, having
//! compared nothing. Replies whose order Redis leaves open are compared as multisets, doubles as numbers, and what
//! depends on chance or on the clock is left to other tests. `ORACLE_SEEDS=100` compares more.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use cutover::machine::kv::value::{Value, parse};
use cutover::machine::kv::{KeyValue, request};
use cutover::machine::{Access, Changes, Env, ReadEnv, ReadOutcome, StateMachine, seeded};
use rand::Rng;

struct Redis {
    child: Child,
    stream: BufReader<TcpStream>,
    _directory: tempfile::TempDir,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Redis {
    /// A server of its own on a free port, or `None` when there is no redis-server here.
    fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new("redis-server")
            .args(["--port", &port, "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir"])
            .arg(directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut log = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("Ready to accept connections") {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "redis-server ended before it was ready");
        }
        let stream = BufReader::new(TcpStream::connect(format!("127.0.0.1:{port}")).unwrap());
        Some(Self { child, stream, _directory: directory })
    }

    fn call(&mut self, words: &[Vec<u8>]) -> Value {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&request).unwrap();
        self.reply()
    }

    fn reply(&mut self) -> Value {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap();
        assert!(line.ends_with(b"\r\n"), "the connection to redis-server ended");
        line.truncate(line.len() - 2);
        let text = String::from_utf8_lossy(&line[1..]).into_owned();
        match (line[0], text.as_str()) {
            (b'+', _) => Value::Simple(text),
            (b'-', _) => Value::Error(text),
            (b':', _) => Value::Integer(text.parse().unwrap()),
            (b'$' | b'*', "-1") => Value::Null,
            (b'$', _) => {
                let mut bytes = vec![0; text.parse::<usize>().unwrap() + 2];
                self.stream.read_exact(&mut bytes).unwrap();
                bytes.truncate(bytes.len() - 2);
                Value::Bulk(bytes)
            }
            (b'*', _) => Value::Array((0..text.parse::<usize>().unwrap()).map(|_| self.reply()).collect()),
            other => panic!("redis-server sent {other:?}"),
        }
    }
}

struct Ours {
    machine: KeyValue,
    random: rand_chacha::ChaCha8Rng,
    changes: Changes,
}

impl Ours {
    fn new() -> Self {
        let mut this = Self { machine: KeyValue::new(), random: seeded(9), changes: Changes::default() };
        let (mut values, mut garbage) = (Vec::new(), Vec::new());
        let mut env = Env::capture_into(0, 1, &mut this.random, &mut values, &mut this.changes, &mut garbage);
        this.machine.genesis(&mut env);
        this
    }

    fn call(&mut self, words: &[Vec<u8>]) -> Value {
        let name = String::from_utf8_lossy(&words[0]).into_owned();
        let args: Vec<&[u8]> = words[1..].iter().map(Vec::as_slice).collect();
        let operation = request(&name, &args);
        let now = wall_clock();
        let mut reply = Vec::new();
        if KeyValue::access(&operation) == Access::Read {
            let env = ReadEnv::new(now, &mut self.random);
            if let ReadOutcome::Deferred(write) = self.machine.read(&operation, &env, &mut reply) {
                write(&mut reply);
            }
        } else {
            let (mut values, mut garbage) = (Vec::new(), Vec::new());
            let mut env = Env::capture_into(now, 2, &mut self.random, &mut values, &mut self.changes, &mut garbage);
            self.machine.apply(&operation, &mut env, &mut reply);
        }
        parse(&reply).unwrap_or_else(|error| panic!("{name}: {error}: {}", String::from_utf8_lossy(&reply)))
    }
}

/// The same wall clock that redis-server reads, in microseconds.
#[expect(clippy::disallowed_methods, reason = "the comparison needs the clock of the other process")]
fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

/// A neutral reply as a RESP2 connection would show it: maps and pairs with a score are flat.
fn flat(value: Value, inside_array: bool) -> Vec<Value> {
    match value {
        Value::Array(values) | Value::Set(values) => {
            let pair = inside_array && values.iter().any(|value| matches!(value, Value::Double(_)));
            let values: Vec<Value> = values.into_iter().flat_map(|value| flat(value, true)).collect();
            if pair { values } else { vec![Value::Array(values)] }
        }
        Value::Map(pairs) => {
            let values = pairs.into_iter().flat_map(|(key, value)| [flat(key, true), flat(value, true)]).flatten();
            vec![Value::Array(values.collect())]
        }
        other => vec![other],
    }
}

fn same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Double(ours), Value::Bulk(theirs)) => {
            std::str::from_utf8(theirs).is_ok_and(|text| text.parse::<f64>().is_ok_and(|theirs| theirs == *ours))
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same(ours, theirs))
        }
        _ => ours == theirs,
    }
}

/// Whatever order Redis leaves open is sorted; of hashes the pairs.
fn settled(name: &str, value: Value) -> Value {
    match (name, value) {
        ("SMEMBERS" | "KEYS", Value::Array(mut values)) => {
            values.sort_by_key(|value| format!("{value:?}"));
            Value::Array(values)
        }
        ("HGETALL", Value::Array(values)) => {
            let mut pairs: Vec<&[Value]> = values.chunks(2).collect();
            pairs.sort_by_key(|pair| format!("{pair:?}"));
            Value::Array(pairs.concat())
        }
        (_, value) => value,
    }
}

/// Deadlines are far away, so that no test depends on how fast it runs; the time left is compared roughly.
fn near(name: &str, ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Integer(ours), Value::Integer(theirs)) if name.ends_with("TTL") || name.ends_with("TIME") => {
            (*ours > 0) == (*theirs > 0) && ours.abs_diff(*theirs) <= if name.starts_with('P') { 5000 } else { 5 }
        }
        _ => false,
    }
}

/// What differs, with the commands before it that touched the same key.
fn compare(redis: &mut Redis, ours: &mut Ours, words: &[Vec<u8>], history: &[Vec<Vec<u8>>]) -> Result<(), String> {
    let name = String::from_utf8_lossy(&words[0]).to_uppercase();
    let theirs = settled(&name, redis.call(words));
    let mine = settled(&name, flat(ours.call(words), false).remove(0));
    if same(&mine, &theirs) || near(&name, &mine, &theirs) {
        return Ok(());
    }
    let show =
        |words: &[Vec<u8>]| format!("{:?}", words.iter().map(|w| String::from_utf8_lossy(w)).collect::<Vec<_>>());
    let related = history.iter().filter(|before| words.get(1).is_some_and(|key| before.contains(key)));
    let related: Vec<String> = related.map(|before| show(before)).collect();
    let related = related[related.len().saturating_sub(12)..].join("\n  ");
    Err(format!("{}\n  ours:  {mine:?}\n  redis: {theirs:?}\nafter\n  {related}\n", show(words)))
}

fn pick<'a>(random: &mut dyn Rng, from: &[&'a str]) -> &'a str {
    from[random.next_u32() as usize % from.len()]
}

fn number(random: &mut dyn Rng, below: u32) -> u32 {
    random.next_u32() % below
}

const LARGE: &str = "9223372036854775807";
const SMALL: &str = "-9223372036854775808";

/// What stands in a place of a command line.
fn fill(random: &mut dyn Rng, place: &str) -> String {
    match place {
        "KEY" => format!("{}{}", pick(random, &["s", "l", "h", "e", "z", "x"]), number(random, 4)),
        "STR" => format!("s{}", number(random, 4)),
        "LIST" => format!("l{}", number(random, 3)),
        "HASH" => format!("h{}", number(random, 3)),
        "SET" => format!("e{}", number(random, 3)),
        "ZSET" => format!("z{}", number(random, 3)),
        "LEX" => format!("y{}", number(random, 2)),
        "M" => format!("m{}", number(random, 12)),
        "V" => match number(random, 6) {
            0 => number(random, 1000).to_string(),
            1 => "x".repeat(number(random, 70) as usize),
            2 => pick(random, &["", "0", "-0", "01", "+1", "1.5", LARGE, SMALL]).into(),
            3 => pick(random, &["0.1", "3.0e2", "1e400", "abc", "inf", "nan", "0.30000000000000004", "1e-20"]).into(),
            4 if number(random, 5) == 0 => "long ".repeat(number(random, 900) as usize),
            _ => format!("v{}", number(random, 100)),
        },
        "N" => match number(random, 12) {
            0 => pick(random, &["x", "", LARGE, SMALL, "1.0", " 1", "-9223372036854775807"]).into(),
            _ => (i64::from(number(random, 14)) - 6).to_string(),
        },
        "OFFSET" => match number(random, 12) {
            0 => pick(random, &["x", "", LARGE, SMALL, "536870912", "-1"]).into(),
            _ => number(random, 2000).to_string(),
        },
        "F" => match number(random, 8) {
            0 => pick(random, &["inf", "-inf", "nan", "x", "", "1e300", "+inf", "1e-400", "-0"]).into(),
            1 => format!("{}", f64::from(random.next_u32()) / 7.0),
            2 => format!("{}e{}", number(random, 1_000_000), i64::from(number(random, 40)) - 20),
            3 => format!("-0.{}", random.next_u64()),
            4 => format!("{}.{}", random.next_u32(), random.next_u32()),
            _ => (f64::from(number(random, 20)) / 4.0 - 2.0).to_string(),
        },
        "BOUND" => {
            let number = pick(random, &["-inf", "+inf", "0", "1", "-1", "1.5", "2", "3", "x", "", "1e400"]);
            format!("{}{number}", pick(random, &["", "", "("]))
        }
        "LEXBOUND" => match number(random, 6) {
            0 => "-".into(),
            1 => "+".into(),
            2 => pick(random, &["m", "", "(", "[", "++"]).into(),
            3 => format!("(m{}", number(random, 12)),
            _ => format!("[m{}", number(random, 12)),
        },
        "FAR" => match number(random, 10) {
            0 => pick(random, &["0", "-1", "x", LARGE, SMALL, "9223372036854775"]).into(),
            _ => (1_000_000 + number(random, 100_000_000)).to_string(),
        },
        "FARAT" => match number(random, 10) {
            0 => pick(random, &["0", "-1", "x", LARGE, SMALL, "9223372036854775"]).into(),
            _ => (4_000_000_000u64 + u64::from(number(random, 1_000_000))).to_string(),
        },
        "FARMSAT" => (4_000_000_000_000u64 + u64::from(number(random, 1_000_000))).to_string(),
        "COND" => pick(random, &["NX", "XX", "gt", "lt", "bad"]).into(),
        "PATTERN" => pick(random, &["*", "s*", "?1", "[lh]*", "[^s]?", "e\\1", "[a-z]2", "[", "*[12"]).into(),
        literal => literal.into(),
    }
}

/// Command lines; a word in brackets is left out most of the time, one with `+` is repeated up to twice.
const LINES: &[&str] = &[
    "SET STR V",
    "SET KEY V [NX] [XX] [GET] [KEEPTTL]",
    "SET STR V [GET] EX FAR",
    "SET STR V PX FAR [NX]",
    "SET STR V EXAT FARAT [XX]",
    "SET STR V PXAT FARMSAT",
    "SET STR V [EX] [FAR] [KEEPTTL] [PX] [FAR]",
    "SET STR V EX FAR EX FAR",
    "SET STR V EXAT FARAT EXAT FARAT [EX] [FAR]",
    "SET STR V EX V EX FAR",
    "GET KEY",
    "GET STR",
    "SETNX KEY V",
    "SETEX STR FAR V",
    "PSETEX KEY FAR V",
    "GETSET KEY V",
    "GETDEL KEY",
    "GETEX KEY [PERSIST]",
    "GETEX STR EX FAR",
    "GETEX STR PX FAR PX FAR",
    "GETEX STR [PX] [FAR] [PERSIST]",
    "GETEX STR EXAT FARAT",
    "MGET KEY KEY+ KEY",
    "MSET STR V [STR] [V]",
    "MSETNX STR V KEY V",
    "APPEND KEY V",
    "APPEND STR V",
    "STRLEN KEY",
    "GETRANGE KEY N N",
    "GETRANGE STR N N",
    "GETRANGE STR OFFSET N",
    "SETRANGE KEY N V",
    "SETRANGE STR OFFSET V",
    "INCR KEY",
    "INCR STR",
    "DECR STR",
    "INCRBY STR N",
    "DECRBY STR N",
    "INCRBYFLOAT STR F",
    "INCRBYFLOAT STR F",
    "INCRBYFLOAT KEY V",
    "SET STR F",
    "SET STR N",
    "DEL KEY [KEY]",
    "UNLINK KEY",
    "EXISTS KEY KEY+",
    "TYPE KEY",
    "KEYS PATTERN",
    "TOUCH KEY KEY",
    "RENAME KEY KEY",
    "RENAMENX KEY KEY",
    "COPY KEY KEY [REPLACE]",
    "EXPIRE KEY FAR [COND] [COND]",
    "PEXPIRE KEY FAR [COND]",
    "EXPIREAT KEY FARAT [COND]",
    "PEXPIREAT KEY FARMSAT [COND]",
    "TTL KEY",
    "PTTL KEY",
    "EXPIRETIME KEY",
    "PEXPIRETIME KEY",
    "PERSIST KEY",
    "LPUSH LIST M M+",
    "RPUSH LIST M M+",
    "LPUSH KEY M",
    "LPOP LIST [N]",
    "RPOP LIST [N]",
    "LPOP KEY [N] [N]",
    "LRANGE LIST N N",
    "LRANGE KEY N N",
    "LLEN KEY",
    "LINDEX LIST N",
    "LINDEX KEY N",
    "LSET LIST N M",
    "LSET KEY N M",
    "LREM LIST N M",
    "LREM KEY N M",
    "LTRIM LIST N N",
    "LTRIM KEY N N",
    "SADD SET M M+",
    "SADD KEY M",
    "SREM SET M M+",
    "SREM KEY M",
    "SMEMBERS SET",
    "SMEMBERS KEY",
    "SISMEMBER SET M",
    "SCARD KEY",
    "HSET HASH M V [M] [V]",
    "HSET KEY M V",
    "HMSET HASH M V M V",
    "HGET HASH M",
    "HGET KEY M",
    "HMGET HASH M M+",
    "HMGET KEY M",
    "HDEL HASH M M+",
    "HDEL KEY M",
    "HGETALL HASH",
    "HGETALL KEY",
    "HLEN KEY",
    "HEXISTS HASH M",
    "HEXISTS KEY M",
    "ZADD ZSET F M",
    "ZADD ZSET [NX] [XX] [GT] [LT] [CH] F M F M",
    "ZADD ZSET [XX] [GT] [CH] INCR F M",
    "ZADD KEY F M",
    "ZADD ZSET [NX] [CH] F M [F]",
    "ZADD LEX 0 M 0 M 0 M",
    "ZREM LEX M",
    "ZREM ZSET M M+",
    "ZREM KEY M",
    "ZSCORE ZSET M",
    "ZSCORE KEY M",
    "ZCARD KEY",
    "ZRANGE ZSET N N [REV] [WITHSCORES]",
    "ZRANGE ZSET BOUND BOUND BYSCORE [REV] [WITHSCORES]",
    "ZRANGE ZSET BOUND BOUND [REV] BYSCORE LIMIT N N [WITHSCORES]",
    "ZRANGE LEX LEXBOUND LEXBOUND BYLEX [REV]",
    "ZRANGE LEX LEXBOUND LEXBOUND BYLEX [REV] LIMIT N N",
    "ZRANGE ZSET N N [BYLEX] [WITHSCORES] [LIMIT] [N] [N]",
    "ZRANGE KEY N N",
    "ZPOPMIN ZSET [N]",
    "ZPOPMIN KEY [N] [N]",
    "SPOP KEY N N",
    "SPOP x9 [N]",
    "SRANDMEMBER x9 [N]",
    "SCAN x",
    "SCAN 0 COUNT 0",
    "SCAN 0 MATCH",
    "SCAN 0 COUNT x",
    "SCAN 0 BAD x",
    "FLUSHALL BAD",
    "DBSIZE",
];

fn random_line(random: &mut dyn Rng) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let line = LINES[random.next_u32() as usize % LINES.len()];
    let (name, places) = line.split_once(' ').unwrap_or((line, ""));
    words.push(name.as_bytes().to_vec());
    for place in places.split_terminator(' ') {
        let times = if place.starts_with('[') {
            u32::from(number(random, 3) == 0)
        } else if place.ends_with('+') {
            number(random, 3)
        } else {
            1
        };
        let place = place.trim_matches(['[', ']', '+']);
        words.extend((0..times).map(|_| fill(random, place).into_bytes()));
    }
    words
}

#[test]
fn replies_are_those_of_redis() {
    let Some(mut redis) = Redis::start() else {
        eprintln!("SKIPPED: no redis-server in the path, nothing was compared");
        return;
    };
    let mut ours = Ours::new();
    let seeds = std::env::var("ORACLE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let mut different = Vec::new();
    for seed in 0..seeds {
        let mut random = seeded(seed);
        let mut history = Vec::new();
        for _ in 0..4000 {
            let words = random_line(&mut random);
            let result = compare(&mut redis, &mut ours, &words, &history);
            history.push(words);
            if let Err(what) = result {
                different.push(what);
                break;
            }
        }
        compare(&mut redis, &mut ours, &[b"FLUSHALL".to_vec()], &[]).unwrap();
    }
    assert!(different.is_empty(), "{} of {seeds} seeds differ:\n{}", different.len(), different.join("\n"));
}

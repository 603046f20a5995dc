//! The edge against a real `redis-server`: the same bytes in, the same bytes out. Skipped, saying so, where there is
//! none. Only what belongs to a connection is compared; what commands do to data is the machine's affair.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use proptest::{prelude::*, test_runner::TestRunner};

use super::{
    Connection, Limits,
    tests::{Peer, array},
};

/// A server of its own on a socket in a directory of its own; stopped when dropped.
struct Redis {
    process: Child,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Redis {
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("redis.sock");
        let spawned = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut process) = spawned else {
            eprintln!("SKIPPED: no redis-server in the path, nothing was compared");
            return None;
        };
        let log = BufReader::new(process.stdout.take().unwrap());
        assert!(log.lines().map_while(Result::ok).any(|line| line.contains("ready to accept connections")));
        Some(Self { process, socket, _directory: directory })
    }

    /// What the server answers to `bytes`, until it has nothing left to say, and the number of that connection.
    fn answer(&self, bytes: &[u8]) -> (u64, Vec<u8>) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.write_all(b"CLIENT ID\r\n").unwrap();
        let mut id = String::new();
        BufReader::with_capacity(1, &mut stream).read_line(&mut id).unwrap();
        // A server that hangs up early does not have to read everything.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        (id.trim_matches([':', '\r', '\n']).parse().unwrap(), answer)
    }

    fn compare(&self, bytes: &[u8]) -> Result<(), TestCaseError> {
        let (id, theirs) = self.answer(bytes);
        let mut peer = Peer::new();
        peer.serving = super::Serving::Primary;
        peer.status.role = super::Role::Primary { backups: Vec::new() };
        peer.connection = Connection::new(id, String::new(), Limits::default(), 0);
        peer.hear(bytes);
        prop_assert_eq!(
            theirs.escape_ascii().to_string(),
            peer.written.escape_ascii().to_string(),
            "to {}",
            bytes[..bytes.len().min(300)].escape_ascii()
        );
        Ok(())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One request each, words apart by spaces.
const REQUESTS: &str = "\
HELLO|HELLO 2|HELLO 3|HELLO 4|HELLO x|HELLO 3 AUTH|HELLO 3 AUTH default x|HELLO 3 AUTH foo x|HELLO 3 SETNAME|\
HELLO 3 SETNAME bob|HELLO 3 FOO|HELLO 2 SETNAME a AUTH default y|HELLO 3 SETNAME a AUTH foo y|AUTH|AUTH x|\
AUTH default x|AUTH foo x|AUTH a b c|SELECT 0|SELECT 99|SELECT -1|SELECT x|SELECT|CLIENT|CLIENT FOO|CLIENT ID|\
CLIENT ID x|CLIENT SETNAME|CLIENT SETNAME a|CLIENT GETNAME|CLIENT NO-EVICT|CLIENT NO-EVICT x|CLIENT NO-EVICT on|\
CLIENT REPLY|CLIENT REPLY x|CLIENT REPLY ON|CLIENT REPLY OFF|CLIENT LIST TYPE x|CLIENT LIST TYPE|\
CLIENT LIST TYPE master|CLIENT LIST ID x|CLIENT LIST ID 1|CLIENT LIST FOO|CLIENT LIST FOO BAR|CLIENT INFO x|\
CLIENT HELP x|COMMAND FOO|COMMAND COUNT x|COMMAND INFO nosuch|COMMAND LIST FOO|COMMAND LIST FILTERBY PATTERN nosuch*|\
COMMAND LIST FILTERBY FOO bar|COMMAND GETKEYS|COMMAND GETKEYS foo|COMMAND GETKEYS get|COMMAND GETKEYS foo a|\
COMMAND GETKEYS ping a|COMMAND GETKEYS get a b|COMMAND GETKEYS mset a 1 b 2|COMMAND GETKEYS del a b c|\
COMMAND GETKEYS rename a b|COMMAND GETKEYS set a b|COMMAND DOCS nosuch|RESET|RESET x|QUIT|QUIT x|PING|PING a|PING a b|\
ECHO|ECHO a|ECHO a b|WAIT|WAIT x 0|WAIT 0 x|WAIT 0 -1|WAIT 0|CONFIG|CONFIG GET|CONFIG GET nosuch|CONFIG GET save|\
CONFIG GET appendonly|CONFIG GET APPENDONL[y]|CONFIG GET maxmemory-policy maxmemory-polic?|CONFIG SET|CONFIG SET a|\
CONFIG SET a b c|CONFIG SET nosuch 1|CONFIG SET NoSuch 1|CONFIG SET save a nosuch 1|CONFIG SET maxclients 5 maxclients 6|\
CONFIG RESETSTAT|CONFIG RESETSTAT x|CONFIG REWRITE|CONFIG FOO|INFO nosuch|\
INFO cluster|INFO cluster keyspace|INFO CLUSTER|ROLE|ROLE x|POST|post a b|Host: x|nosuch|nosuch a b|NOSUCH a b c|GET|\
get a b|SET a|LPUSH a|ZADD a 1|CLUSTER|CLUSTER INFO|CLUSTER FOO|READONLY|READWRITE|ASKING|TIME x|DBSIZE x|KEYS|\
MGET|MSET a|HSET a b|EXPIRE a|GETRANGE a 1|SCAN|TYPE|OBJEKT a|debugg";

#[test]
fn requests_are_answered_as_by_redis() {
    let Some(redis) = Redis::start() else { return };
    for line in REQUESTS.split('|') {
        let words: Vec<&str> = line.split(' ').collect();
        redis.compare(&array(&words)).unwrap();
        // Redis hangs up on HTTP at once, we after the earlier replies.
        if matches!(words[0], "POST" | "post" | "Host:") {
            continue;
        }
        redis.compare(&[&b"HELLO 3\r\n"[..], &array(&words), b"PING\r\nCLIENT GETNAME\r\n"].concat()).unwrap();
    }
    let long = "x".repeat(200);
    for words in [
        &["nosuch", &long, "b"][..],
        &[&long, &long[..100], &long[..50], "c"],
        &["n\r\ns", "a\nb"],
        &["nos\0uch", "a\0b", ""],
        &["HELLO", "3", "SETNAME", "a b"],
        &["CLIENT", "SETNAME", "a b"],
        &["CLIENT", "SETNAME", "\u{e9}"],
        &["CLIENT", "SETNAME", ""],
        &["CLIENT", "a\r\nb"],
        &["CLIENT", &long],
        &[""],
        &["GET", "k", ""],
    ] {
        redis.compare(&array(words)).unwrap();
    }
}

#[test]
fn bad_requests_are_answered_as_by_redis() {
    let Some(redis) = Redis::start() else { return };
    for bytes in [
        &b"*x\r\nPING\r\n"[..],
        b"*99999999999\r\nPING\r\n",
        b"*-1\r\nPING\r\n",
        b"*0\r\nPING\r\n",
        b"*-0\r\nPING\r\n",
        b"*03\r\nPING\r\n",
        b"*+1\r\nPING\r\n",
        b"* 1\r\nPING\r\n",
        b"*\r\nPING\r\n",
        b"*1\r\nfoo\r\nPING\r\n",
        b"*1\r\n\r\nPING\r\n",
        b"*1\r\n$-1\r\nPING\r\n",
        b"*1\r\n$x\r\nPING\r\n",
        b"*1\r\n$04\r\nPING\r\n",
        b"*1\r\n$99999999999\r\nPING\r\n",
        b"*1\r\n$\xff\r\nPING\r\n",
        b"*1\r\n\xff$\r\nPING\r\n",
        b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\r\n",
        b"*1\rx$4\r\nPING\r\n",
        b"PING 'a\r\nPING\r\n",
        b"PING \"a\"b\r\nPING\r\n",
        b"PING 'a'\r\n\r\n \nPING\n",
        b"PING \"\" \r\nECHO ''\n",
        b"ECHO \"a\\x41\\n\\q\\\\\"\nECHO 'it\\'s'\n",
        b"ECHO a\tb\nECHO a'b'\nECHO 'a'b\n",
        b"CLIENT REPLY SKIP\nPING\nPING\n",
        b"CLIENT REPLY OFF\nPING\nCLIENT REPLY SKIP\nPING\nCLIENT REPLY ON\nPING\n",
        b"CLIENT REPLY OFF\n*x\r\n",
        b"HELLO 3\nRESET\nCLIENT GETNAME\n",
        b"PING\r\n*x\r\nPING\r\n",
    ] {
        redis.compare(bytes).unwrap();
    }
    for (head, filler) in [("*", "1"), ("*1\r\n$", "1"), ("*1\r\n", "x"), ("", "a"), ("'", "a")] {
        redis.compare(format!("PING\r\n{head}{}", filler.repeat(70_000)).as_bytes()).unwrap();
    }
}

#[test]
fn nonsense_is_answered_as_by_redis() {
    let Some(redis) = Redis::start() else { return };
    let bit = prop::sample::select(vec![
        "*1\r\n",
        "*2\r\n",
        "*0\r\n",
        "*-1\r\n",
        "$4\r\n",
        "$0\r\n",
        "$1\r\n",
        "PING",
        "ECHO",
        "\r\n",
        "\n",
        "\r",
        " ",
        "'",
        "\"",
        "\\",
        "\\x4",
        "1",
        "*",
        "$",
        "-",
        "x",
        "a\r\n",
        "$4\r\nPING\r\n",
        "$4\r\nECHO\r\n",
        "ECHO a\r\n",
        "CLIENT REPLY SKIP\r\n",
        "HELLO 3\r\n",
        "RESET\r\n",
        "client getname\n",
        "\t",
        "\u{b}",
    ]);
    TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })
        .run(&prop::collection::vec(bit, 0..25), |bits| redis.compare(bits.concat().as_bytes()))
        .unwrap();
}

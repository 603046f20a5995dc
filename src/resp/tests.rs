//! The connection as a client sees it.

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::machine::kv::operation;

/// A connection and everything it gave, with Redis' server replaced by an echo of what it was asked to do.
pub(super) struct Peer {
    pub(super) connection: Connection,
    pub(super) serving: Serving,
    pub(super) status: Status,
    /// What was written, in order.
    pub(super) written: Vec<u8>,
    /// The operations that were to be executed, name first.
    pub(super) executed: Vec<Vec<Vec<u8>>>,
    pub(super) actions: Vec<Action>,
    pub(super) closed: bool,
}

impl Peer {
    pub(super) fn new() -> Self {
        Self::limited(Limits::default())
    }

    fn limited(limits: Limits) -> Self {
        Self {
            connection: Connection::new(7, "127.0.0.1:5000".to_owned(), limits, 1_000),
            serving: Serving::Primary,
            status: Status::default(),
            written: Vec::new(),
            executed: Vec::new(),
            actions: Vec::new(),
            closed: false,
        }
    }

    /// Bytes arrive; every operation is answered with `+done`.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        self.connection.buffer().extend_from_slice(bytes);
        let mut operation = b"left over".to_vec();
        while let Some(action) = self.connection.next(&self.serving, &mut operation) {
            let mut out = BytesMut::new();
            match &action {
                Action::Execute(access) => {
                    let (command, arguments) = operation::decode(&operation).unwrap();
                    assert_eq!(command.spec().access, *access);
                    let mut words = vec![command.spec().name.as_bytes().to_vec()];
                    words.extend(arguments.map(<[u8]>::to_vec));
                    self.executed.push(words);
                    self.connection.encode_reply(b"+done\r\n", &mut out);
                }
                Action::Write(bytes) => out.extend_from_slice(bytes),
                Action::Wait { .. } => self.connection.encode_reply(b":1\r\n", &mut out),
                Action::Status(question) => self.connection.answer(question, &self.status, &mut out),
                Action::Close { after } => {
                    out.extend_from_slice(after);
                    self.closed = true;
                }
            }
            self.written.extend_from_slice(&out);
            self.actions.push(action);
        }
    }

    /// What is written in answer to an inline request.
    pub(super) fn ask(&mut self, line: &str) -> String {
        self.written.clear();
        self.hear(format!("{line}\r\n").as_bytes());
        String::from_utf8(std::mem::take(&mut self.written)).unwrap()
    }
}

/// The request as an array of strings.
pub(super) fn array(words: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.as_ref().len()).as_bytes());
        bytes.extend_from_slice(word.as_ref());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

#[test]
fn the_edges_commands_answer_as_redis_does() {
    for (line, expected) in [
        ("PING", "+PONG\r\n"),
        ("ping hello", "$5\r\nhello\r\n"),
        ("PING a b", "-ERR wrong number of arguments for 'ping' command\r\n"),
        ("ECHO \"a b\"", "$3\r\na b\r\n"),
        ("SELECT 0", "+OK\r\n"),
        ("SELECT 1", "-ERR DB index is out of range\r\n"),
        ("SELECT x", "-ERR value is not an integer or out of range\r\n"),
        ("AUTH default x", "+OK\r\n"),
        ("AUTH foo x", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        ("AUTH a b c", "-ERR syntax error\r\n"),
        ("CLIENT ID", ":7\r\n"),
        ("CLIENT GETNAME", "$-1\r\n"),
        ("CLIENT NO-EVICT on", "+OK\r\n"),
        ("CLIENT NO-TOUCH off", "+OK\r\n"),
        ("CLIENT NO-TOUCH x", "-ERR syntax error\r\n"),
        ("CLIENT SETINFO lib-name redis-rs", "+OK\r\n"),
        ("CLIENT SETINFO lib-ver 'a b'", "-ERR lib-ver cannot contain spaces, newlines or special characters.\r\n"),
        ("CLIENT SETINFO x y", "-ERR Unrecognized option 'x'\r\n"),
        ("CLIENT FOO", "-ERR unknown subcommand 'FOO'. Try CLIENT HELP.\r\n"),
        ("CLIENT LIST TYPE master", "$0\r\n\r\n"),
        ("CLUSTER INFO", "-ERR This instance has cluster support disabled\r\n"),
        ("COMMAND COUNT", ":92\r\n"),
        ("COMMAND GETKEYS mset a 1 b 2", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
        ("COMMAND GETKEYS rename a b", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
        ("COMMAND GETKEYS dbsize a", "-ERR The command has no key arguments\r\n"),
        ("COMMAND GETKEYS get a b", "-ERR Invalid number of arguments specified for command\r\n"),
        ("COMMAND GETKEYS nosuch a", "-ERR Invalid command specified\r\n"),
        ("COMMAND LIST FILTERBY PATTERN hg*", "*2\r\n$4\r\nhget\r\n$7\r\nhgetall\r\n"),
        ("COMMAND INFO nosuch", "*1\r\n$-1\r\n"),
        (
            "COMMAND INFO get",
            "*1\r\n*10\r\n$3\r\nget\r\n:2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n*1\r\n+@read\r\n*0\r\n*0\r\n*0\r\n",
        ),
        ("WAIT 1 100", ":1\r\n"),
        ("WAIT 1 -1", "-ERR timeout is negative\r\n"),
        ("CONFIG GET sav* save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        (
            "CONFIG SET save a Save b",
            "-ERR CONFIG SET failed (possibly related to argument 'save') - duplicate parameter\r\n",
        ),
        ("CONFIG SET save a", "+OK\r\n"),
        ("CONFIG REWRITE", "-ERR The server is running without a config file\r\n"),
        ("CONFIG RESETSTAT", "+OK\r\n"),
        ("INFO nosuch", "$0\r\n\r\n"),
        ("INFO cluster", "$30\r\n# Cluster\r\ncluster_enabled:0\r\n\r\n"),
        ("ROLE", "*5\r\n$5\r\nslave\r\n$0\r\n\r\n:0\r\n$7\r\nconnect\r\n:0\r\n"),
        ("RESET", "+RESET\r\n"),
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("nosuch a b", "-ERR unknown command 'nosuch', with args beginning with: 'a' 'b' \r\n"),
    ] {
        assert_eq!(Peer::new().ask(line), expected, "{line}");
    }
}

#[test]
fn a_name_is_kept_until_reset() {
    let mut peer = Peer::new();
    assert_eq!(peer.ask("CLIENT SETNAME bob"), "+OK\r\n");
    assert_eq!(peer.ask("CLIENT GETNAME"), "$3\r\nbob\r\n");
    let line = peer.ask("CLIENT INFO");
    assert!(line.contains(" name=bob ") && line.contains(" cmd=client|info ") && line.contains("id=7 "), "{line}");
    assert_eq!(peer.ask("RESET"), "+RESET\r\n");
    assert_eq!(peer.ask("CLIENT GETNAME"), "$-1\r\n");
    assert!(peer.ask(&format!("CLIENT SETNAME {}", "x".repeat(2000))).starts_with("-ERR"));
}

#[test]
fn hello_switches_the_protocol_from_its_own_reply_on() {
    let mut peer = Peer::new();
    peer.status.role = Role::Primary { backups: Vec::new() };
    assert!(peer.ask("HELLO").starts_with("*14\r\n$6\r\nserver\r\n"));
    assert!(peer.ask("HELLO 3 SETNAME bob").starts_with("%7\r\n$6\r\nserver\r\n"));
    assert_eq!(peer.connection.format(), Format::Resp3);
    assert_eq!(peer.ask("CLIENT GETNAME"), "$3\r\nbob\r\n");
    assert_eq!(peer.ask("INFO cluster"), "=34\r\ntxt:# Cluster\r\ncluster_enabled:0\r\n\r\n");
    for refused in ["HELLO 4", "HELLO x", "HELLO 2 AUTH foo x", "HELLO 2 FOO", "HELLO 2 SETNAME", "HELLO 2 AUTH a"] {
        assert!(peer.ask(refused).starts_with('-'), "{refused}");
        assert_eq!(peer.connection.format(), Format::Resp3, "{refused}");
    }
    assert!(peer.ask("HELLO 2 AUTH default x").contains("$6\r\nmaster\r\n"));
    assert_eq!(peer.connection.format(), Format::Resp2);
    (peer.serving, peer.status.role) = (Serving::Loading, Status::default().role);
    assert!(peer.ask("HELLO").contains("$7\r\nreplica\r\n"));
}

#[test]
fn replies_are_left_out_when_the_client_says_so() {
    let mut peer = Peer::new();
    peer.hear(b"CLIENT REPLY SKIP\nGET a\nGET b\n");
    assert_eq!((peer.written.as_slice(), peer.executed.len()), (&b"+done\r\n"[..], 2));
    peer.written.clear();
    peer.hear(b"CLIENT REPLY OFF\nPING\nSET a b\nnosuch\nCLIENT REPLY SKIP\nROLE\nCLIENT REPLY ON\nPING\n");
    assert_eq!(peer.written, b"+OK\r\n+PONG\r\n");
    peer.written.clear();
    peer.hear(b"CLIENT REPLY OFF\nQUIT\n");
    assert!(peer.closed && peer.written.is_empty());
}

#[test]
fn a_replica_that_is_not_primary_refuses_the_machines_commands_only() {
    let mut peer = Peer::new();
    peer.serving = Serving::ReadOnly { primary: Some("10.0.0.1:6379".to_owned()) };
    let refusal = "-READONLY You can't write against a read only replica. The primary is 10.0.0.1:6379.\r\n";
    for line in ["GET a", "SET a b", "TIME", "WAIT 1 1"] {
        assert_eq!(peer.ask(line), refusal, "{line}");
    }
    for line in [
        "PING",
        "ECHO a",
        "HELLO",
        "CLIENT ID",
        "COMMAND COUNT",
        "CONFIG GET save",
        "INFO",
        "ROLE",
        "SELECT 0",
        "RESET",
    ] {
        assert!(!peer.ask(line).starts_with('-'), "{line}");
    }
    assert!(peer.ask("SET").starts_with("-ERR wrong number"));
    peer.serving = Serving::ReadOnly { primary: None };
    assert_eq!(peer.ask("GET a"), "-READONLY You can't write against a read only replica.\r\n");
    peer.serving = Serving::Loading;
    assert_eq!(peer.ask("GET a"), "-LOADING Redis is loading the dataset in memory\r\n");
    assert!(peer.executed.is_empty());
}

#[test]
fn quit_and_http_end_the_connection() {
    for (bytes, last) in
        [(&b"QUIT\r\nPING\r\n"[..], "+OK\r\n"), (b"POST / HTTP/1.1\r\nPING\r\n", ""), (b"*1\r\n$5\r\nhost:\r\n", "")]
    {
        let mut peer = Peer::new();
        peer.hear(bytes);
        assert_eq!((peer.closed, peer.written.as_slice()), (true, last.as_bytes()));
        peer.written.clear();
        peer.hear(b"PING\r\n");
        assert!(peer.written.is_empty() && !peer.connection.has_input(), "nothing follows the end");
    }
}

#[test]
fn bad_requests_end_the_connection_with_redis_words() {
    let endless = [b"*".to_vec(), vec![b'1'; 70_000]].concat();
    let endless_bulk = [b"*1\r\n$".to_vec(), vec![b'1'; 70_000]].concat();
    let long = vec![b'a'; 70_000];
    for (bytes, message) in [
        (&b"*x\r\n"[..], "invalid multibulk length"),
        (b"*03\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\nfoo\r\n", "expected '$', got 'f'"),
        (b"*1\r\n\r\n", "expected '$', got ' '"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (&endless, "too big mbulk count string"),
        (&endless_bulk, "too big bulk count string"),
        (&long, "too big inline request"),
        (b"PING 'a\r\n", "unbalanced quotes in request"),
    ] {
        let mut peer = Peer::new();
        peer.hear(b"PING\r\n");
        peer.hear(bytes);
        let expected = format!("+PONG\r\n-ERR Protocol error: {message}\r\n");
        assert_eq!((peer.closed, String::from_utf8_lossy(&peer.written)), (true, expected.into()));
    }
}

#[test]
fn empty_requests_are_nothing() {
    let mut peer = Peer::new();
    peer.hear(b"\r\n\n  \r\n*0\r\n*-1\r\n*-7\r\nPING\r\n");
    assert_eq!(peer.written, b"+PONG\r\n");
}

/// What a request beyond the limits is answered with.
const TOO_LONG: &str = "-ERR request too long: it may have 1000 bytes in all (max-request) and 900 in one string; longer values grow by APPEND\r\n";

fn tight() -> Peer {
    Peer::limited(Limits { max_request: 1000, max_bulk: 900, ..Limits::default() })
}

#[test]
fn all_words_together_are_limited() {
    let mut peer = tight();
    peer.hear(&array(&[&b"ECHO"[..], &[b'x'; 900]]));
    assert!(peer.written.starts_with(b"$900\r\n"));
    peer.written.clear();
    peer.hear(&array(&[&b"DEL"[..], &[b'x'; 500], &[b'x'; 500]]));
    assert_eq!(String::from_utf8_lossy(&peer.written), TOO_LONG);
    assert_eq!(peer.ask("PING"), "+PONG\r\n");
}

#[test]
fn a_request_that_is_too_long_is_refused_when_it_is_done_with_however_it_arrives() {
    let long = array(&[&b"SET"[..], b"k", &[b'x'; 901], b"XX", b""]);
    let stream = [&long[..], b"PING\r\n", &long, b"*1\r\n$4\r\nPING\r\n"].concat();
    for piece in [1, 2, 3, 7, 100, 900, 5000] {
        let mut peer = tight();
        for piece in stream.chunks(piece) {
            peer.hear(piece);
            assert!(peer.connection.input_bytes() <= 1000, "what is passed over is not kept");
        }
        let expected = format!("{TOO_LONG}+PONG\r\n{TOO_LONG}+PONG\r\n");
        assert_eq!(String::from_utf8_lossy(&peer.written), expected, "in pieces of {piece}");
        assert!(peer.executed.is_empty() && !peer.closed);
    }
}

#[test]
fn a_length_above_512_mib_is_none_as_in_redis() {
    for before in ["", "$901\r\n"] {
        let mut peer = tight();
        peer.hear(format!("*3\r\n{before}").as_bytes());
        if !before.is_empty() {
            peer.hear(&[b'x'; 903]);
        }
        peer.hear(b"$536870913\r\n");
        assert!(peer.closed);
        assert_eq!(String::from_utf8_lossy(&peer.written), "-ERR Protocol error: invalid bulk length\r\n");
    }
    let mut peer = tight();
    peer.hear(b"*3\r\n$536870912\r\n");
    assert!(!peer.closed && peer.written.is_empty());
}

#[test]
fn memory_follows_what_arrived_and_not_what_was_announced() {
    let mut peer = Peer::new();
    peer.hear(b"*1000000\r\n$60000000\r\n");
    assert!(peer.connection.buffer().capacity() < 64 << 10);
    let mut peer = Peer::new();
    peer.hear(&array(&[&b"SET"[..], b"k", &vec![b'x'; 8 << 20]]));
    assert_eq!(peer.executed.len(), 1);
    assert!(peer.connection.buffer().capacity() < 1 << 20, "a large request's room is given back");
}

#[test]
fn a_large_request_in_small_pieces_is_not_read_again_and_again() {
    // Quadratic work on 16 MiB in pieces of 1 KiB would be 128 GiB of bytes looked at: this would not end.
    let mut peer = Peer::new();
    let request = array(&[&b"SET"[..], b"k", &vec![b'\r'; 16 << 20]]);
    request.chunks(1 << 10).for_each(|piece| peer.hear(piece));
    assert_eq!(peer.executed[0][2].len(), 16 << 20);
    let words: Vec<&[u8]> = std::iter::once(&b"DEL"[..]).chain(std::iter::repeat_n(&b"k"[..], 200_000)).collect();
    array(&words).chunks(100).for_each(|piece| peer.hear(piece));
    assert_eq!(peer.executed[1].len(), 200_001);
}

#[test]
fn settings_and_their_refusals() {
    let mut peer = Peer::new();
    peer.status.config = vec![("suspect-after".to_owned(), "500ms".to_owned()), ("save".to_owned(), "x".to_owned())];
    assert_eq!(peer.ask("CONFIG GET suspect-*"), "*2\r\n$13\r\nsuspect-after\r\n$5\r\n500ms\r\n");
    assert_eq!(peer.ask("CONFIG GET save"), "*2\r\n$4\r\nsave\r\n$1\r\nx\r\n");
    assert_eq!(peer.ask("CONFIG SET Foo 1"), "-ERR Unknown option or number of arguments for CONFIG SET - 'Foo'\r\n");
    assert!(!peer.actions.iter().any(|action| matches!(action, Action::Status(StatusQuestion::ConfigSet(_)))));
    peer.status.config_refusal = Some(ConfigRefusal::Immutable { name: "port".to_owned() });
    let refused = "-ERR CONFIG SET failed (possibly related to argument 'port') - can't set immutable config\r\n";
    assert_eq!(peer.ask("CONFIG SET PORT 1"), refused);
    let asked = StatusQuestion::ConfigSet(vec![("port".to_owned(), "1".to_owned())]);
    assert_eq!(peer.actions.last(), Some(&Action::Status(asked)));
}

#[test]
fn a_primary_tells_of_its_backups() {
    let backup =
        |port, state| Backup { address: Address { host: "10.0.0.2".to_owned(), port }, state, index: 41, lag_s: 1 };
    let mut peer = Peer::new();
    peer.status.commit_index = 42;
    peer.status.role =
        Role::Primary { backups: vec![backup(6380, BackupState::Online), backup(6381, BackupState::Transfer)] };
    assert_eq!(
        peer.ask("ROLE"),
        "*3\r\n$6\r\nmaster\r\n:42\r\n*1\r\n*3\r\n$8\r\n10.0.0.2\r\n$4\r\n6380\r\n$2\r\n41\r\n"
    );
    let text = peer.ask("INFO replication");
    for line in [
        "role:master",
        "connected_slaves:2",
        "slave0:ip=10.0.0.2,port=6380,state=online,offset=41,lag=1",
        "slave1:ip=10.0.0.2,port=6381,state=send_bulk,offset=41,lag=1",
        "master_repl_offset:42",
    ] {
        assert!(text.contains(&format!("\r\n{line}\r\n")), "{line} in {text}");
    }
}

#[test]
fn a_backup_tells_of_its_primary() {
    let mut peer = Peer::new();
    peer.status.applied_index = 40;
    peer.status.role = Role::Other {
        name: "backup",
        primary: Some(Address { host: "10.0.0.1".to_owned(), port: 6379 }),
        link: Link::Connected,
        heard_s: Some(0),
    };
    assert_eq!(peer.ask("ROLE"), "*5\r\n$5\r\nslave\r\n$8\r\n10.0.0.1\r\n:6379\r\n$9\r\nconnected\r\n:40\r\n");
    let text = peer.ask("INFO replication cutover");
    for line in ["role:slave", "master_host:10.0.0.1", "master_link_status:up", "cutover_role:backup"] {
        assert!(text.contains(&format!("\r\n{line}\r\n")), "{line} in {text}");
    }
}

#[test]
fn info_shows_every_section_once() {
    let mut peer = Peer::new();
    let plain = peer.ask("INFO");
    let everything = peer.ask("INFO everything");
    for title in ["Server", "Clients", "Memory", "Persistence", "Stats", "Replication", "CPU", "Cluster", "Keyspace"] {
        assert_eq!(plain.matches(&format!("# {title}\r\n")).count(), 1, "{title}");
    }
    assert!(!plain.contains("# Commandstats") && everything.contains("# Commandstats"));
    assert!(everything.contains("redis_mode:standalone\r\n") && everything.contains("redis_version:7.0.15\r\n"));
}

#[test]
fn client_list_shows_whom_it_was_asked_about() {
    let mut peer = Peer::new();
    peer.connection.touch(3_000);
    peer.status.now_ms = 9_000;
    peer.status.redis_address = Address { host: "10.0.0.1".to_owned(), port: 6379 };
    peer.status.clients = vec![peer.connection.client(), Client { id: 8, ..peer.connection.client() }];
    let both = peer.ask("CLIENT LIST");
    assert!(both.contains("id=7 addr=127.0.0.1:5000 laddr=10.0.0.1:6379 ") && both.contains("\nid=8 "), "{both}");
    assert!(both.contains(" age=8 idle=6 flags=N "), "{both}");
    assert_eq!(peer.ask("CLIENT LIST TYPE normal"), both);
    let one = peer.ask("CLIENT LIST ID 8 9");
    assert!(one.contains("id=8 ") && !one.contains("id=7 "), "{one}");
}

#[test]
fn a_reply_keeps_the_format_of_its_own_time() {
    let mut peer = Peer::new();
    let mut operation = Vec::new();
    peer.connection.buffer().extend_from_slice(b"GET a\nHELLO 3\nGET b\n");
    let mut formats = Vec::new();
    while peer.connection.next(&Serving::Primary, &mut operation).is_some() {
        formats.push(peer.connection.format());
    }
    assert_eq!(formats, [Format::Resp2, Format::Resp3, Format::Resp3]);
}

#[test]
fn one_call_does_a_bounded_amount_of_work() {
    let mut peer = Peer::new();
    peer.hear(&b"\n".repeat(10_000));
    assert!(peer.written.is_empty() && (2..100).contains(&peer.actions.len()), "{}", peer.actions.len());
    assert!(!peer.connection.has_input());
}

/// How many whole replies `bytes` are; `None` when they are none.
fn replies(mut bytes: &[u8]) -> Option<usize> {
    let (mut whole, mut missing) = (0, 0usize);
    while let Some((kind, rest)) = bytes.split_first() {
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let (line, after) = (std::str::from_utf8(&rest[..end]).ok()?, &rest[end + 2..]);
        whole += usize::from(missing == 0);
        missing = missing.saturating_sub(1);
        bytes = match kind {
            b'$' if line == "-1" => after,
            b'$' | b'=' => after.get(line.parse::<usize>().ok()?..)?.strip_prefix(b"\r\n")?,
            b'*' | b'~' | b'%' => {
                missing += line.parse::<usize>().ok()? * if *kind == b'%' { 2 } else { 1 };
                after
            }
            b'+' | b'-' | b':' | b'_' => after,
            _ => return None,
        };
    }
    (missing == 0).then_some(whole)
}

#[test]
fn every_answer_is_one_whole_reply_in_either_protocol() {
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut peer = Peer::new();
        peer.ask(hello);
        peer.status.clients = vec![peer.connection.client()];
        for line in [
            "HELLO",
            "COMMAND",
            "COMMAND INFO",
            "COMMAND INFO get client nosuch",
            "COMMAND DOCS",
            "COMMAND DOCS get set x",
            "COMMAND LIST",
            "COMMAND LIST FILTERBY ACLCAT write",
            "COMMAND LIST FILTERBY MODULE x",
            "COMMAND HELP",
            "CLIENT HELP",
            "CLIENT LIST",
            "CLIENT INFO",
            "CONFIG HELP",
            "CONFIG GET *",
            "INFO",
            "INFO all",
            "ROLE",
        ] {
            assert_eq!(replies(peer.ask(line).as_bytes()), Some(1), "{hello} {line}");
        }
    }
}

/// Found by a fuzzer: a line over the limit was a wrong number when it came whole, and endless when it came in pieces.
#[test]
fn a_line_that_is_too_long_is_refused_alike_however_it_arrives() {
    let limits = Limits { max_inline: 100, ..Limits::default() };
    for length in [99, 100, 101, 200] {
        for marker in ["*", "*1\r\n$"] {
            let stream = [marker.as_bytes(), &vec![b'1'; length], b"\r\n"].concat();
            let (mut whole, mut split) = (Peer::limited(limits), Peer::limited(limits));
            whole.hear(&stream);
            stream.chunks(7).for_each(|piece| split.hear(piece));
            assert_eq!(whole.actions, split.actions, "{length} digits behind {marker:?}");
            assert!(whole.closed);
        }
    }
}

/// Requests with the words that `ECHO`, machine commands, odd names and quoting need.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::sample::select(vec![
            &b"SET"[..],
            b"get",
            b"PING",
            b"ECHO",
            b"CLIENT",
            b"HELLO",
            b"3",
            b"INFO",
            b"x",
            b"RESET"
        ])
        .prop_map(<[u8]>::to_vec),
    ];
    prop_oneof![
        6 => prop::collection::vec(word, 1..6).prop_map(|words| array(&words)),
        1 => Just(array(&[&b"SET"[..], b"key", b"value"])),
        1 => prop::sample::select(vec![&b"PING\r\n"[..], b"\r\n", b"*0\r\n", b"*-1\r\n", b"ECHO 'a b'\n", b"SET a \"\\x00\"\r\n"])
            .prop_map(<[u8]>::to_vec),
    ]
}

proptest! {
    #[test]
    fn any_split_parses_to_the_same(
        requests in prop::collection::vec(request(), 0..12),
        pieces in prop::collection::vec(1usize..30, 1..200),
    ) {
        let stream = requests.concat();
        let (mut whole, mut split) = (Peer::new(), Peer::new());
        whole.hear(&stream);
        let mut rest = &stream[..];
        for piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            split.hear(now);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(!whole.connection.has_input());
        prop_assert_eq!(whole.actions, split.actions);
        prop_assert_eq!(whole.executed, split.executed);
    }

    #[test]
    fn garbage_never_panics_or_grows(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(prop::sample::select(b"*$-+:0123456789\r\n'\"\\ xSETPING".to_vec()), 0..40),
                prop::collection::vec(any::<u8>(), 0..40),
                request(),
            ],
            0..40,
        ),
    ) {
        let mut peer = Peer::new();
        let mut heard = 0;
        for piece in pieces {
            heard += piece.len();
            peer.hear(&piece);
            prop_assert!(peer.connection.buffer().capacity() <= (2 * heard).max(64 << 10));
        }
    }
}

//! A pair and its arbiter in one process, over real sockets: what the shell adds to the core.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use cutover_arbiter::record::Mode;
use cutover_arbiter::server;

use super::*;
use crate::machine::kv::KeyValue;
use crate::replica::CreateOptions;

/// One arbiter on a thread of its own, for as long as the test lives; its address.
fn arbiter(directory: &tempfile::TempDir) -> String {
    // The port must be known to the options before it is bound.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let options = server::Options {
        id: 1,
        listen: free.clone(),
        peers: vec![(1, free.clone())],
        data_dir: directory.path().to_owned(),
        ..server::Options::default()
    };
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(server::serve(options, std::future::pending())).unwrap();
    });
    free
}

fn replica(name: &str, arbiter: &str, create: bool) -> Handle {
    replica_with(name, arbiter, create.then_some(1))
}

/// `min_in_sync` for the one that makes the group.
fn replica_with(name: &str, arbiter: &str, min_in_sync: Option<u8>) -> Handle {
    let mut options = Options::new(name.parse().unwrap(), "g".parse().unwrap(), vec![arbiter.to_owned()]);
    options.create = min_in_sync.map(|min_in_sync| CreateOptions { mode: Mode::Memory, min_in_sync });
    start(options, KeyValue::new).unwrap()
}

/// What it says of itself; asked again while a busy machine keeps its loop from answering in time.
fn status(replica: &Handle) -> status::StatusBody {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let mut stream = TcpStream::connect(&replica.addresses().http).unwrap();
        stream.write_all(b"GET /status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        if head.starts_with("HTTP/1.1 200") {
            return serde_json::from_str(body).unwrap();
        }
        assert!(Instant::now() < end, "{said}");
    }
}

/// Asks until it is so.
fn until(what: &str, replica: &Handle, mut so: impl FnMut(&status::StatusBody) -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let seen = status(replica);
        if so(&seen) {
            return;
        }
        assert!(Instant::now() < end, "never {what}: {seen:#?}");
    }
}

/// One command and so many bytes of answer.
fn ask(stream: &mut TcpStream, command: &[u8], length: usize) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(command).unwrap();
    let mut said = vec![0; length];
    stream.read_exact(&mut said).unwrap();
    String::from_utf8(said).unwrap()
}

#[test]
fn only_the_primarys_maxmemory_decides_and_the_copies_stay_equal() {
    let directory = tempfile::tempdir().unwrap();
    let arbiter = arbiter(&directory);
    let first = replica("a", &arbiter, true);
    until("primary", &first, |status| status.serving);
    let second = replica("b", &arbiter, false);
    until("in sync", &second, |status| status.in_sync);

    let mut client = TcpStream::connect(&first.addresses().redis).unwrap();
    let mut other = TcpStream::connect(&second.addresses().redis).unwrap();
    assert_eq!(ask(&mut client, b"SET key value\r\n", 5), "+OK\r\n");
    assert_eq!(ask(&mut other, b"CONFIG SET maxmemory 1\r\n", 5), "+OK\r\n");
    assert_eq!(ask(&mut client, b"SET key2 value\r\n", 5), "+OK\r\n", "a backup's limit refuses nothing");
    assert_eq!(ask(&mut client, b"CONFIG SET maxmemory 1b maxmemory-policy noeviction\r\n", 5), "+OK\r\n");
    let refused = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";
    assert_eq!(ask(&mut client, b"SET key3 value\r\n", refused.len()), refused);
    let shown = "*2\r\n$9\r\nmaxmemory\r\n$1\r\n1\r\n";
    assert_eq!(ask(&mut client, b"CONFIG GET maxmemory\r\n", shown.len()), shown);
    let wrong =
        "-ERR CONFIG SET failed (possibly related to argument 'maxmemory') - argument must be a memory value\r\n";
    assert_eq!(ask(&mut client, b"CONFIG SET maxmemory lots\r\n", wrong.len()), wrong);
    assert_eq!(ask(&mut client, b"DEL key2\r\nWAIT 1 0\r\n", 8), ":1\r\n:1\r\n");
    assert_eq!(ask(&mut other, b"CONFIG SET maxmemory 0\r\n", 5), "+OK\r\n");

    // Both hold the same by the same count, and the backup follows still.
    let (here, last) = (status(&first).machine_bytes, status(&first).applied);
    until("level with the primary", &second, |status| status.in_sync && status.applied >= last);
    assert_eq!(status(&second).machine_bytes, here);
    assert_eq!(status(&first).epoch, status(&second).epoch);

    first.shutdown();
    first.join().unwrap();
    until("primary in its turn", &second, |status| status.serving);
    let mut client = TcpStream::connect(&second.addresses().redis).unwrap();
    assert_eq!(ask(&mut client, b"SET key3 value\r\n", 5), "+OK\r\n", "now its own limit counts, which is none");
    second.shutdown();
    second.shutdown();
    second.join().unwrap();
}

#[test]
fn clients_that_do_not_read_hold_no_more_than_they_may_together_and_the_others_do_not_notice() {
    const VALUE: usize = 1 << 20;
    const ASKED: usize = 32;
    let directory = tempfile::tempdir().unwrap();
    let arbiter = arbiter(&directory);
    let mut options = Options::new("a".parse().unwrap(), "g".parse().unwrap(), vec![arbiter]);
    options.create = Some(CreateOptions { mode: Mode::Memory, min_in_sync: 1 });
    options.max_client_memory = 48 << 20;
    let replica = start(options, KeyValue::new).unwrap();
    until("primary", &replica, |status| status.serving);

    let mut polite = TcpStream::connect(&replica.addresses().redis).unwrap();
    let mut set = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${VALUE}\r\n").into_bytes();
    set.resize(set.len() + VALUE, b'v');
    set.extend_from_slice(b"\r\n");
    assert_eq!(ask(&mut polite, &set, 5), "+OK\r\n");
    // None of them alone holds more than one client may; together they do.
    let mut silent: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut client = TcpStream::connect(&replica.addresses().redis).unwrap();
            client.write_all(&b"GET k\r\n".repeat(ASKED)).unwrap();
            client
        })
        .collect();
    until("rid of one", &replica, |status| status.clients < 5);
    let whole = |client: &mut TcpStream| {
        client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let (mut buffer, mut read) = (vec![0; 1 << 20], 0);
        loop {
            match client.read(&mut buffer) {
                Ok(0) | Err(_) => return read >= ASKED * VALUE,
                Ok(bytes) => read += bytes,
            }
            if read >= ASKED * VALUE {
                return true;
            }
        }
    };
    let served = silent.iter_mut().map(whole).filter(|whole| *whole).count();
    assert!((1..4).contains(&served), "{served} of 4 got everything");
    assert_eq!(ask(&mut polite, b"PING\r\n", 7), "+PONG\r\n");
    replica.shutdown();
    replica.shutdown();
    replica.join().unwrap();
}

#[test]
fn a_pair_forms_answers_and_outlives_its_primary() {
    let directory = tempfile::tempdir().unwrap();
    let arbiter = arbiter(&directory);
    let first = replica("a", &arbiter, true);
    until("primary", &first, |status| status.serving);
    let second = replica("b", &arbiter, false);
    until("in sync", &second, |status| status.in_sync);

    let mut client = TcpStream::connect(&first.addresses().redis).unwrap();
    assert_eq!(ask(&mut client, b"SET key value\r\n", 5), "+OK\r\n");
    assert_eq!(ask(&mut client, b"GET key\r\n", 11), "$5\r\nvalue\r\n");
    assert_eq!(ask(&mut client, b"WAIT 1 0\r\nPING\r\n", 11), ":1\r\n+PONG\r\n");
    let mut other = TcpStream::connect(&second.addresses().redis).unwrap();
    assert!(ask(&mut other, b"GET key\r\n", 9).starts_with("-READONLY"));

    first.shutdown();
    first.join().unwrap();
    until("primary in its turn", &second, |status| status.serving);
    let mut client = TcpStream::connect(&second.addresses().redis).unwrap();
    assert_eq!(ask(&mut client, b"GET key\r\n", 11), "$5\r\nvalue\r\n");
    second.shutdown();
    second.shutdown();
    second.join().unwrap();
}

#[test]
fn a_refusal_does_not_wait_for_what_others_wait_for() {
    let directory = tempfile::tempdir().unwrap();
    let arbiter = arbiter(&directory);
    let first = replica_with("a", &arbiter, Some(2));
    until("primary", &first, |status| status.in_sync);
    let second = replica("b", &arbiter, false);
    until("in sync", &second, |status| status.in_sync);
    let mut client = TcpStream::connect(&first.addresses().redis).unwrap();
    assert_eq!(ask(&mut client, b"SET key value\r\n", 5), "+OK\r\n");
    second.shutdown();
    second.join().unwrap();

    // A read that must note a ceiling in the log waits for a second copy, and nobody knows for how long.
    let (mut waiting, mut alone_at) = (Vec::new(), None);
    until("without its copy and with something that waits", &first, |status| {
        let mut reader = TcpStream::connect(&first.addresses().redis).unwrap();
        reader.write_all(b"GET key\r\n").unwrap();
        waiting.push(reader);
        status.epoch > 2 && status.index > *alone_at.get_or_insert(status.index)
    });
    let refused = "-NOREPLICAS Not enough good replicas to write.\r\n";
    assert_eq!(ask(&mut client, b"SET key value2\r\n", refused.len()), refused);
    first.shutdown();
    first.shutdown();
    first.join().unwrap();
}

//! The shell around a core: raw bytes on its ports. What the group does is tested over real processes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::*;
use crate::machine::{Access, Env, Identity, ReadEnv, ReadOutcome, Restore, Snapshot};

struct Nothing;

impl StateMachine for Nothing {
    type Snapshot = Empty;
    type Restore = Empty;
    fn identity() -> Identity {
        Identity { name: "nothing".into(), version: 1 }
    }
    fn access(_: &[u8]) -> Access {
        Access::Write
    }
    fn apply(&mut self, _: &[u8], _: &mut Env<'_>, reply: &mut Vec<u8>) {
        reply.extend_from_slice(b"+OK\r\n");
    }
    fn read(&self, _: &[u8], _: &ReadEnv<'_>, reply: &mut Vec<u8>) -> ReadOutcome {
        reply.extend_from_slice(b"+OK\r\n");
        ReadOutcome::Done
    }
    fn snapshot(&self) -> Empty {
        Empty
    }
    fn restore() -> Empty {
        Empty
    }
}

struct Empty;

impl Snapshot for Empty {
    fn next_chunk(&mut self, _: usize) -> Option<Vec<u8>> {
        None
    }
}

impl Restore for Empty {
    type Machine = Nothing;
    fn chunk(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
    fn finish(self) -> Result<Nothing, String> {
        Ok(Nothing)
    }
}

fn replica() -> Handle {
    let options = Options::new("a".parse().unwrap(), "g".parse().unwrap(), vec!["127.0.0.1:1".into()]);
    start(options, || Nothing).unwrap()
}

/// Says `words` and reads until the other side closes.
fn exchange(address: &str, words: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(words).unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    String::from_utf8_lossy(&said).into_owned()
}

fn stop(replica: Handle) {
    replica.shutdown();
    replica.shutdown();
    replica.join().unwrap();
}

#[test]
fn the_edge_answers_before_there_is_a_group_and_what_was_asked_before_the_end_is_answered() {
    let replica = replica();
    let said = exchange(&replica.addresses().redis, b"PING\r\nECHO hi\r\nQUIT\r\n");
    assert_eq!(said, "+PONG\r\n$2\r\nhi\r\n+OK\r\n");
    stop(replica);
}

#[test]
fn nonsense_ends_its_own_connection_and_nothing_else() {
    let replica = replica();
    assert_eq!(exchange(&replica.addresses().peer, b"GET / HTTP/1.1\r\n\r\n"), "");
    assert_eq!(exchange(&replica.addresses().client, b"GET / HTTP/1.1\r\n\r\n"), "");
    assert_eq!(exchange(&replica.addresses().redis, b"PING\r\nQUIT\r\n"), "+PONG\r\n+OK\r\n");
    stop(replica);
}

#[test]
fn who_says_nothing_is_closed_when_the_configuration_says_so() {
    let mut options = Options::new("a".parse().unwrap(), "g".parse().unwrap(), vec!["127.0.0.1:1".into()]);
    options.idle_timeout = Some(Duration::from_millis(200));
    let replica = start(options, || Nothing).unwrap();
    // It does not ask to be closed.
    assert_eq!(exchange(&replica.addresses().redis, b"PING\r\n"), "+PONG\r\n");
    stop(replica);
}

fn get(replica: &Handle, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    exchange(&replica.addresses().http, request.as_bytes())
}

#[test]
fn health_and_metrics_are_told_over_http() {
    let replica = replica();
    assert!(get(&replica, "/livez").starts_with("HTTP/1.1 200"));
    assert!(get(&replica, "/backup").starts_with("HTTP/1.1 503"));
    assert!(get(&replica, "/nowhere").starts_with("HTTP/1.1 404"));
    let status = get(&replica, "/status");
    let body = status.split_once("\r\n\r\n").unwrap().1;
    let body: status::StatusBody = serde_json::from_str(body).unwrap();
    assert_eq!((body.name.as_str(), body.http.as_str()), ("a", replica.addresses().http.as_str()));
    let metrics = get(&replica, "/metrics");
    for name in ["cutover_replica_role{role=\"starting\"} 1", "cutover_turn_seconds_bucket", "cutover_epoch_number"] {
        assert!(metrics.contains(name), "{name} is missing in {metrics}");
    }
    stop(replica);
}

/// It would be deaf to its own threads once the runtime's patience with one task is used up.
#[test]
fn a_thread_of_a_runtime_is_refused() {
    let options = Options::new("a".parse().unwrap(), "g".parse().unwrap(), vec!["127.0.0.1:1".into()]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let said = runtime.block_on(async { run(options, || Nothing) }).unwrap_err().to_string();
    assert!(said.contains("async runtime"), "{said}");
}

#[test]
fn a_port_in_use_is_an_error_with_its_name() {
    let replica = replica();
    let mut second = Options::new("b".parse().unwrap(), "g".parse().unwrap(), vec!["127.0.0.1:1".into()]);
    second.listen.peer = replica.addresses().peer.clone();
    let said = start(second, || Nothing).unwrap_err().to_string();
    assert!(said.contains("peer port"), "{said}");
    stop(replica);
}

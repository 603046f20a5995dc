//! Each fault, seen from both ends of real sockets; every wait is for an event, bounded by a deadline.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::BytesMut;
use cutover_arbiter::wire::{Port, encode_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::links::{Command, Fault};
use super::relay::{Path, Relay};

const SOON: Duration = Duration::from_secs(10);

/// `a` dials `b` through a relay.
struct Pair {
    relay: Relay,
    listener: TcpListener,
}

impl Pair {
    async fn new() -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let path = Path { from: "a".into(), to: "b".into(), listen: any, target };
        Self { relay: Relay::start(vec![path]).await.unwrap(), listener }
    }

    async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.relay.paths()[0].listen).await.unwrap()
    }

    async fn accept(&self) -> TcpStream {
        timeout(SOON, self.listener.accept()).await.expect("the relay dialled on").unwrap().0
    }

    async fn connect(&self) -> (TcpStream, TcpStream) {
        let near = self.dial().await;
        (near, self.accept().await)
    }

    fn apply(&self, command: Command) {
        self.relay.links().apply(&command).unwrap();
    }
}

fn ends() -> (String, String) {
    ("a".into(), "b".into())
}

fn cut() -> Command {
    let (from, to) = ends();
    Command::Cut { from, to }
}

fn heal() -> Command {
    Command::Heal { from: "all".into(), to: "all".into() }
}

async fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    timeout(SOON, stream.read_exact(&mut got)).await.expect("the bytes arrived").unwrap();
    assert_eq!(got, bytes);
}

/// Nothing can be read now. Both pumps of a connection run in one task, so an answer that came the other way shows
/// that whatever could pass has passed.
fn expect_nothing(stream: &TcpStream) {
    let mut byte = [0];
    assert_eq!(stream.try_read(&mut byte).unwrap_err().kind(), ErrorKind::WouldBlock);
}

async fn expect_end(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut rest = Vec::new();
    timeout(SOON, stream.read_to_end(&mut rest)).await.expect("the connection ended").map(|_| rest)
}

#[tokio::test]
async fn a_whole_link_passes_bytes_and_ends() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.connect().await;
    near.write_all(b"there").await.unwrap();
    expect(&mut far, b"there").await;
    far.write_all(b"back").await.unwrap();
    expect(&mut near, b"back").await;
    near.shutdown().await.unwrap();
    assert_eq!(expect_end(&mut far).await.unwrap(), b"");
    far.write_all(b"still").await.unwrap();
    expect(&mut near, b"still").await;
}

#[tokio::test]
async fn a_dead_process_refuses_through_the_relay_too() {
    let mut pair = Pair::new().await;
    pair.listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut near = pair.dial().await;
    assert!(expect_end(&mut near).await.is_err(), "a reset, not an orderly end");
}

#[tokio::test]
async fn a_one_way_cut_holds_one_direction_and_heals_without_loss() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.connect().await;
    let (from, to) = ends();
    pair.apply(Command::OneWay { from, to });
    near.write_all(b"held").await.unwrap();
    far.write_all(b"heard").await.unwrap();
    expect(&mut near, b"heard").await;
    expect_nothing(&far);
    pair.apply(heal());
    expect(&mut far, b"held").await;
}

#[tokio::test]
async fn a_cut_link_keeps_connections_open_and_lets_new_ones_hang() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.connect().await;
    pair.apply(cut());
    assert_eq!(pair.relay.links().faults().len(), 2, "both directions");
    near.write_all(b"one").await.unwrap();
    let mut second = pair.dial().await;
    second.write_all(b"two").await.unwrap();
    near.shutdown().await.unwrap();
    expect_nothing(&far);
    pair.apply(heal());
    assert_eq!(expect_end(&mut far).await.unwrap(), b"one");
    let mut far = pair.accept().await;
    expect(&mut far, b"two").await;
}

#[tokio::test]
async fn a_clogged_link_takes_everything_and_delivers_all_of_it() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.connect().await;
    let (from, to) = ends();
    pair.apply(Command::Clog { from, to });
    // More than sockets hold by themselves: the relay has taken it.
    let much: Vec<u8> = (0..32 << 20).map(|at: u32| (at / 7) as u8).collect();
    timeout(SOON, near.write_all(&much)).await.expect("the relay takes it").unwrap();
    expect_nothing(&far);
    pair.apply(heal());
    expect(&mut far, &much).await;
}

#[tokio::test]
async fn a_delayed_link_passes_everything_later_and_in_order() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.connect().await;
    let (from, to) = ends();
    pair.apply(Command::Delay { from, to, by_ms: 60 });
    let begun = Instant::now();
    near.write_all(b"first").await.unwrap();
    near.write_all(b"second").await.unwrap();
    expect(&mut far, b"firstsecond").await;
    assert!(begun.elapsed() >= Duration::from_millis(60), "after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_frame_is_cut_in_its_middle_and_the_link_is_whole_again() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.connect().await;
    let mut frame = BytesMut::new();
    encode_frame(&mut frame, Port::Peer, &"a body of some length");
    near.write_all(&frame).await.unwrap();
    expect(&mut far, &frame).await;
    let (from, to) = ends();
    pair.apply(Command::MidFrame { from, to });
    near.write_all(&frame).await.unwrap();
    let half = frame.len() / 2;
    expect(&mut far, &frame[..half]).await;
    assert!(expect_end(&mut far).await.is_err(), "reset in the middle of the frame");
    assert!(expect_end(&mut near).await.is_err(), "at both ends");
    assert_eq!(pair.relay.links().faults(), []);
    let (mut near, mut far) = pair.connect().await;
    near.write_all(&frame).await.unwrap();
    expect(&mut far, &frame).await;
}

#[tokio::test]
async fn a_reset_closes_connections_and_lets_new_ones_through() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.connect().await;
    near.write_all(b"x").await.unwrap();
    expect(&mut far, b"x").await;
    pair.apply(cut());
    let (from, to) = ends();
    pair.apply(Command::Reset { from, to });
    assert!(expect_end(&mut near).await.is_err());
    assert!(expect_end(&mut far).await.is_err());
    pair.apply(heal());
    pair.connect().await;
}

#[tokio::test]
async fn what_was_meant_for_an_earlier_fault_does_not_heal_a_later_one() {
    let pair = Pair::new().await;
    let links = pair.relay.links();
    let earlier = links.apply(&cut()).unwrap();
    let (from, to) = ends();
    let later = links.apply(&Command::Clog { from, to }).unwrap();
    assert_eq!(links.heal_unchanged(&earlier), [("b".to_owned(), "a".to_owned())]);
    assert_eq!(links.faults(), [(ends(), Fault::Clog)]);
    assert_eq!(links.heal_unchanged(&later), [ends()]);
}

#[tokio::test]
async fn an_unknown_process_is_named_with_those_there_are() {
    let pair = Pair::new().await;
    let unknown = Command::Cut { from: "a".into(), to: "c".into() };
    let message = pair.relay.links().apply(&unknown).unwrap_err().to_string();
    assert!(message.contains("'c'") && message.contains("a, b"), "{message}");
}

mod over_the_socket {
    use std::sync::Arc;

    use tokio::net::UnixListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::fault::control::{Request, Response, ask, serve};

    #[tokio::test]
    async fn another_process_cuts_for_a_time_and_is_told_what_is_cut() {
        let pair = Pair::new().await;
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("chaos.sock");
        let (changed, mut changes) = mpsc::channel(8);
        tokio::spawn(serve(UnixListener::bind(&socket).unwrap(), Arc::clone(pair.relay.links()), changed));
        let asking = |command, for_ms| {
            let socket = socket.clone();
            tokio::task::spawn_blocking(move || ask(&socket, &Request { command, for_ms }).unwrap())
        };
        let Response::Done(lines) = asking(cut(), Some(50)).await.unwrap() else { panic!("refused") };
        assert_eq!(lines, ["a → b: cut", "b → a: cut"]);
        assert_eq!(changes.recv().await.unwrap(), "cut a ↔ b for 50ms");
        let healed = timeout(SOON, changes.recv()).await.expect("healed in time").unwrap();
        assert_eq!(healed, "healed a → b, b → a");
        assert_eq!(asking(Command::List, None).await.unwrap(), Response::Done(Vec::new()));
        let unknown = Command::Reset { from: "x".into(), to: "y".into() };
        assert!(matches!(asking(unknown, None).await.unwrap(), Response::Refused(_)));
    }
}

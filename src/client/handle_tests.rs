//! The handle against replicas that the test plays over loopback.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cutover_arbiter::net::{ReceiveError, receive};
use cutover_arbiter::record::{Change, Epoch, GroupRecord, Mode};
use cutover_arbiter::wire::{DEFAULT_LIMIT, FrameDecoder, Port, encode_frame};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::driver::Records;
use super::*;
use crate::protocol::client::{FromClient, Sequence, ToClient};

impl Records for mpsc::UnboundedReceiver<GroupRecord> {
    async fn changed(&mut self) -> GroupRecord {
        match self.recv().await {
            Some(record) => record,
            None => std::future::pending().await,
        }
    }
}

const SESSION: SessionId = SessionId { epoch: Epoch(1), index: 5 };

fn receipt(sequence: Sequence) -> Receipt {
    Receipt { epoch: Epoch(1), index: sequence + 10, copies: 2, mode: Mode::Memory }
}

/// A replica's client port.
struct Replica {
    name: &'static str,
    listener: TcpListener,
}

impl Replica {
    async fn new(name: &'static str) -> Self {
        Self { name, listener: TcpListener::bind("127.0.0.1:0").await.expect("a free port") }
    }

    fn record(&self, epoch: u64) -> GroupRecord {
        let mut record = super::core::tests::record(epoch, self.name, Change::TakeOver);
        record.primary.addresses.client = self.listener.local_addr().expect("bound").to_string();
        record.in_sync = vec![record.primary.clone()];
        record
    }

    async fn accept(&self) -> Connection {
        let (stream, _) = self.listener.accept().await.expect("the listener stands");
        Connection { stream, input: BytesMut::new(), decoder: FrameDecoder::new(Port::Client, DEFAULT_LIMIT) }
    }

    /// Accepts, welcomes, and opens the session if there is none.
    async fn serve(&self, epoch: u64) -> Connection {
        let mut connection = self.accept().await;
        let FromClient::Hello { session, .. } = connection.receive().await else { panic!("Hello comes first") };
        connection.send(ToClient::Welcome { record: Box::new(self.record(epoch)), max_request: 1 << 20 }).await;
        if session.is_none() {
            assert!(matches!(connection.receive().await, FromClient::Open { .. }));
            connection.send(ToClient::Opened { session: SESSION, receipt: receipt(0) }).await;
        }
        connection
    }
}

struct Connection {
    stream: TcpStream,
    input: BytesMut,
    decoder: FrameDecoder,
}

impl Connection {
    async fn try_receive(&mut self) -> Result<FromClient, ReceiveError> {
        receive(&mut self.stream, &mut self.input, &self.decoder).await
    }

    async fn receive(&mut self) -> FromClient {
        self.try_receive().await.expect("a message")
    }

    async fn request(&mut self) -> (Sequence, Bytes) {
        loop {
            match self.receive().await {
                FromClient::Request { sequence, operation, .. } => return (sequence, operation),
                FromClient::Acknowledge { .. } => {}
                other => panic!("expected a request, got {other:?}"),
            }
        }
    }

    async fn send(&mut self, message: ToClient) {
        let mut frame = BytesMut::new();
        encode_frame(&mut frame, Port::Client, &message);
        self.stream.write_all(&frame).await.expect("the client listens");
    }

    async fn reply(&mut self, sequence: Sequence, reply: Bytes) {
        self.send(ToClient::Reply { sequence, reply, receipt: receipt(sequence) }).await;
    }

    /// Answers every request with its own operation until the client hangs up.
    async fn echo(mut self) {
        while let Ok(message) = self.try_receive().await {
            if let FromClient::Request { sequence, operation, .. } = message {
                self.reply(sequence, operation).await;
            }
        }
    }
}

fn client(replica: &Replica, options: ClientOptions) -> (Client, mpsc::UnboundedSender<GroupRecord>) {
    let (tell, records) = mpsc::unbounded_channel();
    (Client::start(replica.record(1), records, options), tell)
}

#[tokio::test]
async fn a_connection_cut_before_the_reply_costs_the_caller_nothing() {
    let replica = Replica::new("r1").await;
    let (client, _tell) = client(&replica, ClientOptions::default());
    let script = async {
        let mut first = replica.serve(1).await;
        assert_eq!(first.request().await, (1, "a".into()));
        drop(first);
        let mut second = replica.serve(1).await;
        assert_eq!(second.request().await, (1, "a".into()));
        second.reply(1, "A".into()).await;
        second
    };
    let (reply, _connection) = tokio::join!(client.execute("a"), script);
    assert_eq!(reply, Ok(Reply { bytes: "A".into(), receipt: receipt(1) }));
}

#[tokio::test]
async fn a_silent_primary_is_left_for_the_one_that_the_watch_names() {
    let (old, new) = (Replica::new("r1").await, Replica::new("r2").await);
    let (client, tell) = client(&old, ClientOptions::default());
    let script = async {
        let mut silent = old.serve(1).await;
        assert_eq!(silent.request().await, (1, "a".into()));
        tell.send(new.record(2)).expect("the task runs");
        let mut connection = new.serve(2).await;
        assert_eq!(connection.request().await, (1, "a".into()));
        connection.reply(1, "A".into()).await;
        (silent, connection)
    };
    let (reply, _connections) = tokio::join!(client.execute("a"), script);
    assert_eq!(reply.map(|reply| reply.bytes), Ok("A".into()));
    assert_eq!(client.record().map(|record| record.epoch), Some(Epoch(2)));
}

#[tokio::test]
async fn many_operations_in_flight_each_get_their_own_reply() {
    let replica = Replica::new("r1").await;
    let (client, _tell) = client(&replica, ClientOptions { window: 50, ..ClientOptions::default() });
    let callers = async {
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..100_u32 {
            let client = client.clone();
            callers.spawn(async move {
                for turn in 0..50_u32 {
                    let body = Bytes::from(format!("{caller}/{turn}"));
                    assert_eq!(client.execute(body.clone()).await.map(|reply| reply.bytes), Ok(body));
                }
            });
        }
        while let Some(ended) = callers.join_next().await {
            ended.expect("no caller saw a wrong reply");
        }
        client.close().await;
    };
    tokio::join!(callers, async { replica.serve(1).await.echo().await });
}

#[tokio::test]
async fn an_operation_larger_than_the_socket_buffers_goes_through() {
    let replica = Replica::new("r1").await;
    let (client, _tell) = client(&replica, ClientOptions::default());
    let body = Bytes::from(vec![7; 900 * 1024]);
    let callers = async {
        let mut pending = Vec::new();
        for _ in 0..20 {
            pending.push(client.submit(body.clone(), RequestOptions::default()).await.expect("room for 20"));
        }
        for reply in pending {
            assert_eq!(reply.await.map(|reply| reply.bytes.len()), Ok(body.len()));
        }
        client.close().await;
    };
    tokio::join!(callers, async { replica.serve(1).await.echo().await });
}

#[tokio::test]
async fn without_an_answer_the_outcome_is_unknown_until_it_is_asked_for() {
    let replica = Replica::new("r1").await;
    let (client, _tell) = client(&replica, ClientOptions::default());
    let options = RequestOptions { deadline: Some(Duration::from_millis(300)), write: true };
    let (unknown, mut connection) = tokio::join!(client.execute_with("a", options), async {
        let mut connection = replica.serve(1).await;
        assert_eq!(connection.request().await, (1, "a".into()));
        connection
    });
    let error = unknown.expect_err("nobody answered");
    assert!(matches!(error, OperationError::Unknown { .. }) && !error.has_no_side_effects(), "{error}");
    let request = error.request().expect("an unknown operation has a name");
    let (outcome, ()) = tokio::join!(client.outcome(request), async {
        let FromClient::Outcome { ticket, sequence } = connection.receive().await else { panic!("a question") };
        connection.send(ToClient::OutcomeIs { ticket, sequence, outcome: Outcome::NotExecuted }).await;
    });
    assert_eq!(outcome, Ok(Outcome::NotExecuted));
    assert_eq!(client.outcome(request).await, Ok(Outcome::NotExecuted), "settled for ever");
}

#[tokio::test]
async fn a_port_that_speaks_another_protocol_is_named_and_nothing_was_done() {
    let replica = Replica::new("r1").await;
    let (client, _tell) = client(&replica, ClientOptions::default());
    let options = RequestOptions { deadline: Some(Duration::from_millis(300)), write: true };
    let strangers = async {
        loop {
            let mut connection = replica.accept().await;
            // The client may have hung up already.
            let _ = connection.stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            while connection.try_receive().await.is_ok() {}
        }
    };
    let error = tokio::select! {
        result = client.execute_with("a", options) => result.expect_err("a stranger executes nothing"),
        () = strangers => panic!("strangers never end"),
    };
    assert!(error.has_no_side_effects(), "{error}");
    assert!(error.to_string().contains("not a Cutover frame"), "{error}");
}

#[tokio::test]
async fn closing_answers_everybody_and_hangs_up() {
    let replica = Replica::new("r1").await;
    let (client, _tell) = client(&replica, ClientOptions::default());
    let other = client.clone();
    let (unknown, ()) = tokio::join!(other.execute("a"), async {
        let mut connection = replica.serve(1).await;
        connection.request().await;
        client.close().await;
        assert!(matches!(connection.try_receive().await, Err(ReceiveError::Closed)));
    });
    assert!(matches!(unknown, Err(OperationError::Unknown { .. })), "{unknown:?}");
    assert_eq!(other.execute("b").await, Err(OperationError::Closed));
}

#[test]
fn what_was_sent_is_unknown_when_the_runtime_ends_under_the_client() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (dying, other) = (runtime(), runtime());
    let (sent, _client, _tell, _connection) = dying.block_on(async {
        let replica = Replica::new("r1").await;
        let (client, tell) = client(&replica, ClientOptions::default());
        let sent = client.submit("a", RequestOptions::default()).await.expect("room for one");
        let mut connection = replica.serve(1).await;
        assert_eq!(connection.request().await, (1, "a".into()));
        (sent, client, tell, connection)
    });
    drop(dying);
    let error = other.block_on(sent).expect_err("nobody answered");
    assert!(matches!(error, OperationError::Unknown { .. }) && !error.has_no_side_effects(), "{error}");
}

#[tokio::test]
async fn the_last_handle_dropped_hangs_up() {
    let replica = Replica::new("r1").await;
    let (client, _tell) = client(&replica, ClientOptions::default());
    let mut connection = replica.serve(1).await;
    drop(client);
    assert!(connection.try_receive().await.is_err());
}

#[tokio::test]
async fn addresses_are_dialled_where_the_routes_say() {
    let replica = Replica::new("r1").await;
    let (_tell, records) = mpsc::unbounded_channel();
    let mut record = replica.record(1);
    let real = std::mem::replace(&mut record.primary.addresses.client, "advertised.example:1".into());
    let routes = vec![("advertised.example:1".into(), real)];
    let client = Client::start(record, records, ClientOptions { routes, ..ClientOptions::default() });
    let (reply, _connection) = tokio::join!(client.read("a"), async {
        let mut connection = replica.serve(1).await;
        let (sequence, operation) = connection.request().await;
        connection.reply(sequence, operation).await;
        connection
    });
    assert_eq!(reply.map(|reply| reply.bytes), Ok("a".into()));
}

#[tokio::test]
async fn absurd_durations_do_no_harm() {
    let replica = Replica::new("r1").await;
    let (deadline, session_timeout) = (Duration::MAX, Duration::MAX);
    let options = ClientOptions { deadline, session_timeout, connect_timeout: Duration::MAX, ..Default::default() };
    let (client, _tell) = client(&replica, options);
    let (reply, _connection) = tokio::join!(client.execute("a"), async {
        let mut connection = replica.serve(1).await;
        let (sequence, operation) = connection.request().await;
        connection.reply(sequence, operation).await;
        connection
    });
    assert_eq!(reply.map(|reply| reply.bytes), Ok("a".into()));
}

#[tokio::test]
async fn without_an_arbiter_there_is_no_client() {
    let none: [&str; 0] = [];
    assert!(matches!(Client::connect(none, "orders").await, Err(ConnectError::NoArbiters)));
    assert!(matches!(Client::connect(["x:1"], "not a name").await, Err(ConnectError::Group(_))));
}

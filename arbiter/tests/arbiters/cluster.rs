//! Real arbiters in one process: each on a thread and a runtime of its own, on loopback, with its store in a temporary
//! directory.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use cutover_arbiter::client::{ArbiterClient, ClientOptions};
use cutover_arbiter::record::{
    Addresses, Answer, Change, Epoch, GroupId, GroupName, GroupRecord, Incarnation, Member, Mode, Position, Proposal,
    RequestId,
};
use cutover_arbiter::server::{Options, ServeError, Server};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Longer than anything here takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), ServeError>>,
    pub http: Option<std::net::SocketAddr>,
}

pub struct Cluster {
    pub options: Vec<Options>,
    pub running: Vec<Option<Running>>,
    _directory: TempDir,
}

impl Cluster {
    pub fn start(count: u64) -> Self {
        Self::start_with(count, |_| {})
    }

    pub fn start_with(count: u64, adjust: impl Fn(&mut Options)) -> Self {
        let directory = TempDir::new().unwrap();
        let peers: Vec<(u64, String)> = (1..=count).map(|id| (id, free_address())).collect();
        let options = peers.iter().map(|(id, address)| {
            let mut options = Options {
                id: *id,
                listen: address.clone(),
                peers: peers.clone(),
                data_dir: directory.path().join(id.to_string()),
                http: Some(String::from("127.0.0.1:0")),
                election_timeout: (Duration::from_millis(150), Duration::from_millis(300)),
                heartbeat: Duration::from_millis(50),
                ..Options::default()
            };
            adjust(&mut options);
            options
        });
        let options: Vec<_> = options.collect();
        let running = options.iter().map(|options| Some(run(options.clone()))).collect();
        Self { options, running, _directory: directory }
    }

    pub fn addresses(&self) -> Vec<String> {
        self.options.iter().map(|options| options.listen.clone()).collect()
    }

    pub fn client(&self) -> ArbiterClient {
        ArbiterClient::new(ClientOptions {
            arbiters: self.addresses(),
            name: String::from("test"),
            ..ClientOptions::default()
        })
    }

    pub fn stop(&mut self, id: u64) {
        let running = self.running[id as usize - 1].take().expect("it runs");
        // One that failed is told by its result.
        let _ = running.stop.send(());
        running.thread.join().expect("no panic").expect("a graceful stop");
    }

    pub fn restart(&mut self, id: u64) {
        let place = id as usize - 1;
        assert!(self.running[place].is_none(), "it runs");
        self.running[place] = Some(run(self.options[place].clone()));
    }

    /// Waits for a leader among those that run.
    pub async fn leader(&self, client: &ArbiterClient) -> u64 {
        let found = async {
            loop {
                // A linearisable read is answered once there is a leader; no sleep is needed.
                let _ = client.groups(PATIENCE).await.expect("a majority runs");
                for (options, running) in self.options.iter().zip(&self.running) {
                    if running.is_none() {
                        continue;
                    }
                    if let Ok(status) = client.status(&options.listen, Duration::from_secs(2)).await
                        && status.leader == Some(status.id)
                    {
                        return status.id;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("a leader in time")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for running in self.running.iter_mut().filter_map(Option::take) {
            let _ = running.stop.send(());
            let _ = running.thread.join();
        }
    }
}

/// An address that stays ours while an arbiter is stopped: below the ports that systems give to whoever asks for any,
/// and never twice in one process.
fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = (std::process::id() % 150) as u16 * 100 + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = format!("127.0.0.1:{}", 12_000 + offset % 20_000);
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

fn run(options: Options) -> Running {
    let (stop, stopped) = oneshot::channel();
    let (bound, address) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let server = Server::bind(options).await?;
            bound.send(server.http_address()).expect("the test waits for it");
            server
                .run(async {
                    let _ = stopped.await;
                })
                .await
        })
    });
    let http = address.recv().unwrap_or_default();
    Running { stop, thread, http }
}

pub fn group() -> GroupName {
    "orders".parse().unwrap()
}

pub fn member(name: &str, life: u128) -> Member {
    Member { replica: name.parse().unwrap(), incarnation: Incarnation(life), addresses: Addresses::default() }
}

pub fn create(member: &Member) -> Change {
    Change::Create { group_id: GroupId(7), member: member.clone(), mode: Mode::Buffered, min_in_sync: 1 }
}

pub fn proposal(request: u128, who: &Member, expected: u64, change: Change) -> Proposal {
    Proposal {
        group: group(),
        expected_epoch: Epoch(expected),
        request: RequestId(request),
        proposer: Some((who.replica.clone(), who.incarnation)),
        change,
        commit: Position::default(),
        held: Position::default(),
        floor: Epoch(0),
    }
}

pub async fn granted(client: &ArbiterClient, proposal: Proposal) -> GroupRecord {
    match client.test_and_set(proposal, PATIENCE).await.expect("a majority runs") {
        Answer::Granted(record) => record,
        refused => panic!("expected a grant, got {refused:?}"),
    }
}

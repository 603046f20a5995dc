//! A whole group in one process, to try things on: three arbiters and two replicas on loopback. In earnest each of
//! them is a process on a machine of its own.

use std::error::Error;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use cutover::daemon::{self, Handle, Options};
use cutover::replica::CreateOptions;
use cutover_arbiter::client::{ArbiterClient, ClientOptions, Watch};
use cutover_arbiter::record::{GroupRecord, Mode};
use cutover_arbiter::server::{self, Server};
use tokio::task::JoinSet;

use crate::machine::Tickets;

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);

/// Three arbiters and a pair. Everything ends with it.
pub struct Stage {
    arbiters: Vec<String>,
    running: JoinSet<()>,
    data: PathBuf,
    watch: Watch,
    replicas: Vec<(String, Handle)>,
}

impl Stage {
    /// Starts everything, and returns when two replicas are in sync.
    pub async fn set(group: &str) -> Result<Self, Box<dyn Error>> {
        // Three free ports, held until all are known, so that no two are the same.
        let free: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let arbiters: Vec<String> =
            free.iter().map(|port| Ok(port.local_addr()?.to_string())).collect::<std::io::Result<_>>()?;
        drop(free);
        let data =
            std::env::temp_dir().join(format!("{group}-{}-{}", std::process::id(), arbiters[0].replace(':', "-")));
        let mut running = JoinSet::new();
        for (id, listen) in (1..).zip(&arbiters) {
            let options = server::Options {
                id,
                listen: listen.clone(),
                peers: (1..).zip(arbiters.iter().cloned()).collect(),
                data_dir: data.join(id.to_string()),
                ..server::Options::default()
            };
            let server = Server::bind(options).await?;
            running.spawn(async move {
                // An arbiter that ends makes itself felt: nobody answers.
                let _ = server.run(std::future::pending()).await;
            });
        }
        let client = ArbiterClient::new(ClientOptions { arbiters: arbiters.clone(), ..ClientOptions::default() });
        let watch = client.watch(group.parse()?);
        let mut replicas = Vec::new();
        for (name, create) in [("r1", true), ("r2", false)] {
            let mut options = Options::new(name.parse()?, group.parse()?, arbiters.clone());
            options.listen.redis = None;
            options.create = create.then_some(CreateOptions { mode: Mode::Memory, min_in_sync: 1 });
            replicas.push((name.to_owned(), daemon::start(options, Tickets::default)?));
        }
        let mut stage = Self { arbiters, running, data, watch, replicas };
        stage.until(|record| record.in_sync.len() == 2).await?;
        Ok(stage)
    }

    /// Where the arbiters are.
    pub fn arbiters(&self) -> &[String] {
        &self.arbiters
    }

    /// Stops the primary and returns its name once the other replica has taken its place.
    pub async fn stop_primary(&mut self) -> Result<String, Box<dyn Error>> {
        let primary = self.until(|_| true).await?.primary.replica.to_string();
        for (_, handle) in self.replicas.iter().filter(|(name, _)| *name == primary) {
            handle.shutdown();
        }
        self.until(|record| record.primary.replica.as_str() != primary).await?;
        Ok(primary)
    }

    /// Stops everything and clears up.
    pub fn strike(mut self) {
        for (_, handle) in &self.replicas {
            // The second time means at once: there is nobody to hand over to.
            handle.shutdown();
            handle.shutdown();
        }
        for (_, handle) in self.replicas.drain(..) {
            let _ = handle.join();
        }
        self.running.abort_all();
        let _ = std::fs::remove_dir_all(&self.data);
    }

    async fn until(&mut self, wanted: impl Fn(&GroupRecord) -> bool) -> Result<GroupRecord, Box<dyn Error>> {
        let watching = async {
            loop {
                if let Some(record) = self.watch.latest().filter(&wanted) {
                    return record;
                }
                self.watch.changed().await;
            }
        };
        Ok(tokio::time::timeout(PATIENCE, watching).await?)
    }
}

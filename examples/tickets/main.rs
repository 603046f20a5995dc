//! Sells tickets and draws winners on two replicas; nothing that was sold is lost when one of them dies.
//!
//! ```text
//! cargo run --example tickets                       everything in this process: sell, draw, lose the primary
//! cargo run --example tickets -- serve r1 --create ARBITERS
//! cargo run --example tickets -- serve r2 ARBITERS
//! cargo run --example tickets -- sell ada ARBITERS
//! cargo run --example tickets -- draw ARBITERS
//! cargo run --example tickets -- list ARBITERS
//! ```
//!
//! ARBITERS are host:port, separated by commas, as `cutover arbiter` serves them. `machine` is what is replicated,
//! `counter` its client; this file is the server, and `stage` sets up a whole group in one process.

mod counter;
mod machine;
mod stage;

use std::error::Error;

use counter::Counter;
use cutover::daemon::{self, Options};
use cutover::replica::CreateOptions;
use cutover_arbiter::record::Mode;
use machine::{Answer, Tickets};

const GROUP: &str = "tickets";

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => block_on(demonstrate()),
        ["serve", name, "--create", arbiters] => serve(name, arbiters, true),
        ["serve", name, arbiters] => serve(name, arbiters, false),
        ["sell", buyer, arbiters] => block_on(async {
            tell(&open(arbiters).await?.sell(buyer).await?);
            Ok(())
        }),
        ["draw", arbiters] => block_on(async {
            tell(&open(arbiters).await?.draw().await?);
            Ok(())
        }),
        ["list", arbiters] => block_on(async {
            tell(&open(arbiters).await?.list().await?);
            Ok(())
        }),
        _ => Err("see the head of examples/tickets/main.rs for what can be asked".into()),
    }
}

/// One replica: any `StateMachine` is served like this.
fn serve(name: &str, arbiters: &str, create: bool) -> Result<(), Box<dyn Error>> {
    let mut options = Options::new(name.parse()?, GROUP.parse()?, split(arbiters));
    options.listen.redis = None;
    options.create = create.then_some(CreateOptions { mode: Mode::Memory, min_in_sync: 1 });
    Ok(daemon::run(options, Tickets::default)?)
}

/// The whole story, with three arbiters and two replicas in this process.
async fn demonstrate() -> Result<(), Box<dyn Error>> {
    let mut stage = stage::Stage::set(GROUP).await?;
    let counter = Counter::open(stage.arbiters(), GROUP).await?;
    for buyer in ["ada", "grace", "barbara"] {
        tell(&counter.sell(buyer).await?);
    }
    tell(&counter.draw().await?);
    let lost = stage.stop_primary().await?;
    tell(&format!("{lost}, the primary, is gone"));
    tell(&counter.sell("frances").await?);
    tell(&counter.list().await?);
    stage.strike();
    Ok(())
}

async fn open(arbiters: &str) -> Result<Counter, Box<dyn Error>> {
    Ok(Counter::open(&split(arbiters), GROUP).await?)
}

fn split(arbiters: &str) -> Vec<String> {
    arbiters.split(',').map(String::from).collect()
}

fn block_on(work: impl Future<Output = Result<(), Box<dyn Error>>>) -> Result<(), Box<dyn Error>> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[expect(clippy::print_stdout, reason = "a program for a terminal")]
fn tell(what: &impl std::fmt::Display) {
    println!("{what}");
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Answer::Ticket(number, holder) => write!(f, "ticket {number}: {holder}"),
            Answer::Tickets(tickets) => {
                write!(f, "{} sold to {:?}; won: {:?}", tickets.holders.len(), tickets.holders, tickets.winners)
            }
            Answer::No(why) => write!(f, "no: {why}"),
        }
    }
}

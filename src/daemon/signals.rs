//! What asks the process to stop: SIGTERM, SIGINT, or a closed standard input.

use std::io::{self, Read as _};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::side::Message;

/// Turns signals into messages until the loop is gone. An ignored SIGINT is still caught, so that it kills nobody.
pub async fn watch(messages: mpsc::Sender<Message>, ignore_sigint: bool) {
    let (mut term, mut int) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(term), Ok(int)) => (term, int),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signal.unavailable this replica cannot be stopped by a signal");
            return;
        }
    };
    loop {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => if ignore_sigint { continue },
        }
        if messages.send(Message::Shutdown).await.is_err() {
            return;
        }
    }
}

/// Asks for a stop when standard input closes: the process that holds its other end is gone.
///
/// # Errors
/// The system has no thread left.
pub fn watch_stdin(messages: mpsc::Sender<Message>) -> io::Result<()> {
    let wait = move || {
        let mut ignored = [0; 64];
        while matches!(io::stdin().read(&mut ignored), Ok(1..)) {}
        tracing::info!("parent.gone standard input closed");
        let _ = messages.blocking_send(Message::Shutdown);
    };
    thread::Builder::new().name("cutover-stdin".into()).spawn(wait).map(drop)
}

//! A relay that a test puts between two processes and that remembers every byte, for a test that says them again later.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What was said on one connection, either way.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// By who dialled.
    pub there: Vec<u8>,
    /// By who was dialled.
    pub back: Vec<u8>,
}

type Conversations = Arc<Mutex<Vec<Conversation>>>;

/// Relays and remembers until the test ends.
pub struct Recorder {
    port: u16,
    said: Conversations,
}

impl Recorder {
    /// Relays to this port.
    pub fn before(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("it listens").port();
        let said = Conversations::default();
        let remembered = Arc::clone(&said);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let said = Arc::clone(&remembered);
                // Nobody listens there: who dialled sees that too.
                let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                relay(near, far, &said).expect("a second handle on a socket");
            }
        });
        Self { port, said }
    }

    /// Where to dial instead.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Everything so far, a conversation for each connection.
    pub fn said(&self) -> Vec<Conversation> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn relay(near: TcpStream, far: TcpStream, said: &Conversations) -> io::Result<()> {
    let number = {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push(Conversation::default());
        said.len() - 1
    };
    let (near_again, far_again) = (near.try_clone()?, far.try_clone()?);
    let (there, back) = (Arc::clone(said), Arc::clone(said));
    thread::spawn(move || pump(near, far, &there, |said| &mut said[number].there));
    thread::spawn(move || pump(far_again, near_again, &back, |said| &mut said[number].back));
    Ok(())
}

fn pump(
    mut from: TcpStream,
    mut to: TcpStream,
    said: &Mutex<Vec<Conversation>>,
    place: impl Fn(&mut Vec<Conversation>) -> &mut Vec<u8>,
) {
    let _ = to.set_nodelay(true);
    let mut bytes = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        place(&mut said.lock().unwrap_or_else(PoisonError::into_inner)).extend_from_slice(&bytes[..length]);
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    // The end travels on.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

//! A Redis connection over which a test sends and receives when it wants to.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use cutover::machine::kv::value::{Unreadable, Value, parse};

/// How long an answer that must come may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

/// One connection, in the newer protocol (a missing value has a form of its own there).
pub struct Redis {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Redis {
    /// Connects and greets.
    pub fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let mut redis = Self { stream, input: Vec::new() };
        redis.ask(&["HELLO", "3"])?;
        Ok(redis)
    }

    /// Sends one command and waits for nothing.
    pub fn send(&mut self, words: &[&str]) -> io::Result<()> {
        self.stream.write_all(&command(words))
    }

    /// The one answer that is due; `None` when it does not come in this time, an error when the connection is closed.
    pub fn receive(&mut self, within: Duration) -> io::Result<Option<Value>> {
        let deadline = Instant::now() + within;
        loop {
            match parse(&self.input) {
                Ok(value) => {
                    self.input.clear();
                    return Ok(Some(value));
                }
                Err(Unreadable::Short) => {}
                Err(error) => panic!("{error}: {:?}", String::from_utf8_lossy(&self.input)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut bytes = [0; 64 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::ConnectionReset.into()),
                Ok(length) => self.input.extend_from_slice(&bytes[..length]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends one command and waits for its answer.
    pub fn ask(&mut self, words: &[&str]) -> io::Result<Value> {
        self.send(words)?;
        self.receive(ANSWERED_WITHIN)?.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    /// Asks what must be answered, and not by an error.
    pub fn must(&mut self, words: &[&str]) -> Value {
        match self.ask(words) {
            Ok(Value::Error(error)) => panic!("{words:?}: {error}"),
            Ok(value) => value,
            Err(error) => panic!("{words:?}: {error}"),
        }
    }

    /// Sends all these commands at once; how many were answered, with `+OK`, before the connection was closed.
    pub fn acknowledged(&mut self, commands: &[Vec<String>]) -> usize {
        let mut bytes = Vec::new();
        for words in commands {
            bytes.extend(command(&words.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        let mut writer = self.stream.try_clone().expect("a second handle on a socket");
        // What closes early does not want to hear it all.
        let writing = std::thread::spawn(move || writer.write_all(&bytes).is_ok());
        self.stream.set_read_timeout(Some(ANSWERED_WITHIN)).expect("a socket takes a time-out");
        let mut answer = [0; 5];
        let count = commands.len();
        for number in 0..count {
            match self.stream.read_exact(&mut answer) {
                Ok(()) => assert_eq!(&answer, b"+OK\r\n", "answer {number} of {count}"),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("answer {number} of {count}: {error}");
                }
                Err(_) => return number,
            }
        }
        assert!(writing.join().expect("no panic"), "everything was answered and not everything written");
        count
    }
}

/// A command as it travels.
pub fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

/// A string as the machine replies it.
pub fn text(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

//! What the loop sleeps on: its sockets and its alarm, as the system tells of them, and a bell that other threads ring.
//!
//! The loop is this process's own because it is in the way of every operation, four times: between the system's word
//! that bytes have come and the call that reads them stands nothing but the loop. Deliberately not here: what is done
//! about it (`turn`), and what a connection makes of the news (`connection`).

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

/// What one look at the system brings at most; the rest comes with the next one.
const EVENTS: usize = 1024;

/// What has work for the loop besides its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Other threads.
    Messages,
    /// The ports: somebody dialled.
    Ports,
    /// The workers: something is decoded or made again.
    Workers,
    /// Snapshots on their way to joiners.
    Transfers,
    /// The alarm: it has rung.
    Alarm,
}

impl Source {
    const ALL: [Self; 5] = [Self::Messages, Self::Ports, Self::Workers, Self::Transfers, Self::Alarm];

    /// Above every place of a connection.
    fn token(self) -> Token {
        Token(usize::MAX - self as usize)
    }
}

/// Of the bell itself, which says nothing more than that it was rung.
const BELL: Token = Token(usize::MAX - Source::ALL.len());

/// Some sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sources(u8);

impl Sources {
    /// All that there are.
    pub fn all() -> Self {
        let mut all = Self::default();
        Source::ALL.into_iter().for_each(|source| all.add(source));
        all
    }

    /// One more.
    pub fn add(&mut self, source: Source) {
        self.0 |= 1 << source as u8;
    }

    /// Those, too.
    pub fn merge(&mut self, others: Self) {
        self.0 |= others.0;
    }

    /// Takes one out; true if it was there.
    pub fn take(&mut self, source: Source) -> bool {
        let bit = 1 << source as u8;
        let was = self.0 & bit != 0;
        self.0 &= !bit;
        was
    }

    /// All but one.
    pub fn without(mut self, source: Source) -> Self {
        self.take(source);
        self
    }

    /// True when there are none.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What the system says of a socket. News comes once for each change: who hears it remembers it until a call has nothing
/// more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct News {
    /// There is something to read, be it an end or an error.
    pub readable: bool,
    /// There is room to write, or an error to be met.
    pub writable: bool,
    /// Nothing will come behind what is there: no later news says so again.
    pub ended: bool,
}

impl From<&Event> for News {
    fn from(event: &Event) -> Self {
        let ended = event.is_read_closed() || event.is_error();
        Self {
            readable: event.is_readable() || ended,
            writable: event.is_writable() || event.is_write_closed() || event.is_error(),
            ended,
        }
    }
}

/// Whose the news is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// A connection's, by its place.
    Connection(usize),
    /// One of the other sources'.
    Source(Source),
}

/// The loop's end of all that wakes it.
#[derive(Debug)]
pub struct Reactor {
    poll: Poll,
    events: Events,
    bell: Arc<Bell>,
    /// The last turn was not followed by a look at the system.
    skipped: bool,
}

impl Reactor {
    /// One that nothing wakes yet.
    ///
    /// # Errors
    /// The system has no epoll or eventfd left.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let wake = mio::Waker::new(poll.registry(), BELL)?;
        let bell = Bell { called: AtomicU8::new(0), asleep: AtomicBool::new(false), wake };
        Ok(Self { poll, events: Events::with_capacity(EVENTS), bell: Arc::new(bell), skipped: false })
    }

    /// What rings for one source. Who is rung for must be asked until there is no more, or stay among the sources of the
    /// next turn.
    pub fn waker(&self, source: Source) -> Waker {
        Waker::from(Arc::new(Rope { source, bell: Arc::clone(&self.bell) }))
    }

    /// From now on the system tells of a connection's socket, first of all what is so already. It ends when the socket is
    /// closed.
    ///
    /// # Errors
    /// The system has no room for it.
    pub fn watch(&self, socket: &mut mio::net::TcpStream, place: usize) -> io::Result<()> {
        self.poll.registry().register(socket, Token(place), Interest::READABLE | Interest::WRITABLE)
    }

    /// The same of something else that becomes readable.
    ///
    /// # Errors
    /// The system has no room for it.
    pub fn watch_source(&self, descriptor: BorrowedFd<'_>, source: Source) -> io::Result<()> {
        let descriptor = descriptor.as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&descriptor), source.token(), Interest::READABLE)
    }

    /// Hears what has come. Between two turns that follow at once the system is asked every second time; otherwise the
    /// loop sleeps here until there is something.
    ///
    /// # Errors
    /// The system refuses.
    pub fn wait(&mut self, at_once: bool) -> io::Result<()> {
        self.events.clear();
        self.skipped = at_once && !self.skipped;
        if self.skipped {
            return Ok(());
        }
        let sleeps = !at_once && self.bell.sleep();
        let timeout = (!sleeps).then_some(Duration::ZERO);
        let heard = loop {
            match self.poll.poll(&mut self.events, timeout) {
                // A process that was stopped and goes on comes by here, and has heard nothing yet: a turn now would take
                // for silence what waits in its sockets.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                heard => break heard,
            }
        };
        self.bell.asleep.store(false, Ordering::Relaxed);
        heard
    }

    /// What was heard.
    pub fn news(&self) -> impl Iterator<Item = (Whose, News)> {
        self.events.iter().filter_map(|event| {
            let token = event.token();
            let source = Source::ALL.into_iter().find(|source| source.token() == token);
            let whose = source.map_or(Whose::Connection(token.0), Whose::Source);
            (token != BELL).then(|| (whose, News::from(event)))
        })
    }

    /// Who has rung since this was asked last.
    pub fn rung(&self) -> Sources {
        // Hardly ever has anybody. Whoever rings after this look finds the loop awake, and the loop looks once more before it
        // sleeps.
        if self.bell.called.load(Ordering::SeqCst) == 0 {
            return Sources::default();
        }
        Sources(self.bell.called.swap(0, Ordering::SeqCst))
    }
}

/// Rung by any thread, also by the loop's own.
#[derive(Debug)]
struct Bell {
    /// Sources, by their bits.
    called: AtomicU8,
    /// The loop sleeps, or is about to: whoever rings must wake it. One of them does.
    asleep: AtomicBool,
    wake: mio::Waker,
}

impl Bell {
    /// Before the loop sleeps: false when somebody has rung already. Who rings looks at this after he has said what for,
    /// and the loop looks for that after it has said that it sleeps; all of it in one order, so one of both sees the other.
    fn sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        self.called.load(Ordering::SeqCst) == 0
    }

    fn ring(&self, source: Source) {
        self.called.fetch_or(1 << source as u8, Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Err(error) = self.wake.wake()
        {
            tracing::error!(%error, "loop.deaf the system could not wake it");
        }
    }
}

/// A source's own.
struct Rope {
    source: Source,
    bell: Arc<Bell>,
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.bell.ring(self.source);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd as _;
    use std::thread;

    use super::*;

    fn only(sources: &[Source]) -> Sources {
        let mut only = Sources::default();
        sources.iter().for_each(|source| only.add(*source));
        only
    }

    #[test]
    fn who_rings_is_known_once_and_a_sleeping_loop_wakes() {
        let mut reactor = Reactor::new().unwrap();
        let (messages, alarm) = (reactor.waker(Source::Messages), reactor.waker(Source::Alarm));
        messages.wake_by_ref();
        // It was rung before the loop could sleep.
        reactor.wait(false).unwrap();
        assert_eq!((reactor.rung(), reactor.rung()), (only(&[Source::Messages]), Sources::default()));
        for _ in 0..100 {
            let (first, second) = (messages.clone(), alarm.clone());
            let ringing = thread::spawn(move || (first.wake(), second.wake_by_ref()));
            let mut rung = Sources::default();
            while rung != only(&[Source::Messages, Source::Alarm]) {
                reactor.wait(false).unwrap();
                assert_eq!(reactor.news().next(), None, "the bell is no news by itself");
                rung.merge(reactor.rung());
            }
            ringing.join().unwrap();
        }
    }

    #[test]
    fn sources_come_and_go_one_by_one() {
        let mut all = Sources::all();
        assert!(!all.without(Source::Ports).take(Source::Ports));
        for source in Source::ALL {
            assert!(all.take(source) && !all.take(source), "{source:?}");
        }
        assert!(all.is_empty());
    }

    /// A pair of sockets, the second one watched as place 7.
    fn watched(reactor: &Reactor) -> (TcpStream, mio::net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        far.set_nonblocking(true).unwrap();
        let mut far = mio::net::TcpStream::from_std(far);
        reactor.watch(&mut far, 7).unwrap();
        (near, far)
    }

    fn next(reactor: &mut Reactor) -> News {
        loop {
            reactor.wait(false).unwrap();
            if let Some((whose, news)) = reactor.news().last() {
                assert_eq!(whose, Whose::Connection(7));
                return news;
            }
        }
    }

    #[test]
    fn news_of_a_socket_comes_for_each_change() {
        let mut reactor = Reactor::new().unwrap();
        let (mut near, mut far) = watched(&reactor);
        assert_eq!(next(&mut reactor), News { readable: false, writable: true, ended: false });
        for _ in 0..2 {
            near.write_all(b"word").unwrap();
            assert_eq!(next(&mut reactor), News { readable: true, writable: true, ended: false });
            // Read short of the buffer: nothing is left, and what comes next is news again.
            assert_eq!(far.read(&mut [0; 8]).unwrap(), 4);
        }
        near.write_all(b"end").unwrap();
        drop(near);
        while !next(&mut reactor).ended {}
        assert_eq!(far.read(&mut [0; 8]).unwrap(), 3);
        assert_eq!(far.read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn a_port_is_a_source_and_every_second_turn_that_follows_at_once_hears_it() {
        let mut reactor = Reactor::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        reactor.watch_source(listener.as_fd(), Source::Ports).unwrap();
        let _near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        reactor.wait(true).unwrap();
        assert_eq!(reactor.news().count(), 0);
        reactor.wait(true).unwrap();
        let heard: Vec<Whose> = reactor.news().map(|(whose, _)| whose).collect();
        assert_eq!(heard, [Whose::Source(Source::Ports)]);
    }
}

//! Connections and packets between processes.
//!
//! A connection keeps its order, as TCP does; a message on a link that is cut waits in it and comes out when the link
//! heals (a clogged link), unless the connection is reset first, which takes everything under way with it: that is
//! also what a frame cut in the middle or damaged amounts to. Arbiters speak in packets, which may be lost, come twice
//! and overtake each other: their core must survive it.

use std::collections::{BTreeMap, VecDeque};

use cutover::protocol::client::{FromClient, ToClient};
use cutover::protocol::peer::PeerMessage;
use cutover::replica::{Input, LinkId};
use cutover_arbiter::protocol::{Question, Reply};
use cutover_arbiter::raft::{Message, NodeId};
use cutover_arbiter::record::GroupRecord;
use rand::RngExt;

use super::counters::Must;
use super::world::{Event, Id, Local, Time, World};

pub type ConnId = u64;
/// A dial that meets nobody takes this long.
const DIAL_TIMEOUT: Time = 500_000;
/// Messages that wait in a clogged link between two arbiters at most.
const CLOGGED: usize = 200;

/// What is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// By another replica; its number for the link.
    Peer(LinkId),
    /// By a client of the library; its number for the connection.
    Library(u64),
    /// By a Redis client; its number for the connection.
    Redis(u64),
}

/// What travels on a connection.
#[derive(Debug, Clone)]
pub enum Payload {
    Peer(PeerMessage),
    Ask(FromClient),
    Tell(ToClient),
    Redis(Vec<u8>),
    /// A reply to a Redis client, and the log position that it was computed from, for the judges only.
    RedisReply(Vec<u8>, u64),
    /// The end.
    Fin,
}

/// What travels outside connections.
#[derive(Debug, Clone)]
pub enum Packet {
    Raft(Message),
    Forward {
        ticket: u64,
        question: Question,
    },
    Forwarded {
        ticket: u64,
        reply: Reply,
    },
    Ask {
        ask: u64,
        question: Question,
    },
    Reply {
        ask: u64,
        leader: Option<NodeId>,
        reply: Reply,
    },
    /// Somebody wants to hear of records.
    Watch,
    Record(GroupRecord),
}

/// A connection; side 0 dialled.
#[derive(Debug)]
pub struct Conn {
    pub ends: [Id; 2],
    lives: [u64; 2],
    pub port: Port,
    /// The link number on the accepting side of a peer connection.
    pub accepted: LinkId,
    /// When the last message of each direction arrives.
    last: [Time; 2],
    /// What waits in each direction of a clogged link.
    backlog: [VecDeque<Payload>; 2],
    closed: [bool; 2],
    /// What came for each end while its machine stood still.
    frozen: [VecDeque<Payload>; 2],
}

#[derive(Debug)]
pub struct Network {
    size: usize,
    /// A link that is cut in one direction only carries nothing in the other either after so long: TCP hears no
    /// acknowledgement and gives up.
    one_way: Time,
    /// How many cuts are in force, by from and to.
    cuts: Vec<u16>,
    since: Vec<Time>,
    /// Added to the latency.
    slow: Vec<Time>,
    /// Of a hundred messages, how many are lost and sent again.
    lossy: Vec<u32>,
    pub conns: BTreeMap<ConnId, Conn>,
    by_link: BTreeMap<(Id, LinkId), ConnId>,
    clogged: BTreeMap<(Id, Id), Vec<Packet>>,
    next: ConnId,
    accepted: LinkId,
}

impl Network {
    pub fn new(size: usize, one_way: Time) -> Self {
        Self {
            size,
            one_way,
            cuts: vec![0; size * size],
            since: vec![0; size * size],
            slow: vec![0; size * size],
            lossy: vec![0; size * size],
            conns: BTreeMap::new(),
            by_link: BTreeMap::new(),
            clogged: BTreeMap::new(),
            next: 0,
            accepted: 0,
        }
    }

    fn at(&self, from: Id, to: Id) -> usize {
        from * self.size + to
    }

    pub fn is_cut(&self, from: Id, to: Id) -> bool {
        self.cuts[self.at(from, to)] > 0
    }

    /// True when something sent now arrives: an established connection survives a one-way cut for a while.
    fn carries(&self, now: Time, from: Id, to: Id) -> bool {
        let back = self.at(to, from);
        !self.is_cut(from, to) && (self.cuts[back] == 0 || now < self.since[back] + self.one_way)
    }

    pub fn is_open(&self, a: Id, b: Id) -> bool {
        !self.is_cut(a, b) && !self.is_cut(b, a)
    }

    fn cut(&mut self, now: Time, from: Id, to: Id) {
        let at = self.at(from, to);
        if self.cuts[at] == 0 {
            self.since[at] = now;
        }
        self.cuts[at] += 1;
    }

    /// No packet waits in a cut link any more.
    pub fn forget_packets(&mut self) {
        self.clogged.clear();
    }

    pub fn forget_packets_from(&mut self, id: Id) {
        self.clogged.retain(|(from, _), _| *from != id);
    }

    /// True when the link is whole again.
    fn heal(&mut self, from: Id, to: Id) -> bool {
        let at = self.at(from, to);
        self.cuts[at] = self.cuts[at].saturating_sub(1);
        self.cuts[at] == 0
    }

    pub fn slow(&mut self, from: Id, to: Id, by: Time) {
        let at = self.at(from, to);
        self.slow[at] = by;
    }

    pub fn lossy(&mut self, from: Id, to: Id, percent: u32) {
        let at = self.at(from, to);
        self.lossy[at] = percent;
    }

    pub fn conn_of(&self, id: Id, link: LinkId) -> Option<ConnId> {
        self.by_link.get(&(id, link)).copied()
    }

    /// Connections that `id` has, all or those to one other process.
    pub fn conns_of(&self, id: Id, other: Option<Id>) -> Vec<ConnId> {
        let has = |conn: &&Conn| conn.ends.contains(&id) && other.is_none_or(|other| conn.ends.contains(&other));
        self.conns.iter().filter(|(_, conn)| has(conn)).map(|(number, _)| *number).collect()
    }

    fn forget(&mut self, number: ConnId) {
        let Some(conn) = self.conns.remove(&number) else { return };
        if let Port::Peer(link) = conn.port {
            self.by_link.remove(&(conn.ends[0], link));
            self.by_link.remove(&(conn.ends[1], conn.accepted));
        }
    }
}

impl World {
    /// How long a message takes.
    pub fn latency(&mut self, from: Id, to: Id) -> Time {
        let (least, most) = self.swarm.latency;
        let at = self.net.at(from, to);
        // Mostly near the least, with a tail.
        let spread = self.random.random_range(0..=most - least);
        let base = least + spread * spread / (most - least).max(1);
        base + self.net.slow[at]
    }

    fn is_lost(&mut self, from: Id, to: Id) -> bool {
        let percent = self.net.lossy[self.net.at(from, to)];
        percent > 0 && self.random.random_range(0..100) < percent
    }

    /// When something that `from` sends now leaves it.
    fn departs(&self, from: Id) -> Time {
        self.processes[from].holds_until.max(self.now)
    }

    pub fn dial(&mut self, from: Id, port: Port, to: Id) {
        let life = self.processes[from].life;
        let at = self.departs(from) + self.latency(from, to);
        self.schedule_at(at, Event::Dial { from, life, port, to });
    }

    pub fn dial_arrives(&mut self, from: Id, life: u64, port: Port, to: Id) {
        if self.processes[from].life != life || !self.processes[from].alive {
            return;
        }
        if let Some(thaw) = self.thaws(to) {
            return self.schedule_at(thaw, Event::Dial { from, life, port, to });
        }
        let latency = self.latency(to, from);
        let silent = !self.processes[to].alive && self.processes[to].silent;
        if !self.net.is_open(from, to) || silent {
            return self.local(DIAL_TIMEOUT, from, Local::Dialled { port, conn: None, refused: false });
        }
        if !self.processes[to].alive {
            return self.local(latency, from, Local::Dialled { port, conn: None, refused: true });
        }
        self.net.next += 1;
        self.net.accepted += 2;
        let (number, accepted) = (self.net.next, self.net.accepted);
        if let Port::Peer(link) = port {
            self.net.by_link.insert((from, link), number);
            self.net.by_link.insert((to, accepted), number);
        }
        let conn = Conn {
            ends: [from, to],
            lives: [life, self.processes[to].life],
            port,
            accepted,
            last: [self.now + latency, self.now],
            backlog: Default::default(),
            closed: [false; 2],
            frozen: Default::default(),
        };
        self.net.conns.insert(number, conn);
        self.local(0, to, Local::Accepted { conn: number, port, accepted });
        self.local(latency, from, Local::Dialled { port, conn: Some(number), refused: false });
    }

    /// Puts a message into a connection, unless its end is closed.
    pub fn send(&mut self, number: ConnId, from: Id, payload: Payload) {
        let (now, departs) = (self.now, self.departs(from));
        let Some(conn) = self.net.conns.get(&number) else { return };
        let side = usize::from(conn.ends[1] == from);
        if conn.closed[side] || conn.lives[side] != self.processes[from].life {
            return;
        }
        let to = conn.ends[1 - side];
        let clogged = !self.net.carries(now, from, to) || !conn.backlog[side].is_empty();
        let lost = if self.is_lost(from, to) { self.random.random_range(200_000..600_000) } else { 0 };
        let at = departs + self.latency(from, to) + lost;
        let Some(conn) = self.net.conns.get_mut(&number) else { return };
        conn.closed[side] |= matches!(payload, Payload::Fin);
        if clogged {
            return conn.backlog[side].push_back(payload);
        }
        conn.last[side] = at.max(conn.last[side] + 1);
        let at = conn.last[side];
        self.schedule_at(at, Event::Arrive { conn: number, side: 1 - side, payload });
    }

    /// The owner of this end, and whether it is the life that the connection was made with.
    fn end(&self, number: ConnId, side: usize) -> Option<(Id, bool)> {
        let conn = self.net.conns.get(&number)?;
        let id = conn.ends[side];
        Some((id, self.processes[id].alive && self.processes[id].life == conn.lives[side]))
    }

    pub fn arrives(&mut self, number: ConnId, side: usize, payload: Payload) {
        let Some((id, lives)) = self.end(number, side) else { return };
        let frozen = self.thaws(id).is_some();
        let Some(conn) = self.net.conns.get_mut(&number) else { return };
        if frozen {
            return conn.frozen[side].push_back(payload);
        }
        let other = conn.ends[1 - side];
        if !lives {
            // Nobody is there any more, and the kernel says so.
            conn.closed[side] = false;
            conn.lives[side] = self.processes[id].life;
            if self.processes[id].alive || !self.processes[id].silent {
                self.send(number, id, Payload::Fin);
            }
            return;
        }
        if conn.closed[side] {
            return;
        }
        if matches!(payload, Payload::Fin) {
            conn.closed[side] = true;
            let (port, accepted) = (conn.port, conn.accepted);
            let link = if side == 0 { port_link(port) } else { accepted };
            self.net.forget(number);
            return self.take(id, Local::Ended { conn: number, link, port });
        }
        let (link, port) = (if side == 0 { port_link(conn.port) } else { conn.accepted }, conn.port);
        match payload {
            Payload::Peer(message) => {
                self.notice_frame(id, other, &message);
                self.take(id, Local::Input(Input::Peer(link, message)));
            }
            payload => self.take(id, Local::Client { conn: number, port, payload }),
        }
    }

    /// When something that reaches this process now is taken by its machine, if that stands still.
    pub fn thaws(&self, id: Id) -> Option<Time> {
        let thaw = self.processes[id].frozen_until;
        (self.now < thaw).then_some(thaw)
    }

    /// A machine runs again: what was sent to it is sent again, in order.
    pub fn thaw(&mut self, id: Id) {
        for number in self.net.conns_of(id, None) {
            let Some(conn) = self.net.conns.get_mut(&number) else { continue };
            let side = usize::from(conn.ends[1] == id);
            for payload in std::mem::take(&mut conn.frozen[side]) {
                self.arrives(number, side, payload);
            }
        }
    }

    fn notice_frame(&mut self, to: Id, from: Id, message: &PeerMessage) {
        if let PeerMessage::Append(append) = message {
            let Some(group) = self.group_of(from) else { return };
            if self.groups[group].newest_epoch() > append.head.epoch.0 {
                self.report.saw(Must::OldTermFrame);
            }
        }
        self.trace.step(self.now, (to as u64) << 32 | from as u64);
    }

    /// This end is closed after what was sent.
    pub fn close(&mut self, number: ConnId, by: Id) {
        self.send(number, by, Payload::Fin);
    }

    /// The connection breaks for both, and what was under way is lost.
    pub fn reset(&mut self, number: ConnId) {
        for side in [0, 1] {
            let Some((id, lives)) = self.end(number, side) else { return };
            let Some(conn) = self.net.conns.get_mut(&number) else { return };
            if lives && !std::mem::replace(&mut conn.closed[side], true) {
                let link = if side == 0 { port_link(conn.port) } else { conn.accepted };
                let port = conn.port;
                self.take(id, Local::Ended { conn: number, link, port });
            }
        }
        self.net.forget(number);
    }

    /// Connections of which one end is gone with its machine.
    pub fn half_open(&self) -> Vec<ConnId> {
        let gone = |conn: &Conn, side: usize| {
            let process = &self.processes[conn.ends[side]];
            !process.alive || conn.lives[side] != process.life
        };
        let dead = |conn: &Conn| gone(conn, 0) || gone(conn, 1);
        self.net.conns.iter().filter(|(_, conn)| dead(conn)).map(|(number, _)| *number).collect()
    }

    /// A process is gone: its kernel ends its connections, unless the machine went with it.
    pub fn end_connections(&mut self, id: Id) {
        for number in self.net.conns_of(id, None) {
            let Some(conn) = self.net.conns.get_mut(&number) else { continue };
            let side = usize::from(conn.ends[1] == id);
            if self.processes[id].silent {
                conn.backlog[side].clear();
            } else if conn.lives[side] == self.processes[id].life {
                self.send(number, id, Payload::Fin);
            }
        }
    }

    /// A packet, which may be lost, late or doubled.
    pub fn packet(&mut self, from: Id, to: Id, packet: Packet) {
        let among_arbiters = matches!(packet, Packet::Raft(_));
        let mut late = 0;
        if self.is_lost(from, to) {
            if among_arbiters {
                return;
            }
            late += self.random.random_range(200_000..600_000);
        }
        let departs = self.departs(from);
        if !self.net.carries(self.now, from, to) {
            if self.random.random_range(0..100) < self.swarm.clogs {
                let waiting = self.net.clogged.entry((from, to)).or_default();
                if waiting.len() < CLOGGED {
                    waiting.push(packet);
                }
            }
            return;
        }
        if among_arbiters && self.random.random_range(0..1000) < self.swarm.reorders {
            late += self.random.random_range(0..50_000);
        }
        if among_arbiters && self.random.random_range(0..1000) < self.swarm.duplicates {
            let again = departs + self.latency(from, to) + self.random.random_range(0..50_000);
            self.schedule_at(again, Event::Packet { from, to, packet: packet.clone() });
        }
        let at = departs + self.latency(from, to) + late;
        self.schedule_at(at, Event::Packet { from, to, packet });
    }

    /// Cuts links, each in one direction.
    pub fn cut(&mut self, links: &[(Id, Id)]) {
        for &(from, to) in links {
            self.net.cut(self.now, from, to);
        }
    }

    /// The connections over these links break after a while, if they are still cut.
    pub fn reset_if_cut(&mut self, links: &[(Id, Id)]) {
        for &(from, to) in links {
            if self.net.is_cut(from, to) || self.net.is_cut(to, from) {
                for number in self.net.conns_of(from, Some(to)) {
                    self.reset(number);
                }
            }
        }
    }

    /// Heals links; what waited in them comes out.
    pub fn heal(&mut self, links: &[(Id, Id)]) {
        for &(from, to) in links {
            if !self.net.heal(from, to) {
                continue;
            }
            for packet in self.net.clogged.remove(&(from, to)).unwrap_or_default() {
                let latency = self.latency(from, to);
                self.schedule_at(self.now + latency, Event::Packet { from, to, packet });
            }
            // The other direction may have waited for this one's acknowledgements.
            for number in self.net.conns_of(from, Some(to)) {
                self.unclog(number, from, to);
                if !self.net.is_cut(to, from) {
                    self.unclog(number, to, from);
                }
            }
        }
    }

    fn unclog(&mut self, number: ConnId, from: Id, to: Id) {
        let mut at = self.now + self.latency(from, to);
        let Some(conn) = self.net.conns.get_mut(&number) else { return };
        let side = usize::from(conn.ends[1] == from);
        let waiting = std::mem::take(&mut conn.backlog[side]);
        at = at.max(conn.last[side] + 1);
        conn.last[side] = at + waiting.len() as u64;
        for (at, payload) in (at..).zip(waiting) {
            self.schedule_at(at, Event::Arrive { conn: number, side: 1 - side, payload });
        }
    }
}

fn port_link(port: Port) -> LinkId {
    match port {
        Port::Peer(number) | Port::Library(number) | Port::Redis(number) => number,
    }
}

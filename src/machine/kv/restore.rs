//! How a state is read back from the chunks of a snapshot. Believes nothing: every length is compared with what has
//! arrived, every key must come after the one before, and memory grows only with bytes received.

use super::collection::{Collection, Fields, List, Members, Value, Zset, compare};
use super::hash::Seed;
use super::keyspace::{Body, Keyspace, Place};
use super::machine::KeyValue;
use super::packed::Millis;
use super::snapshot::{ELEMENT, END, HASH, HEAD, LIST, PIECE, SET, STRING, VERSION, ZSET};

/// A [`KeyValue`] in the making.
#[derive(Default)]
pub struct Restore {
    space: Keyspace,
    announced: u64,
    state: State,
    /// The last key added, in the order of hashes.
    last_key: Option<(u64, Vec<u8>)>,
}

impl std::fmt::Debug for Restore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restore").field("keys", &self.space.keys.len()).field("announced", &self.announced).finish()
    }
}

#[derive(Default)]
enum State {
    /// Nothing has arrived.
    #[default]
    Empty,
    /// Between keys.
    Keys,
    /// Inside a collection.
    Filling(Filling),
    /// Pieces of a long value are missing.
    Tail(Tail),
    /// The last record has arrived.
    Complete,
    /// A chunk was wrong.
    Failed,
}

/// A collection that is being filled.
struct Filling {
    deadline: Millis,
    key: Vec<u8>,
    value: Value,
    last: Option<Order>,
}

/// What the next element of a collection must come after.
enum Order {
    Hash(u64, Vec<u8>),
    Score(f64, Vec<u8>),
}

/// A value of which pieces are missing.
struct Tail {
    of: TailOf,
    length: u64,
    bytes: Vec<u8>,
}

enum TailOf {
    String { deadline: Millis, key: Vec<u8> },
    Element(Filling, ElementHead),
}

enum ElementHead {
    None,
    Field(Vec<u8>),
    Score(f64),
}

/// Reads records from a chunk.
struct Input<'a>(&'a [u8]);

type Read<T> = Result<T, String>;

impl<'a> Input<'a> {
    fn byte(&mut self) -> Read<u8> {
        let (byte, rest) = self.0.split_first().ok_or("a record ends early")?;
        self.0 = rest;
        Ok(*byte)
    }

    fn varint(&mut self) -> Read<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is too large".into())
    }

    fn word(&mut self) -> Read<u64> {
        let (word, rest) = self.0.split_first_chunk::<8>().ok_or("a record ends early")?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*word))
    }

    fn bytes(&mut self) -> Read<&'a [u8]> {
        let length = self.varint()?;
        let length = usize::try_from(length).map_err(|_| "a length is too large")?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or("a length goes past the end of the chunk")?;
        self.0 = rest;
        Ok(bytes)
    }

    /// The whole length of a tail and its first piece.
    fn tail(&mut self) -> Read<(u64, &'a [u8])> {
        let length = self.varint()?;
        let piece = self.bytes()?;
        if piece.len() as u64 > length { Err("a piece is longer than its value".into()) } else { Ok((length, piece)) }
    }
}

impl Restore {
    fn records(&mut self, input: &mut Input<'_>) -> Read<()> {
        while !input.0.is_empty() {
            let tag = input.byte()?;
            self.state = match (std::mem::replace(&mut self.state, State::Failed), tag) {
                (State::Empty, HEAD) => self.head(input)?,
                (State::Keys, STRING) => self.string(input)?,
                (State::Keys, LIST | SET | HASH | ZSET) => Self::open(tag, input)?,
                (State::Filling(filling), ELEMENT) => self.element(filling, input)?,
                (State::Tail(tail), PIECE) => self.piece(tail, input)?,
                (State::Keys, END) => State::Complete,
                (State::Filling(filling), STRING | LIST | SET | HASH | ZSET | END) => {
                    self.close(filling)?;
                    match tag {
                        STRING => self.string(input)?,
                        END => State::Complete,
                        _ => Self::open(tag, input)?,
                    }
                }
                _ => return Err(format!("a record of kind {:?} is out of place", char::from(tag))),
            };
        }
        Ok(())
    }

    fn head(&mut self, input: &mut Input<'_>) -> Read<State> {
        match input.varint()? {
            VERSION => {}
            other => return Err(format!("the snapshot has format {other}, this program reads format {VERSION}")),
        }
        self.space.seed = Seed(input.word()?, input.word()?);
        self.announced = input.varint()?;
        Ok(State::Keys)
    }

    fn string(&mut self, input: &mut Input<'_>) -> Read<State> {
        let (deadline, key) = (input.varint()?, input.bytes()?);
        let (length, piece) = input.tail()?;
        if piece.len() as u64 == length {
            self.add(key, Body::string(deadline, key, piece))?;
            return Ok(State::Keys);
        }
        let of = TailOf::String { deadline, key: key.to_vec() };
        Ok(State::Tail(Tail { of, length, bytes: piece.to_vec() }))
    }

    fn open(tag: u8, input: &mut Input<'_>) -> Read<State> {
        let (deadline, key) = (input.varint()?, input.bytes()?.to_vec());
        let value = match tag {
            LIST => List::default().into_value(),
            SET => Members::default().into_value(),
            HASH => Fields::default().into_value(),
            _ => Zset::default().into_value(),
        };
        Ok(State::Filling(Filling { deadline, key, value, last: None }))
    }

    fn element(&mut self, mut filling: Filling, input: &mut Input<'_>) -> Read<State> {
        let head = match &filling.value {
            Value::Hash(_) => ElementHead::Field(input.bytes()?.to_vec()),
            Value::Zset(_) => ElementHead::Score(f64::from_bits(input.word()?)),
            _ => ElementHead::None,
        };
        let (length, piece) = input.tail()?;
        if piece.len() as u64 == length {
            filling.add(self.space.seed, &head, piece)?;
            return Ok(State::Filling(filling));
        }
        let of = TailOf::Element(filling, head);
        Ok(State::Tail(Tail { of, length, bytes: piece.to_vec() }))
    }

    fn piece(&mut self, mut tail: Tail, input: &mut Input<'_>) -> Read<State> {
        tail.bytes.extend_from_slice(input.bytes()?);
        let have = tail.bytes.len() as u64;
        if have > tail.length {
            return Err("the pieces of a value are longer than the value".into());
        }
        if have < tail.length {
            return Ok(State::Tail(tail));
        }
        match tail.of {
            TailOf::String { deadline, key } => {
                self.add(&key, Body::string_from(deadline, &key, tail.bytes))?;
                Ok(State::Keys)
            }
            TailOf::Element(mut filling, head) => {
                filling.add(self.space.seed, &head, &tail.bytes)?;
                Ok(State::Filling(filling))
            }
        }
    }

    fn close(&mut self, filling: Filling) -> Read<()> {
        if filling.last.is_none() && !matches!(&filling.value, Value::List(list) if list.len() > 0) {
            return Err("a collection is empty".into());
        }
        self.add(&filling.key, Body::object(filling.deadline, &filling.key, filling.value))
    }

    fn add(&mut self, key: &[u8], body: Body) -> Read<()> {
        let hash = self.space.seed.hash(key);
        match &mut self.last_key {
            Some((last_hash, last)) => {
                if (*last_hash, last.as_slice()) >= (hash, key) {
                    return Err("keys are out of order".into());
                }
                *last_hash = hash;
                last.clear();
                last.extend_from_slice(key);
            }
            None => self.last_key = Some((hash, key.to_vec())),
        }
        self.space.push_back(hash, body);
        Ok(())
    }
}

impl Filling {
    fn add(&mut self, seed: Seed, head: &ElementHead, tail: &[u8]) -> Read<()> {
        match (&mut self.value, head) {
            (Value::List(list), _) => list.push_back(tail),
            (Value::Set(members), _) => {
                let place = Place { hash: seed.hash(tail), key: tail };
                self.last = Some(in_order(self.last.take(), place)?);
                members.0.push_back(place, b"");
            }
            (Value::Hash(fields), ElementHead::Field(field)) => {
                let place = Place { hash: seed.hash(field), key: field };
                self.last = Some(in_order(self.last.take(), place)?);
                fields.push_back(place, tail);
            }
            (Value::Zset(zset), ElementHead::Score(score)) => {
                let after = match self.last.take() {
                    Some(Order::Score(last, member)) => {
                        compare(last, *score).then_with(|| member.as_slice().cmp(tail)).is_lt()
                    }
                    _ => true,
                };
                let place = Place { hash: seed.hash(tail), key: tail };
                if score.is_nan() || !after || !zset.push_back(place, *score) {
                    return Err("the members of a sorted set are out of order".into());
                }
                self.last = Some(Order::Score(*score, tail.to_vec()));
            }
            _ => return Err("an element does not fit its collection".into()),
        }
        Ok(())
    }
}

fn in_order(last: Option<Order>, place: Place<'_>) -> Read<Order> {
    match last {
        Some(Order::Hash(hash, key)) if (hash, key.as_slice()) >= (place.hash, place.key) => {
            Err("the elements of a collection are out of order".into())
        }
        Some(Order::Hash(_, mut key)) => {
            key.clear();
            key.extend_from_slice(place.key);
            Ok(Order::Hash(place.hash, key))
        }
        _ => Ok(Order::Hash(place.hash, place.key.to_vec())),
    }
}

impl crate::machine::Restore for Restore {
    type Machine = KeyValue;

    fn chunk(&mut self, chunk: &[u8]) -> Result<(), String> {
        self.records(&mut Input(chunk)).map_err(|what| format!("the snapshot is damaged: {what}"))
    }

    fn finish(self) -> Result<KeyValue, String> {
        let found = self.space.keys.len() as u64;
        match self.state {
            State::Complete if found == self.announced => Ok(KeyValue { space: self.space }),
            State::Complete => Err(format!("the snapshot announced {} keys and has {found}", self.announced)),
            _ => Err(format!("the snapshot ends early, after {found} of {} keys", self.announced)),
        }
    }
}

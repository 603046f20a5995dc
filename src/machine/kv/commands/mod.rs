//! What each command does, a file per data type.
//!
//! A command checks all its arguments before it changes anything: a refusal leaves no trace. Writes go through
//! [`Writer`], which removes what has expired as it is touched; reads through [`Reader`], which hides it.

mod expiry;
mod hash;
mod keys;
mod list;
mod scan;
mod set;
mod string;
mod zrange;
mod zset;

use super::collection::Collection;
use super::command::CommandId;
use super::keyspace::{Body, Keyspace, Place, Placed as _, Replaced, Slot};
use super::packed::Millis;
use super::refusal::{Outcome, TOO_MANY_AT_ONCE, WRITES, WRONG_TYPE};
use super::reply::Reply;
use crate::machine::{Env, Timestamp};

/// Answers with more elements than this, or to as many words, are given by another thread.
pub(super) const DEFER_ABOVE: usize = 10_000;
/// Answers of more bytes than this are, too.
const DEFER_BYTES: u64 = 1 << 20;
/// Elements that one command takes away, at most: each costs the loop some time, and the reply a place in the log.
const MOST_POPPED: usize = 1 << 17;

/// A command's arguments, without its name.
pub(super) type Args<'a> = &'a [&'a [u8]];

/// What a writing command works on.
pub(super) struct Writer<'w, 'e> {
    pub(super) space: &'w mut Keyspace,
    pub(super) env: &'w mut Env<'e>,
    pub(super) reply: Reply<'w>,
    pub(super) command: CommandId,
}

/// Where a reading command is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    /// On the loop: what would take long is left.
    Loop,
    /// Where nobody waits for anything else.
    Elsewhere,
}

/// What a reading command works on.
pub(super) struct Reader<'r> {
    pub(super) space: &'r Keyspace,
    pub(super) clock: Timestamp,
    pub(super) random: &'r mut dyn FnMut() -> u64,
    pub(super) reply: Reply<'r>,
    pub(super) place: Where,
    /// The command was left: it is to be begun anew elsewhere, whatever it has written.
    pub(super) left: bool,
}

/// Many random numbers from one, so that an entry carries one whatever the count: `SplitMix64` of G. Steele, D. Lea
/// and C. Flood, "Fast splittable pseudorandom number generators" (2014), figure 17.
pub(super) struct Spread(pub(super) u64);

impl Spread {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// How many of `length` elements a command takes away that asks for `count` (one, without a count).
fn popped(count: Option<usize>, length: usize) -> Outcome<usize> {
    match count.unwrap_or(1).min(length) {
        taken @ 0..=MOST_POPPED => Ok(taken),
        _ => Err(TOO_MANY_AT_ONCE),
    }
}

/// The group clock as deadlines count it.
pub(super) fn millis(clock: Timestamp) -> Millis {
    clock / 1000
}

/// A number below `bound`, from a random one; 0 for a bound of 0.
fn below(random: u64, bound: usize) -> usize {
    ((u128::from(random) * bound as u128) >> 64) as usize
}

impl<'w> Writer<'w, '_> {
    fn now(&self) -> Millis {
        millis(self.env.now())
    }

    /// The key's place, after removing what has expired there.
    fn fresh<'k>(&mut self, key: &'k [u8]) -> Place<'k> {
        let place = self.space.place(key);
        let now = self.now();
        if self.space.get(place).is_some_and(|slot| slot.expired(now)) {
            self.remove(place);
        }
        place
    }

    /// Reports a change: the key, and what became of it.
    fn changed(&mut self, key: &[u8], what: &[&[u8]]) {
        self.env.changed(key);
        for part in what {
            self.env.changed(part);
        }
    }

    /// Drops what a key held, elsewhere if it is large.
    fn dispose(&mut self, body: Option<Body>) {
        if let Some(body) = body.filter(Body::heavy) {
            self.env.discard(body);
        }
    }

    /// Takes a key away; true when there was one. What it held is only detached here.
    fn remove(&mut self, place: Place<'_>) -> bool {
        let Some(body) = self.space.take(place) else { return false };
        self.changed(place.key, &[b"removed"]);
        self.dispose(Some(body));
        true
    }

    fn set_string(&mut self, place: Place<'_>, value: &[u8], deadline: Millis) {
        let old = self.space.set_string(place, value, deadline);
        self.string_changed(place.key, value, deadline, old);
    }

    /// Sets a string whatever the key held: [`Writer::fresh`] and [`Writer::set_string`] by one search, where the key
    /// is there.
    fn store_string(&mut self, key: &[u8], value: &[u8], deadline: Millis) {
        let place = self.space.place(key);
        let now = self.now();
        let old = match self.space.replace_string(place, value, deadline, now) {
            Replaced::Live(old) => old,
            absent => {
                if matches!(absent, Replaced::Expired) {
                    self.remove(place);
                }
                self.space.insert(place, Body::string(deadline, key, value));
                None
            }
        };
        self.string_changed(key, value, deadline, old);
    }

    fn string_changed(&mut self, key: &[u8], value: &[u8], deadline: Millis, old: Option<Body>) {
        self.changed(key, &[value]);
        if deadline != 0 {
            self.env.changed(&deadline.to_le_bytes());
        }
        self.dispose(old);
    }

    /// Refuses a key that holds another type; true when it holds anything.
    fn expect<C: Collection>(&self, place: Place<'_>) -> Outcome<bool> {
        match self.space.get(place) {
            None => Ok(false),
            Some(slot) if slot.collection::<C>().is_some() => Ok(true),
            Some(_) => Err(WRONG_TYPE),
        }
    }

    /// Changes the collection at a key that is known to hold one of this type or nothing. An empty one is made for
    /// the purpose and stored if it does not stay empty; one that becomes empty is taken away.
    fn update<C: Collection, R>(&mut self, place: Place<'_>, change: impl FnOnce(&mut C, &mut Env<'_>) -> R) -> R {
        let env = &mut *self.env;
        env.changed(place.key);
        if self.space.get(place).is_none() {
            let mut collection = C::default();
            let result = change(&mut collection, env);
            if collection.len() > 0 {
                self.space.put(place, Body::object(0, place.key, collection.into_value()));
            }
            return result;
        }
        let edited = self.space.edit(place, |value| {
            let collection = C::of_mut(value).expect("the caller has checked the type");
            let result = change(collection, env);
            (result, collection.len() == 0)
        });
        let (result, empty) = edited.expect("a key that holds a collection is an object");
        if empty {
            self.remove(place);
        }
        result
    }
}

impl<'r> Reader<'r> {
    /// True on the loop: the command returns, and is begun anew by another thread.
    fn leaves(&mut self) -> bool {
        let leaves = self.place == Where::Loop;
        self.left |= leaves;
        leaves
    }

    /// The same, where so many elements or bytes are to be written or looked at.
    fn leaves_for(&mut self, elements: usize, bytes: u64) -> bool {
        (elements > DEFER_ABOVE || bytes > DEFER_BYTES) && self.leaves()
    }

    /// The same, for `taken` of the `of` elements of a collection that has so many bytes.
    fn leaves_for_part(&mut self, taken: usize, of: usize, bytes: u64) -> bool {
        let share = u128::from(bytes) * taken as u128 / of.max(1) as u128;
        self.leaves_for(taken, u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// Answers with one value, which is copied elsewhere when it is long.
    fn value(&mut self, value: &[u8]) {
        if !self.leaves_for(0, value.len() as u64) {
            self.reply.bulk(value);
        }
    }

    fn now(&self) -> Millis {
        millis(self.clock)
    }

    /// The key, unless it has expired.
    fn live(&self, key: &[u8]) -> Option<&'r Slot> {
        let now = self.now();
        self.space.get(self.space.place(key)).filter(|slot| !slot.expired(now))
    }

    /// The collection at a key; refuses another type.
    fn collection<C: Collection + 'r>(&self, key: &[u8]) -> Outcome<Option<&'r C>> {
        match self.live(key) {
            None => Ok(None),
            Some(slot) => slot.collection().map(Some).ok_or(WRONG_TYPE),
        }
    }
}

/// Answers a reading command whose number of arguments has been checked, or leaves it ([`Reader::left`]).
pub(super) fn read(reader: &mut Reader<'_>, command: CommandId, args: Args<'_>) -> Outcome {
    use CommandId as Id;
    match command {
        Id::DbSize => keys::dbsize(reader),
        Id::Exists | Id::Touch => keys::exists(reader, args),
        Id::Type => keys::kind(reader, args),
        Id::Time => keys::time(reader),
        Id::RandomKey => keys::random(reader),
        Id::Keys => scan::keys(reader, args),
        Id::Scan => scan::scan(reader, args)?,
        Id::ExpireTime | Id::PExpireTime | Id::Ttl | Id::PTtl => expiry::tell(reader, command, args),
        Id::Get => string::get(reader, args)?,
        Id::MGet => string::mget(reader, args),
        Id::StrLen => string::strlen(reader, args)?,
        Id::GetRange => string::getrange(reader, args)?,
        Id::HExists => hash::hexists(reader, args)?,
        Id::HGet => hash::hget(reader, args)?,
        Id::HGetAll => hash::hgetall(reader, args)?,
        Id::HLen => hash::hlen(reader, args)?,
        Id::HMGet => hash::hmget(reader, args)?,
        Id::LIndex => list::lindex(reader, args)?,
        Id::LLen => list::llen(reader, args)?,
        Id::LRange => list::lrange(reader, args)?,
        Id::SCard => set::scard(reader, args)?,
        Id::SIsMember => set::sismember(reader, args)?,
        Id::SMembers => set::smembers(reader, args)?,
        Id::SRandMember => set::srandmember(reader, args)?,
        Id::ZCard => zset::zcard(reader, args)?,
        Id::ZScore => zset::zscore(reader, args)?,
        Id::ZRange => zrange::zrange(reader, args)?,
        _ => return Err(WRITES),
    }
    Ok(())
}

/// Executes a writing command whose number of arguments has been checked.
pub(super) fn write(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    use CommandId as Id;
    match writer.command {
        Id::Set => string::set(writer, args),
        Id::SetNx => string::setnx(writer, args),
        Id::SetEx | Id::PSetEx => string::setex(writer, args),
        Id::GetSet => string::getset(writer, args),
        Id::GetDel => string::getdel(writer, args),
        Id::GetEx => string::getex(writer, args),
        Id::MSet | Id::MSetNx => string::mset(writer, args),
        Id::Append => string::append(writer, args),
        Id::SetRange => string::setrange(writer, args),
        Id::Incr | Id::Decr | Id::IncrBy | Id::DecrBy => string::incr(writer, args),
        Id::IncrByFloat => string::incrbyfloat(writer, args),
        Id::Del | Id::Unlink => keys::del(writer, args),
        Id::Rename | Id::RenameNx => keys::rename(writer, args),
        Id::Copy => keys::copy(writer, args),
        Id::FlushAll | Id::FlushDb => keys::flush(writer, args),
        Id::Expire | Id::PExpire | Id::ExpireAt | Id::PExpireAt => expiry::expire(writer, args),
        Id::Persist => expiry::persist(writer, args),
        Id::LPush | Id::RPush => list::push(writer, args),
        Id::LPop | Id::RPop => list::pop(writer, args),
        Id::LSet => list::lset(writer, args),
        Id::LRem => list::lrem(writer, args),
        Id::LTrim => list::ltrim(writer, args),
        Id::SAdd => set::sadd(writer, args),
        Id::SRem => set::srem(writer, args),
        Id::SPop => set::spop(writer, args),
        Id::HSet | Id::HMSet => hash::hset(writer, args),
        Id::HDel => hash::hdel(writer, args),
        Id::ZAdd => zset::zadd(writer, args),
        Id::ZRem => zset::zrem(writer, args),
        Id::ZPopMin => zset::zpopmin(writer, args),
        _ => Err(super::refusal::MALFORMED),
    }
}

/// Removes what is past its deadline, at most `budget` keys.
pub(super) fn expire(space: &mut Keyspace, env: &mut Env<'_>, budget: usize) {
    let now = millis(env.now());
    for _ in 0..budget {
        let Some(slot) = space.first_expired(now) else { return };
        let slot = slot.clone();
        let Some(body) = space.take(Place { hash: slot.hash, key: slot.key() }) else { return };
        env.changed(slot.key());
        env.changed(b"expired");
        drop(slot);
        if body.heavy() {
            env.discard(body);
        }
    }
}

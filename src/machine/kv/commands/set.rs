//! Sets. Random choices are made by rank in the order of hashes, which snapshots carry.

use super::super::collection::{Field, Members};
use super::super::keyspace::Place;
use super::super::number::{positive, symmetric};
use super::super::refusal::{NOT_IN_RANGE, Outcome, SYNTAX};
use super::super::reply::Reply;
use super::{Args, DEFER_ABOVE, Reader, Writer, below};
use crate::machine::ReadOutcome;

/// Elements that SRANDMEMBER repeats, at most: a small request must not make a reply without bound.
const MOST_REPEATED: usize = 1 << 20;

/// Many random numbers from one, so that an entry carries one whatever the count: `SplitMix64` of G. Steele, D. Lea
/// and C. Flood, "Fast splittable pseudorandom number generators" (2014), figure 17.
struct Spread(u64);

impl Spread {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

pub(super) fn sadd(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let place = writer.fresh(args[0]);
    writer.expect::<Members>(place)?;
    let seed = writer.space.seed;
    let new = writer.update(place, |members: &mut Members, env| {
        let mut new = 0;
        for member in &args[1..] {
            if members.add(Place { hash: seed.hash(member), key: member }) {
                new += 1;
                env.changed(member);
            }
        }
        new
    });
    writer.reply.integer(new);
    Ok(())
}

pub(super) fn srem(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let place = writer.fresh(args[0]);
    let mut removed = 0;
    if writer.expect::<Members>(place)? {
        let seed = writer.space.seed;
        removed = writer.update(place, |members: &mut Members, env| {
            let mut removed = 0;
            for member in &args[1..] {
                if members.0.remove(Place { hash: seed.hash(member), key: member }) {
                    removed += 1;
                    env.changed(member);
                }
            }
            removed
        });
    }
    writer.reply.integer(removed);
    Ok(())
}

pub(super) fn spop(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let count = match args {
        [_] => None,
        [_, count] => Some(positive(count)?),
        _ => return Err(SYNTAX),
    };
    let place = writer.fresh(args[0]);
    let found = writer.expect::<Members>(place)?;
    if !found || count == Some(0) {
        if count.is_some() {
            writer.reply.set(0)
        } else {
            writer.reply.null()
        }
        return Ok(());
    }
    let popped: Vec<Field> = writer.update(place, |members: &mut Members, env| {
        let mut random = Spread(env.random());
        let length = members.0.entries().len();
        (0..count.unwrap_or(1).min(length))
            .filter_map(|_| members.0.remove_at(below(random.next(), members.0.entries().len())))
            .inspect(|field| env.changed(field.packed.key()))
            .collect()
    });
    if count.is_some() {
        writer.reply.set(popped.len());
    }
    for field in &popped {
        writer.reply.bulk(field.packed.key());
    }
    Ok(())
}

pub(super) fn srandmember(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let count = match args {
        [_] => None,
        [_, count] => Some(symmetric(count)?),
        _ => return Err(SYNTAX),
    };
    let members = reader.collection::<Members>(args[0])?;
    let Some(members) = members else {
        if count.is_some() {
            reader.reply.array(0)
        } else {
            reader.reply.null()
        }
        return Ok(());
    };
    let entries = members.0.entries();
    let mut random = Spread((reader.random)());
    let wanted = count.map_or(1, |count| usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX));
    let ranks: Vec<usize> = match count {
        Some(0..) => choose(&mut random, wanted, entries.len()),
        _ if wanted > MOST_REPEATED => return Err(NOT_IN_RANGE),
        _ => (0..wanted).map(|_| below(random.next(), entries.len())).collect(),
    };
    if count.is_some() {
        reader.reply.array(ranks.len());
    }
    for field in ranks.iter().filter_map(|rank| entries.at(*rank)) {
        reader.reply.bulk(field.packed.key());
    }
    Ok(())
}

/// `wanted` different ranks below `length`, all choices equally likely: R. Floyd's sampling, in J. Bentley and
/// R. Floyd, "Programming pearls: a sample of brilliance" (1987).
fn choose(random: &mut Spread, wanted: usize, length: usize) -> Vec<usize> {
    if wanted >= length {
        return (0..length).collect();
    }
    let mut chosen = std::collections::BTreeSet::new();
    for last in length - wanted..length {
        let rank = below(random.next(), last + 1);
        if !chosen.insert(rank) {
            chosen.insert(last);
        }
    }
    chosen.into_iter().collect()
}

pub(super) fn scard(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let length = reader.collection::<Members>(args[0])?.map_or(0, |members| members.0.entries().len());
    reader.reply.integer(length as i64);
    Ok(())
}

pub(super) fn sismember(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let place = reader.space.place(args[1]);
    let found = reader.collection::<Members>(args[0])?.is_some_and(|members| members.contains(place));
    reader.reply.integer(i64::from(found));
    Ok(())
}

pub(super) fn smembers(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome<ReadOutcome> {
    fn answer(members: &Members, reply: &mut Reply<'_>) {
        reply.set(members.0.entries().len());
        for field in members.0.entries().iter() {
            reply.bulk(field.packed.key());
        }
    }
    match reader.collection::<Members>(args[0])? {
        None => reader.reply.set(0),
        Some(members) if members.0.entries().len() > DEFER_ABOVE => {
            let members = members.clone();
            return Ok(ReadOutcome::Deferred(Box::new(move |out| answer(&members, &mut Reply(out)))));
        }
        Some(members) => answer(members, &mut reader.reply),
    }
    Ok(ReadOutcome::Done)
}

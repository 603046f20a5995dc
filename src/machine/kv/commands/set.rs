//! Sets. Random choices are made by rank in the order of hashes, which snapshots carry.

use super::super::collection::{Field, Members};
use super::super::keyspace::Place;
use super::super::number::{positive, symmetric};
use super::super::refusal::{NOT_IN_RANGE, Outcome, SYNTAX};
use super::{Args, Reader, Spread, Writer, below, popped};

/// Elements that SRANDMEMBER repeats, at most: a small request must not make a reply without bound.
const MOST_REPEATED: usize = 1 << 20;
/// And bytes, by the average of the members.
const MOST_BYTES: u64 = 512 << 20;

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
    let length =
        writer.space.get(place).and_then(|slot| slot.collection::<Members>()).map_or(0, |set| set.0.entries().len());
    let taken = popped(count, length)?;
    let fields: Vec<Field> = writer.update(place, |members: &mut Members, env| {
        let mut random = Spread(env.random());
        (0..taken)
            .filter_map(|_| members.0.remove_at(below(random.next(), members.0.entries().len())))
            .inspect(|field| env.changed(field.packed.key()))
            .collect()
    });
    if count.is_some() {
        writer.reply.set(fields.len());
    }
    for field in &fields {
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
    let wanted = count.map_or(1, |count| usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX));
    let repeats = count.is_some_and(|count| count < 0);
    let written = if repeats { wanted } else { wanted.min(entries.len()) };
    let bytes = members.0.bytes();
    if repeats && (wanted > MOST_REPEATED || bytes / entries.len().max(1) as u64 * wanted as u64 > MOST_BYTES) {
        return Err(NOT_IN_RANGE);
    }
    if reader.leaves_for_part(written, entries.len(), bytes) {
        return Ok(());
    }
    let mut random = Spread((reader.random)());
    let ranks: Vec<usize> = match count {
        Some(0..) => choose(&mut random, wanted, entries.len()),
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

pub(super) fn smembers(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let Some(members) = reader.collection::<Members>(args[0])? else {
        reader.reply.set(0);
        return Ok(());
    };
    let entries = members.0.entries();
    if reader.leaves_for(entries.len(), members.0.bytes()) {
        return Ok(());
    }
    reader.reply.set(entries.len());
    for field in entries.iter() {
        reader.reply.bulk(field.packed.key());
    }
    Ok(())
}

//! Hashes.

use super::super::collection::Fields;
use super::super::command::CommandId;
use super::super::keyspace::Place;
use super::super::refusal::{Outcome, arity};
use super::{Args, Reader, Writer};

pub(super) fn hset(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let (pairs, []) = args[1..].as_chunks::<2>() else { return Err(arity(writer.command.spec().name)) };
    let place = writer.fresh(args[0]);
    writer.expect::<Fields>(place)?;
    let seed = writer.space.seed;
    let new = writer.update(place, |fields: &mut Fields, env| {
        let mut new = 0;
        for [field, value] in pairs {
            new += i64::from(fields.set(Place { hash: seed.hash(field), key: field }, value));
            env.changed(field);
            env.changed(value);
        }
        new
    });
    if writer.command == CommandId::HMSet {
        writer.reply.ok()
    } else {
        writer.reply.integer(new)
    }
    Ok(())
}

pub(super) fn hdel(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let place = writer.fresh(args[0]);
    let mut removed = 0;
    if writer.expect::<Fields>(place)? {
        let seed = writer.space.seed;
        removed = writer.update(place, |fields: &mut Fields, env| {
            let mut removed = 0;
            for field in &args[1..] {
                if fields.remove(Place { hash: seed.hash(field), key: field }) {
                    removed += 1;
                    env.changed(field);
                }
            }
            removed
        });
    }
    writer.reply.integer(removed);
    Ok(())
}

fn field<'r>(reader: &Reader<'r>, fields: Option<&'r Fields>, field: &[u8]) -> Option<&'r [u8]> {
    fields?.get(reader.space.place(field))
}

pub(super) fn hget(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let fields = reader.collection(args[0])?;
    match field(reader, fields, args[1]) {
        Some(value) => reader.value(value),
        None => reader.reply.null(),
    }
    Ok(())
}

pub(super) fn hmget(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let fields = reader.collection(args[0])?;
    let start = reader.reply.0.len();
    reader.reply.array(args.len() - 1);
    for name in &args[1..] {
        let value = field(reader, fields, name);
        if reader.leaves_for(0, (reader.reply.0.len() - start + value.map_or(0, <[u8]>::len)) as u64) {
            return Ok(());
        }
        match value {
            Some(value) => reader.reply.bulk(value),
            None => reader.reply.null(),
        }
    }
    Ok(())
}

pub(super) fn hexists(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let fields = reader.collection(args[0])?;
    let found = field(reader, fields, args[1]).is_some();
    reader.reply.integer(i64::from(found));
    Ok(())
}

pub(super) fn hlen(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let length = reader.collection::<Fields>(args[0])?.map_or(0, |fields| fields.entries().len());
    reader.reply.integer(length as i64);
    Ok(())
}

pub(super) fn hgetall(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let Some(fields) = reader.collection::<Fields>(args[0])? else {
        reader.reply.map(0);
        return Ok(());
    };
    let entries = fields.entries();
    if reader.leaves_for(entries.len(), fields.bytes()) {
        return Ok(());
    }
    reader.reply.map(entries.len());
    for field in entries.iter() {
        let parts = field.packed.parts();
        reader.reply.bulk(parts.key);
        reader.reply.bulk(parts.value);
    }
    Ok(())
}

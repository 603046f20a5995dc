//! Hashes.

use super::super::collection::Fields;
use super::super::command::CommandId;
use super::super::keyspace::Place;
use super::super::refusal::{Outcome, arity};
use super::super::reply::Reply;
use super::{Args, DEFER_ABOVE, Reader, Writer};
use crate::machine::ReadOutcome;

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
        Some(value) => reader.reply.bulk(value),
        None => reader.reply.null(),
    }
    Ok(())
}

pub(super) fn hmget(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let fields = reader.collection(args[0])?;
    reader.reply.array(args.len() - 1);
    for name in &args[1..] {
        match field(reader, fields, name) {
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

pub(super) fn hgetall(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome<ReadOutcome> {
    fn answer(fields: &Fields, reply: &mut Reply<'_>) {
        reply.map(fields.entries().len());
        for field in fields.entries().iter() {
            let parts = field.packed.parts();
            reply.bulk(parts.key);
            reply.bulk(parts.value);
        }
    }
    match reader.collection::<Fields>(args[0])? {
        None => reader.reply.map(0),
        Some(fields) if fields.entries().len() > DEFER_ABOVE => {
            let fields = fields.clone();
            return Ok(ReadOutcome::Deferred(Box::new(move |out| answer(&fields, &mut Reply(out)))));
        }
        Some(fields) => answer(fields, &mut reader.reply),
    }
    Ok(ReadOutcome::Done)
}

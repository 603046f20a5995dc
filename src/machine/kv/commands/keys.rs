//! Commands on keys as such, whatever they hold.

use super::super::command::CommandId;
use super::super::keyspace::{Keyspace, Slot};
use super::super::number::integer;
use super::super::refusal::{DB_INDEX, NO_SUCH_KEY, Outcome, SAME_OBJECT, SYNTAX};
use super::{Args, Reader, Writer, below};

/// Keys past their deadline are counted until they are removed, as in Redis.
pub(super) fn dbsize(reader: &mut Reader<'_>) {
    reader.reply.integer(reader.space.keys.len() as i64);
}

pub(super) fn exists(reader: &mut Reader<'_>, args: Args<'_>) {
    let found = args.iter().filter(|key| reader.live(key).is_some()).count();
    reader.reply.integer(found as i64);
}

pub(super) fn kind(reader: &mut Reader<'_>, args: Args<'_>) {
    let kind = reader.live(args[0]).map_or("none", Slot::kind);
    reader.reply.simple(kind);
}

pub(super) fn time(reader: &mut Reader<'_>) {
    reader.reply.array(2);
    reader.reply.bulk((reader.clock / 1_000_000).to_string().as_bytes());
    reader.reply.bulk((reader.clock % 1_000_000).to_string().as_bytes());
}

pub(super) fn random(reader: &mut Reader<'_>) {
    /// Draws before settling for the first live key after the last draw.
    const DRAWS: usize = 100;
    /// Keys that are looked at then.
    const LOOKS: usize = 1000;
    let (keys, now) = (&reader.space.keys, reader.now());
    let mut rank = 0;
    for _ in 0..DRAWS {
        rank = below((reader.random)(), keys.len());
        match keys.at(rank) {
            Some(slot) if !slot.expired(now) => return reader.reply.bulk(slot.key()),
            Some(_) => {}
            None => break,
        }
    }
    match keys.iter_from(rank).take(LOOKS).find(|slot| !slot.expired(now)) {
        Some(slot) => reader.reply.bulk(slot.key()),
        None => reader.reply.null(),
    }
}

pub(super) fn del(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let mut removed = 0;
    for key in args {
        let place = writer.fresh(key);
        removed += i64::from(writer.remove(place));
    }
    writer.reply.integer(removed);
    Ok(())
}

pub(super) fn rename(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let only_new = writer.command == CommandId::RenameNx;
    let (from, to) = (writer.fresh(args[0]), writer.fresh(args[1]));
    let source = writer.space.get(from).ok_or(NO_SUCH_KEY)?;
    let same = from.key == to.key;
    if only_new && (same || writer.space.get(to).is_some()) {
        writer.reply.integer(0);
        return Ok(());
    }
    if !same {
        let body = source.body.renamed(to.key, source.deadline());
        let old = writer.space.take(from);
        let replaced = writer.space.put(to, body);
        writer.changed(from.key, &[b"renamed", to.key]);
        writer.dispose(old);
        writer.dispose(replaced);
    }
    if only_new {
        writer.reply.integer(1)
    } else {
        writer.reply.ok()
    }
    Ok(())
}

pub(super) fn copy(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let mut replace = false;
    let mut options = args[2..].iter();
    while let Some(word) = options.next() {
        if word.eq_ignore_ascii_case(b"REPLACE") {
            replace = true;
        } else if word.eq_ignore_ascii_case(b"DB")
            && let Some(db) = options.next()
        {
            // There is one database.
            if integer(db)? != 0 {
                return Err(DB_INDEX);
            }
        } else {
            return Err(SYNTAX);
        }
    }
    if args[0] == args[1] {
        return Err(SAME_OBJECT);
    }
    let (from, to) = (writer.fresh(args[0]), writer.fresh(args[1]));
    let body = writer.space.get(from).map(|source| source.body.renamed(to.key, source.deadline()));
    match body {
        Some(body) if replace || writer.space.get(to).is_none() => {
            let replaced = writer.space.put(to, body);
            writer.changed(to.key, &[b"copied", from.key]);
            writer.dispose(replaced);
            writer.reply.integer(1);
        }
        _ => writer.reply.integer(0),
    }
    Ok(())
}

pub(super) fn flush(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    match args {
        [] => {}
        [how] if how.eq_ignore_ascii_case(b"ASYNC") || how.eq_ignore_ascii_case(b"SYNC") => {}
        _ => return Err(SYNTAX),
    }
    let empty = Keyspace { seed: writer.space.seed, ..Keyspace::default() };
    let old = std::mem::replace(writer.space, empty);
    writer.env.changed(b"flushed");
    writer.env.discard(old);
    writer.reply.ok();
    Ok(())
}

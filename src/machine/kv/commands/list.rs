//! Lists.

use super::super::collection::List;
use super::super::command::CommandId;
use super::super::number::{integer, positive, range, rank};
use super::super::refusal::{INDEX, NO_SUCH_KEY, Outcome, arity};
use super::super::reply::Reply;
use super::{Args, DEFER_ABOVE, Reader, Writer};
use crate::machine::ReadOutcome;

pub(super) fn push(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let front = writer.command == CommandId::LPush;
    let place = writer.fresh(args[0]);
    writer.expect::<List>(place)?;
    let length = writer.update(place, |list: &mut List, env| {
        for element in &args[1..] {
            if front {
                list.push_front(element)
            } else {
                list.push_back(element)
            }
            env.changed(element);
        }
        list.elements().len()
    });
    writer.reply.integer(length as i64);
    Ok(())
}

pub(super) fn pop(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let front = writer.command == CommandId::LPop;
    let count = match args {
        [_] => None,
        [_, count] => Some(positive(count)?),
        _ => return Err(arity(writer.command.spec().name)),
    };
    let place = writer.fresh(args[0]);
    if !writer.expect::<List>(place)? {
        if count.is_some() {
            writer.reply.null_array()
        } else {
            writer.reply.null()
        }
        return Ok(());
    }
    let popped: Vec<_> = writer.update(place, |list: &mut List, env| {
        let length = list.elements().len();
        (0..count.unwrap_or(1).min(length))
            .filter_map(|_| list.remove(if front { 0 } else { list.elements().len() - 1 }))
            .inspect(|element| env.changed(element))
            .collect()
    });
    if count.is_some() {
        writer.reply.array(popped.len());
    }
    for element in &popped {
        writer.reply.bulk(element);
    }
    Ok(())
}

pub(super) fn lset(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let place = writer.fresh(args[0]);
    if !writer.expect::<List>(place)? {
        return Err(NO_SUCH_KEY);
    }
    let index = integer(args[1])?;
    let length =
        writer.space.get(place).and_then(|slot| slot.collection::<List>()).map_or(0, |list| list.elements().len());
    let rank = rank(index, length).ok_or(INDEX)?;
    writer.update(place, |list: &mut List, env| {
        list.set(rank, args[2]);
        env.changed(&(rank as u64).to_le_bytes());
        env.changed(args[2]);
    });
    writer.reply.ok();
    Ok(())
}

pub(super) fn lrem(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let count = integer(args[1])?;
    let place = writer.fresh(args[0]);
    if !writer.expect::<List>(place)? {
        writer.reply.integer(0);
        return Ok(());
    }
    let removed = writer.update(place, |list: &mut List, env| {
        let mut ranks: Vec<usize> = list
            .elements()
            .iter()
            .enumerate()
            .filter(|(_, element)| ***element == *args[2])
            .map(|(rank, _)| rank)
            .collect();
        if count > 0 {
            ranks.truncate(count as usize);
        } else if count < 0 {
            ranks.drain(..ranks.len().saturating_sub(count.unsigned_abs() as usize));
        }
        for rank in ranks.iter().rev() {
            list.remove(*rank);
            env.changed(&(*rank as u64).to_le_bytes());
        }
        ranks.len()
    });
    writer.reply.integer(removed as i64);
    Ok(())
}

pub(super) fn ltrim(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let (start, end) = (integer(args[1])?, integer(args[2])?);
    let place = writer.fresh(args[0]);
    if writer.expect::<List>(place)? {
        writer.update(place, |list: &mut List, env| {
            let kept = range(start, end, list.elements().len());
            env.changed(&(kept.start as u64).to_le_bytes());
            env.changed(&(kept.end as u64).to_le_bytes());
            env.discard(list.keep(kept.start, kept.end));
        });
    }
    writer.reply.ok();
    Ok(())
}

pub(super) fn llen(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let length = reader.collection::<List>(args[0])?.map_or(0, |list| list.elements().len());
    reader.reply.integer(length as i64);
    Ok(())
}

pub(super) fn lindex(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let Some(list) = reader.collection::<List>(args[0])? else {
        reader.reply.null();
        return Ok(());
    };
    let elements = list.elements();
    match rank(integer(args[1])?, elements.len()).and_then(|rank| elements.at(rank)) {
        Some(element) => reader.reply.bulk(element),
        None => reader.reply.null(),
    }
    Ok(())
}

pub(super) fn lrange(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome<ReadOutcome> {
    let (start, end) = (integer(args[1])?, integer(args[2])?);
    let Some(list) = reader.collection::<List>(args[0])? else {
        reader.reply.array(0);
        return Ok(ReadOutcome::Done);
    };
    let ranks = range(start, end, list.elements().len());
    let answer = move |list: &List, reply: &mut Reply<'_>| {
        reply.array(ranks.len());
        for element in list.elements().iter_from(ranks.start).take(ranks.len()) {
            reply.bulk(element);
        }
    };
    if list.elements().len() > DEFER_ABOVE && range(start, end, list.elements().len()).len() > DEFER_ABOVE {
        let list = list.clone();
        return Ok(ReadOutcome::Deferred(Box::new(move |out| answer(&list, &mut Reply(out)))));
    }
    answer(list, &mut reader.reply);
    Ok(ReadOutcome::Done)
}

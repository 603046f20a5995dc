//! Lists.

use super::super::collection::{HEAVY_ELEMENTS, List};
use super::super::command::CommandId;
use super::super::number::{integer, positive, range, rank};
use super::super::refusal::{INDEX, NO_SUCH_KEY, Outcome, arity};
use super::{Args, Reader, Writer, popped};

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
    let length =
        writer.space.get(place).and_then(|slot| slot.collection::<List>()).map_or(0, |list| list.elements().len());
    let taken = popped(count, length)?;
    let elements: Vec<_> = writer.update(place, |list: &mut List, env| {
        (0..taken)
            .filter_map(|_| list.remove(if front { 0 } else { list.elements().len() - 1 }))
            .inspect(|element| env.changed(element))
            .collect()
    });
    if count.is_some() {
        writer.reply.array(elements.len());
    }
    for element in &elements {
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
        let most = usize::try_from(count).ok().filter(|count| *count > 0).unwrap_or(usize::MAX);
        let mut ranks: Vec<usize> = list
            .elements()
            .iter()
            .enumerate()
            .filter(|(_, element)| ***element == *args[2])
            .map(|(rank, _)| rank)
            .take(most)
            .collect();
        if count < 0 {
            ranks.drain(..ranks.len().saturating_sub(count.unsigned_abs() as usize));
        }
        for rank in ranks.iter().rev() {
            env.changed(&(*rank as u64).to_le_bytes());
        }
        if let Some(old) = list.remove_all(&ranks) {
            env.discard(old);
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
            let length = list.elements().len();
            let kept = range(start, end, length);
            env.changed(&(kept.start as u64).to_le_bytes());
            env.changed(&(kept.end as u64).to_le_bytes());
            let cut = list.keep(kept.start, kept.end);
            if length - kept.len() > HEAVY_ELEMENTS {
                env.discard(cut);
            }
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
        Some(element) => reader.value(element),
        None => reader.reply.null(),
    }
    Ok(())
}

pub(super) fn lrange(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let (start, end) = (integer(args[1])?, integer(args[2])?);
    let Some(list) = reader.collection::<List>(args[0])? else {
        reader.reply.array(0);
        return Ok(());
    };
    let elements = list.elements();
    let ranks = range(start, end, elements.len());
    if reader.leaves_for_part(ranks.len(), elements.len(), list.bytes()) {
        return Ok(());
    }
    reader.reply.array(ranks.len());
    for element in elements.iter_from(ranks.start).take(ranks.len()) {
        reader.reply.bulk(element);
    }
    Ok(())
}

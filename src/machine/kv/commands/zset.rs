//! Sorted sets, but for ZRANGE.

use super::super::collection::{Scored, Zset};
use super::super::keyspace::Place;
use super::super::number::{double, double_text, positive};
use super::super::refusal::{GT_LT_NX, INCR_SINGLE, NAN_SCORE, Outcome, SYNTAX, XX_AND_NX};
use super::{Args, Reader, Writer, popped};

#[derive(Default)]
struct Options {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
    ch: bool,
    incr: bool,
}

impl Options {
    /// The options, and what follows them.
    fn parse<'a>(args: Args<'a>) -> (Self, Args<'a>) {
        let mut this = Self::default();
        for (at, word) in args.iter().enumerate() {
            match word.to_ascii_uppercase().as_slice() {
                b"NX" => this.nx = true,
                b"XX" => this.xx = true,
                b"GT" => this.gt = true,
                b"LT" => this.lt = true,
                b"CH" => this.ch = true,
                b"INCR" => this.incr = true,
                _ => return (this, &args[at..]),
            }
        }
        (this, &[])
    }

    /// The score that a member gets, or `None` when it stays as it is.
    fn decide(&self, current: Option<f64>, given: f64) -> Outcome<Option<f64>> {
        let Some(current) = current else { return Ok((!self.xx).then_some(given)) };
        if self.nx {
            return Ok(None);
        }
        let score = if self.incr { current + given } else { given };
        if score.is_nan() {
            return Err(NAN_SCORE);
        }
        let barred = (self.lt && score >= current) || (self.gt && score <= current);
        Ok((!barred).then_some(score))
    }
}

pub(super) fn zadd(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let (options, rest) = Options::parse(&args[1..]);
    let (pairs, []) = rest.as_chunks::<2>() else { return Err(SYNTAX) };
    if pairs.is_empty() {
        return Err(SYNTAX);
    }
    if options.nx && options.xx {
        return Err(XX_AND_NX);
    }
    if (options.nx && (options.gt || options.lt)) || (options.gt && options.lt) {
        return Err(GT_LT_NX);
    }
    if options.incr && pairs.len() > 1 {
        return Err(INCR_SINGLE);
    }
    let scores = pairs.iter().map(|[score, _]| double(score)).collect::<Outcome<Vec<f64>>>()?;
    let place = writer.fresh(args[0]);
    writer.expect::<Zset>(place)?;
    let seed = writer.space.seed;
    let (mut added, mut updated, mut last) = (0, 0, None);
    writer.update(place, |zset: &mut Zset, env| {
        for ([_, member], given) in pairs.iter().zip(&scores) {
            let at = Place { hash: seed.hash(member), key: member };
            let current = zset.score(at);
            last = options.decide(current, *given)?;
            let Some(score) = last else { continue };
            if current.is_none() {
                added += 1;
            } else if current != Some(score) {
                updated += 1;
            } else {
                continue;
            }
            zset.set(at, score);
            env.changed(member);
            env.changed(&score.to_bits().to_le_bytes());
        }
        Ok(())
    })?;
    match last {
        Some(score) if options.incr => writer.reply.double(&double_text(score)),
        None if options.incr => writer.reply.null(),
        _ => writer.reply.integer(if options.ch { added + updated } else { added }),
    }
    Ok(())
}

pub(super) fn zrem(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let place = writer.fresh(args[0]);
    let mut removed = 0;
    if writer.expect::<Zset>(place)? {
        let seed = writer.space.seed;
        removed = writer.update(place, |zset: &mut Zset, env| {
            let mut removed = 0;
            for member in &args[1..] {
                if zset.remove(Place { hash: seed.hash(member), key: member }) {
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

pub(super) fn zpopmin(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let count = match args {
        [_] => None,
        [_, count] => Some(positive(count)?),
        _ => return Err(SYNTAX),
    };
    let place = writer.fresh(args[0]);
    let mut members: Vec<Scored> = Vec::new();
    if writer.expect::<Zset>(place)? {
        let seed = writer.space.seed;
        let length =
            writer.space.get(place).and_then(|slot| slot.collection::<Zset>()).map_or(0, |set| set.by_score().len());
        let taken = popped(count, length)?;
        members = writer.update(place, |zset: &mut Zset, env| {
            (0..taken).map_while(|_| zset.pop_first(seed)).inspect(|scored| env.changed(&scored.member)).collect()
        });
    }
    writer.reply.array(if count.is_some() { members.len() } else { members.len() * 2 });
    for scored in &members {
        if count.is_some() {
            writer.reply.array(2);
        }
        writer.reply.bulk(&scored.member);
        writer.reply.double(&double_text(scored.score));
    }
    Ok(())
}

pub(super) fn zcard(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let length = reader.collection::<Zset>(args[0])?.map_or(0, |zset| zset.by_score().len());
    reader.reply.integer(length as i64);
    Ok(())
}

pub(super) fn zscore(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let place = reader.space.place(args[1]);
    match reader.collection::<Zset>(args[0])?.and_then(|zset| zset.score(place)) {
        Some(score) => reader.reply.double(&double_text(score)),
        None => reader.reply.null(),
    }
    Ok(())
}

//! Deadlines of keys.

use super::super::command::CommandId;
use super::super::keyspace::{Place, Slot};
use super::super::number::integer;
use super::super::packed::Millis;
use super::super::refusal::{GT_AND_LT, NX_AND_OTHERS, Outcome, expire_time, unsupported};
use super::{Args, Reader, Writer};

impl Writer<'_, '_> {
    /// Gives an existing key a deadline, 0 for none.
    pub(super) fn set_deadline(&mut self, place: Place<'_>, deadline: Millis) {
        self.space.set_deadline(place, deadline);
        self.changed(place.key, &[b"deadline", &deadline.to_le_bytes()]);
    }
}

#[derive(Default)]
struct Conditions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl Conditions {
    fn parse(args: Args<'_>) -> Outcome<Self> {
        let mut this = Self::default();
        for word in args {
            match word.to_ascii_uppercase().as_slice() {
                b"NX" => this.nx = true,
                b"XX" => this.xx = true,
                b"GT" => this.gt = true,
                b"LT" => this.lt = true,
                _ => return Err(unsupported(word)),
            }
        }
        if this.nx && (this.xx || this.gt || this.lt) {
            return Err(NX_AND_OTHERS);
        }
        if this.gt && this.lt {
            return Err(GT_AND_LT);
        }
        Ok(this)
    }

    /// Whether a key with deadline `current` may get `new`. No deadline is later than any.
    fn allow(&self, current: Option<i64>, new: i64) -> bool {
        let barred = (self.nx && current.is_some())
            || (self.xx && current.is_none())
            || (self.gt && current.is_none_or(|current| new <= current))
            || (self.lt && current.is_some_and(|current| new >= current));
        !barred
    }
}

pub(super) fn expire(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let conditions = Conditions::parse(&args[2..])?;
    let value = integer(args[1])?;
    let (unit, base) = match writer.command {
        CommandId::Expire => (1000, writer.now() as i64),
        CommandId::PExpire => (1, writer.now() as i64),
        CommandId::ExpireAt => (1000, 0),
        _ => (1, 0),
    };
    let deadline = value
        .checked_mul(unit)
        .and_then(|value| value.checked_add(base))
        .ok_or_else(|| expire_time(writer.command.spec().name))?;
    let place = writer.fresh(args[0]);
    let current = writer.space.get(place).map(Slot::deadline);
    let allowed = current.is_some_and(|current| conditions.allow((current != 0).then_some(current as i64), deadline));
    if allowed {
        match Millis::try_from(deadline) {
            Ok(deadline) if deadline > writer.now() => writer.set_deadline(place, deadline),
            _ => {
                writer.remove(place);
            }
        }
    }
    writer.reply.integer(i64::from(allowed));
    Ok(())
}

pub(super) fn persist(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let place = writer.fresh(args[0]);
    let had = writer.space.get(place).is_some_and(|slot| slot.deadline() != 0);
    if had {
        writer.set_deadline(place, 0);
    }
    writer.reply.integer(i64::from(had));
    Ok(())
}

/// TTL and its kin.
pub(super) fn tell(reader: &mut Reader<'_>, command: CommandId, args: Args<'_>) {
    let answer = match reader.live(args[0]).map(Slot::deadline) {
        None => -2,
        Some(0) => -1,
        Some(deadline) => {
            let value = match command {
                CommandId::Ttl | CommandId::PTtl => deadline.saturating_sub(reader.now()),
                _ => deadline,
            };
            match command {
                CommandId::Ttl | CommandId::ExpireTime => (value.saturating_add(500) / 1000) as i64,
                _ => value as i64,
            }
        }
    };
    reader.reply.integer(answer);
}

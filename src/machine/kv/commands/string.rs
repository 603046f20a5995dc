//! Strings.

use std::sync::Arc;

use super::super::collection::Value;
use super::super::command::CommandId;
use super::super::decimal;
use super::super::keyspace::{Body, Place, Slot};
use super::super::number::{integer, parse_integer};
use super::super::packed::Millis;
use super::super::refusal::{
    DECREMENT_OVERFLOW, NOT_INTEGER, OFFSET, OVERFLOW, Outcome, SYNTAX, TOO_LONG, WRONG_TYPE, arity, expire_time,
};
use super::{Args, Reader, Writer};

/// Longest string, as Redis' `proto-max-bulk-len` has it unless told otherwise.
const LONGEST: usize = 512 << 20;

fn string(slot: &Slot) -> Outcome<&[u8]> {
    slot.string().ok_or(WRONG_TYPE)
}

pub(super) fn get(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    match reader.live(args[0]) {
        Some(slot) => reader.value(string(slot)?),
        None => reader.reply.null(),
    }
    Ok(())
}

pub(super) fn mget(reader: &mut Reader<'_>, args: Args<'_>) {
    let start = reader.reply.0.len();
    reader.reply.array(args.len());
    for key in args {
        let value = reader.live(key).and_then(Slot::string);
        if reader.leaves_for(0, (reader.reply.0.len() - start + value.map_or(0, <[u8]>::len)) as u64) {
            return;
        }
        match value {
            Some(value) => reader.reply.bulk(value),
            None => reader.reply.null(),
        }
    }
}

pub(super) fn strlen(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let length = reader.live(args[0]).map_or(Ok(0), |slot| string(slot).map(<[u8]>::len))?;
    reader.reply.integer(length as i64);
    Ok(())
}

pub(super) fn getrange(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let (start, end) = (integer(args[1])?, integer(args[2])?);
    let value = reader.live(args[0]).map_or(Ok(&b""[..]), string)?;
    let length = value.len() as i64;
    let empty = value.is_empty() || (start < 0 && end < 0 && start > end);
    let from = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at };
    let (start, end) = (from(start), from(end).min(length - 1));
    let piece = if empty || start > end { b"" } else { &value[start as usize..=end as usize] };
    reader.value(piece);
    Ok(())
}

/// When a string shall cease to exist, as the options of SET and GETEX say it.
#[derive(Clone, Copy)]
enum Expiry<'a> {
    Relative(&'a [u8], i64),
    Absolute(&'a [u8], i64),
}

impl Expiry<'_> {
    /// True when both were given by the same word.
    fn is_given_like(self, other: Self) -> bool {
        match (self, other) {
            (Expiry::Relative(_, unit), Expiry::Relative(_, other)) => unit == other,
            (Expiry::Absolute(_, unit), Expiry::Absolute(_, other)) => unit == other,
            _ => false,
        }
    }

    fn deadline(self, now: Millis, command: CommandId) -> Outcome<Millis> {
        let (text, unit, base) = match self {
            Expiry::Relative(text, unit) => (text, unit, now as i64),
            Expiry::Absolute(text, unit) => (text, unit, 0),
        };
        integer(text)
            .map(|value| Some(value).filter(|value| *value > 0)?.checked_mul(unit)?.checked_add(base))?
            .map(|deadline| deadline as Millis)
            .ok_or_else(|| expire_time(command.spec().name))
    }
}

#[derive(Default)]
struct Options<'a> {
    nx: bool,
    xx: bool,
    get: bool,
    keep_ttl: bool,
    persist: bool,
    expiry: Option<Expiry<'a>>,
}

fn options<'a>(command: CommandId, args: Args<'a>) -> Outcome<Options<'a>> {
    let mut options = Options::default();
    let set = command == CommandId::Set;
    let mut args = args.iter();
    while let Some(word) = args.next() {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        let kept = options.keep_ttl || options.persist;
        if set && is("NX") && !options.xx {
            options.nx = true;
        } else if set && is("XX") && !options.nx {
            options.xx = true;
        } else if set && is("GET") {
            options.get = true;
        } else if set && is("KEEPTTL") && options.expiry.is_none() {
            options.keep_ttl = true;
        } else if !set && is("PERSIST") && options.expiry.is_none() {
            options.persist = true;
        } else if !kept
            && let Some(expiry) = expiry(word, args.as_slice())
            && options.expiry.is_none_or(|earlier| earlier.is_given_like(expiry))
        {
            // Given twice alike, the last one counts, and the others are not even read as numbers.
            options.expiry = Some(expiry);
            args.next();
        } else {
            return Err(SYNTAX);
        }
    }
    Ok(options)
}

fn expiry<'a>(word: &[u8], rest: Args<'a>) -> Option<Expiry<'a>> {
    let text = *rest.first()?;
    match word.to_ascii_uppercase().as_slice() {
        b"EX" => Some(Expiry::Relative(text, 1000)),
        b"PX" => Some(Expiry::Relative(text, 1)),
        b"EXAT" => Some(Expiry::Absolute(text, 1000)),
        b"PXAT" => Some(Expiry::Absolute(text, 1)),
        _ => None,
    }
}

impl Writer<'_, '_> {
    /// Writes what a key holds as the reply, refusing another type than string; true when it holds anything.
    fn reply_string(&mut self, place: Place<'_>) -> Outcome<bool> {
        match self.space.get(place) {
            Some(slot) => self.reply.bulk(string(slot)?),
            None => {
                self.reply.null();
                return Ok(false);
            }
        }
        Ok(true)
    }
}

pub(super) fn set(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let options = options(writer.command, &args[2..])?;
    let now = writer.now();
    let deadline = options.expiry.map(|expiry| expiry.deadline(now, writer.command)).transpose()?.unwrap_or(0);
    if !(options.nx || options.xx || options.get || options.keep_ttl) {
        writer.store_string(args[0], args[1], deadline);
        writer.reply.ok();
        return Ok(());
    }
    let place = writer.fresh(args[0]);
    if options.get {
        writer.reply_string(place)?;
    }
    if options.nx || options.xx {
        let found = writer.space.get(place).is_some();
        if found == options.nx {
            if !options.get {
                writer.reply.null();
            }
            return Ok(());
        }
    }
    let deadline = if options.keep_ttl { writer.space.get(place).map_or(0, Slot::deadline) } else { deadline };
    writer.set_string(place, args[1], deadline);
    if !options.get {
        writer.reply.ok();
    }
    Ok(())
}

pub(super) fn setnx(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let place = writer.fresh(args[0]);
    let new = writer.space.get(place).is_none();
    if new {
        writer.set_string(place, args[1], 0);
    }
    writer.reply.integer(i64::from(new));
    Ok(())
}

pub(super) fn setex(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let unit = if writer.command == CommandId::SetEx { 1000 } else { 1 };
    let deadline = Expiry::Relative(args[1], unit).deadline(writer.now(), writer.command)?;
    writer.store_string(args[0], args[2], deadline);
    writer.reply.ok();
    Ok(())
}

pub(super) fn getset(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let place = writer.fresh(args[0]);
    writer.reply_string(place)?;
    writer.set_string(place, args[1], 0);
    Ok(())
}

pub(super) fn getdel(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let place = writer.fresh(args[0]);
    if writer.reply_string(place)? {
        writer.remove(place);
    }
    Ok(())
}

pub(super) fn getex(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let options = options(writer.command, &args[1..])?;
    let place = writer.fresh(args[0]);
    if !writer.reply_string(place)? {
        return Ok(());
    }
    if let Some(expiry) = options.expiry {
        let deadline = expiry.deadline(writer.now(), writer.command)?;
        if deadline <= writer.now() {
            writer.remove(place);
        } else {
            writer.set_deadline(place, deadline);
        }
    } else if options.persist {
        writer.set_deadline(place, 0);
    }
    Ok(())
}

/// Keys that are looked for in advance: what that reads fits into the caches with room to spare.
const APPROACHED: usize = 64;

pub(super) fn mset(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let (pairs, []) = args.as_chunks::<2>() else { return Err(arity(writer.command.spec().name)) };
    let only_new = writer.command == CommandId::MSetNx;
    if only_new {
        for [key, _] in pairs {
            let place = writer.fresh(key);
            if writer.space.get(place).is_some() {
                writer.reply.integer(0);
                return Ok(());
            }
        }
    }
    for pairs in pairs.chunks(APPROACHED) {
        writer.space.approach(pairs.iter().map(|[key, _]| *key));
        for [key, value] in pairs {
            let place = writer.space.place(key);
            writer.set_string(place, value, 0);
        }
    }
    if only_new {
        writer.reply.integer(1)
    } else {
        writer.reply.ok()
    }
    Ok(())
}

/// Writes `piece` at `offset` into the string at `place`, which is filled up with zeros where it is shorter; returns
/// the new length. A long string is copied only when a snapshot holds it.
fn splice(writer: &mut Writer<'_, '_>, place: Place<'_>, offset: usize, piece: &[u8]) -> usize {
    let end = offset + piece.len();
    let long = writer.space.edit(place, |value| match value {
        Value::Bytes(bytes) => {
            let bytes = Arc::make_mut(bytes);
            if bytes.len() < end / 2 {
                *bytes = lengthened(bytes, end);
            } else if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[offset..end].copy_from_slice(piece);
            bytes.len()
        }
        _ => 0,
    });
    let length = long.unwrap_or_else(|| {
        let (old, deadline) =
            writer.space.get(place).map_or((&b""[..], 0), |slot| (slot.string().unwrap_or_default(), slot.deadline()));
        let mut bytes = lengthened(old, old.len().max(end));
        bytes[offset..end].copy_from_slice(piece);
        let length = bytes.len();
        let body = Body::string_from(deadline, place.key, bytes);
        writer.space.put(place, body);
        length
    });
    writer.changed(place.key, &[&(offset as u64).to_le_bytes(), piece, &(length as u64).to_le_bytes()]);
    length
}

/// `bytes`, and zeros up to `length`: memory that the system gives zeroed, page by page as each is first touched. To write
/// the zeros would hold the loop for half a second where one SETRANGE begins far out.
fn lengthened(bytes: &[u8], length: usize) -> Vec<u8> {
    let mut longer = vec![0; length];
    longer[..bytes.len()].copy_from_slice(bytes);
    longer
}

pub(super) fn append(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let place = writer.fresh(args[0]);
    let length = writer.space.get(place).map_or(Ok(0), |slot| string(slot).map(<[u8]>::len))?;
    if length + args[1].len() > LONGEST {
        return Err(TOO_LONG);
    }
    let length = splice(writer, place, length, args[1]);
    writer.reply.integer(length as i64);
    Ok(())
}

pub(super) fn setrange(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let offset = usize::try_from(integer(args[1])?).map_err(|_| OFFSET)?;
    let place = writer.fresh(args[0]);
    let length = writer.space.get(place).map_or(Ok(0), |slot| string(slot).map(<[u8]>::len))?;
    if args[2].is_empty() {
        writer.reply.integer(length as i64);
        return Ok(());
    }
    if offset.saturating_add(args[2].len()) > LONGEST {
        return Err(TOO_LONG);
    }
    let length = splice(writer, place, offset, args[2]);
    writer.reply.integer(length as i64);
    Ok(())
}

pub(super) fn incr(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let by = match writer.command {
        CommandId::Incr => 1,
        CommandId::Decr => -1,
        CommandId::IncrBy => integer(args[1])?,
        _ => integer(args[1])?.checked_neg().ok_or(DECREMENT_OVERFLOW)?,
    };
    let place = writer.fresh(args[0]);
    let (value, deadline) = match writer.space.get(place) {
        Some(slot) => (parse_integer(string(slot)?).ok_or(NOT_INTEGER)?, slot.deadline()),
        None => (0, 0),
    };
    let value = value.checked_add(by).ok_or(OVERFLOW)?;
    let mut buffer = [0u8; 20];
    writer.set_string(place, decimal_text(value, &mut buffer), deadline);
    writer.reply.integer(value);
    Ok(())
}

/// The decimal digits of `value`, without an allocation.
fn decimal_text(value: i64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut left = value.unsigned_abs();
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    &buffer[at..]
}

pub(super) fn incrbyfloat(writer: &mut Writer<'_, '_>, args: Args<'_>) -> Outcome {
    let place = writer.fresh(args[0]);
    let (value, deadline) = match writer.space.get(place) {
        Some(slot) => (string(slot)?, slot.deadline()),
        None => (&b"0"[..], 0),
    };
    let text = decimal::sum(value, args[1])?;
    writer.set_string(place, text.as_bytes(), deadline);
    writer.reply.bulk(text.as_bytes());
    Ok(())
}

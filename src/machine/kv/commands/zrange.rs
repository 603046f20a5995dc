//! ZRANGE in all its forms: by rank, by score, by member.

use std::cmp::Ordering;
use std::ops::Range;

use super::super::collection::{Bytes, Scored, Zset, compare};
use super::super::number::{double_text, integer, parse_double, range};
use super::super::refusal::{LIMIT_NEEDS_RANGE, NOT_SCORES, NOT_STRINGS, Outcome, SCORES_BY_LEX, SYNTAX};
use super::super::tree::{Probe, Tree};
use super::{Args, Reader};

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Member,
}

struct Options {
    by: By,
    reverse: bool,
    with_scores: bool,
    offset: i64,
    /// Negative for no limit.
    limit: i64,
}

fn options(args: Args<'_>) -> Outcome<Options> {
    let mut options = Options { by: By::Rank, reverse: false, with_scores: false, offset: 0, limit: -1 };
    let mut rest = args.iter();
    while let Some(word) = rest.next() {
        match word.to_ascii_uppercase().as_slice() {
            b"WITHSCORES" => options.with_scores = true,
            b"LIMIT" => match (rest.next(), rest.next()) {
                (Some(offset), Some(limit)) => (options.offset, options.limit) = (integer(offset)?, integer(limit)?),
                _ => return Err(SYNTAX),
            },
            b"REV" if !options.reverse => options.reverse = true,
            b"BYSCORE" if options.by == By::Rank => options.by = By::Score,
            b"BYLEX" if options.by == By::Rank => options.by = By::Member,
            _ => return Err(SYNTAX),
        }
    }
    if options.limit != -1 && options.by == By::Rank {
        return Err(LIMIT_NEEDS_RANGE);
    }
    if options.with_scores && options.by == By::Member {
        return Err(SCORES_BY_LEX);
    }
    Ok(options)
}

/// One end of a range by score: just before all of that score, or just after.
struct ScoreEnd {
    score: f64,
    after: bool,
}

impl ScoreEnd {
    fn parse(text: &[u8], low: bool) -> Outcome<Self> {
        let (exclusive, number) = match text {
            [b'(', number @ ..] => (true, number),
            number => (false, number),
        };
        // C's `strtod` makes 0 of nothing, and skips blanks.
        let number = number.trim_ascii_start();
        let score = if number.is_empty() && !text.ends_with(b" ") { 0.0 } else { lenient(number).ok_or(NOT_SCORES)? };
        Ok(Self { score, after: exclusive == low })
    }
}

/// Takes what overflows or underflows for infinity and zero, as `strtod` does.
fn lenient(text: &[u8]) -> Option<f64> {
    parse_double(text).or_else(|| std::str::from_utf8(text).ok()?.parse().ok().filter(|value: &f64| !value.is_nan()))
}

impl Probe<Scored> for ScoreEnd {
    fn entry(&self, entry: &Scored) -> Ordering {
        self.side(entry.score)
    }

    fn bound(&self, (score, _): &(f64, Option<Bytes>)) -> Ordering {
        self.side(*score)
    }
}

impl ScoreEnd {
    fn side(&self, score: f64) -> Ordering {
        compare(score, self.score).then(if self.after { Ordering::Less } else { Ordering::Greater })
    }
}

/// One end of a range by member; Redis defines it for members of equal score only.
enum MemberEnd<'a> {
    Before(&'a [u8]),
    After(&'a [u8]),
    First,
    Last,
}

impl<'a> MemberEnd<'a> {
    fn parse(text: &'a [u8], low: bool) -> Outcome<Self> {
        match text {
            b"-" => Ok(MemberEnd::First),
            b"+" => Ok(MemberEnd::Last),
            [b'(', member @ ..] => Ok(if low { MemberEnd::After(member) } else { MemberEnd::Before(member) }),
            [b'[', member @ ..] => Ok(if low { MemberEnd::Before(member) } else { MemberEnd::After(member) }),
            _ => Err(NOT_STRINGS),
        }
    }

    fn side(&self, other: &[u8]) -> Ordering {
        match self {
            MemberEnd::Before(member) => other.cmp(member).then(Ordering::Greater),
            MemberEnd::After(member) => other.cmp(member).then(Ordering::Less),
            MemberEnd::First => Ordering::Greater,
            MemberEnd::Last => Ordering::Less,
        }
    }
}

impl Probe<Scored> for MemberEnd<'_> {
    fn entry(&self, entry: &Scored) -> Ordering {
        self.side(&entry.member)
    }

    fn bound(&self, (_, member): &(f64, Option<Bytes>)) -> Ordering {
        self.side(member.as_deref().unwrap_or_default())
    }
}

/// A range before the sorted set is known.
enum Ends<'a> {
    Ranks(i64, i64),
    Scores(ScoreEnd, ScoreEnd),
    Members(MemberEnd<'a>, MemberEnd<'a>),
}

impl<'a> Ends<'a> {
    fn parse(options: &Options, first: &'a [u8], second: &'a [u8]) -> Outcome<Self> {
        let (low, high) = if options.reverse { (second, first) } else { (first, second) };
        Ok(match options.by {
            By::Rank => Ends::Ranks(integer(first)?, integer(second)?),
            By::Score => Ends::Scores(ScoreEnd::parse(low, true)?, ScoreEnd::parse(high, false)?),
            By::Member => Ends::Members(MemberEnd::parse(low, true)?, MemberEnd::parse(high, false)?),
        })
    }

    /// The ranks meant, counted upwards in either direction.
    fn ranks(&self, tree: &Tree<Scored>, options: &Options) -> Range<usize> {
        let (from, to) = match self {
            Ends::Ranks(start, end) => {
                let ranks = range(*start, *end, tree.len());
                if !options.reverse {
                    return ranks;
                }
                return tree.len() - ranks.end..tree.len() - ranks.start;
            }
            Ends::Scores(low, high) => (tree.rank(low), tree.rank(high)),
            Ends::Members(low, high) => (tree.rank(low), tree.rank(high)),
        };
        let Ok(skip) = usize::try_from(options.offset) else { return 0..0 };
        let found = to.saturating_sub(from);
        let skip = skip.min(found);
        let count = usize::try_from(options.limit).unwrap_or(usize::MAX).min(found - skip);
        if options.reverse { to - skip - count..to - skip } else { from + skip..from + skip + count }
    }
}

pub(super) fn zrange(reader: &mut Reader<'_>, args: Args<'_>) -> Outcome {
    let options = options(&args[3..])?;
    let ends = Ends::parse(&options, args[1], args[2])?;
    let Some(zset) = reader.collection::<Zset>(args[0])? else {
        reader.reply.array(0);
        return Ok(());
    };
    let tree = zset.by_score();
    let ranks = ends.ranks(tree, &options);
    if reader.leaves_for_part(ranks.len(), tree.len(), zset.bytes()) {
        return Ok(());
    }
    let mut found: Vec<&Scored> = tree.iter_from(ranks.start).take(ranks.len()).collect();
    if options.reverse {
        found.reverse();
    }
    reader.reply.array(found.len());
    for scored in found {
        if options.with_scores {
            reader.reply.array(2);
        }
        reader.reply.bulk(&scored.member);
        if options.with_scores {
            reader.reply.double(&double_text(scored.score));
        }
    }
    Ok(())
}

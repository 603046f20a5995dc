//! The table of the machine's commands: names, arities, whether they write, where their keys stand.
//!
//! What belongs to a connection (HELLO, CLIENT, WAIT …) is not here: the Redis edge keeps its own table.

use crate::machine::Access;

/// One row of the table, with Redis' conventions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Which command.
    pub id: CommandId,
    /// Its name in capitals.
    pub name: &'static str,
    /// Words of a call, its name among them; negative: at least so many.
    pub arity: i32,
    /// Whether it may change the state.
    pub access: Access,
    /// True when it is refused while memory is short (Redis' `denyoom`).
    pub denied_without_memory: bool,
    /// Position of the first key, 0 for none.
    pub first_key: i32,
    /// Position of the last key; negative counts from the end.
    pub last_key: i32,
    /// Step between keys.
    pub key_step: i32,
}

impl Spec {
    /// True when a call of `words` words (the name among them) has the right number of them.
    pub fn takes(&self, words: usize) -> bool {
        if self.arity >= 0 { words == self.arity as usize } else { words >= self.arity.unsigned_abs() as usize }
    }
}

/// What a row of the table says of a command.
#[derive(Clone, Copy)]
enum Kind {
    /// It leaves the state as it is.
    Read,
    /// It changes the state, and is never refused for want of memory: most of these free some.
    Write,
    /// It changes the state and may need memory for it.
    Grow,
}

impl Kind {
    const fn access(self) -> Access {
        match self {
            Kind::Read => Access::Read,
            Kind::Write | Kind::Grow => Access::Write,
        }
    }
}

macro_rules! commands {
    ($($number:literal $id:ident $name:literal $arity:literal $kind:ident $first:literal $last:literal $step:literal;)*) => {
        /// A command's number in the log; numbers are never given twice.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum CommandId {
            $(#[doc = $name] $id = $number,)*
        }

        impl CommandId {
            /// The command with this number.
            pub fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$id),)*
                    _ => None,
                }
            }

            /// The command's row.
            pub fn spec(self) -> &'static Spec {
                match self {
                    $(Self::$id => {
                        const SPEC: Spec = Spec {
                            id: CommandId::$id,
                            name: $name,
                            arity: $arity,
                            access: Kind::$kind.access(),
                            denied_without_memory: matches!(Kind::$kind, Kind::Grow),
                            first_key: $first,
                            last_key: $last,
                            key_step: $step,
                        };
                        &SPEC
                    })*
                }
            }

            /// All commands, in the order of their names.
            pub const ALL: &'static [CommandId] = &[$(CommandId::$id,)*];
        }
    };
}

commands! {
    1 Append "APPEND" 3 Grow 1 1 1;
    2 Copy "COPY" -3 Grow 1 2 1;
    3 DbSize "DBSIZE" 1 Read 0 0 0;
    4 Decr "DECR" 2 Grow 1 1 1;
    5 DecrBy "DECRBY" 3 Grow 1 1 1;
    6 Del "DEL" -2 Write 1 -1 1;
    7 Exists "EXISTS" -2 Read 1 -1 1;
    8 Expire "EXPIRE" -3 Write 1 1 1;
    9 ExpireAt "EXPIREAT" -3 Write 1 1 1;
    10 ExpireTime "EXPIRETIME" 2 Read 1 1 1;
    11 FlushAll "FLUSHALL" -1 Write 0 0 0;
    12 FlushDb "FLUSHDB" -1 Write 0 0 0;
    13 Get "GET" 2 Read 1 1 1;
    14 GetDel "GETDEL" 2 Write 1 1 1;
    15 GetEx "GETEX" -2 Write 1 1 1;
    16 GetRange "GETRANGE" 4 Read 1 1 1;
    17 GetSet "GETSET" 3 Grow 1 1 1;
    18 HDel "HDEL" -3 Write 1 1 1;
    19 HExists "HEXISTS" 3 Read 1 1 1;
    20 HGet "HGET" 3 Read 1 1 1;
    21 HGetAll "HGETALL" 2 Read 1 1 1;
    22 HLen "HLEN" 2 Read 1 1 1;
    23 HMGet "HMGET" -3 Read 1 1 1;
    24 HMSet "HMSET" -4 Grow 1 1 1;
    25 HSet "HSET" -4 Grow 1 1 1;
    26 Incr "INCR" 2 Grow 1 1 1;
    27 IncrBy "INCRBY" 3 Grow 1 1 1;
    28 IncrByFloat "INCRBYFLOAT" 3 Grow 1 1 1;
    29 Keys "KEYS" 2 Read 0 0 0;
    30 LIndex "LINDEX" 3 Read 1 1 1;
    31 LLen "LLEN" 2 Read 1 1 1;
    32 LPop "LPOP" -2 Write 1 1 1;
    33 LPush "LPUSH" -3 Grow 1 1 1;
    34 LRange "LRANGE" 4 Read 1 1 1;
    35 LRem "LREM" 4 Write 1 1 1;
    36 LSet "LSET" 4 Grow 1 1 1;
    37 LTrim "LTRIM" 4 Write 1 1 1;
    38 MGet "MGET" -2 Read 1 -1 1;
    39 MSet "MSET" -3 Grow 1 -1 2;
    40 MSetNx "MSETNX" -3 Grow 1 -1 2;
    41 Persist "PERSIST" 2 Write 1 1 1;
    42 PExpire "PEXPIRE" -3 Write 1 1 1;
    43 PExpireAt "PEXPIREAT" -3 Write 1 1 1;
    44 PExpireTime "PEXPIRETIME" 2 Read 1 1 1;
    45 PSetEx "PSETEX" 4 Grow 1 1 1;
    46 PTtl "PTTL" 2 Read 1 1 1;
    47 RandomKey "RANDOMKEY" 1 Read 0 0 0;
    48 Rename "RENAME" 3 Write 1 2 1;
    49 RenameNx "RENAMENX" 3 Write 1 2 1;
    50 RPop "RPOP" -2 Write 1 1 1;
    51 RPush "RPUSH" -3 Grow 1 1 1;
    52 SAdd "SADD" -3 Grow 1 1 1;
    53 Scan "SCAN" -2 Read 0 0 0;
    54 SCard "SCARD" 2 Read 1 1 1;
    55 Set "SET" -3 Grow 1 1 1;
    56 SetEx "SETEX" 4 Grow 1 1 1;
    57 SetNx "SETNX" 3 Grow 1 1 1;
    58 SetRange "SETRANGE" 4 Grow 1 1 1;
    59 SIsMember "SISMEMBER" 3 Read 1 1 1;
    60 SMembers "SMEMBERS" 2 Read 1 1 1;
    61 SPop "SPOP" -2 Write 1 1 1;
    62 SRandMember "SRANDMEMBER" -2 Read 1 1 1;
    63 SRem "SREM" -3 Write 1 1 1;
    64 StrLen "STRLEN" 2 Read 1 1 1;
    65 Time "TIME" 1 Read 0 0 0;
    66 Touch "TOUCH" -2 Read 1 -1 1;
    67 Ttl "TTL" 2 Read 1 1 1;
    68 Type "TYPE" 2 Read 1 1 1;
    69 Unlink "UNLINK" -2 Write 1 -1 1;
    70 ZAdd "ZADD" -4 Grow 1 1 1;
    71 ZCard "ZCARD" 2 Read 1 1 1;
    72 ZPopMin "ZPOPMIN" -2 Write 1 1 1;
    73 ZRange "ZRANGE" -4 Read 1 1 1;
    74 ZRem "ZREM" -3 Write 1 1 1;
    75 ZScore "ZSCORE" 3 Read 1 1 1;
}

/// The command called `name`, in any case. Does not allocate.
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    const LONGEST: usize = 16;
    let mut buffer = [0u8; LONGEST];
    let upper = buffer.get_mut(..name.len())?;
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    let found = CommandId::ALL.binary_search_by(|id| id.spec().name.as_bytes().cmp(upper)).ok()?;
    Some(CommandId::ALL[found].spec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_name_and_number() {
        for id in CommandId::ALL {
            assert_eq!(lookup(id.spec().name.to_lowercase().as_bytes()).map(|spec| spec.id), Some(*id));
            assert_eq!(CommandId::from_number(*id as u16), Some(*id));
        }
        assert_eq!(lookup(b"NOSUCH"), None);
        assert_eq!(lookup(&[b'x'; 100]), None);
    }

    #[test]
    fn arity_counts_the_name() {
        assert!(CommandId::Get.spec().takes(2) && !CommandId::Get.spec().takes(3));
        assert!(CommandId::Set.spec().takes(5) && !CommandId::Set.spec().takes(2));
    }
}

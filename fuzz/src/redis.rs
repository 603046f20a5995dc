//! Redis requests: any bytes, cut anyhow; and the parser beside that of crate `redis-protocol`.

use bytes::Bytes;
use cutover::machine::kv::command::CommandId;
use cutover::machine::kv::{operation, value};
use cutover::resp::{Action, Connection, Limits, Serving};
use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::types::BytesFrame;

const LIMITS: Limits = Limits { max_elements: 1024, max_bulk: 4096, max_inline: 256, max_request: 16 << 10 };

/// The first byte chooses how the rest is cut, or that it is compared.
pub fn check(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    if *kind >= 128 {
        return compare(*kind, bytes);
    }
    let whole = heard(bytes, bytes.len().max(1));
    let cut = heard(bytes, usize::from(*kind) % 32 + 1);
    assert_eq!(whole, cut);
    for (_, operation) in &whole {
        let Some(operation) = operation else { continue };
        let (command, arguments) = operation::decode(operation).expect("the edge writes operations");
        let arguments: Vec<_> = arguments.collect();
        let mut again = Vec::new();
        operation::encode(command, arguments.into_iter(), &mut again);
        assert_eq!(again, *operation);
    }
}

/// What a connection does with these bytes, given in pieces of a length.
fn heard(bytes: &[u8], piece: usize) -> Vec<(Action, Option<Vec<u8>>)> {
    let mut connection = Connection::new(1, "client:1".to_owned(), LIMITS, 0);
    let (mut seen, mut operation) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        connection.buffer().extend_from_slice(piece);
        while let Some(action) = connection.next(&Serving::Primary, &mut operation) {
            match &action {
                // Only says that there may be more.
                Action::Write(bytes) if bytes.is_empty() => continue,
                Action::Write(bytes) => drop(value::parse(bytes)),
                _ => {}
            }
            let executed = matches!(action, Action::Execute(_)).then(|| operation.clone());
            seen.push((action, executed));
        }
        let room = connection.buffer().capacity();
        assert!(room <= (4 * LIMITS.max_request).max(2 * bytes.len() + (64 << 10)), "{room} for {}", bytes.len());
    }
    seen
}

/// A request that begins like `DEL` and goes on with any bytes: if the other parser finds an array of strings, written
/// as it should be, ours finds the same words; and the other way around.
fn compare(kind: u8, bytes: &[u8]) {
    const DEPTH: usize = 8;
    if bytes.iter().filter(|byte| **byte == b'*').count() > DEPTH || bytes.len() > LIMITS.max_bulk {
        return;
    }
    let count = 2 + usize::from(kind) % 4;
    let stream = [format!("*{count}\r\n$3\r\nDEL\r\n").as_bytes(), bytes].concat();
    let theirs = match decode_bytes(&Bytes::from(stream.clone())) {
        Ok(Some((BytesFrame::Array(frames), _))) => {
            let words = frames.into_iter().map(|frame| match frame {
                BytesFrame::BulkString(word) => Some(word.to_vec()),
                _ => None,
            });
            words.collect::<Option<Vec<_>>>()
        }
        _ => None,
    };
    let mut connection = Connection::new(1, "client:1".to_owned(), LIMITS, 0);
    connection.buffer().extend_from_slice(&stream);
    let mut operation = Vec::new();
    let ours = match connection.next(&Serving::Primary, &mut operation) {
        Some(Action::Execute(_)) => {
            let (command, arguments) = operation::decode(&operation).expect("the edge writes operations");
            assert_eq!(command, CommandId::Del);
            Some(arguments.map(<[u8]>::to_vec).collect::<Vec<_>>())
        }
        _ => None,
    };
    // Theirs takes a length with a sign or leading zeros, which Redis and ours refuse.
    if let Some(words) = theirs.filter(|words| stream.starts_with(&strict(&words[1..]))) {
        assert_eq!(ours.as_deref(), Some(&words[1..]));
    }
    if let Some(words) = ours {
        // Ours looks at no byte behind a string, as Redis does not; written as it should be, theirs reads the same.
        let frame = decode_bytes(&strict(&words).into()).expect("a good request").expect("a whole one").0;
        let BytesFrame::Array(frames) = frame else { panic!("an array") };
        let read = frames.into_iter().skip(1).map(|frame| match frame {
            BytesFrame::BulkString(word) => word.to_vec(),
            other => panic!("{other:?}"),
        });
        assert_eq!(read.collect::<Vec<_>>(), words);
    }
}

/// `DEL` with these arguments, as it should be written.
fn strict(arguments: &[Vec<u8>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n$3\r\nDEL\r\n", arguments.len() + 1).into_bytes();
    for argument in arguments {
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// See the crate.
pub fn seeds() -> Vec<Vec<u8>> {
    let streams: &[&[u8]] = &[
        b"*1\r\n$4\r\nPING\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        b"PING\r\n\r\nSET a \"b\\x00\\n\" \r\nGET 'a b'\r\n",
        b"*0\r\n*-1\r\n*2\r\n$4\r\nECHO\r\n$0\r\n\r\n",
        b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*1\r\n$4\r\nINFO\r\n",
        b"*4\r\n$6\r\nCONFIG\r\n$3\r\nSET\r\n$9\r\nmaxmemory\r\n$3\r\n1gb\r\n",
        b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$4\r\nSKIP\r\n*1\r\n$4\r\nPING\r\n",
        b"*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$1\r\nx\r\n*2\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n",
        b"*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$2\r\n10\r\n*1\r\n$4\r\nROLE\r\n*1\r\n$5\r\nRESET\r\n*1\r\n$4\r\nQUIT\r\n",
        b"*2147483647\r\n",
        b"*3\r\n$-1\r\n",
        b"*1\r\n$2147483647\r\n",
        b"*1\r\n:1\r\n",
        b"\"",
    ];
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for (number, stream) in streams.iter().enumerate() {
        seeds.push([&[number as u8 * 3], *stream].concat());
    }
    for tail in [
        "$1\r\na\r\n",
        "$0\r\n\r\n$1\r\nb\r\n",
        "$3\r\na\r\n\r\n$1\r\n*\r\n$2\r\n$1\r\n",
        "*1\r\n$1\r\na\r\n",
        ":1\r\n",
        "$-1\r\n",
    ] {
        for kind in 128..132u8 {
            seeds.push([&[kind], tail.as_bytes()].concat());
        }
    }
    seeds
}

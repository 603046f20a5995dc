//! What the clients did, as calls that the linearisability checker judges, and as a file of JSON lines.
//!
//! The reading back at the end is part of the history: it is the read that everybody's answers must fit. Deliberately
//! not here: the verdict (`history::linear`), and what is said about it (`report`).

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::finish::Standing;
use crate::cli::failure::{ExitCode, Failure};
use crate::history::linear::{self, Answer, Ask, Call, Outcome, Value, Verdict};
use crate::history::{Action, Ending, History, Operation, ReadBack, Stamp};

/// Stands for an element that is no number: nobody wrote it.
const NOBODYS: Value = -1;

/// One operation as a line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    client: u64,
    object: String,
    operation: Ask,
    invoked: Stamp,
    completed: Option<Stamp>,
    outcome: Told,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Answered(Answer),
    Executed,
    Unknown,
}

impl Line {
    /// The call as a line.
    pub fn of(call: &Call) -> Self {
        let outcome = match &call.outcome {
            Outcome::Answered { answer, .. } => Told::Answered(answer.clone()),
            Outcome::Executed { .. } => Told::Executed,
            Outcome::Unknown => Told::Unknown,
        };
        let Call { client, object, ask, invoked, .. } = call;
        Self {
            client: *client,
            object: object.to_string(),
            operation: *ask,
            invoked: *invoked,
            completed: call.outcome.at(),
            outcome,
        }
    }

    /// The line as a call.
    fn call(self) -> Result<Call, &'static str> {
        let Line { client, object, operation, invoked, completed, outcome } = self;
        let outcome = match (outcome, completed) {
            (Told::Answered(answer), Some(at)) => Outcome::Answered { at, answer },
            (Told::Executed, Some(at)) => Outcome::Executed { at },
            (Told::Unknown, None) => Outcome::Unknown,
            (Told::Unknown, Some(_)) => return Err("an unknown outcome has no moment of completion: it is null"),
            (_, None) => return Err("a known outcome has a moment of completion"),
        };
        if completed.is_some_and(|at| at < invoked) {
            return Err("it is completed before it is invoked");
        }
        Ok(Call { client, object: Arc::from(object), ask: operation, invoked, outcome })
    }
}

/// The last line of the file: a file without it was cut short, and says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Closing {
    /// Lines before this one.
    operations: u64,
    /// Whether the reading back at the end is among them for every object.
    read_back_complete: bool,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Everything that was done.
    pub calls: Vec<Call>,
    /// Whether every object was read back.
    pub read_back_complete: bool,
}

/// True when the object is a list.
pub fn is_list(history: &History) -> bool {
    history.operations.iter().any(|operation| matches!(operation.action, Action::Append(_) | Action::LookAtEnd))
        || history.object.contains(":list:")
}

/// Everything that was done to one object: by its clients, and by the `reader` who read it back.
fn calls(history: &History, standing: Option<&Standing>, reader: u16) -> Vec<Call> {
    let object: Arc<str> = Arc::from(history.object.as_str());
    let list = is_list(history);
    let call = |client: u16, ask, invoked, outcome| {
        let object = Arc::clone(&object);
        Call { client: u64::from(client), object, ask, invoked, outcome }
    };
    let mut calls: Vec<Call> = history
        .operations
        .iter()
        .map(|Operation { client, action, invoked, ending }| {
            let (ask, answered): (Ask, fn(Value) -> Answer) = match action {
                Action::Increment => (Ask::Add(1), Answer::Count),
                Action::Append(element) => (Ask::Append(Value::from(*element)), Answer::Count),
                Action::Look if list => (Ask::Length, Answer::Count),
                Action::Look => (Ask::Total, Answer::Count),
                Action::LookAtEnd => (Ask::Last, |seen| Answer::Value(Some(seen))),
            };
            let outcome = match ending {
                Ending::Answered { at, seen } => Outcome::Answered { at: *at, answer: answered(Value::from(*seen)) },
                Ending::Unknown => Outcome::Unknown,
            };
            call(*client, ask, *invoked, outcome)
        })
        .collect();
    if let Some(Standing { invoked, at, found }) = standing {
        let (ask, answer) = match found {
            ReadBack::Counter(value) => (Ask::Total, Answer::Count(Value::try_from(*value).unwrap_or(Value::MAX))),
            // Pages, read one after the other. Where nothing is ever taken away or put in front, they are one read at
            // the moment of the last.
            ReadBack::List(elements) => {
                let elements = elements.iter().map(|element| element.map_or(NOBODYS, Value::from)).collect();
                (Ask::ReadAll, Answer::Elements(elements))
            }
        };
        calls.push(call(reader, ask, *invoked, Outcome::Answered { at: *at, answer }));
    }
    calls.sort_by_key(|call| call.invoked);
    calls
}

/// Judges every object; the first that has no order ends it, for one is enough.
pub fn judge(histories: &[History], standing: &[Standing], reader: u16) -> Verdict {
    let mut verdict = Verdict::Yes;
    for (number, history) in histories.iter().enumerate() {
        match linear::check(&calls(history, standing.get(number), reader), linear::BOUND) {
            Verdict::Yes => {}
            no @ Verdict::No(_) => return no,
            undecided @ Verdict::Undecided { .. } => verdict = undecided,
        }
    }
    verdict
}

/// Makes the file.
///
/// # Errors
/// Why it cannot be made.
pub fn create(path: &Path) -> Result<BufWriter<File>, Failure> {
    File::create(path).map(BufWriter::new).map_err(|error| failed(ExitCode::Usage, "make", path, &error))
}

/// Writes all histories, one operation per line, object after object.
///
/// # Errors
/// Why it cannot be written.
pub fn write(
    mut file: BufWriter<File>,
    path: &Path,
    histories: &[History],
    standing: &[Standing],
    reader: u16,
) -> Result<(), Failure> {
    let mut write = || -> std::io::Result<()> {
        let mut operations = 0;
        for (number, history) in histories.iter().enumerate() {
            for call in calls(history, standing.get(number), reader) {
                serde_json::to_writer(&mut file, &Line::of(&call))?;
                file.write_all(b"\n")?;
                operations += 1;
            }
        }
        let closing = Closing { operations, read_back_complete: standing.len() == histories.len() };
        serde_json::to_writer(&mut file, &closing)?;
        file.write_all(b"\n")?;
        file.flush()
    };
    write().map_err(|error| failed(ExitCode::CheckFailed, "write", path, &error))
}

/// Reads a history.
///
/// # Errors
/// What cannot be read, or what is not an operation, by its line; or that the file is not whole.
pub fn read(path: &Path) -> Result<Recorded, Failure> {
    let file = File::open(path).map_err(|error| failed(ExitCode::Usage, "read", path, &error))?;
    let mut calls = Vec::new();
    let mut closing: Option<Closing> = None;
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let line = line.map_err(|error| failed(ExitCode::Usage, "read", path, &error))?;
        let wrong = |why: String| Failure::new(ExitCode::Usage, format!("{}:{number}: {why}", path.display()));
        if closing.is_some() {
            return Err(wrong(String::from("it follows the closing line")));
        }
        closing = serde_json::from_str(&line).ok();
        if closing.is_none() {
            let line: Line = serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
            calls.push(line.call().map_err(|why| wrong(why.to_owned()))?);
        }
    }
    let told = closing.map(|closing| closing.operations);
    match closing {
        Some(Closing { operations, read_back_complete }) if operations == calls.len() as u64 && operations > 0 => {
            Ok(Recorded { calls, read_back_complete })
        }
        _ => {
            let told = told.map_or_else(|| String::from("no closing line"), |told| format!("{told} by its last line"));
            let what = format!("{}: it holds {} operations, {told}: nothing is judged", path.display(), calls.len());
            Err(Failure::new(ExitCode::CheckFailed, what))
        }
    }
}

fn failed(code: ExitCode, what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(code, format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(client: u16, action: Action, invoked: Stamp, seen: u32) -> Operation {
        Operation { client, action, invoked, ending: Ending::Answered { at: invoked + 5, seen } }
    }

    fn list() -> (History, Standing) {
        let mut history = History::new("torture:1:list:all:0");
        history.operations = vec![
            answered(1, Action::Append(0), 10, 1),
            Operation { client: 2, action: Action::Append(1), invoked: 12, ending: Ending::Unknown },
            answered(1, Action::LookAtEnd, 20, 0),
            answered(1, Action::Append(2), 30, 2),
            answered(3, Action::Look, 40, 2),
        ];
        let found = ReadBack::List(vec![Some(0), Some(2), Some(1)]);
        (history, Standing { invoked: 100, at: 200, found })
    }

    #[test]
    fn what_is_written_is_read_and_judged_alike() {
        let (history, standing) = list();
        let counter = History { object: String::from("torture:1:counter:1"), ..History::default() };
        let histories = [history, counter];
        let empty = Standing { invoked: 300, at: 301, found: ReadBack::Counter(0) };
        let standing = [standing, empty];
        assert_eq!(judge(&histories, &standing, 8), Verdict::Yes);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        write(create(&path).unwrap(), &path, &histories, &standing, 8).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text.lines().next().unwrap(),
            r#"{"client":1,"object":"torture:1:list:all:0","operation":{"append":0},"invoked":10,"completed":15,"outcome":{"answered":{"count":1}}}"#
        );
        assert_eq!(
            text.lines().nth(1).unwrap(),
            r#"{"client":2,"object":"torture:1:list:all:0","operation":{"append":1},"invoked":12,"completed":null,"outcome":"unknown"}"#
        );
        assert_eq!(text.lines().last(), Some(r#"{"operations":7,"read_back_complete":true}"#));
        let Recorded { calls, read_back_complete } = read(&path).unwrap();
        assert_eq!((calls.len(), read_back_complete), (7, true));
        assert_eq!(linear::check(&calls, linear::BOUND), Verdict::Yes);
        write(create(&path).unwrap(), &path, &histories, &standing[..1], 8).unwrap();
        assert!(!read(&path).unwrap().read_back_complete, "one object was not read back");
    }

    #[test]
    fn a_file_that_is_cut_short_or_empty_is_not_judged() {
        let (history, standing) = list();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        write(create(&path).unwrap(), &path, &[history], &[standing], 8).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for kept in 0..lines.len() {
            std::fs::write(&path, lines[..kept].join("\n")).unwrap();
            let failure = read(&path).unwrap_err();
            assert_eq!(failure.code, ExitCode::CheckFailed, "{failure}");
            std::fs::write(&path, [&lines[..kept], &lines[kept + 1..]].concat().join("\n")).unwrap();
            assert!(read(&path).is_err(), "line {kept} is missing");
        }
        std::fs::write(&path, "{\"operations\":0,\"read_back_complete\":true}\n").unwrap();
        assert!(read(&path).is_err(), "of nothing nothing is known");
    }

    #[test]
    fn a_read_that_missed_what_another_was_told_is_found() {
        let (mut history, standing) = list();
        history.operations.push(answered(4, Action::Look, 50, 1));
        let Verdict::No(window) = judge(&[history], &[standing], 8) else { panic!("length 2 was told before") };
        assert_eq!(window.calls.iter().map(|call| call.client).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn what_nobody_wrote_is_found() {
        let (history, mut standing) = list();
        standing.found = ReadBack::List(vec![Some(0), Some(2), None]);
        assert!(matches!(judge(&[history], &[standing], 8), Verdict::No(_)));
    }

    #[test]
    fn a_line_that_is_no_operation_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let good = r#"{"client":1,"object":"x","operation":"total","invoked":1,"completed":2,"outcome":{"answered":{"count":0}}}"#;
        for (bad, why) in [
            ("nonsense", "expected"),
            (&good.replace("\"completed\":2", "\"completed\":null"), "moment of completion"),
            (&good.replace("\"completed\":2", "\"completed\":0"), "before it is invoked"),
            (&good.replace("total", "explode"), "unknown variant"),
        ] {
            std::fs::write(&path, format!("{good}\n{bad}\n")).unwrap();
            let message = read(&path).unwrap_err().message;
            assert!(message.contains("run.jsonl:2: ") && message.contains(why), "{message}");
        }
        std::fs::write(&path, format!("{good}\n{{\"operations\":1,\"read_back_complete\":true}}\n")).unwrap();
        assert_eq!(read(&path).unwrap().calls.len(), 1);
    }
}

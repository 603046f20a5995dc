//! The house itself, checked as an ordinary test (after TigerBeetle's `tidy`): who may import whom, what a sans-IO core
//! may name, how long a file may be, and whether the documentation still speaks of what is there.
//!
//! Everything is read with `std::fs`; comments, strings and test code are blanked before code is judged, so a word in a
//! sentence breaks no rule. A rule that must give way to one place gives way in a table here, with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Files longer than this are looked at again.
const LONGEST: usize = 700;

/// Longer ones, and why. An entry whose file has become shorter is an error too.
const LONGER: &[(&str, &str)] = &[];

/// A room, whom in the same crate it may import beside itself, and whether it is sans-IO.
struct Room {
    at: &'static str,
    imports: &'static [&'static str],
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// No clock, socket, thread, file or randomness of its own, no map without an order.
    Core,
    /// Runs things.
    Shell,
}

const fn room(at: &'static str, imports: &'static [&'static str], kind: Kind) -> Room {
    Room { at, imports, kind }
}

/// Every room of the house, lowest first.
const ROOMS: &[Room] = &[
    room("arbiter/src/planted", &[], Kind::Core),
    room("arbiter/src/wire", &[], Kind::Core),
    room("arbiter/src/record", &[], Kind::Core),
    room("arbiter/src/protocol", &["record", "wire"], Kind::Core),
    room("arbiter/src/raft", &["wire"], Kind::Core),
    room("arbiter/src/store", &["raft"], Kind::Shell),
    room("arbiter/src/alarm", &[], Kind::Shell),
    room("arbiter/src/backoff", &[], Kind::Shell),
    room("arbiter/src/net", &["wire"], Kind::Shell),
    room("arbiter/src/http", &["net"], Kind::Shell),
    room("arbiter/src/client", &["backoff", "net", "protocol", "record", "wire"], Kind::Shell),
    room("arbiter/src/server/core", &["protocol", "raft", "record"], Kind::Core),
    room(
        "arbiter/src/server",
        &["alarm", "backoff", "http", "net", "protocol", "raft", "record", "store", "wire"],
        Kind::Shell,
    ),
    room("src/machine", &[], Kind::Core),
    room("src/protocol", &["machine"], Kind::Core),
    room("src/journal", &["machine", "protocol"], Kind::Core),
    room("src/replica", &["journal", "machine", "protocol"], Kind::Core),
    room("src/port", &["machine", "protocol", "replica"], Kind::Core),
    room("src/client/core", &["client", "machine", "protocol"], Kind::Core),
    room("src/client", &["machine", "protocol"], Kind::Shell),
    room("src/resp", &["machine"], Kind::Core),
    room("src/history", &[], Kind::Core),
    room("src/fault", &[], Kind::Shell),
    room("src/daemon", &["journal", "machine", "port", "protocol", "replica", "resp"], Kind::Shell),
    room(
        "src/cli",
        &["client", "daemon", "fault", "history", "journal", "machine", "protocol", "replica"],
        Kind::Shell,
    ),
];

/// What a sans-IO core never names, and what takes its place.
const NOT_IN_CORES: &[(&str, &str)] = &[
    ("tokio", "the shell runs what comes out of the core"),
    ("Instant", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("std::net", "bytes and messages come in as arguments"),
    ("std::fs", "what must be durable comes out as data"),
    ("std::thread", "the shell owns every thread"),
    ("std::env", "options are arguments"),
    ("rand::rng", "the seed is an argument"),
    ("HashMap", "its order differs between replicas: BTreeMap"),
    ("HashSet", "its order differs between replicas: BTreeSet"),
];

/// Where Redis' own words for roles may stand.
const REDIS_WORDS: &[&str] = &["src/resp/", "src/daemon/redis.rs", "tests/house.rs"];

#[test]
fn imports_run_one_way() {
    let mut wrong = Wrong::default();
    for source in sources().iter().filter(|source| source.is_library()) {
        let Some(room) = room_of(&source.path) else {
            if !is_root(&source.path) {
                wrong.push(&source.path, 1, "stands in no room: give it a line in ROOMS");
            }
            continue;
        };
        let own = top_module(room.at);
        for (line, module) in source.imports() {
            let known = module != own && top_modules(&source.path).contains(&module);
            if known && !room.imports.contains(&module.as_str()) {
                wrong.push(&source.path, line, &format!("{} must not know `{module}`", room.at));
            }
        }
        if source.path.starts_with("arbiter/")
            && let Some(line) = source.line_of("cutover::")
        {
            wrong.push(&source.path, line, "the arbiter is the lower crate and knows nothing of replicas");
        }
    }
    wrong.settle();
}

#[test]
fn cores_touch_nothing_of_the_world() {
    let mut wrong = Wrong::default();
    for source in sources().iter().filter(|source| source.is_library()) {
        if room_of(&source.path).is_none_or(|room| room.kind == Kind::Shell) {
            continue;
        }
        for (word, instead) in NOT_IN_CORES {
            if let Some(line) = source.line_of(word) {
                wrong.push(&source.path, line, &format!("a core names `{word}`: {instead}"));
            }
        }
    }
    wrong.settle();
}

#[test]
fn files_are_short_or_say_why_not() {
    let mut wrong = Wrong::default();
    let exceptions: BTreeMap<_, _> = LONGER.iter().copied().collect();
    for source in sources() {
        let lines = source.text.lines().count();
        match exceptions.get(source.path.as_str()) {
            None if lines > LONGEST => {
                wrong.push(&source.path, lines, "is too long: give each concern a file of its own");
            }
            Some(_) if lines <= LONGEST => {
                wrong.push(&source.path, lines, "is short again: take its line out of LONGER");
            }
            _ => {}
        }
    }
    for (path, _) in LONGER {
        if !root().join(path).exists() {
            wrong.push(path, 0, "is gone: take its line out of LONGER");
        }
    }
    wrong.settle();
}

#[test]
fn nothing_unwraps_outside_tests() {
    let mut wrong = Wrong::default();
    for source in sources().iter().filter(|source| source.is_library() || source.path.starts_with("examples/")) {
        if let Some(at) = source.code.find(".unwrap()") {
            wrong.push(&source.path, source.line_at(at), "unwraps: return an error, or `expect` with the reason");
        }
        if let Some(at) = source.code.find("[allow(") {
            wrong.push(&source.path, source.line_at(at), "allows a lint: `expect` it, with the reason");
        }
    }
    wrong.settle();
}

#[test]
fn every_file_says_what_lives_there() {
    let mut wrong = Wrong::default();
    for source in sources().iter().filter(|source| !source.is_unit_test) {
        if !source.text.starts_with("//!") {
            wrong.push(&source.path, 1, "begins without a `//!` that says what lives here");
        }
    }
    wrong.settle();
}

#[test]
fn no_file_is_forgotten() {
    let mut wrong = Wrong::default();
    let sources = sources();
    let named: BTreeSet<&String> = sources.iter().flat_map(|source| &source.modules).collect();
    for source in &sources {
        if source.path.contains("src/") && !is_root(&source.path) && !named.contains(&source.path) {
            wrong.push(&source.path, 1, "is no module of any other file, so nobody compiles it");
        }
    }
    wrong.settle();
}

#[test]
fn redis_words_stay_at_the_redis_edge() {
    let mut wrong = Wrong::default();
    for source in sources() {
        if REDIS_WORDS.iter().any(|allowed| source.path.starts_with(allowed)) {
            continue;
        }
        for (number, line) in source.text.lines().enumerate() {
            let line = line.to_ascii_lowercase();
            if ["master", "slave"].iter().any(|word| find_word(&line, word).is_some()) {
                wrong.push(&source.path, number + 1, "speaks Redis' words: primary, backup, spare (design section 1)");
            }
        }
    }
    wrong.settle();
}

/// `path` and `path::item` in backticks must exist.
#[test]
fn the_documentation_speaks_of_what_is_there() {
    let mut wrong = Wrong::default();
    let sources = sources();
    for document in ["ARCHITECTURE.md", "README.md", "tests/planted.md", "tests/rules.md"] {
        let text = read(document);
        for (number, line) in text.lines().enumerate() {
            for quoted in line.split('`').skip(1).step_by(2) {
                if let Err(what) = check_reference(quoted, &sources) {
                    wrong.push(document, number + 1, &what);
                }
            }
        }
    }
    let architecture = read("ARCHITECTURE.md");
    for room in ROOMS {
        if !architecture.contains(&format!("`{}", room.at)) {
            wrong.push("ARCHITECTURE.md", 0, &format!("does not speak of {}", room.at));
        }
    }
    wrong.settle();
}

/// Every bug that `planted!` names stands in the table, at that file, and every file of the table plants its bug.
#[test]
fn every_planted_bug_stands_in_the_table() {
    let mut wrong = Wrong::default();
    let mut planted = BTreeSet::new();
    for source in sources().iter().filter(|source| source.is_library()) {
        for (at, call) in source.code.match_indices("planted!(") {
            let name = source.text[at + call.len()..].split('"').nth(1).unwrap_or_default();
            planted.insert((name.to_owned(), source.path.clone()));
        }
    }
    let mut listed = BTreeSet::new();
    for line in read("tests/planted.md").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`').to_owned();
        let places: Vec<&str> = cells[4].split('`').skip(1).step_by(2).collect();
        for place in &places {
            let (path, _) = place.split_once("::").unwrap_or((place, ""));
            listed.insert((name.clone(), path.to_owned()));
        }
        if places.is_empty() {
            wrong.push("tests/planted.md", 0, &format!("says nowhere in which file {name} is planted"));
        }
    }
    for (name, path) in planted.difference(&listed) {
        wrong.push(path, 0, &format!("plants {name}, which tests/planted.md does not list there"));
    }
    for (name, path) in listed.difference(&planted) {
        wrong.push(path, 0, &format!("does not plant {name}, as tests/planted.md says"));
    }
    assert!(planted.len() > 10, "only {} planted bugs were found", planted.len());
    wrong.settle();
}

/// Who finds planted bugs at random, and whether a seed says where.
const FINDERS: &[(&str, bool)] =
    &[("storm", true), ("client", true), ("simulator", true), ("journal", false), ("scenario", false)];

/// Where the cases of the exhaustive searches stand: of Raft (`R-…`), and of the rest.
const SEARCHES: [&str; 2] = ["arbiter/src/raft/tests/exhaustive.rs", "tests/exhaustive/main.rs"];

/// Who reads the table picks the rows that name it, so a row that nobody picks would be tried by nobody, and in silence.
#[test]
fn every_row_of_the_planted_bugs_is_tried_by_somebody() {
    let mut wrong = Wrong::default();
    let cases = SEARCHES.map(case_names);
    let mut names = BTreeSet::new();
    for (number, line) in read("tests/planted.md").lines().enumerate().filter(|(_, line)| line.starts_with("| `")) {
        let row = planted_row(line, &cases)
            .and_then(|name| if names.insert(name) { Ok(()) } else { Err(format!("has {name} a second time")) });
        if let Err(what) = row {
            wrong.push("tests/planted.md", number + 1, &what);
        }
    }
    assert!(cases.iter().all(|cases| cases.len() > 4), "too few cases were found: {cases:?}");
    wrong.settle();
}

/// The name of the bug in a row that `rows` of `arbiter/src/planted.rs` can read, and that somebody finds.
fn planted_row<'a>(line: &'a str, cases: &[BTreeSet<String>; 2]) -> Result<&'a str, String> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let &[name, _what, _rule, _place, search, random, seeds] = cells.as_slice() else {
        return Err(format!("has {} cells, not 7", cells.len()));
    };
    let name = name.trim_matches('`');
    let [of_raft, of_the_rest] = cases;
    let cases = if name.starts_with("R-") { of_raft } else { of_the_rest };
    if search != "–" && !cases.contains(search) {
        return Err(format!("says that the search `{search}` finds {name}, and there is no such case"));
    }
    let finder = FINDERS.iter().find(|(finder, _)| *finder == random);
    match (finder, seeds.split_once(" of ")) {
        (None, _) if random != "–" => Err(format!("says that `{random}` finds {name}, and nobody is called that")),
        (None, _) if search == "–" => Err(format!("says of nobody that it finds {name}")),
        (Some((_, true)), Some((seed, budget))) => {
            let number = |text: &str| text.parse().map_err(|_| format!("has {seeds} as the seeds of {name}"));
            let (seed, budget): (u64, u64) = (number(seed)?, number(budget)?);
            let within = (1..=budget).contains(&seed);
            if within { Ok(name) } else { Err(format!("finds {name} with seed {seed}, not within {budget}")) }
        }
        (Some((_, true)), None) => Err(format!("has no seed for {name}")),
        _ if seeds != "–" => Err(format!("has seeds for {name}, which needs none")),
        _ => Ok(name),
    }
}

/// The names of the cases of an exhaustive search.
fn case_names(path: &str) -> BTreeSet<String> {
    let text = read(path);
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("name: \"")?.strip_suffix("\","))
        .map(str::to_owned)
        .collect()
}

fn check_reference(quoted: &str, sources: &[Source]) -> Result<(), String> {
    let in_house = ["src/", "arbiter/", "tests/", "examples/", "deploy/"].iter().any(|place| quoted.starts_with(place));
    let plain = quoted.chars().all(|letter| letter.is_ascii_alphanumeric() || "/._-:".contains(letter));
    if in_house && plain {
        let (path, item) = quoted.split_once("::").unwrap_or((quoted, ""));
        if !root().join(path).exists() {
            return Err(format!("speaks of {path}, which is not there"));
        }
        let source = sources.iter().find(|source| source.path == path);
        let name = item.rsplit("::").next().unwrap_or_default();
        if !name.is_empty() && source.is_none_or(|source| find_word(&source.code, name).is_none()) {
            return Err(format!("speaks of `{name}` in {path}, which does not name it"));
        }
    }
    check_metric(quoted, sources)
}

/// `cutover_…` in backticks must be counted by somebody.
fn check_metric(quoted: &str, sources: &[Source]) -> Result<(), String> {
    let Some(name) = quoted.strip_prefix("cutover_") else { return Ok(()) };
    if name.is_empty() || name == "arbiter" || !name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
    {
        return Ok(());
    }
    let stem = quoted.trim_end_matches("_total");
    // The arbiters' registry puts the prefix before each name.
    let counted = [format!("\"{stem}\""), format!("\"{}\"", stem.trim_start_matches("cutover_arbiter_"))];
    if sources.iter().any(|source| counted.iter().any(|name| source.text.contains(name))) {
        return Ok(());
    }
    Err(format!("speaks of the metric {quoted}, which nobody counts"))
}

/// What is wrong, gathered so that one run shows all of it.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn push(&mut self, path: &str, line: usize, what: &str) {
        self.0.push(format!("{path}:{line}: {what}"));
    }

    fn settle(self) {
        assert!(self.0.is_empty(), "{} thing(s) out of place:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// A source file, and its code without comments, strings and tests.
struct Source {
    path: String,
    text: String,
    /// As long as `text`, byte for byte.
    code: String,
    /// Files that it names as modules.
    modules: Vec<String>,
    /// A module behind `#[cfg(test)]`.
    is_unit_test: bool,
}

impl Source {
    /// True for what is compiled into a library or binary, outside tests.
    fn is_library(&self) -> bool {
        (self.path.starts_with("src/") || self.path.starts_with("arbiter/src/")) && !self.is_unit_test
    }

    fn line_at(&self, offset: usize) -> usize {
        self.code[..offset].matches('\n').count() + 1
    }

    fn line_of(&self, word: &str) -> Option<usize> {
        find_word(&self.code, word).map(|at| self.line_at(at))
    }

    /// Top modules of the crate that the code names, by `crate::` or by climbing with `super::`.
    fn imports(&self) -> Vec<(usize, String)> {
        let climb = "super::".repeat(self.depth());
        let mut found = Vec::new();
        for prefix in ["crate::", climb.as_str()] {
            for (at, _) in self.code.match_indices(prefix).filter(|_| !prefix.is_empty()) {
                let higher = self.code[..at].ends_with("super::");
                let names = named_at(&self.code[at + prefix.len()..]);
                found.extend(names.into_iter().filter(|_| !higher).map(|name| (self.line_at(at), name)));
            }
        }
        found
    }

    /// How many `super::` lead from here to the crate's root.
    fn depth(&self) -> usize {
        let inside = self.path.rsplit_once("src/").map_or(self.path.as_str(), |(_, inside)| inside);
        inside.trim_end_matches("/mod.rs").trim_end_matches(".rs").split('/').count()
    }
}

/// The first identifiers of `a::b` or `{a::b, c}`.
fn named_at(code: &str) -> Vec<String> {
    let Some(list) = code.strip_prefix('{') else { return identifier(code).into_iter().collect() };
    let (mut depth, mut names, mut fresh) = (0, Vec::new(), true);
    for (at, letter) in list.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            _ if letter.is_whitespace() => {}
            _ => {
                if std::mem::take(&mut fresh) && depth == 0 {
                    names.extend(identifier(&list[at..]));
                }
            }
        }
    }
    names
}

fn identifier(code: &str) -> Option<String> {
    let end = code.find(|letter: char| !is_name(letter)).unwrap_or(code.len());
    (end > 0).then(|| code[..end].to_owned())
}

fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Where `word` stands by itself, not as a part of a longer name or path segment.
fn find_word(code: &str, word: &str) -> Option<usize> {
    code.match_indices(word).map(|(at, _)| at).find(|at| {
        let before = code[..*at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let open = word.ends_with(':');
        !before.is_some_and(is_name) && (open || !after.is_some_and(is_name))
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn room_of(path: &str) -> Option<&'static Room> {
    let inside = |room: &&Room| path.strip_prefix(room.at).is_some_and(|rest| rest.starts_with('/') || rest == ".rs");
    ROOMS.iter().filter(inside).max_by_key(|room| room.at.len())
}

/// The module below the crate's root in which `at` stands.
fn top_module(at: &str) -> String {
    let inside = at.rsplit_once("src/").map_or(at, |(_, inside)| inside);
    inside.split('/').next().unwrap_or(inside).to_owned()
}

/// All top modules of the crate to which `path` belongs.
fn top_modules(path: &str) -> BTreeSet<String> {
    let krate = if path.starts_with("arbiter/") { "arbiter/src/" } else { "src/" };
    ROOMS.iter().filter(|room| room.at.starts_with(krate)).map(|room| top_module(room.at)).collect()
}

fn is_root(path: &str) -> bool {
    ["src/lib.rs", "src/main.rs", "arbiter/src/lib.rs"].contains(&path)
}

/// Every Rust file of the house.
fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    for place in ["src", "arbiter/src", "arbiter/tests", "tests", "examples"] {
        list(&root().join(place), &mut files);
    }
    files.sort();
    let mut tests = BTreeSet::new();
    let mut sources: Vec<Source> = files
        .into_iter()
        .map(|file| {
            let path =
                file.strip_prefix(root()).expect("listed below the root").to_str().expect("plain names").to_owned();
            let text = read(&path);
            let mut code = blank_words(&text);
            let modules = modules(&path, &text, &code);
            tests.extend(modules.iter().filter(|(_, test)| *test).map(|(module, _)| module.clone()));
            blank_tests(&mut code);
            let modules = modules.into_iter().map(|(module, _)| module).collect();
            Source { path, text, code, modules, is_unit_test: false }
        })
        .collect();
    let below = |path: &str| {
        tests
            .iter()
            .any(|test| path == test || path.starts_with(test.trim_end_matches("mod.rs")) && test.ends_with("/mod.rs"))
    };
    for source in &mut sources {
        source.is_unit_test = below(&source.path);
    }
    assert!(sources.len() > 100, "only {} files were found below {}", sources.len(), root().display());
    sources
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder that can be listed").path();
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The files that `mod name;` means, and whether only for tests.
fn modules(path: &str, text: &str, code: &str) -> Vec<(String, bool)> {
    let (folder, file) = path.rsplit_once('/').expect("every file stands in a folder");
    let own = match file {
        "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
        _ => format!("{folder}/{}", file.trim_end_matches(".rs")),
    };
    let mut found = Vec::new();
    for (at, _) in code.match_indices("mod ") {
        let Some(name) = identifier(&code[at + 4..]) else { continue };
        let word = !code[..at].chars().next_back().is_some_and(is_name);
        if !word || !code[at + 4 + name.len()..].starts_with(';') {
            continue;
        }
        // Attributes stand between the last item and this one.
        let item = code[..at].rfind([';', '}', '{']).map_or(0, |end| end + 1);
        let test = code[item..at].contains("cfg(test)");
        let given = text[item..at].split_once("path = \"").and_then(|(_, rest)| rest.split_once('"'));
        let candidates = match given {
            Some((file, _)) => vec![format!("{folder}/{file}")],
            None => vec![format!("{own}/{name}.rs"), format!("{own}/{name}/mod.rs")],
        };
        found.extend(candidates.into_iter().find(|file| root().join(file).exists()).map(|file| (file, test)));
    }
    found
}

/// Cuts what stands behind `#[cfg(test)]` in braces.
fn blank_tests(code: &mut String) {
    while let Some(start) = code.find("#[cfg(test)]") {
        let item = &code[start..];
        let end = match (item.find('{'), item.find(';')) {
            (Some(open), semicolon) if semicolon.is_none_or(|semicolon| open < semicolon) => closing(item, open),
            (_, Some(semicolon)) => semicolon,
            _ => item.len() - 1,
        };
        let blank = spaces(&code[start..=start + end]);
        code.replace_range(start..=start + end, &blank);
    }
}

/// The brace that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, letter) in code[open..].char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + at;
        }
    }
    code.len() - 1
}

/// The same number of bytes and the same lines, without a word.
fn spaces(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// Code without comments, strings and characters, byte for byte as long.
fn blank_words(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let length = word_length(rest, code.chars().next_back());
        match length {
            Some(length) => code.push_str(&spaces(&rest[..length])),
            None if letter.is_ascii() => code.push(letter),
            None => code.push_str(&spaces(&rest[..letter.len_utf8()])),
        }
        rest = &rest[length.unwrap_or(letter.len_utf8())..];
    }
    code
}

/// How long the comment, string or character is that begins here, if one does.
fn word_length(rest: &str, before: Option<char>) -> Option<usize> {
    let until = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(until("*/", 2));
    }
    if rest.starts_with('r') && !before.is_some_and(|letter| is_name(letter) && letter != 'b') {
        let marks = rest[1..].chars().take_while(|letter| *letter == '#').count();
        if rest[1 + marks..].starts_with('"') {
            return Some(until(&format!("\"{}", "#".repeat(marks)), 2 + marks));
        }
    }
    if rest.starts_with('"') {
        return Some(quoted(rest, '"'));
    }
    // A lifetime has no second quote where a character's would stand.
    let character = rest.strip_prefix('\'')?;
    let one = character.chars().next()?;
    (one == '\\' || character[one.len_utf8()..].starts_with('\'')).then(|| quoted(rest, '\''))
}

/// Length of what begins and ends with `mark`, past escapes.
fn quoted(rest: &str, mark: char) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == mark => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[test]
fn words_are_told_from_code() {
    let text = "let a = \"tokio // \\\" {\"; // HashMap\nlet b = r#\"x\" }\"#; let c: &'a str = f('\"', '\\'', b'{'); /* { */ é\n";
    let code = blank_words(text);
    assert_eq!(code.len(), text.len());
    assert!(!code.contains("tokio") && !code.contains("HashMap") && !code.contains('{') && !code.contains('}'));
    assert!(code.contains("let c: &'a str = f("));
    assert_eq!(named_at("{a::{b, c}, d, e::f};"), ["a", "d", "e"]);
    assert_eq!(named_at("machine::Env"), ["machine"]);
    let mut tests = String::from("fn a() {}\n#[cfg(test)]\nmod tests { fn b() { x.unwrap() } }\nfn c() {}");
    blank_tests(&mut tests);
    assert!(tests.contains("fn a()") && tests.contains("fn c()") && !tests.contains("unwrap"));
}

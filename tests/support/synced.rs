//! What the loss of power leaves of a directory, strictly: what a process had synced by then, and nothing else.
//!
//! `strace` writes down every call of a process that changes files, and what came of it. Played back, the calls give two
//! directories: the one that the process sees, and the one that it may count on. A file's bytes are certain once it was
//! synced; that it has its name, or another one, or none, is certain once the directory was synced in which that stands.
//! A real disk keeps more than that as often as not; here it never does.
//!
//! Deliberately not here: calls that nobody makes in a data directory (links, writes in the middle of a file). One of them
//! would panic rather than be left out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The calls that are played back.
const CALLS: &str = "trace=openat,open,creat,mkdir,mkdirat,write,writev,pwrite64,pwritev,ftruncate,truncate,fsync,\
                     fdatasync,sync_file_range,rename,renameat,renameat2,unlink,unlinkat,rmdir,link,linkat,symlink";

/// The words before a command line that have its calls written down in `trace`.
pub fn recording(trace: &Path) -> Vec<String> {
    let trace = trace.to_str().expect("a path of text");
    let words = ["strace", "-f", "-qq", "--seccomp-bpf", "-y", "-v", "-xx", "-s", "100000000", "-e", CALLS];
    words.iter().map(|word| (*word).to_owned()).chain([String::from("-o"), trace.to_owned()]).collect()
}

/// Makes, at `to`, the directory `root` as the loss of power leaves it after all that stands in `trace`.
pub fn image(trace: &Path, root: &Path, to: &Path) {
    let mut replay = Replay::new(root);
    let text = fs::read_to_string(trace).expect("a trace");
    let mut begun = BTreeMap::new();
    for line in text.lines() {
        let (pid, call) = line.trim().split_once(char::is_whitespace).expect("a thread and its call");
        let call = call.trim_start();
        if let Some(call) = call.strip_suffix("<unfinished ...>") {
            begun.insert(pid, call.to_owned());
        } else if let Some(rest) = call.strip_prefix("<... ") {
            let (_, rest) = rest.split_once("resumed>").expect("the rest of a call");
            let first = begun.remove(pid).unwrap_or_else(|| panic!("it never began: {line}"));
            replay.call(&(first + rest));
        } else if !call.starts_with("+++") && !call.starts_with("---") {
            replay.call(call);
        }
    }
    replay.write(0, to);
}

/// A file or a directory, as it is and as it is certain to be.
enum Node {
    File { now: Vec<u8>, synced: Vec<u8> },
    Directory { now: BTreeMap<String, usize>, synced: BTreeMap<String, usize> },
}

struct Replay {
    root: PathBuf,
    /// The first is the root.
    nodes: Vec<Node>,
}

impl Replay {
    fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), nodes: vec![directory()] }
    }

    fn call(&mut self, call: &str) {
        let (name, rest) = call.split_once('(').unwrap_or_else(|| panic!("no call: {call:.200}"));
        let (rest, result) = rest.rsplit_once(" = ").unwrap_or_else(|| panic!("no result: {call:.200}"));
        let result: i64 = result.split(['<', ' ']).next().and_then(|number| number.parse().ok()).unwrap_or(-1);
        if result < 0 {
            return;
        }
        let strings = strings(rest);
        // Of the file that a descriptor in front stands for, if there is one: it may have another name by now.
        let open = || self.inside(decoded(rest.split_once('<')?.1.split_once('>')?.0));
        match name {
            "openat" | "open" | "creat" => {
                let Some(path) = self.inside(strings[0].clone()) else { return };
                if self.find(&path).is_none() && rest.contains("O_CREAT") {
                    self.enter(&path, Node::File { now: Vec::new(), synced: Vec::new() });
                }
                if rest.contains("O_TRUNC") {
                    self.file(&path).clear();
                }
            }
            "mkdir" => {
                if let Some(path) = self.inside(strings[0].clone()).filter(|path| !path.is_empty()) {
                    self.enter(&path, directory());
                }
            }
            "write" | "writev" => {
                let Some(path) = open().filter(|_| !rest.contains(">(deleted)")) else { return };
                let bytes: Vec<u8> = strings.concat();
                let written = bytes.get(..result as usize).expect("no more than was asked for");
                self.file(&path).extend_from_slice(written);
            }
            "ftruncate" => {
                let Some(path) = open() else { return };
                let length = rest.rsplit_once(", ").and_then(|(_, length)| length.trim_end_matches(')').parse().ok());
                self.file(&path).resize(length.expect("a length"), 0);
            }
            "fsync" | "fdatasync" => {
                let Some(node) = open().filter(|_| !rest.contains(">(deleted)")).and_then(|path| self.find(&path))
                else {
                    return;
                };
                match &mut self.nodes[node] {
                    Node::File { now, synced } => synced.clone_from(now),
                    Node::Directory { now, synced } => synced.clone_from(now),
                }
            }
            "rename" => {
                let (from, to) = (self.inside(strings[0].clone()), self.inside(strings[1].clone()));
                let (Some(from), Some(to)) = (from, to) else { return };
                let node = self.leave(&from);
                let (parent, name) = self.parent(&to);
                self.entries(parent).insert(name, node);
            }
            "unlink" | "rmdir" => {
                if let Some(path) = self.inside(strings[0].clone()) {
                    self.leave(&path);
                }
            }
            "unlinkat" => {
                let at =
                    decoded(rest.split_once('<').map_or("", |(_, rest)| rest.split('>').next().unwrap_or_default()));
                let path = [&at[..], b"/", &strings[0]].concat();
                if let Some(path) = self.inside(path) {
                    self.leave(&path);
                }
            }
            other => panic!("{other} is none of the calls that are known here: {call:.200}"),
        }
    }

    /// Of a path below the root, the part after it.
    fn inside(&self, path: Vec<u8>) -> Option<String> {
        let path = PathBuf::from(String::from_utf8(path).ok()?);
        path.strip_prefix(&self.root).ok()?.to_str().map(str::to_owned)
    }

    fn find(&self, path: &str) -> Option<usize> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(0, |node, name| match &self.nodes[node] {
            Node::Directory { now, .. } => now.get(name).copied(),
            Node::File { .. } => None,
        })
    }

    fn parent(&self, path: &str) -> (usize, String) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.find(parent).unwrap_or_else(|| panic!("{path} has no parent")), name.to_owned())
    }

    fn entries(&mut self, node: usize) -> &mut BTreeMap<String, usize> {
        match &mut self.nodes[node] {
            Node::Directory { now, .. } => now,
            Node::File { .. } => panic!("a file has no entries"),
        }
    }

    fn enter(&mut self, path: &str, node: Node) {
        let (parent, name) = self.parent(path);
        self.nodes.push(node);
        let node = self.nodes.len() - 1;
        self.entries(parent).insert(name, node);
    }

    fn leave(&mut self, path: &str) -> usize {
        let (parent, name) = self.parent(path);
        self.entries(parent).remove(&name).unwrap_or_else(|| panic!("{path} is not there"))
    }

    fn file(&mut self, path: &str) -> &mut Vec<u8> {
        let node = self.find(path).unwrap_or_else(|| panic!("{path} is not there"));
        match &mut self.nodes[node] {
            Node::File { now, .. } => now,
            Node::Directory { .. } => panic!("{path} is a directory"),
        }
    }

    fn write(&self, node: usize, to: &Path) {
        match &self.nodes[node] {
            Node::File { synced, .. } => fs::write(to, synced).expect("a file of the image"),
            Node::Directory { synced, .. } => {
                fs::create_dir(to).expect("a directory of the image");
                for (name, node) in synced {
                    self.write(*node, &to.join(name));
                }
            }
        }
    }
}

fn directory() -> Node {
    Node::Directory { now: BTreeMap::new(), synced: BTreeMap::new() }
}

/// The strings in quotes among a call's arguments.
fn strings(arguments: &str) -> Vec<Vec<u8>> {
    arguments.split('"').skip(1).step_by(2).map(decoded).collect()
}

/// Text of which every byte is written `\xNN`.
fn decoded(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16).expect("two digits")).collect()
}

//! A disk for tests and for the simulator, with every fault a disk can have: what was not synced is lost at a power
//! loss (all of it, all but a prefix, or any subset), writes are torn, any call fails once or the process dies at it,
//! the disk is full, bits rot. A failed sync drops what it should have written and the next one believes it is clean.
//!
//! Deterministic: what is lost is decided by a seed given with the loss.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::disk::{Disk, DiskError};

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with EIO; of a write a part is done.
    Io,
    /// It fails because the disk is full; of a write a part is done.
    Full,
    /// The process dies before it.
    KillBefore,
    /// The process dies in the middle of it.
    KillWithin,
    /// The process dies after it.
    KillAfter,
}

/// What a power loss leaves of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it: only the process died.
    Process,
    /// Nothing.
    Everything,
    /// The calls up to some point.
    Suffix,
    /// Any of the calls, and of the last ones any sectors.
    Subset,
}

const SECTOR: usize = 512;

type NodeId = u64;

#[derive(Debug, Clone)]
enum FileCall {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

/// One step of a directory's log.
#[derive(Debug, Clone)]
struct NameCall {
    remove: Option<String>,
    put: Option<(String, NodeId)>,
}

#[derive(Debug, Clone)]
enum Node {
    File { device: Vec<u8>, pending: Vec<FileCall>, cache: Vec<u8> },
    Directory { device: BTreeMap<String, NodeId>, pending: Vec<NameCall>, cache: BTreeMap<String, NodeId> },
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<NodeId, Node>,
    next: NodeId,
    /// Calls so far that change or sync something.
    calls: u64,
    plan: BTreeMap<u64, Fault>,
    names: Vec<String>,
    /// The names are not kept: whoever runs for long does not read them.
    nameless: bool,
    /// Calls that failed for another reason than the process's death.
    errors: u64,
    dead: bool,
    capacity: Option<usize>,
}

/// A disk in memory; clones are the same disk.
#[derive(Clone)]
pub struct MemoryDisk(Arc<Mutex<State>>);

impl std::fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemoryDisk({} calls)", self.calls())
    }
}

/// An open file of a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryFile {
    node: NodeId,
    path: String,
}

impl Default for MemoryDisk {
    fn default() -> Self {
        let mut state = State { next: 1, ..State::default() };
        let root = Node::Directory { device: BTreeMap::new(), pending: Vec::new(), cache: BTreeMap::new() };
        state.nodes.insert(0, root);
        Self(Arc::new(Mutex::new(state)))
    }
}

/// What a call may still do.
enum Verdict {
    Whole,
    Part(Error),
    Nothing(Error),
    /// Done, and the last thing that the process did.
    Last,
}

fn dead() -> Error {
    Error::other("the process is dead")
}

impl State {
    fn call(&mut self, name: impl FnOnce() -> String) -> Verdict {
        if self.dead {
            return Verdict::Nothing(dead());
        }
        self.calls += 1;
        if !self.nameless {
            self.names.push(name());
        }
        let fault = self.plan.get(&self.calls);
        self.errors += u64::from(matches!(fault, Some(Fault::Io | Fault::Full)));
        match fault {
            None => Verdict::Whole,
            Some(Fault::Io) => Verdict::Part(Error::other("injected: input/output error")),
            Some(Fault::Full) => Verdict::Part(Error::from(ErrorKind::StorageFull)),
            Some(fault) => {
                self.dead = true;
                match fault {
                    Fault::KillWithin => Verdict::Part(dead()),
                    Fault::KillAfter => Verdict::Last,
                    _ => Verdict::Nothing(dead()),
                }
            }
        }
    }

    fn directory(&mut self, path: &str) -> Result<NodeId, Error> {
        if path.is_empty() {
            return Ok(0);
        }
        match self.nodes.get(&0) {
            Some(Node::Directory { cache, .. }) => cache.get(path).copied().ok_or_else(|| ErrorKind::NotFound.into()),
            _ => Err(ErrorKind::NotFound.into()),
        }
    }

    fn place(&mut self, path: &str) -> Result<(NodeId, String), Error> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.directory(directory)?, name.to_owned()))
    }

    fn find(&mut self, path: &str) -> Result<NodeId, Error> {
        let (directory, name) = self.place(path)?;
        match &self.nodes[&directory] {
            Node::Directory { cache, .. } => cache.get(&name).copied().ok_or_else(|| ErrorKind::NotFound.into()),
            Node::File { .. } => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// One step of a directory's log: a name goes, a name comes, or both at once.
    fn rename(&mut self, remove: Option<&str>, put: Option<(&str, NodeId)>) -> Result<(), Error> {
        let (directory, _) = self.place(remove.or(put.map(|(path, _)| path)).unwrap_or_default())?;
        let name = |path: &str| path.rsplit_once('/').map_or(path, |(_, name)| name).to_owned();
        let call = NameCall { remove: remove.map(name), put: put.map(|(path, node)| (name(path), node)) };
        if let Some(Node::Directory { cache, pending, .. }) = self.nodes.get_mut(&directory) {
            if call.remove.as_ref().is_some_and(|name| !cache.contains_key(name)) {
                return Err(ErrorKind::NotFound.into());
            }
            call.make(cache);
            pending.push(call);
        }
        Ok(())
    }

    fn new_node(&mut self, node: Node) -> NodeId {
        self.next += 1;
        self.nodes.insert(self.next, node);
        self.next
    }

    fn used(&self) -> usize {
        let named = self.named();
        let bytes = |node: &Node| if let Node::File { cache, .. } = node { cache.len() } else { 0 };
        self.nodes.iter().filter(|(id, _)| named.contains(id)).map(|(_, node)| bytes(node)).sum()
    }

    /// Everything that has a name, or had one that a power loss would bring back.
    fn named(&self) -> BTreeSet<NodeId> {
        let (mut named, mut open) = (BTreeSet::new(), vec![0]);
        while let Some(id) = open.pop() {
            if !named.insert(id) {
                continue;
            }
            if let Some(Node::Directory { device, pending, cache }) = self.nodes.get(&id) {
                open.extend(device.values().chain(cache.values()));
                open.extend(pending.iter().filter_map(|call| call.put.as_ref().map(|(_, node)| node)));
            }
        }
        named
    }

    /// Forgets what has no name any more; nobody has it open.
    fn tidy(&mut self) {
        let named = self.named();
        self.nodes.retain(|id, _| named.contains(id));
    }

    fn file(&mut self, id: NodeId) -> (&mut Vec<u8>, &mut Vec<FileCall>, &mut Vec<u8>) {
        match self.nodes.get_mut(&id) {
            Some(Node::File { device, pending, cache }) => (device, pending, cache),
            _ => unreachable!("a file's node is a file"),
        }
    }

    fn append(&mut self, id: NodeId, bytes: &[u8]) {
        let (_, pending, cache) = self.file(id);
        pending.push(FileCall::Write { at: cache.len(), bytes: bytes.to_vec() });
        cache.extend_from_slice(bytes);
    }
}

fn apply(content: &mut Vec<u8>, call: &FileCall) {
    match call {
        FileCall::Write { at, bytes } => {
            content.resize(content.len().max(at + bytes.len()), 0);
            content[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        FileCall::Truncate(length) => content.truncate(*length),
    }
}

impl NameCall {
    fn make(&self, names: &mut BTreeMap<String, NodeId>) {
        if let Some(name) = &self.remove {
            names.remove(name);
        }
        if let Some((name, node)) = &self.put {
            names.insert(name.clone(), *node);
        }
    }
}

impl MemoryDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A disk that does not keep the names of its calls.
    pub fn nameless() -> Self {
        let disk = Self::default();
        disk.state().nameless = true;
        disk
    }

    /// How many calls have failed for another reason than the process's death.
    pub fn errors(&self) -> u64 {
        self.state().errors
    }

    /// No fault is planned any more.
    pub fn plan_nothing(&self) {
        self.state().plan.clear();
    }

    /// Bytes of the files that have a name.
    pub fn used(&self) -> usize {
        self.state().used()
    }

    /// How many calls have changed or synced something so far.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// What the n-th call was, from 1.
    pub fn call_name(&self, number: u64) -> String {
        self.state().names.get(number as usize - 1).cloned().unwrap_or_default()
    }

    /// Lets the n-th call from now on have this fault, from 1.
    pub fn fail(&self, after: u64, fault: Fault) {
        let mut state = self.state();
        let at = state.calls + after;
        state.plan.insert(at, fault);
    }

    /// No more bytes than these fit.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.state().capacity = bytes;
    }

    /// True once a planned death has come.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// The process is gone, and the machine too unless only the process was lost; what is left can be used again.
    pub fn crash(&self, loss: Loss, seed: u64) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut state = self.state();
        state.dead = false;
        state.plan.clear();
        if loss == Loss::Process {
            return state.tidy();
        }
        for node in state.nodes.values_mut() {
            match node {
                Node::File { device, pending, cache } => {
                    lose_writes(device, pending, loss, &mut random);
                    pending.clear();
                    cache.clone_from(device);
                }
                Node::Directory { device, pending, cache } => {
                    // A directory's own log keeps the order of its changes.
                    let kept = match loss {
                        Loss::Everything => 0,
                        _ => random.random_range(0..=pending.len()),
                    };
                    pending[..kept].iter().for_each(|call| call.make(device));
                    pending.clear();
                    cache.clone_from(device);
                }
            }
        }
        state.tidy();
    }

    /// A copy as of now, a disk of its own: an image.
    pub fn image(&self) -> Self {
        let state = self.state();
        let named = state.named();
        let kept = state.nodes.iter().filter(|(id, _)| named.contains(id));
        let nodes = kept.map(|(id, node)| (*id, node.clone())).collect();
        Self(Arc::new(Mutex::new(State { nodes, next: state.next, nameless: true, ..State::default() })))
    }

    /// Flips a bit of a file, on the device and in the cache.
    pub fn flip(&self, path: &str, byte: usize, bit: u8) {
        let mut state = self.state();
        let Ok(node) = state.find(path) else { return };
        let (device, _, cache) = state.file(node);
        for content in [device, cache] {
            if let Some(byte) = content.get_mut(byte) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// The paths of all files, sorted.
    pub fn files(&self) -> Vec<String> {
        let names = |directory: &str| self.list(directory).unwrap_or_default();
        let mut files = Vec::new();
        for name in names("") {
            let within = names(&name);
            if within.is_empty() && self.content(&name).is_some() {
                files.push(name);
            } else {
                files.extend(within.into_iter().map(|file| format!("{name}/{file}")));
            }
        }
        files
    }

    /// The content of a file, as the process sees it.
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let mut state = self.state();
        let node = state.find(path).ok()?;
        match &state.nodes[&node] {
            Node::File { cache, .. } => Some(cache.clone()),
            Node::Directory { .. } => None,
        }
    }

    fn change<T>(
        &self,
        doing: &'static str,
        path: &str,
        work: impl FnOnce(&mut State) -> Result<T, Error>,
    ) -> Result<T, DiskError> {
        let mut state = self.state();
        let result = match state.call(|| format!("{doing} {path}")) {
            Verdict::Nothing(error) | Verdict::Part(error) => Err(error),
            Verdict::Last => work(&mut state).and_then(|_| Err(dead())),
            Verdict::Whole => work(&mut state),
        };
        result.map_err(|error| DiskError::new(doing, path, &error))
    }
}

fn lose_writes(device: &mut Vec<u8>, pending: &[FileCall], loss: Loss, random: &mut ChaCha8Rng) {
    let prefix = random.random_range(0..=pending.len());
    for (number, call) in pending.iter().enumerate() {
        match loss {
            Loss::Process => apply(device, call),
            Loss::Everything => {}
            Loss::Suffix if number < prefix => apply(device, call),
            Loss::Suffix => {
                // The one at the edge is torn.
                if let FileCall::Write { at, bytes } = call {
                    let kept = random.random_range(0..=bytes.len());
                    apply(device, &FileCall::Write { at: *at, bytes: bytes[..kept].to_vec() });
                }
                return;
            }
            Loss::Subset => match call {
                FileCall::Truncate(_) => {
                    if random.random_bool(0.5) {
                        apply(device, call);
                    }
                }
                FileCall::Write { at, bytes } => {
                    let whole = random.random_bool(0.3);
                    for (sector, piece) in bytes.chunks(SECTOR).enumerate() {
                        if whole || random.random_bool(0.5) {
                            let at = at + sector * SECTOR;
                            apply(device, &FileCall::Write { at, bytes: piece.to_vec() });
                        }
                    }
                }
            },
        }
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    fn list(&self, directory: &str) -> Result<Vec<String>, DiskError> {
        let mut state = self.state();
        let listed = state.directory(directory).map(|node| match &state.nodes[&node] {
            Node::Directory { cache, .. } => cache.keys().cloned().collect(),
            Node::File { .. } => Vec::new(),
        });
        listed.map_err(|error| DiskError::new("list", directory, &error))
    }

    fn make_directory(&self, path: &str) -> Result<(), DiskError> {
        self.change("make directory", path, |state| {
            if state.find(path).is_ok() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            let (device, pending, cache) = Default::default();
            let node = state.new_node(Node::Directory { device, pending, cache });
            state.rename(None, Some((path, node)))
        })
    }

    fn create(&self, path: &str) -> Result<MemoryFile, DiskError> {
        self.change("create", path, |state| {
            let (device, pending, cache) = Default::default();
            let node = state.new_node(Node::File { device, pending, cache });
            state.rename(None, Some((path, node)))?;
            Ok(MemoryFile { node, path: path.to_owned() })
        })
    }

    fn open(&self, path: &str) -> Result<MemoryFile, DiskError> {
        let found = self.state().find(path).map(|node| MemoryFile { node, path: path.to_owned() });
        found.map_err(|error| DiskError::new("open", path, &error))
    }

    fn length(&self, file: &MemoryFile) -> Result<u64, DiskError> {
        Ok(self.state().file(file.node).2.len() as u64)
    }

    fn read(&self, file: &MemoryFile, at: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let mut state = self.state();
        let content = state.file(file.node).2;
        let rest = content.get(at as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn append(&self, file: &mut MemoryFile, parts: &[&[u8]]) -> Result<(), DiskError> {
        let bytes = parts.concat();
        let mut state = self.state();
        let full = state.capacity.is_some_and(|capacity| state.used() + bytes.len() > capacity);
        let result = match state.call(|| format!("append to {}", file.path)) {
            Verdict::Nothing(error) => Err(error),
            Verdict::Part(error) => {
                state.append(file.node, &bytes[..bytes.len() / 2]);
                Err(error)
            }
            _ if full => {
                state.errors += 1;
                state.append(file.node, &bytes[..bytes.len() / 2]);
                Err(ErrorKind::StorageFull.into())
            }
            Verdict::Last => {
                state.append(file.node, &bytes);
                Err(dead())
            }
            Verdict::Whole => {
                state.append(file.node, &bytes);
                Ok(())
            }
        };
        result.map_err(|error| DiskError::new("append to", &file.path, &error))
    }

    fn truncate(&self, file: &mut MemoryFile, length: u64) -> Result<(), DiskError> {
        let node = file.node;
        self.change("truncate", &file.path, |state| {
            let (_, pending, cache) = state.file(node);
            pending.push(FileCall::Truncate(length as usize));
            cache.truncate(length as usize);
            Ok(())
        })
    }

    fn reserve(&self, file: &MemoryFile, bytes: u64) -> Result<(), DiskError> {
        let _ = bytes;
        self.change("reserve room for", &file.path, |_| Ok(()))
    }

    fn sync(&self, file: &MemoryFile) -> Result<(), DiskError> {
        let mut state = self.state();
        let verdict = state.call(|| format!("sync {}", file.path));
        let (device, pending, _) = state.file(file.node);
        let result = match verdict {
            Verdict::Whole | Verdict::Last => {
                pending.iter().for_each(|call| apply(device, call));
                pending.clear();
                if matches!(verdict, Verdict::Last) { Err(dead()) } else { Ok(()) }
            }
            Verdict::Part(error) => {
                if state.dead {
                    // Some of it got there.
                    let (device, pending, _) = state.file(file.node);
                    let some = pending.len() / 2;
                    pending.drain(..some).for_each(|call| apply(device, &call));
                } else {
                    // The kernel marks the pages clean: nobody will write them any more. The file has its length all
                    // the same, or not.
                    let hole = state.calls.is_multiple_of(2);
                    let (device, pending, cache) = state.file(file.node);
                    pending.clear();
                    device.resize(if hole { cache.len().max(device.len()) } else { device.len() }, 0);
                }
                Err(error)
            }
            Verdict::Nothing(error) => Err(error),
        };
        result.map_err(|error| DiskError::new("sync", &file.path, &error))
    }

    fn uncache(&self, file: &MemoryFile) -> Result<(), DiskError> {
        let mut state = self.state();
        let (device, pending, cache) = state.file(file.node);
        if pending.is_empty() {
            cache.clone_from(device);
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.change("rename", from, |state| {
            let node = state.find(from)?;
            state.rename(Some(from), Some((to, node)))
        })
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.change("remove", path, |state| state.rename(Some(path), None))
    }

    fn remove_directory(&self, path: &str) -> Result<(), DiskError> {
        self.change("remove directory", path, |state| state.rename(Some(path), None))
    }

    fn sync_directory(&self, path: &str) -> Result<(), DiskError> {
        self.change("sync directory", path, |state| {
            let id = state.directory(path)?;
            if let Some(Node::Directory { device, pending, .. }) = state.nodes.get_mut(&id) {
                pending.iter().for_each(|call| call.make(device));
                pending.clear();
            }
            Ok(())
        })
    }
}

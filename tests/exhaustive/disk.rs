//! What one replica's disk holds, and what it is still asked for.

use std::collections::VecDeque;

use bytes::Bytes;
use cutover::machine::Snapshot;
use cutover::protocol::entry::Block;
use cutover::replica::{Claim, Output, Restored};
use cutover_arbiter::record::{Index, Position};

use super::tiny::Tiny;

#[derive(Debug, Clone, Default, Hash)]
pub struct Disk {
    claim: Option<Claim>,
    blocks: Vec<Block>,
    snapshot: Option<(Bytes, Vec<u8>)>,
    beside: Option<(Bytes, Vec<u8>)>,
    commit: Index,
    waiting: VecDeque<(u64, Work)>,
}

#[derive(Debug, Clone, Hash)]
enum Work {
    Entries { cut: Option<Position>, blocks: Vec<Block>, commit: Index },
    Claim { claim: Claim, anew: bool },
    Install(Position),
}

impl Disk {
    /// A process has begun and says what it is.
    pub fn begins(&mut self, claim: Claim) {
        self.claim = Some(claim);
    }

    /// A process is gone, and with it all that was only asked for.
    pub fn crash(&mut self) {
        self.waiting.clear();
        self.beside = None;
    }

    /// Takes what is for the disk; gives back everything else.
    pub fn asked(&mut self, output: Output<Tiny>) -> Option<Output<Tiny>> {
        let (sequence, work) = match output {
            Output::Persist { sequence, cut, blocks, commit } => (sequence, Work::Entries { cut, blocks, commit }),
            Output::Claim { sequence, claim, anew } => (sequence, Work::Claim { claim, anew }),
            Output::InstallSnapshot { sequence, position, .. } => (sequence, Work::Install(position)),
            other => return Some(other),
        };
        self.waiting.push_back((sequence, work));
        None
    }

    /// A snapshot is written beside, at once.
    pub fn beside(&mut self, core: Bytes, mut snapshot: impl Snapshot) {
        self.beside = Some((core, snapshot.next_chunk(0).unwrap_or_default()));
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Does the next thing it was asked for.
    pub fn work(&mut self) -> Option<u64> {
        let (sequence, work) = self.waiting.pop_front()?;
        match work {
            Work::Entries { cut, blocks, commit } => {
                if let Some(cut) = cut {
                    let kept = self.blocks.iter().filter_map(|block| block.upto(cut.index)).collect();
                    self.blocks = kept;
                }
                self.blocks.extend(blocks);
                self.commit = self.commit.max(commit);
            }
            Work::Claim { claim, anew } => {
                self.claim = Some(claim);
                if anew {
                    (self.blocks, self.snapshot, self.commit) = (Vec::new(), None, 0);
                }
            }
            Work::Install(position) => {
                self.snapshot = self.beside.take();
                let rest = self.blocks.iter().filter_map(|block| block.from(position.index + 1)).collect();
                self.blocks = rest;
                self.commit = self.commit.max(position.index);
            }
        }
        Some(sequence)
    }

    /// Up to where entries are durable, as far as this disk was asked for them.
    pub fn durable(&self) -> Index {
        let first = |work: &Work| match work {
            Work::Entries { blocks, .. } => blocks.first().map(|block| block.first - 1),
            _ => None,
        };
        self.waiting.iter().filter_map(|(_, work)| first(work)).min().unwrap_or(Index::MAX)
    }

    /// What a restart finds.
    pub fn restored(&self) -> Option<Restored<Tiny>> {
        let snapshot = self.snapshot.clone().map(|(core, list)| (core, Tiny { list }));
        let (blocks, commit) = (self.blocks.clone(), self.commit);
        Some(Restored { claim: self.claim?, lost: None, snapshot, blocks, commit })
    }
}

//! The follower: appends and what is answered to them.

use super::core::State;
use super::message::AppendOutcome;
use super::{Append, Message, NodeId, Raft, Role};

impl Raft {
    /// A message of this term's leader came from `from`. False when this arbiter leads that term itself: nobody else
    /// does, so whoever says so is broken and is not listened to.
    pub(super) fn follow(&mut self, from: NodeId) -> bool {
        if self.role() == Role::Leader || self.leader().is_some_and(|leader| leader != from) {
            return false;
        }
        if let State::Follower { leader: Some(heard) } = &mut self.state {
            heard.at = self.now;
            self.restart_election_timer();
        } else {
            self.become_follower(self.hard.term, Some(from));
        }
        true
    }

    /// Raft figure 2, AppendEntries, receiver.
    pub(super) fn on_append(&mut self, from: NodeId, append: Append) {
        if !self.follow(from) {
            return;
        }
        let Append { prev_index, prev_term, entries, commit, round, .. } = append;
        let term = self.hard.term;
        // What is committed equals the leader's log; of what is compacted the terms are gone, but it was committed.
        let meets = match self.log.term_at(prev_index) {
            Some(own) => own == prev_term,
            None => prev_index < self.log.first_index(),
        };
        if !meets {
            let hint = self.log.last_not_above(prev_index, prev_term);
            let outcome =
                AppendOutcome::Conflict { rejected: prev_index, hint_index: hint.index, hint_term: hint.term };
            self.send(from, Message::AppendReply { term, outcome, round });
            return;
        }
        let verified = prev_index + entries.len() as u64;
        let is_heartbeat = entries.is_empty();
        // What lies below the base cannot be compared any more; the base itself can, and must be equal.
        let first = self.log.first_index();
        for entry in entries.into_iter().skip_while(|entry| entry.index + 1 < first) {
            match self.log.term_at(entry.index) {
                Some(own) if own == entry.term && !planted!("R-f") => continue,
                // No leader replaces what is committed; one that would is not obeyed.
                Some(_) if entry.index <= self.commit => return,
                Some(_) => self.log.truncate(entry.index),
                None => {}
            }
            self.log.push(entry);
        }
        self.commit = self.commit.max(commit.min(verified));
        if is_heartbeat && verified > self.log.stable() {
            // The leader learns at once that it is heard, however slow the disk is.
            let outcome = AppendOutcome::Accepted { matched: self.log.stable() };
            self.send(from, Message::AppendReply { term, outcome, round });
        }
        let verified = if planted!("R-f-ack") { self.log.last().index } else { verified };
        let outcome = AppendOutcome::Accepted { matched: verified };
        self.send_promising(verified, from, Message::AppendReply { term, outcome, round });
    }
}

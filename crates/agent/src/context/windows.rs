//! The recent messages of chats, kept in memory: reading a hundred rows for every turn would cost more than all the rest of it.
//!
//! A running turn takes its chat's window out and puts it back, grown, after its end is committed; whatever goes wrong in
//! between leaves none, and the next turn reads the database.

use crate::model::Message;
use crate::store::{StoredMessage, Summary};
use std::collections::HashMap;

/// Bytes of all windows together.
const MAX_BYTES: usize = 2 * 1024 * 1024;
/// A message's own share of memory besides its text.
const OVERHEAD: usize = 96;

/// A message of the history.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Its id, or 0 where it has been added since the window was read.
    pub id: i64,
    /// The message.
    pub message: Message,
    /// A person began a turn with it.
    pub begins_turn: bool,
}

/// What the model is shown of the turns before the running one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Window {
    /// What stands for everything before.
    pub summary: Option<Summary>,
    /// Whole turns, oldest first; of a turn beyond all bounds only what was said.
    pub messages: Vec<Kept>,
    /// There are messages before these that no summary stands for.
    pub left_out: bool,
}

impl Window {
    fn bytes(&self) -> usize {
        let messages: usize = self.messages.iter().map(|kept| kept.message.bytes() + OVERHEAD).sum();
        messages + self.summary.as_ref().map_or(0, |summary| summary.content.len()) + OVERHEAD
    }
}

/// Stored messages, with where turns begin.
pub fn with_turns(rows: Vec<StoredMessage>) -> Vec<Kept> {
    let mut turn = None;
    rows.into_iter()
        .map(|row| {
            // Turn 0 is what was said before turns were written down: a question and an answer each.
            let begins_turn = row.message.is_from_user() && (row.turn == 0 || turn != Some(row.turn));
            turn = Some(row.turn);
            Kept { id: row.id, begins_turn, message: row.into_message(&HashMap::new(), false) }
        })
        .collect()
}

/// Stored messages as they are shown: what comes before the first turn's beginning is left out, since it is only a part.
pub fn whole_turns(mut rows: Vec<StoredMessage>) -> Vec<Kept> {
    lead_in(&mut rows);
    with_turns(rows).into_iter().skip_while(|kept| !kept.begins_turn).collect()
}

/// Id of the first message that is stored.
pub fn first_id(messages: &[Kept]) -> Option<i64> {
    messages.iter().map(|kept| kept.id).find(|id| *id != 0)
}

/// Keeps what was said unasked before the person said anything: models want the user to begin, so somebody has to.
fn lead_in(rows: &mut Vec<StoredMessage>) {
    let first = rows.iter().position(|stored| stored.message.is_from_user()).unwrap_or(rows.len());
    let is_unasked = |stored: &StoredMessage| {
        stored.turn == 0 && matches!(&stored.message, Message::Assistant { calls, .. } if calls.is_empty())
    };
    if let Some(at) = rows.iter().take(first).position(is_unasked) {
        let text = "[The agent: nobody has written; what follows was said unasked.]".to_owned();
        let begin = StoredMessage { id: 0, turn: 0, message: Message::user(text), attachments: Vec::new() };
        rows.splice(..at, [begin]);
    }
}

/// The windows of the chats that spoke last.
#[derive(Default)]
pub struct Windows {
    chats: HashMap<String, Entry>,
    bytes: usize,
    clock: u64,
    /// Counts deletions: what was taken out before one is not put back after it.
    generation: u64,
}

struct Entry {
    window: Window,
    bytes: usize,
    used: u64,
}

impl Windows {
    /// The window of a chat, which is then the caller's, and the generation for [`Windows::put`].
    pub fn take(&mut self, chat_id: &str) -> (Option<Window>, u64) {
        (self.remove(chat_id), self.generation)
    }

    /// Keeps a window, unless a chat was deleted since it was taken out.
    pub fn put(&mut self, chat_id: String, window: Window, generation: u64) {
        let bytes = window.bytes() + chat_id.len();
        if generation != self.generation || bytes > MAX_BYTES / 4 {
            return;
        }
        self.remove(&chat_id);
        while self.bytes + bytes > MAX_BYTES {
            // Linear, but over a few hundred entries and only when memory is full.
            let Some(oldest) = self.chats.iter().min_by_key(|(_, entry)| entry.used).map(|(id, _)| id.clone()) else {
                break;
            };
            self.remove(&oldest);
        }
        self.clock += 1;
        self.bytes += bytes;
        self.chats.insert(chat_id, Entry { window, bytes, used: self.clock });
    }

    /// The chat was deleted.
    pub fn forget(&mut self, chat_id: &str) {
        self.generation += 1;
        self.remove(chat_id);
    }

    fn remove(&mut self, chat_id: &str) -> Option<Window> {
        let entry = self.chats.remove(chat_id)?;
        self.bytes -= entry.bytes;
        Some(entry.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(bytes: usize) -> Window {
        let message = Message::user("x".repeat(bytes));
        Window { messages: vec![Kept { id: 1, message, begins_turn: true }], ..Window::default() }
    }

    #[test]
    fn what_was_said_unasked_at_first_is_kept_behind_a_beginning() {
        let stored = |turn: i64, message: Message| StoredMessage { id: 0, turn, message, attachments: Vec::new() };
        let note = stored(0, Message::assistant("rain".into()));
        let user = stored(2, Message::user("hi".into()));
        let lost = stored(1, Message::assistant("lost".into()));
        let mut history = vec![lost.clone(), note.clone(), user.clone()];
        lead_in(&mut history);
        assert!(history[0].message.is_from_user());
        assert_eq!(history[1..], [note, user.clone()]);
        let mut plain = vec![lost.clone(), user.clone()];
        lead_in(&mut plain);
        assert_eq!(plain, [lost, user]);
    }

    #[test]
    fn a_window_is_taken_out_once_and_put_back() {
        let mut windows = Windows::default();
        windows.put("1".into(), window(10), 0);
        assert_eq!(windows.take("1"), (Some(window(10)), 0));
        assert_eq!(windows.take("1"), (None, 0));
    }

    #[test]
    fn what_was_taken_before_a_deletion_does_not_come_back() {
        let mut windows = Windows::default();
        let (_, generation) = windows.take("1");
        windows.forget("1");
        windows.put("1".into(), window(10), generation);
        assert_eq!(windows.take("1").0, None);
    }

    #[test]
    fn memory_is_bounded_and_the_longest_silent_chat_goes_first() {
        let mut windows = Windows::default();
        for n in 0..100 {
            windows.put(n.to_string(), window(MAX_BYTES / 10), 0);
            assert!(windows.bytes <= MAX_BYTES);
        }
        assert!(windows.take("99").0.is_some() && windows.take("50").0.is_none());
        windows.put("big".into(), window(MAX_BYTES), 0);
        assert_eq!(windows.take("big").0, None);
    }
}

//! Every message of a campaign and what its sender was told of it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chat_core::{
    Code,
    conversation::TurnState,
    ids::{ClientMessageId, TurnId},
};
use tokio::{sync::Notify, time::Instant};

/// One message of one client.
#[derive(Debug)]
pub struct Entry {
    /// Which conversation.
    pub conversation: usize,
    /// The client's own id, the same each time it is sent.
    pub key: ClientMessageId,
    /// What it says; no other message says the same.
    pub text: String,
    life: Mutex<Life>,
}

/// What its sender knows of it.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// When it was first sent.
    pub sent: Instant,
    /// How often it was sent.
    pub tries: usize,
    /// When it was accepted, and as which turn.
    pub accepted: Option<(Instant, TurnId)>,
    /// When its sender saw the end, and which.
    pub end: Option<(Instant, End)>,
}

/// How a message came out for its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its turn ended so.
    Turn(TurnState),
    /// The conversation was reset while it was open.
    Reset,
}

/// All messages.
#[derive(Default)]
pub struct Ledger {
    entries: Mutex<Vec<Arc<Entry>>>,
    turns: Mutex<HashMap<TurnId, Arc<Entry>>>,
    changed: Notify,
    errors: Mutex<HashMap<Code, usize>>,
    foreign: AtomicUsize,
}

/// What every message of a campaign begins with; replies repeat it.
pub const MARK: &str = "msg[";

/// The mark of a message: its conversation, and its number there.
#[must_use]
pub fn mark(conversation: usize, number: usize) -> String {
    format!("{MARK}c{conversation}.{number}]")
}

/// The conversations that are spoken of in a text.
pub fn marks(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(MARK).filter_map(|(at, _)| text[at + MARK.len()..].split_once(']').map(|(mark, _)| mark))
}

impl Ledger {
    /// A new message, not sent yet.
    pub fn add(&self, conversation: usize, number: usize) -> Arc<Entry> {
        let life = Life { sent: Instant::now(), tries: 0, accepted: None, end: None };
        let entry = Arc::new(Entry {
            conversation,
            key: ClientMessageId::new(),
            text: format!("{} How are you?", mark(conversation, number)),
            life: Mutex::new(life),
        });
        lock(&self.entries).push(Arc::clone(&entry));
        entry
    }

    /// It is sent, once more.
    pub fn tried(&self, entry: &Entry) {
        lock(&entry.life).tries += 1;
    }

    /// It was accepted.
    pub fn accepted(&self, entry: &Arc<Entry>, turn: TurnId) {
        lock(&entry.life).accepted.get_or_insert((Instant::now(), turn));
        lock(&self.turns).insert(turn, Arc::clone(entry));
    }

    /// Its sender saw the end; the first that was seen stays, but a reply may be said to be all there will be.
    pub fn ended(&self, entry: &Entry, end: End) {
        let mut life = lock(&entry.life);
        let (_, seen) = life.end.get_or_insert((Instant::now(), end));
        if (*seen, end) == (End::Turn(TurnState::Answered), End::Turn(TurnState::Stopped)) {
            *seen = end;
        }
        drop(life);
        self.changed.notify_waiters();
    }

    /// The message of a turn that was accepted.
    #[must_use]
    pub fn of(&self, turn: TurnId) -> Option<Arc<Entry>> {
        lock(&self.turns).get(&turn).cloned()
    }

    /// A typed error was shown.
    pub fn error(&self, code: Code) {
        *lock(&self.errors).entry(code).or_default() += 1;
    }

    /// The typed errors that were shown, and how often.
    #[must_use]
    pub fn errors(&self) -> Vec<(Code, usize)> {
        let mut errors: Vec<_> = lock(&self.errors).iter().map(|(code, count)| (*code, *count)).collect();
        errors.sort_by_key(|(code, _)| code.as_str());
        errors
    }

    /// Somebody was shown somebody else's words.
    pub fn foreign(&self) {
        self.foreign.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was.
    #[must_use]
    pub fn foreigns(&self) -> usize {
        self.foreign.load(Ordering::Relaxed)
    }

    /// All messages.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Entry>> {
        lock(&self.entries).clone()
    }

    /// The messages that were sent and have not come to an end.
    #[must_use]
    pub fn open(&self) -> Vec<Arc<Entry>> {
        lock(&self.entries)
            .iter()
            .filter(|entry| entry.life().tries > 0 && entry.life().end.is_none())
            .cloned()
            .collect()
    }

    /// Waits until each of these has come to its end; returns how many have not in time.
    pub async fn all_ended(&self, entries: &[Arc<Entry>], patience: Duration) -> usize {
        let open = || entries.iter().filter(|entry| entry.life().end.is_none()).count();
        let waits = async {
            loop {
                let changed = self.changed.notified();
                if open() == 0 {
                    return;
                }
                changed.await;
            }
        };
        // The count below says how it went.
        let _ = tokio::time::timeout(patience, waits).await;
        open()
    }
}

impl Entry {
    /// What its sender knows of it by now.
    #[must_use]
    pub fn life(&self) -> Life {
        *lock(&self.life)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_tells_of_whom_it_speaks() {
        let said = format!("{} and {}", mark(3, 7), mark(12, 1));
        assert_eq!(marks(&said).collect::<Vec<_>>(), ["c3.7", "c12.1"]);
        assert_eq!(marks("nobody msg[").count(), 0);
    }
}

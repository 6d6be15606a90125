//! The log of the calls: what was asked, when, and how it went. Bounded, however many there are.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Calls that the log keeps at most; older ones make room.
const MAX_CALLS: usize = 100_000;

/// Characters of a message that the log keeps.
const MAX_LOGGED_CHARS: usize = 200;

/// A call, as the log keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The message to answer: its first 200 characters.
    pub message: String,
    /// How often exactly this message had come, from 1.
    pub nth: usize,
    /// When the call came, after the start of the provider.
    pub began: Duration,
    /// How it went.
    pub outcome: Outcome,
}

/// How a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is being answered.
    Answering,
    /// It hangs, and the caller waits.
    Hung,
    /// All was sent that the script wanted to be sent, good or bad, and the body was ended.
    Answered,
    /// It was refused with this HTTP status.
    Refused(u16),
    /// Its connection was closed in the middle.
    Cut,
    /// The caller left before the end.
    GivenUp,
}

/// The log. Cheap to clone.
#[derive(Clone)]
pub(super) struct Log {
    began: Instant,
    entries: Arc<Mutex<Entries>>,
}

#[derive(Default)]
struct Entries {
    calls: VecDeque<Call>,
    /// Calls that have made room.
    forgotten: usize,
    /// How often each message came, by its hash.
    counts: HashMap<u64, usize>,
}

impl Default for Log {
    fn default() -> Self {
        Self { began: Instant::now(), entries: Arc::default() }
    }
}

impl Log {
    /// Every call it has.
    pub(super) fn calls(&self) -> Vec<Call> {
        self.entries().calls.iter().cloned().collect()
    }

    /// Writes down that a call came with this message; says how often it has.
    pub(super) fn begin(&self, message: &str) -> (Open, usize) {
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        let began = self.began.elapsed();
        let mut entries = self.entries();
        let count = entries.counts.entry(hasher.finish()).or_default();
        *count += 1;
        let nth = *count;
        if entries.calls.len() == MAX_CALLS {
            entries.calls.pop_front();
            entries.forgotten += 1;
        }
        let message = message.chars().take(MAX_LOGGED_CHARS).collect();
        entries.calls.push_back(Call { message, nth, began, outcome: Outcome::Answering });
        let number = entries.forgotten + entries.calls.len() - 1;
        (Open { log: self.clone(), number, ends_as: Outcome::GivenUp }, nth)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call under way. Dropped without an end, it was given up by the caller: the server drops what it works on then.
pub(super) struct Open {
    log: Log,
    number: usize,
    ends_as: Outcome,
}

impl Open {
    /// The call stays open, like this.
    pub(super) fn stays(&self, outcome: Outcome) {
        let mut entries = self.log.entries();
        // A call that has made room is nobody's concern any more.
        let place = self.number.checked_sub(entries.forgotten);
        if let Some(call) = place.and_then(|place| entries.calls.get_mut(place)) {
            call.outcome = outcome;
        }
    }

    /// However it is dropped from here on, it ended like this.
    pub(super) fn ends_as(&mut self, outcome: Outcome) {
        self.ends_as = outcome;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.stays(self.ends_as);
    }
}

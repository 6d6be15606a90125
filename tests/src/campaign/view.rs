//! What a client shows of its conversation, fed frame by frame: the judge of order, holes and repeats.
//!
//! A view is what the contract asks of a client and no more: it merges by `seq`, comes back with the last one it has
//! seen, and reads again when it is told of a reset. What it cannot explain is a flaw.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use chat_core::{
    conversation::TurnState,
    ids::{MessageId, TurnId},
};

/// What no client may ever see. Each is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flaws {
    /// The same news twice on one way to the newest, or two different ends of one turn.
    pub duplicated: usize,
    /// An older message after a newer one.
    pub reordered: usize,
    /// A number passed over that no reset has taken.
    pub holes: usize,
}

/// A client's picture of its conversation.
#[derive(Debug, Default)]
pub struct View {
    /// The newest `seq` that this client knows of; it comes back with this.
    last_seq: i64,
    epoch: i32,
    /// What is shown, by `seq`.
    shown: BTreeMap<i64, MessageId>,
    /// What the socket itself brought since the last reset.
    heard: BTreeSet<i64>,
    /// Where the socket is.
    position: i64,
    /// The next message may leave numbers out: a reset took them.
    may_jump: bool,
    /// It was let in at least once.
    came: bool,
    /// The replies that are being written, as far as this socket was told.
    drafts: HashMap<TurnId, String>,
    /// How turns ended, as this client was told.
    ends: HashMap<TurnId, (TurnState, Option<MessageId>)>,
    /// What it should not have seen.
    pub flaws: Flaws,
    /// What happened last, oldest first: to understand a flaw.
    recent: VecDeque<String>,
    /// What had happened last at each flaw.
    pub stories: Vec<String>,
}

/// Events that are kept to understand a flaw.
const RECENT: usize = 24;

impl View {
    /// What to come back with; nothing on the first visit.
    #[must_use]
    pub fn seen(&self) -> Option<(i64, i32)> {
        self.came.then_some((self.last_seq, self.epoch))
    }

    /// The epoch that it knows of.
    #[must_use]
    pub fn epoch(&self) -> i32 {
        self.epoch
    }

    /// The socket is let in again, and sends what comes after what was seen.
    pub fn comes_back(&mut self) {
        let (last_seq, epoch) = (self.last_seq, self.epoch);
        self.note(|| format!("comes back with {last_seq} of epoch {epoch}"));
        self.position = self.last_seq;
        self.drafts.clear();
    }

    /// A piece of a reply: from the beginning, or from where the last one ended.
    pub fn delta(&mut self, turn: TurnId, offset: usize, text: &str) {
        let draft = self.drafts.entry(turn).or_default();
        if offset == 0 {
            draft.clear();
        }
        let expected = draft.chars().count();
        draft.push_str(text);
        if offset != expected {
            self.flaws.holes += 1;
            self.tell(&format!("a delta at {offset} where {expected} comes next"));
        }
    }

    /// A whole reply: it begins with what was told of it.
    pub fn whole(&mut self, turn: TurnId, text: &str) {
        if self.drafts.remove(&turn).is_some_and(|draft| !text.starts_with(&draft)) {
            self.flaws.holes += 1;
            self.tell("a reply that is not what was told of it");
        }
    }

    /// The socket is ready. Returns whether to read everything again.
    pub fn ready(&mut self, last_seq: i64, epoch: i32, resumed: bool) -> bool {
        self.note(|| format!("ready at {last_seq}, epoch {epoch}, resumed {resumed}"));
        let first = !self.came;
        self.came = true;
        if resumed {
            return false;
        }
        if !first {
            self.reset(epoch);
        }
        self.epoch = epoch;
        self.last_seq = self.last_seq.max(last_seq);
        self.position = last_seq;
        // Where it is now is told exactly.
        self.may_jump = false;
        last_seq > 0
    }

    /// A message with its place, over the socket.
    pub fn hear(&mut self, seq: i64, id: MessageId) {
        self.note(|| format!("hears {seq}"));
        if self.heard.contains(&seq) {
            self.flaws.duplicated += 1;
            self.tell("heard twice");
        } else if seq <= self.position {
            self.flaws.reordered += 1;
            self.tell("heard late");
        } else if seq > self.position + 1 && !self.may_jump {
            self.flaws.holes += 1;
            self.tell("a number is missing");
        }
        self.may_jump = false;
        self.heard.insert(seq);
        self.position = self.position.max(seq);
        self.show(seq, id);
    }

    /// The answer to a message that was sent again: it may be of long ago. Returns whether to read again: a message that
    /// is not shown may have been taken by a reset.
    pub fn hear_again(&mut self, seq: i64, id: MessageId) -> bool {
        if seq > self.position {
            self.hear(seq, id);
        }
        self.shown.get(&seq) != Some(&id)
    }

    /// Whether a message is shown.
    #[must_use]
    pub fn shows(&self, id: MessageId) -> bool {
        self.shown.values().any(|shown| *shown == id)
    }

    fn show(&mut self, seq: i64, id: MessageId) {
        if self.shown.insert(seq, id).is_some_and(|shown| shown != id) {
            self.flaws.duplicated += 1;
            self.tell("another message in the same place");
        }
        self.last_seq = self.last_seq.max(seq);
    }

    /// The conversation was reset: everything shown goes. The caller reads again.
    pub fn reset(&mut self, epoch: i32) {
        self.note(|| format!("reset to epoch {epoch}"));
        self.epoch = self.epoch.max(epoch);
        self.shown.clear();
        self.heard.clear();
        self.may_jump = true;
    }

    /// What was read again over REST, in the place of what was shown.
    pub fn read(&mut self, rows: impl IntoIterator<Item = (i64, MessageId)>) {
        self.shown.clear();
        for (seq, id) in rows {
            self.note(|| format!("reads {seq}"));
            self.show(seq, id);
        }
    }

    /// A turn ended, or had ended before; with this reply, where it was told.
    pub fn end(&mut self, turn: TurnId, state: TurnState, reply: Option<MessageId>) {
        self.note(|| format!("turn {turn} {state:?}"));
        let (before, answer) = *self.ends.entry(turn).or_insert((state, reply));
        self.ends.insert(turn, (state, reply.or(answer)));
        // A reply that was stopped is shown as any other, and then said to be all there will be.
        let cut_short = before == TurnState::Answered && state == TurnState::Stopped && answer.is_some();
        if (before != state && !cut_short) || reply.zip(answer).is_some_and(|(reply, answer)| reply != answer) {
            self.flaws.duplicated += 1;
            self.tell("a turn with two ends");
        }
    }

    fn note(&mut self, event: impl FnOnce() -> String) {
        self.recent.push_back(event());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    fn tell(&mut self, flaw: &str) {
        self.stories.push(format!("{flaw}: {}", self.recent.iter().cloned().collect::<Vec<_>>().join("; ")));
    }

    /// Says of each difference from the store what it is, with what happened last.
    pub fn tell_differences(&mut self, store: &BTreeMap<i64, MessageId>, epoch: i32) {
        let missing: Vec<_> = store.keys().filter(|seq| !self.shown.contains_key(seq)).collect();
        let extra: Vec<_> = self.shown.keys().filter(|seq| !store.contains_key(seq)).collect();
        self.tell(&format!("the store has epoch {epoch} and {missing:?} besides, and not {extra:?}"));
    }

    /// How a turn ended, as this client was told.
    #[must_use]
    pub fn end_of(&self, turn: TurnId) -> Option<TurnState> {
        self.ends.get(&turn).map(|(state, _)| *state)
    }

    /// Messages that the store has and this client does not show, or the other way round; the store's epoch tells
    /// whether it knows of the last reset.
    #[must_use]
    pub fn differs_from(&self, store: &BTreeMap<i64, MessageId>, epoch: i32) -> usize {
        if epoch != self.epoch && !store.is_empty() {
            return store.len();
        }
        let missing = store.iter().filter(|(seq, id)| self.shown.get(seq) != Some(id)).count();
        missing + self.shown.keys().filter(|seq| !store.contains_key(seq)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shows(seqs: &[i64]) -> (View, BTreeMap<i64, MessageId>) {
        let mut view = View::default();
        assert!(!view.ready(0, 0, false), "an empty conversation is not read");
        let store: BTreeMap<i64, MessageId> = seqs.iter().map(|seq| (*seq, MessageId::new())).collect();
        for seq in seqs {
            view.hear(*seq, store[seq]);
        }
        (view, store)
    }

    #[test]
    fn a_story_in_order_has_no_flaw_and_equals_the_store() {
        let (mut view, mut store) = shows(&[1, 2, 3]);
        assert_eq!(view.seen(), Some((3, 0)));
        view.comes_back();
        assert!(!view.ready(4, 0, true));
        store.insert(4, MessageId::new());
        assert_eq!(view.differs_from(&store, 0), 1, "a hole at the end shows against the store alone");
        view.hear(4, store[&4]);
        assert!(!view.hear_again(2, store[&2]), "it is shown");
        assert!(view.hear_again(3, MessageId::new()), "another one, which a reset may have taken");
        assert_eq!((view.flaws, view.differs_from(&store, 0)), (Flaws::default(), 0));
    }

    #[test]
    fn each_flaw_is_seen() {
        assert_eq!(shows(&[1, 3]).0.flaws, Flaws { holes: 1, ..Flaws::default() });
        assert_eq!(shows(&[1, 3, 2]).0.flaws, Flaws { holes: 1, reordered: 1, ..Flaws::default() });
        let (mut view, store) = shows(&[1, 2]);
        view.hear(2, store[&2]);
        let (turn, reply) = (TurnId::new(), MessageId::new());
        view.end(turn, TurnState::Answered, Some(reply));
        view.end(turn, TurnState::Answered, None);
        view.end(turn, TurnState::Answered, Some(MessageId::new()));
        view.end(turn, TurnState::Failed, None);
        assert_eq!(view.flaws, Flaws { duplicated: 3, ..Flaws::default() });
    }

    #[test]
    fn after_a_reset_numbers_may_be_missing_once_and_everything_is_read_again() {
        let (mut view, _) = shows(&[1, 2]);
        view.reset(1);
        let (id, next) = (MessageId::new(), MessageId::new());
        view.read([(5, id)]);
        view.hear(5, id);
        view.hear(6, next);
        let store = BTreeMap::from([(5, id), (6, next)]);
        assert_eq!((view.flaws, view.differs_from(&store, 1), view.seen()), (Flaws::default(), 0, Some((6, 1))));
        assert_eq!(view.differs_from(&store, 2), 2, "a reset that went unheard");
        // Told on return, after other numbers were used up meanwhile.
        view.comes_back();
        assert!(view.ready(9, 2, false));
        view.hear(10, next);
        assert_eq!(view.flaws, Flaws::default());
    }
}

//! Compares what clients wrote down, what the store holds and what the model was asked, once everything has come to
//! rest.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Result;
use chat_core::{
    conversation::TurnState,
    ids::{ClientMessageId, ConversationId, MessageId, TurnId},
};
use tokio_postgres::Client;

use super::{
    ledger::{End, Entry},
    script::REPLY,
    stack::STUCK_AFTER,
    view::{Flaws, View},
};

/// What must never happen, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Messages that were accepted and whose end is nowhere, or whose user was never told it.
    pub lost: usize,
    /// A message or a reply stored or shown twice; a turn with two ends.
    pub duplicated: usize,
    /// Something older after something newer, in the store or before a user.
    pub reordered: usize,
    /// A number that is missing, in the store or before a user.
    pub holes: usize,
    /// Words of another conversation, before a user, in a prompt or in a reply; or of before a reset, in the store.
    pub foreign: usize,
    /// Messages whose end did not come in time.
    pub stuck: usize,
}

/// What the store holds of all conversations, when everything is over.
pub struct Facts {
    /// By conversation: its epoch, and what it holds of it.
    pub conversations: HashMap<ConversationId, Held>,
    turns: Vec<Turn>,
}

/// A conversation as it is stored.
#[derive(Default)]
pub struct Held {
    epoch: i32,
    last_seq: i64,
    rows: BTreeMap<i64, Row>,
}

/// A message as it is stored.
pub struct Row {
    /// Its id.
    pub id: MessageId,
    epoch: i32,
    content: String,
    reply_to: Option<MessageId>,
}

struct Turn {
    id: TurnId,
    key: Option<ClientMessageId>,
    conversation: ConversationId,
    epoch: i32,
    state: TurnState,
    attempt: i32,
    hints: i32,
}

impl Facts {
    /// Reads everything, as the owner.
    ///
    /// # Errors
    /// What Postgres refuses.
    pub async fn read(owner: &Client) -> Result<Self> {
        let mut conversations = HashMap::new();
        for row in owner.query("select id, epoch, last_seq from web_conversations", &[]).await? {
            let held = Held { epoch: row.get(1), last_seq: row.get(2), rows: BTreeMap::new() };
            conversations.insert(row.get(0), held);
        }
        let messages = "select conversation_id, seq, id, content, reply_to, epoch from web_conversation_messages";
        for row in owner.query(messages, &[]).await? {
            let (conversation, seq): (ConversationId, i64) = (row.get(0), row.get(1));
            let message = Row { id: row.get(2), content: row.get(3), reply_to: row.get(4), epoch: row.get(5) };
            conversations.entry(conversation).or_default().rows.insert(seq, message);
        }
        let turns = "select id, client_message_id, conversation_id, epoch, state, attempt, hints from turns";
        let turns = owner.query(turns, &[]).await?.into_iter().map(|row| {
            let (key, state) = (row.get(1), row.get::<_, &str>(4).parse().map_err(anyhow::Error::msg)?);
            let (attempt, hints) = (row.get(5), row.get(6));
            Ok(Turn { id: row.get(0), key, conversation: row.get(2), epoch: row.get(3), state, attempt, hints })
        });
        Ok(Self { conversations, turns: turns.collect::<Result<_>>()? })
    }

    /// The messages of a conversation, by place, and its epoch.
    #[must_use]
    pub fn of(&self, conversation: &str) -> (i32, BTreeMap<i64, MessageId>) {
        let found = conversation.parse().ok().and_then(|id| self.conversations.get(&id));
        found.map_or_else(Default::default, |held| {
            (held.epoch, held.rows.iter().map(|(seq, row)| (*seq, row.id)).collect())
        })
    }

    /// How many messages a client shows otherwise than the store.
    #[must_use]
    pub fn differences(&self, conversation: &str, view: &View) -> usize {
        let (epoch, rows) = self.of(conversation);
        view.differs_from(&rows, epoch)
    }

    /// The messages that took longest, and how they went.
    #[must_use]
    pub fn slowest(&self, entries: &[std::sync::Arc<Entry>], most: usize) -> Vec<String> {
        let mut lives: Vec<_> =
            entries.iter().filter_map(|entry| Some((entry, entry.life().end?.0 - entry.life().sent))).collect();
        lives.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        let story = |(entry, took): &(&std::sync::Arc<Entry>, std::time::Duration)| {
            let life = entry.life();
            let accepted = life.accepted.map_or(0.0, |(at, _)| (at - life.sent).as_secs_f64());
            let turn = self.turns.iter().find(|turn| turn.key == Some(entry.key));
            let turn = turn.map_or("no turn".to_owned(), |turn| {
                format!("{:?} with attempt {}, hinted {} times", turn.state, turn.attempt, turn.hints)
            });
            let (text, tries, took) = (&entry.text, life.tries, took.as_secs_f64());
            format!("{text} sent {tries} times, accepted after {accepted:.1} s, ended after {took:.1} s: {turn}")
        };
        lives.iter().take(most).map(story).collect()
    }

    /// How many turns came out in this state.
    #[must_use]
    pub fn count(&self, state: TurnState) -> usize {
        self.turns.iter().filter(|turn| turn.state == state).count()
    }

    /// Whether every turn has ended.
    #[must_use]
    pub fn at_rest(&self) -> bool {
        self.turns.iter().all(|turn| turn.state.ended())
    }

    /// Judges every message. Differences between clients and the store come with `flaws`, and how often somebody else's
    /// words were seen with `foreign`.
    #[must_use]
    pub fn judge(&self, entries: &[std::sync::Arc<Entry>], flaws: Flaws, foreign: usize) -> Counters {
        let Flaws { duplicated, reordered, holes } = flaws;
        let mut counters = Counters { duplicated, reordered, holes, foreign, ..Counters::default() };
        self.judge_store(&mut counters);

        let mut by_key: HashMap<ClientMessageId, Vec<&Turn>> = HashMap::new();
        for turn in &self.turns {
            if let Some(key) = turn.key {
                by_key.entry(key).or_default().push(turn);
            }
        }
        let known: HashSet<ClientMessageId> = entries.iter().map(|entry| entry.key).collect();
        // Whatever nobody said.
        counters.foreign += by_key.keys().filter(|key| !known.contains(key)).count();
        // When each message came to its turn: once it was accepted and the one before it had ended.
        let mut came: HashMap<usize, tokio::time::Instant> = HashMap::new();
        let mut in_order: Vec<_> = entries.iter().collect();
        in_order.sort_by_key(|entry| entry.life().accepted.map(|(at, _)| at));
        for entry in in_order {
            let (life, turns) = (entry.life(), by_key.get(&entry.key).map_or(&[][..], Vec::as_slice));
            counters.duplicated += turns.len().saturating_sub(1);
            let Some((accepted, turn)) = life.accepted else {
                // Sent and never confirmed, though everything has long been healed.
                counters.stuck += usize::from(life.tries > 0);
                continue;
            };
            counters.stuck += usize::from(accepted.saturating_duration_since(life.sent) > STUCK_AFTER);
            let stored = turns.iter().find(|stored| stored.id == turn);
            match stored {
                None => counters.lost += 1,
                Some(stored) if !stored.state.ended() => counters.stuck += 1,
                Some(stored) => counters.lost += usize::from(life.end.is_none() || !self.kept(stored)),
            }
            if let (Some((ended, end)), Some(stored)) = (life.end, stored) {
                let told_otherwise = matches!(end, End::Turn(state) if state != stored.state);
                counters.duplicated += usize::from(told_otherwise && stored.state.ended());
                let came = came.insert(entry.conversation, ended).map_or(accepted, |before| before.max(accepted));
                counters.stuck += usize::from(ended.saturating_duration_since(came) > STUCK_AFTER);
            }
        }
        counters
    }

    /// An answered turn has its reply, unless a reset has taken both.
    fn kept(&self, turn: &Turn) -> bool {
        let Some(held) = self.conversations.get(&turn.conversation) else { return false };
        turn.state != TurnState::Answered
            || turn.epoch < held.epoch
            || held.rows.values().any(|row| row.reply_to == Some(turn.id.into()))
    }

    fn judge_store(&self, counters: &mut Counters) {
        let stopped = |turn: &&Turn| turn.state == TurnState::Stopped;
        let stopped: HashSet<MessageId> = self.turns.iter().filter(stopped).map(|turn| turn.id.into()).collect();
        for Held { epoch, last_seq, rows } in self.conversations.values() {
            counters.foreign += rows.values().filter(|row| row.epoch != *epoch).count();
            // Before the first reset from 1 on, after it from wherever that was; and up to the newest.
            let first = rows.first_key_value().map(|(first, _)| if *epoch == 0 { 1 } else { *first });
            let missing = |first: i64| (first..=*last_seq).filter(|seq| !rows.contains_key(seq)).count();
            counters.holes += first.map_or(0, missing);
            let place: HashMap<MessageId, (i64, &Row)> = rows.iter().map(|(seq, row)| (row.id, (*seq, row))).collect();
            let (mut answered, mut said) = (HashSet::new(), HashSet::new());
            let mut newest = 0;
            for (seq, row) in rows {
                let Some(question) = row.reply_to else {
                    counters.duplicated += usize::from(!said.insert(&row.content));
                    continue;
                };
                counters.duplicated += usize::from(!answered.insert(question));
                let Some((asked, question)) = place.get(&question) else {
                    counters.foreign += 1;
                    continue;
                };
                counters.reordered += usize::from(*asked < newest || seq < asked);
                newest = newest.max(*asked);
                let answer = format!("{REPLY}{}", question.content);
                let whole =
                    answer == row.content || (stopped.contains(&question.id) && answer.starts_with(&row.content));
                counters.foreign += usize::from(!whole);
            }
        }
    }
}

impl Counters {
    /// Each with its name.
    #[must_use]
    pub fn each(&self) -> [(&'static str, usize); 6] {
        let Self { lost, duplicated, reordered, holes, foreign, stuck } = *self;
        [
            ("lost", lost),
            ("duplicated", duplicated),
            ("reordered", reordered),
            ("holes", holes),
            ("foreign", foreign),
            ("stuck", stuck),
        ]
    }

    /// Whether nothing happened that may not.
    #[must_use]
    pub fn clean(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::ledger::Ledger, *};

    /// One conversation with two messages, both answered, as its sender knows it and as it is stored.
    struct Story {
        ledger: Ledger,
        facts: Facts,
        conversation: ConversationId,
    }

    impl Story {
        fn new() -> Self {
            let (ledger, conversation) = (Ledger::default(), ConversationId::new());
            let mut story =
                Self { ledger, facts: Facts { conversations: HashMap::new(), turns: Vec::new() }, conversation };
            story.facts.conversations.insert(conversation, Held::default());
            for number in 1..=2 {
                let (entry, id) = (story.ledger.add(0, number), MessageId::new());
                story.ledger.tried(&entry);
                story.ledger.accepted(&entry, id.into());
                story.ledger.ended(&entry, End::Turn(TurnState::Answered));
                let (key, state) = (Some(entry.key), TurnState::Answered);
                story.facts.turns.push(Turn {
                    id: id.into(),
                    key,
                    conversation,
                    epoch: 0,
                    state,
                    attempt: 1,
                    hints: 1,
                });
                story.store(id, entry.text.clone(), None);
                story.store(MessageId::new(), format!("{REPLY}{}", entry.text), Some(id));
            }
            story
        }

        fn store(&mut self, id: MessageId, content: String, reply_to: Option<MessageId>) {
            let seq = self.rows().last_key_value().map_or(1, |(seq, _)| seq + 1);
            self.rows().insert(seq, Row { id, epoch: 0, content, reply_to });
            self.held().last_seq = seq;
        }

        fn held(&mut self) -> &mut Held {
            self.facts.conversations.get_mut(&self.conversation).unwrap()
        }

        fn rows(&mut self) -> &mut BTreeMap<i64, Row> {
            &mut self.held().rows
        }

        fn turn(&mut self) -> &mut Turn {
            self.facts.turns.first_mut().unwrap()
        }

        fn judged(self) -> Vec<(&'static str, usize)> {
            let counters = self.facts.judge(&self.ledger.all(), Flaws::default(), 0);
            counters.each().into_iter().filter(|(_, count)| *count > 0).collect()
        }

        fn swap(&mut self, one: i64, other: i64) {
            let rows = self.rows();
            let (first, second) = (rows.remove(&one).unwrap(), rows.remove(&other).unwrap());
            rows.insert(one, second);
            rows.insert(other, first);
        }
    }

    #[test]
    fn each_counter_counts_what_it_is_for_and_nothing_else() {
        /// What it is, how it comes about, and what is counted then.
        type Case = (&'static str, fn(&mut Story), &'static [(&'static str, usize)]);
        let changes: [Case; 14] = [
            ("nothing", |_| {}, &[]),
            ("no turn", |story| story.facts.turns.truncate(1), &[("lost", 1)]),
            ("no reply", |story| drop(story.rows().pop_last()), &[("lost", 1), ("holes", 1)]),
            (
                "the end is stored, and was never told",
                |story| {
                    let entry = story.ledger.add(0, 3);
                    story.ledger.tried(&entry);
                    let turn = TurnId::new();
                    story.ledger.accepted(&entry, turn);
                    let (conversation, key, state) = (story.conversation, Some(entry.key), TurnState::Failed);
                    story.facts.turns.push(Turn { id: turn, key, conversation, epoch: 0, state, attempt: 1, hints: 1 });
                },
                &[("lost", 1)],
            ),
            ("an open turn", |story| story.turn().state = TurnState::Queued, &[("stuck", 1)]),
            (
                "never confirmed",
                |story| {
                    let entry: Arc<Entry> = story.ledger.add(0, 3);
                    story.ledger.tried(&entry);
                },
                &[("stuck", 1)],
            ),
            ("never sent", |story| drop(story.ledger.add(0, 3)), &[]),
            ("two ends", |story| story.turn().state = TurnState::Failed, &[("duplicated", 1)]),
            (
                "answered twice",
                |story| {
                    let row = story.rows().last_entry().unwrap();
                    let (content, question) = (row.get().content.clone(), row.get().reply_to);
                    story.store(MessageId::new(), content, question);
                },
                &[("duplicated", 1)],
            ),
            (
                "stored twice",
                |story| {
                    let content = story.rows()[&1].content.clone();
                    story.store(MessageId::new(), content, None);
                },
                &[("duplicated", 1)],
            ),
            ("replies in another order", |story| story.swap(2, 4), &[("reordered", 2)]),
            (
                "a number is missing",
                |story| {
                    let row = story.rows().remove(&4).unwrap();
                    story.rows().insert(5, row);
                    story.held().last_seq = 5;
                },
                &[("holes", 1)],
            ),
            ("another's answer", |story| story.rows().get_mut(&2).unwrap().content.push('!'), &[("foreign", 1)]),
            ("of before a reset", |story| story.rows().get_mut(&1).unwrap().epoch = -1, &[("foreign", 1)]),
        ];
        for (what, change, counted) in changes {
            let mut story = Story::new();
            change(&mut story);
            assert_eq!(story.judged(), counted, "{what}");
        }
    }
}

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
    pub conversations: HashMap<ConversationId, (i32, BTreeMap<i64, Row>)>,
    turns: Vec<Turn>,
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
}

impl Facts {
    /// Reads everything, as the owner.
    ///
    /// # Errors
    /// What Postgres refuses.
    pub async fn read(owner: &Client) -> Result<Self> {
        let mut conversations = HashMap::new();
        for row in owner.query("select id, epoch from web_conversations", &[]).await? {
            conversations.insert(row.get(0), (row.get(1), BTreeMap::new()));
        }
        let messages = "select conversation_id, seq, id, content, reply_to, epoch from web_conversation_messages";
        for row in owner.query(messages, &[]).await? {
            let (conversation, seq): (ConversationId, i64) = (row.get(0), row.get(1));
            let message = Row { id: row.get(2), content: row.get(3), reply_to: row.get(4), epoch: row.get(5) };
            conversations.entry(conversation).or_default().1.insert(seq, message);
        }
        let turns = "select id, client_message_id, conversation_id, epoch, state from turns";
        let turns = owner.query(turns, &[]).await?.into_iter().map(|row| {
            let (key, state) = (row.get(1), row.get::<_, &str>(4).parse().map_err(anyhow::Error::msg)?);
            Ok(Turn { id: row.get(0), key, conversation: row.get(2), epoch: row.get(3), state })
        });
        Ok(Self { conversations, turns: turns.collect::<Result<_>>()? })
    }

    /// The messages of a conversation, by place, and its epoch.
    #[must_use]
    pub fn of(&self, conversation: &str) -> (i32, BTreeMap<i64, MessageId>) {
        let found = conversation.parse().ok().and_then(|id| self.conversations.get(&id));
        found.map_or_else(Default::default, |(epoch, rows)| {
            (*epoch, rows.iter().map(|(seq, row)| (*seq, row.id)).collect())
        })
    }

    /// How many messages a client shows otherwise than the store.
    #[must_use]
    pub fn differences(&self, conversation: &str, view: &View) -> usize {
        let (epoch, rows) = self.of(conversation);
        view.differs_from(&rows, epoch)
    }

    /// How many turns came out in this state.
    #[must_use]
    pub fn count(&self, state: TurnState) -> usize {
        self.turns.iter().filter(|turn| turn.state == state).count()
    }

    /// Judges every message. Differences between clients and the store come with `flaws`.
    #[must_use]
    pub fn judge(&self, entries: &[std::sync::Arc<Entry>], flaws: Flaws) -> Counters {
        let Flaws { duplicated, reordered, holes, foreign } = flaws;
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
        let Some((epoch, rows)) = self.conversations.get(&turn.conversation) else { return false };
        turn.state != TurnState::Answered
            || turn.epoch < *epoch
            || rows.values().any(|row| row.reply_to == Some(turn.id.into()))
    }

    fn judge_store(&self, counters: &mut Counters) {
        for (epoch, rows) in self.conversations.values() {
            counters.foreign += rows.values().filter(|row| row.epoch != *epoch).count();
            let span =
                rows.first_key_value().zip(rows.last_key_value()).map(|((first, _), (last, _))| last - first + 1);
            let missing = span.map_or(0, |span| span.unsigned_abs() as usize - rows.len());
            counters.holes += missing;
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
                counters.foreign += usize::from(row.content != format!("{REPLY}{}", question.content));
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

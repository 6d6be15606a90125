//! What an agent is reminded of: the last messages in their words, and what is older in short.
//!
//! Which messages count comes with the claim, from Postgres. Their words are remembered in Redis, and read where they are
//! not. What falls out of the prompt is summarized now and then, behind the user's back: after the reply is told.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use chat_core::{
    Error, Result,
    bus::Remembered,
    conversation::Author,
    keys::memory_short_key,
    store::{
        claim::{Claim, Mark},
        memory::Words,
    },
    text,
};
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use crate::{
    Orchestrator, agent,
    model::{Prompt, Purse, Said, is_builtin},
};

/// Longest wait for Redis to remember.
const RECALL_PATIENCE: Duration = Duration::from_millis(250);

/// Messages that must have fallen out of the prompt before they are summarized: a call of the model for each would cost
/// more than the whole history.
const SUMMARIZE_AFTER: i64 = 10;

/// Messages of one summary at most; what is left comes into the next one.
const SUMMARIZE_MOST: i64 = 200;

/// Longest wait for a summary. Nobody waits for it, but the function is busy with it.
const SUMMARY_PATIENCE: Duration = Duration::from_secs(30);

/// Longest summary, in tokens: a model that reasons needs some for that, too.
const SUMMARY_TOKENS: u32 = 4_096;

/// Longest summary that is kept, in characters, whatever the model made of its instructions.
const SUMMARY_CHARS: usize = 4_000;

const SUMMARY_INSTRUCTIONS: &str = "\
You keep the notes of an assistant. Write what it must know of the conversation below to go on with it: who the user is, \
facts, names and numbers, what was decided, promised or left open. Keep what still matters of the earlier notes. At most \
200 words, in the language of the conversation, nothing else.";

impl Orchestrator {
    /// The words before a turn's message, in their order: the last ones, as many as agents are reminded of.
    ///
    /// # Errors
    /// [`Code::Unavailable`](chat_core::Code::Unavailable) if neither Redis nor Postgres has them at hand.
    pub async fn recall(&self, claim: &Claim) -> Result<Vec<Words>> {
        let most = usize::try_from(self.memory.messages).unwrap_or(usize::MAX);
        let marks = &claim.before[claim.before.len().saturating_sub(most)..];
        if marks.is_empty() {
            return Ok(Vec::new());
        }
        let memory = memory_short_key(claim.tenant, claim.agent.id, claim.user);
        let remembered = match timeout(RECALL_PATIENCE, self.publisher.recall(&memory)).await {
            Ok(Ok(remembered)) => remembered,
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        if let Some(words) = in_words(marks, claim.epoch, remembered) {
            return Ok(words);
        }
        debug!("not remembered; read again");
        let places: Vec<i64> = marks.iter().map(|mark| mark.seq).collect();
        let words = self.store.words(claim, &places).await?;
        let read = words.iter().map(|words| remembered_as(claim, words.seq, words.author, &words.text)).collect();
        let words = in_words(marks, claim.epoch, read).ok_or_else(|| Error::unavailable("messages are gone"))?;
        self.remember(claim, &words).await;
        Ok(words)
    }

    /// Remembers what was said and answered in a turn.
    pub async fn remember(&self, claim: &Claim, words: &[Words]) {
        let memory = memory_short_key(claim.tenant, claim.agent.id, claim.user);
        let entries: Vec<_> =
            words.iter().map(|words| remembered_as(claim, words.seq, words.author, &words.text)).collect();
        let remembering = self.publisher.remember(&memory, &entries, self.memory.messages);
        if !matches!(timeout(RECALL_PATIENCE, remembering).await, Ok(Ok(()))) {
            debug!("not remembered; it will be read from the store");
        }
    }

    /// Summarizes what fell out of the prompt, once it is enough to be worth a call of the model. `kept` is the place of
    /// the oldest message that was still in it; `until` is when the turn's time ends.
    pub async fn summarize(&self, claim: &Claim, kept: Option<i64>, until: Instant, purse: &dyn Purse) {
        let fallen = kept.map_or(0, |kept| kept - 1 - claim.summary_seq);
        // A summary that failed is tried again when as many more have fallen out; a turn adds two.
        if fallen < SUMMARIZE_AFTER || fallen % SUMMARIZE_AFTER > 1 {
            return;
        }
        // Within the turn's own time: the function has but a little more.
        let patience = SUMMARY_PATIENCE.min(until.saturating_duration_since(Instant::now()));
        let summarized = timeout(patience, self.summary(claim, kept.unwrap_or_default(), purse)).await;
        match summarized.unwrap_or_else(|_| Err(Error::unavailable("the model took too long"))) {
            Ok(true) => info!(messages = fallen, "what fell out of the prompt is summarized"),
            Ok(false) => {}
            Err(error) => warn!(?error, "not summarized; later turns try again"),
        }
    }

    async fn summary(&self, claim: &Claim, kept: i64, purse: &dyn Purse) -> Result<bool> {
        let words = self.store.fallen_out(claim, kept, SUMMARIZE_MOST).await?;
        if words.is_empty() {
            return Ok(false);
        }
        let mut said =
            claim.summary.as_ref().map_or_else(String::new, |earlier| format!("Earlier notes:\n{earlier}\n\n"));
        let mut room = agent::room(claim) / 2;
        let mut until = claim.summary_seq;
        for words in words {
            let tokens = agent::tokens(&words.text);
            if tokens > room && until > claim.summary_seq {
                break;
            }
            room = room.saturating_sub(tokens);
            until = words.seq;
            let who = match words.author {
                Author::User => "User",
                Author::Assistant => "Assistant",
            };
            writeln!(said, "{who}: {}", words.text).expect("a String takes any text");
        }
        let like_the_turn = agent::prompt(claim, &[]).0;
        let models: Vec<String> = like_the_turn.models.iter().filter(|model| !is_builtin(model)).cloned().collect();
        if models.is_empty() {
            return Ok(false);
        }
        let prompt = Prompt {
            models,
            system: SUMMARY_INSTRUCTIONS.to_owned(),
            said: vec![Said::User(said)],
            max_output_tokens: Some(SUMMARY_TOKENS),
            ..like_the_turn
        };
        let (summary, ended) = agent::answer_of(&*self.model, &prompt, purse).await?;
        // What is built in understands nothing; `default` may have meant it.
        if is_builtin(&ended.model) {
            return Ok(false);
        }
        let summary: String = text::carried(summary.trim()).chars().take(SUMMARY_CHARS).collect();
        self.store.summarize(claim, &summary, until).await
    }
}

fn remembered_as(claim: &Claim, seq: i64, role: Author, text: &str) -> Remembered {
    Remembered { epoch: claim.epoch, seq, role, text: text.to_owned() }
}

/// The words of each mark, in their order; `None` if some are missing.
fn in_words(marks: &[Mark], epoch: i32, remembered: Vec<Remembered>) -> Option<Vec<Words>> {
    let held = remembered.into_iter().filter(|entry| entry.epoch == epoch);
    let mut held: HashMap<(i64, Author), String> = held.map(|entry| ((entry.seq, entry.role), entry.text)).collect();
    let words =
        |mark: &Mark| Some(Words { seq: mark.seq, author: mark.author, text: held.remove(&(mark.seq, mark.author))? });
    marks.iter().map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_of_this_epoch_and_of_every_place_are_taken_for_what_was_said() {
        let mark = |seq, author| Mark { seq, author };
        let entry = |epoch, seq, role| Remembered { epoch, seq, role, text: format!("{epoch}.{seq}") };
        let (user, agent) = (Author::User, Author::Assistant);
        let marks = [mark(4, user), mark(6, agent), mark(5, user)];
        let all = || vec![entry(1, 3, user), entry(1, 4, user), entry(1, 5, user), entry(1, 6, agent)];
        let said: Vec<_> = in_words(&marks, 1, all()).unwrap().into_iter().map(|words| words.text).collect();
        assert_eq!(said, ["1.4", "1.6", "1.5"]);
        assert_eq!(in_words(&marks, 2, all()), None, "of another epoch");
        assert_eq!(in_words(&marks, 1, all().split_off(2)), None, "one is missing");
        let spoilt = vec![entry(1, 4, user), entry(1, 5, user), entry(1, 6, user)];
        assert_eq!(in_words(&marks, 1, spoilt), None, "somebody else's words");
    }
}

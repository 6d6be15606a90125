//! What a conversation is about, in a few words: made by its agent's model from what was said first, behind the user's back,
//! where nobody has said so.

use std::time::Duration;

use chat_core::{
    Error, Kind, Result,
    event::ServerFrame,
    store::{claim::Claim, memory::Words, owned::Titled},
    text::{Title, carried},
};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::{
    Orchestrator, agent,
    model::{Prompt, Purse, Said, is_builtin},
    routes::web,
    spend::Account,
};

/// Longest wait for a title. Nobody waits for it, but the function is busy with it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longest title, in tokens: a model that reasons needs some for that, too.
const TOKENS: u32 = 1_024;

/// Longest title that is made, in characters: what a list shows in one line.
const CHARS: usize = 60;

/// How much of a message a title is made from, in characters.
const READ: usize = 2_000;

const INSTRUCTIONS: &str = "\
Say in at most six words what the conversation below is about, as a title for a list, in its language. No quotation marks, \
no full stop, nothing else. Do not answer it.";

impl Orchestrator {
    /// Gives a conversation a title, if it has none and is young enough.
    pub(crate) async fn entitle(&self, claim: &Claim, message: &Words, reply: &Words, until: Instant) {
        // Each turn adds a message and its reply.
        if !claim.untitled || claim.before.len() >= 2 * self.titles.turns {
            return;
        }
        let account = Account::of_title(&self.store, claim);
        let patience = PATIENCE.min(until.saturating_duration_since(Instant::now()));
        let made = timeout(patience, self.title(claim, message, reply, &account)).await;
        account.write_down().await;
        match made.unwrap_or_else(|_| Err(Error::unavailable("the model took too long"))) {
            Ok(Some((title, Titled { archived }))) => {
                let title = Some(title.as_str().to_owned());
                let frame = ServerFrame::Conversation { conversation_id: claim.conversation, title, archived };
                web::publish(&self.publisher, claim, vec![frame]).await;
            }
            Ok(None) => {}
            // A budget that is used up is nobody's fault.
            Err(error) if error.kind() == Kind::Busy => debug!(?error, "no title"),
            Err(error) => warn!(?error, "no title; the next turn tries again"),
        }
    }

    async fn title(
        &self,
        claim: &Claim,
        message: &Words,
        reply: &Words,
        purse: &dyn Purse,
    ) -> Result<Option<(Title, Titled)>> {
        let like_the_turn = agent::prompt(claim, &[]).0;
        let models: Vec<String> = like_the_turn.models.iter().filter(|model| !is_builtin(model)).cloned().collect();
        let said = if models.is_empty() {
            // What is built in understands nothing.
            message.text.clone()
        } else {
            let cut = |text: &str| text.chars().take(READ).collect::<String>();
            let talk = format!("User: {}\n\nAssistant: {}", cut(&message.text), cut(&reply.text));
            let prompt = Prompt {
                models,
                system: INSTRUCTIONS.to_owned(),
                said: vec![Said::User(talk)],
                max_output_tokens: Some(TOKENS),
                ..like_the_turn
            };
            let (said, ended) = agent::answer_of(&*self.model, &prompt, purse).await?;
            // `default` may have meant it.
            if is_builtin(&ended.model) { message.text.clone() } else { said }
        };
        let Some(title) = line(&said) else { return Ok(None) };
        Ok(self.store.entitle(claim, &title).await?.map(|titled| (title, titled)))
    }
}

/// The first line of what was said that has something in it, as a title: without quotation marks around it, and cut between
/// two words.
fn line(said: &str) -> Option<Title> {
    let said = carried(said).replace('\t', " ");
    let line = said.lines().map(|line| line.trim_matches(AROUND)).find(|line| !line.is_empty())?;
    let cut: String = line.chars().take(CHARS).collect();
    let cut = match cut.rsplit_once(' ') {
        Some((whole, _)) if cut.len() < line.len() && !whole.is_empty() => {
            format!("{}…", whole.trim_end_matches(AROUND))
        }
        _ if cut.len() < line.len() => format!("{cut}…"),
        _ => cut,
    };
    Title::parse(&cut).ok()
}

/// What models put around a title although they were told not to.
const AROUND: [char; 11] = [' ', '"', '\'', '“', '”', '„', '«', '»', '*', '#', '.'];

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_title_is_one_clean_line() {
        for (said, title) in [
            ("Holidays in May", Some("Holidays in May")),
            ("\n \"Holidays in May.\"\nMore words", Some("Holidays in May")),
            ("**Holidays\tin May**", Some("Holidays in May")),
            ("„Urlaub im Mai“", Some("Urlaub im Mai")),
            (
                "one two three four five six seven eight nine ten eleven twelve thirteen",
                Some("one two three four five six seven eight nine ten eleven…"),
            ),
            (&"x".repeat(70), Some(&format!("{}…", "x".repeat(60)))),
            ("", None),
            (" \n\"\"", None),
        ] {
            let made = line(said);
            assert_eq!(made.as_ref().map(chat_core::text::Title::as_str), title, "{said}");
        }
    }
}

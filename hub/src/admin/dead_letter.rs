//! What the queue gave up on and nobody could read or route: the rows of `dead_letters`.
//!
//! *Sending back* is for when the cause is gone: a release reads what the last one could not, a connection exists again. A
//! letter that cannot be read by this very program stays where it is. Each is sent first and then kept no longer, so one
//! may come twice and none is lost; twice changes nothing, since the turn in Postgres decides what runs.

use std::io::Write;

use chat_core::{
    Error, Result,
    job::Job,
    queue::Queue,
    store::admin::letters::{Letter, Parting},
};
use clap::Subcommand;
use serde_json::json;

use super::Desk;

/// Letters after which it is told how far one is.
const TOLD_EVERY: usize = 100;

/// A command about dead letters.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show which there are and why, without what they say.
    List,
    /// Send them to the queue again, the oldest first. What cannot be read is left.
    Redrive {
        /// Which, by `message_id`; all, if none is named.
        letters: Vec<String>,
        /// So many at most.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
        most: u32,
    },
    /// Keep one no longer.
    Delete {
        /// Which, by `message_id`.
        letter: String,
    },
}

/// Carries it out; `queue` is there for [`Command::Redrive`].
///
/// # Errors
/// What is refused, or cannot be reached. What was sent back before stays so.
pub async fn run(command: Command, desk: &mut Desk<impl Write>, queue: Option<&dyn Queue>) -> Result<()> {
    match command {
        Command::List => {
            let letters = desk.owner.letters().await?;
            desk.rows(&letters)
        }
        Command::Redrive { letters, most } => {
            let queue = queue.expect("connected for this command");
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let mut way = Way { queue, sent: 0, left: 0 };
            if letters.is_empty() {
                let mut after = None;
                while way.sent + way.left < most
                    && let Some(letter) = desk.owner.next_letter(after.as_deref()).await?
                {
                    // What was sent is not kept, so nothing comes after it; what was left is where to go on.
                    if !way.send(&letter, desk).await? {
                        after = Some(letter.message_id);
                    }
                }
            }
            for message_id in letters.iter().take(most) {
                let letter = desk.owner.letter(message_id).await?;
                way.send(&letter.ok_or_else(|| none(message_id))?, desk).await?;
            }
            desk.outcome(
                &json!({"sent": way.sent, "left": way.left}),
                &format!("sent {} back, left {} that cannot be read", way.sent, way.left),
            )
        }
        Command::Delete { letter } => {
            if !desk.owner.part_with(&letter, Parting::Deleted, &desk.by).await? {
                return Err(none(&letter));
            }
            desk.outcome(&json!({"deleted": letter}), "deleted")
        }
    }
}

struct Way<'a> {
    queue: &'a dyn Queue,
    sent: usize,
    left: usize,
}

impl Way<'_> {
    /// Whether it could be read, and was sent.
    async fn send(&mut self, letter: &Letter, desk: &mut Desk<impl Write>) -> Result<bool> {
        let Ok(job) = Job::parse(&letter.body) else {
            self.left += 1;
            return Ok(false);
        };
        self.queue.send(&[job]).await?;
        desk.owner.part_with(&letter.message_id, Parting::SentBack, &desk.by).await?;
        self.sent += 1;
        if self.sent.is_multiple_of(TOLD_EVERY) && !desk.json {
            writeln!(desk.out, "sent {} …", self.sent).map_err(Error::internal)?;
        }
        Ok(true)
    }
}

fn none(message_id: &str) -> Error {
    Error::field("letter", format!("there is none of the id {message_id}"))
}

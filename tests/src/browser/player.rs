//! A model for scenes: it answers at once, or says a dictation, or fails when told to.

use std::sync::{Mutex, PoisonError};

use chat_core::{Code, Error, Result};
use futures::{
    StreamExt,
    channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded},
    stream::BoxStream,
};
use orchestrator::model::{Ended, Model, Piece, Prompt, Purse, at_once};

/// A model that answers `re: …`, and `…` to `say …`. To what a dictation is for it says that; told to `fail once` it does,
/// once.
#[derive(Default)]
pub struct Player {
    /// How a message begins, and what is said to it.
    dictations: Mutex<Vec<(String, UnboundedReceiver<Piece>)>>,
    failed: Mutex<bool>,
}

impl Player {
    /// What it says when it is next told to `dictate`.
    pub fn dictation(&self) -> Dictation {
        self.to("dictate")
    }

    /// What it says to the next message that begins like this.
    pub fn to(&self, message: &str) -> Dictation {
        let (says, hears) = unbounded();
        self.dictations.lock().unwrap_or_else(PoisonError::into_inner).push((message.to_owned(), hears));
        Dictation(says)
    }
}

impl Model for Player {
    fn speak<'a>(&'a self, prompt: &'a Prompt, _: &'a dyn Purse) -> BoxStream<'a, Result<Piece>> {
        let message = prompt.message();
        let mut dictations = self.dictations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = dictations.iter().position(|(to, _)| message.starts_with(to)) {
            return dictations.remove(place).1.map(Ok).boxed();
        }
        drop(dictations);
        at_once("player", async move {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            if message == "fail once" && !std::mem::replace(&mut *failed, true) {
                return Err(Error::new(Code::ModelFailed, "no answer"));
            }
            Ok(message.strip_prefix("say ").map_or_else(|| format!("re: {message}"), str::to_owned))
        })
    }
}

/// Who tells it. Dropped, it leaves the answer unfinished.
pub struct Dictation(UnboundedSender<Piece>);

impl Dictation {
    /// Goes on with these words. Nobody may listen any more.
    pub fn say(&self, words: &str) {
        let _ = self.0.unbounded_send(Piece::Text(words.to_owned()));
    }

    /// Ends the answer.
    pub fn end(self) {
        let _ = self.0.unbounded_send(Piece::End(Ended { model: "player".to_owned(), usage: None }));
    }
}

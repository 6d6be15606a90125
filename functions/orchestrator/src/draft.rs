//! A reply while it is being written: one writes, one tells, and if it is stopped somebody keeps what there is.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chat_core::text;
use tokio::sync::Notify;

/// The words so far. As every part of the house can carry them, so that what is told is what will be stored.
#[derive(Debug, Default)]
pub struct Draft {
    written: Mutex<Written>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Written {
    text: String,
    /// Counts the beginnings.
    beginning: u32,
}

/// How much of a draft was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    beginning: u32,
    bytes: usize,
    /// The same in Unicode code points.
    chars: usize,
}

/// What of a draft was not told yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Untold {
    /// Where it begins, in Unicode code points.
    pub offset: usize,
    /// The words.
    pub text: String,
    /// How much was told once these are.
    pub then: Told,
}

impl Draft {
    /// Goes on.
    pub fn push(&self, words: &str) {
        self.written().text.push_str(&text::carried(words));
        self.more.notify_one();
    }

    /// Begins again.
    pub fn clear(&self) {
        let mut written = self.written();
        written.text.clear();
        written.beginning += 1;
    }

    /// The words so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.written().text.clone()
    }

    /// What was written since; `None` if nothing was.
    #[must_use]
    pub fn since(&self, told: Told) -> Option<Untold> {
        let written = self.written();
        let (bytes, offset) = if told.beginning == written.beginning { (told.bytes, told.chars) } else { (0, 0) };
        let text = written.text.get(bytes..).filter(|text| !text.is_empty())?.to_owned();
        let chars = offset + text.chars().count();
        let then = Told { beginning: written.beginning, bytes: written.text.len(), chars };
        Some(Untold { offset, text, then })
    }

    /// Resolves once something was written since the last time this did.
    pub async fn more(&self) {
        self.more.notified().await;
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_piece_by_piece_is_what_is_written() {
        let draft = Draft::default();
        assert_eq!(draft.since(Told::default()), None);
        draft.push("Grü");
        let first = draft.since(Told::default()).unwrap();
        assert_eq!((first.offset, first.text.as_str()), (0, "Grü"));
        assert_eq!(draft.since(first.then), None);
        draft.push("ße\0 ");
        draft.push("😀!");
        let second = draft.since(first.then).unwrap();
        assert_eq!((second.offset, second.text.as_str()), (3, "ße 😀!"));
        assert_eq!(draft.text(), first.text + &second.text);
        draft.clear();
        assert_eq!(draft.since(second.then), None, "nothing is told of a beginning that says nothing yet");
        draft.push("Anew");
        let third = draft.since(second.then).unwrap();
        assert_eq!((third.offset, third.text.as_str()), (0, "Anew"));
    }
}

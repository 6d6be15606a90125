//! A reply while it is being written: one writes, one tells, and if it is stopped somebody keeps what there is.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use chat_core::{conversation::ToolState, text};
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
    /// Tools that were taken up or laid down, and not told yet.
    tools: VecDeque<(String, ToolState)>,
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

    /// Goes back to where it had this many bytes, and is told from its beginning again.
    pub fn back_to(&self, bytes: usize) {
        let mut written = self.written();
        written.text.truncate(bytes);
        written.beginning += 1;
        self.more.notify_one();
    }

    /// Ends a paragraph, if it has words.
    pub fn pause(&self) {
        let mut written = self.written();
        let kept = written.text.trim_end().len();
        if kept > 0 {
            // What was told is never taken back for a few blanks.
            let there = written.text[kept..].matches('\n').count();
            written.text.push_str(&"\n\n"[there.min(2)..]);
        }
    }

    /// A tool is taken up or laid down.
    pub fn tool(&self, name: &str, state: ToolState) {
        self.written().tools.push_back((name.to_owned(), state));
        self.more.notify_one();
    }

    /// The next tool that was not told yet, now for whoever tells it.
    #[must_use]
    pub fn next_tool(&self) -> Option<(String, ToolState)> {
        self.written().tools.pop_front()
    }

    /// How many bytes there are.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.written().text.len()
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
        draft.back_to(0);
        assert_eq!(draft.since(second.then), None, "nothing is told of a beginning that says nothing yet");
        draft.push("Anew");
        let third = draft.since(second.then).unwrap();
        assert_eq!((third.offset, third.text.as_str()), (0, "Anew"));
        draft.pause();
        draft.pause();
        let place = draft.bytes();
        draft.push("wrong");
        draft.back_to(place);
        draft.push("right");
        let fourth = draft.since(third.then).unwrap();
        assert_eq!((fourth.offset, fourth.text.as_str()), (0, "Anew\n\nright"));
    }
}

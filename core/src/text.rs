//! The text of a message: what may be said, decided at the door.

use serde::Serialize;

use crate::error::{Code, Error, Result};

/// Longest reply, in bytes: about 30,000 tokens. Each byte may become six in JSON, and a socket's unsent bytes must hold
/// the whole, or its reader could never be brought past it.
pub const MAX_REPLY_BYTES: usize = 131_072;

/// A text that every part of the house can carry: not blank, within the limit, and
/// without the characters that SQS or Postgres refuse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Text(String);

impl Text {
    /// Takes a text in.
    ///
    /// # Errors
    /// [`Code::TextTooLong`] over `max_chars` Unicode code points; [`Code::TextRefused`] for a blank one, or
    /// one with NUL, another control character but tab and newline, U+FFFE or U+FFFF.
    pub fn parse(text: String, max_chars: usize) -> Result<Self> {
        // A code point has at most four bytes and at least one: most texts need no counting.
        if text.len() > max_chars && text.chars().count() > max_chars {
            return Err(Error::new(Code::TextTooLong, format!("At most {max_chars} characters.")).about("text"));
        }
        if let Some(bad) = text.chars().find(|c| refused(*c)) {
            let message = format!("The character U+{:04X} cannot be carried.", u32::from(bad));
            return Err(Error::new(Code::TextRefused, message).about("text"));
        }
        if text.trim().is_empty() {
            return Err(Error::new(Code::TextRefused, "The text is empty.").about("text"));
        }
        Ok(Self(text))
    }

    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text itself, kept.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

/// Longest title, in Unicode code points.
pub const TITLE_CHARS: usize = 200;

/// What a conversation is called: one line, not blank, and without what [`Text`] refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Title(String);

impl Title {
    /// Takes a title in, without the blanks around it.
    ///
    /// # Errors
    /// [`Code::Invalid`] for what is no such line, naming `title`.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() || text.chars().count() > TITLE_CHARS {
            return Err(Error::field("title", format!("must have 1 to {TITLE_CHARS} characters")));
        }
        if let Some(bad) = text.chars().find(|c| refused(*c) || matches!(c, '\n' | '\t')) {
            return Err(Error::field(
                "title",
                format!("must be one line; it has the character U+{:04X}", u32::from(bad)),
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// The title itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a model said, as every part of the house can carry it: without the characters that Postgres refuses.
#[must_use]
pub fn carried(reply: &str) -> String {
    reply.chars().filter(|c| !refused(*c)).collect()
}

/// Control characters and the two non-characters that XML, hence SQS, cannot carry.
/// Source: <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>.
fn refused(c: char) -> bool {
    (c.is_control() && !matches!(c, '\t' | '\n')) || matches!(c, '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_refused_for_what_it_is() {
        let refusal = |text: &str| Text::parse(text.to_owned(), 5).unwrap_err().code();
        assert_eq!(refusal("sixsix"), Code::TextTooLong);
        assert_eq!(refusal("üüüüüü"), Code::TextTooLong);
        for bad in ["a\0b", "\u{1b}[2J", "a\u{fffe}", "\u{ffff}", "\u{85}", "a\r\n", "", " \n\t"] {
            assert_eq!(refusal(bad), Code::TextRefused, "{bad:?}");
        }
    }

    #[test]
    fn a_title_is_one_line() {
        assert_eq!(Title::parse("  Holidays in May ").unwrap().as_str(), "Holidays in May");
        for bad in ["", " ", "a\nb", "a\tb", "a\0b", "a\u{2028}\u{85}b", &"a".repeat(201)] {
            assert_eq!(Title::parse(bad).unwrap_err().fields()[0].field, "title", "{bad:?}");
        }
        assert!(Title::parse(&"ü".repeat(200)).is_ok());
    }

    #[test]
    fn a_reply_loses_what_cannot_be_carried() {
        assert_eq!(carried("a\0b\u{1b}[2J\nc\u{ffff}"), "ab[2J\nc");
    }

    #[test]
    fn the_limit_counts_code_points_not_bytes() {
        for good in ["fünf5", "😀😀😀😀😀", "a\tb\nc"] {
            assert_eq!(Text::parse(good.to_owned(), 5).unwrap().as_str(), good);
        }
    }
}

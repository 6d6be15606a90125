//! A text that is too long for one message, as several.

use unicode_segmentation::UnicodeSegmentation;

/// What a character counts where nobody says how characters are counted: in UTF-16, as the least generous do.
#[must_use]
pub fn utf16(c: char) -> usize {
    c.len_utf16()
}

/// Cuts a text into parts whose characters count `most` together at most, as `count` counts them: where a paragraph
/// ends, else a line, else a word; within a word only if that alone is too long, and within what a reader takes for one
/// character only if even that is. White space around a cut is dropped; nothing else is, and the order stays.
#[must_use]
pub fn split(text: &str, most: usize, count: impl Fn(char) -> usize) -> Vec<&str> {
    let size = |text: &str| text.chars().map(&count).sum::<usize>();
    let mut parts = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let fits = fitting(rest, most, &size);
        let end = if fits == rest.len() { fits } else { good_place(rest, fits) };
        let (part, after) = rest.split_at(end);
        parts.push(part.trim_end());
        rest = after.trim_start();
    }
    parts
}

/// How many bytes of the text fit, in whole characters as readers see them; at least one character as machines do.
fn fitting(text: &str, most: usize, size: &impl Fn(&str) -> usize) -> usize {
    let mut used = 0;
    for (at, grapheme) in text.grapheme_indices(true) {
        used += size(grapheme);
        if used <= most {
            continue;
        }
        if at > 0 {
            return at;
        }
        // One letter under a tower of accents.
        let mut used = 0;
        let cut = grapheme.char_indices().skip_while(|(at, c)| {
            used += size(&grapheme[*at..*at + c.len_utf8()]);
            used <= most
        });
        return cut.map(|(at, _)| at).find(|at| *at > 0).unwrap_or(grapheme.len());
    }
    text.len()
}

/// The best place for a cut within the first `fits` bytes. A paragraph or line that ends in the first half is passed
/// over, since parts that are too short are worse to read than those cut between two words.
fn good_place(text: &str, fits: usize) -> usize {
    let ends_with = |what: &str| {
        // It may happen to end just here.
        if text[fits..].starts_with(what) { Some(fits) } else { text[..fits].rfind(what).filter(|at| *at >= fits / 2) }
    };
    let word = || match text[fits..].starts_with(char::is_whitespace) {
        true => Some(fits),
        false => text[..fits].rfind(char::is_whitespace),
    };
    ends_with("\n\n").or_else(|| ends_with("\n")).or_else(word).filter(|at| *at > 0).unwrap_or(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_where_it_hurts_least() {
        for (text, most, parts) in [
            ("", 5, vec![]),
            (" \n ", 5, vec![]),
            ("short", 5, vec!["short"]),
            ("exact fits", 5, vec!["exact", "fits"]),
            ("one two three", 8, vec!["one two", "three"]),
            ("one two\nthree", 9, vec!["one two", "three"]),
            ("one\n\ntwo x\nthree", 11, vec!["one\n\ntwo x", "three"]),
            ("first par\n\nsecond\nline", 17, vec!["first par", "second\nline"]),
            ("a\n\nbcd efg hij", 11, vec!["a\n\nbcd efg", "hij"]),
            ("abcdefgh", 3, vec!["abc", "def", "gh"]),
            // A space that no cut touches stays, however wide.
            ("a  b", 4, vec!["a  b"]),
            // Four bytes, two in UTF-16, one for the reader.
            ("😀😀😀", 4, vec!["😀😀", "😀"]),
            // A family is one character of eleven in UTF-16, a flag one of four.
            ("ab👨‍👩‍👧‍👦cd", 12, vec!["ab", "👨‍👩‍👧‍👦c", "d"]),
            ("🇩🇪🇫🇷", 7, vec!["🇩🇪", "🇫🇷"]),
            ("e\u{301}e\u{301}", 3, vec!["e\u{301}", "e\u{301}"]),
            // Accents beyond what fits in a message are cut all the same, and a size that fits nothing ends.
            ("e\u{301}\u{301}\u{301}\u{301}", 3, vec!["e\u{301}\u{301}", "\u{301}\u{301}"]),
            ("😀😀", 1, vec!["😀", "😀"]),
        ] {
            assert_eq!(split(text, most, utf16), parts, "{text:?} in {most}");
        }
    }

    #[test]
    fn nothing_but_white_space_is_lost_and_no_part_is_too_long() {
        let words = ["a", "größer", "👩‍🚀", "e\u{301}tude", "x".repeat(30).leak(), "\n", "\n\n", "&<>"];
        for seed in 0..500_usize {
            let text: String =
                (0..80).map(|i| words[(seed * 31 + i * i * 7 + i) % words.len()]).collect::<Vec<_>>().join(" ");
            let most = 5 + seed % 40;
            let parts = split(&text, most, utf16);
            let solid = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            assert_eq!(solid(&parts.concat()), solid(&text));
            for part in parts {
                assert!(part.encode_utf16().count() <= most && part == part.trim() && !part.is_empty(), "{part:?}");
            }
        }
    }
}

//! What a reader of JSON or of a query complains of, without what stood there.
//!
//! The library repeats what it did not expect: `invalid type: string "…", expected i64`. That may be a token in the wrong
//! place, a text, or a quarter of a megabyte. Whoever wrote it knows what they wrote; a log must not.

/// Longest name that is repeated, in bytes. No name of ours is longer, and no token as short that has its dots.
const LONGEST_NAME: usize = 64;

/// The complaint, without what it repeats of its input: what was expected, and where.
#[must_use]
pub fn complaint(told: &str) -> String {
    let repeats =
        ["invalid type", "invalid value", "invalid length", "unknown "].iter().any(|word| told.starts_with(word));
    // The library's own words are behind the last of these; what stood there is before.
    let expected = || told.rsplit_once("expected ").map_or("something else", |(_, expected)| expected);
    if repeats { format!("expected {}", expected()) } else { told.to_owned() }
}

/// A name that its sender chose, if it looks like one and may be repeated: letters, digits and underscores.
#[must_use]
pub fn name(given: &str) -> Option<&str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (!given.is_empty() && given.len() <= LONGEST_NAME && given.bytes().all(fits)).then_some(given)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        Known,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[expect(dead_code, reason = "only read")]
        text: String,
        #[expect(dead_code, reason = "only read")]
        word: Option<Word>,
        #[expect(dead_code, reason = "only read")]
        id: Option<uuid::Uuid>,
        #[expect(dead_code, reason = "only read")]
        pair: Option<[u8; 2]>,
    }

    #[test]
    fn what_stood_there_is_not_repeated_and_what_was_expected_is() {
        let Word::Known = Word::Known;
        for (body, told) in [
            (r#"{"hunter2": 1}"#, "expected one of `text`, `word`, `id`, `pair`"),
            (r#"{"text": {"hunter2": 1}}"#, "expected a string"),
            (r#"{"text": "", "word": "hunter2"}"#, "expected `known`"),
            (r#"{"text": "", "word": "hunter2, expected hunter2"}"#, "expected `known`"),
            (r#"{"text": "", "pair": "hunter2"}"#, "expected an array of length 2"),
            (r#"{"text": "", "id": "hunter2"}"#, "UUID parsing failed"),
            (r#""hunter2""#, "expected struct Body"),
            ("{}", "missing field `text`"),
            (r#"{"text": "a", "text": "b"}"#, "duplicate field `text`"),
            (r#"{"text": hunter2}"#, "expected value"),
        ] {
            let complaint = complaint(&serde_json::from_str::<Body>(body).err().unwrap().to_string());
            assert!(complaint.starts_with(told) && !complaint.contains("hunter2"), "{body}: {complaint}");
            assert!(complaint.contains("at line 1") && complaint.len() < 120, "{complaint}");
        }
    }

    #[test]
    fn a_name_is_repeated_only_if_it_looks_like_one() {
        assert_eq!(name("tenant_id"), Some("tenant_id"));
        for no in ["", "eyJ.eyJ.sig", "a b", "ü", &"a".repeat(65)] {
            assert_eq!(name(no), None);
        }
    }
}

//! What an operator may write: names, addresses, lists; and texts that come from a file.

use std::{
    fs::File,
    io::{Read, stdin},
    path::Path,
    str::FromStr,
};

use chat_core::{Error, Result, store::admin::Values};
use serde::Serialize;
use serde_json::{Value, json};

/// Longest name, in Unicode code points.
const MAX_NAME_CHARS: usize = 200;

/// Longest e-mail address (RFC 5321, section 4.5.3.1.3, without the brackets).
const MAX_EMAIL_BYTES: usize = 254;

/// Longest text from a file, in bytes.
const MAX_TEXT_BYTES: u64 = 256 * 1024;

/// A name: of one line, and not blank.
pub(super) fn name(text: &str) -> Result<String, String> {
    let name = text.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control) {
        return Err(format!("must have 1 to {MAX_NAME_CHARS} characters, on one line"));
    }
    Ok(name.to_owned())
}

/// A word of a name's length: a model, an issuer, a channel's own id.
pub(super) fn word(text: &str) -> Result<String, String> {
    let word = name(text)?;
    if word.chars().any(char::is_whitespace) { Err("must be one word".to_owned()) } else { Ok(word) }
}

/// Words with commas between them; nothing at all is an empty list.
pub(super) fn list(text: &str) -> Result<Value, String> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    Ok(Value::Array(words.map(|text| word(text).map(Value::String)).collect::<Result<_, _>>()?))
}

/// What could be an e-mail address; whether it is one, only a letter shows. In lower case, so that nobody has two.
pub(super) fn email(text: &str) -> Result<String, String> {
    let email = text.trim().to_lowercase();
    let whole = email.rsplit_once('@').is_some_and(|(local, domain)| {
        let dotted = domain.split('.').all(|label| !label.is_empty());
        !local.is_empty() && !local.contains('@') && domain.contains('.') && dotted
    });
    let bad = |c: char| c.is_control() || c.is_whitespace() || "<>,;()\"".contains(c);
    if whole && email.len() <= MAX_EMAIL_BYTES && !email.chars().any(bad) {
        Ok(email)
    } else {
        Err("must be an e-mail address, such as ben@acme.example".to_owned())
    }
}

/// A value, or `none` for its absence.
pub(super) fn or_none<T: FromStr + Serialize>(text: &str) -> Result<Value, String>
where
    T::Err: std::fmt::Display,
{
    if text == "none" {
        return Ok(Value::Null);
    }
    text.parse::<T>().map(|value| json!(value)).map_err(|error| format!("{error}, nor is it `none`"))
}

/// Reads a text from a file, or from standard input where that is `-`.
pub(super) fn text_of(field: &str, path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        stdin().lock().take(MAX_TEXT_BYTES + 1).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(MAX_TEXT_BYTES + 1).read_to_string(&mut text))
    };
    read.map_err(|error| Error::field(field, format!("{} cannot be read: {error}", path.display())))?;
    if text.len() as u64 > MAX_TEXT_BYTES {
        return Err(Error::field(field, format!("has more than {MAX_TEXT_BYTES} bytes")));
    }
    if text.contains('\0') {
        return Err(Error::field(field, "has a NUL, which no text may have"));
    }
    let line = text.trim_end_matches(['\n', '\r']).len();
    text.truncate(line);
    Ok(text)
}

/// The values that are given.
pub(super) fn given<const N: usize>(values: [(&'static str, Option<Value>); N]) -> Values {
    values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// A value that may not be given.
pub(super) fn some<T: Serialize>(value: Option<T>) -> Option<Value> {
    value.map(|value| json!(value))
}

/// Refuses a change that names nothing to change.
pub(super) fn changes(values: Values) -> Result<Values> {
    if values.is_empty() {
        return Err(Error::field("change", "names nothing to change; see --help"));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in ["", " ", "a\nb", "\u{1b}[2J", &"x".repeat(201)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(name(" Acme & Söhne "), Ok("Acme & Söhne".to_owned()));
        for bad in [
            "",
            "ben",
            "@acme.example",
            "ben@",
            "ben@acme",
            "b en@acme.example",
            "a@b@c.d",
            "ben@acme..example",
            "<ben@acme.example>",
        ] {
            assert!(email(bad).is_err(), "{bad:?}");
        }
        assert_eq!(email("Ben@Acme.example"), Ok("ben@acme.example".to_owned()));
        assert_eq!(list("a, b:c,"), Ok(json!(["a", "b:c"])));
        assert_eq!(list(""), Ok(json!([])));
        assert!(list("a b").is_err());
        assert_eq!(or_none::<i32>("none"), Ok(Value::Null));
        assert!(or_none::<i32>("nothing").is_err());
    }
}

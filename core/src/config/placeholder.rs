//! Secrets that are none: what stands in examples, and what somebody typed to get past a check.
//!
//! A deployable does not start with one. The rule is small and errs on the side of starting: it knows what people leave
//! standing by oversight, not every weak secret. No random value of 32 bytes meets any part of it in practice.

use super::Env;

/// What is put where a secret shall stand. A value that consists of nothing but these, digits, and what is neither letter
/// nor digit, is none.
const WORDS: &[&str] = &[
    "a",
    "an",
    "any",
    "api",
    "at",
    "be",
    "bit",
    "bits",
    "bytes",
    "change",
    "changed",
    "changeit",
    "character",
    "characters",
    "chat",
    "default",
    "dev",
    "dummy",
    "enter",
    "example",
    "fake",
    "fill",
    "fixme",
    "foo",
    "bar",
    "goes",
    "here",
    "in",
    "insert",
    "is",
    "it",
    "jwt",
    "key",
    "least",
    "long",
    "me",
    "more",
    "must",
    "my",
    "of",
    "or",
    "pass",
    "passphrase",
    "password",
    "passwd",
    "placeholder",
    "please",
    "production",
    "put",
    "replace",
    "sample",
    "secret",
    "secrets",
    "set",
    "shared",
    "should",
    "sk",
    "some",
    "super",
    "test",
    "testing",
    "the",
    "this",
    "to",
    "todo",
    "token",
    "top",
    "value",
    "very",
    "with",
    "x",
    "your",
];

/// Different bytes that a key of 32 bytes has at least; a random one has about 30, written in hexadecimal digits 16.
const VARIETY: usize = 8;

impl Env<'_> {
    /// Refuses what only holds the place of a password or of somebody else's key.
    pub(super) fn refuse_placeholder(&mut self, name: &str, value: &str) {
        let repeated = value.len() > 1 && distinct(value.as_bytes()) == 1;
        if holds_a_place(value) || repeated {
            self.faults.push(format!("{name} must be a secret of your own, not a placeholder"));
        }
    }

    /// Refuses what only holds the place of a key that we made ourselves: it has variety, too, and no period.
    pub(super) fn refuse_placeholder_key(&mut self, name: &str, key: &[u8]) {
        let text = std::str::from_utf8(key).unwrap_or_default();
        if holds_a_place(text) || distinct(key) < VARIETY || periodic(key) || counts(key) {
            self.faults.push(format!("{name} must be a random secret of your own, not a placeholder"));
        }
    }

    /// Refuses an address whose password only holds the place of one. An address without a password has none to refuse.
    pub(super) fn refuse_placeholder_password(&mut self, name: &str, url: &str) {
        if let Some(password) = password(url).filter(|password| !password.is_empty()) {
            self.refuse_placeholder(&format!("the password in {name}"), password);
        }
    }
}

/// The password of `scheme://user:password@host`, or of `user=… password=…`, as it stands there.
fn password(url: &str) -> Option<&str> {
    match url.split_once("://") {
        Some((_, rest)) => {
            let (user, _) = rest.split('/').next()?.rsplit_once('@')?;
            user.split_once(':').map(|(_, password)| password)
        }
        None => url.split_whitespace().find_map(|pair| pair.strip_prefix("password=")),
    }
}

/// Whether a value is in brackets that ask to be filled in, has an ellipsis, or consists of [`WORDS`].
fn holds_a_place(value: &str) -> bool {
    let value = value.trim();
    let bracketed = [("<", ">"), ("[", "]"), ("{", "}"), ("${", "}"), ("%", "%")]
        .iter()
        .any(|(open, close)| value.len() > 1 && value.starts_with(open) && value.ends_with(close));
    let letters: String =
        value.chars().filter(char::is_ascii_alphabetic).map(|letter| letter.to_ascii_lowercase()).collect();
    let strange = value.chars().any(|c| c.is_alphabetic() && !c.is_ascii());
    let only_marks = !value.is_empty() && !value.chars().any(char::is_alphanumeric);
    bracketed || value.contains('…') || only_marks || (!letters.is_empty() && !strange && consists_of_words(&letters))
}

/// Whether a text can be cut into [`WORDS`] without a rest.
fn consists_of_words(letters: &str) -> bool {
    let mut reached = vec![false; letters.len() + 1];
    reached[0] = true;
    for from in 0..letters.len() {
        if reached[from] {
            for word in WORDS.iter().filter(|word| letters[from..].starts_with(**word)) {
                reached[from + word.len()] = true;
            }
        }
    }
    reached[letters.len()]
}

fn distinct(bytes: &[u8]) -> usize {
    let mut seen = [false; 256];
    bytes.iter().for_each(|byte| seen[usize::from(*byte)] = true);
    seen.into_iter().filter(|seen| *seen).count()
}

/// Whether it is one piece, at least twice.
fn periodic(bytes: &[u8]) -> bool {
    (1..=bytes.len() / 2).any(|period| bytes.iter().zip(&bytes[period..]).all(|(one, next)| one == next))
}

/// Whether each byte is one more than the one before it.
fn counts(bytes: &[u8]) -> bool {
    bytes.len() > 1 && bytes.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Database, Model, Redis, Sealing, Token};

    fn faults(name: &str, value: &str) -> Vec<String> {
        let lookup = |asked: &str| match asked {
            _ if asked == name => Some(value.to_owned()),
            "DATABASE_URL" => Some("postgres://chat_app@host/chat".to_owned()),
            "REDIS_URL" => Some("redis://host".to_owned()),
            "JWT_SECRET" => Some("k3J9-vq2L_x8Zr0Tn5Wm7Yb1Hc4Gd6Fs".to_owned()),
            _ => None,
        };
        let mut env = Env::new(&lookup);
        Database::read(&mut env, 1);
        Redis::read(&mut env);
        Token::read(&mut env);
        Sealing::read(&mut env);
        Model::read(&mut env);
        env.faults
    }

    #[test]
    fn a_placeholder_stops_the_start_with_the_settings_name_alone() {
        let words = [
            "changeme",
            "Change-Me!",
            "secret",
            "password",
            "your-secret-here",
            "example",
            "test123",
            "<yours>",
            "…",
            "...",
            "***",
            "xxxxxxxx",
            "aaaaaaaa",
            "${DB_PASSWORD}",
            "{{resolve:me}}",
            "TODO",
        ];
        let example = include_str!("../../../.env.example");
        let stands = |name: &str| {
            let mut lines = example.lines().filter_map(|line| line.trim_start_matches("# ").split_once('='));
            lines.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned()).unwrap()
        };
        let mut refused: Vec<(&str, String)> = Vec::new();
        for word in words {
            refused.push(("MODEL_API_KEY", word.replace('…', "...")));
            refused.push((
                "MODEL_PROVIDERS",
                format!(r#"[{{"name": "a", "speaks": "openai", "api_key": "{}"}}]"#, word.replace('…', "...")),
            ));
            refused.push(("DATABASE_URL", format!("postgres://chat_app:{word}@host:5432/chat")));
            refused.push(("DATABASE_URL", format!("host=h user=chat_app password={word}")));
            refused.push(("REDIS_URL", format!("rediss://:{word}@host:6379")));
            refused.push(("JWT_SECRET", word.repeat(32)));
        }
        refused.push(("DATABASE_URL", stands("DATABASE_URL")));
        for secret in [
            "an example secret of 32 bytes or more",
            "your-256-bit-secret-goes-here-please",
            "0123456789abcdef0123456789abcdef",
            "abcabcabcabcabcabcabcabcabcabcabcabc",
            "aabbaabbaabbaabbaabbccccccccddddddddd",
            "ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdef",
        ] {
            refused.push(("JWT_SECRET", secret.to_owned()));
        }
        for key in [
            "00".repeat(32),
            "01".repeat(32),
            "0123456789abcdef".repeat(4),
            (0..32).map(|byte| format!("{byte:02x}")).collect(),
        ] {
            refused.push(("SECRETS_KEY", key));
        }
        for (name, value) in &refused {
            let faults = faults(name, value);
            assert_eq!(faults.len(), 1, "{name}={value}: {faults:?}");
            assert!(faults[0].contains(name) && faults[0].contains("placeholder"), "{name}={value}: {faults:?}");
            let own_words = ["secret of your own, not a placeholder", "a random "];
            let said = own_words.iter().fold(faults[0].clone(), |said, words| said.replace(words, ""));
            assert!(!said.contains(value.as_str()), "{faults:?}");
        }
    }

    #[test]
    fn a_secret_of_ones_own_is_taken() {
        let random = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        for (name, value) in [
            ("JWT_SECRET", random.to_owned()),
            ("JWT_SECRET", "correct horse battery staple, and an example".to_owned()),
            ("SECRETS_KEY", random.to_owned()),
            ("SECRETS_KEY", format!("{random}, {}", random.chars().rev().collect::<String>())),
            ("MODEL_API_KEY", "sk-proj-4Tz9".to_owned()),
            ("MODEL_API_KEY", "EMPTY".to_owned()),
            ("DATABASE_URL", "postgres://chat_app@host/chat".to_owned()),
            ("DATABASE_URL", "postgres://chat_app:hunter2@host/chat?application_name=a@b:password".to_owned()),
            ("REDIS_URL", "redis://127.0.0.1:6379/0".to_owned()),
            ("REDIS_URL", "redis://hub:9f86d081@127.0.0.1:6379".to_owned()),
        ] {
            assert!(faults(name, &value).is_empty(), "{name}={value}: {:?}", faults(name, &value));
        }
    }
}

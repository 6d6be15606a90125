//! Calls a [target](super::TARGETS) with what its corpus becomes when it is shaken: spoiled, cut, spliced, grown, and
//! with other values in the place of its own. A failure is shrunk to the fewest changes that still fail.

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};
use serde_json::Value;

use super::Target;

/// What means something to somebody on the way, or did once.
const WORDS: &[&str] = &[
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "\0",
    "\n",
    "\u{fffe}",
    "\u{202e}",
    "😀",
    "null",
    "-1",
    "9223372036854775808",
    "1e999",
    "0.1",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    ".",
    "..",
    "%00",
    "auth",
    "message",
    "stop",
    "type",
    "text",
    "token",
    "typing",
    "delta",
    "response",
    "ready",
    "accepted",
    "reconnect",
    "web",
    "slack",
    "whatsapp",
    "bot_token",
    "alg",
    "none",
    "kid",
    "exp",
    "sub",
    "01936f6e-0000-7000-8000-000000000000",
    "2026-01-01T00:00:00.000Z",
    "253402300800",
];

/// Cases between two looks at the clock.
const ROUND: u32 = 64;

/// Rounds at least, on however slow a machine.
const ROUNDS: u64 = 4;

/// One change.
#[derive(Debug, Clone)]
enum Change {
    /// A byte is another one.
    Byte(Index, u8),
    /// A word stands here, too.
    Word(Index, Index),
    /// What is between is gone.
    Cut(Index, Index),
    /// What is between stands there again and again.
    Repeat(Index, Index, u8),
    /// It goes on as another entry does.
    Splice(Index, Index),
    /// A value of the JSON is another one; nothing happens to what is no JSON.
    Value(Index, Index),
    /// It lies in so many arrays.
    Nest(u8),
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<Index>;
    prop_oneof![
        1 => (index(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        1 => (index(), index()).prop_map(|(at, word)| Change::Word(at, word)),
        1 => (index(), index()).prop_map(|(from, to)| Change::Cut(from, to)),
        1 => (index(), index(), any::<u8>()).prop_map(|(from, to, times)| Change::Repeat(from, to, times)),
        1 => (index(), index()).prop_map(|(at, entry)| Change::Splice(at, entry)),
        4 => (index(), index()).prop_map(|(place, value)| Change::Value(place, value)),
        1 => any::<u8>().prop_map(Change::Nest),
    ]
}

/// Longest input, in bytes: above the largest frame there is.
const LONGEST: usize = 300_000;

impl Change {
    fn apply(&self, data: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let ends = |from: &Index, to: &Index, length: usize| {
            let (from, to) = (from.index(length + 1), to.index(length + 1));
            (from.min(to), from.max(to))
        };
        match self {
            Self::Byte(at, byte) if !data.is_empty() => *at.get_mut(data) = *byte,
            Self::Byte(_, byte) => data.push(*byte),
            Self::Word(at, word) => {
                let at = at.index(data.len() + 1);
                data.splice(at..at, word.get(WORDS).bytes());
            }
            Self::Cut(from, to) => {
                let (from, to) = ends(from, to, data.len());
                data.drain(from..to);
            }
            Self::Repeat(from, to, times) => {
                let (from, to) = ends(from, to, data.len());
                let piece = data[from..to].repeat(usize::from(*times));
                if data.len() + piece.len() <= LONGEST {
                    data.splice(to..to, piece);
                }
            }
            Self::Splice(at, entry) => {
                let entry = entry.get(corpus);
                data.truncate(at.index(data.len() + 1));
                data.extend_from_slice(&entry[at.index(entry.len() + 1)..]);
            }
            Self::Value(place, value) => {
                let Ok(mut json) = serde_json::from_slice::<Value>(data) else { return };
                let other = serde_json::from_slice(value.get::<Vec<u8>>(corpus))
                    .unwrap_or_else(|_| Value::from(*value.get(WORDS)));
                let others = [
                    Value::Null,
                    true.into(),
                    (-1).into(),
                    0.into(),
                    i64::MAX.into(),
                    u64::MAX.into(),
                    0.5.into(),
                    "".into(),
                    Value::from(*value.get(WORDS)),
                    "x".repeat(9_000).into(),
                    Value::Array(vec![]),
                    Value::Object(serde_json::Map::new()),
                    other,
                ];
                let count = count(&json);
                replace(&mut json, &mut place.index(count), value.get(&others));
                *data = json.to_string().into_bytes();
            }
            Self::Nest(depth) => {
                let depth = usize::from(*depth);
                *data = [&b"[".repeat(depth)[..], data, &b"]".repeat(depth)].concat();
            }
        }
    }
}

/// How many values a JSON value has in it, itself among them.
fn count(json: &Value) -> usize {
    1 + match json {
        Value::Array(values) => values.iter().map(count).sum::<usize>(),
        Value::Object(fields) => fields.values().map(count).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Puts another value in the place of that many's successor, in the order of reading.
fn replace(json: &mut Value, before: &mut usize, other: &Value) {
    if *before == 0 {
        *json = other.clone();
        *before = usize::MAX;
        return;
    }
    *before = before.wrapping_sub(1);
    let values: Vec<&mut Value> = match json {
        Value::Array(values) => values.iter_mut().collect(),
        Value::Object(fields) => fields.values_mut().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    for value in values {
        if *before != usize::MAX {
            replace(value, before, other);
        }
    }
}

/// What a target is called with, shown as text.
struct Input(Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// The entries of a target's corpus.
///
/// # Errors
/// If it has none.
pub fn corpus(name: &str) -> Result<Vec<Vec<u8>>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    files.iter().map(|path| Ok(std::fs::read(path)?)).collect()
}

/// Calls a target with its corpus and then, for so long, with what that becomes when shaken. Returns the number of calls.
///
/// # Errors
/// The smallest input that was found for which something does not hold, and the seed that finds it again.
pub fn shake(name: &str, target: Target, time: Duration, seed: u64) -> Result<u64> {
    let corpus = corpus(name)?;
    let called = |data: &[u8]| std::panic::catch_unwind(|| target(data)).map_err(|panic| words(&*panic));
    for entry in &corpus {
        called(entry).map_err(|why| anyhow!("{name}: {why}\nwith the corpus' {:?}", String::from_utf8_lossy(entry)))?;
    }
    let mut calls = corpus.len() as u64;
    let began = Instant::now();
    let input = (any::<Index>(), prop::collection::vec(change(), 0..12)).prop_map(|(entry, changes)| {
        let mut data = entry.get(&corpus).clone();
        changes.iter().for_each(|change| change.apply(&mut data, &corpus));
        Input(data)
    });
    let mut bytes = [0; 32];
    for round in (0_u64..).take_while(|round| *round < ROUNDS || began.elapsed() < time) {
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&round.to_le_bytes());
        let config = Config { cases: ROUND, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let outcome = runner.run(&input, |Input(data)| called(&data).map_err(TestCaseError::fail));
        calls += u64::from(ROUND);
        outcome.map_err(|failure| anyhow!("{name}, seed {seed}: {failure}"))?;
    }
    Ok(calls)
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let formatted = panic.downcast_ref::<String>().cloned();
    formatted.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "a panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::TARGETS, *};

    #[test]
    fn what_holds_of_every_input_holds_however_it_is_shaken() {
        // Always the same, so that a change is judged by what it changes; `cargo shake` goes on from another each time.
        let seed = 7;
        for (name, target) in TARGETS {
            let calls = shake(name, *target, Duration::from_millis(300), seed).unwrap();
            assert!(calls > u64::from(ROUND) * ROUNDS, "{name} was called {calls} times");
        }
    }

    #[test]
    fn what_does_not_hold_is_found_and_made_small() {
        let picky: Target = |data| assert!(!data.windows(6).any(|window| window == b"whatsa"), "found");
        let found = shake("frame", picky, Duration::from_secs(60), 1).unwrap_err().to_string();
        assert!(found.contains("found") && found.contains("seed 1"), "{found}");
    }
}

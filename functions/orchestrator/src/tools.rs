//! What agents may use besides words. To add a tool, write it here and put it into [`TOOLS`]; an agent has those that its
//! row names.
//!
//! A tool is called with what a model made up, so it believes nothing of it. It reaches what [`Reach`] gives it and no
//! more: the claimed turn's own conversation, in its own tenant.

use std::fmt::Write as _;

use chat_core::{
    conversation::Author,
    store::{Store, claim::Claim},
};
use futures::future::BoxFuture;
use jiff::{Timestamp, tz::TimeZone};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::warn;

use crate::{
    agent,
    model::{Prompt, Said, ToolSpec},
};

/// Every tool there is.
const TOOLS: &[Tool] = &[
    Tool {
        name: "current_time",
        description: "The current date and time in a time zone.",
        parameters: || {
            json!({
                "type": "object",
                "properties": {"zone": {"type": "string", "description": "An IANA time zone, such as Europe/Berlin."}},
                "required": ["zone"],
                "additionalProperties": false,
            })
        },
        run: |_, arguments| Box::pin(async move { current_time(&read(arguments)?) }),
    },
    Tool {
        name: "search_history",
        description: "Finds earlier messages of this conversation that contain all of the given words, newest first.",
        parameters: || {
            json!({
                "type": "object",
                "properties": {"words": {"type": "string", "description": "The words to find, separated by spaces."}},
                "required": ["words"],
                "additionalProperties": false,
            })
        },
        run: |reach, arguments| Box::pin(async move { search_history(reach, &read(arguments)?).await }),
    },
];

/// Longest result of a tool, in characters.
const RESULT_CHARS: usize = 8_000;

/// Messages that a search finds at most.
const FOUND_MOST: i64 = 10;

/// What a tool found, or a sentence for the model that says why it did not.
type Outcome = Result<String, String>;

/// A tool.
struct Tool {
    name: &'static str,
    description: &'static str,
    /// Its arguments, as JSON Schema.
    parameters: fn() -> Value,
    run: for<'a> fn(Reach<'a>, &'a Value) -> BoxFuture<'a, Outcome>,
}

/// What tools can reach.
#[derive(Clone, Copy)]
struct Reach<'a> {
    store: &'a Store,
    claim: &'a Claim,
}

/// The tools of a turn's agent.
pub struct Toolbox<'a> {
    reach: Reach<'a>,
    tools: Vec<&'static Tool>,
}

impl<'a> Toolbox<'a> {
    /// Those that its row names. A name that none has is passed over: the row may be written for a newer version.
    #[must_use]
    pub fn of(store: &'a Store, claim: &'a Claim) -> Self {
        let known = |name: &String| {
            let tool = TOOLS.iter().find(|tool| tool.name == name);
            if tool.is_none() {
                warn!(agent.id = %claim.agent.id, tool = name, "there is no such tool");
            }
            tool
        };
        Self { reach: Reach { store, claim }, tools: claim.agent.tools.iter().filter_map(known).collect() }
    }

    /// The tools, as a model is told of them.
    #[must_use]
    pub fn specs(&self) -> Vec<ToolSpec> {
        let spec = |tool: &&Tool| {
            let Tool { name, description, parameters, .. } = tool;
            ToolSpec { name, description, parameters: parameters() }
        };
        self.tools.iter().map(spec).collect()
    }

    /// Tokens that a prompt of this turn's agent leaves for what they find.
    #[must_use]
    pub fn room(&self, prompt: &Prompt) -> usize {
        let taken: usize = prompt
            .said
            .iter()
            .map(|said| match said {
                Said::User(text) | Said::Agent { text, .. } | Said::Tool { result: text, .. } => agent::tokens(text),
            })
            .sum();
        agent::room(self.reach.claim).saturating_sub(taken)
    }

    /// Uses one.
    ///
    /// # Errors
    /// A sentence for the model: there is no such tool, its arguments cannot be read, or it could not do its work.
    pub async fn run(&self, name: &str, arguments: &Value) -> Outcome {
        let tool = self.tools.iter().find(|tool| tool.name == name).ok_or("There is no such tool.")?;
        let found = (tool.run)(self.reach, arguments).await?;
        Ok(found.chars().take(RESULT_CHARS).collect())
    }
}

fn read<'a, T: Deserialize<'a>>(arguments: &'a Value) -> Result<T, String> {
    T::deserialize(arguments).map_err(|error| format!("The arguments cannot be read: {error}."))
}

#[derive(Deserialize)]
struct InZone {
    zone: String,
}

fn current_time(InZone { zone }: &InZone) -> Outcome {
    let zone = TimeZone::get(zone).map_err(|_| "There is no such time zone.".to_owned())?;
    Ok(Timestamp::now().to_zoned(zone).strftime("%A, %Y-%m-%d %H:%M:%S %:z (%Q)").to_string())
}

#[derive(Deserialize)]
struct WithWords {
    words: String,
}

async fn search_history(reach: Reach<'_>, WithWords { words }: &WithWords) -> Outcome {
    // Postgres takes no NUL, and a model may send one.
    let words = chat_core::text::carried(words);
    let found = reach.store.search(reach.claim, &words, FOUND_MOST).await.map_err(|error| {
        warn!(?error, "history not searched");
        "The history cannot be searched at the moment.".to_owned()
    })?;
    if found.is_empty() {
        return Ok("Nothing was found.".to_owned());
    }
    let mut result = String::new();
    for found in found {
        let who = match found.author {
            Author::User => "user",
            Author::Assistant => "you",
        };
        writeln!(result, "{} {who}: {}", found.at, found.excerpt).expect("a String takes any text");
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_known_by_its_name_on_every_machine() {
        for (zone, offset) in [("Europe/Berlin", ["+01:00", "+02:00"]), ("Asia/Kolkata", ["+05:30", "+05:30"])] {
            let time = current_time(&InZone { zone: zone.to_owned() }).unwrap();
            assert!(time.contains(zone) && offset.iter().any(|offset| time.contains(offset)), "{time}");
        }
        for zone in ["", "Mars/Olympus", "../../etc/passwd", "europe"] {
            assert!(current_time(&InZone { zone: zone.to_owned() }).is_err(), "{zone}");
        }
    }

    #[test]
    fn arguments_are_believed_only_in_their_form() {
        for arguments in [json!(null), json!("Europe/Berlin"), json!({}), json!({"zone": 1}), json!([])] {
            assert!(read::<InZone>(&arguments).is_err(), "{arguments}");
        }
    }

    #[test]
    fn each_tool_has_a_name_of_its_own_and_tells_its_arguments() {
        let names: std::collections::HashSet<_> = TOOLS.iter().map(|tool| tool.name).collect();
        assert_eq!(names.len(), TOOLS.len());
        for tool in TOOLS {
            assert!(tool.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", tool.name);
            assert_eq!((tool.parameters)()["type"], "object");
        }
    }
}

//! Plays the services behind the channels: real HTTP servers on loopback that check what the real ones check, keep what
//! they were sent, and fail as a script says, before or after they did what was asked.

mod http;
pub mod slack;
pub mod whatsapp;

use std::collections::HashMap;

use serde_json::Value;

pub use slack::Slack;
pub use whatsapp::WhatsApp;

/// A call, as a service saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The HTTP method.
    pub method: String,
    /// The path, with its query if it had one.
    pub path: String,
    /// The headers, by their names in small letters.
    pub headers: HashMap<String, String>,
    /// The body; null if it was no JSON.
    pub body: Value,
    /// Which call of this service it is, from 1.
    pub nth: usize,
}

/// What to do with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// What it asks, and say so.
    Do,
    /// Something else instead; nothing is sent to anybody.
    Instead(Ending),
    /// What it asks, and then this.
    Then(Ending),
}

/// How a call ends that does not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// With a status, perhaps `Retry-After`, and a body.
    Answer(u16, Option<&'static str>, String),
    /// Never, until the caller leaves.
    Hang,
    /// With the connection, without a word.
    Cut,
}

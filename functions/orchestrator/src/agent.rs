//! What an agent is asked: who it is, what was said, and the message to answer.

use chat_core::store::turns::{Claim, Exchange};

/// A question to a model. Built only from rows read under the turn's own tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Which model is asked.
    pub model: String,
    /// What the agent was told about itself.
    pub system: String,
    /// What was said before, oldest first.
    pub history: Vec<Exchange>,
    /// The message to answer.
    pub message: String,
}

/// The prompt of a claimed turn.
#[must_use]
pub fn prompt(claim: &Claim) -> Prompt {
    let (message, history) =
        claim.history.split_last().map_or_else(Default::default, |(last, before)| (last.said.clone(), before.to_vec()));
    Prompt { model: claim.agent.model.clone(), system: claim.agent.system_prompt.clone(), history, message }
}

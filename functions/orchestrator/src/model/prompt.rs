//! What is asked of a model, in no provider's dialect.

use chat_core::ids::TenantId;
use serde_json::Value;
use tokio::time::Instant;

/// A question to a model. Built only from rows read under the turn's own tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// Whose it is; their own keys are used where they have some.
    pub tenant: TenantId,
    /// Which model is asked, and which ones after it, in this order, where it gives no answer. Never empty.
    pub models: Vec<String>,
    /// What the agent was told about itself.
    pub system: String,
    /// What was said, oldest first; the last is what shall be answered.
    pub said: Vec<Said>,
    /// What the model may call.
    pub tools: Vec<ToolSpec>,
    /// How freely it speaks, 0 to 2; the model's own choice if absent.
    pub temperature: Option<f32>,
    /// Longest answer, in the model's tokens; the model's own choice if absent.
    pub max_output_tokens: Option<u32>,
    /// When the whole answer must be there; a turn's length from now if absent.
    pub until: Option<Instant>,
}

impl Prompt {
    /// The words that shall be answered; nothing where the last word was not the user's.
    #[must_use]
    pub fn message(&self) -> &str {
        match self.said.last() {
            Some(Said::User(text)) => text,
            Some(Said::Agent { .. } | Said::Tool { .. }) | None => "",
        }
    }
}

/// Something that was said.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// By the user.
    User(String),
    /// By the agent, or a person in its stead.
    Agent {
        /// The words; may be empty where tools were called.
        text: String,
        /// What it called.
        calls: Vec<ToolCall>,
    },
    /// By a tool, in answer to a call.
    Tool {
        /// The call's id.
        id: String,
        /// The tool.
        name: String,
        /// What it found, or what went wrong.
        result: String,
    },
}

/// A tool, as a model is told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    /// Its name: letters, digits and underscores.
    pub name: &'static str,
    /// What it is good for.
    pub description: &'static str,
    /// Its arguments, as JSON Schema.
    pub parameters: Value,
}

/// A model's wish to use a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// The provider's id of the call; one of ours where it gives none.
    pub id: String,
    /// Which tool.
    pub name: String,
    /// With which arguments: a JSON object, or whatever the model made of one.
    pub arguments: Value,
    /// What the provider wants to see again along with the call.
    pub opaque: Option<Value>,
}

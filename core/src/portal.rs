//! Who somebody is, what they may talk to, and what that took, as REST shows it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    caller::Role,
    conversation::Author,
    ids::{AgentId, ConversationId, MessageId, TenantId, UserId},
    timestamp::Timestamp,
};

/// The caller, as the database knows them now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Me {
    /// Their id.
    pub id: UserId,
    /// What they are called.
    pub display_name: String,
    /// What they are.
    pub role: Role,
    /// Where they belong, by name. A platform_admin may act in every other company, too.
    pub tenants: Vec<Membership>,
}

/// A company that somebody belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Membership {
    /// The company.
    pub id: TenantId,
    /// What it is called.
    pub name: String,
    /// What they may do there: the lesser of what they are and what the company knows them as.
    pub role: Role,
}

/// An AI employee, to whoever may talk to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentCard {
    /// Its id.
    pub id: AgentId,
    /// The company.
    pub tenant_id: TenantId,
    /// What it is called.
    pub name: String,
    /// The caller's conversation with it; `null` while there is none.
    #[schema(required)]
    pub conversation_id: Option<ConversationId>,
}

/// A message in which words were found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hit {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The AI employee.
    pub agent_id: AgentId,
    /// What that is called.
    pub agent_name: String,
    /// What the conversation is about; `null` while nobody has said so.
    #[schema(required)]
    pub title: Option<String>,
    /// The message.
    pub message_id: MessageId,
    /// Its place in the conversation.
    pub seq: i64,
    /// Who spoke.
    pub role: Author,
    /// When it was stored.
    pub created_at: Timestamp,
    /// The words with some around them, in their order; to be shown as text.
    pub snippet: Vec<Piece>,
}

/// A piece of a snippet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Piece {
    /// What it says.
    pub text: String,
    /// It is one of the words that were looked for.
    pub hit: bool,
}

/// What one agent took of one model on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// The day, UTC: `2026-11-26`.
    pub day: String,
    /// The agent.
    pub agent_id: AgentId,
    /// What it is called; `null` for one that is gone.
    #[schema(required)]
    pub agent_name: Option<String>,
    /// The model, as agents name it.
    pub model: String,
    /// Turns for which it was asked, of the web and other channels.
    pub turns: i64,
    /// Times it was asked, those that failed among them.
    pub calls: i64,
    /// Tokens read, as the provider reported them.
    pub input_tokens: i64,
    /// Tokens written, as the provider reported them.
    pub output_tokens: i64,
    /// Tokens of calls that nobody reported (yet): an estimate, which counts as spent.
    pub reserved_tokens: i64,
}

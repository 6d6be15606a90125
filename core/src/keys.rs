//! Every name in Redis. No name can be built without its tenant, which comes first.
//!
//! [`Topic`] and [`Key`] can be made nowhere else, so a name in a string literal does not reach the bus.

use std::{fmt, sync::Arc, time::Duration};

use crate::ids::{AgentId, ConversationId, TenantId, TurnId, UserId};

/// A pub-sub channel. One name for all who listen there: cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topic(Arc<str>);

/// A key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

/// Where the frames of a conversation are published: `{tenant}:webchat:response:{conversation}`.
#[must_use]
pub fn webchat_response_key(tenant: TenantId, conversation: ConversationId) -> Topic {
    Topic(format!("{tenant}:webchat:response:{conversation}").into())
}

/// The conversation whose frames are published under this name, if it is one of [`webchat_response_key`].
#[must_use]
pub fn conversation_of(topic: &str) -> Option<ConversationId> {
    topic.rsplit_once(":webchat:response:")?.1.parse().ok()
}

/// The text so far of a running reply: `{tenant}:webchat:partial:{turn}`.
///
/// It needs no slot in common with its conversation's topic: it is on the Redis of all keys, and where a cluster publishes,
/// the script that appends does not.
#[must_use]
pub fn webchat_partial_key(tenant: TenantId, turn: TurnId) -> Key {
    Key(format!("{tenant}:webchat:partial:{turn}"))
}

/// Hints that a running turn shall stop: `{tenant}:webchat:stop:{turn}`. The truth is the turn's row.
#[must_use]
pub fn webchat_stop_key(tenant: TenantId, turn: TurnId) -> Key {
    Key(format!("{tenant}:webchat:stop:{turn}"))
}

/// The short-term memory of an agent about a person: `{tenant}:memory:short:{agent}:{user}`.
#[must_use]
pub fn memory_short_key(tenant: TenantId, agent: AgentId, user: UserId) -> Key {
    Key(format!("{tenant}:memory:short:{agent}:{user}"))
}

/// How long Redis keeps [`escalation_status_key`]. What it forgets is in the conversation's column.
pub const ESCALATION_EXPIRY: Duration = Duration::from_secs(24 * 3_600);

/// Says that a person has taken a thread over: `{tenant}:escalation:status:{thread}`. A cache of the
/// conversation's column; `thread` is whatever the channel calls a thread, on the web the conversation's id.
#[must_use]
pub fn escalation_status_key(tenant: TenantId, thread: &str) -> Key {
    Key(format!("{tenant}:escalation:status:{thread}"))
}

/// How fast a person may write on the web: `{tenant}:ratelimit:web:{user}`.
#[must_use]
pub fn ratelimit_key(tenant: TenantId, user: UserId) -> Key {
    Key(format!("{tenant}:ratelimit:web:{user}"))
}

/// Keys by what their names have in common, in the notation of SCAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

/// Every key of a company: `{tenant}:*`.
#[must_use]
pub fn keys_of_tenant(tenant: TenantId) -> Pattern {
    Pattern(format!("{tenant}:*"))
}

/// Every key that names a person, in whatever company: `*:{user}*`.
#[must_use]
pub fn keys_of_user(user: UserId) -> Pattern {
    Pattern(format!("*:{user}*"))
}

impl Pattern {
    /// The pattern as Redis reads it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How many sockets a person has in a tenant, by hub: `{tenant}:sockets:user:{user}`.
#[must_use]
pub fn user_sockets_key(tenant: TenantId, user: UserId) -> Key {
    Key(format!("{tenant}:sockets:user:{user}"))
}

/// How many sockets everybody has in a tenant, by hub: `{tenant}:sockets:tenant`.
#[must_use]
pub fn tenant_sockets_key(tenant: TenantId) -> Key {
    Key(format!("{tenant}:sockets:tenant"))
}

impl Topic {
    /// The name as Redis sees it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Key {
    /// The name as Redis sees it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

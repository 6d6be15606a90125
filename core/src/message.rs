//! A message of any channel, in the one form that the orchestrator knows.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    ids::{ConversationId, MessageId, TenantId, UserId},
    timestamp::Timestamp,
};

macro_rules! channels {
    ($($variant:ident = $name:literal)*) => {
        /// Where a message came from, and where its answer goes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ChannelType {
            $(#[doc = concat!("`", $name, "`")] #[serde(rename = $name)] $variant,)*
        }

        impl ChannelType {
            /// Every channel there is.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The channel as tables, messages and clients write it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

channels! {
    Slack = "slack"
    WhatsApp = "whatsapp"
    Mattermost = "mattermost"
    RocketChat = "rocketchat"
    Teams = "teams"
    Telegram = "telegram"
    Signal = "signal"
    Web = "web"
}

impl fmt::Display for ChannelType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ChannelType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .copied()
            .find(|channel| channel.as_str() == text)
            .ok_or_else(|| format!("no such channel: {text}"))
    }
}

/// A message of any channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KonstructMessage {
    /// The message's id in its channel; on the web a [`MessageId`].
    pub id: String,
    /// The company it belongs to, once that is known.
    #[serde(default)]
    pub tenant_id: Option<TenantId>,
    /// Where it came from.
    pub channel: ChannelType,
    /// What only that channel knows.
    #[serde(default)]
    pub channel_metadata: Map<String, Value>,
    /// Who wrote it.
    pub sender: SenderInfo,
    /// What it says.
    pub content: MessageContent,
    /// When it was written.
    pub timestamp: Timestamp,
    /// The thread in its channel; on the web the conversation's id.
    #[serde(default)]
    pub thread_id: Option<String>,
    /// The message it answers.
    #[serde(default)]
    pub reply_to: Option<String>,
    /// What was added on the way.
    #[serde(default)]
    pub context: Map<String, Value>,
}

/// Who wrote a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderInfo {
    /// Their id in the channel; on the web a [`UserId`].
    pub user_id: String,
    /// Their name, where the channel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageContent {
    /// The words. Empty in a queue message of the web channel, whose text is in Postgres.
    pub text: String,
    /// What came with them.
    #[serde(default)]
    pub attachments: Vec<Value>,
}

/// A message as the web chat receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebEvent {
    /// The id under which it is stored.
    pub message_id: MessageId,
    /// The company.
    pub tenant_id: TenantId,
    /// The conversation, which is the thread.
    pub conversation_id: ConversationId,
    /// Who wrote it.
    pub portal_user_id: UserId,
    /// Their name, if it is at hand.
    pub display_name: Option<String>,
    /// What it says.
    pub text: String,
    /// When it was written.
    pub timestamp: Timestamp,
}

/// Brings a web message into the common form.
#[must_use]
pub fn normalize_web_event(event: WebEvent) -> KonstructMessage {
    let metadata = [
        ("portal_user_id", json!(event.portal_user_id)),
        ("tenant_id", json!(event.tenant_id)),
        ("conversation_id", json!(event.conversation_id)),
    ];
    KonstructMessage {
        id: event.message_id.to_string(),
        tenant_id: Some(event.tenant_id),
        channel: ChannelType::Web,
        channel_metadata: metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        sender: SenderInfo { user_id: event.portal_user_id.to_string(), display_name: event.display_name },
        content: MessageContent { text: event.text, attachments: Vec::new() },
        timestamp: event.timestamp,
        thread_id: Some(event.conversation_id.to_string()),
        reply_to: None,
        context: Map::new(),
    }
}

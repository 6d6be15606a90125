//! The frames of the socket, both ways. The server's are also what is published on the bus.

use std::borrow::Cow;

use serde::{Deserialize, Serialize, de::Error as _};
use utoipa::{PartialSchema, ToSchema, openapi};

use crate::{
    conversation::{Message, Origin, Status, ToolState, TurnState},
    error::Code,
    ids::{ClientMessageId, ConversationId, MessageId, SocketId, TurnId, UserId},
    secret::Secret,
    timestamp::Timestamp,
};

/// What a client sends. Unknown fields are ignored.
#[derive(Debug)]
pub enum ClientFrame {
    /// Must be the first; later it brings a fresh token.
    Auth(Auth),
    /// A message for the agent.
    Message(Said),
    /// Ends a turn that is still open.
    Stop(Stop),
    /// Says how far the conversation's owner has read.
    Read(Read),
    /// Any other `type`.
    Unknown,
}

/// A frame that a client may send: its `type`, and how the rest is read.
pub struct FrameType {
    /// Its `type`.
    pub name: &'static str,
    read: fn(&str) -> serde_json::Result<ClientFrame>,
    /// What the rest is like, for the document of the socket.
    pub schema: fn() -> openapi::RefOr<openapi::Schema>,
}

/// Every frame that a client may send. [`ClientFrame::parse`] reads by this table, so neither can fall behind the other.
pub const CLIENT_FRAMES: &[FrameType] = &[
    FrameType { name: "auth", read: |text| serde_json::from_str(text).map(ClientFrame::Auth), schema: Auth::schema },
    FrameType {
        name: "message",
        read: |text| serde_json::from_str(text).map(ClientFrame::Message),
        schema: Said::schema,
    },
    FrameType { name: "stop", read: |text| serde_json::from_str(text).map(ClientFrame::Stop), schema: Stop::schema },
    FrameType { name: "read", read: |text| serde_json::from_str(text).map(ClientFrame::Read), schema: Read::schema },
];

impl ClientFrame {
    /// Reads a frame: a JSON object. The library would read an array as one, too.
    ///
    /// # Errors
    /// What cannot be read, and where.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Typed<'a> {
            #[serde(borrow, rename = "type")]
            name: Cow<'a, str>,
        }
        if !text.trim_start().starts_with('{') {
            return Err(serde_json::Error::custom("a frame is a JSON object"));
        }
        let Typed { name } = serde_json::from_str(text)?;
        let known = CLIENT_FRAMES.iter().find(|known| known.name == name);
        known.map_or(Ok(Self::Unknown), |known| (known.read)(text))
    }
}

/// A message for the agent.
#[derive(Debug, Deserialize, ToSchema)]
pub struct Said {
    /// What it says.
    pub text: String,
    /// The client's own id of it.
    #[serde(default)]
    pub client_message_id: Option<ClientMessageId>,
}

/// Which turn shall end.
#[derive(Debug, Deserialize, ToSchema)]
pub struct Stop {
    /// This one.
    pub turn_id: TurnId,
}

/// How far the conversation's owner has read.
#[derive(Debug, Deserialize, ToSchema)]
pub struct Read {
    /// Up to this `seq`. The newest mark counts; it never goes back.
    pub seq: i64,
}

/// Who the client says it is, and where it was.
#[derive(Deserialize, ToSchema)]
pub struct Auth {
    /// The signed token; the only field that is believed. Without it nobody comes in.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub token: Option<Secret>,
    /// As in the original; compared, never believed.
    #[serde(default, rename = "userId")]
    pub user_id: Option<String>,
    /// As in the original; compared, never believed.
    #[serde(default)]
    pub role: Option<String>,
    /// As in the original; compared, never believed.
    #[serde(default, rename = "tenantId")]
    pub tenant_id: Option<String>,
    /// The newest `seq` this client has seen; what came after is sent first.
    #[serde(default)]
    pub last_seq: Option<i64>,
    /// The epoch that `last_seq` belongs to; the current one if absent.
    #[serde(default)]
    pub epoch: Option<i32>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("last_seq", &self.last_seq).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// What the server sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame {
    /// Authenticated, and everything missed was sent.
    Ready {
        /// The conversation of this socket.
        conversation_id: ConversationId,
        /// The newest `seq` of the conversation.
        last_seq: i64,
        /// The current epoch.
        epoch: i32,
        /// The client's `last_seq` was ours, and what came after it was sent.
        resumed: bool,
        /// When the token ends; a fresh one in another `auth` frame moves it.
        expires_at: Timestamp,
        /// Who answers.
        status: Status,
        /// Up to which `seq` the conversation's owner has read.
        #[serde(default)]
        #[schema(required)]
        read_seq: i64,
    },
    /// Somebody is writing.
    Typing {
        /// The conversation.
        conversation_id: ConversationId,
        /// Who.
        origin: Origin,
        /// On the bus alone: the socket that was told directly and need not hear it again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(ignore)]
        via: Option<SocketId>,
    },
    /// The client's message is stored; from here it cannot be lost.
    Accepted {
        /// The id it got.
        message_id: MessageId,
        /// Its place in the conversation.
        seq: i64,
        /// The turn that will answer it.
        turn_id: TurnId,
        /// The client's own id, if it gave one.
        #[schema(required)]
        client_message_id: Option<ClientMessageId>,
        /// The same message was accepted before; this is its answer again.
        duplicate: bool,
    },
    /// A message of this conversation that came another way.
    Message {
        /// The message, as in REST.
        message: Message,
    },
    /// What became of a turn, unless a `response` says it.
    Turn {
        /// Which.
        turn_id: TurnId,
        /// Its state.
        state: TurnState,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        code: Option<Code>,
        /// The reply, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        message_id: Option<MessageId>,
    },
    /// A piece of a running reply.
    Delta {
        /// The turn that it will end.
        turn_id: TurnId,
        /// Which claim of the turn writes it; a later one begins again.
        attempt: i32,
        /// Where it starts, in Unicode code points; 0 replaces what was there.
        offset: usize,
        /// What it adds.
        text: String,
    },
    /// The agent uses a tool.
    Tool {
        /// The turn it works on.
        turn_id: TurnId,
        /// The tool.
        name: String,
        /// How far it is.
        state: ToolState,
    },
    /// A whole reply, after it was stored.
    Response {
        /// What it says.
        text: String,
        /// The conversation.
        conversation_id: ConversationId,
        /// The reply's id.
        message_id: MessageId,
        /// Its place in the conversation.
        seq: i64,
        /// The turn it ends; absent on a person's answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        turn_id: Option<TurnId>,
        /// When it was stored.
        created_at: Timestamp,
        /// The person who answered in the agent's stead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        author_id: Option<UserId>,
    },
    /// The conversation was handed to a person or back.
    Status {
        /// Who answers now.
        status: Status,
        /// Who handed it over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        by: Option<UserId>,
    },
    /// The conversation's owner has read on, here or elsewhere.
    Read {
        /// The conversation.
        conversation_id: ConversationId,
        /// Up to which `seq`.
        seq: i64,
    },
    /// What the conversation is called has changed, or whether its owner wants to see it.
    Conversation {
        /// The conversation.
        conversation_id: ConversationId,
        /// What it is about; `null` while nobody has said so.
        #[schema(required)]
        title: Option<String>,
        /// Whether its owner has put it away.
        archived: bool,
    },
    /// A failed turn, a bad frame, a limit.
    Error {
        /// One of the closed list.
        code: Code,
        /// A sentence for the user.
        message: String,
        /// The turn that failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        turn_id: Option<TurnId>,
        /// The message that was refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        client_message_id: Option<ClientMessageId>,
        /// When to try again, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        retry_after_ms: Option<u64>,
    },
    /// The conversation was reset, or the client's position is not ours: drop what you show and read again.
    Reset {
        /// The epoch that holds now.
        epoch: i32,
    },
    /// This hub is going away.
    Reconnect {
        /// Come back after this many milliseconds.
        delay_ms: u64,
    },
}

impl ServerFrame {
    /// The frame as it is written.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("ids, numbers and text are always JSON")
    }

    /// The conversation that this frame names, for those that name one.
    #[must_use]
    pub fn conversation(&self) -> Option<ConversationId> {
        match self {
            Self::Ready { conversation_id, .. }
            | Self::Typing { conversation_id, .. }
            | Self::Read { conversation_id, .. }
            | Self::Conversation { conversation_id, .. }
            | Self::Response { conversation_id, .. } => Some(*conversation_id),
            Self::Accepted { .. }
            | Self::Message { .. }
            | Self::Turn { .. }
            | Self::Delta { .. }
            | Self::Tool { .. }
            | Self::Status { .. }
            | Self::Error { .. }
            | Self::Reset { .. }
            | Self::Reconnect { .. } => None,
        }
    }

    /// The place in the conversation that this frame takes, for those that take one.
    #[must_use]
    pub fn seq(&self) -> Option<i64> {
        match self {
            Self::Accepted { seq, .. } | Self::Response { seq, .. } => Some(*seq),
            Self::Message { message } => Some(message.seq),
            Self::Ready { .. }
            | Self::Typing { .. }
            | Self::Turn { .. }
            | Self::Delta { .. }
            | Self::Tool { .. }
            | Self::Status { .. }
            | Self::Read { .. }
            | Self::Conversation { .. }
            | Self::Error { .. }
            | Self::Reset { .. }
            | Self::Reconnect { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_frame_is_read_for_what_it_is() {
        let read = ClientFrame::parse;
        assert!(matches!(read(r#"{"type":"auth","token":"t","userId":null,"extra":1}"#), Ok(ClientFrame::Auth(_))));
        assert!(matches!(read(r#"{"type":"message","text":"hi"}"#), Ok(ClientFrame::Message(_))));
        assert!(matches!(read(r#"{"type":"dance","text":"hi"}"#), Ok(ClientFrame::Unknown)));
        for bad in [
            r#"{"type":"message"}"#,
            r#"{"text":"hi"}"#,
            "[]",
            "1",
            "",
            r#"["message","hi"]"#,
            r#"{"type":"auth","userId":1}"#,
            r#"{"type":"stop"}"#,
            r#"{"type":"stop","type":"stop","turn_id":"0193"}"#,
            r#"{"type":1}"#,
            r#"{"type":"dance","text":"hi"} more"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_token_of_a_frame_is_not_printed() {
        let frame = ClientFrame::parse(r#"{"type":"auth","token":"hunter2","userId":"hunter2","epoch":3}"#).unwrap();
        let printed = format!("{frame:?}");
        assert!(printed.contains("epoch: Some(3)") && !printed.contains("hunter2"), "{printed}");
    }

    #[test]
    fn the_originals_response_frame_is_in_ours() {
        let conversation = ConversationId::new();
        let frame = ServerFrame::Response {
            text: "hello".to_owned(),
            conversation_id: conversation,
            message_id: MessageId::new(),
            seq: 2,
            turn_id: None,
            created_at: Timestamp::now(),
            author_id: None,
        };
        let json: serde_json::Value = serde_json::from_str(&frame.json()).unwrap();
        assert_eq!(json["type"], "response");
        assert_eq!(json["text"], "hello");
        assert_eq!(json["conversation_id"], conversation.to_string());
    }
}

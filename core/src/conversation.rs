//! A conversation and what is in it, as REST and the socket show them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::Code,
    event::ServerFrame,
    ids::{AgentId, ConversationId, MessageId, TenantId, TurnId, UserId},
    timestamp::Timestamp,
};

/// The one thread of a person with an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Conversation {
    /// Its id.
    pub id: ConversationId,
    /// The company.
    pub tenant_id: TenantId,
    /// The AI employee.
    pub agent_id: AgentId,
    /// The AI employee's name.
    pub agent_name: String,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When something last happened in it.
    pub updated_at: Timestamp,
    /// The beginning of its newest message; `null` while there is none.
    #[schema(required)]
    pub last_message_preview: Option<String>,
    /// Who answers.
    pub status: Status,
    /// Counts the resets.
    pub epoch: i32,
    /// The `seq` of its newest message ever; 0 while there was none.
    pub last_seq: i64,
    /// What it is about, in its owner's words or its agent's; `null` while nobody has said so.
    #[schema(required)]
    pub title: Option<String>,
    /// When its owner put it away; `null` while it is in sight.
    #[schema(required)]
    pub archived_at: Option<Timestamp>,
    /// Up to which `seq` its owner has read.
    pub read_seq: i64,
    /// Replies that its owner has not read, counted up to 100; absent in somebody else's conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub unread: Option<i64>,
    /// Why a person answers, and who; absent while the agent does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub escalation: Option<Escalation>,
}

/// Why a person answers in a conversation, and who.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Escalation {
    /// Since when.
    pub since: Timestamp,
    /// What the matched rule says; empty if nobody said why.
    pub reason: String,
    /// The person who took it away from the agent; absent where a rule did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub by: Option<UserId>,
    /// The person who answers; absent while it waits for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub taken_by: Option<UserId>,
    /// Whose conversation it is.
    pub user_id: UserId,
    /// What they are called; `null` for somebody who is no member of the company (any more).
    #[schema(required)]
    pub user_name: Option<String>,
    /// The last of what was said, oldest first; in the list with `status=escalated` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub transcript: Option<Vec<Line>>,
}

/// One line of a transcript. A transcript has at most 30 lines and 3,000 characters; the oldest line's end is cut where
/// it does not fit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Line {
    /// Its place in the conversation.
    pub seq: i64,
    /// Who speaks.
    pub role: Author,
    /// The person who wrote it, where that is not the one the role suggests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub author_id: Option<UserId>,
    /// What it says.
    pub content: String,
    /// When it was stored.
    pub created_at: Timestamp,
}

/// One entry of a conversation, as REST and the socket show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// Its place: 1, 2, 3 … without gaps, never restarted.
    pub seq: i64,
    /// Who speaks.
    pub role: Author,
    /// What it says.
    pub content: String,
    /// When it was stored.
    pub created_at: Timestamp,
    /// The message it answers.
    #[schema(required)]
    pub reply_to: Option<MessageId>,
    /// The person who wrote it, where that is not the one the role suggests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub author_id: Option<UserId>,
    /// What became of it; on user messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub turn: Option<Turn>,
    /// What the conversation's owner thinks of it; on replies that they have rated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub feedback: Option<Feedback>,
}

impl Message {
    /// The frame that brings this message to a socket that has not seen it.
    #[must_use]
    pub fn into_frame(self, conversation: ConversationId) -> ServerFrame {
        match self.role {
            Author::User => ServerFrame::Message { message: self },
            Author::Assistant => ServerFrame::Response {
                text: self.content,
                conversation_id: conversation,
                message_id: self.id,
                seq: self.seq,
                turn_id: self.reply_to.map(TurnId::from),
                created_at: self.created_at,
                author_id: self.author_id,
            },
        }
    }
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Turn {
    /// The turn's id.
    pub id: TurnId,
    /// Where it is.
    pub state: TurnState,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub code: Option<Code>,
}

/// What somebody thinks of a reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Feedback {
    /// Whether it was of use.
    pub rating: Rating,
    /// Why, in their words; `null` if they did not say.
    #[schema(required)]
    pub comment: Option<String>,
    /// When they said so.
    pub rated_at: Timestamp,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $variant:ident = $word:tt)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        pub enum $name {
            $($(#[$word_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// The word as tables and clients write it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    other => Err(format!("{}: no such value: {other}", stringify!($name))),
                }
            }
        }
    };
}

words! {
    /// Who speaks.
    Author {
        /// The portal user.
        User = "user"
        /// The agent, or a person in its stead.
        Assistant = "assistant"
    }
}

words! {
    /// Who answers in a conversation.
    Status {
        /// The agent.
        Agent = "agent"
        /// A person.
        Escalated = "escalated"
    }
}

words! {
    /// Whether a reply was of use.
    Rating {
        /// A thumb up.
        Up = "up"
        /// A thumb down.
        Down = "down"
    }
}

words! {
    /// Who is typing.
    Origin {
        /// The agent, or a person in its stead.
        Agent = "agent"
        /// The portal user, elsewhere.
        User = "user"
    }
}

words! {
    /// How far a tool is that the agent uses.
    ToolState {
        /// It works.
        Running = "running"
        /// It found something.
        Done = "done"
        /// It found nothing, or could not look.
        Failed = "failed"
    }
}

words! {
    /// Where a turn is.
    TurnState {
        /// Waits for its predecessors or a worker.
        Queued = "queued"
        /// A worker has it.
        Running = "running"
        /// Ended: the reply is stored.
        Answered = "answered"
        /// Ended: `code` says why.
        Failed = "failed"
        /// Ended: the user or a reset stopped it.
        Stopped = "stopped"
        /// Ended: a person answers.
        Escalated = "escalated"
    }
}

impl TurnState {
    /// The ends, in the order in which they are counted.
    pub const ENDS: [Self; 4] = [Self::Answered, Self::Failed, Self::Stopped, Self::Escalated];

    /// Which of the [`ENDS`](Self::ENDS) it is, if it is one.
    #[must_use]
    pub fn end(self) -> Option<usize> {
        Self::ENDS.iter().position(|end| *end == self)
    }

    /// Whether nothing more comes.
    #[must_use]
    pub fn ended(self) -> bool {
        self.end().is_some()
    }
}

//! One type for each kind of id, so that no two can be swapped.
//!
//! All are UUIDs; those made here are version 7, whose order is the order of their making,
//! which keeps the indexes they stand in compact.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, version 7: later ones sort after earlier ones.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "a default id would be a new one each time")]
            #[expect(clippy::disallowed_methods, reason = "the one place that makes ids")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The bare UUID, for a boundary that knows only those.
            #[must_use]
            pub fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        #[cfg(feature = "store")]
        impl<'a> tokio_postgres::types::FromSql<'a> for $name {
            fn from_sql(
                ty: &tokio_postgres::types::Type,
                raw: &'a [u8],
            ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
                Uuid::from_sql(ty, raw).map(Self)
            }
            fn accepts(ty: &tokio_postgres::types::Type) -> bool {
                <Uuid as tokio_postgres::types::FromSql<'_>>::accepts(ty)
            }
        }

        #[cfg(feature = "store")]
        impl tokio_postgres::types::ToSql for $name {
            fn to_sql(
                &self,
                ty: &tokio_postgres::types::Type,
                out: &mut tokio_postgres::types::private::BytesMut,
            ) -> Result<tokio_postgres::types::IsNull, Box<dyn std::error::Error + Sync + Send>> {
                self.0.to_sql(ty, out)
            }
            fn accepts(ty: &tokio_postgres::types::Type) -> bool {
                <Uuid as tokio_postgres::types::ToSql>::accepts(ty)
            }
            tokio_postgres::types::to_sql_checked!();
        }
    )*};
}

ids! {
    /// An AI employee.
    AgentId
    /// One entry of the audit.
    AuditId
    /// The client's own id of a message: the same one again is the same message.
    ClientMessageId
    /// One connection of a company to a channel: its bot, its number.
    ConnectionId
    /// The one thread of (tenant, agent, user) on the web channel.
    ConversationId
    /// One entry of a conversation.
    MessageId
    /// One request at an edge, for the log and the error body.
    RequestId
    /// One socket of one hub, so that its own echo can be told.
    SocketId
    /// One customer company.
    TenantId
    /// One user message and what becomes of it; on the web equal to that message's [`MessageId`].
    TurnId
    /// One portal user.
    UserId
}

impl From<MessageId> for TurnId {
    /// A turn carries the id of the message it answers.
    fn from(message: MessageId) -> Self {
        Self(message.0)
    }
}

impl From<TurnId> for MessageId {
    /// The message that a turn answers.
    fn from(turn: TurnId) -> Self {
        Self(turn.0)
    }
}

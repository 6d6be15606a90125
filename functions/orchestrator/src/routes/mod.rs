//! Where the answer to a message goes: a route for each channel.

pub mod split;
pub mod web;

use chat_core::{
    Error, Result,
    ids::{ConversationId, TenantId},
    job::Job,
    message::ChannelType,
};
use tracing::warn;

/// Where an answer goes, with all that it needs to get there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// To the sockets of a web conversation.
    Web {
        /// The company.
        tenant: TenantId,
        /// The conversation.
        conversation: ConversationId,
    },
}

impl Route {
    /// Finds the route of a message.
    ///
    /// # Errors
    /// [`Code::Invalid`](chat_core::Code::Invalid), logged as a warning, if the message lacks what its route needs, or
    /// nobody answers on its channel.
    pub fn of(job: &Job) -> Result<Self> {
        let channel = job.message.channel;
        let lacks = |field: &'static str| {
            warn!(%channel, message.id = job.message.id, lacks = field, "no way to answer this message");
            Error::field(field, format!("is needed to answer on {channel}"))
        };
        match channel {
            ChannelType::Web => Ok(Self::Web {
                tenant: job.message.tenant_id.ok_or_else(|| lacks("tenant_id"))?,
                conversation: job.extras.conversation_id.ok_or_else(|| lacks("conversation_id"))?,
            }),
            ChannelType::Slack
            | ChannelType::WhatsApp
            | ChannelType::Mattermost
            | ChannelType::RocketChat
            | ChannelType::Teams
            | ChannelType::Telegram
            | ChannelType::Signal => {
                warn!(%channel, message.id = job.message.id, "nobody answers on this channel");
                Err(Error::field("channel", format!("{channel} has no reply route")))
            }
        }
    }
}

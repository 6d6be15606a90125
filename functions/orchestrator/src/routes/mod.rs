//! Where the answer to a message goes: a route for each channel.
//!
//! [`Route::of`] takes from a message what its channel's route needs; [`send_response`] takes the answer there. On the
//! [`web`] an answer is stored and then announced; to [`slack`] and [`whatsapp`] it is sent, [`split`] where it is too
//! long, and [`delivery`] knows what came of that.

pub mod delivery;
pub mod slack;
pub mod split;
pub mod web;
pub mod whatsapp;

use chat_core::{
    Error, Result,
    config::Secret,
    ids::{ConversationId, TenantId},
    job::{CONNECTED_BY, Job, POSTED_IN},
    message::ChannelType,
};
use tokio::time::Instant;
use tracing::warn;

use delivery::{Channels, Failure};

/// Where an answer goes, with all that it needs to get there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To the sockets of a web conversation.
    Web {
        /// The company.
        tenant: TenantId,
        /// The conversation.
        conversation: ConversationId,
    },
    /// To a service that is not ours.
    Channel(ChannelRoute),
}

/// A route to a service that is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelRoute {
    /// The company.
    pub tenant: TenantId,
    /// What its connection is called in the channel, as far as the message says.
    pub connected_by: Vec<String>,
    /// The thread that the message belongs to, in words that no other thread of the connection has.
    pub thread: String,
    /// Who is answered, and where.
    pub to: Recipient,
}

/// Who is answered, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// In a channel of Slack.
    Slack(slack::Place),
    /// On somebody's phone.
    WhatsApp(whatsapp::Chat),
}

/// Longest id that a channel may have for anything, in bytes. Theirs have less than 200.
const LONGEST_ID: usize = 512;

impl Route {
    /// Finds the route of a message.
    ///
    /// # Errors
    /// [`Code::Invalid`](chat_core::Code::Invalid), logged as a warning, if the message lacks what its route needs, or
    /// nobody answers on its channel.
    pub fn of(job: &Job) -> Result<Self> {
        let (channel, message, extras) = (job.message.channel, &job.message, &job.extras);
        let refused = |error: Error| {
            warn!(%channel, message.id = message.id, ?error, "no way to answer this message");
            error
        };
        let lacks = |field: &'static str| {
            warn!(%channel, message.id = message.id, lacks = field, "no way to answer this message");
            Error::field(field, format!("is needed to answer on {channel}"))
        };
        let tenant = || message.tenant_id.ok_or_else(|| lacks("tenant_id"));
        // What a channel calls something: there, short, and without characters that no table carries.
        let id = |field: &'static str, id: Option<&str>| {
            let id = id.filter(|id| !id.is_empty()).ok_or_else(|| lacks(field))?;
            if id.len() > LONGEST_ID || id.chars().any(char::is_control) {
                return Err(refused(Error::field(field, "is no id of a channel")));
            }
            Ok(id.to_owned())
        };
        let optional = |field, text: Option<&str>| text.map(|text| id(field, Some(text))).transpose();
        let metadata = |name: &str| message.channel_metadata.get(name).and_then(|value| value.as_str());
        match channel {
            ChannelType::Web => Ok(Self::Web {
                tenant: tenant()?,
                conversation: extras.conversation_id.ok_or_else(|| lacks("conversation_id"))?,
            }),
            ChannelType::Slack => {
                let tenant = tenant()?;
                id("id", Some(&message.id))?;
                id("sender.user_id", Some(&message.sender.user_id))?;
                let named = |names: &'static [&str]| names.iter().filter_map(|name| metadata(name));
                let given = extras.channel_id.as_deref().or_else(|| named(POSTED_IN).next());
                let channel_id = id("channel_id", given)?;
                let thread_ts = optional("thread_id", message.thread_id.as_deref())?;
                // A thread's timestamp is unique in its channel only.
                let thread = format!("{channel_id}/{}", thread_ts.as_deref().unwrap_or_default());
                let placeholder_ts = optional("placeholder_ts", extras.placeholder_ts.as_deref())?;
                Ok(Self::Channel(ChannelRoute {
                    tenant,
                    connected_by: named(CONNECTED_BY).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
                    thread,
                    to: Recipient::Slack(slack::Place { channel_id, thread_ts, placeholder_ts }),
                }))
            }
            ChannelType::WhatsApp => {
                let tenant = tenant()?;
                id("id", Some(&message.id))?;
                let phone_number_id = id("phone_number_id", extras.phone_number_id.as_deref())?;
                // It becomes a part of a path.
                if !phone_number_id.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(refused(Error::field("phone_number_id", "is not a number")));
                }
                let to = id("sender.user_id", Some(&message.sender.user_id))?;
                let thread = optional("thread_id", message.thread_id.as_deref())?.unwrap_or_default();
                Ok(Self::Channel(ChannelRoute {
                    tenant,
                    connected_by: vec![phone_number_id.clone()],
                    thread,
                    to: Recipient::WhatsApp(whatsapp::Chat { phone_number_id, to }),
                }))
            }
            ChannelType::Mattermost
            | ChannelType::RocketChat
            | ChannelType::Teams
            | ChannelType::Telegram
            | ChannelType::Signal => Err(refused(Error::field("channel", format!("{channel} has no reply route")))),
        }
    }
}

/// Takes an answer where it belongs, whole: in parts and in order, where it is too long for one. Gives up at the first
/// part that does not arrive, and does not begin another try after `deadline`.
///
/// # Errors
/// How it failed. What came before the part that failed has arrived.
pub async fn send_response(
    channels: &Channels,
    to: &Recipient,
    token: &Secret,
    text: &str,
    deadline: Instant,
) -> Result<(), Failure> {
    match to {
        Recipient::Slack(place) => slack::send_response(channels, place, token, text, deadline).await,
        Recipient::WhatsApp(chat) => whatsapp::send_response(channels, chat, token, text, deadline).await,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn body(channel: &str) -> Value {
        json!({
            "id": "1", "tenant_id": TenantId::new(), "channel": channel, "sender": {"user_id": "4915100000000"},
            "content": {"text": "hello"}, "timestamp": "2026-11-22T14:51:40.123Z",
            "channel_id": "C1", "phone_number_id": "106540352242922",
        })
    }

    fn route(body: &Value) -> Result<Route, String> {
        Route::of(&Job::parse(&body.to_string()).unwrap()).map_err(|error| error.public().to_owned())
    }

    #[test]
    fn each_channel_takes_what_it_needs_and_names_what_it_lacks() {
        for (channel, without, named) in [
            ("slack", "tenant_id", "tenant_id"),
            ("slack", "channel_id", "channel_id"),
            ("whatsapp", "tenant_id", "tenant_id"),
            ("whatsapp", "phone_number_id", "phone_number_id"),
            ("web", "tenant_id", "tenant_id"),
            ("web", "", "conversation_id"),
            ("mattermost", "", "mattermost has no reply route"),
            ("rocketchat", "", "rocketchat has no reply route"),
            ("teams", "", "teams has no reply route"),
            ("telegram", "", "telegram has no reply route"),
            ("signal", "", "signal has no reply route"),
        ] {
            let mut body = body(channel);
            body.as_object_mut().unwrap().remove(without);
            let error = route(&body).expect_err(channel);
            assert!(error.contains(named), "{channel} without {without}: {error}");
        }
        for (field, bad) in [
            ("phone_number_id", json!("1/../2")),
            ("sender", json!({"user_id": ""})),
            ("id", json!("a\nb")),
            ("thread_id", json!("x".repeat(LONGEST_ID + 1))),
        ] {
            let mut body = body("whatsapp");
            body[field] = bad;
            assert!(route(&body).expect_err(field).starts_with(field), "{field}");
        }
    }

    #[test]
    fn slack_is_answered_in_the_thread_and_in_the_place_that_waits() {
        let mut body = body("slack");
        let place = |body: &Value| match route(body) {
            Ok(Route::Channel(ChannelRoute { to: Recipient::Slack(place), thread, connected_by, .. })) => {
                (place, thread, connected_by)
            }
            other => panic!("{other:?}"),
        };
        let bare = slack::Place { channel_id: "C1".to_owned(), thread_ts: None, placeholder_ts: None };
        assert_eq!(place(&body), (bare.clone(), "C1/".to_owned(), Vec::new()));
        body.as_object_mut().unwrap().remove("channel_id");
        for name in ["channel", "channel_id"] {
            body["channel_metadata"] = json!({name: "C2", "team_id": "T1", "api_app_id": "A1"});
            assert_eq!(place(&body).0.channel_id, "C2");
        }
        body["thread_id"] = json!("1.2");
        body["placeholder_ts"] = json!("3.4");
        let full = slack::Place {
            channel_id: "C2".to_owned(),
            thread_ts: Some("1.2".to_owned()),
            placeholder_ts: Some("3.4".to_owned()),
        };
        assert_eq!(place(&body), (full, "C2/1.2".to_owned(), vec!["T1".to_owned(), "A1".to_owned()]));
    }
}

//! The body of a queue message: a [`KonstructMessage`] with the channel's extras beside its fields.
//!
//! On the web it is only a hint that a conversation has work: it carries ids and no text.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    complaint::complaint,
    error::{Error, Result},
    ids::{ConversationId, TenantId, TurnId, UserId},
    message::{KonstructMessage, MessageContent, WebEvent, normalize_web_event},
    timestamp::Timestamp,
    trace::Traceparent,
};

/// One message for the orchestrator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Job {
    /// The message itself.
    #[serde(flatten)]
    pub message: KonstructMessage,
    /// What its channel's reply route needs.
    #[serde(flatten)]
    pub extras: Extras,
    /// Where its trace goes on, if it is followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Traceparent>,
}

/// What a channel adds at the top level of the body. Taken off before the message is validated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extras {
    /// Web: the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<ConversationId>,
    /// Web: who wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portal_user_id: Option<UserId>,
    /// Slack: the placeholder to replace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placeholder_ts: Option<String>,
    /// Slack: where to post.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_id: Option<String>,
    /// WhatsApp: the number that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone_number_id: Option<String>,
}

/// The extras by name, and one that must never have been sent: a secret, dropped unread.
const EXTRAS: &[&str] =
    &["conversation_id", "portal_user_id", "placeholder_ts", "channel_id", "phone_number_id", "bot_token"];

/// What Slack calls the workspace and the app that a message was sent to, in `channel_metadata`, as in its events:
/// <https://docs.slack.dev/apis/events-api/#callback-field>. `channel_connections.external_id` is one of them.
pub const CONNECTED_BY: &[&str] = &["team_id", "api_app_id"];

/// What Slack's channel is called in `channel_metadata`, where it is not among the extras.
pub const POSTED_IN: &[&str] = &["channel_id", "channel"];

impl Job {
    /// The hint that a turn of a web conversation waits.
    #[must_use]
    pub fn web(tenant: TenantId, conversation: ConversationId, user: UserId, turn: TurnId) -> Self {
        let message = normalize_web_event(WebEvent {
            message_id: turn.into(),
            tenant_id: tenant,
            conversation_id: conversation,
            portal_user_id: user,
            display_name: None,
            text: String::new(),
            timestamp: Timestamp::now(),
        });
        let extras = Extras { conversation_id: Some(conversation), portal_user_id: Some(user), ..Extras::default() };
        Self { message, extras, traceparent: None }
    }

    /// The same without what was said and whatever else came along: a hint that the message's turn may run. What its
    /// route is found by stays.
    #[must_use]
    pub fn hint(&self) -> Self {
        let mut hint = self.clone();
        hint.message.channel_metadata.retain(|name, _| [CONNECTED_BY, POSTED_IN].concat().contains(&name.as_str()));
        hint.message.sender.display_name = None;
        hint.message.content = MessageContent { text: String::new(), attachments: Vec::new() };
        hint.message.reply_to = None;
        hint.message.context.clear();
        hint.traceparent = None;
        hint
    }

    /// The body to send.
    #[must_use]
    pub fn body(&self) -> String {
        serde_json::to_string(self).expect("ids, names and text are always JSON")
    }

    /// Reads a body: the extras are taken off first, then the message is validated.
    ///
    /// # Errors
    /// [`Code::Invalid`](crate::Code::Invalid), naming the first field that is wrong.
    pub fn parse(body: &str) -> Result<Self> {
        let Value::Object(mut fields) = serde_json::from_str(body).map_err(unreadable)? else {
            return Err(Error::field("body", "is not a JSON object"));
        };
        let extras = EXTRAS
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), fields.remove(*name)?)))
            .filter(|(name, _)| name != "bot_token")
            .collect();
        let extras = serde_json::from_value(Value::Object(extras)).map_err(unreadable)?;
        // What is none is ignored: a trace is nobody's reason to refuse a message.
        let traceparent = fields.remove("traceparent").as_ref().and_then(Value::as_str).and_then(Traceparent::parse);
        let message = serde_json::from_value(Value::Object(fields)).map_err(unreadable)?;
        Ok(Self { message, extras, traceparent })
    }
}

/// What is wrong with a body, without what stands there: it may be what somebody said.
#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn unreadable(error: serde_json::Error) -> Error {
    Error::field("body", complaint(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_comes_back_as_it_was_sent() {
        let job = Job::web(TenantId::new(), ConversationId::new(), UserId::new(), TurnId::new());
        let read = Job::parse(&job.body()).unwrap();
        assert_eq!(read.extras, job.extras);
        assert_eq!(read.message.id, job.message.id);
        assert_eq!(read.message.content.text, "", "the text stays in Postgres");
    }

    #[test]
    fn the_extras_are_taken_off_and_a_secret_is_dropped_unread() {
        let mut body: Value = serde_json::from_str(
            &Job::web(TenantId::new(), ConversationId::new(), UserId::new(), TurnId::new()).body(),
        )
        .unwrap();
        body["bot_token"] = json!({"not": "even a string"});
        body["placeholder_ts"] = json!("1700000000.000100");
        body["tenant_id"] = Value::Null;
        let job = Job::parse(&body.to_string()).unwrap();
        assert_eq!(job.extras.placeholder_ts.as_deref(), Some("1700000000.000100"));
        assert_eq!(job.message.tenant_id, None);
        assert!(!job.body().contains("bot_token"));
    }

    #[test]
    fn a_hint_says_where_the_answer_goes_and_not_a_word_of_what_was_said() {
        let body = json!({
            "id": "Ev1", "tenant_id": TenantId::new(), "channel": "slack", "thread_id": "1700000000.000100",
            "channel_metadata": {"team_id": "T1", "channel": "C1", "event": {"text": "secret"}},
            "sender": {"user_id": "U1", "display_name": "secret"},
            "content": {"text": "secret", "attachments": ["secret"]},
            "timestamp": "2026-11-22T14:51:40.123Z", "reply_to": "secret", "context": {"summary": "secret"},
            "channel_id": "C1", "placeholder_ts": "1700000000.000200",
        });
        let job = Job::parse(&body.to_string()).unwrap();
        let hint = Job::parse(&job.hint().body()).unwrap();
        assert!(!job.hint().body().contains("secret"));
        assert_eq!(hint.extras, job.extras);
        assert_eq!((&hint.message.id, hint.message.tenant_id), (&job.message.id, job.message.tenant_id));
        assert_eq!((&hint.message.thread_id, hint.message.timestamp), (&job.message.thread_id, job.message.timestamp));
        assert_eq!(
            (&hint.message.channel_metadata["team_id"], hint.message.sender.user_id),
            (&json!("T1"), "U1".into())
        );
    }

    #[test]
    fn where_a_trace_goes_on_travels_and_what_is_none_is_ignored() {
        let mut job = Job::web(TenantId::new(), ConversationId::new(), UserId::new(), TurnId::new());
        assert!(!job.body().contains("traceparent"));
        let parent = Traceparent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
        job.traceparent = Some(parent.clone());
        let mut body: Value = serde_json::from_str(&job.body()).unwrap();
        assert_eq!(Job::parse(&body.to_string()).unwrap().traceparent, Some(parent));
        for bad in [json!(null), json!(7), json!("00-0-0-00"), json!({"a": 1}), json!("x".repeat(10_000))] {
            body["traceparent"] = bad;
            let read = Job::parse(&body.to_string()).unwrap();
            assert_eq!((read.traceparent, read.message.id), (None, job.message.id.clone()));
        }
    }

    #[test]
    fn a_malformed_body_is_told_what_is_wrong() {
        for (body, named) in [
            ("", "EOF"),
            ("[]", "not a JSON object"),
            ("{}", "id"),
            (r#"{"id": "1", "channel": "fax"}"#, "slack"),
            (r#"{"id": "1", "channel": "web", "sender": {"user_id": "u"}, "content": "my secret"}"#, "MessageContent"),
            (r#"{"conversation_id": "not an id"}"#, "UUID"),
        ] {
            let error = Job::parse(body).unwrap_err();
            assert!(error.public().contains(named), "{body}: {error}");
            assert!(!error.public().contains("fax") && !error.public().contains("secret"), "{error}");
        }
    }
}

//! What the queue gave up on: a record that was received too often without being deleted.
//!
//! Mostly such a record is a hint whose turn is fine, or whose turn the sweep will look after; then there is nothing to
//! do. A turn that nobody can run any more is ended, and its user told. What cannot be read or routed is kept in the
//! table `dead_letters`, where an operator finds it, and counted in the log.
//!
//! No sweep looks after a turn of another channel than the web: its record is all that brings it back. So its dead letter
//! comes again until the turn has ended, by itself or here. Its user is not told here, where no channel's token is: the
//! log is.

use std::sync::Arc;

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use chat_core::{
    Error, Kind, Result,
    batch::side_by_side,
    bus::Publisher,
    config::{self, Env, Times},
    ids::TenantId,
    job::Job,
    keys::webchat_response_key,
    message::ChannelType,
    queue::{Queue, Sqs},
    store::{
        Store,
        channel_turns::Buried,
        sweep::{Pace, Spent},
        turns::End,
    },
};
use serde_json::Value;
use tracing::{error, info, warn};

/// Connections an environment holds.
pub const POOL_SIZE: usize = 2;

/// What every record needs. Cheap to clone.
#[derive(Clone)]
pub struct DeadLetters {
    /// The facts.
    pub store: Store,
    /// Hints of work, for the turn that waits behind one that is ended.
    pub queue: Arc<dyn Queue>,
    /// Hints of news.
    pub publisher: Publisher,
    /// When a turn counts as spent.
    pub pace: Pace,
}

impl DeadLetters {
    /// Builds it from the environment, and connects in the background, while the first event is on its way.
    ///
    /// # Errors
    /// The settings that are missing or malformed, by name.
    pub fn from_env() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut env = Env::new(&config::process);
        let database = config::Database::read(&mut env, POOL_SIZE);
        let redis = config::Redis::read(&mut env);
        let queue = config::Queue::read(&mut env);
        let times = Times::read(&mut env);
        let (database, redis, queue, times) = env.finish((database, redis, queue, times))?;
        let (store, publisher) = (Store::new(&database)?, Publisher::new(&redis)?);
        store.warm();
        Ok(Self { store, queue: Arc::new(Sqs::from_settings(&queue)), publisher, pace: Pace::new(&times) })
    }

    /// Sees to the records side by side, and names those that shall come again where that failed.
    pub async fn handle(&self, event: SqsEvent) -> SqsBatchResponse {
        let report = |error: &Error, message_id: &str| {
            if error.kind() == Kind::Unavailable {
                warn!(message_id, ?error, "dead letter comes back later");
            } else {
                error!(message_id, ?error, "dead letter could not be seen to");
            }
        };
        side_by_side(&event, |record| self.record(record), report).await
    }

    async fn record(&self, record: &SqsMessage) -> Result<()> {
        let body = record.body.as_deref().unwrap_or_default();
        let reason = match about(body) {
            Ok(About::Web(turn)) => return self.turn(turn).await,
            Ok(About::Channel { tenant, channel, message }) => {
                match self.store.bury_channel_turn(tenant, channel, &message, self.pace.attempts).await? {
                    Buried::Ended { code, next } => {
                        error!(tenant.id = %tenant, %channel, message.id = message, %code, "a turn was given up; its user was not told");
                        self.hint(next.map(|next| *next)).await;
                        return Ok(());
                    }
                    Buried::Over => return Ok(()),
                    Buried::Open => return Err(Error::unavailable("the turn may still run")),
                    Buried::NoSuchTurn => format!("channel: nobody could answer this message of {channel}"),
                }
            }
            Err(reason) => reason,
        };
        let message_id = record.message_id.as_deref().unwrap_or_default();
        warn!(message_id, reason, malformed = 1, "a dead letter is kept");
        // Where it can be read it is kept as it was read: without a secret that should not be in it.
        let body = Job::parse(body).map_or_else(|_| without_token(body), |job| job.body());
        self.store.keep_dead_letter(named_tenant(&body), message_id, &body, &reason).await
    }

    /// Ends the turn if nobody has it and nobody may; else leaves it to the sweep.
    async fn turn(&self, turn: Spent) -> Result<()> {
        let (ended, next) = self.store.bury(turn, &self.pace).await?;
        let Some(ended) = ended else {
            info!(turn.id = %turn.turn, "a dead letter whose turn has ended, or can still run");
            return Ok(());
        };
        warn!(turn.id = %ended.turn, code = %ended.code, "a turn was given up");
        let topic = webchat_response_key(ended.tenant, ended.conversation);
        let news: Vec<_> =
            End::Failed(ended.code).frames(ended.turn).into_iter().map(|frame| (topic.clone(), frame)).collect();
        if let Err(error) = self.publisher.publish_all(&news).await {
            warn!(turn.id = %ended.turn, ?error, "not published; sockets will find it in the store");
        }
        self.hint(next).await;
        Ok(())
    }

    /// Wakes whoever runs the next turn.
    async fn hint(&self, next: Option<Job>) {
        if let Some(job) = next
            && let Err(error) = self.queue.send(&[job]).await
        {
            warn!(?error, "next turn's hint not sent; the sweep, or its own record, will bring it");
        }
    }
}

/// What a letter is about.
enum About {
    /// A turn of a web conversation.
    Web(Spent),
    /// A message of another channel that has turns.
    Channel { tenant: TenantId, channel: ChannelType, message: String },
}

/// A body that cannot be read, without the secret that should not be in it, where it can be told from the rest.
fn without_token(body: &str) -> String {
    match serde_json::from_str(body) {
        Ok(Value::Object(mut fields)) => {
            fields.remove("bot_token");
            Value::Object(fields).to_string()
        }
        Ok(_) | Err(_) => body.to_owned(),
    }
}

/// The company that a body names, whether the rest of it can be read or not.
fn named_tenant(body: &str) -> Option<TenantId> {
    let body: Value = serde_json::from_str(body).ok()?;
    let named = body.get("tenant_id").filter(|named| named.is_string());
    named.or_else(|| body.get("channel_metadata")?.get("tenant_id"))?.as_str()?.parse().ok()
}

/// What a body is about, or why nobody can tell.
fn about(body: &str) -> Result<About, String> {
    let job = Job::parse(body).map_err(|error| error.public().to_owned())?;
    let tenant = || job.message.tenant_id.ok_or("tenant_id: is missing");
    match job.message.channel {
        ChannelType::Web => {
            let tenant = tenant()?;
            let conversation = job.extras.conversation_id.ok_or("conversation_id: is missing")?;
            let turn = job.message.id.parse().map_err(|error| format!("id: {error}"))?;
            Ok(About::Web(Spent { tenant, conversation, turn }))
        }
        channel @ (ChannelType::Slack | ChannelType::WhatsApp) => {
            Ok(About::Channel { tenant: tenant()?, channel, message: job.message.id.clone() })
        }
        channel @ (ChannelType::Mattermost
        | ChannelType::RocketChat
        | ChannelType::Teams
        | ChannelType::Telegram
        | ChannelType::Signal) => Err(format!("channel: {channel} has no turns")),
    }
}

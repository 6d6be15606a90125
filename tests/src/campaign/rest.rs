//! REST as one user in one conversation, through the function as Lambda runs it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use chat_core::{
    Code,
    conversation::Message,
    ids::{AgentId, MessageId, TenantId, TurnId},
};
use serde_json::{Value, json};
use tokio::time::sleep;
use tracing::debug;

use super::{
    ledger::{Entry, Ledger},
    pool::Pool,
};
use crate::clients::Answer;

/// Pause before something is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// How often a reset is tried again.
const RESETS: u32 = 40;

/// A user's way to one conversation.
#[derive(Clone)]
pub struct Rest {
    function: Arc<Pool>,
    bearer: String,
    /// The conversation's id.
    pub conversation: String,
}

impl Rest {
    /// Opens the conversation with an agent.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn open(function: Arc<Pool>, token: &str, tenant: TenantId, agent: AgentId) -> Result<Self> {
        let mut rest = Self { function, bearer: format!("Bearer {token}"), conversation: String::new() };
        let body = json!({"tenant_id": tenant, "agent_id": agent});
        let answer = rest.call("POST", "", &[], Some(&body)).await?;
        let id = answer.body["id"].as_str();
        id.with_context(|| format!("not opened: {} {}", answer.status, answer.body))?
            .clone_into(&mut rest.conversation);
        Ok(rest)
    }

    /// Says something, again and again with the same key until it is accepted.
    #[expect(clippy::disallowed_methods, reason = "backs off as a client does")]
    pub async fn say(&self, ledger: &Ledger, entry: &Arc<Entry>) {
        let path = format!("/{}/messages", self.conversation);
        let key = entry.key.to_string();
        loop {
            ledger.tried(entry);
            let answer =
                self.call("POST", &path, &[("idempotency-key", &key)], Some(&json!({"text": entry.text}))).await;
            if let Ok(answer) = answer {
                if let Ok(turn) = serde_json::from_value::<TurnId>(answer.body["turn_id"].clone()) {
                    return ledger.accepted(entry, turn);
                }
                if let Ok(code) = serde_json::from_value::<Code>(answer.body["code"].clone()) {
                    ledger.error(code);
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Every message of the conversation, by its place.
    ///
    /// # Errors
    /// If it cannot be read now.
    pub async fn history(&self) -> Result<BTreeMap<i64, MessageId>> {
        let mut all = BTreeMap::new();
        loop {
            let after = all.last_key_value().map_or(0, |(seq, _)| *seq);
            let page = format!("/{}/messages?limit=100&after={after}", self.conversation);
            let answer = self.call("GET", &page, &[], None).await?;
            ensure!(answer.status == 200, "not read: {} {}", answer.status, answer.body);
            let page: Vec<Message> = serde_json::from_value(answer.body)?;
            all.extend(page.into_iter().map(|message| (message.seq, message.id)));
            if !answer.headers.contains_key("link") {
                return Ok(all);
            }
        }
    }

    /// Resets the conversation, again until that is confirmed.
    ///
    /// # Errors
    /// If it never is.
    #[expect(clippy::disallowed_methods, reason = "backs off as a client does")]
    pub async fn reset(&self) -> Result<()> {
        let path = format!("/{}", self.conversation);
        let mut tries = 0;
        loop {
            match self.call("DELETE", &path, &[], None).await {
                Ok(answer) if answer.status == 204 => return Ok(()),
                Ok(answer) => ensure!(tries < RESETS, "not reset: {} {}", answer.status, answer.body),
                Err(error) if tries < RESETS => debug!(?error, "not reset; trying again"),
                Err(error) => return Err(error.context("not reset")),
            }
            tries += 1;
            sleep(PAUSE).await;
        }
    }

    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Result<Answer> {
        let mut all = vec![("authorization", self.bearer.as_str())];
        all.extend(headers);
        let path = format!("{}/conversations{path}", conversations::BASE);
        self.function.http(method, &path, &all, body).await
    }
}

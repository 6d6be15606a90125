//! One turn of another channel than the web: claim, run, store, send, end.
//!
//! The queue is a wake-up here, too, but the record carries the message, and no sweep looks after it: it is the record
//! itself that comes back. So a record is acknowledged only once its turn has ended. While somebody has the turn, or one
//! before it in the same talk, it fails and comes back after the visibility timeout (240 s), five times at most: within
//! that time a lease (15 s) has run out and every attempt that began has ended (180 s). A turn that waits for one before
//! it is not kept waiting for that: whoever ends that one sends its hint. What still has no end after the fifth time, the
//! dead-letter function ends.
//!
//! Whether a person answers in the agent's stead is not asked here: a talk has no row that could say so.

use std::{pin::pin, time::Duration};

use chat_core::{
    Code, Error, Kind, Result,
    config::Secret,
    conversation::TurnState,
    job::Job,
    store::{
        channel_turns::{ChannelClaim, Delivered, Exchange, Heard},
        claim::Agent,
        spend::{Payer, Purpose},
    },
    text::{Text, carried},
};
use tokio::time::{Instant, sleep, timeout};
use tracing::{Instrument, error, info, info_span, warn};

use crate::{
    Orchestrator, agent,
    model::{Prompt, Said},
    routes::{self, ChannelRoute, Recipient},
    spend::Account,
};

/// The part of a turn's time that is kept for sending what came out, pauses that the service asks for included.
const FOR_SENDING: u32 = 4;

impl Orchestrator {
    /// Answers a message of a channel, if that was not done before and nobody else is on it.
    ///
    /// # Errors
    /// [`Code::Busy`] while somebody else is; [`Code::NotFound`], [`Code::Invalid`] or [`Code::Internal`] where the
    /// company has no connection, several, or one without a usable token; [`Code::Unavailable`] if Postgres did not
    /// answer. The record shall come again.
    pub async fn channel_turn(&self, job: &Job, route: &ChannelRoute) -> Result<()> {
        let (tenant, message) = (route.tenant, &job.message);
        let named: Vec<&str> = route.connected_by.iter().map(String::as_str).collect();
        let connection = match self.store.connection(tenant, message.channel, &named).await {
            Err(error) if error.code() == Code::NotFound && !self.store.tenant_exists(tenant).await? => {
                warn!(tenant.id = %tenant, channel = %message.channel, "a record of a company that is not there was dropped");
                return Ok(());
            }
            found => found?,
        };
        // Before there is a turn: without a token nobody can even be told that it failed.
        let token = self.channels.token(tenant, &connection)?;
        // Some of a channel's clients end lines as Windows does; that is no reason to refuse them.
        let said = Text::parse(message.content.text.replace("\r\n", "\n"), self.channels.text_chars());
        let heard = Heard {
            tenant,
            channel: message.channel,
            message: message.id.clone(),
            connection: connection.id,
            agent: connection.agent.id,
            thread: route.thread.clone(),
            sender: message.sender.user_id.clone(),
            said: said.map(Text::into_string).map_err(|error| error.code()),
            said_at: message.timestamp,
            hint: job.hint(),
        };
        match self.store.hear(&heard, &self.times).await? {
            Delivered::Ours(claim) => {
                let span = info_span!("turn", tenant.id = %tenant, channel = %message.channel, turn.id = %claim.turn,
                    attempt = claim.attempt);
                let run = Run { house: self, claim: &claim, agent: &connection.agent, token: &token, to: &route.to };
                run.to_its_end().instrument(span).await
            }
            Delivered::Over => Ok(()),
            Delivered::Busy => Err(Error::new(Code::Busy, "Somebody is on this message, or on one before it.")),
            Delivered::Abandoned { turn, next } => {
                error!(tenant.id = %tenant, channel = %message.channel, turn.id = %turn,
                    "whoever was sending this reply is gone; it is not sent again, and may not have arrived");
                self.hint(next.map(|next| *next)).await;
                Ok(())
            }
        }
    }
}

/// A turn in our hands.
struct Run<'a> {
    house: &'a Orchestrator,
    claim: &'a ChannelClaim,
    agent: &'a Agent,
    token: &'a Secret,
    to: &'a Recipient,
}

impl Run<'_> {
    async fn to_its_end(&self) -> Result<()> {
        let (house, claim) = (self.house, self.claim);
        let begun = Instant::now();
        let (text, code) = tokio::select! {
            words = self.words() => words?,
            error = self.hold() => return Err(error),
        };
        if !self.begin_sending(&text, code).await? {
            info!("the turn is not ours any more; nothing is sent");
            return Ok(());
        }
        // Whatever begins before this ends within the turn's time.
        let deadline = begun + self.house.times.turn.saturating_sub(house.channels.longest_call());
        let mut sending = pin!(routes::send_response(&house.channels, self.to, self.token, &text, deadline));
        let sent = tokio::select! {
            sent = &mut sending => sent,
            // Whoever finds the lease run out ends the turn and sends nothing. So this goes on: it is half sent.
            error = self.hold() => {
                warn!(?error, "the lease ran out while the reply was being sent");
                sending.await
            }
        };
        if let Err(failure) = &sent {
            error!(%failure, "the reply did not arrive, or nobody can tell");
        }
        let code = code.or(sent.err().map(|failure| failure.code()));
        let (ours, next) = self.again(|| self.house.store.end_channel_turn(claim, code)).await?;
        if !ours {
            warn!("the turn was ended by somebody else, who could not tell what was sent");
        } else {
            self.house.figures.ended(code.map_or(TurnState::Answered, |_| TurnState::Failed), begun.elapsed());
        }
        info!(duration_ms = begun.elapsed().as_millis(), code = code.map(Code::as_str), "turn is over");
        house.hint(next).await;
        Ok(())
    }

    /// Who pays for it.
    fn payer(&self) -> Payer {
        let ChannelClaim { tenant, turn, attempt, .. } = *self.claim;
        Payer { tenant, agent: self.agent.id, turn, attempt, purpose: Purpose::Reply }
    }

    /// What the user shall read: the agent's answer, or, with a code, why there is none.
    async fn words(&self) -> Result<(String, Option<Code>)> {
        let failed = |code: Code| (code.failure().to_owned(), Some(code));
        if let Some(code) = self.claim.spent {
            return Ok(failed(code));
        }
        let longest = self.house.times.turn - self.house.times.turn / FOR_SENDING;
        let prompt = Prompt { until: Some(Instant::now() + longest), ..prompt(self.claim, self.agent) };
        let account = Account::new(&self.house.store, self.payer(), true);
        let answered = timeout(longest, agent::answer(&*self.house.model, &prompt, &account)).await;
        account.write_down().await;
        Ok(match answered {
            Ok(Ok(answer)) => {
                let answer = carried(&answer);
                // There is no such message in either channel.
                if answer.trim().is_empty() { failed(Code::ModelFailed) } else { (answer, None) }
            }
            // Not the model but Postgres: the record comes back, and may find it there.
            Ok(Err(error)) if error.code() == Code::Unavailable => return Err(error),
            Ok(Err(error)) => {
                warn!(?error, "the model gave no answer");
                failed(error.code())
            }
            Err(_) => failed(Code::DeadlineExceeded),
        })
    }

    /// Renews the lease; returns once it is lost.
    async fn hold(&self) -> Error {
        let mut held_until = Instant::now() + self.house.times.lease;
        loop {
            sleep(self.house.times.renew).await;
            let asked = Instant::now();
            match self.house.store.renew_channel_turn(self.claim, &self.house.times).await {
                Ok(true) => held_until = asked + self.house.times.lease,
                Ok(false) => return Error::new(Code::Busy, "Somebody else has this turn now."),
                Err(error) if Instant::now() < held_until => warn!(?error, "lease not renewed; trying again"),
                Err(error) => return error,
            }
        }
    }

    /// Stores what is about to be sent. Only a confirmed yes may be followed by sending.
    async fn begin_sending(&self, text: &str, code: Option<Code>) -> Result<bool> {
        self.again(|| self.house.store.begin_sending(self.claim, text, code, &self.house.times)).await
    }

    /// Asks the store again while the lease may hold: the answer is paid for, or sent.
    async fn again<T, F: Future<Output = Result<T>>>(&self, ask: impl Fn() -> F) -> Result<T> {
        let begun = Instant::now();
        loop {
            match ask().await {
                Err(error) if error.kind() == Kind::Unavailable && begun.elapsed() < self.house.times.lease => {
                    warn!(?error, "not confirmed; trying again");
                    sleep(AGAIN_AFTER).await;
                }
                other => return other,
            }
        }
    }
}

/// Pause before the store is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The prompt of a claimed turn: as many exchanges before its message as fit into the model's context, the newest first of
/// all.
fn prompt(claim: &ChannelClaim, agent: &Agent) -> Prompt {
    let mut room = agent::room_of(agent, &agent.system_prompt);
    let fits = |exchange: &&Exchange| {
        let takes = [Some(&exchange.said), exchange.answered.as_ref()].into_iter().flatten();
        let takes = takes.map(|text| agent::tokens(text)).sum();
        let fits = takes <= room;
        room = room.saturating_sub(takes);
        fits
    };
    // The message itself, however long it is.
    let kept = claim.history.iter().rev().take_while(fits).count().max(1).min(claim.history.len());
    let mut said = Vec::with_capacity(kept * 2);
    for exchange in &claim.history[claim.history.len() - kept..] {
        said.push(Said::User(exchange.said.clone()));
        said.extend(exchange.answered.clone().map(|text| Said::Agent { text, calls: Vec::new() }));
    }
    Prompt {
        tenant: claim.tenant,
        models: [vec![agent.model.clone()], agent.fallback_models.clone()].concat(),
        system: agent.system_prompt.clone(),
        said,
        tools: Vec::new(),
        temperature: agent.temperature,
        max_output_tokens: agent.max_output_tokens.and_then(|most| u32::try_from(most).ok()),
        until: None,
    }
}

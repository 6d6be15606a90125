//! One turn: claim, run, finish, hint for the next.

use std::time::Duration;

use chat_core::{
    Code, Kind, Result,
    conversation::Status,
    ids::{ConversationId, MessageId, TenantId},
    job::Job,
    store::turns::{Claim, End, Lease, Reply},
    text,
};
use tokio::time::{Instant, sleep, timeout};
use tracing::{Instrument, error, info, info_span, warn};

use crate::{Orchestrator, agent, model::Unlimited, routes::web};

/// How a run came out.
enum Outcome {
    /// With an answer.
    Answer(String),
    /// Without one.
    End(End),
    /// The turn is not ours any more; whatever we have is thrown away.
    Lost,
}

impl Orchestrator {
    /// Runs the conversation's first unfinished turn, if nobody else has it.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not answer: the hint shall come again.
    pub async fn turn(&self, tenant: TenantId, conversation: ConversationId) -> Result<()> {
        let Some(claim) = self.store.claim(tenant, conversation, &self.times).await? else { return Ok(()) };
        let span = info_span!("turn", tenant.id = %tenant, conversation.id = %conversation, turn.id = %claim.turn,
            attempt = claim.attempt);
        async {
            let begun = Instant::now();
            let outcome = self.outcome(&claim).await;
            let next = self.close(&claim, outcome).await?;
            info!(duration_ms = begun.elapsed().as_millis(), "turn is over");
            self.hint(next).await;
            Ok(())
        }
        .instrument(span)
        .await
    }

    async fn outcome(&self, claim: &Claim) -> Outcome {
        if claim.stop_requested {
            return Outcome::End(End::Stopped);
        }
        if claim.status == Status::Escalated {
            return Outcome::End(End::Escalated);
        }
        let prompt = agent::prompt(claim);
        tokio::select! {
            answer = timeout(self.times.turn, agent::answer(&*self.model, &prompt, &Unlimited)) => match answer {
                Ok(Ok(answer)) => Outcome::Answer(answer),
                Ok(Err(error)) => {
                    warn!(?error, "the model gave no answer");
                    Outcome::End(End::Failed(error.code()))
                }
                Err(_) => Outcome::End(End::Failed(Code::DeadlineExceeded)),
            },
            outcome = self.keep(claim) => outcome,
        }
    }

    /// Renews the lease until the turn is not ours or not wanted any more.
    async fn keep(&self, claim: &Claim) -> Outcome {
        let mut held_until = Instant::now() + self.times.lease;
        loop {
            sleep(self.times.renew).await;
            let asked = Instant::now();
            match self.store.renew(claim, &self.times).await {
                Ok(Lease::Held) => held_until = asked + self.times.lease,
                Ok(Lease::StopRequested) => return Outcome::End(End::Stopped),
                Ok(Lease::Lost) => return Outcome::Lost,
                Err(error) if Instant::now() < held_until => warn!(?error, "lease not renewed; trying again"),
                Err(error) => {
                    warn!(?error, "lease ran out");
                    return Outcome::Lost;
                }
            }
        }
    }

    /// Stores what came out, if the turn is still ours, and tells the sockets. Returns the hint for the next turn.
    async fn close(&self, claim: &Claim, outcome: Outcome) -> Result<Option<Job>> {
        match outcome {
            Outcome::Answer(text) => {
                let text = text::carried(&text);
                let (reply, next) = self.finish(claim, &text).await?;
                match reply {
                    Some(reply) => web::send_response(&self.publisher, claim, &reply, text).await,
                    None => info!("the reply came too late and was thrown away"),
                }
                Ok(next)
            }
            Outcome::End(end) => {
                let (ours, next) = self.store.end(claim, end).await?;
                if ours {
                    web::send_end(&self.publisher, claim, end).await;
                }
                Ok(next)
            }
            Outcome::Lost => {
                info!("the turn is not ours any more");
                Ok(None)
            }
        }
    }

    /// Stores the reply, trying again while the lease may hold: it is paid for, and a connection that died while the
    /// environment was frozen, or a commit whose answer was lost, is no reason to pay again. The id is ours, so that a
    /// reply stored by an attempt we know nothing of is told from a refusal.
    async fn finish(&self, claim: &Claim, text: &str) -> Result<(Option<Reply>, Option<Job>)> {
        let (id, begun) = (MessageId::new(), Instant::now());
        let mut again = false;
        loop {
            match self.store.finish(claim, id, text).await {
                Ok((None, next)) if again => return Ok((self.store.stored(claim, id).await?, next)),
                Err(error) if error.kind() == Kind::Unavailable && begun.elapsed() < self.times.lease => {
                    warn!(?error, "reply not confirmed; trying again");
                    again = true;
                    sleep(AGAIN_AFTER).await;
                }
                other => return other,
            }
        }
    }

    /// Wakes whoever runs the next turn. Waits a moment for the queue: the environment is frozen after we return.
    async fn hint(&self, next: Option<Job>) {
        let Some(job) = next else { return };
        match timeout(HINT_TIMEOUT, self.queue.send(&[job])).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(?error, "next turn's hint not sent; the sweep will find it"),
            Err(_) => error!("the queue takes no hints; the sweep will find the next turn"),
        }
    }
}

/// Pause before a reply is stored again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Longest wait for the queue to take a hint.
const HINT_TIMEOUT: Duration = Duration::from_secs(5);

//! One turn: claim, run, finish, hint for the next.

use std::time::Duration;

use chat_core::{
    Code, Error, Kind, Result,
    bus::Place,
    conversation::{Author, Status, TurnState},
    ids::{ConversationId, MessageId, TenantId},
    job::Job,
    keys::webchat_partial_key,
    store::{
        claim::Claim,
        memory::Words,
        turns::{Completion, End, Reply},
    },
    trace_span,
};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{Instrument, Span, error, info, info_span, warn};

use crate::{
    Orchestrator, agent,
    draft::{Draft, Told},
    lease::Unwanted,
    model::Prompt,
    routes::web,
    spend::Account,
    telling::Pending,
    tools::Toolbox,
};

/// How a run came out.
enum Outcome {
    /// With a reply: all of it, or what there was when it was stopped.
    Reply(Completion),
    /// Without one.
    End(End),
    /// Without one, because a person is wanted, for this reason.
    StepBack(String),
    /// The turn is not ours any more; whatever we have is thrown away.
    Lost,
}

/// What an agent's work leaves behind, however it comes out.
struct Run {
    /// When it must be over.
    until: Instant,
    /// Who pays for it.
    account: Account,
    /// The words.
    draft: Draft,
    /// How many of them the sockets were told.
    told: Told,
    /// The tool that they are being told of.
    pending: Pending,
    /// The place of the oldest message in the prompt.
    oldest: Option<i64>,
}

/// What came of a turn that is over.
#[derive(Default)]
struct Closed {
    /// The hint for the turn that waits behind it.
    next: Option<Job>,
    /// The reply, if one is stored.
    reply: Option<Words>,
    /// What it ended as, if it was ours to end.
    end: Option<TurnState>,
}

impl Run {
    /// Nothing yet.
    fn of(claim: &Claim, account: Account) -> Self {
        // A little before the row itself says so, so that the end is told and not found.
        let until = Instant::now() + claim.left.mul_f64(0.98);
        Self {
            until,
            account,
            draft: Draft::default(),
            told: Told::default(),
            pending: Pending::default(),
            oldest: None,
        }
    }
}

impl Orchestrator {
    /// Runs the conversation's first unfinished turn, if nobody else has it.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not answer: the hint shall come again.
    pub async fn turn(&self, tenant: TenantId, conversation: ConversationId) -> Result<()> {
        let claiming = self.store.claim(tenant, conversation, &self.times, &self.memory);
        let Some(claim) = claiming.instrument(trace_span!("claim")).await? else {
            // Then the hint may have been about something else.
            self.tell_outside(tenant, conversation).await;
            return Ok(());
        };
        let followed = Span::current();
        if !followed.is_disabled() {
            followed.record("turn.id", claim.turn.to_string());
            followed.record("attempt", claim.attempt);
        }
        let span = info_span!("turn", tenant.id = %tenant, conversation.id = %conversation, turn.id = %claim.turn,
            attempt = claim.attempt);
        async {
            let begun = Instant::now();
            if claim.attempt == 1 {
                self.figures.claimed(claim.waited);
            }
            let mut run = Run::of(&claim, Account::of(&self.store, &claim));
            let outcome = self.outcome(&claim, &mut run).await?;
            let steps_back = matches!(outcome, Outcome::StepBack(_));
            let closed = self.close(&claim, outcome, &mut run).instrument(trace_span!("finish")).await?;
            info!(duration_ms = begun.elapsed().as_millis(), "turn is over");
            if let Some(end) = closed.end {
                self.figures.ended(end, begun.elapsed());
            }
            self.hint(closed.next).await;
            self.tidy(&claim, &run, closed.reply).await;
            if steps_back {
                self.tell_outside(tenant, conversation).await;
            }
            Ok(())
        }
        .instrument(span)
        .await
    }

    /// Runs the agent, unless there is nothing to run it for.
    async fn outcome(&self, claim: &Claim, run: &mut Run) -> Result<Outcome> {
        if claim.stop_requested {
            return Ok(Outcome::End(End::Stopped));
        }
        if claim.status == Status::Escalated {
            return Ok(Outcome::End(End::Escalated));
        }
        let until = run.until;
        let working = async {
            if let Some(reason) = self.escalates(claim).await? {
                return Ok::<_, Error>(Outcome::StepBack(reason));
            }
            let (prompt, oldest) = agent::prompt(claim, &self.recall(claim).await?);
            run.oldest = oldest;
            let toolbox = Toolbox::of(&self.store, claim);
            let prompt = Prompt { until: Some(until), ..prompt };
            agent::write(&*self.model, prompt, &run.account, &toolbox, &run.draft).await?;
            Ok(Outcome::Reply(Completion::Whole))
        };
        tokio::select! {
            biased;
            worked = timeout_at(until, working) => match worked {
                Ok(Ok(outcome)) => Ok(outcome),
                // Not the model but Postgres: whoever claims next may find it there.
                Ok(Err(error)) if error.code() == Code::Unavailable => {
                    run.account.write_down().await;
                    Err(error)
                }
                Ok(Err(error)) => {
                    warn!(?error, "the model gave no answer");
                    Ok(Outcome::End(End::Failed(error.code())))
                }
                Err(_) => Ok(Outcome::End(End::Failed(Code::DeadlineExceeded))),
            },
            unwanted = self.hold(claim) => Ok(match unwanted {
                Unwanted::Stopped => Outcome::Reply(Completion::Stopped),
                Unwanted::Lost => Outcome::Lost,
            }),
            never = self.tell(place(claim), &run.draft, &mut run.told, &mut run.pending) => match never {},
        }
    }

    /// Stores what came out, if the turn is still ours, and tells the sockets.
    async fn close(&self, claim: &Claim, outcome: Outcome, run: &mut Run) -> Result<Closed> {
        match outcome {
            Outcome::Reply(how) => {
                let text = run.draft.text();
                if text.trim().is_empty() {
                    let end = if how == Completion::Stopped { End::Stopped } else { End::Failed(Code::ModelFailed) };
                    return self.end(claim, run, end).await;
                }
                let pending = std::mem::take(&mut run.pending);
                let (finished, ()) = tokio::join!(
                    self.finish(claim, run, &text, how),
                    self.tell_rest(place(claim), &run.draft, run.told, pending)
                );
                let (reply, next) = finished?;
                match &reply {
                    Some(reply) => web::send_response(&self.publisher, claim, reply, text.clone(), how).await,
                    None if how == Completion::Stopped => return self.end(claim, run, End::Stopped).await,
                    None => info!("the reply came too late and was thrown away"),
                }
                let reply = reply.map(|reply| Words { seq: reply.seq, author: Author::Assistant, text });
                let end = reply.as_ref().map(|_| how.state());
                Ok(Closed { next, reply, end })
            }
            Outcome::End(end) => self.end(claim, run, end).await,
            Outcome::StepBack(reason) => {
                let (ours, next) = self.step_back(claim, &reason).await?;
                Ok(Closed { next, reply: None, end: ours.then_some(TurnState::Escalated) })
            }
            Outcome::Lost => {
                info!("the turn is not ours any more");
                run.account.write_down().await;
                Ok(Closed::default())
            }
        }
    }

    /// Ends the turn without a reply, if it is still ours, and tells the sockets.
    async fn end(&self, claim: &Claim, run: &Run, end: End) -> Result<Closed> {
        let (ours, next) = self.store.end_and_settle(claim, end, Some(&run.account.bill())).await?;
        if ours {
            web::send_end(&self.publisher, claim, end).await;
        }
        Ok(Closed { next, reply: None, end: ours.then_some(end.state()) })
    }

    /// What nobody waits for: remembers what was said, says what it is about, and summarizes what fell out of the prompt. Redis forgets the text
    /// so far, if it had any: whoever comes now reads the store.
    async fn tidy(&self, claim: &Claim, run: &Run, reply: Option<Words>) {
        if run.told != Told::default() {
            let partial = webchat_partial_key(claim.tenant, claim.turn);
            let _ = timeout(FORGET_TIMEOUT, self.publisher.delete(&partial)).await;
        }
        if let Some(reply) = reply {
            let message = Words { seq: claim.seq, author: Author::User, text: claim.message.clone() };
            self.entitle(claim, &message, &reply, run.until).await;
            self.remember(claim, &[message, reply]).await;
            let account = Account::of_summary(&self.store, claim);
            self.summarize(claim, run.oldest, run.until, &account).await;
            account.write_down().await;
        }
    }

    /// Stores the reply, trying again while the lease may hold: it is paid for, and a connection that died while the
    /// environment was frozen, or a commit whose answer was lost, is no reason to pay again. The id is ours, so that a
    /// reply stored by an attempt we know nothing of is told from a refusal.
    async fn finish(
        &self,
        claim: &Claim,
        run: &Run,
        text: &str,
        how: Completion,
    ) -> Result<(Option<Reply>, Option<Job>)> {
        let (id, begun, bill) = (MessageId::new(), Instant::now(), run.account.bill());
        let mut again = false;
        loop {
            match self.store.finish_and_settle(claim, id, text, how, Some(&bill)).await {
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
    pub(crate) async fn hint(&self, next: Option<Job>) {
        let Some(job) = next else { return };
        match timeout(HINT_TIMEOUT, self.queue.send(&[job])).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(?error, "next turn's hint not sent; the sweep will find it"),
            Err(_) => error!("the queue takes no hints; the sweep will find the next turn"),
        }
    }
}

/// The place of the reply that a claim will bring.
fn place(claim: &Claim) -> Place {
    Place { tenant: claim.tenant, conversation: claim.conversation, turn: claim.turn, attempt: claim.attempt }
}

/// Pause before a reply is stored again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Longest wait for Redis to forget; it does so by itself a minute later.
const FORGET_TIMEOUT: Duration = Duration::from_millis(250);

/// Longest wait for the queue to take a hint.
const HINT_TIMEOUT: Duration = Duration::from_secs(5);

//! One prompt's way through models and tries, to the first whole answer.
//!
//! Before the first piece, what may pass is tried again on the same model. Everything else goes on to the next of the
//! prompt's models, also what the prompt itself caused, since another model may take it; and a cut in the middle, after
//! which everything said so far is taken back.

use std::{collections::VecDeque, error::Error as _, time::Duration};

use chat_core::{Code, Error, Kind, Result, config::Secret};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{
    Ended, Models, Piece, Prompt, Purse, Route,
    breaker::Permit,
    call::Watched,
    dialect::Manner,
    failure::{Failure, Verdict},
    provider::{self, Call, Provider},
    stream::{Answer, Next, Wait},
};

/// How often a prompt is sent again to one model at most, after the first time.
const RETRIES: u32 = 2;

/// Longest pause that a provider may ask for while there is another model to ask.
const PATIENCE_WITH_ONE: Duration = Duration::from_secs(5);

/// A prompt on its way.
pub(super) struct Speaking<'a> {
    models: &'a Models,
    prompt: &'a Prompt,
    purse: &'a dyn Purse,
    until: Instant,
    /// How many of the prompt's models were turned to.
    turned_to: usize,
    /// Who was asked, so that a model which stands twice in the list is not.
    asked: Vec<(&'a str, &'a str)>,
    asking: Option<Asking<'a>>,
    /// Pieces were given out that count no more.
    stale: bool,
    /// Why nobody answers, if it comes to that.
    reason: Option<Failure>,
    ready: VecDeque<Piece>,
    over: bool,
}

/// Whom we ask.
struct Asking<'a> {
    provider: &'a Provider,
    /// The model, as the provider knows it.
    model: &'a str,
    /// The model, as the agent names it.
    name: &'a str,
    key: Option<Secret>,
    own: bool,
    manner: Manner,
    retries: u32,
    /// Pieces were given out.
    said: bool,
    state: State,
}

enum State {
    /// About to call.
    Before,
    /// The call is paid for.
    Paid(Permit),
    /// Listening.
    Hears(Box<Answer>, Permit, Watched),
}

impl<'a> Speaking<'a> {
    pub(super) fn new(models: &'a Models, prompt: &'a Prompt, purse: &'a dyn Purse) -> Self {
        Self {
            models,
            prompt,
            purse,
            until: prompt.until.unwrap_or_else(|| Instant::now() + models.patience.turn),
            turned_to: 0,
            asked: Vec::new(),
            asking: None,
            stale: false,
            reason: None,
            ready: VecDeque::new(),
            over: false,
        }
    }

    /// The next piece. The last one is an end or an error.
    pub(super) async fn next(&mut self) -> Option<Result<Piece>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(Ok(piece));
            }
            if self.over {
                return None;
            }
            let step = match self.asking.take() {
                None => self.turn_to_the_next().await,
                Some(asking) => self.go_on(asking).await,
            };
            if let Err(error) = step {
                self.over = true;
                return Some(Err(error));
            }
        }
    }

    async fn turn_to_the_next(&mut self) -> Result<()> {
        let Some(named) = self.prompt.models.get(self.turned_to) else {
            let reason = self.reason.take().unwrap_or(Failure::Unknown("the agent has no model"));
            return Err(Error::new(reason.code(), reason.code().failure()).because(reason));
        };
        self.turned_to += 1;
        if Instant::now() >= self.until {
            return Err(Error::new(Code::DeadlineExceeded, Code::DeadlineExceeded.failure()));
        }
        match self.models.route(named) {
            (name, Route::Echo) => {
                self.take_back();
                self.ready.push_back(Piece::Text(super::echo(self.prompt)));
                self.end(name, None);
            }
            (name, Route::Nobody(why)) => {
                warn!(model = name, why, "nobody answers for the agent's model");
                self.blame(Failure::Unknown(why));
            }
            (_, Route::Provider(provider, model)) if self.asked.contains(&(provider.name.as_str(), model)) => {}
            (name, Route::Provider(provider, model)) => {
                self.asked.push((provider.name.as_str(), model));
                let manner = provider.manner();
                let asking = Asking {
                    provider,
                    model,
                    name,
                    key: None,
                    own: false,
                    manner,
                    retries: 0,
                    said: false,
                    state: State::Before,
                };
                match key(self.models, self.prompt, provider).await {
                    Ok(Some(key)) => self.asking = Some(Asking { key: Some(key), own: true, ..asking }),
                    Ok(None) => self.asking = Some(Asking { key: provider.key.clone(), ..asking }),
                    Err(error) if error.kind() == Kind::Unavailable => return Err(error),
                    Err(error) => return self.failed(asking, Failure::KeySealed(error)).await,
                }
            }
        }
        Ok(())
    }

    async fn go_on(&mut self, mut asking: Asking<'a>) -> Result<()> {
        match std::mem::replace(&mut asking.state, State::Before) {
            State::Before => self.prepare(asking).await,
            State::Paid(permit) => self.call(asking, permit).await,
            State::Hears(mut answer, mut permit, watched) => match answer.next().await {
                Ok(Next::Pieces(pieces)) => {
                    permit.begins();
                    self.ready.extend(pieces);
                    self.asking = Some(Asking { said: true, state: State::Hears(answer, permit, watched), ..asking });
                    Ok(())
                }
                Ok(Next::End(usage)) => {
                    permit.good();
                    watched.ended(usage);
                    self.end(asking.name, usage);
                    Ok(())
                }
                Err(failure) => {
                    report(permit, &failure);
                    watched.failed(&failure);
                    self.failed(asking, failure).await
                }
            },
        }
    }

    /// Gets leave to call. What counts no more is taken back before the wait begins.
    async fn prepare(&mut self, asking: Asking<'a>) -> Result<()> {
        let Some(permit) = asking.provider.breaker.admit(Instant::now()) else {
            return self.failed(asking, Failure::LeftAlone).await;
        };
        self.purse.reserve(asking.name).await?;
        self.take_back();
        self.asking = Some(Asking { state: State::Paid(permit), ..asking });
        Ok(())
    }

    async fn call(&mut self, asking: Asking<'a>, mut permit: Permit) -> Result<()> {
        let patience = self.models.patience;
        let first_token = provider::first_token(patience, self.until, self.others());
        let wait = Wait { first_token, idle: patience.idle, until: self.until };
        let Asking { provider, model, own, manner, .. } = asking;
        let call = Call { model, prompt: self.prompt, key: asking.key.as_ref(), own, manner, wait };
        let watched = Watched::begin(&self.models.figures, provider, model);
        match provider.ask(&call).await {
            Ok(answer) => {
                // It is there, however long it thinks: nobody else shall wait for its first word.
                permit.begins();
                self.asking = Some(Asking { state: State::Hears(Box::new(answer), permit, watched), ..asking });
                Ok(())
            }
            Err(failure) => {
                report(permit, &failure);
                watched.failed(&failure);
                self.failed(asking, failure).await
            }
        }
    }

    /// Tries again, or leaves it to the next model.
    async fn failed(&mut self, asking: Asking<'a>, failure: Failure) -> Result<()> {
        let (provider, name, retries, said) = (asking.provider, asking.name, asking.retries, asking.said);
        let pause = failure.pause(self.models.patience.pause * 2_u32.pow(retries));
        let most = if self.others() { PATIENCE_WITH_ONE } else { Duration::MAX };
        let fits = |pause: &Duration| *pause <= most && Instant::now() + *pause < self.until;
        let pause = pause.filter(|pause| !said && retries < RETRIES && fits(pause));
        if is_about_the_request(&failure) && asking.manner == Manner::Full && provider.may_be_plain() {
            warn!(provider = provider.name, model = name, %failure, "asking more plainly");
            self.asking = Some(Asking { manner: Manner::Plain, ..asking });
        } else if let Some(pause) = pause {
            warn!(provider = provider.name, model = name, tries = retries + 1, %failure, pause_ms = pause.as_millis(),
                "the model's provider failed; trying again");
            sleep(pause).await;
            self.asking = Some(Asking { retries: retries + 1, ..asking });
        } else {
            let cause = failure.source().map(tracing::field::display);
            warn!(provider = provider.name, model = name, tries = retries + 1, %failure, cause, "no answer from a model");
            self.stale |= said;
            self.blame(failure);
        }
        Ok(())
    }

    /// Whether there is somebody else to ask.
    fn others(&self) -> bool {
        self.turned_to < self.prompt.models.len()
    }

    /// The first reason that is not about somebody being away is what the user is told: it is not over by itself.
    fn blame(&mut self, failure: Failure) {
        if self.reason.as_ref().is_none_or(|reason| reason.code() == Code::ModelUnavailable) {
            self.reason = Some(failure);
        }
    }

    /// Takes back what counts no more, now that somebody else is asked.
    fn take_back(&mut self) {
        if std::mem::take(&mut self.stale) {
            self.ready.push_back(Piece::Anew);
        }
    }

    fn end(&mut self, model: &str, usage: Option<super::Usage>) {
        self.ready.push_back(Piece::End(Ended { model: model.to_owned(), usage }));
        self.over = true;
    }
}

/// The tenant's own key, if it has one.
async fn key(models: &Models, prompt: &Prompt, provider: &Provider) -> Result<Option<Secret>> {
    match &models.keys {
        Some(keys) => keys.key(prompt.tenant, &provider.name).await,
        None => Ok(None),
    }
}

/// Whether a service that does not know a field would say so this way.
fn is_about_the_request(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused { status, .. } if matches!(status.as_u16(), 400 | 422))
}

/// Tells the breaker.
fn report(permit: Permit, failure: &Failure) {
    match failure.verdict() {
        Verdict::There => permit.good(),
        Verdict::Away => permit.bad(Instant::now()),
        Verdict::None => drop(permit),
    }
}

//! Tells the sockets what is being written, while it is.

use std::{convert::Infallible, time::Duration};

use chat_core::{
    Error, Result,
    bus::{Appended, Place},
    event::ServerFrame,
    keys::webchat_response_key,
};
use futures::future::{BoxFuture, FutureExt, Shared};
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::{
    Orchestrator,
    draft::{Draft, Told, Untold},
};

/// Longest wait for Redis to take the last words; the whole reply follows anyway.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// Pause after Redis did not take what it was told.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// A tool that is being told of, if any. It outlives whoever polls it: a command whose sender is gone is not sent.
#[derive(Default)]
pub struct Pending(Option<Shared<BoxFuture<'static, ()>>>);

impl Orchestrator {
    /// Tells what comes to be written, for as long as it is polled: the first words at once, the next ones collected for
    /// a moment each time. Says in `told` and `pending` how far it is.
    pub async fn tell(&self, place: Place, draft: &Draft, told: &mut Told, pending: &mut Pending) -> Infallible {
        loop {
            draft.more().await;
            loop {
                self.tell_tools(place, draft, pending).await;
                let Some(untold) = draft.since(*told) else { break };
                let pause = match self.append(place, untold, told).await {
                    Ok(()) => self.times.delta,
                    Err(error) => {
                        debug!(?error, "words not told; they come with the next ones");
                        AGAIN_AFTER
                    }
                };
                sleep(pause).await;
            }
        }
    }

    /// Tells what is left, if some of it was told before: a reply that was never begun comes as a whole.
    pub async fn tell_rest(&self, place: Place, draft: &Draft, mut told: Told, mut pending: Pending) {
        let rest = async {
            self.tell_tools(place, draft, &mut pending).await;
            while told != Told::default()
                && let Some(untold) = draft.since(told)
            {
                self.append(place, untold, &mut told).await?;
            }
            Ok::<_, Error>(())
        };
        if !matches!(timeout(LAST_WORDS, rest).await, Ok(Ok(()))) {
            debug!("the last words were not told; the whole reply follows");
        }
    }

    /// Cut off, it goes on where it was with the same `pending`.
    async fn tell_tools(&self, place: Place, draft: &Draft, pending: &mut Pending) {
        loop {
            if let Some(telling) = &pending.0 {
                telling.clone().await;
                pending.0 = None;
            }
            let Some((name, state)) = draft.next_tool() else { return };
            let frame = ServerFrame::Tool { turn_id: place.turn, name, state };
            let topic = webchat_response_key(place.tenant, place.conversation);
            let publisher = self.publisher.clone();
            let telling = async move {
                if let Err(error) = publisher.publish(&topic, &frame).await {
                    debug!(?error, "a tool was not told of");
                }
            };
            pending.0 = Some(telling.boxed().shared());
        }
    }

    async fn append(&self, place: Place, untold: Untold, told: &mut Told) -> Result<()> {
        *told = match self.publisher.append(place, untold.offset, &untold.text).await? {
            // Where a later claim writes, its words are the ones to hear.
            Appended::Told | Appended::Late => untold.then,
            // Redis has forgotten what it had. From the beginning, then.
            Appended::Gap => Told::default(),
        };
        Ok(())
    }
}

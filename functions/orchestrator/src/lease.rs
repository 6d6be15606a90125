//! The hold on a turn while its agent works: renewed, and given up when it is not ours or not wanted any more.

use std::time::Duration;

use chat_core::{
    keys::webchat_stop_key,
    store::{claim::Claim, turns::Lease},
};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use crate::{Orchestrator, routes::web};

/// Time between two looks for the hint that a turn shall stop. A stop is promised within a second.
const LOOK: Duration = Duration::from_millis(250);

/// Why a turn is worked on no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwanted {
    /// The user wants it stopped.
    Stopped,
    /// It is not ours any more; whatever we have is thrown away.
    Lost,
}

impl Orchestrator {
    /// Holds the turn until it is not ours or not wanted any more, and keeps telling the sockets that somebody works.
    pub async fn hold(&self, claim: &Claim) -> Unwanted {
        let mut held_until = Instant::now() + self.times.lease;
        loop {
            let told = self.reason_to_ask(claim).await;
            let asked = Instant::now();
            match self.store.renew(claim, &self.times).await {
                Ok(Lease::Held) => held_until = asked + self.times.lease,
                Ok(Lease::StopRequested) => return Unwanted::Stopped,
                Ok(Lease::Lost) => return Unwanted::Lost,
                Err(error) if Instant::now() < held_until => warn!(?error, "lease not renewed; trying again"),
                Err(error) => {
                    warn!(?error, "lease ran out");
                    return Unwanted::Lost;
                }
            }
            if told == Reason::Due {
                // The dots of the sockets end by themselves after 15 s.
                let _ = timeout(LOOK, web::send_typing(&self.publisher, claim)).await;
            }
        }
    }

    /// Resolves when the turn's row shall be asked: because the lease is due, because there is a hint that it shall stop,
    /// or because such a hint could not reach us.
    async fn reason_to_ask(&self, claim: &Claim) -> Reason {
        let due = Instant::now() + self.times.renew;
        let stop = webchat_stop_key(claim.tenant, claim.turn);
        loop {
            let left = due.saturating_duration_since(Instant::now());
            sleep(LOOK.min(left)).await;
            if left <= LOOK {
                return Reason::Due;
            }
            match timeout(LOOK, self.publisher.hinted(&stop)).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) | Ok(Err(_)) | Err(_) => return Reason::Doubt,
            }
        }
    }
}

/// Why a turn's row is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Due,
    Doubt,
}

//! What companies do not want to keep any longer is deleted, now and then, by whichever hub comes to it.

use std::time::Duration;

use chat_core::{
    Result,
    ids::{AgentId, TenantId, UserId},
    keys::memory_short_key,
};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, info, warn};

use crate::Hub;

/// Time between two looks for a company whose time has come. One that finds none reads a small table.
const LOOK: Duration = Duration::from_secs(10);

/// Longest wait for Redis to forget; it does so by itself within a week.
const FORGET: Duration = Duration::from_secs(1);

impl Hub {
    /// Deletes what is due, until the hub leaves.
    pub(crate) async fn retain(self) {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.0.leaving.cancelled() => return,
                _ = tick.tick() => {}
            }
            if let Err(error) = self.expire().await {
                warn!(?error, "what is due was not all deleted; the next look comes");
            }
        }
    }

    /// Goes through the companies whose time has come.
    async fn expire(&self) -> Result<()> {
        while let Some(tenant) = self.0.store.next_with_retention().await? {
            let (mut messages, mut turns) = (0, 0);
            while !self.0.leaving.is_cancelled() {
                let expired = self.0.store.expire_some(tenant).await?;
                messages += expired.messages;
                turns += expired.turns;
                self.forget(tenant, &expired.memories).await;
                if !expired.more {
                    break;
                }
            }
            if messages + turns > 0 {
                info!(tenant.id = %tenant, messages, turns, "what was due is deleted");
            }
        }
        Ok(())
    }

    /// No prompt has these words any more, since their places are gone; they need not lie about until they expire.
    async fn forget(&self, tenant: TenantId, memories: &[(AgentId, UserId)]) {
        let keys: Vec<_> = memories.iter().map(|(agent, user)| memory_short_key(tenant, *agent, *user)).collect();
        if !matches!(timeout(FORGET, self.0.publisher.forget(&keys)).await, Ok(Ok(_))) {
            debug!(memories = keys.len(), "not forgotten; they expire");
        }
    }
}

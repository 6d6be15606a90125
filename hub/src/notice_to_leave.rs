//! Hears from ECS that the task is to stop, where ECS runs it.
//!
//! A deployment takes a task from the balancer first and sends SIGTERM only when the deregistration delay is over; by then
//! the balancer has cut the sockets without a word. What is wanted of a task stands in its metadata before that, so it is
//! looked at now and again. Where it does not come earlier nothing is worse than without: SIGTERM comes all the same, and
//! whoever was cut comes back with the `seq` that was seen.

use std::{future::pending, time::Duration};

use chat_core::{Error, Result, config::Container};
use reqwest::{Client, redirect};
use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

/// Time between two looks. ECS allows 40 a second for a task; two for a drain of 23 s are enough, and cost nothing.
pub const EVERY: Duration = Duration::from_secs(2);

/// Longest wait for an answer, which comes from the same machine.
const ANSWER: Duration = Duration::from_secs(1);

/// Largest answer that is read, in bytes: a few containers are described in less than 10 KB.
const MAX_BYTES: usize = 256 * 1024;

#[derive(Deserialize)]
struct Task {
    /// What ECS wants of it: `RUNNING`, later `STOPPED`. What it is, `KnownStatus`, follows too late.
    #[serde(rename = "DesiredStatus")]
    desired_status: String,
}

/// Waits until the task that this process is in is to stop; for ever, where no ECS runs it.
///
/// An answer that fails or cannot be read says nothing, and the next look comes.
///
/// # Errors
/// [`Kind::Internal`](chat_core::Kind::Internal) if there can be no client.
pub async fn given(container: &Container) -> Result<()> {
    let Some(url) = &container.task_url else { return pending().await };
    // Plain HTTP within the machine, so no certificates are read.
    let client = Client::builder().tls_certs_only([]).timeout(ANSWER).redirect(redirect::Policy::none()).no_proxy();
    let client = client.build().map_err(Error::internal)?;
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tick.tick().await;
        match wanted(&client, url).await {
            Ok(status) if status == "STOPPED" => {
                info!("this task is to stop, says ECS");
                return Ok(());
            }
            Ok(_) => failing = false,
            // Said once: it may go on for days, and changes nothing but how a deployment ends.
            Err(error) => {
                if !failing {
                    warn!(%error, "ECS does not say what is to become of this task; SIGTERM will");
                }
                failing = true;
            }
        }
    }
}

async fn wanted(client: &Client, url: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let mut answer = client.get(url).send().await?.error_for_status()?;
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        if body.len() + piece.len() > MAX_BYTES {
            return Err("a page without end".into());
        }
        body.extend_from_slice(&piece);
    }
    Ok(serde_json::from_slice::<Task>(&body)?.desired_status)
}

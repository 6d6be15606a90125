//! What a socket costs that is there and says nothing: authenticated, subscribed, pinged.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    Stack, crowd,
    crowd::{Crowd, Order},
    line,
    machine::{cpu, memory},
    pass, tell,
};
use crate::demo::Size;

/// How many come in at the same time.
const AT_ONCE: usize = 64;

/// Longest wait for a hub to forget those who left.
const FORGETTING: Duration = Duration::from_secs(30);

/// Sockets of one crowd: a process may hold 20,000 files on the machines used here.
const OF_A_CROWD: usize = 15_000;

/// CPU is measured at least so long: what a silent socket costs comes with its pings.
const A_PING: u64 = 26;

/// Measures each number of sockets on one hub, and then 15,000 on each of `hubs`; CPU over `seconds`, or longer.
///
/// # Errors
/// What cannot be started, or does not come in.
pub async fn run(counts: &[usize], hubs: usize, seconds: u64) -> Result<Value> {
    let seconds = seconds.max(A_PING);
    let most = counts.iter().copied().max().unwrap_or(0).max(hubs * OF_A_CROWD * usize::from(hubs > 1));
    let stack = Stack::start(Size { tenants: 10, users: most.div_ceil(100), agents: 10 }).await?;
    line("\nidle: sockets that are authenticated, subscribed and pinged; memory is PSS, of what the sockets added");
    line(&format!(
        "{:>5} {:>8} {:>12} {:>14} {:>14} {:>16} {:>14}",
        "hubs", "sockets", "connects/s", "hub B/socket", "Redis B/socket", "hub CPU us/s each", "B left of each"
    ));
    let mut report = Vec::new();
    for &count in counts {
        report.push(one(&stack, count, 1, seconds).await?);
    }
    if hubs > 1 {
        report.push(one(&stack, hubs * OF_A_CROWD, hubs, seconds).await?);
    }
    stack.stop().await?;
    Ok(json!(report))
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
async fn one(stack: &Stack, count: usize, hubs: usize, seconds: u64) -> Result<Value> {
    tell(&format!("idle: {count} sockets on {hubs} hubs"));
    let entrants = stack.entrants(count).await?;
    let (mut serving, mut crowds) = (Vec::new(), Vec::new());
    for _ in 0..hubs {
        serving.push(stack.hub().await?);
        crowds.push(Crowd::start(&std::env::current_exe()?)?);
    }
    let redis = stack.services.redis.pid();
    // Both have done everything once: what comes then is the sockets'.
    warm(&mut crowds, &serving, &entrants).await?;
    let of_hubs = || serving.iter().map(|hub| memory(hub.pid())).sum::<u64>();
    let (hub_before, redis_before) = (of_hubs(), memory(redis));
    let begun = Instant::now();
    let parts = entrants.chunks(count.div_ceil(hubs));
    let orders: Vec<_> = parts.zip(&serving).map(|(part, hub)| join(&hub.ws(), part.to_vec(), AT_ONCE)).collect();
    let coming = crowds.iter_mut().zip(&orders).map(|(crowd, order)| crowd.order::<()>(order));
    futures::future::try_join_all(coming).await?;
    let connects = count as f64 / begun.elapsed().as_secs_f64();
    pass(Duration::from_secs(2)).await;
    let (hub_with, redis_with) = (of_hubs(), memory(redis));
    let spent = || serving.iter().map(|hub| cpu(hub.pid())).sum::<Duration>();
    let (before, since) = (spent(), Instant::now());
    pass(Duration::from_secs(seconds)).await;
    let each = (spent() - before).as_secs_f64() * 1e6 / since.elapsed().as_secs_f64() / count as f64;
    for crowd in crowds {
        crowd.leave().await?;
    }
    let deadline = Instant::now() + FORGETTING;
    let mut left = of_hubs();
    let mut others = Vec::new();
    for _ in 0..hubs {
        others.push(Crowd::start(&std::env::current_exe()?)?);
    }
    while Instant::now() < deadline && left > hub_before + (hub_with - hub_before) / 10 {
        // A hub that nobody comes to any more allocates nothing, and the allocator gives back as it allocates.
        warm(&mut others, &serving, &entrants).await?;
        left = of_hubs();
    }
    for crowd in others {
        crowd.leave().await?;
    }
    let a_socket = |more: u64, less: u64| more.saturating_sub(less) as f64 / count as f64;
    let (hub, redis) = (a_socket(hub_with, hub_before), a_socket(redis_with, redis_before));
    let left = a_socket(left, hub_before);
    line(&format!("{hubs:>5} {count:>8} {connects:>12.0} {hub:>14.0} {redis:>14.0} {each:>16.2} {left:>14.0}"));
    Ok(json!({
        "hubs": hubs, "sockets": count, "connects_per_second": connects, "hub_bytes_a_socket": hub,
        "redis_bytes_a_socket": redis, "hub_cpu_us_per_s_a_socket": each, "bytes_left_of_each": left,
    }))
}

/// The order to come in.
#[must_use]
pub fn join(hub: &str, entrants: Vec<crowd::Entrant>, at_once: usize) -> Order {
    Order::Join { hubs: vec![hub.to_owned()], entrants, at_once }
}

/// Has a few come and go at each hub.
async fn warm(
    crowds: &mut [Crowd],
    hubs: &[crate::hub_process::HubProcess],
    entrants: &[crowd::Entrant],
) -> Result<()> {
    for (crowd, hub) in crowds.iter_mut().zip(hubs) {
        let few = entrants.iter().take(50).cloned().collect();
        let () = crowd.order(&join(&hub.ws(), few, AT_ONCE)).await?;
        let () = crowd.order(&Order::Leave).await?;
    }
    pass(Duration::from_secs(1)).await;
    Ok(())
}

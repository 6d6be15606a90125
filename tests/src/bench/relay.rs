//! How fast what is published reaches sockets.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chat_core::{
    conversation::ToolState,
    event::ServerFrame,
    ids::{ConversationId, TenantId, TurnId},
    keys::webchat_response_key,
};
use serde_json::{Value, json};

use super::{
    Stack,
    crowd::{self, Crowd, Heard, Order},
    idle::join,
    line,
    machine::cpu,
    pass, rate, tell,
};
use crate::{demo::Size, hub_process::HubProcess, services::User};

/// What is published goes out this often, all that is due at once.
const BEAT: Duration = Duration::from_millis(1);

/// Deliveries at each rate over so many sockets with a conversation each, and one conversation with `together` sockets.
///
/// # Errors
/// What cannot be started.
pub async fn run(sockets: usize, hubs: usize, rates: &[u64], together: usize, seconds: u64) -> Result<Value> {
    let most = sockets.max(together);
    let stack = Stack::start(Size { tenants: 10, users: most.div_ceil(100), agents: 10 }).await?;
    let mut serving = Vec::new();
    for _ in 0..hubs {
        serving.push(stack.hub().await?);
    }
    let pids: Vec<u32> = serving.iter().map(HubProcess::pid).collect();
    let length = Duration::from_secs(seconds);
    let mut report = Vec::new();
    line(&format!(
        "\nrelay: from PUBLISH to a socket of the client over {hubs} hubs; all of it on this machine's cores"
    ));
    line(&format!(
        "{:>8} {:>14} {:>12} {:>12} {:>9} {:>9} {:>9} {:>22}",
        "sockets", "conversations", "wanted/s", "delivered/s", "p50 ms", "p99 ms", "p99.9 ms", "deliveries/s and core"
    ));
    let one_each = stack.entrants(sockets).await?;
    let mut crowds = come(&serving, &one_each).await?;
    for &wanted in rates {
        tell(&format!("relay: {wanted} a second to {sockets} sockets"));
        let topics = topics(&stack, &one_each).await?;
        report.push(one(&stack, &mut crowds, &pids, &topics, sockets, wanted, length).await?);
    }
    for crowd in crowds {
        crowd.leave().await?;
    }
    tell(&format!("relay: one conversation with {together} sockets"));
    let first = one_each.first().context("somebody")?.clone();
    let mut crowds = come(&serving, &vec![first.clone(); together]).await?;
    let topics = topics(&stack, &[first]).await?;
    for publications in [10, 50] {
        let wanted = publications * together as u64;
        report.push(one(&stack, &mut crowds, &pids, &topics, together, wanted, length).await?);
    }
    for crowd in crowds {
        crowd.leave().await?;
    }
    drop(serving);
    stack.stop().await?;
    Ok(json!(report))
}

/// The tenant and the conversation of each.
///
/// # Errors
/// If Postgres cannot be asked.
pub async fn topics(stack: &Stack, entrants: &[crowd::Entrant]) -> Result<Vec<(TenantId, ConversationId)>> {
    let ids: Vec<&str> = entrants.iter().map(|(id, _)| id.as_str()).collect();
    let of = "select tenant_id::text, id::text from web_conversations where id::text = any($1)";
    let rows = stack.owner.query(of, &[&ids]).await?;
    rows.iter().map(|row| Ok((row.get::<_, &str>(0).parse()?, row.get::<_, &str>(1).parse()?))).collect()
}

async fn one(
    stack: &Stack,
    crowds: &mut [Crowd],
    hubs: &[u32],
    topics: &[(TenantId, ConversationId)],
    sockets: usize,
    wanted: u64,
    length: Duration,
) -> Result<Value> {
    let listeners = (sockets / topics.len()) as u64;
    heard(crowds).await?;
    let spent = || hubs.iter().map(|&hub| cpu(hub)).sum::<Duration>();
    let (begun, before) = (Instant::now(), spent());
    let published = publish(stack, topics, wanted / listeners, length, tool).await?;
    let time = begun.elapsed();
    let spent = spent() - before;
    // The last ones are under way.
    pass(Duration::from_millis(500)).await;
    let heard = heard(crowds).await?;
    let delivered = rate(heard.frames, time);
    let a_core = rate(heard.frames, spent);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let ms = |us: u64| us as f64 / 1_000.0;
    let (p50, p99, p999) = (ms(heard.p50_us), ms(heard.p99_us), ms(heard.p999_us));
    line(&format!(
        "{sockets:>8} {:>14} {wanted:>12} {delivered:>12.0} {p50:>9.2} {p99:>9.2} {p999:>9.2} {a_core:>22.0}",
        topics.len(),
    ));
    Ok(json!({
        "sockets": sockets, "conversations": topics.len(), "wanted_per_second": wanted,
        "published": published, "delivered": heard.frames, "delivered_per_second": delivered,
        "p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "deliveries_per_second_and_core": a_core,
    }))
}

/// Each part of them comes in to a hub of its own, in a process of its own.
async fn come(hubs: &[HubProcess], entrants: &[crowd::Entrant]) -> Result<Vec<Crowd>> {
    let mut crowds = Vec::new();
    for (part, hub) in entrants.chunks(entrants.len().div_ceil(hubs.len())).zip(hubs) {
        let mut crowd = Crowd::start(&std::env::current_exe()?)?;
        let () = crowd.order(&join(&hub.ws(), part.to_vec(), 64)).await?;
        crowds.push(crowd);
    }
    Ok(crowds)
}

/// What all of them heard since the last time; of their times the worst.
async fn heard(crowds: &mut [Crowd]) -> Result<Heard> {
    let mut all = Heard::default();
    for crowd in crowds {
        let one: Heard = crowd.order(&Order::Heard).await?;
        all.frames += one.frames;
        all.p50_us = all.p50_us.max(one.p50_us);
        all.p99_us = all.p99_us.max(one.p99_us);
        all.p999_us = all.p999_us.max(one.p999_us);
    }
    Ok(all)
}

/// The cheapest frame that may say anything: when it was published.
#[must_use]
pub fn tool() -> String {
    ServerFrame::Tool { turn_id: TurnId::new(), name: crowd::now().to_string(), state: ToolState::Running }.json()
}

/// Publishes so much a second, to one after the other; returns how much it was.
///
/// # Errors
/// If Redis takes no more.
pub async fn publish(
    stack: &Stack,
    topics: &[(TenantId, ConversationId)],
    a_second: u64,
    length: Duration,
    frame: impl Fn() -> String,
) -> Result<u64> {
    let client = redis::Client::open(stack.setting.redis.url(User::Harness))?;
    let mut redis = client.get_multiplexed_async_connection().await?;
    let begun = Instant::now();
    let mut published = 0_u64;
    let mut next = topics.iter().cycle();
    while begun.elapsed() < length {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share"
        )]
        let due = (begun.elapsed().as_secs_f64() * a_second as f64) as u64;
        let mut pipe = redis::pipe();
        for (tenant, conversation) in next.by_ref().take(usize::try_from(due - published)?) {
            pipe.publish(webchat_response_key(*tenant, *conversation).as_str(), frame()).ignore();
        }
        if due > published {
            let () = pipe.query_async(&mut redis).await?;
            published = due;
        }
        pass(BEAT).await;
    }
    Ok(published)
}

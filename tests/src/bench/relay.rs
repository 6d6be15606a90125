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
use crate::{demo::Size, services::User};

/// What is published goes out this often, all that is due at once.
const BEAT: Duration = Duration::from_millis(1);

/// Deliveries at each rate over so many sockets with a conversation each, and one conversation with `together` sockets.
///
/// # Errors
/// What cannot be started.
pub async fn run(sockets: usize, rates: &[u64], together: usize, seconds: u64) -> Result<Value> {
    let most = sockets.max(together);
    let stack = Stack::start(Size { tenants: 10, users: most.div_ceil(100), agents: 10 }).await?;
    let hub = stack.hub().await?;
    let length = Duration::from_secs(seconds);
    let mut report = Vec::new();
    line("\nrelay: from PUBLISH to a socket of the client; all of it on this machine's cores");
    line(&format!(
        "{:>8} {:>14} {:>12} {:>12} {:>9} {:>9} {:>9} {:>22}",
        "sockets", "conversations", "wanted/s", "delivered/s", "p50 ms", "p99 ms", "p99.9 ms", "deliveries/s and core"
    ));
    let one_each = stack.entrants(sockets).await?;
    let mut crowd = Crowd::start(&std::env::current_exe()?)?;
    let () = crowd.order(&join(&hub.ws(), one_each.clone(), 64)).await?;
    for &wanted in rates {
        tell(&format!("relay: {wanted} a second to {sockets} sockets"));
        let topics = topics(&stack, &one_each).await?;
        report.push(one(&stack, &mut crowd, hub.pid(), &topics, sockets, wanted, length).await?);
    }
    crowd.leave().await?;
    tell(&format!("relay: one conversation with {together} sockets"));
    let first = one_each.first().context("somebody")?.clone();
    let mut crowd = Crowd::start(&std::env::current_exe()?)?;
    let () = crowd.order(&join(&hub.ws(), vec![first.clone(); together], 64)).await?;
    let topics = topics(&stack, &[first]).await?;
    for publications in [10, 50] {
        let wanted = publications * together as u64;
        report.push(one(&stack, &mut crowd, hub.pid(), &topics, together, wanted, length).await?);
    }
    crowd.leave().await?;
    drop(hub);
    stack.stop().await?;
    Ok(json!(report))
}

/// The tenant and the conversation of each.
async fn topics(stack: &Stack, entrants: &[crowd::Entrant]) -> Result<Vec<(TenantId, ConversationId)>> {
    let ids: Vec<&str> = entrants.iter().map(|(id, _)| id.as_str()).collect();
    let of = "select tenant_id::text, id::text from web_conversations where id::text = any($1)";
    let rows = stack.owner.query(of, &[&ids]).await?;
    rows.iter().map(|row| Ok((row.get::<_, &str>(0).parse()?, row.get::<_, &str>(1).parse()?))).collect()
}

async fn one(
    stack: &Stack,
    crowd: &mut Crowd,
    hub: u32,
    topics: &[(TenantId, ConversationId)],
    sockets: usize,
    wanted: u64,
    length: Duration,
) -> Result<Value> {
    let listeners = (sockets / topics.len()) as u64;
    let client = redis::Client::open(stack.setting.redis.url(User::Harness))?;
    let mut redis = client.get_multiplexed_async_connection().await?;
    let _: Heard = crowd.order(&Order::Heard).await?;
    let (begun, spent) = (Instant::now(), cpu(hub));
    let (mut published, mut next) = (0_u64, 0_usize);
    let turn = TurnId::new();
    while begun.elapsed() < length {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share"
        )]
        let due = (begun.elapsed().as_secs_f64() * wanted as f64 / listeners as f64) as u64;
        let mut pipe = redis::pipe();
        for _ in published..due {
            let (tenant, conversation) = topics[next % topics.len()];
            next += 1;
            let frame = ServerFrame::Tool { turn_id: turn, name: crowd::now().to_string(), state: ToolState::Running };
            pipe.publish(webchat_response_key(tenant, conversation).as_str(), frame.json()).ignore();
        }
        if due > published {
            let () = pipe.query_async(&mut redis).await?;
            published = due;
        }
        pass(BEAT).await;
    }
    let time = begun.elapsed();
    let spent = cpu(hub) - spent;
    // The last ones are under way.
    pass(Duration::from_millis(500)).await;
    let heard: Heard = crowd.order(&Order::Heard).await?;
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

//! A hub is killed, and all its sockets come to the other one.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    Stack,
    crowd::{Crowd, Order, Standing},
    line, pass, rate, tell,
};
use crate::demo::Size;

/// How many come in at the same time, before the storm; in it there is no such measure.
const AT_ONCE: usize = 64;

/// Longest wait for all to be back.
const PATIENCE: Duration = Duration::from_secs(120);

/// Kills the hub of so many sockets.
///
/// # Errors
/// What cannot be started, or who does not come back.
pub async fn run(count: usize) -> Result<Value> {
    let stack = Stack::start(Size { tenants: 10, users: count.div_ceil(100), agents: 10 }).await?;
    tell(&format!("storm: {count} sockets on a hub that is going to be killed"));
    let (dying, other) = (stack.hub().await?, stack.hub().await?);
    let mut crowd = Crowd::start(&std::env::current_exe()?)?;
    let entrants = stack.entrants(count).await?;
    let hubs = vec![dying.ws(), other.ws()];
    let () = crowd.order(&Order::Join { hubs, entrants, at_once: AT_ONCE }).await?;
    let () = crowd.order::<Standing>(&Order::Count).await.map(|_| ())?;
    pass(Duration::from_secs(2)).await;
    let commits = stack.commits().await?;
    let before = crowd.standing().await?;
    ensure!(before.ready == count, "all are here");

    tell("storm: killed");
    let begun = Instant::now();
    dying.signal("KILL")?;
    let (mut connections, mut half) = (0, None);
    let back = loop {
        let asked = "select count(*) from pg_stat_activity where usename = 'chat_app'";
        connections = connections.max(stack.owner.query_one(asked, &[]).await?.get::<_, i64>(0));
        let standing = crowd.standing().await?;
        let here = usize::try_from(standing.entered - before.entered)?;
        if here * 2 >= count {
            half.get_or_insert(begun.elapsed());
        }
        if here >= count && standing.ready == count {
            break begun.elapsed();
        }
        ensure!(begun.elapsed() < PATIENCE, "only {here} of {count} came back");
        pass(Duration::from_millis(100)).await;
    };
    // What a session did is counted once it idles.
    pass(Duration::from_secs(2)).await;
    let queries = stack.commits().await? - commits;
    let failed = crowd.standing().await?.failed - before.failed;
    let half = half.unwrap_or(back);
    line("\nstorm: a hub is killed, its sockets come back to the other one");
    line(&format!(
        "{:>8} {:>11} {:>11} {:>12} {:>22} {:>18} {:>13}",
        "sockets", "half after", "all after", "back/s", "transactions each", "most connections", "failed tries"
    ));
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let each = queries as f64 / count as f64;
    let back_rate = rate(count as u64, back);
    line(&format!(
        "{count:>8} {:>9.1} s {:>9.1} s {back_rate:>12.0} {each:>22.2} {connections:>18} {failed:>13}",
        half.as_secs_f64(),
        back.as_secs_f64(),
    ));
    crowd.leave().await?;
    drop(other);
    stack.stop().await?;
    Ok(json!({
        "sockets": count, "half_after_s": half.as_secs_f64(), "all_after_s": back.as_secs_f64(),
        "transactions_each": each, "most_connections": connections, "failed_tries": failed,
    }))
}

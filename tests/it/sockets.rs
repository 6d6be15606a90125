//! How many sockets a user and a tenant may hold: counted on all hubs together, and on each alone while Redis is away.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use chat_core::{
    bus::{Presence, Publisher, Sockets},
    config::{self, Limits, Secret},
    ids::{TenantId, UserId},
    keys::{Key, tenant_sockets_key, user_sockets_key},
};
use futures::future::join_all;
use harness::{
    app::{self, App, until},
    clients::Socket,
    product::QueueKind,
    services::User,
    wire::Wire,
};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn limits(user_sockets: usize, tenant_sockets: usize) -> Limits {
    Limits { user_sockets, tenant_sockets, sockets_lease_ms: 1_500, ..app::lifted() }
}

/// A hub's count of its sockets, and its task.
struct Hub {
    sockets: Sockets,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

fn hub(url: &str, limits: &Limits) -> Hub {
    let publisher = Publisher::new(&config::Redis::at(Secret::from(url.to_owned()))).unwrap();
    let stop = CancellationToken::new();
    let (sockets, task) = Sockets::start(&publisher, limits, stop.clone());
    Hub { sockets, task, stop }
}

impl Hub {
    async fn enter(&self, who: (TenantId, UserId)) -> Option<Presence> {
        self.sockets.enter(who.0, who.1).await.ok()
    }
}

async fn redis_url() -> String {
    app::services().await.unwrap().redis.url()
}

async fn redis() -> redis::aio::MultiplexedConnection {
    redis::Client::open(redis_url().await).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// What the hubs have told about a name: the counts.
async fn told(key: &Key) -> Vec<usize> {
    let fields: Vec<(String, String)> =
        ::redis::cmd("HGETALL").arg(key.as_str()).query_async(&mut redis().await).await.unwrap();
    fields.iter().map(|(_, field)| field.split_once(' ').unwrap().0.parse().unwrap()).collect()
}

/// Tries to come in: the socket, or when to come again.
async fn join(ws: &str, conversation: &str, token: &str) -> Result<Socket, u64> {
    let mut socket = Socket::open(ws, conversation, None).await.unwrap();
    socket.say(&json!({"type": "auth", "token": token})).await.unwrap();
    let first = socket.next().await.unwrap();
    if first["type"] == "ready" {
        return Ok(socket);
    }
    assert_eq!((&first["type"], &first["code"]), (&json!("error"), &json!("too_many_sockets")), "{first}");
    assert_eq!(socket.closed().await.unwrap(), Some(4429));
    Err(first["retry_after_ms"].as_u64().unwrap())
}

#[tokio::test]
async fn a_user_holds_no_more_sockets_than_they_may_on_all_hubs_together() {
    let app = App::with(|setting| setting.limits = limits(5, 1_000)).await.unwrap();
    let second = app.second(QueueKind::Local(None)).await.unwrap();
    let hubs = [app.product.ws(), second.ws()];
    let (conversation, others) =
        (app.conversation("ben@acme").await.unwrap(), app.conversation("ben@globex").await.unwrap());
    let (token, others_token) = (app.token(app.user("ben@acme")), app.token(app.user("ben@globex")));
    let tries = join_all((0..50).map(|number| join(&hubs[number % 2], &conversation, &token)));
    // Nobody else is refused or waits for long.
    let beside = async {
        for number in 0..5 {
            join(&hubs[number % 2], &others, &others_token).await.unwrap();
        }
    };
    let (tries, ()) = tokio::join!(tries, beside);
    let (mut held, refused): (Vec<_>, Vec<_>) = tries.into_iter().partition(Result::is_ok);
    assert_eq!((held.len(), refused.len()), (5, 45));
    assert!(refused.iter().all(|refused| refused.as_ref().is_err_and(|wait| (1..=60_000).contains(wait))));
    assert!(
        join(&hubs[0], &conversation, &token).await.is_err() && join(&hubs[1], &conversation, &token).await.is_err()
    );
    held.pop();
    let again = Mutex::new(None);
    until("the place to be free", || async {
        let joined = join(&hubs[1], &conversation, &token).await.ok();
        let free = joined.is_some();
        *again.lock().unwrap() = joined;
        Ok(free)
    })
    .await
    .unwrap();
    assert!(join(&hubs[0], &conversation, &token).await.is_err());
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_tenant_holds_no_more_sockets_than_it_may_on_all_hubs_together() {
    let url = redis_url().await;
    let (one, two) = (hub(&url, &limits(1_000, 7)), hub(&url, &limits(1_000, 7)));
    let (tenant, other) = (TenantId::new(), TenantId::new());
    let users: Vec<UserId> = (0..40).map(|_| UserId::new()).collect();
    let tries = users.iter().enumerate().map(|(number, user)| {
        let hub = if number % 2 == 0 { &one } else { &two };
        hub.enter((tenant, *user))
    });
    let held: Vec<Presence> = join_all(tries).await.into_iter().flatten().collect();
    assert_eq!(held.len(), 7);
    assert!(one.enter((other, users[0])).await.is_some(), "another tenant has places of its own");
    let key = tenant_sockets_key(tenant);
    assert_eq!(told(&key).await.iter().sum::<usize>(), 7);
    drop(held);
    until("nothing to be told of it any more", || async { Ok(told(&key).await.is_empty()) }).await.unwrap();
    // Those whom the tenant had no place for stand in no count of their own either.
    for user in &users {
        assert!(told(&user_sockets_key(tenant, *user)).await.is_empty());
    }
}

#[tokio::test]
async fn a_killed_hub_gives_its_places_back_in_time_and_a_living_one_keeps_them() {
    let url = redis_url().await;
    let limits = limits(4, 1_000);
    let (dies, lives) = (hub(&url, &limits), hub(&url, &limits));
    let who = (TenantId::new(), UserId::new());
    let _with_it = [dies.enter(who).await.unwrap(), dies.enter(who).await.unwrap()];
    let mut held = vec![lives.enter(who).await.unwrap(), lives.enter(who).await.unwrap()];
    assert!(lives.enter(who).await.is_none() && dies.enter(who).await.is_none());
    let killed = Instant::now();
    dies.task.abort();
    let third = Mutex::new(None);
    until("its places to be free", || async {
        let entered = lives.enter(who).await;
        let free = entered.is_some();
        *third.lock().unwrap() = entered;
        Ok(free)
    })
    .await
    .unwrap();
    // Whatever it told last counts for a lease from then on.
    let lease = Duration::from_millis(limits.sockets_lease_ms);
    assert!(killed.elapsed() < 2 * lease, "{:?}", killed.elapsed());
    held.push(lives.enter(who).await.unwrap());
    // Several leases later those who live still count: they are told again and again.
    let another = hub(&url, &limits);
    let begun = Instant::now();
    until("three leases to pass", || async {
        assert!(another.enter(who).await.is_none(), "a place was given twice");
        Ok(begun.elapsed() > 3 * lease)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_flushed_redis_learns_again_who_is_here() {
    let url = redis_url().await;
    let limits = limits(2, 1_000);
    let (here, there) = (hub(&url, &limits), hub(&url, &limits));
    let who = (TenantId::new(), UserId::new());
    let _held = [here.enter(who).await.unwrap(), here.enter(who).await.unwrap()];
    let (user, tenant) = (user_sockets_key(who.0, who.1), tenant_sockets_key(who.0));
    ::redis::cmd("DEL").arg(user.as_str()).arg(tenant.as_str()).query_async::<()>(&mut redis().await).await.unwrap();
    until("it to be told", || async { Ok(told(&user).await == [2] && told(&tenant).await == [2]) }).await.unwrap();
    assert!(there.enter(who).await.is_none());
}

#[tokio::test]
async fn a_hub_that_leaves_takes_its_counts_along() {
    let url = redis_url().await;
    let limits = Limits { sockets_lease_ms: 600_000, ..limits(2, 1_000) };
    let leaves = hub(&url, &limits);
    let who = (TenantId::new(), UserId::new());
    let held = [leaves.enter(who).await.unwrap(), leaves.enter(who).await.unwrap()];
    drop(held);
    leaves.stop.cancel();
    leaves.task.await.unwrap();
    assert!(
        told(&user_sockets_key(who.0, who.1)).await.is_empty() && told(&tenant_sockets_key(who.0)).await.is_empty()
    );
}

#[tokio::test]
async fn whoever_goes_away_while_being_counted_does_not_count() {
    let hub = hub(&redis_url().await, &Limits { sockets_lease_ms: 600_000, ..limits(3, 1_000) });
    let who = (TenantId::new(), UserId::new());
    for _ in 0..20 {
        // Polled once, so it is asked for, and dropped before the answer.
        assert!(
            futures::future::poll_immediate(Box::pin(hub.enter(who))).await.is_none_or(|entered| entered.is_none())
        );
    }
    until("all three places to be free", || async {
        let held = join_all((0..3).map(|_| hub.enter(who))).await;
        Ok(held.iter().all(Option::is_some))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn while_redis_is_away_each_hub_counts_its_own() {
    let limits = limits(2, 3);
    let (one, two) = (hub("redis://127.0.0.1:9", &limits), hub("redis://127.0.0.1:9", &limits));
    let who = (TenantId::new(), UserId::new());
    for hub in [&one, &two] {
        let held = [hub.enter(who).await.unwrap(), hub.enter(who).await.unwrap()];
        assert!(hub.enter(who).await.is_none(), "as many as a user may have");
        let third = hub.enter((who.0, UserId::new())).await.unwrap();
        assert!(hub.enter((who.0, UserId::new())).await.is_none(), "as many as a tenant may have");
        drop((held, third));
        until("places to be free", || async { Ok(hub.enter(who).await.is_some()) }).await.unwrap();
    }
}

#[tokio::test]
async fn a_silent_redis_keeps_nobody_waiting_and_counts_again_when_it_speaks() {
    let services = app::services().await.unwrap();
    let wire = Wire::before(([127, 0, 0, 1], services.redis.port()).into()).await.unwrap();
    let limits = Limits { sockets_wait_ms: 100, ..limits(3, 1_000) };
    let hub = hub(&services.redis.entrance.at(wire.address).url(User::Hub), &limits);
    let who = (TenantId::new(), UserId::new());
    let _first = hub.enter(who).await.unwrap();
    wire.hold(true);
    let begun = Instant::now();
    let _second = hub.enter(who).await.unwrap();
    let _third = hub.enter(who).await.unwrap();
    assert!(hub.enter(who).await.is_none());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    wire.hold(false);
    until("Redis to be told", || async { Ok(told(&user_sockets_key(who.0, who.1)).await == [3]) }).await.unwrap();
}

#[tokio::test]
async fn thousands_who_come_at_once_wait_for_a_few_round_trips() {
    let services = app::services().await.unwrap();
    let wire = Wire::before(([127, 0, 0, 1], services.redis.port()).into()).await.unwrap();
    let hub = hub(&services.redis.entrance.at(wire.address).url(User::Hub), &limits(20, 10_000));
    let tenant = TenantId::new();
    let _first = hub.enter((tenant, UserId::new())).await.unwrap();
    let (trips, begun) = (wire.trips(), Instant::now());
    let held = join_all((0..10_000).map(|_| hub.enter((tenant, UserId::new())))).await;
    assert_eq!(held.iter().flatten().count(), 9_999, "one was here before");
    let (trips, took) = (wire.trips() - trips, begun.elapsed());
    tracing::info!(trips, ?took, "ten thousand sockets counted");
    assert!(trips <= 60, "{trips} round trips");
}

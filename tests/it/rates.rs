//! How fast one person may write: the same bucket at every hub and function, and one of their own while Redis is away.

use std::time::{Duration, Instant};

use chat_core::{
    bus::{Buckets, Publisher},
    config::{self, Limits, Secret},
    ids::{ClientMessageId, TenantId, UserId},
    keys::{Key, ratelimit_key},
};
use futures::future::join_all;
use harness::{
    app::{self, App, until},
    clients::{Answer, Rest, Socket},
    product::{Product, QueueKind},
    services::User,
    wire::Wire,
};
use serde_json::{Value, json};

/// A product where each user may write `burst` times, and then `per_minute`.
async fn limited(burst: u32, per_minute: u32) -> App {
    App::with(|setting| setting.limits = limits(burst, per_minute)).await.unwrap()
}

/// Redis is waited for as long as a busy machine may need, but where a test is about that.
fn limits(burst: u32, per_minute: u32) -> Limits {
    Limits {
        user_messages_burst: burst,
        user_messages_per_minute: per_minute,
        user_messages_wait_ms: 3_000,
        ..app::lifted()
    }
}

/// A user's way in by REST, at one of the products.
fn rest(app: &App, product: &Product, handle: &str) -> Rest {
    Rest::new(&product.rest(), Some(&app.token(app.user(handle))))
}

async fn say(rest: &Rest, conversation: &str) -> Answer {
    rest.say(conversation, &ClientMessageId::new().to_string(), "hello").await.unwrap()
}

/// Says something on a socket and waits for `accepted` or `error`.
async fn told(socket: &mut Socket) -> Value {
    socket.message("hello", None).await.unwrap();
    loop {
        let frame = socket.next().await.unwrap();
        if frame["type"] == "accepted" || frame["type"] == "error" {
            return frame;
        }
    }
}

/// The name of a user's bucket.
fn bucket(app: &App, handle: &str) -> Key {
    let user = app.user(handle);
    ratelimit_key(user.tenant.unwrap(), user.id)
}

async fn redis() -> redis::aio::MultiplexedConnection {
    let url = app::services().await.unwrap().redis.url();
    redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// A refusal by REST: 429, and when to come back, in whole seconds of which `most` is the last.
fn assert_refused(answer: &Answer, most: u64) {
    assert_eq!((answer.status, &answer.body["code"]), (429, &json!("rate_limited")), "{}", answer.body);
    let after: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=most).contains(&after), "{after}");
}

#[tokio::test]
async fn every_hub_and_function_takes_from_the_same_bucket() {
    let app = limited(6, 1).await;
    let second = app.second(QueueKind::Local(None)).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut here = app.socket("ben@acme", &conversation).await.unwrap();
    let token = app.token(app.user("ben@acme"));
    let (mut there, _) = Socket::join(&second.ws(), &conversation, &token).await.unwrap();
    let (rest_here, rest_there) = (app.rest("ben@acme"), rest(&app, &second, "ben@acme"));
    for _ in 0..2 {
        assert_eq!(told(&mut here).await["type"], "accepted");
        assert_eq!(told(&mut there).await["type"], "accepted");
    }
    assert_eq!(say(&rest_here, &conversation).await.status, 202);
    assert_eq!(say(&rest_there, &conversation).await.status, 202);

    for socket in [&mut here, &mut there] {
        // The first refusal is Redis's, the second one is remembered.
        for _ in 0..2 {
            let error = told(socket).await;
            assert_eq!(error["code"], "rate_limited");
            assert!((1..=60_000).contains(&error["retry_after_ms"].as_u64().unwrap()), "{error}");
        }
        let stop = json!({"type": "stop", "turn_id": ClientMessageId::new().to_string()});
        socket.say(&stop).await.unwrap();
        assert_eq!(socket.until("error").await.unwrap()["code"], "rate_limited");
    }
    for rest in [&rest_here, &rest_there] {
        assert_refused(&say(rest, &conversation).await, 60);
        assert_refused(&rest.delete(&format!("/conversations/{conversation}")).await.unwrap(), 60);
        let read = rest.get(&format!("/conversations/{conversation}/messages")).await.unwrap();
        assert_eq!((read.status, read.body.as_array().unwrap().len() >= 6), (200, true), "reading is free");
    }
    let left: i64 =
        ::redis::cmd("PTTL").arg(bucket(&app, "ben@acme").as_str()).query_async(&mut redis().await).await.unwrap();
    assert!((1..=360_000).contains(&left), "the bucket is forgotten when it is full again: {left}");

    let others = app.conversation("ada@acme").await.unwrap();
    assert_eq!(say(&app.rest("ada@acme"), &others).await.status, 202, "each has a bucket of their own");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn those_who_ask_at_once_do_not_get_more_than_there_is() {
    let app = limited(10, 1).await;
    let second = app.second(QueueKind::Local(None)).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let both = [app.rest("ben@acme"), rest(&app, &second, "ben@acme")];
    let answers = join_all((0..60).map(|number| say(&both[number % 2], &conversation))).await;
    let accepted = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(accepted, 10);
    answers.iter().filter(|answer| answer.status != 202).for_each(|answer| assert_refused(answer, 60));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_bucket_fills_again_at_its_rate() {
    let app = limited(2, 30).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let rest = app.rest("ben@acme");
    let begun = Instant::now();
    let mut accepted = 0;
    let mut refused = 0;
    while accepted < 4 {
        let answer = say(&rest, &conversation).await;
        if answer.status == 202 {
            accepted += 1;
        } else {
            refused += 1;
            assert_refused(&answer, 2);
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    assert!(begun.elapsed() >= Duration::from_secs(4), "two at once, then one in two seconds: {:?}", begun.elapsed());
    assert!(refused > 0);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_token_that_names_no_tenant_finds_the_same_bucket() {
    let app = limited(1, 1).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let ben = app.user("ben@acme");
    let token = app.mint.token(ben.id, ben.role, None, Duration::from_secs(60));
    assert_eq!(say(&Rest::new(&app.product.rest(), Some(&token)), &conversation).await.status, 202);
    assert_refused(&say(&app.rest("ben@acme"), &conversation).await, 60);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_flushed_redis_only_lets_more_through() {
    let app = limited(1, 1).await;
    let second = app.second(QueueKind::Local(None)).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let (here, there) = (app.rest("ben@acme"), rest(&app, &second, "ben@acme"));
    assert_eq!(say(&here, &conversation).await.status, 202);
    assert_refused(&say(&here, &conversation).await, 60);
    let gone: i64 =
        ::redis::cmd("DEL").arg(bucket(&app, "ben@acme").as_str()).query_async(&mut redis().await).await.unwrap();
    assert_eq!(gone, 1);
    assert_eq!(say(&there, &conversation).await.status, 202);
    assert_refused(&say(&there, &conversation).await, 60);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_bucket_from_a_clock_that_ran_ahead_is_as_empty_as_can_be_and_no_more() {
    let app = limited(2, 60).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let key = bucket(&app, "ben@acme");
    let future = i64::MAX / 1_024;
    ::redis::cmd("SET").arg(key.as_str()).arg(future).query_async::<()>(&mut redis().await).await.unwrap();
    let answer = say(&app.rest("ben@acme"), &conversation).await;
    assert_refused(&answer, 1);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn while_redis_is_away_each_process_keeps_a_bucket_of_its_own() {
    let app = App::with(|setting| {
        setting.limits = limits(2, 1);
        setting.redis = setting.redis.at("127.0.0.1:9");
    })
    .await
    .unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let rest = app.rest("ben@acme");
    for _ in 0..2 {
        assert_eq!(told(&mut socket).await["type"], "accepted");
        assert_eq!(say(&rest, &conversation).await.status, 202);
    }
    let error = told(&mut socket).await;
    assert_eq!(error["code"], "rate_limited");
    assert!((1..=60_000).contains(&error["retry_after_ms"].as_u64().unwrap()), "{error}");
    assert_refused(&say(&rest, &conversation).await, 60);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_loosest_limit_is_kept_in_redis_too() {
    let redis = &app::services().await.unwrap().redis;
    let wire = Wire::before(([127, 0, 0, 1], redis.port()).into()).await.unwrap();
    let redis = config::Redis::at(Secret::from(redis.entrance.at(wire.address).url(User::Conversations)));
    let buckets = Buckets::new(&Publisher::new(&redis).unwrap(), &limits(1_000_000_000, 1_000_000_000));
    let (tenant, user) = (TenantId::new(), UserId::new());
    buckets.take(tenant, user).await.unwrap();
    let trips = wire.trips();
    for _ in 0..3 {
        buckets.take(tenant, user).await.unwrap();
    }
    // It is asked each time: nothing went wrong before.
    assert_eq!(wire.trips() - trips, 3);
}

#[tokio::test]
async fn a_silent_redis_delays_nobody_and_is_asked_again_when_it_speaks() {
    let port = app::services().await.unwrap().redis.port();
    let wire = Wire::before(([127, 0, 0, 1], port).into()).await.unwrap();
    let app = App::with(|setting| {
        setting.limits = Limits { user_messages_wait_ms: 50, ..limits(1_000, 60) };
        setting.redis = setting.redis.at(wire.address);
    })
    .await
    .unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    assert_eq!(told(&mut socket).await["type"], "accepted");
    let key = bucket(&app, "ben@acme");
    let mut redis = redis().await;
    let stands = async |redis: &mut ::redis::aio::MultiplexedConnection| -> i64 {
        ::redis::cmd("EXISTS").arg(key.as_str()).query_async(redis).await.unwrap()
    };
    assert_eq!(stands(&mut redis).await, 1);

    wire.hold(true);
    for _ in 0..5 {
        let begun = Instant::now();
        socket.message("hello", None).await.unwrap();
        socket.until("typing").await.unwrap();
        socket.until("accepted").await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    wire.hold(false);
    until("Redis to be asked again", async || {
        ::redis::cmd("DEL").arg(key.as_str()).query_async::<()>(&mut redis.clone()).await?;
        assert_eq!(told(&mut app.socket("ben@acme", &conversation).await?).await["type"], "accepted");
        Ok(stands(&mut redis.clone()).await == 1)
    })
    .await
    .unwrap();
    app.finish().await.unwrap();
}

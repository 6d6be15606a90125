//! The bus: confirmed before it is relied on, one connection for all, and honest about what it may have missed.

use std::{sync::Arc, time::Duration};

use chat_core::{
    bus::{News, Publisher, Subscriber, Subscription},
    config::{Redis, Secret},
    event::ServerFrame,
    ids::{ConversationId, TenantId},
    keys::{Topic, webchat_response_key},
};
use harness::{
    app::{self, App, until},
    clients::PATIENCE,
    services::{Options, Services, User},
    wire::Wire,
};
use serde_json::json;
use tokio::time::timeout;

fn topic() -> Topic {
    webchat_response_key(TenantId::new(), ConversationId::new())
}

fn epoch_of(_: &str, payload: &[u8]) -> Option<i32> {
    let Ok(ServerFrame::Reset { epoch }) = serde_json::from_slice(payload) else { return None };
    Some(epoch)
}

/// The next event, past gaps: a listener may have come before the first connection.
async fn event<T: Send + Sync + 'static>(listener: &mut Subscription<T>) -> Option<Arc<T>> {
    loop {
        match timeout(PATIENCE, listener.next()).await.unwrap()? {
            News::Event(event) => return Some(event),
            News::Gap => {}
        }
    }
}

async fn connected(redis: &Redis) -> Subscriber<i32> {
    let (subscriber, _) = Subscriber::start(redis, epoch_of).unwrap();
    until("a connection", || async { Ok(subscriber.connected()) }).await.unwrap();
    subscriber
}

async fn shared_redis() -> Redis {
    Redis::at(Secret::from(app::services().await.unwrap().redis.entrance.url(User::Hub)))
}

#[tokio::test]
async fn what_is_published_after_the_confirmation_is_heard_by_every_listener() {
    let redis = shared_redis().await;
    let publisher = Publisher::new(&redis).unwrap();
    let subscriber = connected(&redis).await;
    // Published at once after each confirmation, again and again: a late subscription would miss some.
    for epoch in 0..200 {
        let topic = topic();
        let mut one = subscriber.subscribe(topic.clone(), PATIENCE).await;
        let mut two = subscriber.subscribe(topic.clone(), PATIENCE).await;
        publisher.publish(&topic, &ServerFrame::Reset { epoch }).await.unwrap();
        for listener in [&mut one, &mut two] {
            assert_eq!(event(listener).await.as_deref(), Some(&epoch));
        }
        drop(one);
        publisher.publish(&topic, &ServerFrame::Reset { epoch: -1 }).await.unwrap();
        assert_eq!(event(&mut two).await.as_deref(), Some(&-1), "the last listener still hears");
    }
}

#[tokio::test]
async fn a_subscription_waits_for_its_confirmation_and_tells_a_gap_when_that_is_late() {
    let own = app::services().await.unwrap();
    let wire = Wire::before(([127, 0, 0, 1], own.redis.port()).into()).await.unwrap();
    let subscriber = connected(&Redis::at(Secret::from(own.redis.entrance.at(wire.address).url(User::Hub)))).await;
    drop(subscriber.subscribe(topic(), PATIENCE).await);
    wire.hold(true);
    let waits = timeout(Duration::from_millis(300), subscriber.subscribe(topic(), PATIENCE)).await;
    assert!(waits.is_err(), "nothing confirmed it");
    let mut late = subscriber.subscribe(topic(), Duration::from_millis(100)).await;
    wire.hold(false);
    assert!(
        matches!(timeout(PATIENCE, late.next()).await.unwrap(), Some(News::Gap)),
        "whoever read too early reads again"
    );
}

#[tokio::test]
async fn a_topic_that_comes_and_goes_quickly_ends_as_it_should() {
    let redis = shared_redis().await;
    let publisher = Publisher::new(&redis).unwrap();
    let subscriber = connected(&redis).await;
    let topic = topic();
    for _ in 0..100 {
        drop(subscriber.subscribe(topic.clone(), PATIENCE).await);
    }
    let mut stays = subscriber.subscribe(topic.clone(), PATIENCE).await;
    publisher.publish(&topic, &ServerFrame::Reset { epoch: 7 }).await.unwrap();
    assert_eq!(event(&mut stays).await.as_deref(), Some(&7));
}

#[tokio::test]
async fn a_listener_that_is_too_slow_is_let_go_and_the_others_hear_on() {
    let redis = shared_redis().await;
    let publisher = Publisher::new(&redis).unwrap();
    let subscriber = connected(&redis).await;
    let topic = topic();
    let mut slow = subscriber.subscribe(topic.clone(), PATIENCE).await;
    let mut quick = subscriber.subscribe(topic.clone(), PATIENCE).await;
    for epoch in 0..1_100 {
        publisher.publish(&topic, &ServerFrame::Reset { epoch }).await.unwrap();
        assert!(event(&mut quick).await.is_some());
    }
    let mut heard = 0;
    while event(&mut slow).await.is_some() {
        heard += 1;
    }
    assert!((1_023..=1_024).contains(&heard), "as many as its mailbox holds, not {heard}");
}

#[tokio::test]
async fn a_broken_connection_is_told_and_what_was_missed_is_read_from_the_store() {
    let own = Services::start(&Options { durable: false, max_connections: 10 }, &|_| {}).await.unwrap();
    let app = App::with(|setting| setting.redis = own.redis.entrance.clone()).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let mut redis = redis::Client::open(own.redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();

    // The subscriber is cut off, and kept out while a message is sent and answered elsewhere.
    let acl = async |redis: &mut redis::aio::MultiplexedConnection, rule: &str| {
        redis::cmd("ACL").arg(&["SETUSER", User::Hub.name(), rule]).query_async::<()>(redis).await.unwrap();
    };
    acl(&mut redis, "-subscribe").await;
    redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).query_async::<i64>(&mut redis).await.unwrap();
    let sent = app.rest("ben@acme").say(&conversation, "0193b3a0-0000-7000-8000-0000000000ff", "missed").await.unwrap();
    crate::turns::state_becomes(&app, &sent.body, "answered").await;
    assert!(socket.next_within(Duration::from_millis(300)).await.is_err(), "nobody could tell this socket");

    acl(&mut redis, "+subscribe").await;
    let message = socket.expect("message").await.unwrap();
    assert_eq!((&message["message"]["content"], &message["message"]["seq"]), (&json!("missed"), &json!(1)));
    assert_eq!(socket.expect("response").await.unwrap()["seq"], 2);
    // And it is live again.
    socket.message("hello", None).await.unwrap();
    socket.until("response").await.unwrap();
    until("readiness", || async {
        Ok(reqwest::get(format!("{}/readyz", app.product.rest())).await?.status().is_success())
    })
    .await
    .unwrap();
    app.finish().await.unwrap();
    own.stop().await.unwrap();
}

//! The bus in a cluster: each topic on one node, and nobody above it sees a difference.

use std::time::Duration;

use chat_core::{
    bus::{News, Publisher, Subscriber, Subscription},
    config::Redis,
    event::ServerFrame,
    ids::{ConversationId, TenantId},
    keys::{Topic, webchat_response_key},
};
use harness::{
    app::{self, App, until},
    clients::{PATIENCE, Socket},
    demo::Size,
    product::QueueKind,
    services::{RedisCluster, User},
    signal,
};
use redis::InfoDict;
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::streaming::{Dictation, dictations};

/// So many conversations that every node has some of them.
const MANY_AGENTS: Size = Size { tenants: 1, users: 2, agents: 40 };

async fn cluster() -> RedisCluster {
    RedisCluster::start(&app::services().await.unwrap().redis.entrance).await.unwrap()
}

async fn settings(cluster: &RedisCluster) -> Redis {
    cluster.beside(&app::services().await.unwrap().redis.entrance).settings(User::Hub)
}

/// A topic on each node, in their order.
async fn topics(cluster: &RedisCluster) -> [Topic; 3] {
    let mut found = [None, None, None];
    while found.iter().any(Option::is_none) {
        let topic = webchat_response_key(TenantId::new(), ConversationId::new());
        let holder = cluster.holder(&topic).await.unwrap();
        found[holder] = Some(topic);
    }
    found.map(Option::unwrap)
}

fn epoch_of(_: &str, payload: &[u8]) -> Option<i32> {
    let Ok(ServerFrame::Reset { epoch }) = serde_json::from_slice(payload) else { return None };
    Some(epoch)
}

async fn connected(redis: &Redis) -> Subscriber<i32> {
    let (subscriber, _) = Subscriber::start(redis, epoch_of).unwrap();
    until("connections to all nodes", || async { Ok(subscriber.connected()) }).await.unwrap();
    subscriber
}

/// The next news: an epoch, or a gap.
async fn next(listener: &mut Subscription<i32>) -> Option<i32> {
    match timeout(PATIENCE, listener.next()).await.unwrap().unwrap() {
        News::Event(epoch) => Some(*epoch),
        News::Gap => None,
    }
}

async fn shard_channels(cluster: &RedisCluster, node: usize) -> Vec<String> {
    let mut node = cluster.connect(node).await.unwrap();
    redis::cmd("PUBSUB").arg("SHARDCHANNELS").query_async(&mut node).await.unwrap()
}

/// How often a node was told to do something.
async fn calls(cluster: &RedisCluster, node: usize, command: &str) -> u64 {
    let mut node = cluster.connect(node).await.unwrap();
    let stats: InfoDict = redis::cmd("INFO").arg("commandstats").query_async(&mut node).await.unwrap();
    let line: Option<String> = stats.get(&format!("cmdstat_{command}"));
    let calls = line.and_then(|line| line.strip_prefix("calls=")?.split(',').next()?.parse().ok());
    calls.unwrap_or(0)
}

#[tokio::test]
async fn what_is_published_goes_to_the_node_that_holds_its_topic_alone() {
    let cluster = cluster().await;
    let redis = settings(&cluster).await;
    let (subscriber, publisher) = (connected(&redis).await, Publisher::new(&redis).unwrap());
    let topics = topics(&cluster).await;
    // Published at once after each confirmation, again and again: a late subscription would miss some.
    for epoch in 0..100 {
        for topic in &topics {
            let mut listener = subscriber.subscribe(topic.clone(), PATIENCE).await;
            publisher.publish(topic, &ServerFrame::Reset { epoch }).await.unwrap();
            assert_eq!(next(&mut listener).await, Some(epoch));
        }
    }
    let mut listeners = Vec::new();
    for topic in &topics {
        listeners.push(subscriber.subscribe(topic.clone(), PATIENCE).await);
    }
    // Of all nodes at once, in their order.
    let news: Vec<_> =
        (0..30).map(|epoch| (topics[epoch % 3].clone(), ServerFrame::Reset { epoch: epoch as i32 })).collect();
    publisher.publish_all(&news).await.unwrap();
    for (node, listener) in listeners.iter_mut().enumerate() {
        for round in 0..10 {
            assert_eq!(next(listener).await, Some(round * 3 + node as i32));
        }
    }
    publisher.look_again(&topics).await.unwrap();
    for listener in &mut listeners {
        assert_eq!(next(listener).await, None, "a reason to look again");
    }
    for (node, topic) in topics.iter().enumerate() {
        assert_eq!(shard_channels(&cluster, node).await, [topic.as_str()], "node {node} has others' topics");
        assert_eq!(calls(&cluster, node, "spublish").await, 111, "node {node} was told of others' news");
        assert_eq!(calls(&cluster, node, "publish").await, 0);
        let mut node = cluster.connect(node).await.unwrap();
        let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut node).await.unwrap();
        for line in info.lines().filter(|line| line.contains("_publish")) {
            assert!(line.ends_with(":0"), "nodes told each other: {line}");
        }
    }
    drop(listeners);
    until("nobody to listen", || async {
        let mut left = 0;
        for node in 0..3 {
            left += shard_channels(&cluster, node).await.len();
        }
        Ok(left == 0)
    })
    .await
    .unwrap();
    assert!(subscriber.connected(), "letting go of a topic breaks no connection");
}

/// Conversations of ben, one on each node.
async fn conversations(app: &App, cluster: &RedisCluster) -> [String; 3] {
    let tenant = app.user("ben@acme").tenant.unwrap();
    let mut found = [None, None, None];
    for agent in app.demo.agents.iter().filter(|agent| agent.tenant == tenant) {
        let conversation = app.rest("ben@acme").open(tenant, agent.id).await.unwrap();
        let topic = webchat_response_key(tenant, conversation.parse().unwrap());
        let holder = cluster.holder(&topic).await.unwrap();
        found[holder] = Some(conversation);
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    found.map(Option::unwrap)
}

async fn app_in(cluster: &RedisCluster, change: impl FnOnce(&mut harness::product::Setting)) -> App {
    App::of(MANY_AGENTS, |setting| {
        setting.redis = cluster.beside(&setting.redis);
        change(setting);
    })
    .await
    .unwrap()
}

/// A reply of two words, each heard by all sockets as it is said.
async fn heard_as_it_is_said(dictation: Dictation, sockets: &mut [Socket]) {
    for (word, offset) in [("two ", 0), ("words", 4)] {
        dictation.say(word);
        for socket in &mut *sockets {
            // Signs that somebody works go on for ever.
            let delta = timeout(PATIENCE, socket.until("delta")).await.expect("words as they are said").unwrap();
            assert_eq!((&delta["text"], &delta["offset"]), (&json!(word), &json!(offset)));
        }
    }
    dictation.end();
    for socket in sockets {
        assert_eq!(socket.until("response").await.unwrap()["text"], "two words");
    }
}

#[tokio::test]
async fn chats_of_every_node_are_relayed_from_hub_to_hub() {
    let cluster = cluster().await;
    let (model, mut dictations) = dictations(3);
    let app = app_in(&cluster, |setting| setting.model = model).await;
    let second = app.second(QueueKind::Local(None)).await.unwrap();
    app.product.answers().await.unwrap();
    second.answers().await.unwrap();
    let token = app.token(app.user("ben@acme"));
    for conversation in conversations(&app, &cluster).await {
        let here = app.socket("ben@acme", &conversation).await.unwrap();
        let there = Socket::join(&second.ws(), &conversation, &token).await.unwrap().0;
        let mut sockets = [here, there];
        sockets[0].message("hello", None).await.unwrap();
        assert_eq!(sockets[1].until("message").await.unwrap()["message"]["content"], "hello");
        heard_as_it_is_said(dictations.remove(0), &mut sockets).await;
    }
    for node in 0..3 {
        assert!(calls(&cluster, node, "spublish").await > 0, "node {node}");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_node_that_dies_takes_no_conversation_with_it() {
    let mut cluster = cluster().await;
    let (model, mut dictations) = dictations(8);
    let app = app_in(&cluster, |setting| setting.model = model).await;
    app.product.answers().await.unwrap();
    let conversations = conversations(&app, &cluster).await;
    let mut sockets = Vec::new();
    for conversation in &conversations[..2] {
        sockets.push([app.socket("ben@acme", conversation).await.unwrap()]);
    }
    let ready = async || Ok(reqwest::get(format!("{}/readyz", app.product.rest())).await?.status().is_success());
    cluster.kill(1).await.unwrap();
    until("somebody to notice", || async { Ok(!ready().await?) }).await.unwrap();
    // Who stays goes on, and who comes begins as ever.
    sockets.push([app.socket("ben@acme", &conversations[2]).await.unwrap()]);
    for _ in 0..3 {
        for node in [0, 2] {
            sockets[node][0].message("hello", None).await.unwrap();
            heard_as_it_is_said(dictations.remove(0), &mut sockets[node]).await;
        }
    }
    // Nothing can be told over the dead node: it is found in the store.
    let [socket] = &mut sockets[1];
    socket.message("anybody?", None).await.unwrap();
    socket.until("accepted").await.unwrap();
    let dictation = dictations.remove(0);
    dictation.say("here");
    dictation.end();
    assert_eq!(socket.until("response").await.unwrap()["text"], "here");
    // Here, too, who comes is let in.
    let comes = app.socket("ben@acme", &conversations[1]).await.unwrap();

    cluster.revive(1).await.unwrap();
    until("all to be well", || async { ready().await }).await.unwrap();
    let [stays] = sockets.remove(1);
    let mut both = [stays, comes];
    both[0].message("again", None).await.unwrap();
    heard_as_it_is_said(dictations.remove(0), &mut both).await;
    app.finish().await.unwrap();
}

#[tokio::test]
async fn who_was_cut_off_from_a_node_is_told_what_they_missed_as_soon_as_it_is_back() {
    let mut cluster = cluster().await;
    let never = Duration::from_secs(3_600);
    let app = app_in(&cluster, |setting| (setting.times.look, setting.times.look_all) = (never, never)).await;
    app.product.answers().await.unwrap();
    let conversation = &conversations(&app, &cluster).await[2];
    let mut socket = app.socket("ben@acme", conversation).await.unwrap();
    cluster.kill(2).await.unwrap();
    let sent = app.rest("ben@acme").say(conversation, "0193b3a0-0000-7000-8000-0000000000ff", "missed").await.unwrap();
    crate::turns::state_becomes(&app, &sent.body, "answered").await;
    assert!(socket.next_within(Duration::from_millis(300)).await.is_err(), "nobody could tell this socket");
    cluster.revive(2).await.unwrap();
    let message = socket.expect("message").await.unwrap();
    assert_eq!((&message["message"]["content"], &message["message"]["seq"]), (&json!("missed"), &json!(1)));
    assert_eq!(socket.expect("response").await.unwrap()["seq"], 2);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_node_that_keeps_silent_holds_up_nothing_that_goes_to_others() {
    let cluster = cluster().await;
    let redis = settings(&cluster).await;
    let subscriber = connected(&redis).await;
    let stop = CancellationToken::new();
    let (outbox, sending) = Publisher::new(&redis).unwrap().into_background(stop.clone());
    let topics = topics(&cluster).await;
    let mut listeners = Vec::new();
    for topic in &topics {
        let mut listener = subscriber.subscribe(topic.clone(), PATIENCE).await;
        outbox.publish(topic.clone(), ServerFrame::Reset { epoch: 0 });
        assert_eq!(next(&mut listener).await, Some(0));
        listeners.push(listener);
    }
    signal(cluster.pid(0), "STOP").unwrap();
    let heard = async {
        for epoch in 1..=100 {
            for topic in &topics {
                outbox.publish(topic.clone(), ServerFrame::Reset { epoch });
            }
            for listener in &mut listeners[1..] {
                assert_eq!(next(listener).await, Some(epoch));
            }
        }
    };
    // A command waits 3 s for its answer.
    let in_time = timeout(Duration::from_secs(2), heard).await;
    signal(cluster.pid(0), "CONT").unwrap();
    in_time.expect("the others heard as ever");
    stop.cancel();
    timeout(PATIENCE, sending).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_topic_that_goes_from_node_to_node_is_followed() {
    let cluster = cluster().await;
    let redis = settings(&cluster).await;
    let (subscriber, publisher) = (connected(&redis).await, Publisher::new(&redis).unwrap());
    let [goes, stays, _] = topics(&cluster).await;
    let mut listener = subscriber.subscribe(goes.clone(), PATIENCE).await;
    let mut other = subscriber.subscribe(stays.clone(), PATIENCE).await;
    publisher.publish(&goes, &ServerFrame::Reset { epoch: 1 }).await.unwrap();
    assert_eq!(next(&mut listener).await, Some(1));
    cluster.give(&goes, 2).await.unwrap();
    assert_eq!(next(&mut listener).await, None, "something may have been missed on the way");
    until("its new node to have it", || async { Ok(shard_channels(&cluster, 2).await == [goes.as_str()]) })
        .await
        .unwrap();
    publisher.publish(&goes, &ServerFrame::Reset { epoch: 2 }).await.unwrap();
    while let gap = next(&mut listener).await
        && gap != Some(2)
    {
        assert_eq!(gap, None);
    }
    publisher.publish(&stays, &ServerFrame::Reset { epoch: 3 }).await.unwrap();
    assert_eq!(next(&mut other).await, Some(3), "and nobody else noticed");
    // Who comes after it went finds it as well.
    drop(listener);
    let mut late = subscriber.subscribe(goes.clone(), PATIENCE).await;
    publisher.publish(&goes, &ServerFrame::Reset { epoch: 4 }).await.unwrap();
    assert_eq!(next(&mut late).await, Some(4));
}

#[tokio::test]
async fn a_cluster_that_is_not_there_yet_is_found_when_it_comes() {
    let mut cluster = cluster().await;
    let redis = settings(&cluster).await;
    for node in 0..3 {
        cluster.kill(node).await.unwrap();
    }
    let (subscriber, _) = Subscriber::start(&redis, epoch_of).unwrap();
    let publisher = Publisher::new(&redis).unwrap();
    // Of many slots of each node, which takes no two of them in one command.
    let topics: Vec<Topic> = (0..30).map(|_| webchat_response_key(TenantId::new(), ConversationId::new())).collect();
    let mut listeners = Vec::new();
    for topic in &topics {
        listeners.push(subscriber.subscribe(topic.clone(), PATIENCE).await);
    }
    assert!(publisher.publish(&topics[0], &ServerFrame::Reset { epoch: 1 }).await.is_err());
    for node in 0..3 {
        cluster.revive(node).await.unwrap();
    }
    for (topic, listener) in topics.iter().zip(&mut listeners) {
        assert_eq!(next(listener).await, None, "it is heard from now on");
        until("news to be taken", || async {
            Ok(publisher.publish(topic, &ServerFrame::Reset { epoch: 2 }).await.is_ok())
        })
        .await
        .unwrap();
        while next(listener).await.is_none() {}
    }
}

//! What is away comes back, what was lost is found, and nobody waits for ever.

use std::time::{Duration, Instant};

use chat_core::{
    Code,
    config::Times,
    ids::{ClientMessageId, MessageId},
    store::turns::End,
};
use harness::{
    app::App,
    clients::Socket,
    services::{Options, Services},
};
use serde_json::json;

use crate::turns::by_hand;

/// Within this a lost last hint is repaired while a turn is open.
const REPAIRED: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_reply_whose_news_were_lost_arrives_all_the_same() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    let mut here = app.socket("ben@acme", &conversation.to_string()).await.unwrap();
    let mut there = app.socket("ben@acme", &conversation.to_string()).await.unwrap();
    here.message("hello", None).await.unwrap();
    here.until("accepted").await.unwrap();
    let claim = store.claim(tenant, conversation, &Times::default()).await.unwrap().unwrap();
    // Stored, and then nobody publishes it.
    store.finish(&claim, MessageId::new(), "here I am").await.unwrap().0.unwrap();
    let stored = Instant::now();
    for socket in [&mut here, &mut there] {
        assert_eq!(socket.until("response").await.unwrap()["text"], "here I am");
    }
    assert!(stored.elapsed() < REPAIRED, "{:?}", stored.elapsed());
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_failure_whose_news_were_lost_is_told_all_the_same() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    let mut socket = app.socket("ben@acme", &conversation.to_string()).await.unwrap();
    socket.message("hello", None).await.unwrap();
    let accepted = socket.until("accepted").await.unwrap();
    let claim = store.claim(tenant, conversation, &Times::default()).await.unwrap().unwrap();
    store.end(&claim, End::Failed(Code::ModelFailed)).await.unwrap();
    let turn = socket.until("turn").await.unwrap();
    assert_eq!((&turn["turn_id"], &turn["state"]), (&accepted["turn_id"], &json!("failed")));
    assert_eq!(socket.expect("error").await.unwrap()["code"], "model_failed");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn whoever_was_away_when_a_turn_failed_is_told_on_return() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    let mut socket = app.socket("ben@acme", &conversation.to_string()).await.unwrap();
    for text in ["one", "two"] {
        socket.message(text, None).await.unwrap();
    }
    let first = socket.until("accepted").await.unwrap();
    let second = socket.until("accepted").await.unwrap();
    drop(socket);
    let claim = store.claim(tenant, conversation, &Times::default()).await.unwrap().unwrap();
    store.end(&claim, End::Failed(Code::ModelFailed)).await.unwrap();

    let mut back = Socket::open(&app.product.ws(), &conversation.to_string(), None).await.unwrap();
    let token = app.token(app.user("ben@acme"));
    back.say(&json!({"type": "auth", "token": token, "last_seq": 2, "epoch": 0})).await.unwrap();
    let turn = back.expect("turn").await.unwrap();
    assert_eq!((&turn["turn_id"], &turn["code"]), (&first["turn_id"], &json!("model_failed")));
    back.expect("error").await.unwrap();
    back.expect("ready").await.unwrap();
    // And the one that still waits is waited for here, too.
    let claim = store.claim(tenant, conversation, &Times::default()).await.unwrap().unwrap();
    store.end(&claim, End::Stopped).await.unwrap();
    let turn = back.expect("turn").await.unwrap();
    assert_eq!((&turn["turn_id"], &turn["state"]), (&second["turn_id"], &json!("stopped")));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn without_redis_sockets_stay_messages_are_answered_and_new_sockets_come_in() {
    let own = Services::start(&Options { durable: false, max_connections: 10 }, &|_| {}).await.unwrap();
    let app = App::with(|setting| setting.redis_url = own.redis.url()).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut here = app.socket("ben@acme", &conversation).await.unwrap();
    let mut there = app.socket("ben@acme", &conversation).await.unwrap();
    let killed = std::process::Command::new("kill").args(["-9", &own.redis.pid().to_string()]).status();
    assert!(killed.unwrap().success());

    let said = Instant::now();
    here.message("anybody?", None).await.unwrap();
    here.expect("typing").await.unwrap();
    here.expect("accepted").await.unwrap();
    assert_eq!(here.until("response").await.unwrap()["text"], "Echo: anybody?");
    assert!(said.elapsed() < REPAIRED * 2, "{:?}", said.elapsed());
    assert_eq!(there.until("response").await.unwrap()["seq"], 2, "the other tab, too");

    let mut new = app.socket("ben@acme", &conversation).await.unwrap();
    let sent = app.rest("ben@acme").say(&conversation, &ClientMessageId::new().to_string(), "by REST").await.unwrap();
    assert_eq!(sent.status, 202);
    assert_eq!(new.until("response").await.unwrap()["text"], "Echo: by REST");
    let ready = reqwest::get(format!("{}/readyz", app.product.rest())).await.unwrap();
    assert_eq!((ready.status().as_u16(), ready.text().await.unwrap().as_str()), (503, "redis"));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn without_postgres_nothing_is_accepted_and_the_same_message_goes_through_later() {
    let own = Services::start(&Options { durable: false, max_connections: 40 }, &|_| {}).await.unwrap();
    let app = App::on(&own, |_| {}).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let superuser = harness::app::connect(&own.postgres.superuser_url("postgres")).await.unwrap();
    let database = app.setting.database_url.rsplit('/').next().unwrap().to_owned();
    superuser.batch_execute(&format!("alter database {database} allow_connections false")).await.unwrap();
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'chat_app'";
    superuser.execute(cut, &[]).await.unwrap();

    let id = ClientMessageId::new().to_string();
    socket.message("are you there?", Some(&id)).await.unwrap();
    let error = socket.until("error").await.unwrap();
    assert_eq!((&error["code"], &error["client_message_id"]), (&json!("unavailable"), &json!(id)));
    assert!(error["retry_after_ms"].is_u64());
    let rest = app.rest("ben@acme").get(&format!("/conversations/{conversation}")).await.unwrap();
    assert_eq!((rest.status, rest.headers.contains_key("retry-after")), (503, true));

    superuser.batch_execute(&format!("alter database {database} allow_connections true")).await.unwrap();
    let back = Instant::now();
    let accepted = loop {
        socket.message("are you there?", Some(&id)).await.unwrap();
        let frame = loop {
            let frame = socket.next().await.unwrap();
            if frame["type"] == "error" || frame["type"] == "accepted" {
                break frame;
            }
        };
        if frame["type"] == "accepted" {
            break frame;
        }
    };
    assert!(back.elapsed() < REPAIRED, "{:?}", back.elapsed());
    assert_eq!((&accepted["seq"], &accepted["duplicate"]), (&json!(1), &json!(false)));
    socket.until("response").await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_hub_that_leaves_says_so_and_another_one_goes_on() {
    let mut app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut second = app.second(harness::product::QueueKind::Local(None)).await.unwrap();
    let token = app.token(app.user("ben@acme"));
    let (mut socket, _) = Socket::join(&second.ws(), &conversation, &token).await.unwrap();
    socket.message("before", None).await.unwrap();
    socket.until("response").await.unwrap();

    let (stopped, goodbye) = tokio::join!(second.stop(), async {
        let reconnect = socket.until("reconnect").await.unwrap();
        (reconnect["delay_ms"].as_u64().unwrap(), socket.closed().await.unwrap())
    });
    stopped.unwrap();
    assert!(goodbye.0 < 5_000 && goodbye.1 == Some(1012), "{goodbye:?}");
    let sent = app.rest("ben@acme").say(&conversation, &ClientMessageId::new().to_string(), "meanwhile").await.unwrap();
    assert_eq!(sent.body["seq"], 3);
    let mut back = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
    back.say(&json!({"type": "auth", "token": token, "last_seq": 2, "epoch": 0})).await.unwrap();
    assert_eq!(back.until("message").await.unwrap()["message"]["content"], "meanwhile");
    assert_eq!(back.until("response").await.unwrap()["seq"], 4);
    app.product.stop().await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_reset_while_away_is_told() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message("hello", None).await.unwrap();
    socket.until("response").await.unwrap();
    drop(socket);
    app.rest("ben@acme").delete(&format!("/conversations/{conversation}")).await.unwrap();
    let mut back = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
    let token = app.token(app.user("ben@acme"));
    back.say(&json!({"type": "auth", "token": token, "last_seq": 2, "epoch": 0})).await.unwrap();
    assert_eq!(back.expect("reset").await.unwrap()["epoch"], 1);
    let ready = back.expect("ready").await.unwrap();
    assert_eq!((&ready["resumed"], &ready["epoch"], &ready["last_seq"]), (&json!(false), &json!(1), &json!(2)));
    app.finish().await.unwrap();
}

//! What the queue gave up on: looked after if it is a turn's, kept if nobody can tell.

use std::time::Duration;

use chat_core::{
    config::{Memory, Times},
    ids::{MessageId, TurnId},
    job::Job,
    store::turns::Completion,
};
use harness::{
    app::App,
    product::QueueKind,
    pump::{create_queue, event, record},
};
use serde_json::json;

use crate::{
    queue::endpoint,
    turns::{by_hand, state_becomes},
};

#[tokio::test]
async fn what_nobody_can_read_or_route_is_kept_once_for_an_operator() {
    let app = App::start().await.unwrap();
    let ben = app.user("ben@acme");
    let mut slack =
        Job::web(ben.tenant.unwrap(), "0193b3a0-0000-7000-8000-000000000001".parse().unwrap(), ben.id, TurnId::new());
    slack.message.channel = "slack".parse().unwrap();
    let mut nowhere = slack.clone();
    nowhere.message.channel = "web".parse().unwrap();
    nowhere.extras.conversation_id = None;
    let letters = [
        ("1", "not a job\0".to_owned(), "body"),
        ("2", slack.body(), "channel"),
        ("3", nowhere.body(), "conversation_id"),
    ];
    for _ in 0..2 {
        let records = letters.iter().map(|(id, body, _)| record(id, body)).collect();
        assert!(app.product.dead_letters.handle(event(records)).await.batch_item_failures.is_empty());
    }
    let owner = app.owner().await.unwrap();
    let kept = owner.query("select message_id, body, reason from dead_letters order by 1", &[]).await.unwrap();
    assert_eq!(kept.len(), 3, "each once");
    for (row, (id, body, reason)) in kept.iter().zip(&letters) {
        assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), (*id, body.trim_end_matches('\0')));
        assert!(row.get::<_, &str>(2).starts_with(reason), "{}", row.get::<_, &str>(2));
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_dead_hint_ends_only_a_turn_that_nobody_has_and_nobody_may_run() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    let mut socket = app.socket("ben@acme", &conversation.to_string()).await.unwrap();
    let mut sent = Vec::new();
    for text in ["one", "two"] {
        socket.message(text, None).await.unwrap();
        sent.push(socket.until("accepted").await.unwrap());
    }
    let turn: TurnId = sent[0]["turn_id"].as_str().unwrap().parse().unwrap();
    let job = Job::web(tenant, conversation, app.user("ben@acme").id, turn);
    let give_up = async || {
        let answer = app.product.dead_letters.handle(event(vec![record("1", &job.body())])).await;
        assert!(answer.batch_item_failures.is_empty());
    };
    give_up().await;
    state_becomes(&app, &sent[0], "queued").await;

    let (short, long) = (Times { lease: Duration::from_nanos(1), ..Times::default() }, Times::default());
    for _ in 0..2 {
        store.claim(tenant, conversation, &short, &Memory::default()).await.unwrap().unwrap();
        give_up().await;
        state_becomes(&app, &sent[0], "running").await;
    }
    let last = store.claim(tenant, conversation, &long, &Memory::default()).await.unwrap().unwrap();
    give_up().await;
    state_becomes(&app, &sent[0], "running").await;

    // Its third and last worker dies.
    store.renew(&last, &short).await.unwrap();
    give_up().await;
    let told = socket.until("turn").await.unwrap();
    assert_eq!((&told["turn_id"], &told["code"]), (&sent[0]["turn_id"], &json!("attempts_exhausted")));
    assert_eq!(socket.until("error").await.unwrap()["turn_id"], sent[0]["turn_id"]);
    assert!(store.finish(&last, MessageId::new(), "late", Completion::Whole).await.unwrap().0.is_none());
    let next = store.claim(tenant, conversation, &long, &Memory::default()).await.unwrap().unwrap();
    assert_eq!(next.turn.to_string(), sent[1]["turn_id"].as_str().unwrap());
    store.finish(&next, MessageId::new(), "done", Completion::Whole).await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_record_that_fails_too_often_reaches_the_function_through_the_dead_letter_queue() {
    let address = create_queue(&endpoint().await, "poison").await.unwrap();
    let client = harness::product::sqs_client(&address.endpoint);
    // Hidden for no time at all, so that its five receives do not take twenty minutes.
    let visible = client.set_queue_attributes().queue_url(&address.queue_url);
    visible.attributes(aws_sdk_sqs::types::QueueAttributeName::VisibilityTimeout, "0").send().await.unwrap();
    let app = App::with(|setting| setting.queue = QueueKind::Sqs(address.clone())).await.unwrap();
    client.send_message().queue_url(&address.queue_url).message_body("poison").send().await.unwrap();
    let owner = app.owner().await.unwrap();
    harness::app::until("the dead letter to be kept", || async {
        let kept = owner.query("select body from dead_letters", &[]).await?;
        Ok(kept.iter().any(|row| row.get::<_, &str>(0) == "poison"))
    })
    .await
    .unwrap();
    app.finish().await.unwrap();
}

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
    admin::{asked, run},
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

#[tokio::test]
async fn an_operator_sends_back_what_can_be_read_and_nothing_happens_twice() {
    let queue = create_queue(&endpoint().await, "redrive").await.unwrap();
    let app = App::with(|setting| setting.queue = QueueKind::Sqs(queue)).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message("hello", None).await.unwrap();
    let turn: TurnId = socket.until("response").await.unwrap()["turn_id"].as_str().unwrap().parse().unwrap();
    // As if a release had not understood its own hints: one of a turn that has ended meanwhile, one of a turn that waits.
    let ben = app.user("ben@acme");
    let job = |turn| Job::web(ben.tenant.unwrap(), conversation.parse().unwrap(), ben.id, turn).body();
    let owner = app.owner().await.unwrap();
    let keep = "insert into dead_letters (message_id, body, reason, received_at) values ($1, $2, 'body: strange', clock_timestamp())";
    for (id, body) in
        [("a", "not a job".to_owned()), ("b", job(turn)), ("c", job(TurnId::new())), ("d", "{}".to_owned())]
    {
        owner.execute(keep, &[&id, &body]).await.unwrap();
    }
    let listed = asked(&app, &["dead-letter", "list"]).await;
    let ids: Vec<&str> = listed.as_array().unwrap().iter().map(|row| row["message_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a", "b", "c", "d"]);
    assert!(listed[1].get("body").is_none() && listed[1]["chars"].as_u64().unwrap() > 100, "{listed}");

    let first = asked(&app, &["dead-letter", "redrive", "--most", "2"]).await;
    assert_eq!(first, json!({"sent": 1, "left": 1}));
    let rest = run(&app, &["dead-letter", "redrive"], "").await;
    assert_eq!(String::from_utf8(rest.stdout).unwrap(), "sent 1 back, left 2 that cannot be read\n");
    let kept = owner.query("select message_id from dead_letters order by 1", &[]).await.unwrap();
    assert_eq!(kept.iter().map(|row| row.get::<_, &str>(0)).collect::<Vec<_>>(), ["a", "d"]);
    assert_eq!(asked(&app, &["dead-letter", "delete", "a"]).await, json!({"deleted": "a"}));
    for gone in [["dead-letter", "delete", "a"], ["dead-letter", "redrive", "a"]] {
        assert!(!run(&app, &gone, "").await.status.success(), "{gone:?} was there");
    }
    let audit = "select action, detail->>'message_id', detail->>'by' from audit_events where action like 'dead_letter.%' order by created_at";
    let audit: Vec<[String; 3]> = owner
        .query(audit, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| [0, 1, 2].map(|column| row.get::<_, String>(column)))
        .collect();
    let by = |action: &str, id: &str| [format!("dead_letter.{action}"), id.to_owned(), "olga".to_owned()];
    assert_eq!(audit, [by("sent_back", "b"), by("sent_back", "c"), by("deleted", "a")]);

    // The turn was answered once, and is still; the queue works as before.
    socket.message("and now?", None).await.unwrap();
    socket.until("response").await.unwrap();
    let replies = "select count(*) from web_conversation_messages where role = 'assistant'";
    assert_eq!(owner.query_one(replies, &[]).await.unwrap().get::<_, i64>(0), 2);
    app.finish().await.unwrap();
}

//! What somebody may put into the queue: records that name what is not theirs, is not there, or is over.

use std::time::Duration;

use chat_core::{
    ids::{ConversationId, TurnId, UserId},
    job::Job,
    text::Text,
    timestamp::Timestamp,
    token::Identity,
};
use harness::pump::{event, record};
use serde_json::{Value, json};

use crate::{
    filled::{rows, superuser},
    stage::{stage, well},
};

const LATER: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn a_forged_record_asks_no_model_and_changes_no_row() {
    // No sweep meanwhile: it would find the turn that waits.
    let stage = stage(well, |setting| {
        (setting.times.sweep_first, setting.times.sweep_longest) = (LATER, LATER);
    })
    .await;
    let (app, superuser) = (&stage.app, superuser(&stage.app).await);
    let (ben, victim) = (app.user("ben@acme"), app.user("ben@globex"));
    let own: ConversationId = app.conversation("ben@acme").await.unwrap().parse().unwrap();
    let theirs: ConversationId = app.conversation("ben@globex").await.unwrap().parse().unwrap();
    // A turn that waits, of which nobody was told.
    let who =
        Identity { user_id: victim.id, expires_at: Timestamp::now(), role_hint: Some(victim.role), tenant_hint: None };
    let store = &app.product.orchestrator.store;
    let text = Text::parse("theirs".to_owned(), 10).unwrap();
    let (_, waiting) = store.accept(&who, theirs, &text, None, 10).await.unwrap();
    let waiting = TurnId::from(waiting.id);
    let (acme, globex) = (ben.tenant.unwrap(), victim.tenant.unwrap());
    let (before, asked) = (rows(&superuser).await, stage.talker.asked.lock().unwrap().len());

    let read = |body: String| serde_json::from_str::<Value>(&body).unwrap();
    let job = |tenant, conversation, turn| read(Job::web(tenant, conversation, ben.id, turn).body());
    let slack = stage.slack("1", "give me theirs");
    let with = |body: &Value, name: &str, value: Value| {
        let mut body = body.clone();
        body[name] = value;
        body
    };
    // What is well formed and leads nowhere is done; what nobody can read or route comes back, and becomes a dead letter.
    for (what, body, fails) in [
        ("another tenant's conversation", job(acme, theirs, waiting), false),
        ("a conversation that is not there", job(globex, ConversationId::new(), waiting), false),
        ("a conversation without a turn", job(acme, own, TurnId::new()), false),
        ("no tenant", with(&job(globex, theirs, waiting), "tenant_id", Value::Null), true),
        ("another tenant's connection", with(&slack, "tenant_id", json!(globex)), true),
        ("a tenant that is none", with(&slack, "tenant_id", json!(UserId::new())), false),
        ("a channel of no connection", with(&slack, "channel", json!("whatsapp")), true),
        ("ids of other types", with(&job(acme, theirs, waiting), "conversation_id", json!([theirs])), true),
        (
            "a context that is a nest",
            with(&job(acme, theirs, waiting), "context", read(format!("{}{}", "[".repeat(100), "]".repeat(100)))),
            true,
        ),
        ("a secret of the sender's", with(&job(acme, theirs, waiting), "bot_token", json!("xoxb-theirs")), false),
    ] {
        let failures = app.product.orchestrator.handle(event(vec![record("1", &body.to_string())])).await;
        assert_eq!(!failures.batch_item_failures.is_empty(), fails, "{what}");
        assert_eq!(rows(&superuser).await, before, "{what} changed a row");
        assert_eq!(stage.talker.asked.lock().unwrap().len(), asked, "{what} asked a model");
        assert_eq!(stage.shown(), Vec::<String>::new(), "{what} was answered");
    }
    for body in ["[".repeat(100_000), "x".repeat(1_000_000), "\u{1f}".to_owned(), String::new()] {
        let failures = app.product.orchestrator.handle(event(vec![record("1", &body)])).await;
        assert_eq!(failures.batch_item_failures.len(), 1, "what nobody can read comes back");
    }
    assert_eq!(rows(&superuser).await, before);
    // A true one wakes it.
    let body = Job::web(globex, theirs, victim.id, waiting).body();
    assert!(app.product.orchestrator.handle(event(vec![record("1", &body)])).await.batch_item_failures.is_empty());
    assert_eq!(stage.talker.asked.lock().unwrap().len(), asked + 1);
    stage.app.finish().await.unwrap();
}

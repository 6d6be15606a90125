//! What a person says in the agent's stead: stored, heard, and known to the agent afterwards.

use std::sync::Arc;

use chat_core::{
    config,
    ids::{ClientMessageId, ConversationId},
};
use harness::{
    app::{App, until},
    model::{Act, Asked, ScriptedModel},
};
use orchestrator::model::{Models, provider::Patience};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::escalation::{Patient, app_with, as_pairs, audited, end, escalated, messages, post, said};

#[tokio::test]
async fn a_persons_answer_stands_in_the_agents_stead() {
    let model = Patient::new();
    let app = app_with(&model, &json!([])).await;
    let (conversation, mut bens) = escalated(&app).await;
    let mut adas = app.socket("ada@acme", &conversation).await.unwrap();
    let (ada, root) = (json!(app.user("ada@acme").id), json!(app.user("root").id));

    // Nobody had taken it: whoever answers has.
    let id = ClientMessageId::new().to_string();
    adas.message("I am Ada.", Some(&id)).await.unwrap();
    let accepted = adas.expect("accepted").await.unwrap();
    assert_eq!((&accepted["seq"], &accepted["duplicate"]), (&json!(2), &json!(false)));
    let ended = adas.expect("turn").await.unwrap();
    assert_eq!((&ended["turn_id"], &ended["state"]), (&accepted["turn_id"], &json!("escalated")));
    let typing = bens.expect("typing").await.unwrap();
    assert_eq!(typing["origin"], "agent");
    let response = bens.expect("response").await.unwrap();
    assert_eq!((&response["text"], &response["author_id"]), (&json!("I am Ada."), &ada));
    assert_eq!((response.get("turn_id"), &response["message_id"]), (None, &accepted["message_id"]));

    // The same again is the same; by REST, too.
    adas.message("I am Ada.", Some(&id)).await.unwrap();
    let again = adas.expect("accepted").await.unwrap();
    assert_eq!((&again["message_id"], &again["duplicate"]), (&accepted["message_id"], &json!(true)));
    adas.expect("turn").await.unwrap();
    let again = app.rest("ada@acme").say(&conversation, &id, "I am Ada.").await.unwrap();
    assert_eq!((again.status, &again.body["message_id"]), (202, &accepted["message_id"]));
    assert_eq!(app.rest("ada@acme").say(&conversation, &id, "I am not.").await.unwrap().status, 422);

    // Another person may answer, by REST; both sockets hear of it.
    let sent =
        app.rest("root").say(&conversation, &ClientMessageId::new().to_string(), "And I am Root.").await.unwrap();
    assert_eq!((sent.status, &sent.body["seq"]), (202, &json!(3)));
    for socket in [&mut bens, &mut adas] {
        let response = socket.until("response").await.unwrap();
        assert_eq!((&response["author_id"], response.get("turn_id")), (&root, None));
    }

    // What the owner says is theirs, and the admin hears it.
    assert_eq!(end(&said(&mut bens, "Thank you both.").await), "escalated");
    let heard = adas.until("message").await.unwrap();
    assert_eq!((&heard["message"]["content"], &heard["message"]["role"]), (&json!("Thank you both."), &json!("user")));
    assert_eq!(model.asked(), 0);
    let stored = messages(&app, &conversation).await;
    let expected = [
        ("user", "help", Value::Null),
        ("assistant", "I am Ada.", ada.clone()),
        ("assistant", "And I am Root.", root),
        ("user", "Thank you both.", Value::Null),
    ];
    assert_eq!(stored, expected.map(|(role, text, author)| (role.to_owned(), text.to_owned(), author)));

    let (_, back) = post(&app, "root", &conversation, "handback").await;
    assert_eq!(back["status"], "agent");
    let status = bens.until("status").await.unwrap();
    assert_eq!((&status["status"], &status["by"]), (&json!("agent"), &json!(app.user("root").id)));
    assert_eq!(adas.closed().await.unwrap(), Some(4403), "put out");
    let late = app.rest("ada@acme").say(&conversation, &ClientMessageId::new().to_string(), "late").await.unwrap();
    assert_eq!(late.status, 404);
    assert_eq!(end(&said(&mut bens, "and now?").await), "response");
    let rows = [
        ("escalated", "ben@acme"),
        ("answered", "ada@acme"),
        ("taken_over", "ada@acme"),
        ("answered", "root"),
        ("handed_back", "root"),
    ];
    assert_eq!(audited(&app, &conversation).await, as_pairs(&rows));
    app.finish().await.unwrap();
}

/// Waits until something waits for a row that somebody else holds.
async fn waits_for_the_lock(looker: &Client, what: &str) {
    let waits = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
        where d.datname = current_database() and l.locktype = 'tuple'";
    until(&format!("{what} to wait for the lock"), || async {
        Ok(looker.query_one(waits, &[]).await?.get::<_, i64>(0) > 0)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn who_answers_is_decided_behind_the_lock() {
    let app = app_with(&Patient::new(), &json!([])).await;
    let (conversation, mut bens) = escalated(&app).await;
    let id: ConversationId = conversation.parse().unwrap();
    let (mut holder, looker) = (app.owner().await.unwrap(), app.owner().await.unwrap());
    // Somebody hands it back, and has not committed yet, when an admin's message has passed its door.
    for (who, status) in [("ada@acme", 404), ("root", 202)] {
        let handing_back = holder.transaction().await.unwrap();
        let hand_back = "update web_conversations set status = $2 where id = $1";
        handing_back.execute(hand_back, &[&id, &"agent"]).await.unwrap();
        let say =
            async { app.rest(who).say(&conversation, &ClientMessageId::new().to_string(), "late").await.unwrap() };
        let commit = async {
            waits_for_the_lock(&looker, "the message").await;
            handing_back.commit().await.unwrap();
        };
        let (answer, ()) = tokio::join!(say, commit);
        assert_eq!(answer.status, status, "{who}: {}", answer.body);
        if status == 202 {
            break;
        }
        holder.execute(hand_back, &[&id, &"escalated"]).await.unwrap();
    }
    // A platform_admin's is a message of theirs, which the agent answers.
    assert_eq!(bens.until("response").await.unwrap()["text"], "said: late");
    let stored = messages(&app, &conversation).await;
    assert_eq!(stored[1], ("user".to_owned(), "late".to_owned(), json!(app.user("root").id)));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn whether_an_admin_may_reset_is_looked_at_again_behind_the_lock() {
    let app = app_with(&Patient::new(), &json!([])).await;
    let (conversation, _bens) = escalated(&app).await;
    let id: ConversationId = conversation.parse().unwrap();
    let (mut holder, looker) = (app.owner().await.unwrap(), app.owner().await.unwrap());
    let handing_back = holder.transaction().await.unwrap();
    let hand_back = "update web_conversations set status = 'agent' where id = $1";
    handing_back.execute(hand_back, &[&id]).await.unwrap();
    let reset = async { app.rest("ada@acme").delete(&format!("/conversations/{conversation}")).await.unwrap() };
    let commit = async {
        waits_for_the_lock(&looker, "the reset").await;
        handing_back.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(reset, commit);
    assert_eq!(answer.status, 404, "{}", answer.body);
    assert_eq!(messages(&app, &conversation).await.len(), 1, "what Ben said is still there");
    assert_eq!(app.rest("ben@acme").delete(&format!("/conversations/{conversation}")).await.unwrap().status, 204);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn after_the_handback_the_agent_knows_what_the_person_said() {
    let prompts = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&prompts);
    let provider = ScriptedModel::start(move |asked: &Asked| {
        seen.lock().unwrap().push(asked.said.clone());
        Act::answer(format!("re: {}", asked.message))
    })
    .await
    .unwrap();
    let app = App::with(|setting| {
        let settings = config::Provider::main(config::Speaks::OpenAi, provider.base_url(), None);
        let settings =
            config::Model { provider: Some(settings), default: Some("large".to_owned()), ..config::Model::default() };
        setting.model = Arc::new(Models::new(&settings, Patience::within(setting.times.turn)));
    })
    .await
    .unwrap();
    app.owner().await.unwrap().execute("update agents set model = 'vendor/large'", &[]).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut bens = app.socket("ben@acme", &conversation).await.unwrap();
    assert_eq!(end(&said(&mut bens, "hello").await), "response");
    drop(escalated(&app).await);
    for text in ["I am Ada.", "Your order is on its way."] {
        app.rest("ada@acme").say(&conversation, &ClientMessageId::new().to_string(), text).await.unwrap();
    }
    assert_eq!(end(&said(&mut bens, "thank you").await), "escalated");
    post(&app, "ada@acme", &conversation, "handback").await;
    bens.until("status").await.unwrap();
    assert_eq!(end(&said(&mut bens, "where is it now?").await), "response");

    let told = prompts.lock().unwrap().pop().unwrap();
    let of = |who: &str| told.iter().filter(|(role, _)| role == who).map(|(_, text)| text.as_str()).collect::<Vec<_>>();
    assert_eq!(of("user"), ["hello", "help", "thank you", "where is it now?"]);
    assert_eq!(of("assistant").join("\n\n"), "re: hello\n\nI am Ada.\n\nYour order is on its way.");
    let place = |text: &str| told.iter().position(|(_, said)| said.contains(text)).unwrap();
    assert!(place("help") < place("I am Ada.") && place("Your order") < place("thank you"), "in their place: {told:?}");
    app.finish().await.unwrap();
}

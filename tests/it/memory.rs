//! What an agent is reminded of: the last messages in their words, what is older in short, and nothing of before a reset.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use chat_core::{
    config::{self, Memory, Speaks},
    keys::{Key, memory_short_key},
};
use harness::{
    app::{App, services, until},
    clients::Socket,
    model::{Act, Asked, ScriptedModel},
    product::Setting,
    wire::Wire,
};
use orchestrator::model::{Models, provider::Patience};
use redis::aio::MultiplexedConnection;

/// What a provider was asked, oldest first.
type Heard = Arc<Mutex<Vec<Asked>>>;

/// Words that a summary of these tests begins with.
const NOTES: &str = "Notes: ";

/// The product with a provider that answers each message with `re: …`, and takes notes where it is told to. Of each
/// conversation the agents are reminded of four messages.
async fn app(change: impl FnOnce(&mut Setting)) -> (App, ScriptedModel, Heard) {
    let heard = Heard::default();
    let hears = Arc::clone(&heard);
    let provider = ScriptedModel::start(move |asked| {
        hears.lock().unwrap().push(asked.clone());
        let takes_notes = asked.system.as_ref().is_some_and(|system| system.contains("notes of an assistant"));
        let text = if takes_notes {
            format!("{NOTES}{}", asked.message.lines().count())
        } else {
            format!("re: {}", asked.message)
        };
        Act::answer(text)
    })
    .await
    .unwrap();
    let models = config::Model {
        provider: Some(config::Provider::main(Speaks::OpenAi, provider.base_url(), None)),
        others: Vec::new(),
        default: None,
    };
    let models = Arc::new(Models::new(&models, Patience::within(Duration::from_secs(60))));
    let app = App::with(|setting| {
        setting.model = models;
        setting.memory = Memory { messages: 4 };
        change(setting);
    })
    .await
    .unwrap();
    let owner = app.owner().await.unwrap();
    owner.execute("update agents set model = 'large', system_prompt = 'Be brief.'", &[]).await.unwrap();
    (app, provider, heard)
}

async fn joined(app: &App) -> (String, Socket) {
    let conversation = app.conversation("ben@acme").await.unwrap();
    let socket = app.socket("ben@acme", &conversation).await.unwrap();
    (conversation, socket)
}

async fn say(socket: &mut Socket, text: &str) {
    socket.message(text, None).await.unwrap();
    assert_eq!(socket.until("response").await.unwrap()["text"], format!("re: {text}"));
}

/// The words of the last prompt for an answer, without the message itself; and its system prompt.
fn last(heard: &Heard) -> (Vec<String>, String) {
    let heard = heard.lock().unwrap();
    let asked = heard.iter().rev().find(|asked| asked.said.last().unwrap().0 == "user" && !is_notes(asked)).unwrap();
    let words = asked.said[..asked.said.len() - 1].iter().map(|(_, text)| text.clone()).collect();
    (words, asked.system.clone().unwrap_or_default())
}

fn is_notes(asked: &Asked) -> bool {
    asked.system.as_ref().is_some_and(|system| system.contains("notes of an assistant"))
}

/// The memory of Ben's agent about him, and a connection to where it is.
async fn memory(app: &App) -> (Key, MultiplexedConnection) {
    let ben = app.user("ben@acme");
    let agent = app.agent_of(ben);
    let redis = redis::Client::open(services().await.unwrap().redis.url()).unwrap();
    (memory_short_key(agent.tenant, agent.id, ben.id), redis.get_multiplexed_async_connection().await.unwrap())
}

async fn remembered(key: &Key, redis: &MultiplexedConnection) -> Vec<String> {
    redis::cmd("LRANGE").arg(key.as_str()).arg(0).arg(-1).query_async(&mut redis.clone()).await.unwrap()
}

/// Waits until that many entries are remembered, the last of them of this text: it happens after the reply is told.
async fn remembers(key: &Key, redis: &MultiplexedConnection, count: usize, text: &str) {
    until("the turn to be remembered", || async {
        let entries = remembered(key, redis).await;
        Ok(entries.len() == count && entries.last().is_none_or(|last| last.contains(text)))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_last_messages_are_remembered_and_read_again_where_redis_has_lost_them() {
    let (app, _provider, heard) = app(|_| {}).await;
    let (_, mut socket) = joined(&app).await;
    let (key, mut redis) = memory(&app).await;
    say(&mut socket, "one").await;
    assert_eq!(last(&heard), (vec![], "Be brief.".to_owned()));
    remembers(&key, &redis, 2, "re: one").await;
    say(&mut socket, "two").await;
    assert_eq!(last(&heard).0, ["one", "re: one"]);
    remembers(&key, &redis, 4, "re: two").await;
    say(&mut socket, "three").await;
    remembers(&key, &redis, 4, "re: three").await;

    // What is remembered is what the prompt is made of. Nobody but us writes there.
    let () = redis::cmd("LSET")
        .arg(key.as_str())
        .arg(0)
        .arg(r#"{"epoch":0,"seq":3,"role":"user","text":"two, as it is remembered"}"#)
        .query_async(&mut redis)
        .await
        .unwrap();
    say(&mut socket, "four").await;
    assert_eq!(last(&heard).0, ["two, as it is remembered", "re: two", "three", "re: three"]);
    remembers(&key, &redis, 4, "re: four").await;

    let () = redis::cmd("DEL").arg(key.as_str()).query_async(&mut redis).await.unwrap();
    say(&mut socket, "five").await;
    assert_eq!(last(&heard).0, ["three", "re: three", "four", "re: four"], "read again from the store");
    remembers(&key, &redis, 4, "re: five").await;

    let () = redis::cmd("LSET").arg(key.as_str()).arg(2).arg("spoilt").query_async(&mut redis).await.unwrap();
    say(&mut socket, "six").await;
    assert_eq!(last(&heard).0, ["four", "re: four", "five", "re: five"], "what cannot be read is read again");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn nothing_that_was_said_before_a_reset_reaches_a_prompt_after_it() {
    let (app, _provider, heard) = app(|_| {}).await;
    let (conversation, mut socket) = joined(&app).await;
    let (key, redis) = memory(&app).await;
    say(&mut socket, "my secret").await;
    remembers(&key, &redis, 2, "re: my secret").await;
    let path = format!("/conversations/{conversation}");
    assert_eq!(app.rest("ben@acme").delete(&path).await.unwrap().status, 204);
    assert_eq!(remembered(&key, &redis).await, Vec::<String>::new(), "the memory is purged");
    socket.until("reset").await.unwrap();
    say(&mut socket, "hello").await;
    say(&mut socket, "again").await;
    assert_eq!(last(&heard), (vec!["hello".to_owned(), "re: hello".to_owned()], "Be brief.".to_owned()));
    assert!(!format!("{:?}", &heard.lock().unwrap()[1..]).contains("secret"));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_reset_that_redis_does_not_hear_of_is_a_reset_all_the_same() {
    let port = services().await.unwrap().redis.port();
    let wire = Wire::before(([127, 0, 0, 1], port).into()).await.unwrap();
    let (app, _provider, heard) = app(|setting| setting.redis = setting.redis.at(wire.address)).await;
    let (conversation, mut socket) = joined(&app).await;
    let (key, mut redis) = memory(&app).await;
    say(&mut socket, "my secret").await;
    remembers(&key, &redis, 2, "re: my secret").await;
    wire.cut(true);
    assert_eq!(app.rest("ben@acme").delete(&format!("/conversations/{conversation}")).await.unwrap().status, 204);
    wire.cut(false);
    assert_eq!(remembered(&key, &redis).await.len(), 2, "Redis still has what was said before");
    socket.until("reset").await.unwrap();
    say(&mut socket, "hello").await;
    remembers(&key, &redis, 4, "re: hello").await;
    // A ghost of before the reset remembers late; and its place is one that is taken again. A memory may be wrong in any way.
    let ghost = r#"{"epoch":0,"seq":3,"role":"user","text":"my other secret"}"#;
    let () = redis::cmd("RPUSH").arg(key.as_str()).arg(ghost).query_async(&mut redis).await.unwrap();
    say(&mut socket, "again").await;
    assert_eq!(last(&heard).0, ["hello", "re: hello"]);
    assert!(!format!("{:?}", &heard.lock().unwrap()[1..]).contains("secret"));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_does_not_fit_into_the_models_context_falls_out_oldest_first() {
    let (app, _provider, heard) = app(|_| {}).await;
    let owner = app.owner().await.unwrap();
    owner.execute("update agents set context_tokens = 1500, max_output_tokens = 100", &[]).await.unwrap();
    let (_, mut socket) = joined(&app).await;
    // About 700 tokens each, by the count that errs on the safe side; and an answer as long.
    let long = |letter: char| letter.to_string().repeat(2_100);
    say(&mut socket, &long('a')).await;
    say(&mut socket, "short").await;
    let (words, _) = last(&heard);
    assert_eq!(words, Vec::<String>::new(), "the answer alone would fit, but not without its question");
    say(&mut socket, "shorter").await;
    assert_eq!(last(&heard).0, ["short", "re: short"]);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_falls_out_is_kept_in_short_until_a_reset() {
    let (app, _provider, heard) = app(|_| {}).await;
    let (conversation, mut socket) = joined(&app).await;
    for number in 1..=8 {
        say(&mut socket, &format!("message {number}")).await;
    }
    let owner = app.owner().await.unwrap();
    let summary = "select summary, summary_seq from web_conversations where id = $1::text::uuid";
    // The eighth prompt held the messages from 11 on: ten had fallen out by then.
    until("a summary", || async { Ok(owner.query_one(summary, &[&conversation]).await?.get::<_, i64>(1) >= 10) })
        .await
        .unwrap();
    let row = owner.query_one(summary, &[&conversation]).await.unwrap();
    let (text, seq): (String, i64) = (row.get(0), row.get(1));
    assert_eq!((text.as_str(), seq), ("Notes: 10", 10));
    let notes = || -> Vec<_> { heard.lock().unwrap().iter().filter(|asked| is_notes(asked)).cloned().collect() };
    assert!(notes()[0].message.starts_with("User: message 1\nAssistant: re: message 1\n"), "{}", notes()[0].message);

    say(&mut socket, "message 9").await;
    say(&mut socket, "and now?").await;
    let (words, system) = last(&heard);
    assert_eq!(words.len(), 4);
    assert!(system.starts_with("Be brief.") && system.ends_with("Notes: 10"), "{system}");
    assert_eq!(notes().len(), 1, "once for ten messages");

    app.rest("ben@acme").delete(&format!("/conversations/{conversation}")).await.unwrap();
    socket.until("reset").await.unwrap();
    say(&mut socket, "who am I?").await;
    assert_eq!(last(&heard), (vec![], "Be brief.".to_owned()));
    app.finish().await.unwrap();
}

//! A reply as it is written: told piece by piece, to whoever comes whenever, and stopped when its user wants no more.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use chat_core::{
    Result,
    config::Times,
    ids::TurnId,
    keys::{webchat_partial_key, webchat_stop_key},
};
use futures::{
    StreamExt,
    channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded},
    stream::BoxStream,
};
use harness::{
    app::{App, services, until},
    clients::{PATIENCE, Socket},
    wire::Wire,
};
use orchestrator::model::{Ended, Model, Piece, Prompt, Purse};
use serde_json::{Value, json};

use crate::turns::state_becomes;

/// A model that says what it is told to say, when it is told.
struct Dictated(Mutex<Vec<UnboundedReceiver<Piece>>>);

impl Model for Dictated {
    fn speak<'a>(&'a self, _: &'a Prompt, _: &'a dyn Purse) -> BoxStream<'a, Result<Piece>> {
        let next = self.0.lock().unwrap().pop().expect("one dictation a call");
        next.map(Ok).boxed()
    }
}

/// Who tells it. The receiver's end tells that the call was given up.
pub(crate) struct Dictation(UnboundedSender<Piece>);

impl Dictation {
    pub(crate) fn say(&self, words: &str) {
        self.0.unbounded_send(Piece::Text(words.to_owned())).unwrap();
    }

    /// Nobody listens any more.
    pub(crate) fn given_up(&self) -> bool {
        self.0.is_closed()
    }

    fn anew(&self) {
        self.0.unbounded_send(Piece::Anew).unwrap();
    }

    pub(crate) fn end(self) {
        self.0.unbounded_send(Piece::End(Ended { model: "dictated".to_owned(), usage: None })).unwrap();
    }
}

/// The product with a model that is dictated to, this often.
pub(crate) async fn dictated(
    calls: usize,
    change: impl FnOnce(&mut harness::product::Setting),
) -> (App, Vec<Dictation>) {
    let (model, dictations) = dictations(calls);
    let app = App::with(|setting| {
        setting.model = model;
        change(setting);
    })
    .await
    .unwrap();
    (app, dictations)
}

/// A model that is dictated to, this often.
pub(crate) fn dictations(calls: usize) -> (Arc<dyn Model>, Vec<Dictation>) {
    let (says, hears): (Vec<_>, Vec<_>) = (0..calls).map(|_| unbounded()).unzip();
    // The last one is taken first.
    let model = Dictated(Mutex::new(hears.into_iter().rev().collect()));
    (Arc::new(model), says.into_iter().map(Dictation).collect())
}

/// What a client shows of a reply, as the contract tells it to.
#[derive(Default)]
struct Shown(String);

impl Shown {
    /// Takes deltas until this much is shown; other frames but typing are a mistake.
    async fn until(&mut self, socket: &mut Socket, text: &str) {
        while self.0 != text {
            let frame = socket.next().await.unwrap();
            match frame["type"].as_str() {
                Some("delta") => self.add(&frame),
                Some("typing") => {}
                _ => panic!("expected more of the reply, got {frame}"),
            }
        }
    }

    fn add(&mut self, delta: &Value) {
        let offset = usize::try_from(delta["offset"].as_u64().unwrap()).unwrap();
        if offset == 0 {
            self.0.clear();
        }
        assert_eq!(offset, self.0.chars().count(), "no gap and no repeat: {delta}");
        self.0.push_str(delta["text"].as_str().unwrap());
    }

    /// Takes what is left, up to the response, which must be what was told.
    async fn then_response(mut self, socket: &mut Socket) -> Value {
        loop {
            let frame = socket.next().await.unwrap();
            match frame["type"].as_str() {
                Some("delta") => self.add(&frame),
                Some("typing") => {}
                Some("response") => {
                    assert_eq!(frame["text"], self.0, "the reply is what was told of it");
                    return frame;
                }
                _ => panic!("expected the response, got {frame}"),
            }
        }
    }
}

/// Ben's socket, and a message of his that is accepted.
async fn asked(app: &App) -> (String, Socket, Value) {
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let accepted = ask(&mut socket, "hello").await;
    (conversation, socket, accepted)
}

async fn ask(socket: &mut Socket, text: &str) -> Value {
    socket.message(text, None).await.unwrap();
    socket.until("accepted").await.unwrap()
}

/// What is stored: role and text, oldest first.
async fn stored(app: &App, conversation: &str) -> Vec<(String, String)> {
    let page = app.rest("ben@acme").get(&format!("/conversations/{conversation}/messages")).await.unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    page.body.as_array().unwrap().iter().map(|row| (text(&row["role"]), text(&row["content"]))).collect()
}

#[tokio::test]
async fn a_reply_is_told_as_it_is_written_and_stored_as_it_was_told() {
    let (app, mut says) = dictated(1, |_| {}).await;
    let (conversation, mut socket, accepted) = asked(&app).await;
    let says = says.remove(0);
    let mut shown = Shown::default();
    says.say("Grü");
    shown.until(&mut socket, "Grü").await;
    says.say("ße 😀");
    says.say("\0, ");
    shown.until(&mut socket, "Grüße 😀, ").await;
    says.say("Ben");
    says.end();
    let response = shown.then_response(&mut socket).await;
    assert_eq!(response["turn_id"], accepted["turn_id"]);
    let said = |role: &str, text: &str| (role.to_owned(), text.to_owned());
    assert_eq!(stored(&app, &conversation).await, [said("user", "hello"), said("assistant", "Grüße 😀, Ben")]);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_reply_that_comes_at_once_is_told_at_once() {
    let app = App::start().await.unwrap();
    let (_, mut socket, _) = asked(&app).await;
    loop {
        let frame = socket.next().await.unwrap();
        match frame["type"].as_str() {
            Some("typing") => {}
            Some("response") => break assert_eq!(frame["text"], "Echo: hello"),
            _ => panic!("expected the response, got {frame}"),
        }
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn who_comes_in_the_middle_is_told_the_text_so_far_and_goes_on_from_there() {
    let (app, mut says) = dictated(1, |_| {}).await;
    let (conversation, mut first, accepted) = asked(&app).await;
    let says = says.remove(0);
    let mut shown = Shown::default();
    says.say("Once upon ");
    shown.until(&mut first, "Once upon ").await;

    // A second tab, and one that comes back with what it has seen.
    let mut second = app.socket("ben@acme", &conversation).await.unwrap();
    let mut back = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
    let token = app.token(app.user("ben@acme"));
    back.say(&json!({"type": "auth", "token": token, "last_seq": accepted["seq"]})).await.unwrap();
    assert_eq!(back.expect("ready").await.unwrap()["resumed"], true);
    let (mut in_second, mut in_back) = (Shown::default(), Shown::default());
    in_second.until(&mut second, "Once upon ").await;
    in_back.until(&mut back, "Once upon ").await;

    says.say("a time");
    for (socket, shown) in [(&mut first, &mut shown), (&mut second, &mut in_second), (&mut back, &mut in_back)] {
        shown.until(socket, "Once upon a time").await;
    }
    says.say(".");
    says.end();
    for (socket, shown) in [(&mut first, shown), (&mut second, in_second), (&mut back, in_back)] {
        shown.then_response(socket).await;
    }

    // Whoever comes now reads the store, and is told nothing twice.
    let mut late = app.socket("ben@acme", &conversation).await.unwrap();
    late.blurt(&json!({"type": "dance"})).await.unwrap();
    assert_eq!(late.next().await.unwrap()["type"], "error");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_redis_forgets_is_told_again_from_the_beginning() {
    let (app, mut says) = dictated(1, |_| {}).await;
    let (_, mut socket, accepted) = asked(&app).await;
    let says = says.remove(0);
    let mut shown = Shown::default();
    says.say("one ");
    shown.until(&mut socket, "one ").await;

    let redis = redis::Client::open(services().await.unwrap().redis.url()).unwrap();
    let mut redis = redis.get_multiplexed_async_connection().await.unwrap();
    let turn: TurnId = accepted["turn_id"].as_str().unwrap().parse().unwrap();
    let key = webchat_partial_key(app.user("ben@acme").tenant.unwrap(), turn);
    let deleted: i64 = redis::cmd("DEL").arg(key.as_str()).query_async(&mut redis).await.unwrap();
    assert_eq!(deleted, 1);

    says.say("two");
    let frame = socket.until("delta").await.unwrap();
    assert_eq!((&frame["offset"], &frame["text"]), (&json!(0), &json!("one two")));
    shown.add(&frame);
    says.end();
    shown.then_response(&mut socket).await;
    until("Redis to forget", || async {
        let left: bool = redis::cmd("EXISTS").arg(key.as_str()).query_async(&mut redis.clone()).await?;
        Ok(!left)
    })
    .await
    .unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn an_answer_begun_anew_replaces_what_was_told() {
    let (app, mut says) = dictated(1, |_| {}).await;
    let (conversation, mut socket, _) = asked(&app).await;
    let says = says.remove(0);
    let mut shown = Shown::default();
    says.say("a false start");
    shown.until(&mut socket, "a false start").await;
    says.anew();
    says.say("right");
    let frame = socket.until("delta").await.unwrap();
    assert_eq!((&frame["offset"], &frame["text"]), (&json!(0), &json!("right")));
    shown.add(&frame);
    says.end();
    shown.then_response(&mut socket).await;
    assert_eq!(stored(&app, &conversation).await[1].1, "right");
    app.finish().await.unwrap();
}

/// Leases that are not due before a test has given up.
fn unhurried() -> Times {
    Times { lease: Duration::from_secs(60), renew: PATIENCE + Duration::from_secs(5), ..Times::default() }
}

/// Stops the turn that runs and sees that its call is given up long before its lease is due, that what was written stays, and that the
/// turn which waits behind it is answered.
async fn stop(app: App, mut says: Vec<Dictation>, told: bool) {
    let (conversation, mut socket, accepted) = asked(&app).await;
    state_becomes(&app, &accepted, "running").await;
    let waiting = ask(&mut socket, "and this?").await;
    let (first, second) = (says.remove(0), says.remove(0));
    first.say("As I was saying, ");
    let mut shown = Shown::default();
    if told {
        shown.until(&mut socket, "As I was saying, ").await;
    }

    socket.say(&json!({"type": "stop", "turn_id": accepted["turn_id"]})).await.unwrap();
    // It takes a fraction of a second. The lease is due long after this has given up.
    until("the call to be given up", || async { Ok(first.given_up()) }).await.unwrap();
    second.say("Here I am.");
    second.end();

    let owner = app.owner().await.unwrap();
    for (turn, state) in [(&accepted, "stopped"), (&waiting, "answered")] {
        state_becomes(&app, turn, state).await;
        let kept = "select content from web_conversation_messages where reply_to = $1::text::uuid";
        let kept = owner.query_one(kept, &[&turn["turn_id"].as_str().unwrap()]).await.unwrap();
        let text = if state == "stopped" { "As I was saying, " } else { "Here I am." };
        assert_eq!(kept.get::<_, String>(0), text);
    }
    let response = socket.until("response").await.unwrap();
    assert_eq!((&response["turn_id"], &response["text"]), (&accepted["turn_id"], &json!("As I was saying, ")));
    let turn = socket.until("turn").await.unwrap();
    assert_eq!((&turn["turn_id"], &turn["state"]), (&accepted["turn_id"], &json!("stopped")));
    if told {
        assert_eq!(turn["message_id"], response["message_id"]);
    }
    assert_eq!(socket.until("response").await.unwrap()["turn_id"], waiting["turn_id"]);

    // It has ended, and the one after it has, too: another stop touches neither.
    socket.say(&json!({"type": "stop", "turn_id": accepted["turn_id"]})).await.unwrap();
    assert_eq!(socket.until("turn").await.unwrap()["state"], "stopped");
    let page = app.rest("ben@acme").get(&format!("/conversations/{conversation}/messages")).await.unwrap();
    let states: Vec<_> = page.body.as_array().unwrap().iter().filter_map(|row| row["turn"]["state"].as_str()).collect();
    assert_eq!(states, ["stopped", "answered"]);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_stop_ends_the_call_and_keeps_what_was_written() {
    let (app, says) = dictated(2, |setting| setting.times = unhurried()).await;
    stop(app, says, true).await;
}

#[tokio::test]
async fn a_stop_needs_no_redis() {
    let redis = services().await.unwrap().redis.port();
    let wire = Wire::before(([127, 0, 0, 1], redis).into()).await.unwrap();
    let (app, says) = dictated(2, |setting| {
        setting.redis = setting.redis.at(wire.address);
        setting.times = Times { look: Duration::from_millis(50), ..unhurried() };
    })
    .await;
    wire.cut(true);
    stop(app, says, false).await;
}

#[tokio::test]
async fn a_hint_to_stop_that_nobody_gave_stops_nothing() {
    let (app, mut says) = dictated(1, |_| {}).await;
    let (_, mut socket, accepted) = asked(&app).await;
    let says = says.remove(0);
    let mut shown = Shown::default();
    says.say("I ");
    shown.until(&mut socket, "I ").await;
    let redis = redis::Client::open(services().await.unwrap().redis.url()).unwrap();
    let mut redis = redis.get_multiplexed_async_connection().await.unwrap();
    let turn: TurnId = accepted["turn_id"].as_str().unwrap().parse().unwrap();
    let key = webchat_stop_key(app.user("ben@acme").tenant.unwrap(), turn);
    let () = redis::cmd("SET").arg(key.as_str()).arg(1).query_async(&mut redis).await.unwrap();
    // Its worker looks, and asks the turn's row: the lease moves long before it is due.
    let owner = app.owner().await.unwrap();
    let lease = "select lease_until::text from turns where id = $1::text::uuid";
    let turn = accepted["turn_id"].as_str().unwrap();
    let before: String = owner.query_one(lease, &[&turn]).await.unwrap().get(0);
    until("a look", || async { Ok(owner.query_one(lease, &[&turn]).await?.get::<_, String>(0) != before) })
        .await
        .unwrap();
    says.say("go on");
    says.end();
    assert_eq!(shown.then_response(&mut socket).await["text"], "I go on");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn somebody_who_works_for_long_is_seen_to() {
    let (app, mut says) =
        dictated(1, |setting| setting.times = Times { renew: Duration::from_millis(50), ..Times::default() }).await;
    let (_, mut socket, _) = asked(&app).await;
    for _ in 0..3 {
        assert_eq!(socket.until("typing").await.unwrap()["origin"], "agent");
    }
    let says = says.remove(0);
    says.say("Done.");
    says.end();
    socket.until("response").await.unwrap();
    app.finish().await.unwrap();
}

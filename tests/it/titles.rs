//! What a conversation is about, where nobody has said so: made by its agent's model, from what was said first.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use chat_core::{Code, Error, Result, config::Titles, ids::ClientMessageId};
use futures::stream::BoxStream;
use harness::{
    app::{App, until},
    clients::Socket,
    product::Setting,
};
use orchestrator::model::{Model, Piece, Prompt, Purse, at_once};
use serde_json::{Value, json};

use crate::filled::superuser;

/// A model that answers, and when asked for a title says what it was asked about; the first time it fails at that if it shall.
struct Titling {
    fails_first: bool,
    asked: Arc<AtomicUsize>,
}

impl Model for Titling {
    fn speak<'a>(&'a self, prompt: &'a Prompt, purse: &'a dyn Purse) -> BoxStream<'a, Result<Piece>> {
        at_once("vendor/first", async move {
            purse.reserve("vendor/first").await?;
            if !prompt.system.contains("as a title") {
                return Ok(format!("I see: {}", prompt.message()));
            }
            let asked = self.asked.fetch_add(1, Ordering::SeqCst);
            if self.fails_first && asked == 0 {
                return Err(Error::new(Code::ModelFailed, "no answer"));
            }
            Ok(format!("\"About {}.\"\nWhat else?", prompt.message().lines().next().unwrap_or_default()))
        })
    }
}

async fn app(fails_first: bool, change: impl FnOnce(&mut Setting)) -> (App, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let model = Arc::new(Titling { fails_first, asked: Arc::clone(&asked) });
    let app = App::with(|setting| {
        setting.model = model;
        setting.titles = Titles::default();
        change(setting);
    })
    .await
    .unwrap();
    app.owner().await.unwrap().execute("update agents set model = 'vendor/first'", &[]).await.unwrap();
    (app, asked)
}

async fn exchange(socket: &mut Socket, text: &str) {
    socket.message(text, Some(&ClientMessageId::new().to_string())).await.unwrap();
    socket.until("response").await.unwrap();
}

async fn title(app: &App, id: &str) -> Value {
    app.rest("ben@acme").get(&format!("/conversations/{id}")).await.unwrap().body["title"].clone()
}

#[tokio::test]
async fn the_first_exchange_gives_a_conversation_its_title() {
    let (app, asked) = app(false, |_| {}).await;
    let id = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &id).await.unwrap();
    exchange(&mut socket, "holidays").await;
    let told = socket.until("conversation").await.unwrap();
    let expected =
        json!({"type": "conversation", "conversation_id": id, "title": "About User: holidays", "archived": false});
    assert_eq!(told, expected);
    assert_eq!(title(&app, &id).await, "About User: holidays");
    exchange(&mut socket, "something else").await;
    assert_eq!(asked.load(Ordering::SeqCst), 1, "it has one");
    let paid = "select calls, purpose from usage where purpose = 'title'";
    let paid = app.owner().await.unwrap().query(paid, &[]).await.unwrap();
    assert_eq!((paid.len(), paid[0].get::<_, i64>(0)), (1, 1), "it is paid for");
    // What begins anew is about something else.
    app.rest("ben@acme").delete(&format!("/conversations/{id}")).await.unwrap();
    assert_eq!(title(&app, &id).await, Value::Null);
    exchange(&mut socket, "work").await;
    until("another title", || async { Ok(title(&app, &id).await == "About User: work") }).await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_persons_own_words_stand_and_outlive_a_reset() {
    let (app, asked) = app(false, |_| {}).await;
    let (rest, id) = (app.rest("ben@acme"), app.conversation("ben@acme").await.unwrap());
    rest.patch(&format!("/conversations/{id}"), &json!({"title": "Mine"})).await.unwrap();
    let mut socket = app.socket("ben@acme", &id).await.unwrap();
    exchange(&mut socket, "holidays").await;
    rest.delete(&format!("/conversations/{id}")).await.unwrap();
    exchange(&mut socket, "holidays").await;
    assert_eq!((title(&app, &id).await, asked.load(Ordering::SeqCst)), (json!("Mine"), 0));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_title_that_failed_is_tried_again_with_the_next_turns_and_no_longer() {
    let (app, asked) = app(true, |_| {}).await;
    let id = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &id).await.unwrap();
    exchange(&mut socket, "one").await;
    until("the first try", || async { Ok(asked.load(Ordering::SeqCst) == 1) }).await.unwrap();
    assert_eq!(title(&app, &id).await, Value::Null);
    exchange(&mut socket, "two").await;
    until("the second try", || async { Ok(title(&app, &id).await == "About User: two") }).await.unwrap();
    let late = "update web_conversations set title = null, title_seq = null";
    app.owner().await.unwrap().execute(late, &[]).await.unwrap();
    exchange(&mut socket, "three").await;
    until("the third try", || async { Ok(title(&app, &id).await == "About User: three") }).await.unwrap();
    app.owner().await.unwrap().execute(late, &[]).await.unwrap();
    exchange(&mut socket, "four").await;
    exchange(&mut socket, "five").await;
    assert_eq!((title(&app, &id).await, asked.load(Ordering::SeqCst)), (Value::Null, 3));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn nobody_is_asked_where_titles_are_off_or_the_budget_is_spent() {
    let (app, asked) = app(false, |setting| setting.titles = Titles { turns: 0 }).await;
    let id = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &id).await.unwrap();
    exchange(&mut socket, "holidays").await;
    exchange(&mut socket, "work").await;
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    app.finish().await.unwrap();

    let (app, asked) = self::app(false, |_| {}).await;
    crate::spend::allow(&app, app.user("ben@acme").tenant.unwrap(), Some(1), None).await;
    let id = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &id).await.unwrap();
    exchange(&mut socket, "holidays").await;
    socket.message("work", None).await.unwrap();
    assert_eq!(socket.until("error").await.unwrap()["code"], "over_budget");
    assert_eq!((title(&app, &id).await, asked.load(Ordering::SeqCst)), (Value::Null, 0));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_is_built_in_makes_none_up_and_takes_the_first_words() {
    let app = App::with(|setting| setting.titles = Titles::default()).await.unwrap();
    let id = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &id).await.unwrap();
    exchange(&mut socket, "When does the office close on the last Friday of the month, and who has the keys?").await;
    let told = socket.until("conversation").await.unwrap();
    assert_eq!(told["title"], "When does the office close on the last Friday of the month,…");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_made_title_goes_with_the_message_that_it_was_made_from() {
    let (app, _) = app(false, |_| {}).await;
    let id = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &id).await.unwrap();
    exchange(&mut socket, "holidays").await;
    socket.until("conversation").await.unwrap();
    let superuser = superuser(&app).await;
    let tenant = app.user("ben@acme").tenant.unwrap();
    let old = "update web_conversation_messages set created_at = now() - interval '40 days';
        update turns set created_at = now() - interval '40 days';
        update web_conversations set oldest_at = null;";
    superuser.batch_execute(old).await.unwrap();
    superuser
        .execute("update tenants set retention_days = 30, retained_at = now() where id = $1", &[&tenant])
        .await
        .unwrap();
    app.product.orchestrator.store.expire_some(tenant).await.unwrap();
    assert_eq!(title(&app, &id).await, Value::Null);
    app.finish().await.unwrap();
}

//! A provider of models behind the whole product: what it is asked, what becomes of its answers and of its failures.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chat_core::config::{self, Secret, Speaks, Times};
use harness::{
    app::{App, until},
    clients::Socket,
    model::{Act, Asked, Outcome, ScriptedModel},
};
use orchestrator::model::{Models, provider::Patience};
use serde_json::{Value, json};

use crate::providers::short;

/// The model that the agents of these tests are given.
const MODEL: &str = "vendor/large-1";

fn models(base_url: &str, patience: Patience) -> Arc<Models> {
    let provider = config::Provider::main(Speaks::OpenAi, base_url, Some(Secret::from(KEY.to_owned())));
    let settings =
        config::Model { provider: Some(provider), others: Vec::new(), default: Some("the-default".to_owned()) };
    Arc::new(Models::new(&settings, patience))
}

/// The codes of those who cannot be reached, and of those who gave nothing usable.
const AWAY: &str = "model_unavailable";
const FAILED: &str = "model_failed";

const KEY: &str = "sk-a-key-nobody-may-read";

/// The product with this provider behind its agents, who are told about themselves.
async fn app_with(base_url: &str, patience: Patience) -> App {
    let app = App::with(|setting| {
        setting.model = models(base_url, patience);
        setting.times = Times { renew: Duration::from_millis(50), ..Times::default() };
    })
    .await
    .unwrap();
    set_model(&app, MODEL).await;
    app
}

async fn set_model(app: &App, model: &str) {
    let owner = app.owner().await.unwrap();
    owner.execute("update agents set model = $1, system_prompt = 'Be brief.'", &[&model]).await.unwrap();
}

/// The product with a provider that does the same with every call.
async fn always(act: Act, patience: Patience) -> (ScriptedModel, App) {
    let provider = ScriptedModel::start(move |_| act.clone()).await.unwrap();
    let app = app_with(provider.base_url(), patience).await;
    (provider, app)
}

async fn joined(app: &App) -> (String, Socket) {
    let conversation = app.conversation("ben@acme").await.unwrap();
    let socket = app.socket("ben@acme", &conversation).await.unwrap();
    (conversation, socket)
}

/// Says something; returns what the socket is told of its end: the `response` or the `error`.
async fn asked(socket: &mut Socket, text: &str) -> Value {
    socket.message(text, None).await.unwrap();
    let accepted = socket.until("accepted").await.unwrap();
    loop {
        let frame = socket.next().await.unwrap();
        if frame["type"] == "response" || frame["type"] == "error" {
            assert_eq!(frame["turn_id"], accepted["turn_id"], "{frame}");
            return frame;
        }
    }
}

/// That the user is told, and that nothing was stored but what they said.
async fn assert_failed(app: &App, conversation: &str, error: &Value, code: &str) {
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(code)), "{error}");
    let owner = app.owner().await.unwrap();
    let turn = error["turn_id"].as_str().unwrap();
    let row = owner.query_one("select state from turns where id = $1::text::uuid", &[&turn]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "failed");
    let page = app.rest("ben@acme").get(&format!("/conversations/{conversation}/messages")).await.unwrap();
    assert_eq!(page.body.as_array().map(Vec::len), Some(1), "{}", page.body);
}

fn outcomes(provider: &ScriptedModel) -> Vec<Outcome> {
    provider.calls().iter().map(|call| call.outcome).collect()
}

#[tokio::test]
async fn an_answer_that_comes_in_pieces_arrives_whole_and_the_prompt_holds_what_was_said() {
    let heard = Arc::new(Mutex::new(Vec::<Asked>::new()));
    let hears = Arc::clone(&heard);
    let provider = ScriptedModel::start(move |asked| {
        hears.lock().unwrap().push(asked.clone());
        match asked.message.as_str() {
            "two" => Act::Garbage,
            message => {
                let pause = Duration::from_millis(5);
                Act::Answer { text: format!("Grüße 😀, {message}\nund noch eine Zeile"), pieces: 7, pause }
            }
        }
    })
    .await
    .unwrap();
    let app = app_with(provider.base_url(), short()).await;
    let (conversation, mut socket) = joined(&app).await;
    assert_eq!(asked(&mut socket, "one").await["text"], "Grüße 😀, one\nund noch eine Zeile");
    assert_eq!(asked(&mut socket, "two").await["code"], "model_failed");
    assert_eq!(asked(&mut socket, "three").await["text"], "Grüße 😀, three\nund noch eine Zeile");

    let said = |role: &str, text: &str| (role.to_owned(), text.to_owned());
    assert_eq!(
        heard.lock().unwrap().last().unwrap(),
        &Asked {
            model: MODEL.to_owned(),
            system: Some("Be brief.".to_owned()),
            said: vec![
                said("user", "one"),
                said("assistant", "Grüße 😀, one\nund noch eine Zeile"),
                said("user", "two"),
                said("user", "three"),
            ],
            message: "three".to_owned(),
            nth: 1,
            authorization: Some(format!("Bearer {KEY}")),
            speaks: Speaks::OpenAi,
            tools: Vec::new(),
            called: Vec::new(),
            temperature: None,
            max_tokens: None,
            wants_usage: true,
        }
    );
    let page = app.rest("ben@acme").get(&format!("/conversations/{conversation}/messages")).await.unwrap();
    assert_eq!(page.body[1]["content"], "Grüße 😀, one\nund noch eine Zeile", "stored as it was sent");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn each_agent_is_answered_by_its_own_model() {
    let provider = ScriptedModel::start(|asked| Act::answer(format!("I am {}", asked.model))).await.unwrap();
    let app = app_with(provider.base_url(), short()).await;
    let (_, mut socket) = joined(&app).await;
    for (model, answer) in [
        (MODEL, "I am vendor/large-1"),
        ("default", "I am the-default"),
        ("", "I am the-default"),
        ("echo", "Echo: hello"),
    ] {
        set_model(&app, model).await;
        assert_eq!(asked(&mut socket, "hello").await["text"], answer, "{model:?}");
    }
    assert_eq!(provider.calls().len(), 3, "the built-in model asks nobody");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn without_a_provider_only_the_model_that_is_built_in_answers() {
    for (default, told) in [(None, "model_failed"), (Some("echo"), "Echo: hello"), (Some("other"), "model_failed")] {
        let settings = config::Model { default: default.map(str::to_owned), ..config::Model::default() };
        let models = Arc::new(Models::new(&settings, short()));
        let app = App::with(|setting| setting.model = models).await.unwrap();
        set_model(&app, "default").await;
        let (_, mut socket) = joined(&app).await;
        let end = asked(&mut socket, "hello").await;
        let told_is = if end["type"] == "error" { &end["code"] } else { &end["text"] };
        assert_eq!(told_is, told, "{default:?}");
        app.finish().await.unwrap();
    }
}

#[tokio::test]
async fn a_provider_that_asks_for_time_gets_it_and_then_answers() {
    let provider = ScriptedModel::start(|asked| match asked.nth {
        1 => Act::Refuse { status: 429, retry_after: Some("1".to_owned()) },
        _ => Act::answer("here I am"),
    })
    .await
    .unwrap();
    let app = app_with(provider.base_url(), short()).await;
    let (_, mut socket) = joined(&app).await;
    assert_eq!(asked(&mut socket, "hello").await["text"], "here I am");
    let calls = provider.calls();
    assert_eq!(outcomes(&provider), [Outcome::Refused(429), Outcome::Answered]);
    let waited = calls[1].began - calls[0].began;
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_cannot_become_an_answer_is_told_and_nothing_of_it_is_stored() {
    let refuse =
        |status, retry_after: Option<&str>| Act::Refuse { status, retry_after: retry_after.map(str::to_owned) };
    let partly = || "a part of it".to_owned();
    for (name, act, outcome, calls, code) in [
        ("a failing provider", refuse(500, None), Outcome::Refused(500), 3, AWAY),
        ("an overloaded one", refuse(503, Some("0")), Outcome::Refused(503), 3, AWAY),
        ("one that wants more time than there is", refuse(429, Some("3600")), Outcome::Refused(429), 1, AWAY),
        ("a wrong key", refuse(401, None), Outcome::Refused(401), 1, FAILED),
        ("a redirect", refuse(307, None), Outcome::Refused(307), 1, FAILED),
        (
            "lost before the first token",
            Act::CutAfter { text: String::new(), pieces: 1, pause: Duration::ZERO },
            Outcome::Cut,
            3,
            AWAY,
        ),
        ("lost after it", Act::CutAfter { text: partly(), pieces: 4, pause: Duration::ZERO }, Outcome::Cut, 1, FAILED),
        ("an end too early", Act::EndEarly { text: partly() }, Outcome::Answered, 1, FAILED),
        ("an end at once", Act::EndEarly { text: String::new() }, Outcome::Answered, 1, FAILED),
        ("no JSON", Act::Garbage, Outcome::Answered, 1, FAILED),
        ("an empty answer", Act::answer(""), Outcome::Answered, 1, FAILED),
        ("a blank answer", Act::answer(" \n "), Outcome::Answered, 1, FAILED),
    ] {
        let (provider, app) = always(act, short()).await;
        let (conversation, mut socket) = joined(&app).await;
        let begun = Instant::now();
        let error = asked(&mut socket, "hello").await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{name}: {:?}", begun.elapsed());
        assert_failed(&app, &conversation, &error, code).await;
        assert_eq!(provider.calls().len(), calls, "{name}: {:?}", provider.calls());
        // A body that we left unread ends as the caller leaving, or just before.
        until(name, async || Ok(outcomes(&provider).iter().all(|o| *o == outcome || *o == Outcome::GivenUp)))
            .await
            .unwrap();
        app.finish().await.unwrap();
    }
}

#[tokio::test]
async fn a_provider_that_nobody_reaches_is_told() {
    let gone = ScriptedModel::start(|_| Act::Hang).await.unwrap().base_url().to_owned();
    let plain = ScriptedModel::start(|_| Act::Hang).await.unwrap();
    for base_url in [gone, plain.base_url().replace("http:", "https:")] {
        let app = app_with(&base_url, short()).await;
        let (conversation, mut socket) = joined(&app).await;
        let error = asked(&mut socket, "hello").await;
        assert_failed(&app, &conversation, &error, AWAY).await;
        app.finish().await.unwrap();
    }
    assert!(plain.calls().is_empty());
}

#[tokio::test]
async fn silence_ends_the_call_in_its_time() {
    let brief = Duration::from_millis(300);
    let slow = |pieces, pause| Act::Answer { text: "slowly".to_owned(), pieces, pause };
    for (name, act, patience) in [
        ("nothing at all", Act::Hang, Patience { first_token: brief, ..short() }),
        ("no first token", slow(1, Duration::from_secs(60)), Patience { first_token: brief, ..short() }),
        ("no second token", slow(2, Duration::from_secs(2)), Patience { idle: brief, ..short() }),
    ] {
        let (provider, app) = always(act, patience).await;
        let (conversation, mut socket) = joined(&app).await;
        let begun = Instant::now();
        let error = asked(&mut socket, "hello").await;
        assert!(begun.elapsed() >= brief && begun.elapsed() < Duration::from_secs(5), "{name}: {:?}", begun.elapsed());
        assert_failed(&app, &conversation, &error, AWAY).await;
        until(name, async || Ok(outcomes(&provider) == [Outcome::GivenUp])).await.unwrap();
        app.finish().await.unwrap();
    }
}

#[tokio::test]
async fn a_slow_answer_is_waited_for_as_long_as_it_goes_on() {
    // Each pause is within the patience, all of them together are not.
    let text = "one word after the other";
    let act = Act::Answer { text: text.to_owned(), pieces: 8, pause: Duration::from_millis(150) };
    let patient = Duration::from_millis(700);
    let (provider, app) = always(act, Patience { first_token: patient, idle: patient, ..short() }).await;
    let (_, mut socket) = joined(&app).await;
    assert_eq!(asked(&mut socket, "hello").await["text"], text);
    assert_eq!(outcomes(&provider), [Outcome::Answered]);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_turn_that_is_stopped_hangs_up() {
    let (provider, app) = always(Act::Hang, short()).await;
    let (_, mut socket) = joined(&app).await;
    socket.message("hello", None).await.unwrap();
    let accepted = socket.until("accepted").await.unwrap();
    until("the call", async || Ok(outcomes(&provider) == [Outcome::Hung])).await.unwrap();
    socket.say(&json!({"type": "stop", "turn_id": accepted["turn_id"]})).await.unwrap();
    let turn = socket.until("turn").await.unwrap();
    assert_eq!((&turn["turn_id"], &turn["state"]), (&accepted["turn_id"], &json!("stopped")));
    until("the caller to leave", async || Ok(outcomes(&provider) == [Outcome::GivenUp])).await.unwrap();
    app.finish().await.unwrap();
}

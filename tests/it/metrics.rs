//! What operators watch: each figure moves as it should, nobody without the token sees any, and none says whose it is. The
//! dashboard asks for what there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chat_core::{
    Code, Error, Result,
    bus::Publisher,
    config::{self, Secret, Speaks},
    event::ServerFrame,
    ids::{ConversationId, TurnId},
    keys::webchat_response_key,
};
use futures::stream::BoxStream;
use harness::{
    app::{App, until},
    clients::{Socket, http},
    model::{Act, ScriptedModel},
    services::User,
    template::Template,
};
use orchestrator::{
    figures::Figures,
    model::{Model, Models, Piece, Prompt, Purse, at_once, provider::Patience},
};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

pub(crate) const TOKEN: &str = "k3J9-vq2L_x8Zr0Tn5Wm7Yb1Hc4Gd6Fs";

/// A model that answers, and fails when it is asked to.
struct Moody;

impl Model for Moody {
    fn speak<'a>(&'a self, prompt: &'a Prompt, _: &'a dyn Purse) -> BoxStream<'a, Result<Piece>> {
        at_once("moody", async move {
            match prompt.message() {
                "fail" => Err(Error::new(Code::ModelFailed, "no answer")),
                other => Ok(format!("heard {other}")),
            }
        })
    }
}

async fn watched() -> App {
    App::with(|setting| {
        setting.metrics = config::Metrics { token: Some(Secret::from(TOKEN.to_owned())) };
        setting.model = Arc::new(Moody);
        setting.limits.auth_ms = 300;
    })
    .await
    .unwrap()
}

/// Every figure, by its name with labels as they are written.
pub(crate) struct Scraped {
    values: BTreeMap<String, f64>,
    text: String,
}

impl Scraped {
    pub(crate) async fn of(app: &App) -> Self {
        let asked = http().get(format!("{}/metrics", app.product.rest())).bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(asked.status(), StatusCode::OK);
        let text = asked.text().await.unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let values = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        });
        Self { values: values.collect(), text }
    }

    pub(crate) fn get(&self, name: &str) -> f64 {
        *self.values.get(name).unwrap_or_else(|| panic!("{name} is not among\n{}", self.text))
    }

    /// How many metrics there are, without labels and what histograms hang on.
    fn names(&self) -> BTreeSet<&str> {
        self.values.keys().map(|name| base(name)).collect()
    }
}

/// A metric's name without its labels and without what a histogram hangs on.
fn base(series: &str) -> &str {
    let name = series.split('{').next().unwrap();
    ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// Waits until figures are as they should be; what a peer sees may be counted a moment later.
async fn becomes(app: &App, what: &str, holds: impl Fn(&Scraped) -> bool) {
    until(what, || async { Ok(holds(&Scraped::of(app).await)) }).await.unwrap();
}

#[tokio::test]
async fn only_who_has_the_token_sees_them_and_without_one_there_is_nothing_to_see() {
    let app = watched().await;
    let url = format!("{}/metrics", app.product.rest());
    let ask = |values: &[&str]| {
        let request =
            values.iter().fold(http().get(&url), |request, value| request.header(header::AUTHORIZATION, *value));
        async move { request.send().await.unwrap() }
    };
    let good = format!("Bearer {TOKEN}");
    let person = format!("Bearer {}", app.token(app.user("root")));
    for values in [
        &[][..],
        &[""],
        &["Bearer"],
        &["Bearer "],
        &[TOKEN],
        &[&format!("Basic {TOKEN}")],
        &[&good[..good.len() - 1]],
        &[&format!("{good}x")],
        &[&good, &good],
        &[&person],
    ] {
        let refused = ask(values).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{values:?}");
        assert_eq!(refused.headers()[header::WWW_AUTHENTICATE], "Bearer");
        assert_eq!(refused.text().await.unwrap(), "", "{values:?}");
    }
    let shown = ask(&[&good]).await;
    assert_eq!(shown.status(), StatusCode::OK);
    let kind = shown.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    assert_eq!(shown.headers()[header::CACHE_CONTROL], "no-store");
    assert!(shown.text().await.unwrap().ends_with("# EOF\n"));
    assert_eq!(ask(&[&format!("bearer {TOKEN}")]).await.status(), StatusCode::OK, "schemes have no case (RFC 9110)");
    let posted = http().post(&url).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
    app.finish().await.unwrap();

    let bare = App::start().await.unwrap();
    for request in [http().get(format!("{}/metrics", bare.product.rest()))] {
        let with = request.try_clone().unwrap().bearer_auth(TOKEN);
        for request in [request, with] {
            assert_eq!(request.send().await.unwrap().status(), StatusCode::NOT_FOUND);
        }
    }
    bare.finish().await.unwrap();
}

#[tokio::test]
async fn a_chat_moves_what_it_should() {
    let app = watched().await;
    let before = Scraped::of(&app).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    for text in ["hello", "fail"] {
        socket.message(text, None).await.unwrap();
        socket.until(if text == "fail" { "turn" } else { "response" }).await.unwrap();
    }
    // An escalated or a stopped one has its own tests; here is one that waits behind nobody and is stopped.
    let after = Scraped::of(&app).await;
    let grown = |name: &str| after.get(name) - before.get(name);
    for (name, by) in [
        ("chat_sockets", 1.0),
        ("chat_connections", 1.0),
        ("chat_conversations_held", 1.0),
        ("chat_join_seconds_count", 1.0),
        (r#"chat_frames_received_total{type="auth"}"#, 1.0),
        (r#"chat_frames_received_total{type="message"}"#, 2.0),
        (r#"chat_frames_sent_total{type="ready"}"#, 1.0),
        (r#"chat_frames_sent_total{type="accepted"}"#, 2.0),
        (r#"chat_frames_sent_total{type="response"}"#, 1.0),
        (r#"chat_frames_sent_total{type="turn"}"#, 1.0),
        (r#"chat_message_stage_seconds_count{stage="typing"}"#, 2.0),
        (r#"chat_message_stage_seconds_count{stage="stored"}"#, 2.0),
        (r#"chat_message_stage_seconds_count{stage="accepted"}"#, 2.0),
        (r#"chat_message_stage_seconds_count{stage="ended"}"#, 2.0),
        (r#"chat_turns_ended_total{end="answered"}"#, 1.0),
        (r#"chat_turns_ended_total{end="failed"}"#, 1.0),
        ("chat_hints_sent_total", 2.0),
    ] {
        assert!((grown(name) - by).abs() < 0.5, "{name} has grown by {} and not by {by}", grown(name));
    }
    assert!((after.get(r#"chat_turns_failed_total{code="model_failed"}"#) - 1.0).abs() < 0.5);
    assert!(grown("chat_publications_total") >= 4.0 && grown("chat_pool_wait_seconds_count") >= 6.0);
    // Whoever computes quantiles needs the step that holds all.
    for stage in ["typing", "stored", "accepted", "ended"] {
        let all = after.get(&format!(r#"chat_message_stage_seconds_bucket{{le="+Inf",stage="{stage}"}}"#));
        let count = after.get(&format!(r#"chat_message_stage_seconds_count{{stage="{stage}"}}"#));
        assert!((all - count).abs() < 0.5, "{}", after.text);
    }
    let stage = |stage: &str| after.get(&format!(r#"chat_message_stage_seconds_sum{{stage="{stage}"}}"#));
    assert!(stage("typing") < stage("accepted") && stage("stored") <= stage("accepted"), "{}", after.text);
    assert!(stage("accepted") < stage("ended") && stage("ended") < 60.0, "{}", after.text);
    assert!(after.get("chat_redis_connected") > 0.5 && after.get("chat_redis_probe_age_seconds") < 8.0);
    assert!((after.get("chat_pool_connections_max") - 4.0).abs() < 0.5);
    drop(socket);
    becomes(&app, "the socket to be gone", |now| now.get("chat_sockets") < 0.5).await;
    app.finish().await.unwrap();
}

#[tokio::test]
async fn each_end_of_a_socket_counts_under_its_code() {
    let app = watched().await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let good = app.token(app.user("ben@acme"));
    let elsewhere = app.token(app.user("ben@globex"));
    let auth = |token: &str| json!({"type": "auth", "token": token}).to_string();
    for (said, code) in [
        (vec![Message::text(r#"{"type":"message","text":"hello"}"#)], Some(4400)),
        (vec![Message::text(auth("none"))], Some(4401)),
        (vec![Message::text(auth(&elsewhere))], Some(4404)),
        (vec![], Some(4408)),
        (vec![Message::text(auth(&good)), Message::binary(vec![1])], Some(1003)),
        (vec![Message::text(auth(&good)), Message::text("x".repeat(300_000))], Some(1009)),
        (vec![Message::text(auth(&good)), Message::Close(None)], None),
    ] {
        let name = format!(
            r#"chat_sockets_closed_total{{code="{}"}}"#,
            code.map_or("none".to_owned(), |code| code.to_string())
        );
        let before = Scraped::of(&app).await.get(&name);
        let mut socket = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
        for message in said {
            socket.raw(message).await.unwrap();
        }
        let closed = socket.closed().await.unwrap();
        assert!(code.is_none() || closed == code, "{closed:?} and not {code:?}");
        becomes(&app, &name, |now| (now.get(&name) - before - 1.0).abs() < 0.5).await;
    }
    let foreign = Socket::open(&app.product.ws(), &conversation, Some("https://elsewhere.example")).await;
    assert!(foreign.is_err());
    let now = Scraped::of(&app).await;
    assert!((now.get(r#"chat_connections_refused_total{code="4403"}"#) - 1.0).abs() < 0.5, "{}", now.text);
    assert!(now.get("chat_sockets") < 0.5 && now.get("chat_connections") < 0.5, "{}", now.text);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_delta_that_reaches_nobody_counts_with_its_reason() {
    let app = watched().await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let _socket = app.socket("ben@acme", &conversation).await.unwrap();
    let publisher = Publisher::new(&app.setting.redis.settings(User::Orchestrator)).unwrap();
    let id: ConversationId = conversation.parse().unwrap();
    let topic = webchat_response_key(app.user("ben@acme").tenant.unwrap(), id);
    let stray = ServerFrame::Delta { turn_id: TurnId::new(), attempt: 1, offset: 0, text: "secret words".to_owned() };
    publisher.publish(&topic, &stray).await.unwrap();
    let name = r#"chat_deltas_dropped_total{reason="unwanted"}"#;
    becomes(&app, "the delta", |now| (now.get(name) - 1.0).abs() < 0.5).await;
    let now = Scraped::of(&app).await;
    assert!(now.get(r#"chat_frames_sent_total{type="delta"}"#) < 0.5);
    // One that names another conversation is refused before it is anybody's.
    let typing = json!({"type": "typing", "conversation_id": ConversationId::new(), "origin": "agent"});
    let forged: ServerFrame = serde_json::from_value(typing).unwrap();
    publisher.publish(&topic, &forged).await.unwrap();
    becomes(&app, "the refusal", |now| (now.get("chat_publications_dropped_total") - 1.0).abs() < 0.5).await;
    app.finish().await.unwrap();
}

/// A model that waits until it may answer.
struct Held(Arc<AtomicBool>);

impl Model for Held {
    fn speak<'a>(&'a self, _: &'a Prompt, _: &'a dyn Purse) -> BoxStream<'a, Result<Piece>> {
        at_once("held", async move {
            until("leave to answer", || async { Ok(self.0.load(Ordering::SeqCst)) }).await.map_err(Error::internal)?;
            Ok("at last".to_owned())
        })
    }
}

#[tokio::test]
async fn turns_that_wait_are_counted_with_their_age_and_leases_that_ran_out_too() {
    let leave = Arc::new(AtomicBool::new(false));
    let app = App::with(|setting| {
        setting.metrics = config::Metrics { token: Some(Secret::from(TOKEN.to_owned())) };
        setting.model = Arc::new(Held(Arc::clone(&leave)));
    })
    .await
    .unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    for text in ["one", "two", "three"] {
        socket.message(text, None).await.unwrap();
        socket.until("accepted").await.unwrap();
    }
    let owner = app.owner().await.unwrap();
    until("a claim", || async {
        let running = owner.query_one("select count(*) from turns where state = 'running'", &[]).await?;
        Ok(running.get::<_, i64>(0) == 1)
    })
    .await
    .unwrap();
    owner.execute("update turns set created_at = now() - interval '1 hour' where state = 'queued'", &[]).await.unwrap();
    let standing = app.product.orchestrator.store.open_turns().await.unwrap();
    assert_eq!((standing.queued, standing.running, standing.lapsed), (2, 1, 0), "{standing:?}");
    assert!(standing.oldest_queued >= Duration::from_secs(3_600) && standing.overdue.is_zero(), "{standing:?}");
    owner
        .execute("update turns set lease_until = now() - interval '1 minute' where state = 'running'", &[])
        .await
        .unwrap();
    let standing = app.product.orchestrator.store.open_turns().await.unwrap();
    assert!(standing.lapsed == 1 && standing.overdue >= Duration::from_secs(60), "{standing:?}");
    // Another hub reads it as it begins, and shows it.
    let second = app.second(harness::product::QueueKind::Local(None)).await.unwrap();
    let url = format!("{}/metrics", second.rest());
    until("the ages", || async {
        let text = http().get(&url).bearer_auth(TOKEN).send().await?.text().await?;
        let age = text.lines().find_map(|line| line.strip_prefix("chat_queued_turn_age_seconds "));
        Ok(age.is_some_and(|age| age.parse::<f64>().is_ok_and(|age| age >= 3_600.0)))
    })
    .await
    .unwrap();
    leave.store(true, Ordering::SeqCst);
    app.finish().await.unwrap();
}

/// Metrics that the dashboard does not show, and why.
const NOT_SHOWN: &[(&str, &str)] = &[];

/// What a panel must have, by the published schema of dashboards: <https://github.com/grafana/grafana-foundation-sdk>.
fn panels(dashboard: &Value) -> &Vec<Value> {
    for required in ["schemaVersion", "templating", "annotations"] {
        assert!(!dashboard[required].is_null(), "a dashboard has {required}");
    }
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36 && dashboard["id"].is_null(), "an id is a server's own");
    let variables: BTreeSet<&str> =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title} has an id of its own");
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap_or_else(|| panic!("{title} has a place"));
        let (x, y, w, h) = (at("x"), at("y"), at("w"), at("h"));
        assert!(w >= 1 && x + w <= 24 && h >= 1, "{title} is within the 24 columns");
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{title} lies on another");
        }
        if panel["type"] == "row" {
            assert!(panel["collapsed"].is_boolean() && panel["panels"].is_array(), "{title}");
            continue;
        }
        let source = panel["datasource"]["uid"].as_str().unwrap();
        assert!(variables.contains(source.trim_start_matches("${").trim_end_matches('}')), "{title} asks {source}");
        let targets = panel["targets"].as_array().unwrap();
        let letters: BTreeSet<&str> = targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
        assert!(
            !targets.is_empty() && letters.len() == targets.len(),
            "{title} has targets, each by a letter of its own"
        );
    }
    panels
}

/// Every name in an expression that could be a metric's of ours.
fn asked_for(expr: &str) -> impl Iterator<Item = &str> {
    expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').filter(|word| word.starts_with("chat_"))
}

#[tokio::test]
async fn the_dashboard_asks_for_what_there_is_and_shows_all_of_it() {
    let app = watched().await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message("fail", None).await.unwrap();
    socket.until("turn").await.unwrap();
    let figures = Scraped::of(&app).await;
    let dashboard: Value = serde_json::from_str(include_str!("../../docs/grafana-dashboard.json")).unwrap();
    let mut shown = BTreeSet::new();
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let Some(expr) = target["expr"].as_str() else { continue };
            let names: Vec<&str> = asked_for(expr).collect();
            assert!(!names.is_empty(), "{expr} asks for nothing of ours");
            for name in names {
                let series = figures.values.keys().any(|known| known.split('{').next() == Some(name));
                assert!(series, "{} asks for {name}, which there is not", panel["title"]);
                shown.insert(base(name).to_owned());
            }
            for (label, value) in equal_to(expr) {
                let pair = format!("{label}=\"{value}\"");
                assert!(
                    figures.values.keys().any(|known| known.contains(&pair)),
                    "{}: no series has {pair}",
                    panel["title"]
                );
            }
        }
    }
    let left: BTreeSet<&str> = NOT_SHOWN.iter().map(|(name, _)| *name).collect();
    let names = figures.names();
    let missing: Vec<_> = names.iter().filter(|name| !shown.contains(**name) && !left.contains(**name)).collect();
    assert!(missing.is_empty(), "neither on the dashboard nor in the list of those that are not: {missing:?}");
    assert!(left.iter().all(|name| figures.names().contains(name)), "the list names what there is not");
    app.finish().await.unwrap();
}

/// The labels that an expression compares with a fixed value.
fn equal_to(expr: &str) -> Vec<(&str, &str)> {
    expr.split(['{', '}', ','])
        .filter_map(|part| {
            let (label, value) = part.split_once("=\"")?;
            Some((label.trim(), value.strip_suffix('"')?))
        })
        .collect()
}

#[tokio::test]
async fn none_says_whose_it_is_or_what_was_said() {
    let app = watched().await;
    let ben = app.user("ben@acme");
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message("a word like hippopotamus", None).await.unwrap();
    let response = socket.until("response").await.unwrap();
    socket.blurt(&json!({"type": "rhinoceros", "field": "giraffe"})).await.unwrap();
    socket.until("error").await.unwrap();
    socket.raw(Message::text("zebra")).await.unwrap();
    socket.until("error").await.unwrap();
    let text = Scraped::of(&app).await.text;
    let ours = [
        ben.id.to_string(),
        ben.tenant.unwrap().to_string(),
        conversation,
        app.agent_of(ben).id.to_string(),
        response["turn_id"].as_str().unwrap().to_owned(),
        response["message_id"].as_str().unwrap().to_owned(),
        TOKEN.to_owned(),
        "acme".to_owned(),
        "ben".to_owned(),
    ];
    for word in ours.iter().map(String::as_str).chain(["hippopotamus", "rhinoceros", "giraffe", "zebra"]) {
        assert!(!text.to_lowercase().contains(&word.to_lowercase()), "{word} is in\n{text}");
    }
    // Nor is there anything in it that could be an id.
    let like_an_id = |word: &str| word.len() >= 32 && word.bytes().filter(u8::is_ascii_hexdigit).count() >= 32;
    assert!(!text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(like_an_id), "{text}");
    app.finish().await.unwrap();
}

/// The units that CloudWatch knows, as far as a figure of ours may have them.
/// Source: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDatum.html>.
const UNITS: &[&str] = &["Seconds", "Milliseconds", "Bytes", "Count", "Percent", "None"];

/// Holds a line to the schema of the embedded metric format, and returns the names of its metrics.
/// Source: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>.
fn embedded(line: &Value) -> Vec<String> {
    let about = line["_aws"].as_object().unwrap();
    assert_eq!(about.keys().collect::<Vec<_>>(), ["CloudWatchMetrics", "Timestamp"], "{line}");
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let age = now - about["Timestamp"].as_i64().unwrap();
    assert!((0..60_000).contains(&age), "milliseconds since 1970: {line}");
    let mut names = Vec::new();
    for directive in about["CloudWatchMetrics"].as_array().unwrap() {
        assert_eq!(directive["Namespace"], "KonstructChat");
        let sets = directive["Dimensions"].as_array().unwrap();
        assert!(!sets.is_empty(), "{line}");
        for dimension in sets.iter().flat_map(|set| set.as_array().unwrap()) {
            let value =
                line[dimension.as_str().unwrap()].as_str().unwrap_or_else(|| panic!("{dimension} is a text: {line}"));
            assert!((1..=1_024).contains(&value.len()), "{line}");
        }
        let metrics = directive["Metrics"].as_array().unwrap();
        assert!((1..=100).contains(&metrics.len()), "{line}");
        for metric in metrics {
            let name = metric["Name"].as_str().unwrap();
            assert!(UNITS.contains(&metric["Unit"].as_str().unwrap()), "{line}");
            let values = numbers(&line[name]);
            let good =
                (1..=100).contains(&values.len()) && line[name].as_array().is_none_or(|all| all.len() == values.len());
            assert!(good, "{name} is a number, or up to a hundred: {line}");
            names.push(name.to_owned());
        }
    }
    names
}

/// The numbers of a metric: one, or several.
fn numbers(values: &Value) -> Vec<f64> {
    let all = values.as_array().map_or(std::slice::from_ref(values), Vec::as_slice);
    all.iter().filter_map(Value::as_f64).collect()
}

/// Lines that a function has written.
fn collected() -> (Figures, Arc<Mutex<Vec<Value>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&lines);
    (
        Figures::of("chat-orchestrator", move |line| taken.lock().unwrap().push(serde_json::from_str(line).unwrap())),
        lines,
    )
}

#[tokio::test]
async fn the_orchestrator_writes_what_cloudwatch_reads_and_the_dashboard_asks_for_it() {
    let provider = ScriptedModel::start(|asked| match asked.message.as_str() {
        "fail" => Act::Refuse { status: 401, retry_after: None },
        message => Act::answer(format!("heard {message}")),
    })
    .await
    .unwrap();
    let (figures, lines) = collected();
    let app = App::with(|setting| {
        let key = Secret::from("sk-a-key-nobody-may-read".to_owned());
        let main = config::Provider::main(Speaks::OpenAi, provider.base_url(), Some(key));
        let settings = config::Model { provider: Some(main), others: Vec::new(), default: None };
        let models = Models::new(&settings, Patience::within(Duration::from_secs(20)));
        setting.model = Arc::new(models.with_figures(figures.clone()));
        setting.figures = figures.clone();
    })
    .await
    .unwrap();
    let owner = app.owner().await.unwrap();
    let model = "vendor/large-1";
    owner.execute("update agents set model = $1", &[&model]).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    for (text, end) in [("hippopotamus", "response"), ("fail", "error")] {
        socket.message(text, None).await.unwrap();
        socket.until(end).await.unwrap();
    }
    let sum = |name: &str| -> f64 {
        let lines = lines.lock().unwrap();
        let values = lines.iter().flat_map(|line| numbers(&line[name]));
        values.sum()
    };
    until("both batches to be written down", || async { Ok(sum("turns_answered") + sum("turns_failed") > 1.5) })
        .await
        .unwrap();
    assert!((sum("turns_answered") - 1.0).abs() < 0.5 && (sum("turns_failed") - 1.0).abs() < 0.5);
    assert!(sum("turns_stopped") + sum("turns_escalated") < 0.5);
    assert!(sum("turn_wait") > 0.0 && sum("turn_wait") < sum("turn_duration") + 60.0);
    assert!(
        sum("gen_ai.client.operation.duration") > 0.0
            && sum("gen_ai.client.operation.duration") <= sum("turn_duration")
    );
    let lines: Vec<Value> = lines.lock().unwrap().clone();
    let told: Vec<&Value> = lines.iter().filter(|line| !line["gen_ai.client.token.usage"].is_null()).collect();
    let ways: Vec<&str> = told.iter().map(|line| line["gen_ai.token.type"].as_str().unwrap()).collect();
    assert_eq!(ways, ["input", "output"], "of the one call that told: {told:?}");
    assert!(told[0]["gen_ai.client.token.usage"][0].as_f64().unwrap() > 0.0);
    assert!(told.iter().all(|line| line["gen_ai.provider.name"] == "openai" && line["gen_ai.request.model"] == model));
    let written: BTreeSet<String> = lines.iter().flat_map(embedded).collect();

    let ben = app.user("ben@acme");
    let text = serde_json::to_string(&lines).unwrap();
    for word in [&ben.id.to_string(), &ben.tenant.unwrap().to_string(), &conversation, "hippopotamus", "sk-a-key"] {
        assert!(!text.contains(word), "{word} is in {text}");
    }

    let dashboard: Value = serde_json::from_str(include_str!("../../docs/grafana-dashboard.json")).unwrap();
    let targets = panels(&dashboard).iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut asked = BTreeSet::new();
    for target in targets.filter(|target| !target["metricName"].is_null()) {
        let name = target["metricName"].as_str().unwrap();
        assert_eq!(target["namespace"], "KonstructChat");
        let dimensions: BTreeSet<&String> = target["dimensions"].as_object().unwrap().keys().collect();
        let has = |line: &&Value| {
            let directive = &line["_aws"]["CloudWatchMetrics"][0];
            let theirs: BTreeSet<&str> =
                directive["Dimensions"][0].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
            !line[name].is_null() && theirs == dimensions.iter().map(|name| name.as_str()).collect()
        };
        assert!(lines.iter().any(|line| has(&line)), "nobody writes {name} with {dimensions:?}");
        asked.insert(name.to_owned());
    }
    assert_eq!(asked, written, "each is on the dashboard");

    // What the template waits for is written, by the same dimension.
    let template = Template::read("template.yaml").unwrap();
    let mut waited = BTreeSet::new();
    for (alarm, of) in template.resources("AWS::CloudWatch::Alarm") {
        let several = of["Metrics"].as_array().into_iter().flatten().map(|metric| &metric["MetricStat"]["Metric"]);
        for metric in several.chain([of]).filter(|metric| metric["Namespace"] == "KonstructChat") {
            let name = metric["MetricName"].as_str().unwrap();
            let by =
                metric["Dimensions"].as_array().unwrap().iter().map(|dimension| dimension["Name"].as_str().unwrap());
            assert_eq!(by.collect::<Vec<_>>(), ["FunctionName"], "{alarm}");
            assert!(written.contains(name), "{alarm} waits for {name}, which nobody writes");
            waited.insert(name);
        }
    }
    assert_eq!(waited, BTreeSet::from(["turns_failed", "turn_duration"]));
    app.finish().await.unwrap();
}

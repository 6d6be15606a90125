//! The functions as they are deployed: the real binaries, started and called as Lambda does.

use std::path::Path;

use aws_sdk_sqs::types::Message;
use chat_core::{
    ids::{ConversationId, TenantId, TurnId, UserId},
    job::Job,
};
use harness::{
    app::App,
    cache,
    clients::Answer,
    lambda::{Lambda, binaries},
    model::{Act, ScriptedModel},
    product::{SqsAddress, sqs_client},
    pump::{create_queue, event, record},
    services::{Options, Services, User},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::turns::silent;

/// A queue of its own on the SQS-compatible server, which the first test starts that needs one.
pub(crate) async fn queue(name: &str) -> SqsAddress {
    static SERVICES: OnceCell<(Services, String)> = OnceCell::const_new();
    let start = || async {
        let mut services = Services::start(&Options { durable: false, max_connections: 10 }, &|_| {}).await.unwrap();
        let endpoint = services.start_sqs(&cache(), &|_| {}).await.unwrap().endpoint();
        (services, endpoint)
    };
    create_queue(&SERVICES.get_or_init(start).await.1, name).await.unwrap()
}

/// The next message of a queue, taken for good.
pub(crate) async fn received(queue: &SqsAddress) -> Message {
    let client = sqs_client(&queue.endpoint);
    let received = client.receive_message().queue_url(&queue.queue_url).wait_time_seconds(10).send().await.unwrap();
    let message = received.messages.unwrap_or_default().pop().expect("a hint in the queue");
    let delete = client.delete_message().queue_url(&queue.queue_url);
    delete.receipt_handle(message.receipt_handle().unwrap()).send().await.unwrap();
    message
}

/// A function that knows what the app knows, has a queue, and `more` settings.
pub(crate) async fn function(name: &str, app: &App, queue: &SqsAddress, more: &[(&'static str, String)]) -> Lambda {
    let env = [
        ("DATABASE_URL", app.setting.database_url.clone()),
        ("REDIS_URL", app.setting.redis.url(User::of(Path::new(name)).unwrap())),
        ("QUEUE_URL", queue.queue_url.clone()),
        ("AWS_ENDPOINT_URL_SQS", queue.endpoint.clone()),
        ("JWT_SECRET", app.mint.secret().to_owned()),
    ];
    let env = [env.as_slice(), more].concat();
    Lambda::start(&binaries().await.unwrap().join(name), &env).await.unwrap()
}

/// An event of `tests/events/`, which `cargo lambda invoke` sends, with its placeholders filled in.
fn fixture(name: &str, placeholders: &[(&str, String)]) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/events");
    let text = std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
    let filled = placeholders.iter().fold(text, |text, (placeholder, value)| text.replace(placeholder, value));
    serde_json::from_str(&filled).unwrap()
}

#[tokio::test]
async fn the_rest_function_runs_as_lambda_runs_it() {
    let app = App::start().await.unwrap();
    let queue = queue("rest-function").await;
    let function = function("conversations", &app, &queue, &[]).await;
    function.ready().await.unwrap();
    let ben = app.user("ben@acme");
    let bearer = format!("Bearer {}", app.token(ben));
    let own = [("Authorization", bearer.as_str())];

    let agent = app.agent_of(ben);
    let body = json!({"tenant_id": agent.tenant, "agent_id": agent.id});
    let conversations = "/api/portal/chat/conversations";
    let opened = function.http("POST", conversations, &own, Some(&body)).await.unwrap();
    assert_eq!((opened.status, &opened.headers["content-type"]), (201, &"application/json".parse().unwrap()));
    assert_eq!(function.http("POST", conversations, &own, Some(&body)).await.unwrap().status, 200);
    let conversation = opened.body["id"].as_str().unwrap();
    let messages = format!("{conversations}/{conversation}/messages");

    let mut hints = Vec::new();
    for (number, text) in ["Grüße 😀", "noch einmal"].into_iter().enumerate() {
        let key = format!("0193b3a0-0000-7000-8000-00000000000{number}");
        let headers = [own[0], ("Idempotency-Key", &key)];
        let sent = function.http("POST", &messages, &headers, Some(&json!({"text": text}))).await.unwrap();
        assert_eq!(sent.status, 202, "{}", sent.body);
        // The function is frozen once it has answered: by then the hint must have left it.
        let hint = received(&queue).await;
        let job = Job::parse(hint.body().unwrap()).unwrap();
        assert_eq!(json!(job.extras.conversation_id), conversation);
        assert_eq!(
            (json!(job.message.id), json!(job.message.tenant_id)),
            (sent.body["turn_id"].clone(), body["tenant_id"].clone())
        );
        assert_eq!(job.message.content.text, "", "the text stays in Postgres");
        hints.push(record(hint.message_id().unwrap(), hint.body().unwrap()));
    }

    let page = function.http("GET", &format!("{messages}?limit=1"), &own, None).await.unwrap();
    assert_eq!((page.status, &page.body[0]["content"]), (200, &json!("noch einmal")));
    let next = page.headers["link"].to_str().unwrap();
    let next = next.trim_start_matches('<').split_once('>').unwrap().0;
    let page = function.http("GET", next, &own, None).await.unwrap();
    assert_eq!((page.status, &page.body[0]["content"]), (200, &json!("Grüße 😀")));
    assert!(!page.headers.contains_key("link"), "that was all");

    let nobody = function.http("GET", &messages, &[], None).await.unwrap();
    problem(&nobody, 401, "unauthenticated");
    assert_eq!(nobody.headers["www-authenticate"], "Bearer");
    let stranger = format!("Bearer {}", app.token(app.user("ben@globex")));
    problem(&function.http("GET", &messages, &[("Authorization", &stranger)], None).await.unwrap(), 404, "not_found");
    problem(&function.http("GET", "/api/portal/chat/elsewhere", &own, None).await.unwrap(), 404, "not_found");

    // What the README has `cargo lambda invoke` send.
    let healthy = function.invoke(&fixture("healthz.json", &[])).await.unwrap();
    assert_eq!((&healthy["statusCode"], &healthy["body"]), (&json!(200), &json!("ok")));
    let ids = [("TENANT", agent.tenant.to_string()), ("AGENT", agent.id.to_string()), ("TOKEN", app.token(ben))];
    let again = function.invoke(&fixture("open_conversation.json", &ids)).await.unwrap();
    assert_eq!(again["statusCode"], 200, "the one that stands: {again}");

    // The hints are good for the turns that they are about.
    let answer = app.product.orchestrator.handle(event(hints)).await;
    assert!(answer.batch_item_failures.is_empty());
    app.finish().await.unwrap();
}

fn problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, &answer.body["code"]), (status, &json!(code)), "{}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.headers["x-request-id"], answer.body["request_id"].as_str().unwrap());
}

#[tokio::test]
async fn the_orchestrator_function_runs_as_lambda_runs_it() {
    // Nothing listens at this product's queue, so nobody but the function runs a turn.
    let app = App::with(|setting| setting.queue = silent()).await.unwrap();
    let queue = queue("orchestrator-function").await;
    let function = function("orchestrator", &app, &queue, &[]).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let mut turns = Vec::new();
    for text in ["one", "two"] {
        socket.message(text, None).await.unwrap();
        turns.push(socket.until("accepted").await.unwrap()["turn_id"].clone());
    }

    let ben = app.user("ben@acme");
    let turn: TurnId = serde_json::from_value(turns[0].clone()).unwrap();
    let good = Job::web(ben.tenant.unwrap(), conversation.parse().unwrap(), ben.id, turn).body();
    let mut elsewhere: Value = serde_json::from_str(&good).unwrap();
    elsewhere["channel"] = json!("slack");
    let batch =
        event(vec![record("malformed", "{"), record("good", &good), record("without a route", &elsewhere.to_string())]);
    let answer = function.invoke(&batch).await.unwrap();
    let failures = json!([{"itemIdentifier": "malformed"}, {"itemIdentifier": "without a route"}]);
    assert_eq!(answer["batchItemFailures"], failures);
    let response = socket.until("response").await.unwrap();
    assert_eq!((&response["turn_id"], &response["text"]), (&turns[0], &json!("Echo: one")));

    // The turn behind it has its hint in the function's queue, and the same environment runs that too.
    let next = received(&queue).await;
    assert_eq!(json!(Job::parse(next.body().unwrap()).unwrap().message.id), turns[1]);
    let batch = event(vec![record(next.message_id().unwrap(), next.body().unwrap())]);
    assert_eq!(function.invoke(&batch).await.unwrap()["batchItemFailures"], json!([]));
    assert_eq!(socket.until("response").await.unwrap()["text"], "Echo: two");

    // A hint that is about nothing, as the README has `cargo lambda invoke` send it, is done at once.
    let nothing = function.invoke(&fixture("turn.json", &[])).await.unwrap();
    assert_eq!(nothing["batchItemFailures"], json!([]));

    let page = app.rest("ben@acme").get(&format!("/conversations/{conversation}/messages")).await.unwrap();
    let said: Vec<_> = page.body.as_array().unwrap().iter().map(|message| &message["content"]).collect();
    assert_eq!(said, ["one", "two", "Echo: one", "Echo: two"]);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_orchestrator_function_asks_the_provider_that_its_settings_name() {
    let key = "sk-a-key-nobody-may-read";
    let provider = ScriptedModel::start(move |asked| {
        assert_eq!(asked.authorization, Some(format!("Bearer {key}")));
        match asked.message.as_str() {
            "fail" => Act::Refuse { status: 401, retry_after: None },
            message => Act::answer(format!("{} heard {message}", asked.model)),
        }
    })
    .await
    .unwrap();
    let app = App::with(|setting| setting.queue = silent()).await.unwrap();
    app.owner().await.unwrap().execute("update agents set model = 'default'", &[]).await.unwrap();
    let settings = [
        ("MODEL_PROVIDER", "openai".to_owned()),
        ("MODEL_BASE_URL", provider.base_url().to_owned()),
        ("MODEL_API_KEY", key.to_owned()),
        ("MODEL_DEFAULT", "vendor/small-1".to_owned()),
        ("RUST_LOG", "trace".to_owned()),
    ];
    let function = function("orchestrator", &app, &queue("provider").await, &settings).await;
    let (ben, conversation) = (app.user("ben@acme"), app.conversation("ben@acme").await.unwrap());
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    for (text, frame, field, told) in
        [("whispered", "response", "text", "vendor/small-1 heard whispered"), ("fail", "error", "code", "model_failed")]
    {
        socket.message(text, None).await.unwrap();
        let turn: TurnId = serde_json::from_value(socket.until("accepted").await.unwrap()["turn_id"].clone()).unwrap();
        let job = Job::web(ben.tenant.unwrap(), conversation.parse().unwrap(), ben.id, turn).body();
        let answer = function.invoke(&event(vec![record("hint", &job)])).await.unwrap();
        assert_eq!(answer["batchItemFailures"], json!([]));
        assert_eq!(socket.until(frame).await.unwrap()[field], told);
    }
    let said = function.said();
    assert!(said.contains("the provider answered 401"), "{said}");
    // Its figures are lines of their own among those of the log.
    let figures: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let count = |name: &str| figures.iter().filter_map(|line| line[name].as_u64()).sum::<u64>();
    assert_eq!((count("turns_answered"), count("turns_failed")), (1, 1), "{said}");
    assert!(figures.iter().any(|line| line["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "KonstructChat"), "{said}");
    for hidden in [key, "whispered"] {
        assert!(!said.contains(hidden), "{hidden} is in the log, even at its most talkative: {said}");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_function_without_its_settings_says_which_are_missing_and_exits() {
    let folder = binaries().await.unwrap();
    let secret = "a-password-nobody-may-read";
    for (name, needed) in [
        ("conversations", vec!["DATABASE_URL", "REDIS_URL", "QUEUE_URL", "JWT_JWKS_URL"]),
        ("orchestrator", vec!["DATABASE_URL", "REDIS_URL", "QUEUE_URL"]),
    ] {
        let exit = Lambda::start(&folder.join(name), &[]).await.unwrap().exit().await.unwrap();
        assert!(!exit.status.success(), "{name}: {exit:?}");
        for setting in &needed {
            assert!(exit.said.contains(&format!("{setting} is missing")), "{name}: {exit:?}");
        }

        // Malformed is told by name, never by value; and an invocation fails with the same words.
        let half = [
            ("DATABASE_URL", format!("postgres://{secret}")),
            ("TURN_LEASE_MS", secret.to_owned()),
            ("LIMIT_TEXT_CHARS", secret.to_owned()),
            ("MODEL_PROVIDER", secret.to_owned()),
        ];
        let function = Lambda::start(&folder.join(name), &half).await.unwrap();
        let error = format!("{:#}", function.invoke(&json!({})).await.unwrap_err());
        assert!(error.contains("QUEUE_URL is missing") && error.contains("must be a whole number"), "{name}: {error}");
        assert!(!error.contains(secret), "{name}: {error}");
    }
}

/// What a function that knows these says to its first event, and whether that is a failure that may pass.
async fn first_answer(
    name: &str,
    database_url: String,
    more: &[(&'static str, String)],
    token: &str,
) -> (Value, String) {
    let env = [&[("DATABASE_URL", database_url)], more].concat();
    let function = Lambda::start(&binaries().await.unwrap().join(name), &env).await.unwrap();
    let said = match name {
        "conversations" => {
            let bearer = format!("Bearer {token}");
            let path = "/api/portal/chat/conversations";
            let answer = function.http("GET", path, &[("Authorization", &bearer)], None).await.unwrap();
            json!([answer.status, answer.body["code"]])
        }
        _ => {
            let job = Job::web(TenantId::new(), ConversationId::new(), UserId::new(), TurnId::new());
            function.invoke(&event(vec![record("hint", &job.body())])).await.unwrap()
        }
    };
    (said, function.said())
}

#[tokio::test]
async fn a_function_whose_database_is_away_or_lets_it_do_too_much_serves_nobody_and_says_why() {
    let app = App::start().await.unwrap();
    let (secret, token) = ("a-password-nobody-may-read", app.token(app.user("ben@acme")));
    let away = format!("postgres://chat_app:{secret}@127.0.0.1:1/chat");
    for (url, why, status, code) in [
        (away, "DATABASE_URL: ", 503, "unavailable"),
        (app.owner_url.clone(), "could bypass row-level security", 500, "internal"),
    ] {
        for name in ["conversations", "orchestrator"] {
            let more = [
                ("REDIS_URL", app.setting.redis.url(User::of(Path::new(name)).unwrap())),
                ("QUEUE_URL", "http://127.0.0.1:1/0/away".to_owned()),
                ("JWT_SECRET", app.mint.secret().to_owned()),
            ];
            let (answer, said) = first_answer(name, url.clone(), &more, &token).await;
            // A hint comes again, a person is told to come again.
            let expected = match name {
                "conversations" => json!([status, code]),
                _ => json!({"batchItemFailures": [{"itemIdentifier": "hint"}]}),
            };
            assert_eq!(answer, expected, "{name}: {said}");
            assert!(said.contains(why) && !said.contains(secret), "{name}: {said}");
        }
    }
    app.finish().await.unwrap();
}

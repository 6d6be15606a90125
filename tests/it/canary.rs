//! Tokens, secrets and what people say are nowhere but where they belong: canaries, and a look at everything.
//!
//! The real binaries, logging at their most talkative; the queue's bodies as they were sent; every key and every
//! publication of Redis; every column of every table.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex},
};

use aws_sdk_sqs::Client;
use chat_core::ids::RequestId;
use conversations::{BASE, ROUTES};
use harness::{
    app::{App, until},
    clients::{Answer, Heard, Socket},
    events::{Events, Opened},
    hub_process::{HubProcess, environment},
    lambda::{Lambda, binaries},
    mint::Mint,
    product::{QueueKind, Setting, SqsAddress, sqs_client},
    pump::{create_queue, event, record},
    services::User,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::{queue::endpoint, turns::silent};

/// The parts of the product as they are deployed, and everything that leaves them.
struct Deployed {
    app: App,
    hub: HubProcess,
    rest: Lambda,
    orchestrator: Lambda,
    dead_letters: Lambda,
    queue: (Client, SqsAddress),
    /// Every body that was in the queue.
    bodies: Vec<String>,
    /// What callers were told: answers, frames, reasons of closes.
    told: Vec<String>,
    /// Every command that Redis got.
    redis: Arc<Mutex<Vec<String>>>,
}

/// A word that occurs nowhere else.
fn canary(of: &str) -> String {
    format!("canary-{of}-{}", RequestId::new().to_string().replace('-', ""))
}

impl Deployed {
    async fn start(name: &str, password: &str) -> Self {
        // Nobody sweeps and nobody pumps in this process: what is done, the real binaries do.
        let app = App::with(|setting| setting.queue = silent()).await.unwrap();
        let address = create_queue(&endpoint().await, name).await.unwrap();
        let redis = monitored(&app.setting.redis.url(User::Harness)).await;
        let url = app.setting.database_url.replace("chat_app@", &format!("chat_app:{password}@"));
        assert!(url.contains(password), "the password is in {url}");
        let setting = Setting { queue: QueueKind::Sqs(address.clone()), database_url: url, ..app.setting.clone() };
        let mut env = environment(&setting).unwrap();
        env.push(("RUST_LOG", "trace".to_owned()));
        let folder = binaries().await.unwrap();
        let function = async |name: &str| Lambda::start(&folder.join(name), &env).await.unwrap();
        let hub = HubProcess::start(&folder.join("hub"), &env).await.unwrap();
        let (rest, orchestrator, dead_letters) =
            (function("conversations").await, function("orchestrator").await, function("dead_letters").await);
        let queue = (sqs_client(&address.endpoint), address);
        Self { app, hub, rest, orchestrator, dead_letters, queue, bodies: Vec::new(), told: Vec::new(), redis }
    }

    /// REST, through the deployed function.
    async fn call(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
        let answer = self.rest.http(method, path, headers, body).await.unwrap();
        self.told.push(format!("{} {:?} {}", answer.status, answer.headers, answer.body));
        answer
    }

    /// Lets the deployed orchestrator have what is in the queue.
    async fn deliver(&mut self) {
        let (client, address) = &self.queue;
        loop {
            let received = client.receive_message().queue_url(&address.queue_url).max_number_of_messages(10);
            let messages = received.wait_time_seconds(1).send().await.unwrap().messages.unwrap_or_default();
            if messages.is_empty() {
                return;
            }
            let mut records = Vec::new();
            for message in &messages {
                let body = message.body().unwrap();
                self.bodies.push(body.to_owned());
                records.push(record(message.message_id().unwrap(), body));
                let delete = client.delete_message().queue_url(&address.queue_url);
                delete.receipt_handle(message.receipt_handle().unwrap()).send().await.unwrap();
            }
            self.orchestrator.invoke(&event(records)).await.unwrap();
        }
    }

    /// A socket that says these things, each after the one before was answered or let pass, and keeps what it is told.
    async fn socket(&mut self, path: &str, headers: &[(&'static str, &str)], frames: &[Message]) {
        let mut request = format!("{}{path}", self.hub.ws()).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let Ok(mut socket) = Socket::with(request).await else { return };
        for frame in frames {
            if socket.raw(frame.clone()).await.is_err() {
                break;
            }
        }
        // Refused behind everything else, with its id.
        let last = RequestId::new().to_string();
        let end = socket.message("", Some(&last)).await;
        while end.is_ok() {
            match socket.hear().await {
                Heard::Frame(frame) => {
                    let over = frame.contains(&last);
                    self.told.push(frame);
                    if over {
                        return;
                    }
                }
                Heard::Close(code) => return self.told.push(format!("{code:?}")),
            }
        }
    }

    /// A stream that is asked for in this way; keeps the first of what it tells.
    async fn stream(&mut self, path: &str, token: Option<&str>, headers: &[(&str, &str)]) {
        let base = format!("http://{}", self.hub.address());
        let told = match Events::ask(&base, path, token, headers).await {
            Ok(Opened::Stream(mut events)) => format!("{:?}", events.next().await),
            Ok(Opened::Refused(answer)) => format!("{} {:?} {}", answer.status, answer.headers, answer.body),
            Err(_) => return,
        };
        self.told.push(told);
    }

    /// What the deployed parts wrote.
    fn logs(&self) -> Vec<(&'static str, String)> {
        vec![
            ("hub", self.hub.said()),
            ("conversations", self.rest.said()),
            ("orchestrator", self.orchestrator.said()),
            ("dead_letters", self.dead_letters.said()),
        ]
    }

    /// Everything that left the processes, by where it is.
    async fn everywhere(&self, word: &str) -> BTreeSet<String> {
        let mut places = BTreeSet::new();
        let mut look = |place: String, text: &str| {
            if text.contains(word) {
                places.insert(place);
            }
        };
        for (name, said) in self.logs() {
            look(format!("log of {name}"), &said);
        }
        self.told.iter().for_each(|told| look("told".to_owned(), told));
        self.bodies.iter().for_each(|body| look("queue".to_owned(), body));
        for command in self.redis.lock().unwrap().iter() {
            let name = command.split('"').nth(1).unwrap_or_default().to_lowercase();
            look(format!("redis command {name}"), command);
        }
        for (key, value) in kept(&self.app.setting.redis.url(User::Harness)).await {
            look(format!("redis key {key}"), &value);
        }
        for table in self.tables_with(word).await {
            places.insert(format!("table {table}"));
        }
        places
    }

    /// The columns in which a word stands, of all tables; in bytes, too.
    async fn tables_with(&self, word: &str) -> Vec<String> {
        let owner = self.app.owner().await.unwrap();
        let columns = "select table_name::text, column_name::text from information_schema.columns c
            join information_schema.tables t using (table_schema, table_name)
            where table_schema not in ('pg_catalog', 'information_schema') and table_type = 'BASE TABLE'";
        let columns = owner.query(columns, &[]).await.unwrap();
        assert!(columns.len() > 60, "the tables are looked at");
        let hex = word.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut found = Vec::new();
        for row in columns {
            let (table, column): (&str, &str) = (row.get(0), row.get(1));
            let sql = format!(
                r#"select exists (select from "{table}" where strpos("{column}"::text, $1) > 0 or strpos("{column}"::text, $2) > 0)"#
            );
            if owner.query_one(&sql, &[&word, &hex]).await.unwrap().get(0) {
                found.push(format!("{table}.{column}"));
            }
        }
        found
    }
}

/// Every command that Redis gets from now on.
async fn monitored(url: &str) -> Arc<Mutex<Vec<String>>> {
    let (who, address) = url.strip_prefix("redis://").and_then(|rest| rest.split_once('@')).unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("AUTH {}\r\nMONITOR\r\n", who.replace(':', " ")).as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("+OK"));
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("+OK"));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            hears.lock().unwrap().push(line);
        }
    });
    heard
}

/// Every key of Redis, with all that is kept under it.
async fn kept(url: &str) -> Vec<(String, String)> {
    let mut redis = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await.unwrap();
    let mut all = Vec::new();
    for key in keys {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut redis).await.unwrap();
        let (command, more): (&str, &[&str]) = match kind.as_str() {
            "string" => ("GET", &[]),
            "list" => ("LRANGE", &["0", "-1"]),
            "hash" => ("HGETALL", &[]),
            "set" => ("SMEMBERS", &[]),
            "zset" => ("ZRANGE", &["0", "-1"]),
            // It expired meanwhile.
            "none" => continue,
            other => panic!("nobody looks into a {other}"),
        };
        let value: redis::Value = redis::cmd(command).arg(&key).arg(more).query_async(&mut redis).await.unwrap();
        all.push((key.clone(), format!("{key} {}", words(&value))));
    }
    all
}

#[expect(clippy::wildcard_enum_match_arm, reason = "numbers and such hold no words")]
fn words(value: &redis::Value) -> String {
    match value {
        redis::Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        redis::Value::Array(values) | redis::Value::Set(values) => {
            values.iter().map(words).collect::<Vec<_>>().join("\n")
        }
        redis::Value::Map(pairs) => {
            pairs.iter().map(|(name, value)| format!("{}={}", words(name), words(value))).collect::<Vec<_>>().join("\n")
        }
        other => format!("{other:?}"),
    }
}

fn frame(value: &Value) -> Message {
    Message::text(value.to_string())
}

/// Every way in which somebody's token gets where it does not belong, through every route.
async fn through_every_route(it: &mut Deployed, good: &str, token: &str, conversation: &str, turn: &str) {
    let bearer = format!("Bearer {good}");
    let with = format!("Bearer {token}");
    for route in ROUTES {
        for method in route.methods {
            let path =
                format!("{BASE}{}", route.path.replace("{conversation_id}", conversation).replace("{turn_id}", turn));
            let lost = format!("{BASE}{}", route.path.replace("{conversation_id}", token).replace("{turn_id}", token));
            let own = [("Authorization", bearer.as_str()), ("Idempotency-Key", turn)];
            let misplaced =
                [("Authorization", bearer.as_str()), ("Idempotency-Key", token), ("X-Token", token), ("Cookie", token)];
            let theirs = [("Authorization", with.as_str()), ("Idempotency-Key", turn)];
            it.call(method, &path, &theirs, None).await;
            it.call(method, &path, &[("Authorization", token)], None).await;
            it.call(method, &path, &misplaced, Some(&json!({"text": "hi"}))).await;
            it.call(method, &lost, &own, None).await;
            it.call(method, &format!("{BASE}/{token}"), &own, None).await;
            for name in ["token", "limit", "before", "after", "tenant_id", "status", token] {
                it.call(method, &format!("{path}?{name}={token}"), &own, None).await;
            }
            let mut bodies = vec![json!(token), json!([token]), json!({ token: 1 }), json!({"token": token})];
            for field in ["tenant_id", "agent_id", "text", "errors"] {
                bodies.extend([json!({ field: [token] }), json!({ field: {token: token} })]);
            }
            bodies.extend([json!({"tenant_id": token, "agent_id": token}), json!({"text": format!("{token}\0")})]);
            for body in bodies {
                it.call(method, &path, &own, Some(&body)).await;
            }
        }
    }
}

/// The same on the socket: every frame, and what is none.
async fn through_every_frame(it: &mut Deployed, good: &str, token: &str, conversation: &str) {
    let path = format!("/chat/ws/{conversation}");
    let auth = |token: &Value| frame(&json!({"type": "auth", "token": token}));
    it.socket(&path, &[], &[auth(&json!(token))]).await;
    it.socket(&path, &[], &[auth(&json!([token]))]).await;
    it.socket(&path, &[], &[Message::text(token)]).await;
    it.socket(&path, &[], &[Message::binary(token.as_bytes().to_vec())]).await;
    it.socket(&path, &[], &[frame(&json!({"type": token}))]).await;
    it.socket(&format!("/chat/ws/{token}"), &[], &[auth(&json!(good))]).await;
    it.socket(
        &format!("{path}?token={token}"),
        &[("authorization", token), ("sec-websocket-protocol", token), ("cookie", token)],
        &[auth(&json!(good))],
    )
    .await;
    it.socket(&path, &[("origin", token)], &[]).await;
    it.stream(conversation, Some(token), &[]).await;
    it.stream(token, Some(good), &[]).await;
    it.stream(&format!("{conversation}?token={token}"), Some(good), &[("cookie", token)]).await;
    it.stream(conversation, Some(good), &[("last-event-id", token)]).await;
    it.stream(conversation, Some(good), &[("origin", token)]).await;
    for field in ["userId", "role", "tenantId", "last_seq", "epoch"] {
        it.socket(&path, &[], &[frame(&json!({"type": "auth", "token": good, field: token}))]).await;
    }
    let misplaced = [
        Message::text(format!(r#"{{"type":"message","text":{token}"#)),
        frame(&json!({"type": token})),
        frame(&json!({ token: token })),
        frame(&json!({"type": "message", "text": [token], "token": token})),
        frame(&json!({"type": "message", "text": format!("{token}\u{0}"), "token": token})),
        frame(&json!({"type": "message", "text": "hi", "client_message_id": token})),
        frame(&json!({"type": "stop", "turn_id": token})),
        frame(&json!({"type": "stop", "turn_id": RequestId::new(), "token": token})),
    ];
    let mut all = vec![auth(&json!(good))];
    all.extend(misplaced);
    it.socket(&path, &[], &all).await;
    it.socket(&path, &[], &[auth(&json!(good)), auth(&json!(token)), auth(&json!({ token: 1 }))]).await;
}

#[tokio::test]
async fn a_token_is_nowhere_whatever_is_done_with_it() {
    let password = canary("password");
    let mut it = Deployed::start("canary-token", &password).await;
    let ben = it.app.user("ben@acme").clone();
    let conversation = it.app.conversation("ben@acme").await.unwrap();
    let good = it.app.token(&ben);
    let forged = Mint::new().sign(&json!({"sub": ben.id, "exp": 4_000_000_000_u64, "jti": canary("forged")}));
    let broken = canary("broken");
    let turn = RequestId::new().to_string();

    let bearer = format!("Bearer {good}");
    let well = [("Authorization", bearer.as_str()), ("Idempotency-Key", turn.as_str())];
    let messages = format!("{BASE}/conversations/{conversation}/messages");
    assert_eq!(it.call("POST", &messages, &well, Some(&json!({"text": "well said"}))).await.status, 202);
    it.deliver().await;
    for token in [good.as_str(), &forged, &broken] {
        through_every_route(&mut it, &good, token, &conversation, &turn).await;
        through_every_frame(&mut it, &good, token, &conversation).await;
        for body in [
            format!(r#"{{"bot_token":"{token}"}}"#),
            format!(
                r#"{{"id":"1","channel":"slack","bot_token":"{token}","sender":{{"user_id":"u"}},"content":{{"text":""}}}}"#
            ),
            format!(r#"{{"id":"1","channel":"{token}"}}"#),
        ] {
            let records = event(vec![record("r", &body)]);
            it.orchestrator.invoke(&records).await.unwrap();
        }
    }
    it.deliver().await;
    assert!(it.told.len() > 500, "{} answers and frames were looked at", it.told.len());
    assert!(it.told.iter().any(|told| told.contains("ready")) && it.told.iter().any(|told| told.starts_with("401")));
    assert!(!it.redis.lock().unwrap().is_empty() && !it.bodies.is_empty(), "work went through both pipes");

    let mut secrets = vec![broken, password, it.app.mint.secret().to_owned()];
    for token in [&good, &forged] {
        secrets.extend(token.split('.').skip(1).map(str::to_owned));
    }
    for secret in &secrets {
        assert_eq!(it.everywhere(secret).await, BTreeSet::new(), "{secret}");
    }
    for (name, said) in it.logs() {
        each_line_is_an_object(name, &said);
        assert!(
            ["orchestrator", "dead_letters"].contains(&name) || said.contains(r#""level":"DEBUG""#),
            "{name} was at its most talkative: {said}"
        );
    }
    it.app.finish().await.unwrap();
}

fn each_line_is_an_object(name: &str, said: &str) {
    // The hub's oldest line may be cut where only the newest are kept.
    for line in said.lines().filter(|line| !line.is_empty()).skip(usize::from(said.len() >= 250 * 1024)) {
        let read: Result<serde_json::Map<String, Value>, _> = serde_json::from_str(line);
        assert!(read.is_ok(), "{name} wrote no JSON: {line}");
    }
}

#[tokio::test]
async fn a_text_is_only_in_its_tables_its_conversation_and_its_memory() {
    let mut it = Deployed::start("canary-text", &canary("password")).await;
    let ben = it.app.user("ben@acme").clone();
    let conversation = it.app.conversation("ben@acme").await.unwrap();
    let (token, said) = (it.app.token(&ben), canary("said"));
    let bearer = format!("Bearer {token}");
    let messages = format!("{BASE}/conversations/{conversation}/messages");

    // Said well, on both edges, and answered; the answer repeats it.
    let (first, second) = (RequestId::new().to_string(), RequestId::new().to_string());
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", first.as_str())];
    assert_eq!(it.call("POST", &messages, &headers, Some(&json!({"text": said}))).await.status, 202);
    it.call("POST", &messages, &headers, Some(&json!({"text": format!("{said}, but another")}))).await;
    it.deliver().await;
    let auth = frame(&json!({"type": "auth", "token": token}));
    let message = |text: &str| frame(&json!({"type": "message", "text": text, "client_message_id": second}));
    it.socket(
        &format!("/chat/ws/{conversation}"),
        &[],
        &[auth.clone(), message(&said), message(&said), message(&format!("{said} again"))],
    )
    .await;
    it.deliver().await;
    let owner = it.app.owner().await.unwrap();
    let answered =
        "select count(*) from web_conversation_messages where role = 'assistant' and strpos(content, $1) > 0";
    until("both answers", || async { Ok(owner.query_one(answered, &[&said]).await?.get::<_, i64>(0) == 2) })
        .await
        .unwrap();
    it.call("GET", &messages, &headers[..1], None).await;

    // Said where it is refused, and where nobody can read or answer it.
    let canaries = it.told.len();
    for wrong in [
        json!(said),
        json!([said]),
        json!({ said.as_str(): said }),
        json!({"text": {said.as_str(): said}}),
        json!({"text": format!("{said}\0")}),
        json!({"text": said.repeat(1_000)}),
    ] {
        it.call("POST", &messages, &headers, Some(&wrong)).await;
    }
    let long = said.repeat(1_000);
    it.socket(
        &format!("/chat/ws/{conversation}"),
        &[],
        &[
            auth,
            message(&format!("{said}\u{1}")),
            message(&long),
            Message::text(said.as_str()),
            frame(&json!({"type": said, "text": said})),
        ],
    )
    .await;
    assert!(it.told[canaries..].iter().all(|told| !told.contains(&said)), "a refusal repeats nothing");
    let tenant = ben.tenant.unwrap();
    for body in [
        said.clone(),
        json!({ said.as_str(): said }).to_string(),
        json!({"id": "1", "channel": said}).to_string(),
        json!({"id": "1", "channel": "slack", "tenant_id": tenant, "sender": {"user_id": said}, "content": said, "timestamp": said}).to_string(),
        json!({"id": "1", "channel": "slack", "tenant_id": tenant, "sender": {"user_id": "U"}, "content": {"text": said},
            "timestamp": "2026-11-22T14:51:40.123Z", "channel_id": "C", "channel_metadata": {"team_id": "T"}}).to_string(),
        json!({"id": "1", "channel": "web", "tenant_id": tenant, "sender": {"user_id": "U"}, "content": {"text": said},
            "timestamp": "2026-11-22T14:51:40.123Z", "conversation_id": RequestId::new(), "context": {"said": said}}).to_string(),
    ] {
        it.orchestrator.invoke(&event(vec![record("r", &body)])).await.unwrap();
        it.dead_letters.invoke(&event(vec![record("r", &body)])).await.unwrap();
    }

    let places = it.everywhere(&said).await;
    let memory = format!("{tenant}:memory:short:");
    for place in &places {
        let known = [
            "told",
            "table web_conversation_messages.content",
            "table web_conversations.title",
            "table dead_letters.body",
        ];
        let of_redis = place.starts_with("redis command ") || place.starts_with(&format!("redis key {memory}"));
        assert!(known.contains(&place.as_str()) || of_redis, "{place}; of {places:?}");
    }
    assert!(places.contains("table web_conversation_messages.content"), "it was said");
    let own = [memory, format!("{tenant}:webchat:partial:"), format!("{tenant}:webchat:response:{conversation}")];
    for command in it.redis.lock().unwrap().iter().filter(|command| command.contains(&said)) {
        assert!(
            own.iter().any(|name| command.contains(name.as_str())),
            "told in its own conversation alone: {command}"
        );
    }
    for (name, log) in it.logs() {
        each_line_is_an_object(name, &log);
    }
    it.app.finish().await.unwrap();
}

/// The settings of a start that would succeed, and a value for each that must not, with a canary in it where one may stand.
fn wrong_settings(canary: &str) -> Vec<(&'static str, Vec<String>)> {
    vec![
        (
            "DATABASE_URL",
            vec![
                String::new(),
                canary.to_owned(),
                format!("postgres://{canary}"),
                format!("postgres://chat_app:{canary}@127.0.0.1:1/chat"),
                "postgres://chat_app:changeme@127.0.0.1:1/chat".to_owned(),
            ],
        ),
        (
            "REDIS_URL",
            vec![
                String::new(),
                canary.to_owned(),
                format!("redis://:{canary}@127.0.0.1:x"),
                "redis://:password@127.0.0.1:1".to_owned(),
            ],
        ),
        ("RUST_LOG", vec![format!("{canary}=={canary}")]),
        ("TURN_LEASE_MS", vec![canary.to_owned()]),
        ("LIMIT_TEXT_CHARS", vec![canary.to_owned()]),
        (
            "JWT_SECRET",
            vec![
                String::new(),
                canary[..20].to_owned(),
                "your-256-bit-secret-goes-here-please".to_owned(),
                "0".repeat(64),
            ],
        ),
        ("SECRETS_KEY", vec![canary.to_owned(), "00".repeat(32), format!("{canary},{canary}")]),
        ("MODEL_PROVIDER", vec![canary.to_owned()]),
        ("MODEL_API_KEY", vec![format!("{canary}\n"), "<your key>".to_owned(), "your-api-key".to_owned()]),
        (
            "MODEL_PROVIDERS",
            vec![canary.to_owned(), format!(r#"[{{"name":"a","speaks":"openai","api_key":["{canary}"]}}]"#)],
        ),
    ]
}

#[tokio::test]
async fn a_start_that_fails_names_the_setting_and_shows_no_value() {
    let app = App::with(|setting| setting.queue = silent()).await.unwrap();
    let canary = canary("setting");
    let mut good = environment(&app.setting).unwrap();
    good.extend([("MODEL_PROVIDER", "openai".to_owned()), ("MODEL_API_KEY", "sk-4Tz9Q".to_owned())]);
    let folder = binaries().await.unwrap();
    let common = ["DATABASE_URL", "REDIS_URL", "RUST_LOG"];
    let deployables: [(&str, &[&str]); 4] = [
        ("hub", &["JWT_SECRET", "TURN_LEASE_MS", "LIMIT_TEXT_CHARS"]),
        ("conversations", &["JWT_SECRET", "LIMIT_TEXT_CHARS"]),
        (
            "orchestrator",
            &["SECRETS_KEY", "MODEL_PROVIDER", "MODEL_API_KEY", "MODEL_PROVIDERS", "TURN_LEASE_MS", "LIMIT_TEXT_CHARS"],
        ),
        ("dead_letters", &["TURN_LEASE_MS"]),
    ];
    let mut starts = 0;
    for (name, own) in deployables {
        for (setting, values) in
            wrong_settings(&canary).iter().filter(|(setting, _)| common.contains(setting) || own.contains(setting))
        {
            for value in values {
                let mut env = good.clone();
                env.push((setting, value.clone()));
                // A well-formed address is tried, and says nothing of whose it is.
                let reached = value.starts_with("postgres://") && value.contains(canary.as_str());
                let tried = reached && value.ends_with("@127.0.0.1:1/chat");
                let said = if tried && name != "hub" {
                    is_not_connected(&folder.join(name), &env).await
                } else {
                    fails_to_start(&folder.join(name), &env).await
                };
                starts += 1;
                assert!(reached || said.contains(setting), "{name} with {setting}={value}: {said}");
                assert!(!said.contains(&canary) && !said.contains(&canary[..20]), "{name} with {setting}: {said}");
                assert!(value.len() < 12 || !said.contains(value.as_str()), "{name} with {setting}: {said}");
                each_line_is_an_object(name, &said);
            }
        }
    }
    assert!(starts > 50, "{starts}");
    app.finish().await.unwrap();
}

/// Starts a function, which must ask for its first event all the same, and returns what it wrote of its connection.
async fn is_not_connected(program: &Path, env: &[(&str, String)]) -> String {
    let function = Lambda::start(program, env).await.unwrap();
    function.ready().await.unwrap();
    until("it to say so", || async { Ok(function.said().contains("no connection yet")) }).await.unwrap();
    function.said()
}

/// Starts a deployed program, which must end by itself, and returns what it wrote.
async fn fails_to_start(program: &Path, env: &[(&str, String)]) -> String {
    if program.ends_with("hub") {
        let mut command = tokio::process::Command::new(program);
        command
            .arg("serve")
            .env_clear()
            .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
            .env("LISTEN", "127.0.0.1:0");
        let output = command.kill_on_drop(true).output();
        let output = tokio::time::timeout(harness::clients::PATIENCE, output).await.expect("it ends").unwrap();
        assert!(!output.status.success());
        return format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    let exit = Lambda::start(program, env).await.unwrap().exit().await.unwrap();
    assert!(!exit.status.success(), "{exit:?}");
    exit.said
}

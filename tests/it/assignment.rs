//! Nobody sets a column by naming it: whatever columns a body or a frame names beside its own fields, the request is
//! refused, or does what it would have done without them.

use std::collections::BTreeSet;

use chat_core::{ids::ClientMessageId, job::Job};
use harness::{
    app::App,
    clients::Socket,
    pump::{event, record},
};
use serde_json::{Map, Value, json};
use tokio_postgres::Client;

use crate::turns::silent;

/// Every column of every table.
async fn columns(owner: &Client) -> BTreeSet<String> {
    let sql = "select distinct column_name::text from information_schema.columns where table_schema = 'public'";
    let columns: BTreeSet<String> = owner.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(columns.len() > 50, "{columns:?}");
    columns
}

/// What somebody might want to stand there, and values of every wrong type.
fn values(app: &App) -> Vec<Value> {
    let (other, foreign) = (app.user("ada@acme"), app.user("ada@globex"));
    let ids = [json!(other.id), json!(foreign.id), json!(foreign.tenant)];
    let words =
        ["answered", "escalated", "assistant", "platform_admin", "", "2000-01-01T00:00:00Z"].map(|word| json!(word));
    let wrong = [json!(null), json!(true), json!(-1), json!(1_000_000), json!(0.5), json!([1]), json!({"a": 1})];
    [ids.as_slice(), &words, &wrong].concat()
}

/// All rows of a table, without what differs from one request to the next.
async fn rows(owner: &Client, table: &str, without: &[&str]) -> Vec<Value> {
    let sql = format!("select (to_jsonb(t) - $1::text[])::text from {table} t order by 1");
    let without: Vec<String> = without.iter().map(|name| (*name).to_owned()).collect();
    let rows = owner.query(&sql, &[&without]).await.unwrap();
    rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect()
}

/// What one message and the next do not have in common.
const MESSAGE: &[&str] = &["id", "seq", "created_at"];
const TURN: &[&str] =
    &["id", "seq", "client_message_id", "created_at", "hinted_at", "claimed_at", "lease_until", "deadline", "ended_at"];

#[tokio::test]
async fn a_column_in_a_body_is_refused_by_its_name() {
    let app = App::with(|setting| setting.queue = silent()).await.unwrap();
    let owner = app.owner().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let (rest, agent) = (app.rest("ben@acme"), app.agent_of(app.user("ben@acme")));
    let own = [
        ("/conversations".to_owned(), json!({"tenant_id": agent.tenant, "agent_id": agent.id})),
        (format!("/conversations/{conversation}/messages"), json!({"text": "hi"})),
    ];
    let tables = [
        "web_conversations",
        "web_conversation_messages",
        "turns",
        "portal_users",
        "user_tenant_roles",
        "tenants",
        "agents",
    ];
    let state = async || {
        let mut state = Vec::new();
        for table in tables {
            state.push(rows(&owner, table, &[]).await);
        }
        state
    };
    let before = state().await;
    let mut refused = 0;
    for (path, good) in &own {
        for column in columns(&owner).await.iter().filter(|column| good.get(column.as_str()).is_none()) {
            for value in values(&app) {
                let mut body = good.clone();
                body[column] = value;
                let key = ClientMessageId::new().to_string();
                let answer = rest
                    .with(|http, base| http.post(format!("{base}{path}")).header("Idempotency-Key", key).json(&body));
                let answer = answer.await.unwrap();
                assert_eq!(
                    (answer.status, &answer.body["errors"][0]["field"]),
                    (400, &json!(column)),
                    "{path} {body}: {}",
                    answer.body
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 1_000, "{refused}");
    // A route without a body does not look at one.
    let all: Map<String, Value> =
        columns(&owner).await.into_iter().map(|column| (column, json!(app.user("ada@acme").id))).collect();
    for path in ["takeover", "handback"] {
        let answer =
            rest.post(&format!("/conversations/{conversation}/{path}"), &Value::Object(all.clone())).await.unwrap();
        assert!((400..500).contains(&answer.status), "{path}: {}", answer.status);
    }
    assert_eq!(
        rest.with(|http, base| http.get(format!("{base}/conversations/{conversation}")).json(&all))
            .await
            .unwrap()
            .status,
        200
    );
    assert_eq!(state().await, before, "nothing has changed");
    app.finish().await.unwrap();
}

/// A frame with every column beside its own fields, each with this value.
fn laden(frame: &Value, own: &[&str], columns: &BTreeSet<String>, value: &Value) -> Value {
    let mut frame = frame.clone();
    for column in columns.iter().filter(|column| !own.contains(&column.as_str())) {
        frame[column] = value.clone();
    }
    frame
}

#[tokio::test]
async fn a_column_in_a_frame_changes_nothing() {
    let app = App::with(|setting| setting.queue = silent()).await.unwrap();
    let owner = app.owner().await.unwrap();
    let columns = columns(&owner).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let token = app.token(app.user("ben@acme"));
    let auth = json!({"type": "auth", "token": token});
    // What the original's frame says of its sender is compared, and has a test of its own.
    let of_auth = ["type", "token", "userId", "role", "tenantId", "last_seq", "epoch"];
    let of_message = ["type", "text", "client_message_id"];
    let values = values(&app);
    let mut socket = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
    socket.say(&laden(&auth, &of_auth, &columns, &values[0])).await.unwrap();
    let ready = socket.expect("ready").await.unwrap();
    for value in &values {
        socket.say(&laden(&auth, &of_auth, &columns, value)).await.unwrap();
        assert_eq!(socket.expect("ready").await.unwrap(), ready);
    }

    let accepted = async |socket: &mut Socket, frame: &Value| {
        socket.say(frame).await.unwrap();
        socket.until("accepted").await.unwrap()
    };
    let message = json!({"type": "message", "text": "hi"});
    let plain = accepted(&mut socket, &message).await;
    let mut sent = 1;
    for value in &values {
        accepted(&mut socket, &laden(&message, &of_message, &columns, value)).await;
        sent += 1;
    }
    for column in columns.iter().filter(|column| !of_message.contains(&column.as_str())) {
        let mut frame = message.clone();
        frame[column] = values[1].clone();
        let next = accepted(&mut socket, &frame).await;
        sent += 1;
        assert_eq!(next["seq"], plain["seq"].as_i64().unwrap() + sent - 1, "{column}");
    }
    for (table, without) in [("web_conversation_messages", MESSAGE), ("turns", TURN)] {
        let rows = rows(&owner, table, without).await;
        assert_eq!(rows.len(), usize::try_from(sent).unwrap());
        let different: Vec<_> = rows.iter().filter(|row| **row != rows[0]).collect();
        assert!(different.is_empty(), "{table}: {different:?} and {}", rows[0]);
    }
    owner.execute("update turns set state = 'stopped', ended_at = now()", &[]).await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_column_in_a_queues_body_changes_nothing() {
    let app = App::with(|setting| setting.queue = silent()).await.unwrap();
    let owner = app.owner().await.unwrap();
    let columns = columns(&owner).await;
    let ben = app.user("ben@acme");
    let conversation = app.conversation("ben@acme").await.unwrap();
    let of_body = [
        "id",
        "tenant_id",
        "channel",
        "channel_metadata",
        "sender",
        "content",
        "timestamp",
        "thread_id",
        "reply_to",
        "context",
        "conversation_id",
        "portal_user_id",
        "placeholder_ts",
        "channel_id",
        "phone_number_id",
    ];
    let mut bodies = 0;
    for value in [vec![None], values(&app).into_iter().map(Some).collect()].concat() {
        let key = ClientMessageId::new().to_string();
        let sent = app.rest("ben@acme").say(&conversation, &key, "hi").await.unwrap();
        let turn = serde_json::from_value(sent.body["turn_id"].clone()).unwrap();
        let job = Job::web(ben.tenant.unwrap(), conversation.parse().unwrap(), ben.id, turn).body();
        let mut body: Value = serde_json::from_str(&job).unwrap();
        if let Some(value) = &value {
            body = laden(&body, &of_body, &columns, value);
            body["context"] = laden(&json!({}), &[], &columns, value);
            body["channel_metadata"] = laden(&body["channel_metadata"], &of_body, &columns, value);
            body["sender"] = laden(&body["sender"], &["user_id", "display_name"], &columns, value);
        }
        let failed = app.product.orchestrator.handle(event(vec![record("r", &body.to_string())])).await;
        assert!(failed.batch_item_failures.is_empty(), "{value:?}");
        bodies += 1;
    }
    for (table, without, each) in
        [("web_conversation_messages", [MESSAGE, &["reply_to"]].concat(), 2), ("turns", TURN.to_vec(), 1)]
    {
        let rows = rows(&owner, table, &without).await;
        assert_eq!(rows.len(), bodies * each, "{table}");
        let kinds: BTreeSet<String> = rows.iter().map(ToString::to_string).collect();
        assert_eq!(kinds.len(), each, "{table}: {kinds:?}");
    }
    app.finish().await.unwrap();
}

//! The original product's own cases, under their own names, over real components.

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use chat_core::{
    ids::{AgentId, ConversationId, MessageId, TenantId, UserId},
    keys::{escalation_status_key, memory_short_key, webchat_response_key},
    message::{ChannelType, KonstructMessage, WebEvent, normalize_web_event},
    timestamp::Timestamp,
};
use harness::{
    app::{App, until},
    pump::{event, record},
    services::{Options, Services, User},
};
use serde_json::{Value, json};

#[test]
fn test_webchat_response_key_format() {
    let (tenant, conversation) = (TenantId::new(), ConversationId::new());
    let key = webchat_response_key(tenant, conversation);
    assert_eq!(key.as_str(), format!("{tenant}:webchat:response:{conversation}"));
    let (agent, user) = (AgentId::new(), UserId::new());
    assert_eq!(memory_short_key(tenant, agent, user).as_str(), format!("{tenant}:memory:short:{agent}:{user}"));
    assert_eq!(escalation_status_key(tenant, "1700.01").as_str(), format!("{tenant}:escalation:status:1700.01"));
}

#[test]
fn test_webchat_response_key_isolation() {
    let conversation = ConversationId::new();
    let (ours, theirs) = (TenantId::new(), TenantId::new());
    assert_ne!(webchat_response_key(ours, conversation), webchat_response_key(theirs, conversation));
    assert_ne!(webchat_response_key(ours, conversation), webchat_response_key(ours, ConversationId::new()));
}

#[test]
fn test_channel_type_web_exists() {
    assert_eq!("web".parse(), Ok(ChannelType::Web));
    let names: Vec<&str> = ChannelType::ALL.iter().map(|channel| channel.as_str()).collect();
    assert_eq!(names, ["slack", "whatsapp", "mattermost", "rocketchat", "teams", "telegram", "signal", "web"]);
    assert_eq!(serde_json::to_value(ChannelType::RocketChat).unwrap(), "rocketchat");
}

fn web_event() -> WebEvent {
    WebEvent {
        message_id: MessageId::new(),
        tenant_id: TenantId::new(),
        conversation_id: ConversationId::new(),
        portal_user_id: UserId::new(),
        display_name: Some("Ben".to_owned()),
        text: "Hello".to_owned(),
        timestamp: Timestamp::now(),
    }
}

#[test]
fn test_normalize_web_event_returns_konstruct_message() {
    let event = web_event();
    let message: KonstructMessage = normalize_web_event(event.clone());
    assert_eq!((message.id, message.tenant_id), (event.message_id.to_string(), Some(event.tenant_id)));
    assert_eq!((message.content.text.as_str(), message.content.attachments.len()), ("Hello", 0));
}

#[test]
fn test_normalize_web_event_channel_is_web() {
    assert_eq!(normalize_web_event(web_event()).channel, ChannelType::Web);
}

#[test]
fn test_normalize_web_event_thread_id_is_conversation_id() {
    let event = web_event();
    assert_eq!(normalize_web_event(event.clone()).thread_id, Some(event.conversation_id.to_string()));
}

#[test]
fn test_normalize_web_event_sender_is_portal_user() {
    let event = web_event();
    let sender = normalize_web_event(event.clone()).sender;
    assert_eq!((sender.user_id, sender.display_name), (event.portal_user_id.to_string(), event.display_name));
}

#[test]
fn test_normalize_web_event_channel_metadata() {
    let event = web_event();
    let expected = json!({
        "portal_user_id": event.portal_user_id,
        "tenant_id": event.tenant_id,
        "conversation_id": event.conversation_id,
    });
    assert_eq!(Value::Object(normalize_web_event(event).channel_metadata), expected);
}

#[tokio::test]
async fn test_send_response_web_publishes_to_redis() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let tenant = app.user("ben@acme").tenant.unwrap();
    let client = redis::Client::open(app.setting.redis.url(User::Harness)).unwrap();
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    pubsub.subscribe(format!("{tenant}:webchat:response:{conversation}")).await.unwrap();
    app.rest("ben@acme").say(&conversation, &MessageId::new().to_string(), "hi").await.unwrap();

    let mut published = futures::StreamExt::boxed(pubsub.on_message());
    let response = loop {
        let message = tokio::time::timeout(Duration::from_secs(20), futures::StreamExt::next(&mut published));
        let payload: String = message.await.unwrap().unwrap().get_payload().unwrap();
        let frame: Value = serde_json::from_str(&payload).unwrap();
        if frame["type"] == "response" {
            break frame;
        }
    };
    assert_eq!((&response["text"], &response["conversation_id"]), (&json!("Echo: hi"), &json!(conversation)));
    // It was stored first.
    let stored: String = {
        let owner = app.owner().await.unwrap();
        let sql = "select content from web_conversation_messages where id = $1::text::uuid";
        owner.query_one(sql, &[&response["message_id"].as_str().unwrap()]).await.unwrap().get(0)
    };
    assert_eq!(stored, "Echo: hi");
    drop(published);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn test_send_response_web_connection_cleanup() {
    // A Redis of its own, so that every connection in it is ours.
    let own = Services::start(&Options { durable: false, max_connections: 10 }, &|_| {}).await.unwrap();
    let app = App::with(|setting| setting.redis = own.redis.entrance.clone()).await.unwrap();
    let mut redis = redis::Client::open(own.redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let connections = async |redis: &mut redis::aio::MultiplexedConnection| -> usize {
        let list: String = redis::cmd("CLIENT").arg("LIST").query_async(redis).await.unwrap();
        list.lines().count()
    };
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message("warm up", None).await.unwrap();
    socket.until("response").await.unwrap();
    let before = connections(&mut redis).await;
    let mut more = Vec::new();
    for _ in 0..20 {
        more.push(app.socket("ben@acme", &conversation).await.unwrap());
        socket.message("hi", None).await.unwrap();
        socket.until("response").await.unwrap();
    }
    assert_eq!(connections(&mut redis).await, before, "neither sockets nor replies cost connections");
    drop((socket, more));
    let topic = format!("{}:webchat:response:{conversation}", app.user("ben@acme").tenant.unwrap());
    until("nobody to listen", || async {
        let mut redis = redis.clone();
        let counts: Vec<(String, i64)> = redis::cmd("PUBSUB").arg("NUMSUB").arg(&topic).query_async(&mut redis).await?;
        Ok(counts[0].1 == 0)
    })
    .await
    .unwrap();
    assert_eq!(connections(&mut redis).await, before);
    app.finish().await.unwrap();
    own.stop().await.unwrap();
}

/// Collects what is logged on this thread.
#[derive(Clone, Default)]
pub(crate) struct Log(pub(crate) Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn test_send_response_web_missing_conversation_id_logs_warning() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let user = app.user("ben@acme");
    let good = chat_core::job::Job::web(
        user.tenant.unwrap(),
        conversation.parse().unwrap(),
        user.id,
        chat_core::ids::TurnId::new(),
    );
    let mut nowhere = good.clone();
    nowhere.extras.conversation_id = None;
    let mut nobody = good.clone();
    nobody.message.tenant_id = None;

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let records = [("good", &good), ("nowhere", &nowhere), ("nobody", &nobody)];
    let records = records.iter().map(|(id, job)| record(id, &job.body())).chain([record("junk", "{")]).collect();
    let answer = app.product.orchestrator.handle(event(records)).await;
    drop(guard);

    let failed: Vec<&str> = answer.batch_item_failures.iter().map(|f| f.item_identifier.as_str()).collect();
    assert_eq!(failed, ["nowhere", "nobody", "junk"], "each fails alone");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for lacks in ["conversation_id", "tenant_id"] {
        let warned = log.lines().any(|line| line.contains("WARN") && line.contains(&format!("lacks=\"{lacks}\"")));
        assert!(warned, "no warning for {lacks} in:\n{log}");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn test_chat_rbac_enforcement() {
    let app = App::start().await.unwrap();
    let (acme, globex) = (app.demo.tenants[0].id, app.demo.tenants[1].id);
    // caller, tenant asked for, status
    for (who, tenant, status) in [
        ("ada@acme", acme, 200),
        ("ben@acme", acme, 200),
        ("ada@acme", globex, 403),
        ("ben@acme", globex, 403),
        ("ada@globex", acme, 403),
        ("ben@acme", TenantId::new(), 403),
        ("root", acme, 200),
        ("root", globex, 200),
    ] {
        let answer = app.rest(who).get(&format!("/conversations?tenant_id={tenant}")).await.unwrap();
        assert_eq!(answer.status, status, "{who} asks for {tenant}: {}", answer.body);
    }
    let nobody = harness::clients::Rest::new(&app.product.rest(), None);
    assert_eq!(nobody.get(&format!("/conversations?tenant_id={acme}")).await.unwrap().status, 401);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn test_platform_admin_cross_tenant() {
    let app = App::start().await.unwrap();
    let conversations = [app.conversation("ben@acme").await.unwrap(), app.conversation("ben@globex").await.unwrap()];
    let root = app.rest("root");
    let all = root.get("/conversations").await.unwrap();
    assert_eq!(all.body.as_array().unwrap().len(), 2);
    assert_eq!(app.rest("ben@acme").get("/conversations").await.unwrap().status, 400, "others must name a tenant");
    for (conversation, tenant) in conversations.iter().zip(&app.demo.tenants) {
        let listed = root.get(&format!("/conversations?tenant_id={}", tenant.id)).await.unwrap();
        assert_eq!(listed.body[0]["id"], conversation.as_str());
        assert_eq!(root.get(&format!("/conversations/{conversation}")).await.unwrap().status, 200);
        assert_eq!(root.get(&format!("/conversations/{conversation}/messages")).await.unwrap().status, 200);
    }
    // Each look left one row: the list of all, and per tenant a list and two reads.
    let owner = app.owner().await.unwrap();
    let audit = "select action, count(*), count(distinct tenant_id) from audit_events where actor_id = $1 group by 1 order by 1";
    let rows = owner.query(audit, &[&app.user("root").id]).await.unwrap();
    let counts: Vec<(String, i64, i64)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let expected = [("conversation.read", 4, 2), ("conversations.list", 3, 2)];
    assert_eq!(counts, expected.map(|(action, rows, tenants)| (action.to_owned(), rows, tenants)));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn test_list_conversation_history() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    for text in ["one", "two"] {
        socket.message(text, None).await.unwrap();
        socket.until("response").await.unwrap();
    }
    let page = app.rest("ben@acme").get(&format!("/conversations/{conversation}/messages")).await.unwrap();
    let said: Vec<_> = page.body.as_array().unwrap().iter().map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!(said, ["one", "Echo: one", "two", "Echo: two"], "ascending");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn test_create_conversation() {
    let app = App::start().await.unwrap();
    let agent = app.agent_of(app.user("ben@acme"));
    let body = json!({"tenant_id": agent.tenant, "agent_id": agent.id});
    let rest = app.rest("ben@acme");
    let new = rest.post("/conversations", &body).await.unwrap();
    assert_eq!((new.status, &new.body["agent_name"]), (201, &json!(agent.name)));
    assert_eq!(
        (&new.body["status"], &new.body["epoch"], &new.body["last_seq"]),
        (&json!("agent"), &json!(0), &json!(0))
    );
    assert_eq!(new.body["last_message_preview"], Value::Null);
    let again = rest.post("/conversations", &body).await.unwrap();
    assert_eq!((again.status, &again.body), (200, &new.body), "the one that stands");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn test_create_conversation_rbac_forbidden() {
    let app = App::start().await.unwrap();
    let theirs = app.agent_of(app.user("ben@globex"));
    let body = json!({"tenant_id": theirs.tenant, "agent_id": theirs.id});
    assert_eq!(app.rest("ben@acme").post("/conversations", &body).await.unwrap().status, 403);
    let body = json!({"tenant_id": app.demo.tenants[0].id, "agent_id": theirs.id});
    assert_eq!(app.rest("ben@acme").post("/conversations", &body).await.unwrap().status, 404, "an agent of others");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn test_delete_conversation_resets_messages() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message("before", None).await.unwrap();
    socket.until("response").await.unwrap();
    let (rest, path) = (app.rest("ben@acme"), format!("/conversations/{conversation}"));
    let before = rest.get(&path).await.unwrap().body;

    assert_eq!(rest.delete(&path).await.unwrap().status, 204);
    assert_eq!(socket.until("reset").await.unwrap()["epoch"], 1);
    assert_eq!(rest.get(&format!("{path}/messages")).await.unwrap().body, json!([]));
    let after = rest.get(&path).await.unwrap().body;
    assert_eq!((&after["id"], &after["epoch"], &after["last_seq"]), (&before["id"], &json!(1), &json!(2)));
    assert!(after["updated_at"].as_str() > before["updated_at"].as_str());

    socket.message("after", None).await.unwrap();
    assert_eq!(socket.until("accepted").await.unwrap()["seq"], 3, "seq goes on");
    socket.until("response").await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn test_typing_indicator_sent_before_dispatch() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    // Nothing can be written while somebody else holds the conversation's row.
    let mut owner = app.owner().await.unwrap();
    let held = owner.transaction().await.unwrap();
    held.execute("select 1 from web_conversations where id = $1::text::uuid for update", &[&conversation])
        .await
        .unwrap();

    socket.message("hello", None).await.unwrap();
    socket.expect("typing").await.unwrap();
    let turns: i64 = held.query_one("select count(*) from turns", &[]).await.unwrap().get(0);
    assert_eq!(turns, 0, "typing came before anything was written or dispatched");
    assert!(socket.next_within(Duration::from_millis(100)).await.is_err(), "not accepted before the commit");

    held.commit().await.unwrap();
    socket.expect("accepted").await.unwrap();
    socket.expect("response").await.unwrap();
    app.finish().await.unwrap();
}

//! Bad input: each gets the documented error, and the server goes on.

use chat_core::config::Limits;
use harness::{
    app::{self, App},
    clients::{Rest, Socket},
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let rest = app.rest("ben@acme");
    let agent = app.agent_of(app.user("ben@acme"));
    let tenant = agent.tenant;
    let raw = async |path: &str, kind: &str, key: &str, body: String| {
        rest.with(|http, base| {
            let request = http.post(format!("{base}{path}")).header("content-type", kind).body(body);
            if key.is_empty() { request } else { request.header("idempotency-key", key) }
        })
        .await
        .unwrap()
    };
    let messages = format!("/conversations/{conversation}/messages");
    let key = "0193b3a0-0000-7000-8000-00000000000a";
    let json = "application/json";
    let long = json!({"text": "a".repeat(16_001)}).to_string();
    let large = json!({"text": "a".repeat(1_048_576)}).to_string();
    for (what, answer, status, code, named) in [
        ("malformed JSON", raw("/conversations", json, "", "{".into()).await, 400, "invalid", "body"),
        ("no body", raw("/conversations", json, "", String::new()).await, 400, "invalid", "body"),
        ("trailing junk", raw(&messages, json, key, r#"{"text":"a"} b"#.into()).await, 400, "invalid", "body"),
        (
            "a missing field",
            raw("/conversations", json, "", json!({"tenant_id": tenant}).to_string()).await,
            400,
            "invalid",
            "agent_id",
        ),
        ("a wrong type", raw(&messages, json, key, r#"{"text": 1}"#.into()).await, 400, "invalid", "text"),
        (
            "an unknown field",
            raw(&messages, json, key, r#"{"text": "a", "role": "assistant"}"#.into()).await,
            400,
            "invalid",
            "role",
        ),
        (
            "a bad id",
            raw("/conversations", json, "", json!({"tenant_id": "acme", "agent_id": agent.id}).to_string()).await,
            400,
            "invalid",
            "tenant_id",
        ),
        ("no key", raw(&messages, json, "", r#"{"text": "a"}"#.into()).await, 400, "invalid", "Idempotency-Key"),
        (
            "a bad key",
            raw(&messages, json, "again", r#"{"text": "a"}"#.into()).await,
            400,
            "invalid",
            "Idempotency-Key",
        ),
        ("not JSON", raw(&messages, "text/plain", key, "hello".into()).await, 415, "unsupported_media_type", ""),
        ("NUL", raw(&messages, json, key, r#"{"text": "a\u0000b"}"#.into()).await, 400, "text_refused", "text"),
        ("a lone surrogate", raw(&messages, json, key, r#"{"text": "\ud800"}"#.into()).await, 400, "invalid", "text"),
        ("nothing said", raw(&messages, json, key, r#"{"text": " \n"}"#.into()).await, 400, "text_refused", "text"),
        ("too long", raw(&messages, json, key, long).await, 400, "text_too_long", "text"),
        ("too large", raw(&messages, json, key, large).await, 413, "payload_too_large", ""),
        ("an array", raw(&messages, json, key, r#"["hello"]"#.into()).await, 400, "invalid", "body"),
        ("deeply nested", raw(&messages, json, key, "[".repeat(100_000)).await, 400, "invalid", "body"),
        ("a bad path id", rest.get("/conversations/first").await.unwrap(), 400, "invalid", "conversation_id"),
        ("a bad limit", rest.get(&format!("{messages}?limit=many")).await.unwrap(), 400, "invalid", "limit"),
        ("limit 0", rest.get(&format!("{messages}?limit=0")).await.unwrap(), 400, "invalid", "limit"),
        (
            "limit 101",
            rest.get(&format!("/conversations?tenant_id={tenant}&limit=101")).await.unwrap(),
            400,
            "invalid",
            "limit",
        ),
        ("an unknown parameter", rest.get(&format!("{messages}?page=2")).await.unwrap(), 400, "invalid", "page"),
        ("a bad position", rest.get(&format!("{messages}?before=yesterday")).await.unwrap(), 400, "invalid", "before"),
        ("a foreign position", rest.get(&format!("{messages}?after={key}")).await.unwrap(), 400, "invalid", "after"),
        ("two positions", rest.get(&format!("{messages}?after=1&before=5")).await.unwrap(), 400, "invalid", "after"),
        (
            "a bad place",
            rest.get(&format!("/conversations?tenant_id={tenant}&before=1")).await.unwrap(),
            400,
            "invalid",
            "before",
        ),
        (
            "a place before time",
            rest.get(&format!("/conversations?tenant_id={tenant}&before=-377000000000000000.{key}")).await.unwrap(),
            400,
            "invalid",
            "before",
        ),
        ("no tenant", rest.get("/conversations").await.unwrap(), 400, "invalid", "tenant_id"),
        ("no such path", rest.get("/nothing").await.unwrap(), 404, "not_found", ""),
        ("not with this method", rest.delete("/conversations").await.unwrap(), 405, "method_not_allowed", ""),
    ] {
        assert_eq!((answer.status, &answer.body["code"]), (status, &json!(code)), "{what}: {}", answer.body);
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{what}");
        assert_eq!(answer.body["request_id"], answer.headers["x-request-id"].to_str().unwrap(), "{what}");
        for member in ["type", "title", "detail"] {
            assert!(answer.body[member].is_string(), "{what} has no {member}");
        }
        if !named.is_empty() {
            assert_eq!(answer.body["errors"][0]["field"], named, "{what}: {}", answer.body);
        }
    }
    let list = rest.get(&messages).await.unwrap();
    assert_eq!((list.status, list.body), (200, json!([])), "nothing was stored, and the server goes on");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_bad_frame_gets_an_error_and_the_socket_lives_on() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let long = json!({"type": "message", "text": "a".repeat(16_001)}).to_string();
    for (frame, code) in [
        ("{", "bad_frame"),
        ("[]", "bad_frame"),
        (r#"["message","hello"]"#, "bad_frame"),
        (r#"{"type":"message"}"#, "bad_frame"),
        (r#"{"type":"message","text":1}"#, "bad_frame"),
        (r#"{"type":"message","text":"a","client_message_id":"1"}"#, "bad_frame"),
        (r#"{"type":"message","text":"\ud800"}"#, "bad_frame"),
        (r#"{"type":"dance"}"#, "unknown_frame"),
        (r#"{"type":"message","text":"a\u0000b"}"#, "text_refused"),
        (r#"{"type":"message","text":""}"#, "text_refused"),
        (&long, "text_too_long"),
        (r#"{"type":"stop","turn_id":"0193b3a0-0000-7000-8000-000000000000"}"#, "not_found"),
    ] {
        socket.raw(Message::text(frame.to_owned())).await.unwrap();
        let error = socket.expect("error").await.unwrap();
        assert_eq!(error["code"], code, "{frame:.80}: {error}");
        assert!(error["message"].is_string());
    }
    let own = "0193b3a0-0000-7000-8000-00000000000b";
    socket.message("a\u{7}b", Some(own)).await.unwrap();
    assert_eq!(socket.expect("error").await.unwrap()["client_message_id"], own, "it says which message");
    socket.message("fine", None).await.unwrap();
    socket.until("response").await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_socket_that_cannot_be_served_is_closed_with_its_code() {
    let app = App::with(|setting| {
        setting.limits = Limits { auth_ms: 300, user_sockets: 2, ..app::lifted() };
    })
    .await
    .unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let open = async || Socket::open(&app.product.ws(), &conversation, None).await.unwrap();

    let mut mute = open().await;
    assert_eq!(mute.closed().await.unwrap(), Some(4408), "no auth frame");
    for (what, first, code) in [
        ("a message before auth", Message::text(json!({"type": "message", "text": "hi"}).to_string()), 4400),
        ("junk before auth", Message::text("hello"), 4400),
        ("a binary frame before auth", Message::binary(vec![1, 2, 3]), 1003),
        ("a large frame before auth", Message::text("a".repeat(1_048_576)), 1009),
    ] {
        let mut socket = open().await;
        // A frame this large may be refused before it is all sent.
        let _ = socket.raw(first).await;
        assert_eq!(socket.closed().await.unwrap(), Some(code), "{what}");
    }

    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.raw(Message::binary(vec![0; 10])).await.unwrap();
    assert_eq!(socket.closed().await.unwrap(), Some(1003), "a binary frame");
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let _ = socket.message(&"a".repeat(1_048_576), None).await;
    assert_eq!(socket.closed().await.unwrap(), Some(1009), "1 MiB of text");
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    for _ in 0..10 {
        socket.raw(Message::text("not json")).await.unwrap();
    }
    assert_eq!(socket.closed().await.unwrap(), Some(4400), "ten in a row");
    drop(socket);

    let token = app.token(app.user("ben@acme"));
    harness::app::until("places to be free", || async {
        Ok(Socket::join(&app.product.ws(), &conversation, &token).await.is_ok())
    })
    .await
    .unwrap();
    let (_one, _two) = (app.socket("ben@acme", &conversation).await, app.socket("ben@acme", &conversation).await);
    let mut third = open().await;
    third.say(&json!({"type": "auth", "token": token})).await.unwrap();
    assert_eq!(third.closed().await.unwrap(), Some(4429), "more sockets than a user may have");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn whoever_sends_too_fast_is_told_when_to_go_on() {
    let app = App::with(|setting| {
        setting.limits = Limits {
            user_messages_per_minute: 60,
            user_messages_burst: 2,
            user_messages_wait_ms: 3_000,
            ..app::lifted()
        };
    })
    .await
    .unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let own = "0193b3a0-0000-7000-8000-00000000000c";
    for text in ["one", "two"] {
        socket.message(text, None).await.unwrap();
    }
    socket.message("three", Some(own)).await.unwrap();
    let error = socket.until("error").await.unwrap();
    assert_eq!((&error["code"], &error["client_message_id"]), (&json!("rate_limited"), &json!(own)));
    assert!((1..=1_000).contains(&error["retry_after_ms"].as_u64().unwrap()), "{error}");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_probes_tell_the_truth() {
    let app = App::start().await.unwrap();
    let probe = async |path: &str| {
        let rest = Rest::new(&app.product.rest(), None);
        rest.with(|http, _| http.get(format!("{}{path}", app.product.rest()))).await.unwrap()
    };
    for path in ["/healthz", "/readyz", "/api/portal/chat/healthz", "/api/portal/chat/readyz"] {
        harness::app::until(path, || async { Ok(probe(path).await.status == 200) }).await.unwrap();
    }
    let mute: Value = probe("/healthz").await.body;
    assert_eq!(mute, Value::Null);
    app.finish().await.unwrap();
}

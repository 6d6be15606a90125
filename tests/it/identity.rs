//! The one way in: a good token, on both edges.

use std::time::Duration;

use chat_core::{
    caller::Role,
    ids::{ConversationId, UserId},
    timestamp::Timestamp,
};
use harness::{
    app::App,
    clients::{Rest, Socket},
    services::User,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

/// Opens a socket, sends this first frame, and returns the close code.
async fn closed_with(app: &App, conversation: &str, first: &Value) -> Option<u16> {
    let mut socket = Socket::open(&app.product.ws(), conversation, None).await.unwrap();
    socket.say(first).await.unwrap();
    socket.closed().await.unwrap()
}

#[tokio::test]
async fn a_bad_token_is_refused_on_both_edges() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let ben = app.user("ben@acme");
    let now = Timestamp::now().unix_micros() / 1_000_000;
    let good = app.token(ben);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let payload = signed.split_once('.').unwrap().1;
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let foreign = |algorithm, secret: &str| {
        let claims = json!({"sub": ben.id, "exp": now + 60, "role": "platform_admin"});
        encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    };
    for (fault, token) in [
        ("expired", app.mint.sign(&json!({"sub": ben.id, "exp": now - 60}))),
        ("without end", app.mint.sign(&json!({"sub": ben.id}))),
        ("wrongly signed", foreign(Algorithm::HS256, "another secret that is long enough to be one")),
        ("another algorithm", foreign(Algorithm::HS512, app.mint.secret())),
        ("unsigned", format!("{signed}.")),
        ("alg none", format!("{none}.{payload}.")),
        ("alg none, signature kept", format!("{none}.{payload}.{signature}")),
        ("a user who does not exist", app.mint.sign(&json!({"sub": UserId::new(), "exp": now + 60}))),
        ("empty", String::new()),
    ] {
        let rest = Rest::new(&app.product.rest(), Some(&token));
        for path in [
            "/conversations",
            &format!("/conversations/{conversation}"),
            &format!("/conversations/{conversation}/messages"),
        ] {
            let tenant = format!("{path}?tenant_id={}", ben.tenant.unwrap());
            let path = if path == "/conversations" { &tenant } else { path };
            let answer = rest.get(path).await.unwrap();
            assert_eq!(
                (answer.status, &answer.headers["www-authenticate"]),
                (401, &"Bearer".parse().unwrap()),
                "{fault} at {path}"
            );
        }
        let first = json!({"type": "auth", "token": token});
        assert_eq!(closed_with(&app, &conversation, &first).await, Some(4401), "{fault}");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_originals_bare_frame_is_refused() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    for handle in ["root", "ada@acme", "ben@acme"] {
        let user = app.user(handle);
        for role in [Role::PlatformAdmin, Role::CustomerAdmin, Role::CustomerOperator] {
            let first = json!({"type": "auth", "userId": user.id, "role": role, "tenantId": user.tenant});
            assert_eq!(closed_with(&app, &conversation, &first).await, Some(4401), "{handle} as {role}");
        }
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_the_first_frame_says_must_agree_with_what_is_known() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let (ben, ada, globex) = (app.user("ben@acme"), app.user("ada@acme"), app.demo.tenants[1].id);
    let token = app.token(ben);
    for wrong in [
        json!({"userId": ada.id}),
        json!({"role": "platform_admin"}),
        json!({"role": "customer_admin"}),
        json!({"tenantId": globex}),
    ] {
        let mut first = json!({"type": "auth", "token": token});
        first.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert_eq!(closed_with(&app, &conversation, &first).await, Some(4403), "{wrong}");
    }
    for right in [
        json!({"userId": ben.id, "role": "customer_operator", "tenantId": ben.tenant}),
        json!({"userId": null, "role": null, "tenantId": null, "something": "else"}),
    ] {
        let mut first = json!({"type": "auth", "token": token});
        first.as_object_mut().unwrap().extend(right.as_object().unwrap().clone());
        let mut socket = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
        socket.say(&first).await.unwrap();
        socket.expect("ready").await.unwrap();
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn anothers_conversation_is_answered_like_one_that_does_not_exist() {
    let app = App::start().await.unwrap();
    let bens = app.conversation("ben@acme").await.unwrap();
    let absent = ConversationId::new().to_string();
    for who in ["ada@acme", "ben@globex", "ada@globex"] {
        let rest = app.rest(who);
        for (path, method) in [
            ("", "GET"),
            ("/messages", "GET"),
            ("/messages", "POST"),
            ("", "DELETE"),
            ("/takeover", "act"),
            ("/handback", "act"),
        ] {
            let mut answers = Vec::new();
            for id in [&bens, &absent] {
                let url = format!("/conversations/{id}{path}");
                let mut answer = match method {
                    "GET" => rest.get(&url).await.unwrap(),
                    "POST" => rest.say(id, &UserId::new().to_string(), "hello").await.unwrap(),
                    "act" => rest.post(&url, &json!({})).await.unwrap(),
                    _ => rest.delete(&url).await.unwrap(),
                };
                assert_eq!(answer.status, 404, "{who} {method} {url}");
                assert!(answer.body["request_id"].take().is_string());
                for own in ["x-request-id", "date"] {
                    answer.headers.remove(own);
                }
                answers.push((answer.body, answer.headers));
            }
            assert_eq!(answers[0], answers[1], "{who} {method} {path}");
        }
        let token = app.token(app.user(who));
        for id in [&bens, &absent, &"not-an-id".to_owned()] {
            assert_eq!(closed_with(&app, id, &json!({"type": "auth", "token": token})).await, Some(4404));
        }
    }
    let messages: i64 = {
        let owner = app.owner().await.unwrap();
        owner.query_one("select count(*) from web_conversation_messages", &[]).await.unwrap().get(0)
    };
    assert_eq!(messages, 0, "nobody wrote anything");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_socket_ends_with_its_token_unless_a_fresh_one_comes() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let ben = app.user("ben@acme");
    let now = Timestamp::now().unix_micros() / 1_000_000;
    // In its leeway already, with two seconds of it left.
    let ending = app.mint.sign(&json!({"sub": ben.id, "exp": now - 28}));
    let (mut left, _) = Socket::join(&app.product.ws(), &conversation, &ending).await.unwrap();
    let (mut kept, _) = Socket::join(&app.product.ws(), &conversation, &ending).await.unwrap();

    kept.say(&json!({"type": "auth", "token": app.token(ben)})).await.unwrap();
    let ready = kept.expect("ready").await.unwrap();
    assert!(ready["expires_at"].as_str().unwrap() > Timestamp::now().to_string().as_str());
    assert_eq!(left.closed().await.unwrap(), Some(4401));
    kept.message("still here", None).await.unwrap();
    kept.until("response").await.unwrap();

    kept.say(&json!({"type": "auth", "token": app.token(app.user("ada@acme"))})).await.unwrap();
    assert_eq!(kept.closed().await.unwrap(), Some(4403), "a fresh token must be the same person's");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_database_decides_what_a_token_only_claims() {
    let app = App::start().await.unwrap();
    let bens = app.conversation("ben@acme").await.unwrap();
    let hour = Duration::from_secs(3_600);
    // A token that claims more than its subject is.
    let ada = app.user("ada@globex");
    let boastful = app.mint.token(ada.id, Role::PlatformAdmin, app.user("ben@acme").tenant, hour);
    let rest = Rest::new(&app.product.rest(), Some(&boastful));
    assert_eq!(rest.get(&format!("/conversations/{bens}")).await.unwrap().status, 404);
    assert_eq!(rest.get("/conversations").await.unwrap().status, 400);
    assert_eq!(closed_with(&app, &bens, &json!({"type": "auth", "token": boastful})).await, Some(4404));
    // And one that claims less.
    let modest = app.mint.token(app.user("root").id, Role::CustomerOperator, None, hour);
    let rest = Rest::new(&app.product.rest(), Some(&modest));
    assert_eq!(rest.get(&format!("/conversations/{bens}")).await.unwrap().status, 200);
    assert_eq!(rest.get("/conversations").await.unwrap().body.as_array().unwrap().len(), 1);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_member_who_was_removed_is_out_with_the_next_message() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let owner = app.owner().await.unwrap();
    owner.execute("delete from user_tenant_roles where user_id = $1", &[&app.user("ben@acme").id]).await.unwrap();
    socket.message("am I still in?", None).await.unwrap();
    assert_eq!(socket.closed().await.unwrap(), Some(4403));
    assert_eq!(app.rest("ben@acme").get(&format!("/conversations/{conversation}")).await.unwrap().status, 404);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn only_listed_origins_may_connect() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    for (origin, allowed) in [
        (None, true),
        (Some("https://portal.example"), true),
        (Some("http://portal.example"), false),
        (Some("https://portal.example:8443"), false),
        (Some("https://portal.example.evil.test"), false),
        (Some("https://evil.test"), false),
        (Some("null"), false),
    ] {
        let opened = Socket::open(&app.product.ws(), &conversation, origin).await;
        match opened {
            Ok(_) => assert!(allowed, "{origin:?} came in"),
            Err(error) => assert!(!allowed && format!("{error:#}").contains("403"), "{origin:?}: {error:#}"),
        }
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_member_who_was_removed_does_not_go_on_reading() {
    let app = App::with(|setting| setting.limits.ping_ms = 200).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let owner = app.owner().await.unwrap();
    owner.execute("delete from user_tenant_roles where user_id = $1", &[&app.user("ben@acme").id]).await.unwrap();
    assert_eq!(socket.closed().await.unwrap(), Some(4403), "without having said anything");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_platform_admin_who_joins_leaves_one_row() {
    let app = App::with(|setting| setting.limits.ping_ms = 200).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut bens = app.socket("ben@acme", &conversation).await.unwrap();
    bens.message("hello", None).await.unwrap();
    bens.until("response").await.unwrap();
    let mut roots = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
    let token = app.token(app.user("root"));
    roots.say(&json!({"type": "auth", "token": token, "last_seq": 0})).await.unwrap();
    roots.until("ready").await.unwrap();
    roots.say(&json!({"type": "auth", "token": token})).await.unwrap();
    roots.until("ready").await.unwrap();
    let owner = app.owner().await.unwrap();
    let rows = owner.query("select action, tenant_id, subject_id from audit_events", &[]).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].get::<_, &str>(0), "conversation.read");
    assert_eq!(rows[0].get::<_, uuid::Uuid>(2).to_string(), conversation);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_forged_publication_shows_nothing_and_breaks_nothing() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let other = app.conversation("ben@globex").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let topic = format!("{}:webchat:response:{conversation}", app.user("ben@acme").tenant.unwrap());
    let mut redis = redis::Client::open(app.setting.redis.url(User::Harness))
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let id = UserId::new();
    for forged in [
        json!({"type": "typing", "conversation_id": other, "origin": "agent"}),
        json!({"type": "response", "conversation_id": other, "text": "x", "message_id": id, "seq": 1, "created_at": Timestamp::now()}),
        json!({"type": "response", "conversation_id": conversation, "text": "x", "message_id": id, "seq": 1_000, "created_at": Timestamp::now()}),
        json!({"type": "reset", "epoch": i32::MAX}),
        json!({"type": "ready"}),
        json!("junk"),
    ] {
        redis::cmd("PUBLISH").arg(&topic).arg(forged.to_string()).query_async::<i64>(&mut redis).await.unwrap();
    }
    socket.message("hello", None).await.unwrap();
    for kind in ["typing", "accepted", "response"] {
        socket.expect(kind).await.unwrap();
    }
    assert_eq!(
        app.product.hub.dropped_publications(),
        4,
        "what names another conversation, or cannot be read, is counted"
    );
    app.rest("ben@acme").delete(&format!("/conversations/{conversation}")).await.unwrap();
    assert_eq!(socket.until("reset").await.unwrap()["epoch"], 1, "a true one is still heard");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_close_is_answered() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.raw(Message::Close(Some(CloseFrame { code: 1000.into(), reason: "".into() }))).await.unwrap();
    assert_eq!(socket.closed().await.unwrap(), Some(1000));
    app.finish().await.unwrap();
}

//! The socket's twin, a stream of events: the same frames in the same order, for the same people, to the same end.

use std::time::{Duration, Instant};

use chat_core::{
    config::Limits,
    ids::{ClientMessageId, UserId},
    timestamp::Timestamp,
};
use harness::{
    app::{self, App, until},
    clients::{Answer, PATIENCE, Rest},
    events::{Event, Events, Opened},
    product::Setting,
    raw,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::streaming::dictated;

/// Chats whose messages and answers, of about 60 KiB each, are more than the two systems between hub and reader hold.
const CHATS: usize = 60;

/// Ben of acme with his conversation, and how he reads it.
struct Scene {
    app: App,
    rest: Rest,
    token: String,
    conversation: String,
}

impl Scene {
    async fn with(change: impl FnOnce(&mut Setting)) -> Self {
        Self::of(App::with(change).await.unwrap()).await
    }

    async fn of(app: App) -> Self {
        let (rest, token) = (app.rest("ben@acme"), app.token(app.user("ben@acme")));
        let conversation = app.conversation("ben@acme").await.unwrap();
        Self { app, rest, token, conversation }
    }

    async fn join(&self) -> Events {
        Events::join(&self.app.product.rest(), &self.conversation, &self.token).await.unwrap().0
    }

    async fn back(&self, last_event_id: &str) -> Events {
        let base = self.app.product.rest();
        Events::open(&base, &self.conversation, &self.token, Some(last_event_id)).await.unwrap()
    }

    async fn ask(&self, more: &[(&str, &str)]) -> Opened {
        Events::ask(&self.app.product.rest(), &self.conversation, Some(&self.token), more).await.unwrap()
    }

    async fn refused(&self, more: &[(&str, &str)]) -> Answer {
        refused(self.ask(more).await)
    }

    async fn say(&self, text: &str) -> Answer {
        let answer = self.rest.say(&self.conversation, &ClientMessageId::new().to_string(), text).await.unwrap();
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer
    }

    /// Asks until there is room.
    async fn returns(&self, more: &[(&str, &str)]) -> Events {
        let asked = async {
            loop {
                if let Opened::Stream(events) = self.ask(more).await {
                    return events;
                }
            }
        };
        timeout(PATIENCE, asked).await.expect("there is no room")
    }

    /// Says more than a connection holds.
    async fn fill(&self) {
        let text = "\u{1f600}".repeat(15_000);
        let mut events = self.join().await;
        for _ in 0..CHATS {
            self.chat(&text, &mut events).await;
        }
    }

    /// Somebody who asks for everything and reads no more than the head of the answer.
    async fn paused(&self) -> TcpStream {
        let request = format!(
            "GET /chat/sse/{} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {}\r\nLast-Event-ID: 0.0\r\n\r\n",
            self.conversation, self.token
        );
        let asked = async {
            loop {
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_recv_buffer_size(16 * 1_024).unwrap();
                let mut tcp = socket.connect(self.app.product.address).await.unwrap();
                tcp.write_all(request.as_bytes()).await.unwrap();
                if raw::head(&mut tcp).await.unwrap().starts_with("http/1.1 200 ") {
                    return tcp;
                }
            }
        };
        timeout(PATIENCE, asked).await.expect("there is no room")
    }

    /// Says something, and waits until it was answered.
    async fn chat(&self, text: &str, events: &mut Events) {
        self.say(text).await;
        events.until("response").await.unwrap();
    }
}

fn refused(opened: Opened) -> Answer {
    let Opened::Refused(answer) = opened else { panic!("let in") };
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.body["status"], json!(answer.status));
    assert_eq!(answer.headers["x-request-id"], answer.body["request_id"].as_str().unwrap());
    answer
}

/// The `seq` of an event that has one.
fn seq(event: &Event) -> Option<i64> {
    event.data["seq"].as_i64().or(event.data["message"]["seq"].as_i64())
}

/// What is told up to `ready`: its numbers, and `ready`.
async fn missed(events: &mut Events) -> (Vec<i64>, Event) {
    let mut numbers = Vec::new();
    loop {
        let event = events.next().await.unwrap();
        if event.data["type"] == "ready" {
            return (numbers, event);
        }
        assert!(["message", "response", "turn"].contains(&event.data["type"].as_str().unwrap()), "{event:?}");
        numbers.extend(seq(&event));
    }
}

#[tokio::test]
async fn a_chat_goes_over_rest_and_events() {
    let scene = Scene::with(|_| {}).await;
    let (mut events, ready) = Events::join(&scene.app.product.rest(), &scene.conversation, &scene.token).await.unwrap();
    for (name, value) in
        [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "no")]
    {
        assert_eq!(events.headers()[name], value);
    }
    assert_eq!((events.retry_ms, events.last_id.as_deref()), (Some(2_000), Some("0.0")));
    assert_eq!((&ready["last_seq"], &ready["resumed"]), (&json!(0), &json!(false)));
    let mut socket = scene.app.socket("ben@acme", &scene.conversation).await.unwrap();
    for number in [1, 3] {
        let sent = scene.say("hello").await;
        let (mut told, mut also) = (Vec::new(), Vec::new());
        while told.last().is_none_or(|event: &Event| event.data["type"] != "response") {
            told.push(events.next().await.unwrap());
        }
        while also.last().is_none_or(|frame: &Value| frame["type"] != "response") {
            also.push(socket.next().await.unwrap());
        }
        assert_eq!(told.iter().map(|event| &event.data).collect::<Vec<_>>(), also.iter().collect::<Vec<_>>());
        for event in &told {
            // Where it has brought its reader, and on nothing else.
            assert_eq!(event.id, seq(event).map(|seq| format!("0.{seq}")), "{event:?}");
            assert_eq!(event.name, "message");
        }
        let said = told.iter().find(|event| event.data["type"] == "message").unwrap();
        assert_eq!(said.data["message"]["id"], sent.body["message_id"]);
        assert_eq!(seq(said), Some(number));
        let answer = told.last().unwrap();
        assert_eq!((&answer.data["text"], &answer.data["turn_id"]), (&json!("Echo: hello"), &sent.body["turn_id"]));
    }
    scene.app.finish().await.unwrap();
}

#[tokio::test]
async fn words_come_while_they_are_written() {
    let (app, mut dictations) = dictated(1, |_| {}).await;
    let scene = Scene::of(app).await;
    let mut events = scene.join().await;
    scene.say("tell me").await;
    let dictation = dictations.remove(0);
    let mut shown = String::new();
    for words in ["One, ", "two\n", "and three."] {
        dictation.say(words);
        let delta = events.until("delta").await.unwrap();
        assert_eq!((delta.data["offset"].as_u64().unwrap(), delta.id), (shown.chars().count() as u64, None));
        shown.push_str(delta.data["text"].as_str().unwrap());
        assert!(shown.ends_with(words), "{shown:?}");
    }
    // Whoever comes in the middle gets what there is.
    let mut late = scene.join().await;
    let delta = late.expect("delta").await.unwrap();
    assert_eq!((&delta.data["offset"], &delta.data["text"]), (&json!(0), &json!(shown)));
    dictation.end();
    for events in [&mut events, &mut late] {
        assert_eq!(events.until("response").await.unwrap().data["text"], json!(shown));
    }
    scene.app.finish().await.unwrap();
}

#[tokio::test]
async fn whoever_comes_back_sees_what_was_missed_once_and_in_order() {
    let scene = Scene::with(|_| {}).await;
    let mut events = scene.join().await;
    scene.chat("one", &mut events).await;
    let place = events.last_id.clone().unwrap();
    assert_eq!(place, "0.2");
    drop(events);
    let mut watches = scene.join().await;
    for text in ["two", "three"] {
        scene.chat(text, &mut watches).await;
    }

    let mut events = scene.back(&place).await;
    let (numbers, ready) = missed(&mut events).await;
    assert_eq!(numbers, [3, 4, 5, 6]);
    assert_eq!((&ready.data["resumed"], ready.id.as_deref()), (&json!(true), Some("0.6")));
    scene.chat("four", &mut events).await;
    assert_eq!(events.last_id.as_deref(), Some("0.8"));
    // Lost in the middle of what was missed: the next one begins there.
    let mut cut = scene.back(&place).await;
    assert_eq!(seq(&cut.next().await.unwrap()), Some(3));
    let (numbers, _) = missed(&mut scene.back(&cut.last_id.unwrap()).await).await;
    assert_eq!(numbers, [4, 5, 6, 7, 8]);
    // A place that this conversation does not have.
    for place in ["0.9", "1.2"] {
        let mut lost = scene.back(place).await;
        let reset = lost.expect("reset").await.unwrap();
        assert_eq!((&reset.data["epoch"], reset.id.as_deref()), (&json!(0), Some("0.8")));
        assert_eq!(lost.expect("ready").await.unwrap().data["resumed"], false);
    }
    scene.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_reset_is_told_once_and_nothing_behind_it_is_missed() {
    let scene = Scene::with(|_| {}).await;
    let mut events = scene.join().await;
    scene.chat("one", &mut events).await;
    let before = events.last_id.clone().unwrap();
    assert_eq!(scene.rest.delete(&format!("/conversations/{}", scene.conversation)).await.unwrap().status, 204);
    let reset = events.until("reset").await.unwrap();
    assert_eq!((&reset.data["epoch"], reset.id.as_deref()), (&json!(1), Some("1.2")));
    let there = events.last_id.clone().unwrap();
    scene.chat("two", &mut events).await;
    assert_eq!(events.last_id.as_deref(), Some("1.4"));
    drop(events);

    // Back from right behind the reset: it is known, and what was said since is not.
    assert_eq!(scene.back(&there).await.next().await.unwrap().id.as_deref(), Some("1.3"));
    let (numbers, ready) = missed(&mut scene.back(&there).await).await;
    assert_eq!((numbers, &ready.data["resumed"]), (vec![3, 4], &json!(true)));
    // Back from before it: it is told, and what there is has to be read.
    let mut events = scene.back(&before).await;
    let reset = events.expect("reset").await.unwrap();
    assert_eq!((&reset.data["epoch"], reset.id.as_deref()), (&json!(1), Some("1.4")));
    let place = events.last_id.clone().unwrap();
    assert_eq!(events.expect("ready").await.unwrap().data["resumed"], false);
    let (numbers, _) = missed(&mut scene.back(&place).await).await;
    assert!(numbers.is_empty(), "{numbers:?}");
    scene.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_place_that_cannot_be_read_is_refused_by_its_name_but_not_to_strangers() {
    let scene = Scene::with(|_| {}).await;
    for bad in ["", "7", "0.", ".1", "-1.2", "0.1.2", "+0.1", "0.x", "99999999999.1", "0.99999999999999999999"] {
        let answer = scene.refused(&[("last-event-id", bad)]).await;
        assert_eq!((answer.status, &answer.body["code"]), (400, &json!("invalid")), "{bad:?}");
        assert_eq!(answer.body["errors"][0]["field"], "Last-Event-ID", "{}", answer.body);
    }
    assert_eq!(scene.refused(&[("last-event-id", "0.0"), ("last-event-id", "0.0")]).await.status, 400);
    let nobody = Events::ask(&scene.app.product.rest(), &scene.conversation, None, &[("last-event-id", "x")]).await;
    assert_eq!(refused(nobody.unwrap()).status, 401);
    scene.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_token_counts_in_its_header_alone() {
    let scene = Scene::with(|_| {}).await;
    let (base, token) = (scene.app.product.rest(), scene.token.clone());
    let bearer = format!("Bearer {token}");
    let basic = format!("Basic {token}");
    for (what, path, headers) in [
        ("in the query", format!("?token={token}&access_token={token}"), vec![]),
        ("in a cookie", String::new(), vec![("cookie", format!("token={token}"))]),
        ("twice", String::new(), vec![("authorization", bearer.clone()), ("authorization", bearer.clone())]),
        ("by another scheme", String::new(), vec![("authorization", basic)]),
        ("bare", String::new(), vec![("authorization", token.clone())]),
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let opened = Events::ask(&base, &format!("{}{path}", scene.conversation), None, &headers).await.unwrap();
        let answer = refused(opened);
        assert_eq!((answer.status, &answer.body["code"]), (401, &json!("unauthenticated")), "{what}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer", "{what}");
    }
    scene.app.finish().await.unwrap();
}

#[tokio::test]
async fn pages_of_listed_origins_may_read_and_no_others() {
    const OURS: &str = "https://portal.example";
    let scene = Scene::with(|setting| setting.limits.hub_sockets = 1).await;
    let told = |headers: &reqwest::header::HeaderMap, name: &str| {
        headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    };
    let Opened::Stream(held) = scene.ask(&[("origin", OURS)]).await else { panic!("refused") };
    assert_eq!(told(held.headers(), "access-control-allow-origin").as_deref(), Some(OURS));
    assert_eq!(told(held.headers(), "access-control-allow-credentials"), None);
    // A refusal can be read, too, and when to come again.
    let full = scene.refused(&[("origin", OURS)]).await;
    assert_eq!((full.status, &full.body["code"]), (503, &json!("unavailable")));
    assert_eq!(full.headers["retry-after"], "5");
    assert_eq!(told(&full.headers, "access-control-allow-origin").as_deref(), Some(OURS));
    assert_eq!(full.headers["access-control-expose-headers"], "retry-after,x-request-id");
    for other in ["https://evil.test", "null", "http://portal.example", "https://portal.example.evil.test", ""] {
        let answer = scene.refused(&[("origin", other)]).await;
        assert_eq!((answer.status, &answer.body["code"]), (403, &json!("forbidden")), "{other}");
        assert_eq!(told(&answer.headers, "access-control-allow-origin"), None, "{other}");
    }
    for (origin, welcome) in [(OURS, Some(OURS)), ("https://evil.test", None)] {
        let url = format!("{}/chat/sse/{}", scene.app.product.rest(), scene.conversation);
        let preflight = harness::clients::http()
            .request(reqwest::Method::OPTIONS, url)
            .header("origin", origin)
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "authorization,last-event-id");
        let answer = preflight.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        assert_eq!(told(answer.headers(), "access-control-allow-origin").as_deref(), welcome);
        assert_eq!(answer.headers()["access-control-allow-methods"], "GET");
        assert_eq!(answer.headers()["access-control-allow-headers"], "authorization,last-event-id");
        assert_eq!(answer.headers()["access-control-max-age"], "600");
    }
    scene.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let scene = Scene::with(|_| {}).await;
    let now = Timestamp::now().unix_micros() / 1_000_000;
    let ben = scene.app.user("ben@acme").id;
    // In its leeway already, with two seconds of it left.
    let ending = scene.app.mint.sign(&json!({"sub": ben, "exp": now - 28}));
    let (mut events, _) = Events::join(&scene.app.product.rest(), &scene.conversation, &ending).await.unwrap();
    assert_eq!(events.closed().await.unwrap(), Some(4401));
    let gone = scene.app.mint.sign(&json!({"sub": ben, "exp": now - 60}));
    let answer = Events::ask(&scene.app.product.rest(), &scene.conversation, Some(&gone), &[]).await.unwrap();
    assert_eq!(refused(answer).body["code"], "token_expired");
    scene.app.finish().await.unwrap();
}

#[tokio::test]
async fn whoever_may_not_read_any_more_is_out_within_a_ping() {
    let scene = Scene::with(|setting| setting.limits.ping_ms = 200).await;
    let mut events = scene.join().await;
    let waiting = scene.app.owner().await.unwrap();
    // It is kept alive, and silent otherwise.
    let begun = Instant::now();
    while events.comments < 3 {
        assert!(begun.elapsed() < PATIENCE, "no comments come");
        let silent = timeout(Duration::from_millis(300), events.hear()).await;
        assert!(silent.is_err(), "{silent:?}");
    }
    let ben = scene.app.user("ben@acme").id;
    waiting.execute("delete from user_tenant_roles where user_id = $1", &[&ben]).await.unwrap();
    assert_eq!(events.closed().await.unwrap(), Some(4403), "removed");

    // An admin reads what is not theirs while it waits for a person, and as an admin.
    let globex = scene.app.conversation("ben@globex").await.unwrap();
    waiting.execute("update web_conversations set status = 'escalated'", &[]).await.unwrap();
    let (base, ada) = (scene.app.product.rest(), scene.app.user("ada@globex"));
    let (mut admins, _) = Events::join(&base, &globex, &scene.app.token(ada)).await.unwrap();
    let demote = "update portal_users set role = 'customer_operator' where id = $1";
    waiting.execute(demote, &[&ada.id]).await.unwrap();
    assert_eq!(admins.closed().await.unwrap(), Some(4403), "demoted");
    waiting.execute("update web_conversations set status = 'agent'", &[]).await.unwrap();
    scene.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_hub_that_leaves_sends_its_readers_elsewhere_and_does_not_wait_for_them() {
    let mut scene = Scene::with(|_| {}).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(scene.join().await);
    }
    let begun = Instant::now();
    scene.app.product.stop().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for mut events in streams {
        let reconnect = events.expect("reconnect").await.unwrap();
        assert!(reconnect.data["delay_ms"].as_u64().unwrap() < 5_000, "{reconnect:?}");
        assert_eq!(events.closed().await.unwrap(), Some(1012));
    }
    scene.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_reader_who_goes_away_frees_place_and_count_at_once() {
    let one = |setting: &mut Setting| setting.limits = Limits { user_sockets: 1, hub_sockets: 2, ..app::lifted() };
    let scene = Scene::with(one).await;
    let mut held = Some(scene.join().await);
    for _ in 0..5 {
        let answer = scene.refused(&[]).await;
        assert_eq!((answer.status, &answer.body["code"]), (429, &json!("too_many_sockets")));
        assert_eq!(answer.headers["retry-after"], "10");
        drop(held.take());
        let begun = Instant::now();
        held = Some(scene.returns(&[]).await);
        // Long before a ping could show it.
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    drop(held);
    until("a socket to come in where the stream was", || async {
        Ok(scene.app.socket("ben@acme", &scene.conversation).await.is_ok())
    })
    .await
    .unwrap();
    scene.app.finish().await.unwrap();
}

#[tokio::test]
async fn whoever_has_shown_a_token_is_no_stranger() {
    let few = |setting: &mut Setting| setting.limits.address_unauthenticated = 3;
    let scene = Scene::with(few).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        // What REST used to get here ends by itself.
        streams.push(scene.returns(&[]).await);
    }
    scene.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_reader_who_takes_nothing_is_cut_and_misses_nothing() {
    let one = |setting: &mut Setting| setting.limits.hub_sockets = 1;
    let scene = Scene::with(one).await;
    scene.fill().await;
    let mut paused = scene.paused().await;
    let begun = Instant::now();
    until("its place to be free", || async { Ok(matches!(scene.ask(&[]).await, Opened::Stream(_))) }).await.unwrap();
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(8), "it was given no time: {took:?}");
    // The hub has let go of the connection, too, whatever it could not write.
    let mut read = Vec::new();
    let _ = timeout(PATIENCE, paused.read_to_end(&mut read)).await.unwrap();
    let read = String::from_utf8_lossy(&read);
    let last = read.rmatch_indices("id: 0.").map(|(at, id)| read[at + id.len()..].split('\n').next().unwrap());
    let last: usize = last.filter_map(|seq| seq.parse().ok()).next().unwrap();
    assert!(last < 2 * CHATS, "it got everything");
    let (numbers, _) = missed(&mut scene.returns(&[("last-event-id", &format!("0.{last}"))]).await).await;
    assert!(numbers.into_iter().eq(i64::try_from(last).unwrap() + 1..=i64::try_from(2 * CHATS).unwrap()));
    scene.app.finish().await.unwrap();
}

#[tokio::test]
async fn what_is_not_theirs_and_what_is_not_are_told_alike() {
    let scene = Scene::with(|_| {}).await;
    let (base, token) = (scene.app.product.rest(), scene.app.token(scene.app.user("ada@globex")));
    let mut bodies = Vec::new();
    for id in [scene.conversation.clone(), UserId::new().to_string(), "17".to_owned()] {
        let mut answer = refused(Events::ask(&base, &id, Some(&token), &[]).await.unwrap());
        assert_eq!((answer.status, &answer.body["code"]), (404, &json!("not_found")));
        answer.body.as_object_mut().unwrap().remove("request_id");
        bodies.push(answer.body);
    }
    assert!(bodies.windows(2).all(|two| two[0] == two[1]), "{bodies:?}");
    scene.app.finish().await.unwrap();
}

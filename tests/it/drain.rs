//! A hub that goes away hands its sockets over: nothing that it accepted is lost, nothing is done twice.
//!
//! The real binary in a process of its own, told to go by SIGTERM, as a deployment does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chat_core::ids::ClientMessageId;
use futures::future::join_all;
use harness::{
    app::{App, until},
    clients::Socket,
    hub_process::{HubProcess, environment},
    lambda::binaries,
    metadata::{Metadata, Says},
    product::QueueKind,
    pump::create_queue,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::queue::endpoint;

/// Within this a hub that was told to go is gone.
const GONE: Duration = Duration::from_secs(25);

/// Longer than any test: nobody sweeps.
const NEVER: Duration = Duration::from_secs(600);

/// A product on a queue of its own, and a hub in a process of its own beside it; what somebody forgets to give a hint for
/// is swept after this time.
async fn two_hubs(name: &str, swept: Duration, more: &[(&'static str, String)]) -> (App, HubProcess) {
    let queue = create_queue(&endpoint().await, name).await.unwrap();
    let app = App::with(|setting| {
        setting.queue = QueueKind::Sqs(queue);
        (setting.times.sweep_first, setting.times.sweep_longest) = (swept, swept);
    })
    .await
    .unwrap();
    let mut env = environment(&app.setting).unwrap();
    env.extend(["SWEEP_FIRST_MS", "SWEEP_LONGEST_MS"].map(|name| (name, swept.as_millis().to_string())));
    env.extend_from_slice(more);
    let hub = HubProcess::start(&binaries().await.unwrap().join("hub"), &env).await.unwrap();
    (app, hub)
}

/// What all clients have seen together.
#[derive(Default)]
struct Seen {
    accepted: AtomicUsize,
    /// The hub takes nobody in any more.
    leaving: AtomicBool,
    /// Sent to it after that, and accepted.
    accepted_while_leaving: AtomicUsize,
}

/// Somebody who keeps sending, and goes on at the other hub when told to.
struct Client {
    hubs: [String; 2],
    token: String,
    conversation: String,
    seen: Arc<Seen>,
    /// When this one was told to go elsewhere.
    moved: Option<Instant>,
    /// The newest `seq`, up to which nothing is missing since this one came.
    last_seq: i64,
    /// Every message that was sent, with its turn once it was accepted.
    sent: BTreeMap<String, Option<String>>,
    /// Those that were sent to a hub that was leaving.
    late: BTreeSet<String>,
    /// Turns whose reply came; of others' messages, too.
    answered: BTreeSet<String>,
}

impl Client {
    async fn run(mut self) -> Self {
        let (mut socket, ready) = Socket::join(&self.hubs[0], &self.conversation, &self.token).await.unwrap();
        self.last_seq = ready["last_seq"].as_i64().unwrap();
        let mut to_send = usize::MAX;
        loop {
            // Two at a time, so that there is always something under way.
            while to_send > 0 && self.open() < 2 {
                let id = ClientMessageId::new().to_string();
                if self.moved.is_none() && self.seen.leaving.load(Ordering::SeqCst) {
                    self.late.insert(id.clone());
                }
                socket.message(&format!("say {id}"), Some(&id)).await.unwrap();
                self.sent.insert(id, None);
                to_send -= 1;
            }
            if to_send == 0 && self.open() == 0 {
                return self;
            }
            let frame = socket.next().await.unwrap();
            if frame["type"] == "reconnect" {
                assert!(self.moved.is_none() && frame["delay_ms"].as_u64().unwrap() < 5_000, "{frame}");
                self.moved = Some(Instant::now());
                assert_eq!(socket.closed().await.unwrap(), Some(1012));
                socket = self.go_on().await;
                to_send = 3;
            } else {
                self.look(&frame);
            }
        }
    }

    /// Messages that were not accepted, or not answered.
    fn open(&self) -> usize {
        self.sent.values().filter(|turn| turn.as_ref().is_none_or(|turn| !self.answered.contains(turn))).count()
    }

    /// Comes back to the other hub with what was seen, and sends again what may have been lost.
    async fn go_on(&mut self) -> Socket {
        let mut socket = Socket::open(&self.hubs[1], &self.conversation, None).await.unwrap();
        let auth = json!({"type": "auth", "token": self.token, "last_seq": self.last_seq, "epoch": 0});
        socket.say(&auth).await.unwrap();
        loop {
            let frame = socket.next().await.unwrap();
            if frame["type"] == "ready" {
                assert_eq!(frame["resumed"], true);
                break;
            }
            self.look(&frame);
        }
        for id in self.sent.iter().filter(|(_, turn)| turn.is_none()).map(|(id, _)| id) {
            socket.message(&format!("say {id}"), Some(id)).await.unwrap();
        }
        socket
    }

    fn look(&mut self, frame: &Value) {
        match frame["type"].as_str().unwrap() {
            "accepted" => {
                self.seen.accepted.fetch_add(1, Ordering::SeqCst);
                let id = frame["client_message_id"].as_str().unwrap();
                if self.moved.is_none() && self.late.contains(id) {
                    self.seen.accepted_while_leaving.fetch_add(1, Ordering::SeqCst);
                }
                let turn = self.sent.get_mut(id).expect("one of ours");
                assert_eq!(*turn, None, "accepted twice");
                *turn = Some(frame["turn_id"].as_str().unwrap().to_owned());
                if frame["duplicate"] == true {
                    assert!(frame["seq"].as_i64().unwrap() <= self.last_seq, "{frame}");
                } else {
                    self.next_is(&frame["seq"]);
                }
            }
            "message" => self.next_is(&frame["message"]["seq"]),
            "response" => {
                self.next_is(&frame["seq"]);
                assert!(self.answered.insert(frame["turn_id"].as_str().unwrap().to_owned()), "twice: {frame}");
            }
            "typing" => {}
            // What became of one that was sent again.
            "turn" if frame["state"] != "failed" => {}
            _ => panic!("{frame}"),
        }
    }

    fn next_is(&mut self, seq: &Value) {
        self.last_seq += 1;
        assert_eq!(*seq, json!(self.last_seq), "a number is missing, or came twice");
    }
}

#[tokio::test]
async fn a_hub_that_is_told_to_go_hands_its_sockets_over_and_nothing_is_lost_or_done_twice() {
    // 32 sockets in 8 conversations leave within 3.2 s.
    let slowly = [("LIMIT_LEAVES_PER_SECOND", "10".to_owned())];
    // Under this load a busy machine may lose a hint, as it may.
    let (app, mut hub) = two_hubs("drain", Duration::from_secs(5), &slowly).await;
    let seen = Arc::new(Seen::default());
    let mut clients = Vec::new();
    for handle in ["ada@acme", "ben@acme", "ada@globex", "ben@globex"] {
        let user = app.user(handle);
        for agent in app.demo.agents.iter().filter(|agent| Some(agent.tenant) == user.tenant) {
            let conversation = app.rest(handle).open(agent.tenant, agent.id).await.unwrap();
            clients.extend((0..4).map(|_| {
                let client = Client {
                    hubs: [hub.ws(), app.product.ws()],
                    token: app.token(user),
                    conversation: conversation.clone(),
                    seen: Arc::clone(&seen),
                    moved: None,
                    last_seq: 0,
                    sent: BTreeMap::new(),
                    late: BTreeSet::new(),
                    answered: BTreeSet::new(),
                };
                tokio::spawn(client.run())
            }));
        }
    }
    until("load", || async { Ok(seen.accepted.load(Ordering::SeqCst) >= 100) }).await.unwrap();

    hub.signal("TERM").unwrap();
    let told = Instant::now();
    let ready = format!("http://{}/readyz", hub.address());
    until("no more sockets to be taken in", || async {
        Ok(reqwest::get(&ready).await.map_or(true, |answer| answer.status().as_u16() == 503))
    })
    .await
    .unwrap();
    seen.leaving.store(true, Ordering::SeqCst);
    let status = hub.exit().await.unwrap();
    let took = told.elapsed();
    assert!(status.success() && took < GONE, "{status} after {took:?}:\n{}", hub.said());

    let clients: Vec<Client> = join_all(clients).await.into_iter().map(Result::unwrap).collect();
    let moved: Vec<Instant> = clients.iter().map(|client| client.moved.expect("told to go elsewhere")).collect();
    let spread = *moved.iter().max().unwrap() - *moved.iter().min().unwrap();
    assert!(spread > Duration::from_secs(1), "32 sockets at 10 a second left within {spread:?}");
    let meanwhile = seen.accepted_while_leaving.load(Ordering::SeqCst);
    assert!(meanwhile > 0, "nothing was accepted while the hub was leaving");

    let sent: usize = clients.iter().map(|client| client.sent.len()).sum();
    let owner = app.owner().await.unwrap();
    let facts = owner
        .query_one(
            "select (select count(*) from turns where state = 'answered'), (select count(*) from turns),
               (select count(*) from web_conversation_messages where role = 'assistant')",
            &[],
        )
        .await
        .unwrap();
    let facts: Vec<usize> = (0..3).map(|column| usize::try_from(facts.get::<_, i64>(column)).unwrap()).collect();
    assert_eq!(facts, [sent; 3], "each message has one turn and one answer");
    for client in &clients {
        let newest = "select last_seq from web_conversations where id = $1::text::uuid";
        let newest: i64 = owner.query_one(newest, &[&client.conversation]).await.unwrap().get(0);
        assert!(client.last_seq <= newest);
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_message_that_is_being_stored_is_accepted_before_its_hub_says_goodbye() {
    let (app, mut hub) = two_hubs("drain-store", NEVER, &[]).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let token = app.token(app.user("ben@acme"));
    let mut socket = Socket::join(&hub.ws(), &conversation, &token).await.unwrap().0;
    let mut owner = app.owner().await.unwrap();
    let held = owner.transaction().await.unwrap();
    let lock = "select 1 from web_conversations where id = $1::text::uuid for update";
    held.execute(lock, &[&conversation]).await.unwrap();
    socket.message("just in time", None).await.unwrap();
    // Said before it is stored, so from here on the store is being asked.
    socket.expect("typing").await.unwrap();
    hub.signal("TERM").unwrap();
    until("the port to be closed", || async { Ok(TcpStream::connect(hub.address()).await.is_err()) }).await.unwrap();
    held.commit().await.unwrap();

    let accepted = socket.until("accepted").await.unwrap();
    socket.until("reconnect").await.unwrap();
    assert_eq!(socket.closed().await.unwrap(), Some(1012));
    let mut back = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
    back.say(&json!({"type": "auth", "token": token, "last_seq": accepted["seq"], "epoch": 0})).await.unwrap();
    // Its hint went out behind it: nobody sweeps here.
    assert_eq!(back.until("response").await.unwrap()["turn_id"], accepted["turn_id"]);
    assert!(hub.exit().await.unwrap().success(), "{}", hub.said());
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_hub_that_is_leaving_takes_nobody_in_who_had_begun_to_ask() {
    let (app, mut hub) = two_hubs("drain-late", NEVER, &[]).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut late = TcpStream::connect(hub.address()).await.unwrap();
    let request = format!(
        "GET /chat/ws/{conversation} HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let (begun, rest) = request.split_at(20);
    late.write_all(begun.as_bytes()).await.unwrap();
    // Connections are accepted in their order, so that one is in by the time another is answered.
    reqwest::get(format!("http://{}/healthz", hub.address())).await.unwrap();
    hub.signal("TERM").unwrap();
    until("the port to be closed", || async { Ok(TcpStream::connect(hub.address()).await.is_err()) }).await.unwrap();
    late.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    late.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(hub.exit().await.unwrap().success(), "{}", hub.said());
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_hub_can_follow_another_on_its_port() {
    let (app, mut hub) = two_hubs("drain-port", NEVER, &[]).await;
    hub.signal("KILL").unwrap();
    assert!(!hub.exit().await.unwrap().success() && hub.signal("TERM").is_err());
    let mut env = environment(&app.setting).unwrap();
    env.push(("LISTEN", hub.address().to_string()));
    let program = binaries().await.unwrap().join("hub");
    let next = HubProcess::start(&program, &env).await.unwrap();
    assert_eq!(next.address(), hub.address());
    assert!(next.pid() != hub.pid() && next.said().contains("listening"), "{}", next.said());
    // There is no room for a third.
    assert!(HubProcess::start(&program, &env).await.is_err());
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_hub_whose_task_is_to_stop_lets_its_sockets_go_before_any_signal() {
    let metadata = Metadata::start().await.unwrap();
    let told = [("ECS_CONTAINER_METADATA_URI_V4", metadata.uri.clone())];
    let (app, mut hub) = two_hubs("drain-notice", NEVER, &told).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let token = app.token(app.user("ben@acme"));
    let mut socket = Socket::join(&hub.ws(), &conversation, &token).await.unwrap().0;
    // Whatever else the page says, the hub stays: SIGTERM will come in any case.
    for says in [Says::Running, Says::Broken, Says::Nonsense, Says::Running] {
        metadata.says(says).await.unwrap();
        socket.message("still here?", None).await.unwrap();
        socket.until("response").await.unwrap();
    }
    metadata.stops();
    socket.until("reconnect").await.unwrap();
    assert_eq!(socket.closed().await.unwrap(), Some(1012));
    let status = hub.exit().await.unwrap();
    assert!(status.success() && hub.said().contains("going away"), "{status}: {}", hub.said());
    app.finish().await.unwrap();
}

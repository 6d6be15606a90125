//! A reset that falls between two steps of a socket: what it took is not shown, and it is told before what comes after.

use chat_core::{
    bus::Publisher,
    config::{Database, Redis, Secret},
    event::ServerFrame,
    ids::ConversationId,
    keys::webchat_response_key,
    store::Store,
    text::Text,
    timestamp::Timestamp,
    token::Identity,
};
use harness::{
    app::{self, App},
    clients::{PATIENCE, Socket},
    services::User,
    wire::{Moment, Wire},
};
use tokio::time::timeout;

/// What a socket asks when it is behind.
const CATCHES_UP: &str = "m.seq > $2 order by m.seq limit";

/// A socket whose hub reaches Postgres over a wire, and a store beside it whose doings nobody tells the hub.
struct Scene {
    app: App,
    wire: Wire,
    conversation: ConversationId,
    socket: Socket,
    store: Store,
    who: Identity,
}

impl Scene {
    /// A message is there that the socket has not heard of.
    async fn with_a_message_untold() -> Self {
        let postgres = app::services().await.unwrap().postgres.port();
        let wire = Wire::before(([127, 0, 0, 1], postgres).into()).await.unwrap();
        let (direct, through) = (format!(":{postgres}/"), format!(":{}/", wire.address.port()));
        let change = |setting: &mut harness::product::Setting| {
            setting.database_url = setting.database_url.replace(&direct, &through);
            setting.queue = crate::turns::silent();
        };
        let app = App::with(change).await.unwrap();
        let conversation: ConversationId = app.conversation("ben@acme").await.unwrap().parse().unwrap();
        let socket = app.socket("ben@acme", &conversation.to_string()).await.unwrap();
        let url = Secret::from(app.setting.database_url.replace(&through, &direct));
        let store = Store::connect(&Database { url, pool_size: 1 }).await.unwrap();
        let (user_id, role_hint) = (app.user("ben@acme").id, Some(app.user("ben@acme").role));
        let who = Identity { user_id, expires_at: Timestamp::now(), role_hint, tenant_hint: None };
        let scene = Self { app, wire, conversation, socket, store, who };
        scene.say("before").await;
        scene
    }

    /// Stores a message; returns the frame that would tell of it, and its topic.
    async fn say(&self, text: &str) -> (chat_core::keys::Topic, ServerFrame) {
        let text = Text::parse(text.to_owned(), 100).unwrap();
        let (seat, accepted) = self.store.accept(&self.who, self.conversation, &text, None, 100).await.unwrap();
        let frame = ServerFrame::Message { message: accepted.message(&seat, text) };
        (webchat_response_key(seat.tenant(), self.conversation), frame)
    }

    async fn reset(&self) {
        self.store.reset_conversation(&self.who, self.conversation).await.unwrap();
    }

    async fn finish(self) {
        let open = "update turns set state = 'stopped', ended_at = now() where state = 'queued'";
        self.app.owner().await.unwrap().execute(open, &[]).await.unwrap();
        self.app.finish().await.unwrap();
    }
}

#[tokio::test]
async fn a_reset_between_two_reads_is_told_before_what_is_said_after_it() {
    let mut scene = Scene::with_a_message_untold().await;
    // The socket is made to look: it learns that there is a message, and is held before it reads it.
    timeout(PATIENCE, scene.wire.trap(CATCHES_UP, Moment::Before)).await.unwrap().unwrap();
    scene.reset().await;
    let (topic, frame) = scene.say("after").await;
    let redis = Redis::at(Secret::from(scene.app.setting.redis.url(User::Conversations)));
    Publisher::new(&redis).unwrap().publish(&topic, &frame).await.unwrap();
    scene.wire.hold(false);

    assert_eq!(scene.socket.expect("reset").await.unwrap()["epoch"], 1);
    assert_eq!(scene.socket.expect("message").await.unwrap()["message"]["content"], "after");
    scene.finish().await;
}

#[tokio::test]
async fn a_message_that_a_reset_took_while_it_was_confirmed_does_not_stay() {
    let mut scene = Scene::with_a_message_untold().await;
    let reads = scene.wire.trap(CATCHES_UP, Moment::Before);
    // It is stored as number 2; before it is confirmed the socket reads number 1.
    scene.socket.message("mine", None).await.unwrap();
    timeout(PATIENCE, reads).await.unwrap().unwrap();
    scene.reset().await;
    scene.wire.hold(false);

    assert_eq!(scene.socket.until("reset").await.unwrap()["epoch"], 1);
    assert_eq!(scene.socket.expect("accepted").await.unwrap()["seq"], 2);
    assert_eq!(scene.socket.expect("reset").await.unwrap()["epoch"], 1, "whoever reads again now does not find it");
    scene.finish().await;
}

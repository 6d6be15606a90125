//! Round trips to Postgres, counted on the wire.

use chat_core::{
    config::{Database, Memory, Secret, Times},
    ids::{ConversationId, MessageId},
    store::{Store, door::Action, messages::Page, turns::Completion},
    text::Text,
    timestamp::Timestamp,
    token::Identity,
};
use harness::{
    app::{self, App},
    wire::Wire,
};

#[tokio::test]
async fn accept_claim_renew_finish_and_a_page_take_one_round_trip_each() {
    let app = App::start().await.unwrap();
    let conversation: ConversationId = app.conversation("ben@acme").await.unwrap().parse().unwrap();
    let ben = app.user("ben@acme");
    let who = Identity { user_id: ben.id, expires_at: Timestamp::now(), role_hint: Some(ben.role), tenant_hint: None };
    let port = app::services().await.unwrap().postgres.port();
    let wire = Wire::before(([127, 0, 0, 1], port).into()).await.unwrap();
    let url = app.setting.database_url.replace(&format!(":{port}/"), &format!(":{}/", wire.address.port()));
    assert_ne!(url, app.setting.database_url);
    let store = Store::connect(&Database { url: Secret::from(url), pool_size: 1 }).await.unwrap();

    let (times, text) = (Times::default(), Text::parse("hello".to_owned(), 10).unwrap());
    let mut counts = Vec::new();
    // The first pass prepares the statements.
    for pass in 0..3 {
        let mut trips = wire.trips();
        let mut count = |what: &'static str| {
            let (before, now) = (trips, wire.trips());
            trips = now;
            if pass > 0 {
                counts.push((what, now - before));
            }
        };
        store.accept(&who, conversation, &text, None, 100).await.unwrap();
        count("accept");
        let claim = store.claim(ben.tenant.unwrap(), conversation, &times, &Memory::default()).await.unwrap().unwrap();
        count("claim");
        store.renew(&claim, &times).await.unwrap();
        count("renew");
        store.finish(&claim, MessageId::new(), "hi", Completion::Whole).await.unwrap().0.unwrap();
        count("finish");
        store.messages(&who, conversation, Page::Newest, 50, Action::Read).await.unwrap();
        count("page");
    }
    let expected = ["accept", "claim", "renew", "finish", "page"].map(|what| (what, 1));
    assert_eq!(counts, [expected, expected].concat());
    app.finish().await.unwrap();
}

//! What relaying costs the allocator: counted, so that the same code says the same on every machine.

use std::sync::Arc;

use allocation_counter::measure;
use axum::extract::ws::Message;
use chat_core::{
    bus::News,
    event::ServerFrame,
    ids::{ConversationId, TenantId, TurnId},
    keys::webchat_response_key,
};
use hub::fanout::{Event, decode};

/// Allocations of a published frame, however many sockets hear it: its text, as read and as written, the latter made fit,
/// and the words in it.
const OF_A_FRAME: u64 = 6;

/// A piece of a reply, and where it was published.
fn published() -> (String, String) {
    let frame =
        ServerFrame::Delta { turn_id: TurnId::new(), attempt: 1, offset: 0, text: "Once upon a time ".to_owned() };
    let topic = webchat_response_key(TenantId::new(), ConversationId::new());
    (topic.as_str().to_owned(), frame.json())
}

#[test]
fn a_published_frame_is_read_and_written_once_for_all_sockets() {
    let (topic, payload) = published();
    let read = measure(|| drop(decode(&topic, payload.as_bytes())));
    assert!(read.count_total <= OF_A_FRAME, "{} allocations", read.count_total);

    let event = Arc::new(decode(&topic, payload.as_bytes()).expect("it was published"));
    let told = measure(|| {
        for _ in 0..1_000 {
            let news: News<Event> = News::Event(Arc::clone(&event));
            let News::Event(heard) = news else { unreachable!("it is one") };
            drop(Message::Text(heard.text.clone()));
        }
    });
    assert_eq!(told.count_total, 0, "each further socket costs the allocator nothing");
}

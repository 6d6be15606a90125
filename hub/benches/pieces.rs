//! The pieces of a message's way that need neither network nor database, with what they allocate:
//! `cargo bench --package hub`.

use std::hint::black_box;

use axum::extract::ws::Message;
use chat_core::{
    event::{ClientFrame, ServerFrame},
    ids::{ConversationId, TenantId, TurnId, UserId},
    job::Job,
    keys::webchat_response_key,
};
use divan::{AllocProfiler, Bencher, counter::ItemsCount};
use hub::fanout::decode;

#[global_allocator]
static COUNTED: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const MESSAGE: &str = r#"{"type":"message","text":"How are you today? I have a question.","client_message_id":"01936f6e-0000-7000-8000-000000000000"}"#;

/// A client's message, as a socket reads it.
#[divan::bench]
fn frame_parsed() -> serde_json::Result<ClientFrame> {
    ClientFrame::parse(black_box(MESSAGE))
}

/// A published piece of a reply, read once for all sockets.
#[divan::bench]
fn publication_decoded(bencher: Bencher<'_, '_>) {
    let frame =
        ServerFrame::Delta { turn_id: TurnId::new(), attempt: 1, offset: 0, text: "Once upon a time ".to_owned() };
    let (topic, payload) = (webchat_response_key(TenantId::new(), ConversationId::new()), frame.json());
    bencher.bench(|| decode(black_box(topic.as_str()), black_box(payload.as_bytes())));
}

/// The same, handed to so many sockets.
#[divan::bench(args = [1, 100, 1_000])]
fn publication_handed_out(bencher: Bencher<'_, '_>, sockets: usize) {
    let frame =
        ServerFrame::Delta { turn_id: TurnId::new(), attempt: 1, offset: 0, text: "Once upon a time ".to_owned() };
    let topic = webchat_response_key(TenantId::new(), ConversationId::new());
    let event = decode(topic.as_str(), frame.json().as_bytes()).expect("it is one of ours");
    bencher.counter(ItemsCount::new(sockets)).bench(|| {
        for _ in 0..sockets {
            black_box(Message::Text(event.text.clone()));
        }
    });
}

/// The body of a hint for the queue.
#[divan::bench]
fn queue_body(bencher: Bencher<'_, '_>) {
    let job = Job::web(TenantId::new(), ConversationId::new(), UserId::new(), TurnId::new());
    bencher.bench(|| black_box(&job).body());
}

//! Frames that are too many, or are made to cost more than they bring.

use std::time::{Duration, Instant};

use chat_core::config::Limits;
use harness::{
    app::{self, App},
    clients::Socket,
    raw,
};
use serde_json::json;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

/// A piece of a text message, as it goes over the wire.
fn piece(bytes: &[u8], first: bool, last: bool) -> Message {
    let opcode = OpCode::Data(if first { Data::Text } else { Data::Continue });
    Message::Frame(Frame::message(bytes.to_vec(), opcode, last))
}

#[tokio::test]
async fn whatever_a_frame_is_made_of_it_gets_an_answer_of_the_list() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let nested = |open: &str| format!(r#"{{"type":"message","text":{}"#, open.repeat(100_000 / open.len()));
    for (what, frame, code) in [
        ("100,000 brackets", nested("["), "bad_frame"),
        ("objects in objects", nested(r#"{"a":"#), "bad_frame"),
        ("brackets where nothing is expected", "[".repeat(100_000), "bad_frame"),
        (
            // Passed over without being kept, however deep: what is wrong is the text.
            "brackets in a field nobody knows",
            format!(r#"{{"type":"message","x":{}1{},"text":""}}"#, "[".repeat(100_000), "]".repeat(100_000)),
            "text_refused",
        ),
        ("a lone surrogate", r#"{"type":"message","text":"\udfff\ud800"}"#.to_owned(), "bad_frame"),
        ("NUL", r#"{"type":"message","text":"\u0000"}"#.to_owned(), "text_refused"),
        ("a bare control character", "{\"type\":\"message\",\"text\":\"\u{1}\"}".to_owned(), "bad_frame"),
        ("a large number", format!(r#"{{"type":"message","text":{}}}"#, "9".repeat(100_000)), "bad_frame"),
        ("a type twice", r#"{"type":"message","type":"stop","text":"a"}"#.to_owned(), "bad_frame"),
    ] {
        socket.raw(Message::text(frame)).await.unwrap();
        let error = socket.expect("error").await.unwrap();
        assert_eq!(error["code"], code, "{what}: {error}");
        // So that no ten in a row are unreadable.
        socket.blurt(&json!({"type": "dance"})).await.unwrap();
        assert_eq!(socket.expect("error").await.unwrap()["code"], "unknown_frame");
    }
    // In a thousand pieces it is the same message.
    let whole = json!({"type": "message", "text": "a".repeat(990)}).to_string().into_bytes();
    let last = whole.len() - 1;
    for (place, byte) in whole.iter().enumerate() {
        socket.raw(piece(&[*byte], place == 0, place == last)).await.unwrap();
    }
    socket.until("response").await.unwrap();

    for (what, messages, code) in [
        ("a text that is no UTF-8", vec![piece(&[0xff, 0xfe], true, true)], 1007),
        ("half a character at the end", vec![piece(br#"{"type":"#, true, false), piece(&[0xc3], false, true)], 1007),
        (
            "a compressed frame that nobody agreed on",
            vec![{
                let mut frame = Frame::message(vec![0; 16], OpCode::Data(Data::Text), true);
                frame.header_mut().rsv1 = true;
                Message::Frame(frame)
            }],
            1002,
        ),
        ("a piece of nothing", vec![piece(b"a", false, true)], 1002),
        ("257 KiB", vec![Message::text("a".repeat(257 * 1_024))], 1009),
        ("257 KiB in pieces", (0..257).map(|part| piece(&[b'a'; 1_024], part == 0, part == 256)).collect(), 1009),
        ("binary", vec![Message::binary(vec![0; 8])], 1003),
    ] {
        let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
        for message in messages {
            // It may be refused before it is all sent.
            if socket.raw(message).await.is_err() {
                break;
            }
        }
        assert_eq!(socket.closed().await.unwrap(), Some(code), "{what}");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn nothing_compressed_is_inflated() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let asks = [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")];
    let (_tcp, head) = raw::ask(app.product.address, &raw::upgrade(&conversation, &asks)).await.unwrap();
    assert!(head.starts_with("http/1.1 101 ") && !head.contains("extensions"), "{head}");
    // gzip of {"text":"hello"}, as `printf '{"text":"hello"}' | gzip -n` writes it.
    let gzip = [
        0x1f, 0x8b, 0x08, 0, 0, 0, 0, 0, 0, 0x03, 0xab, 0x56, 0x2a, 0x49, 0xad, 0x28, 0x51, 0xb2, 0x52, 0xca, 0x48,
        0xcd, 0xc9, 0xc9, 0x57, 0xaa, 0x05, 0, 0x3c, 0xaa, 0xdc, 0x89, 0x10, 0, 0, 0,
    ];
    let rest = app.rest("ben@acme");
    let answer = rest
        .with(|http, base| {
            http.post(format!("{base}/conversations/{conversation}/messages"))
                .header("idempotency-key", "0193b3a0-0000-7000-8000-00000000000a")
                .header("content-type", "application/json")
                .header("content-encoding", "gzip")
                .body(gzip.to_vec())
        })
        .await
        .unwrap();
    assert_eq!((answer.status, &answer.body["code"]), (400, &json!("invalid")), "{}", answer.body);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_socket_that_sends_without_end_is_told_so_and_closed_whatever_it_sends() {
    let app = App::with(|setting| {
        setting.limits = Limits { socket_frames_per_second: 5, socket_frames_burst: 20, ..app::lifted() };
    })
    .await
    .unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let unknown = || Message::text(r#"{"type":"dance"}"#);
    let unreadable = || Message::text("{");
    let ping = || Message::Ping(Vec::new().into());
    let pong = || Message::Pong(Vec::new().into());
    let refused = || Message::text(r#"{"type":"message","text":""}"#);
    for (what, kinds) in [
        ("unknown ones", vec![unknown()]),
        ("pings", vec![ping()]),
        ("pongs that nobody asked for", vec![pong()]),
        ("messages that are refused", vec![refused()]),
        (
            "a mixture in which never ten in a row are unreadable",
            vec![unreadable(), unknown(), ping(), refused(), pong()],
        ),
    ] {
        let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
        for message in kinds.iter().cycle().take(60) {
            if socket.raw(message.clone()).await.is_err() {
                break;
            }
        }
        let told = async {
            loop {
                let error = socket.until("error").await.unwrap();
                if error["code"] == "rate_limited" {
                    return error;
                }
            }
        };
        let wait = told.await["retry_after_ms"].as_u64().unwrap();
        assert!((1..=200).contains(&wait), "{what}: {wait}");
        assert_eq!(socket.closed().await.unwrap(), Some(4429), "{what}");
    }
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    for _ in 0..20 {
        socket.raw(ping()).await.unwrap();
    }
    let begun = Instant::now();
    // At its rate it may go on for as long as it likes.
    for _ in 0..5 {
        socket.blurt(&json!({"type": "dance"})).await.unwrap();
        let answer = socket.next().await.unwrap();
        if answer["code"] == "rate_limited" {
            assert!(begun.elapsed() < Duration::from_secs(1));
            break;
        }
        assert_eq!(answer["code"], "unknown_frame");
        app::until("the next token", || async { Ok(begun.elapsed() > Duration::from_secs(2)) }).await.unwrap();
    }
    app.finish().await.unwrap();
}

/// Chats one after the other, and how long each took from message to `accepted`, sorted.
async fn chats(socket: &mut Socket, count: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..count {
        let since = Instant::now();
        socket.message("how are you?", None).await.unwrap();
        socket.until("accepted").await.unwrap();
        took.push(since.elapsed());
        socket.until("response").await.unwrap();
    }
    took.sort();
    took
}

#[tokio::test]
async fn a_tenant_that_floods_gets_what_it_may_and_delays_no_other() {
    const BURST: u32 = 10;
    let app = App::with(|setting| {
        setting.limits = Limits {
            user_messages_burst: BURST,
            user_messages_per_minute: 1,
            user_messages_wait_ms: 3_000,
            ..app::lifted()
        };
    })
    .await
    .unwrap();
    let (noisy, quiet) = (app.conversation("ben@acme").await.unwrap(), app.conversation("ben@globex").await.unwrap());
    // The quiet one has leave for few as well, so it is two people.
    let alone = chats(&mut app.socket("ben@globex", &quiet).await.unwrap(), 10).await;
    let others = app.conversation("ada@globex").await.unwrap();
    let mut flood = app.socket("ben@acme", &noisy).await.unwrap();
    let flooding = tokio::spawn(async move {
        let (mut accepted, mut refused) = (0_u32, 0_u32);
        for _ in 0..50 * BURST {
            flood.message("now", None).await.unwrap();
        }
        while accepted + refused < 50 * BURST {
            let frame = flood.next().await.unwrap();
            accepted += u32::from(frame["type"] == "accepted");
            if frame["type"] == "error" {
                assert_eq!(frame["code"], "rate_limited", "{frame}");
                assert!(frame["retry_after_ms"].as_u64().unwrap() > 0, "{frame}");
                refused += 1;
            }
        }
        (accepted, refused)
    });
    let beside = chats(&mut app.socket("ada@globex", &others).await.unwrap(), 10).await;
    assert_eq!(flooding.await.unwrap(), (BURST, 49 * BURST));
    tracing::info!(?alone, ?beside, "a quiet tenant alone, and beside a flood");
    assert!(beside[8] < 3 * alone[8] + Duration::from_millis(500), "alone {alone:?}, beside the flood {beside:?}");
    app.finish().await.unwrap();
}

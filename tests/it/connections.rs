//! Peers that are slow, silent, too many, or say more than they may before anybody knows them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chat_core::config::Limits;
use futures::{StreamExt, future::join_all, stream};
use harness::{
    app::{self, App, until},
    bench::machine::memory,
    clients::{Heard, PATIENCE, Socket},
    hub_process::{HubProcess, environment},
    lambda::binaries,
    product::QueueKind,
    pump::create_queue,
    raw,
};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::queue::endpoint;

/// A product that is in a hurry: heads and first frames have half a second.
async fn hurried() -> App {
    App::with(|setting| setting.limits = Limits { header_ms: 500, auth_ms: 500, ..app::lifted() }).await.unwrap()
}

#[tokio::test]
async fn half_sent_heads_and_silent_connections_are_ended_and_nobody_else_notices() {
    let app = hurried().await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut healthy = app.socket("ben@acme", &conversation).await.unwrap();
    let request = raw::upgrade(&conversation, &[]);
    let begun = Instant::now();
    // Opened as fast as they are taken: more would wait in the system's own queue, or be dropped there.
    let address = app.product.address;
    let slow = (0..1_000_usize).map(move |number| {
        let said = request.as_bytes()[..number % 100].to_vec();
        async move {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            tcp.write_all(&said).await.unwrap();
            tcp
        }
    });
    let slow = tokio::spawn(async move {
        let mut open: Vec<TcpStream> = stream::iter(slow).buffer_unordered(64).collect().await;
        join_all(open.iter_mut().map(raw::ended)).await.into_iter().for_each(Result::unwrap);
    });
    let mut slowest = Duration::ZERO;
    while !slow.is_finished() {
        let since = Instant::now();
        healthy.message("still here?", None).await.unwrap();
        healthy.until("accepted").await.unwrap();
        slowest = slowest.max(since.elapsed());
        healthy.until("response").await.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    slow.await.unwrap();
    tracing::info!(?slowest, "a message beside a thousand half-sent heads");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_asks_nothing_more_is_ended() {
    let app = hurried().await;
    let path = format!("{}/healthz", conversations::BASE);
    let (mut tcp, head) =
        raw::ask(app.product.address, &format!("GET {path} HTTP/1.1\r\nHost: hub\r\n\r\n")).await.unwrap();
    assert!(head.starts_with("http/1.1 200 ") && !head.contains("connection: close"), "{head}");
    raw::ended(&mut tcp).await.unwrap();
    // The hub's own answers end theirs at once: no balancer keeps it for somebody else.
    let (mut tcp, head) = raw::ask(app.product.address, "GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n").await.unwrap();
    assert!(head.starts_with("http/1.1 200 ") && head.contains("connection: close"), "{head}");
    raw::ended(&mut tcp).await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let many: Vec<(String, String)> = (0..101).map(|number| (format!("x-{number}"), "a".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let long = "a".repeat(70_000);
    let rest =
        |path: &str, more: &str| format!("GET {}{path} HTTP/1.1\r\nHost: hub\r\n{more}\r\n", conversations::BASE);
    for (what, request, statuses) in [
        ("a long header", raw::upgrade(&conversation, &[("cookie", &long)]), &["431"][..]),
        ("many headers", raw::upgrade(&conversation, &many), &["431"]),
        ("a long path", raw::upgrade(&long, &[]), &["431", "414"]),
        ("no HTTP", "hello\r\n\r\n".to_owned(), &["400"]),
        ("a long header of REST", rest("/healthz", &format!("cookie: {long}\r\n")), &["431"]),
        ("a long path of REST", rest(&format!("/{long}"), ""), &["431", "414"]),
    ] {
        let (mut tcp, head) = raw::ask(app.product.address, &request).await.unwrap();
        let status = head.split(' ').nth(1).unwrap_or_default();
        assert!(statuses.contains(&status), "{what}: {head}");
        raw::ended(&mut tcp).await.unwrap();
    }
    let fits = "a".repeat(20_000);
    let (_tcp, head) = raw::ask(app.product.address, &raw::upgrade(&conversation, &[("cookie", &fits)])).await.unwrap();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    app.finish().await.unwrap();
}

/// The kernel's timer on each established connection of a server's port, by the client's port: 1 while something is
/// unacknowledged, 2 where it will probe (`tr` of `/proc/net/tcp`), with its hundredths of a second.
#[cfg(target_os = "linux")]
fn timers(port: u16) -> HashMap<u16, (u8, u64)> {
    let port_of = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16).unwrap();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[3] == "01" && port_of(row[1]) == port)
        .map(|row| {
            let (timer, when) = row[5].split_once(':').unwrap();
            (port_of(row[2]), (u8::from_str_radix(timer, 16).unwrap(), u64::from_str_radix(when, 16).unwrap()))
        })
        .collect()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_system_asks_whether_a_silent_peer_is_there() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let (tcp, head) = raw::ask(app.product.address, &raw::upgrade(&conversation, &[])).await.unwrap();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    let ours = tcp.local_addr().unwrap().port();
    // Until our system has acknowledged the answer another timer runs.
    until("a probe to be planned", || async {
        let timer = timers(app.product.address.port()).get(&ours).copied();
        Ok(timer.is_some_and(|(timer, when)| timer == 2 && when <= 2_500))
    })
    .await
    .unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn an_address_has_so_many_connections_until_it_authenticates() {
    let app = App::with(|setting| {
        setting.limits = Limits { address_unauthenticated: 3, header_ms: 500, ..app::lifted() };
    })
    .await
    .unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let token = app.token(app.user("ben@acme"));
    let address = app.product.address;
    let ask = async |forwarded: &str| {
        let headers = [("X-Forwarded-For", forwarded), ("X-Real-IP", forwarded), ("Forwarded", forwarded)];
        raw::ask(address, &raw::upgrade(&conversation, &headers)).await.unwrap()
    };
    let mut mute = Vec::new();
    // What REST used above ends by itself.
    until("three to be in", || async { Ok(ask("192.0.2.1").await.1.starts_with("http/1.1 101 ")) }).await.unwrap();
    until("three at once", || async {
        let three = join_all([ask("192.0.2.1"), ask("192.0.2.2"), ask("192.0.2.3")]).await;
        Ok(three.iter().all(|(_, head)| head.starts_with("http/1.1 101 ")))
    })
    .await
    .unwrap();
    while mute.len() < 3 {
        let (tcp, head) = ask(&format!("192.0.2.{}", mute.len())).await;
        if head.starts_with("http/1.1 101 ") {
            mute.push(tcp);
        }
    }
    for spoofed in ["198.51.100.1", "10.0.0.1", "127.0.0.2", "::1"] {
        let (mut tcp, head) = ask(spoofed).await;
        assert!(head.starts_with("http/1.1 429 ") && head.contains("\r\nretry-after: 5\r\n"), "{spoofed}: {head}");
        raw::ended(&mut tcp).await.unwrap();
    }
    // Whoever has shown a token makes room for the next one.
    mute.pop();
    let mut sockets = Vec::new();
    until("ten sockets to be in, one after the other", || async {
        Ok(Socket::join(&app.product.ws(), &conversation, &token).await.is_ok())
    })
    .await
    .unwrap();
    while sockets.len() < 10 {
        if let Ok((socket, _)) = Socket::join(&app.product.ws(), &conversation, &token).await {
            sockets.push(socket);
        }
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn behind_a_proxy_only_what_that_wrote_down_counts() {
    let app = App::with(|setting| {
        setting.trusted_proxies = 1;
        setting.limits = Limits { address_unauthenticated: 2, ..app::lifted() };
    })
    .await
    .unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut open = Vec::new();
    for (what, forwarded, status) in [
        ("a client", "203.0.113.9", "101"),
        ("one that wrote something there itself", "198.51.100.7, 203.0.113.9", "101"),
        ("one too many", "203.0.113.9", "429"),
        ("one too many that wrote something", "192.0.2.77, 203.0.113.9", "429"),
        ("another client", "203.0.113.10", "101"),
        ("a network", "2001:db8::1", "101"),
        ("a neighbour in it", "2001:db8::2", "101"),
        ("one neighbour too many", "2001:db8::3", "429"),
        ("nothing legible, so it is the proxy", "somewhere", "101"),
        ("nothing legible again", "203.0.113.11, elsewhere", "101"),
        ("nothing legible once too often", "203.0.113.11,", "429"),
    ] {
        let request = raw::upgrade(&conversation, &[("x-forwarded-for", forwarded)]);
        let (tcp, head) = raw::ask(app.product.address, &request).await.unwrap();
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{what}: {head}");
        assert!(status == "101" || head.contains("\r\nretry-after: 5\r\n"), "{what}: {head}");
        open.push(tcp);
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_full_hub_says_when_to_come_again() {
    let app = App::with(|setting| setting.limits = Limits { hub_sockets: 1, ..app::lifted() }).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let request = raw::upgrade(&conversation, &[]);
    let (_one, head) = raw::ask(app.product.address, &request).await.unwrap();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    let (_two, head) = raw::ask(app.product.address, &request).await.unwrap();
    assert!(head.starts_with("http/1.1 503 ") && head.contains("\r\nretry-after: 5\r\n"), "{head}");
    app.finish().await.unwrap();
}

/// Memory that a process has for itself, in KiB.
#[cfg(target_os = "linux")]
fn memory_kib(pid: u32) -> u64 {
    memory(pid) / 1_024
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_thousand_mute_sockets_are_gone_in_time_and_their_memory_is_back() {
    const AUTH_MS: u64 = 1_000;
    let queue = create_queue(&endpoint().await, "mute").await.unwrap();
    let app = App::with(|setting| setting.queue = QueueKind::Sqs(queue)).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut env = environment(&app.setting).unwrap();
    env.push(("LIMIT_AUTH_MS", AUTH_MS.to_string()));
    let hub = HubProcess::start(&binaries().await.unwrap().join("hub"), &env).await.unwrap();
    let ws = hub.ws();
    let mut after = Vec::new();
    let fresh = memory_kib(hub.pid());
    for _ in 0..4 {
        let open = (0..1_000).map(|_| Socket::open(&ws, &conversation, None));
        let mut mute: Vec<Socket> = stream::iter(open).buffer_unordered(64).map(Result::unwrap).collect().await;
        let open = Instant::now();
        let during = memory_kib(hub.pid());
        let closed = join_all(mute.iter_mut().map(Socket::closed)).await;
        let took = open.elapsed();
        assert!(closed.iter().all(|code| *code.as_ref().unwrap() == Some(4408)));
        assert!(took < Duration::from_millis(AUTH_MS) + Duration::from_secs(5), "{took:?}");
        drop(mute);
        after.push(memory_kib(hub.pid()));
        tracing::info!(fresh, during, after = after.last(), ?took, "a thousand mute sockets");
    }
    // What the allocator keeps of the first thousand serves the next: nothing is left behind that would add up. A socket
    // that has heard its close may have a moment of its own left in the hub.
    let bearable = after[0] + 4 * 1_024;
    let what =
        format!("less than {bearable} KiB, with {fresh} before the first sockets and {after:?} after each thousand");
    until(&what, || async { Ok(memory_kib(hub.pid()) < bearable) }).await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_comes_before_the_token_is_read_by_a_measure_of_its_own() {
    use tokio_tungstenite::tungstenite::{
        Message,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    };
    let app = App::with(|setting| setting.limits = Limits { auth_ms: 2_000, ..app::lifted() }).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let token = app.token(app.user("ben@acme"));
    let open = async || Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
    let filled = |bytes: usize| json!({"type": "auth", "token": token, "filler": "a".repeat(bytes)}).to_string();

    let mut socket = open().await;
    socket.raw(Message::text(filled(14_000))).await.unwrap();
    socket.expect("ready").await.unwrap();
    // Now that it is known who it is, frames may be large.
    socket.message(&"a".repeat(16_001), None).await.unwrap();
    assert_eq!(socket.expect("error").await.unwrap()["code"], "text_too_long");

    for bytes in [16_384, 17_000, 30_000, 200_000, 300_000] {
        let mut socket = open().await;
        // It may be refused before it is all sent.
        let _ = socket.raw(Message::text(filled(bytes))).await;
        assert_eq!(socket.closed().await.unwrap(), Some(1009), "{bytes} bytes");
    }
    let mut socket = open().await;
    let piece = |number: usize| {
        let opcode = OpCode::Data(if number == 0 { Data::Text } else { Data::Continue });
        Message::Frame(Frame::message(vec![b'['; 100], opcode, false))
    };
    for number in 0..1_000 {
        if socket.raw(piece(number)).await.is_err() {
            break;
        }
    }
    assert_eq!(socket.closed().await.unwrap(), Some(1009), "many pieces");
    let mut socket = open().await;
    for _ in 0..10_000 {
        if socket.raw(Message::Ping(vec![0; 8].into())).await.is_err() {
            break;
        }
    }
    assert!([Some(1009), None].contains(&socket.closed().await.unwrap()), "pings without end");
    app.finish().await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_reader_that_pauses_costs_what_it_may_and_misses_nothing() {
    // About 18 MiB are written in all, in less than the 10 s that a write to the reader may take. The hub holds what comes
    // meanwhile once, not once more for each of its parts.
    const MOST_KIB: u64 = 54 * 1_024;
    const CHATS: i64 = 150;
    let queue = create_queue(&endpoint().await, "slow-reader").await.unwrap();
    let app = App::with(|setting| setting.queue = QueueKind::Sqs(queue)).await.unwrap();
    let hub =
        HubProcess::start(&binaries().await.unwrap().join("hub"), &environment(&app.setting).unwrap()).await.unwrap();
    let (conversation, token) = (app.conversation("ben@acme").await.unwrap(), app.token(app.user("ben@acme")));
    let (mut paused, _) = Socket::join(&hub.ws(), &conversation, &token).await.unwrap();
    let (mut busy, _) = Socket::join(&hub.ws(), &conversation, &token).await.unwrap();
    let before = memory_kib(hub.pid());
    // About 60 KiB each, and as much again in the answer: far more than the two systems between hub and reader hold.
    let text = "\u{1f600}".repeat(15_000);
    let mut most = 0;
    for _ in 0..CHATS {
        busy.message(&text, None).await.unwrap();
        busy.until("response").await.unwrap();
        most = most.max(memory_kib(hub.pid()));
    }
    tracing::info!(before, most, "a paused reader");
    assert!(most < before + MOST_KIB, "{before} KiB before, {most} KiB with a paused reader");

    let mut seen = 0;
    let mut note = |frame: &serde_json::Value| {
        let seq = frame["seq"].as_i64().or(frame["message"]["seq"].as_i64());
        if let Some(seq) = seq {
            assert_eq!(seq, seen + 1, "a number is missing, or came twice");
            seen = seq;
        }
        seen
    };
    let mut last = 0;
    let code = loop {
        match tokio::time::timeout(PATIENCE, paused.hear()).await.expect("it is let go") {
            Heard::Frame(text) => last = note(&serde_json::from_str(&text).unwrap()),
            Heard::Close(code) => break code,
        }
    };
    assert!([Some(4413), None].contains(&code) && last < 2 * CHATS, "closed with {code:?} after {last}");
    let mut back = Socket::open(&hub.ws(), &conversation, None).await.unwrap();
    back.say(&json!({"type": "auth", "token": token, "last_seq": last, "epoch": 0})).await.unwrap();
    loop {
        let frame = back.next().await.unwrap();
        if frame["type"] == "ready" {
            break;
        }
        last = note(&frame);
    }
    assert_eq!(last, 2 * CHATS);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_has_said_nothing_does_not_keep_a_hub_that_leaves() {
    let mut app = App::start().await.unwrap();
    let mut mute = TcpStream::connect(app.product.address).await.unwrap();
    // Connections are taken in their order, so that one is in by the time another is answered.
    let (_tcp, head) = raw::ask(app.product.address, "GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n").await.unwrap();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    let begun = Instant::now();
    app.product.stop().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    raw::ended(&mut mute).await.unwrap();
    app.finish().await.unwrap();
}

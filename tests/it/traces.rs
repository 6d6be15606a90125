//! Traces: one message, followed from its socket through the queue to the orchestrator and back, where an operator collects
//! them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use chat_core::job::Job;
use harness::{
    app::{App, until},
    clients::Socket,
    hub_process::{HubProcess, environment},
    lambda::binaries,
    model::{Act, ScriptedModel},
    product::{QueueKind, Setting},
    pump::{event, record},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::any_value::Value as Worth,
    trace::v1::Span,
};
use prost::Message;
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    lambda::{function, queue, received},
    turns::silent,
};

/// What a collector may ask of whoever sends it any, by the setting that is the library's own.
const KEY: &str = "a-key-of-collectors-k7";

/// A collector of traces: what it was sent, with the name of whoever sent it.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

impl Collector {
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/traces", post(take)).with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (collector, address)
    }

    fn spans(&self) -> Vec<(String, Span)> {
        self.0.lock().unwrap().clone()
    }
}

async fn take(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> Vec<u8> {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    assert_eq!(headers["api-key"], KEY);
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    for of in request.resource_spans {
        let attributes = of.resource.unwrap().attributes;
        let name = attributes.iter().find(|known| known.key == "service.name").unwrap();
        let Some(Worth::StringValue(name)) = name.value.clone().unwrap().value else { panic!("a name is a text") };
        let spans = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
        collector.0.lock().unwrap().extend(spans.map(|span| (name.clone(), span)));
    }
    ExportTraceServiceResponse::default().encode_to_vec()
}

/// An attribute of a span, as text.
fn attribute(span: &Span, name: &str) -> Option<String> {
    let worth = span.attributes.iter().find(|known| known.key == name)?.value.clone()?.value?;
    #[expect(clippy::wildcard_enum_match_arm, reason = "somebody else's enum")]
    match worth {
        Worth::StringValue(text) => Some(text),
        Worth::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

#[tokio::test]
async fn one_trace_follows_a_message_from_its_socket_to_the_orchestrator_and_back() {
    let (collector, address) = Collector::start().await;
    let provider = ScriptedModel::start(|asked| Act::answer(format!("heard {}", asked.message))).await.unwrap();
    let app = App::with(|setting| setting.queue = silent()).await.unwrap();
    app.owner().await.unwrap().execute("update agents set model = 'default'", &[]).await.unwrap();
    let queue = queue("traces").await;
    let traced = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("{address}/")),
        ("OTEL_EXPORTER_OTLP_HEADERS", format!("api-key={KEY}")),
    ];
    let setting = Setting { queue: QueueKind::Sqs(queue.clone()), ..app.setting.clone() };
    let mut env = environment(&setting).unwrap();
    env.extend(traced.clone());
    let mut hub = HubProcess::start(&binaries().await.unwrap().join("hub"), &env).await.unwrap();
    let settings = [
        ("MODEL_PROVIDER", "openai".to_owned()),
        ("MODEL_BASE_URL", provider.base_url().to_owned()),
        ("MODEL_API_KEY", "sk-a-key-nobody-may-read".to_owned()),
        ("MODEL_DEFAULT", "vendor/small-1".to_owned()),
        // Else a title is a call more.
        ("TITLE_TURNS", "0".to_owned()),
        ("RUST_LOG", "trace".to_owned()),
    ];
    let function = function("orchestrator", &app, &queue, &[&settings[..], &traced].concat()).await;

    let conversation = app.conversation("ben@acme").await.unwrap();
    let token = app.token(app.user("ben@acme"));
    let (mut socket, _) = Socket::join(&hub.ws(), &conversation, &token).await.unwrap();
    socket.message("hippopotamus", None).await.unwrap();
    let turn = socket.until("accepted").await.unwrap()["turn_id"].as_str().unwrap().to_owned();
    let hint = received(&queue).await;
    let parent = Job::parse(hint.body().unwrap()).unwrap().traceparent.expect("the body says where the trace goes on");
    let answer = function.invoke(&event(vec![record("hint", hint.body().unwrap())])).await.unwrap();
    assert_eq!(answer["batchItemFailures"], json!([]));
    // Held to the document of the socket, in which there is no such field.
    let response = socket.until("response").await.unwrap();
    assert!(response["traceparent"].is_null() && response["text"] == "heard hippopotamus", "{response}");

    // The orchestrator has sent its own by the time that it answers; it is frozen then.
    let named = |name: &str| collector.spans().into_iter().filter(|(_, span)| span.name == name).collect::<Vec<_>>();
    assert_eq!(named("turn").len(), 1, "{:?}\n{}", collector.spans(), function.said());
    hub.signal("TERM").unwrap();
    assert!(hub.exit().await.unwrap().success(), "{}", hub.said());
    until("what a hub sends as it goes", || async { Ok(!named("relay").is_empty()) }).await.unwrap();

    let spans = collector.spans();
    let traces: BTreeSet<&Vec<u8>> = spans.iter().map(|(_, span)| &span.trace_id).collect();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(traces.len(), 1, "one trace: {spans:#?}");
    assert_eq!(parent.as_str().split('-').nth(1).unwrap(), hex(traces.first().unwrap()));
    let by_id: BTreeMap<&[u8], &(String, Span)> =
        spans.iter().map(|known| (known.1.span_id.as_slice(), known)).collect();
    for (service, name, above) in [
        ("chat-hub", "message", None),
        ("chat-hub", "dispatch", Some("message")),
        ("chat-orchestrator", "turn", Some("dispatch")),
        ("chat-orchestrator", "claim", Some("turn")),
        ("chat-orchestrator", "chat vendor/small-1", Some("turn")),
        ("chat-orchestrator", "finish", Some("turn")),
    ] {
        let found = named(name);
        let [(whose, span)] = found.as_slice() else { panic!("one span {name}: {spans:#?}") };
        let above_it = by_id.get(span.parent_span_id.as_slice()).map(|(_, span)| span.name.as_str());
        assert_eq!((whose.as_str(), above_it), (service, above), "{name}");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    }
    for (whose, relay) in named("relay") {
        let (theirs, above) = by_id[relay.parent_span_id.as_slice()];
        assert_eq!((whose.as_str(), theirs.as_str()), ("chat-hub", "chat-orchestrator"), "{}", above.name);
    }
    for name in ["message", "turn"] {
        assert_eq!(attribute(&named(name)[0].1, "turn.id"), Some(turn.clone()), "{name}");
    }
    let call = &named("chat vendor/small-1")[0].1;
    for (name, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "openai"),
        ("gen_ai.request.model", "vendor/small-1"),
    ] {
        assert_eq!(attribute(call, name).as_deref(), Some(value), "{call:?}");
    }
    assert!(attribute(call, "gen_ai.usage.output_tokens").is_some_and(|tokens| tokens.parse::<u64>().unwrap() > 0));
    let everything = format!("{spans:?}");
    for hidden in ["hippopotamus", "sk-a-key", &token] {
        assert!(!everything.contains(hidden), "{hidden} is in {everything}");
    }
    // No log has them, at its most talkative, nor what a collector asks for.
    for said in [function.said(), hub.said()] {
        assert!(!said.contains(r#""target":"trace""#) && !said.contains(KEY), "{said}");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn where_nobody_collects_nothing_travels() {
    let app = App::with(|setting| setting.queue = silent()).await.unwrap();
    let queue = queue("untraced").await;
    let setting = Setting { queue: QueueKind::Sqs(queue.clone()), ..app.setting.clone() };
    let hub = HubProcess::start(&binaries().await.unwrap().join("hub"), &environment(&setting).unwrap()).await.unwrap();
    let function = function("orchestrator", &app, &queue, &[]).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let (mut socket, _) = Socket::join(&hub.ws(), &conversation, &app.token(app.user("ben@acme"))).await.unwrap();
    socket.message("hello", None).await.unwrap();
    socket.until("accepted").await.unwrap();
    let hint = received(&queue).await;
    assert!(!hint.body().unwrap().contains("traceparent"), "{hint:?}");
    // And what somebody else put there is no reason to refuse the message.
    let forged = hint.body().unwrap().replacen('{', r#"{"traceparent":"00-evil-evil-zz","#, 1);
    let answer = function.invoke(&event(vec![record("hint", &forged)])).await.unwrap();
    assert_eq!(answer["batchItemFailures"], json!([]));
    socket.until("response").await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_collector_that_takes_everything_and_answers_nothing_holds_nobody_up() {
    // The kernel takes the connections; nobody ever reads from them.
    let mute = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let traced = ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", mute.local_addr().unwrap()));
    let app = App::with(|setting| setting.queue = silent()).await.unwrap();
    let queue = queue("mute-collector").await;
    let setting = Setting { queue: QueueKind::Sqs(queue.clone()), ..app.setting.clone() };
    let env = [environment(&setting).unwrap(), vec![traced.clone()]].concat();
    let mut hub = HubProcess::start(&binaries().await.unwrap().join("hub"), &env).await.unwrap();
    let function = function("orchestrator", &app, &queue, &[traced]).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let (mut socket, _) = Socket::join(&hub.ws(), &conversation, &app.token(app.user("ben@acme"))).await.unwrap();
    socket.message("hello", None).await.unwrap();
    socket.until("accepted").await.unwrap();
    let hint = received(&queue).await;
    let begun = Instant::now();
    let answer = function.invoke(&event(vec![record("hint", hint.body().unwrap())])).await.unwrap();
    assert_eq!(answer["batchItemFailures"], json!([]));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}: {}", begun.elapsed(), function.said());
    assert!(function.said().contains("not all spans were sent in time"), "{}", function.said());
    socket.until("response").await.unwrap();
    drop(socket);
    let begun = Instant::now();
    hub.signal("TERM").unwrap();
    assert!(hub.exit().await.unwrap().success(), "{}", hub.said());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}: {}", begun.elapsed(), hub.said());
    app.finish().await.unwrap();
}

//! The provider's side of the protocol: requests read, answers written event by event.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat/create>, and its streaming events.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::{Stream, stream};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use tokio::{task::yield_now, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Act, Asked, Outcome,
    calls::{Log, Open},
};

/// What the calls share.
struct Provider {
    script: Box<dyn Fn(&Asked) -> Act + Send + Sync>,
    log: Log,
    stop: CancellationToken,
}

/// The provider's API.
pub(super) fn router(
    script: impl Fn(&Asked) -> Act + Send + Sync + 'static,
    log: Log,
    stop: CancellationToken,
) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(complete))
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(Provider { script: Box::new(script), log, stop }))
}

async fn complete(State(provider): State<Arc<Provider>>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(mut asked) = read(&headers, &body) else {
        return (StatusCode::BAD_REQUEST, "not a streamed chat completion").into_response();
    };
    drop(body);
    let (mut open, nth) = provider.log.begin(&asked.message);
    asked.nth = nth;
    let at_once = Duration::ZERO;
    match (provider.script)(&asked) {
        Act::Answer { text, pieces, pause } => {
            let end = [chunk(&json!({}), Some("stop")), "data: [DONE]\n\n".to_owned()];
            Streamed { open, pause, pieces: parts(&text, pieces), end: end.into(), cut: false }.body(&provider.stop)
        }
        Act::Refuse { status, retry_after } => {
            open.ends_as(Outcome::Refused(status));
            refusal(status, retry_after.as_deref())
        }
        Act::Hang => {
            open.stays(Outcome::Hung);
            provider.stop.cancelled().await;
            open.ends_as(Outcome::Refused(503));
            refusal(503, None)
        }
        Act::CutAfter { text, pieces, pause } => {
            Streamed { open, pause, pieces: parts(&text, pieces), end: Vec::new(), cut: true }.body(&provider.stop)
        }
        Act::EndEarly { text } => {
            Streamed { open, pause: at_once, pieces: parts(&text, 1), end: Vec::new(), cut: false }.body(&provider.stop)
        }
        Act::Garbage => {
            let end = vec!["data: this is not JSON\n\n".to_owned(), "data: {\"choices\": [\n\n".to_owned()];
            Streamed { open, pause: at_once, pieces: Vec::new(), end, cut: false }.body(&provider.stop)
        }
    }
}

fn refusal(status: u16, retry_after: Option<&str>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let error = json!({"error": {"message": "refused by the script", "type": "scripted", "code": null}});
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], error.to_string()).into_response();
    if let Some(value) = retry_after.and_then(|text| text.parse().ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

/// What a request asks; `None` if it is not one for a streamed chat completion.
fn read(headers: &HeaderMap, body: &[u8]) -> Option<Asked> {
    let body: Value = serde_json::from_slice(body).ok().filter(|body: &Value| body["stream"] == true)?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let messages = body["messages"].as_array()?.iter();
    let mut said: Vec<(String, String)> =
        messages.map(|message| Some((text(&message["role"])?, text(&message["content"])?))).collect::<Option<_>>()?;
    let first_is_system = said.first().is_some_and(|(role, _)| role == "system");
    let system = first_is_system.then(|| said.remove(0).1);
    let (_, message) = said.iter().rfind(|(role, _)| role == "user").cloned()?;
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Some(Asked { model: text(&body["model"])?, system, said, message, nth: 0, authorization })
}

/// A text as events, `pieces` of them at most.
fn parts(text: &str, pieces: usize) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let size = chars.len().div_ceil(pieces.max(1)).max(1);
    let part = |part: &[char]| chunk(&json!({"content": part.iter().collect::<String>()}), None);
    chars.chunks(size).map(part).collect()
}

/// An event of the stream.
fn chunk(delta: &Value, finish_reason: Option<&str>) -> String {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish_reason});
    let chunk = json!({"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "choices": [choice]});
    format!("data: {chunk}\n\n")
}

/// A body that comes piece by piece.
struct Streamed {
    open: Open,
    /// Time before each piece.
    pause: Duration,
    pieces: Vec<String>,
    /// What follows them at once.
    end: Vec<String>,
    /// Whether the connection is closed then, without the body's last chunk.
    cut: bool,
}

impl Streamed {
    fn body(self, stop: &CancellationToken) -> Response {
        ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(self.events(stop.clone()))).into_response()
    }

    #[expect(clippy::disallowed_methods, reason = "the pause is what the script asks for, no wait for a condition")]
    fn events(self, stop: CancellationToken) -> impl Stream<Item = io::Result<String>> {
        let Self { open, pause, pieces, end, cut } = self;
        // It comes with the status and says nothing, as OpenAI's own.
        let head = chunk(&json!({"role": "assistant", "content": ""}), None);
        let at_once = |event| (Duration::ZERO, event);
        let events: VecDeque<_> = std::iter::once(at_once(head))
            .chain(pieces.into_iter().map(|piece| (pause, piece)))
            .chain(end.into_iter().map(at_once))
            .collect();
        stream::try_unfold((open, events), move |(mut open, mut events)| {
            let stop = stop.clone();
            async move {
                let Some((pause, event)) = events.pop_front() else {
                    // The server flushes where the body makes it wait, so what was sent before is on its way.
                    yield_now().await;
                    open.ends_as(if cut { Outcome::Cut } else { Outcome::Answered });
                    return if cut { Err(io::Error::other("cut by the script")) } else { Ok(None) };
                };
                if !pause.is_zero() && stop.run_until_cancelled(sleep(pause)).await.is_none() {
                    open.ends_as(Outcome::Cut);
                    return Err(io::Error::other("the provider was stopped"));
                }
                if events.is_empty() && !cut {
                    // With its last event the caller has everything and may leave.
                    open.ends_as(Outcome::Answered);
                }
                Ok(Some((event, (open, events))))
            }
        })
    }
}

//! The provider's side, whatever the protocol: requests read, answers written event by event.

use std::{
    collections::{HashSet, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse, Response},
    routing::post,
};
use chat_core::config::Speaks;
use futures::{Stream, stream};
use http::{HeaderMap, StatusCode, Uri, header};
use serde_json::Value;
use tokio::{task::yield_now, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Act, Asked, Outcome, anthropic,
    calls::{Log, Open},
    gemini, openai,
};

/// What the calls share.
struct Provider {
    script: Box<dyn Fn(&Asked) -> Act + Send + Sync>,
    log: Log,
    stop: CancellationToken,
}

/// The provider's APIs, on the paths of the real ones.
pub(super) fn router(
    script: impl Fn(&Asked) -> Act + Send + Sync + 'static,
    log: Log,
    stop: CancellationToken,
) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(complete))
        .route("/v1/messages", post(complete))
        .route("/v1beta/models/{model}", post(complete))
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(Provider { script: Box::new(script), log, stop }))
}

/// A request that the real service would not take, either.
pub(super) struct Refusal(StatusCode, &'static str);

impl Refusal {
    pub(super) fn new(status: u16, why: &'static str) -> Self {
        Self(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), why)
    }

    pub(super) fn bad(why: &'static str) -> Self {
        Self(StatusCode::BAD_REQUEST, why)
    }
}

/// Writes a call: its number, id, name and arguments.
type SaysCall = Box<dyn Fn(u64, &str, &str, &Value) -> Vec<String> + Send>;

/// Writes the end: after this text, and whether there were calls.
type SaysEnd = Box<dyn Fn(&str, bool) -> Vec<String> + Send>;

/// How a protocol puts it.
pub(super) struct Events {
    /// Comes before everything.
    pub(super) head: Vec<String>,
    /// Some words.
    pub(super) text: Box<dyn Fn(&str) -> String + Send>,
    /// A call.
    pub(super) call: SaysCall,
    /// The end.
    pub(super) end: SaysEnd,
    /// The end where a filter held the answer back.
    pub(super) withheld: Vec<String>,
    /// Something went wrong.
    pub(super) failed: String,
    /// An answer in one document.
    pub(super) whole: Box<dyn Fn(&str) -> Value + Send>,
    /// The body of a refusal of what is too long.
    pub(super) too_long: Value,
    /// The body of any other refusal.
    pub(super) refused: Value,
}

async fn complete(State(provider): State<Arc<Provider>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut asked = match read(&uri, &headers, &body) {
        Ok(asked) => asked,
        Err(Refusal(status, why)) => return (status, why).into_response(),
    };
    drop(body);
    let (mut open, nth) = provider.log.begin(&asked.message);
    asked.nth = nth;
    let act = (provider.script)(&asked);
    let Events { head, text: say, call, end, withheld, failed, whole, too_long, refused } = match asked.speaks {
        Speaks::OpenAi => openai::events(&asked),
        Speaks::Anthropic => anthropic::events(&asked),
        Speaks::Gemini => gemini::events(&asked),
    };
    let streamed =
        |open, pause, pieces, end, cut| Streamed { open, head, pause, pieces, end, cut }.body(&provider.stop);
    let at_once = Duration::ZERO;
    match act {
        Act::Answer { text, pieces, pause } => {
            streamed(open, pause, parts(&text, pieces, &*say), end(&text, false), false)
        }
        Act::Call { text, calls } => {
            let calls = (0_u64..)
                .zip(&calls)
                .flat_map(|(number, (name, arguments))| call(number, &format!("call_{nth}_{number}"), name, arguments));
            let last = calls.chain(end(&text, true)).collect();
            streamed(open, at_once, parts(&text, 1, &*say), last, false)
        }
        Act::Whole { text } => {
            open.ends_as(Outcome::Answered);
            ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], whole(&text).to_string()).into_response()
        }
        Act::Withhold => streamed(open, at_once, Vec::new(), withheld, false),
        Act::Fail { text } => streamed(open, at_once, parts(&text, 1, &*say), vec![failed], false),
        Act::Refuse { status, retry_after } => {
            open.ends_as(Outcome::Refused(status));
            refusal(status, retry_after.as_deref(), &refused)
        }
        Act::TooLong => {
            open.ends_as(Outcome::Refused(400));
            refusal(400, None, &too_long)
        }
        Act::Hang => hang(open, provider.stop.clone(), refused).await,
        Act::CutAfter { text, pieces, pause } => streamed(open, pause, parts(&text, pieces, &*say), Vec::new(), true),
        Act::EndEarly { text } => streamed(open, at_once, parts(&text, 1, &*say), Vec::new(), false),
        Act::Garbage => {
            let end = vec!["data: this is not JSON\n\n".to_owned(), "data: {\"choices\": [\n\n".to_owned()];
            streamed(open, at_once, Vec::new(), end, false)
        }
    }
}

/// Takes the call and never answers.
async fn hang(mut open: Open, stop: CancellationToken, refused: Value) -> Response {
    open.stays(Outcome::Hung);
    stop.cancelled().await;
    open.ends_as(Outcome::Refused(503));
    refusal(503, None, &refused)
}

fn refusal(status: u16, retry_after: Option<&str>, error: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], error.to_string()).into_response();
    if let Some(value) = retry_after.and_then(|text| text.parse().ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

/// What a request asks, in the protocol of its path.
fn read(uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<Asked, Refusal> {
    let body: Value = serde_json::from_slice(body).map_err(|_| Refusal::bad("the body is no JSON"))?;
    match uri.path() {
        "/v1/chat/completions" => openai::read(headers, &body),
        "/v1/messages" => anthropic::read(headers, &body),
        _ => gemini::read(headers, uri, &body),
    }
}

/// A header.
pub(super) fn key(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// The names of tools, each with a description and a schema, none twice.
pub(super) fn names<'a>(tools: impl Iterator<Item = &'a Value>, schema: &str) -> Result<Vec<String>, Refusal> {
    let mut seen = HashSet::new();
    tools
        .map(|tool| {
            let name = tool["name"].as_str().unwrap_or_default().to_owned();
            let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            let whole = fits && tool["description"].is_string() && tool[schema]["type"] == "object";
            if whole && seen.insert(name.clone()) { Ok(name) } else { Err(Refusal::bad("a tool is not whole")) }
        })
        .collect()
}

/// A text as events, `pieces` of them at most.
fn parts(text: &str, pieces: usize, say: &dyn Fn(&str) -> String) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let size = chars.len().div_ceil(pieces.max(1)).max(1);
    chars.chunks(size).map(|part| say(&part.iter().collect::<String>())).collect()
}

/// A text in two parts.
pub(super) fn halves(text: &str) -> (&str, &str) {
    text.split_at(text.floor_char_boundary(text.len() / 2))
}

/// A body that comes piece by piece.
struct Streamed {
    open: Open,
    /// What comes with the status.
    head: Vec<String>,
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
        let Self { open, head, pause, pieces, end, cut } = self;
        let at_once = |event| (Duration::ZERO, event);
        let events: VecDeque<_> = head
            .into_iter()
            .map(at_once)
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

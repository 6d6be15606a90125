//! The socket's twin for whoever sits behind a proxy that breaks WebSockets: `GET /chat/sse/{conversation_id}`, the server's
//! frames as a stream of events (WHATWG HTML, section 9.2). What the client says goes over REST.
//!
//! Each event's data is a frame, as on a socket. Its id is `epoch.seq`: up to where the reader has seen everything. It
//! stands on each frame after which that is another place than before, and comes back in `Last-Event-ID`.

use std::{
    convert::Infallible,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::{
    Extension,
    extract::{Path, State, ws::CloseFrame},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::{MethodRouter, get},
};
use chat_core::{
    Error,
    event::{Auth, ServerFrame},
    token,
};
use futures::stream::poll_fn;
use serde_json::json;
use tokio::{
    sync::mpsc::{self, error::SendError},
    time::Instant,
};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    Hub,
    line::{Kept, Line},
    peer::Peer,
    refusal::Refusal,
    server::Guest,
    session,
};

/// Where a client says what it has seen.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// After what time a client that lost its stream shall come back, unless `reconnect` names another.
const RETRY: Duration = Duration::from_secs(2);

/// How long a browser may remember that its page may ask.
const REMEMBERED: Duration = Duration::from_secs(600);

/// The route, with what pages of other origins need (CORS): those of `ALLOWED_ORIGINS` may ask, with a token that they set
/// themselves, and read when to come again.
pub(crate) fn route(allowed_origins: &[String]) -> MethodRouter<Hub> {
    let origins = allowed_origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET])
        .allow_headers([header::AUTHORIZATION, LAST_EVENT_ID])
        .expose_headers([header::RETRY_AFTER, HeaderName::from_static("x-request-id")])
        .max_age(REMEMBERED);
    get(connect).layer(cors)
}

/// Answers with a stream, or says why not before it begins.
async fn connect(
    State(hub): State<Hub>,
    Path(conversation): Path<String>,
    Extension(mut guest): Extension<Guest>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let begun = Instant::now();
    let place = hub.welcome(&headers, &mut guest)?;
    let admitted = tokio::select! {
        admitted = Box::pin(admit(&hub, &conversation, &headers)) => admitted.map_err(Refusal::from),
        () = hub.0.leaving.cancelled() => Err(Refusal::leaving()),
    };
    let admitted = admitted.inspect_err(|refusal| hub.0.metrics.refused(refusal.close()))?;
    // From here on this connection is a stream, and its address no stranger's.
    let kept = Arc::new(Kept::new(place, hub.0.sockets.token()));
    let line = guest.line.upgrade().ok_or_else(|| Error::internal("a request without its connection"))?;
    line.carries(Arc::clone(&kept));
    let (reader, mut events) = Reader::new(guest.line);
    tokio::spawn(async move {
        let peer = Peer::reader(reader, &hub.0.metrics);
        session::tell(&hub, admitted, peer, begun).await;
        drop(kept);
    });
    let events = poll_fn(move |cx| events.poll_recv(cx).map(|event| event.map(Ok::<_, Infallible>)));
    let mut response = Sse::new(events).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would collect them.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

async fn admit(hub: &Hub, conversation: &str, headers: &HeaderMap) -> Result<session::Admitted, Error> {
    let token = token::bearer(headers.get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes));
    let mut auth = Auth { token: Some(token), user_id: None, role: None, tenant_id: None, last_seq: None, epoch: None };
    match last_event_id(headers) {
        Ok(seen) => (auth.epoch, auth.last_seq) = seen.unzip(),
        Err(error) => {
            // Who is asking comes first.
            hub.identify(&auth).await?;
            return Err(error);
        }
    }
    // An id that cannot be one is answered like one that does not exist, after the token.
    session::admit(hub, &auth, conversation.parse().ok()).await
}

/// The place that the header names.
fn last_event_id(headers: &HeaderMap) -> Result<Option<(i32, i64)>, Error> {
    let mut values = headers.get_all(LAST_EVENT_ID).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let place = value.to_str().ok().filter(|_| values.next().is_none()).and_then(place);
    place.map(Some).ok_or_else(|| Error::field("Last-Event-ID", "is not the id of an event: epoch.seq"))
}

/// Digits alone, as we write them.
fn place(id: &str) -> Option<(i32, i64)> {
    let (epoch, seq) = id.split_once('.')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(epoch) && digits(seq)).then_some(())?;
    Some((epoch.parse().ok()?, seq.parse().ok()?))
}

/// Somebody who reads a stream of events. What is written waits until the connection has room: one event here, and what
/// hyper gathers (32 KiB). The connection ends soon after this is dropped.
pub(crate) struct Reader {
    out: mpsc::Sender<Event>,
    line: Weak<Line>,
    /// Up to where everything was written.
    epoch: i32,
    last_seq: i64,
}

impl Reader {
    /// One, and what is written to it: first, when to come back after the stream is lost.
    fn new(line: Weak<Line>) -> (Self, mpsc::Receiver<Event>) {
        let (out, events) = mpsc::channel(1);
        out.try_send(Event::default().retry(RETRY)).expect("there is room for one");
        (Self { out, line, epoch: 0, last_seq: 0 }, events)
    }

    /// What follows is told from there on.
    pub(crate) fn begins(&mut self, epoch: i32, last_seq: i64) {
        (self.epoch, self.last_seq) = (epoch, last_seq);
    }

    /// Resolves once the connection has ended.
    pub(crate) async fn gone(&self) {
        self.out.closed().await;
    }

    /// Writes a frame that is ready.
    pub(crate) async fn write(&mut self, frame: &ServerFrame, text: &str) -> Result<(), SendError<Event>> {
        let mut event = Event::default();
        if self.moves(frame) {
            event = event.id(format!("{}.{}", self.epoch, self.last_seq));
        }
        self.out.send(event.data(text)).await
    }

    /// Takes notice of where a frame brings the reader; false of one that leaves it where it is.
    ///
    /// A reset leaves `seq` and moves the epoch: what it took is gone, and what comes behind it comes after this `seq`.
    /// So whoever comes back from there is not told of it again and misses nothing, while the place before it is of an
    /// epoch that has passed, and whoever comes back from that is told.
    fn moves(&mut self, frame: &ServerFrame) -> bool {
        if let ServerFrame::Ready { epoch, last_seq, .. } = frame {
            self.begins(*epoch, *last_seq);
        } else if let ServerFrame::Reset { epoch } = frame {
            self.epoch = *epoch;
        } else if let Some(seq) = frame.seq() {
            self.last_seq = seq;
        } else {
            return false;
        }
        true
    }

    /// Writes a comment, which no client shows.
    pub(crate) async fn keep_alive(&self) -> Result<(), SendError<Event>> {
        self.out.send(Event::DEFAULT_KEEP_ALIVE).await
    }

    /// Writes the last event: why the stream ends, in the words of a close frame.
    pub(crate) async fn close(&self, frame: &CloseFrame) -> Result<(), SendError<Event>> {
        let why = json!({"code": frame.code, "reason": frame.reason.as_str()});
        self.out.send(Event::default().event("close").data(why.to_string())).await
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(line) = self.line.upgrade() {
            line.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_two_numbers_and_nothing_else() {
        assert_eq!(place("0.0"), Some((0, 0)));
        assert_eq!(place("3.9223372036854775807"), Some((3, i64::MAX)));
        for bad in ["", ".", "1", "1.", ".1", "1.2.3", "-1.2", "1.-2", "+1.2", " 1.2", "1.2 ", "a.b", "1,2", "1.2\n"] {
            assert_eq!(place(bad), None, "{bad:?}");
        }
        assert_eq!(place("2147483648.1"), None, "more than an epoch can be");
        assert_eq!(place("1.9223372036854775808"), None, "more than a seq can be");
    }
}

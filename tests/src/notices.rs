//! Plays whoever is told outside: a tenant's webhook and Slack, one HTTP server on loopback that keeps what it gets and
//! answers as a script says.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What came in one request.
#[derive(Debug, Clone)]
pub struct Received {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as it came: what a signature is about.
    pub body: String,
}

impl Received {
    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// A header's text; empty if it is absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What to answer.
#[derive(Debug, Clone)]
pub enum Reply {
    /// This status and body.
    Answer(u16, String),
    /// This status, to come back after so many seconds.
    Later(u16, u64),
    /// This status, and another place to look.
    Elsewhere(u16, String),
    /// Nothing, until the caller leaves or the server ends.
    Hang,
}

type Script = dyn Fn(&Received, usize) -> Reply + Send + Sync;

struct Shared {
    script: Box<Script>,
    received: Mutex<Vec<Received>>,
    stop: CancellationToken,
}

/// The server. Dropping it frees its port and ends what hangs.
pub struct Outside {
    base_url: String,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl Outside {
    /// Starts it on a free port. The script is asked once for each request, with how many came to the same path before.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start(script: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let base_url = format!("http://{}", listener.local_addr()?);
        let stop = CancellationToken::new();
        let shared = Shared { script: Box::new(script), received: Mutex::default(), stop: stop.clone() };
        let shared = Arc::new(shared);
        let router = Router::new().fallback(receive).with_state(Arc::clone(&shared));
        tokio::spawn(
            axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned()).into_future(),
        );
        Ok(Self { base_url, shared, _stop: stop.drop_guard() })
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// What came to a path until now, oldest first.
    #[must_use]
    pub fn received(&self, path: &str) -> Vec<Received> {
        let received = self.shared.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.iter().filter(|received| received.path == path).cloned().collect()
    }
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let body = String::from_utf8_lossy(&body).into_owned();
    let received = Received { method, path: uri.path().to_owned(), headers, body };
    let before = {
        let mut all = shared.received.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.iter().filter(|earlier| earlier.path == received.path).count();
        all.push(received.clone());
        before
    };
    let status = |status| StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match (shared.script)(&received, before) {
        Reply::Answer(code, body) => (status(code), [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Reply::Later(code, seconds) => (status(code), [(header::RETRY_AFTER, seconds.to_string())]).into_response(),
        Reply::Elsewhere(code, place) => (status(code), [(header::LOCATION, place)]).into_response(),
        Reply::Hang => {
            shared.stop.cancelled().await;
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

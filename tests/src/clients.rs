//! The two kinds of callers: REST and the socket. Each waits with a deadline, never longer, and holds what it gets to the
//! documents of the interface.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest, handshake::client::Request, http::HeaderValue},
};

use crate::described::check;

/// Longest wait for anything that a test expects. Far above what it takes; only a failure waits this long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An HTTP client for addresses of this machine. It knows no certificates: to read the system's takes 25 ms in an
/// unoptimized build, and tests make many clients.
#[must_use]
pub fn http() -> reqwest::Client {
    reqwest::Client::builder().tls_certs_only([]).build().expect("nothing is read that could fail")
}

/// A REST caller with one token.
#[derive(Clone)]
pub struct Rest {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body; null where it is empty or no JSON.
    pub body: Value,
}

impl Answer {
    /// The next page, as a path below the base, if the answer names one.
    #[must_use]
    pub fn next_page(&self) -> Option<String> {
        let link = self.headers.get("link")?.to_str().ok()?;
        let url = link.strip_prefix('<')?.strip_suffix(">; rel=\"next\"")?;
        url.strip_prefix(conversations::BASE).map(str::to_owned)
    }
}

impl Rest {
    /// A caller of `base`, such as `http://127.0.0.1:8080`; without a token it is nobody.
    #[must_use]
    pub fn new(base: &str, token: Option<&str>) -> Self {
        Self { http: http(), base: format!("{base}{}", conversations::BASE), token: token.map(str::to_owned) }
    }

    /// `GET`, with a path below the base and its query.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(self.http.get(format!("{}{path}", self.base))).await
    }

    /// `POST` with a JSON body.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.http.post(format!("{}{path}", self.base)).json(body)).await
    }

    /// `PUT` with a JSON body.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.http.put(format!("{}{path}", self.base)).json(body)).await
    }

    /// `PATCH` with a JSON body.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.http.patch(format!("{}{path}", self.base)).json(body)).await
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.send(self.http.delete(format!("{}{path}", self.base))).await
    }

    /// Posts a message with an idempotency key.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn say(&self, conversation: &str, key: &str, text: &str) -> Result<Answer> {
        let url = format!("{}/conversations/{conversation}/messages", self.base);
        self.send(self.http.post(url).header("Idempotency-Key", key).json(&json!({"text": text}))).await
    }

    /// All pages of a list, the first one at `path`, the others where `Link` names them.
    ///
    /// # Errors
    /// If there is no answer, or one is no page.
    pub async fn pages(&self, path: &str) -> Result<Vec<Vec<Value>>> {
        let (mut pages, mut next) = (Vec::new(), Some(path.to_owned()));
        while let Some(path) = next {
            let answer = self.get(&path).await?;
            let page = answer.body.as_array().cloned();
            pages.push(page.with_context(|| format!("{path}: {} {}", answer.status, answer.body))?);
            next = answer.next_page();
        }
        Ok(pages)
    }

    /// Any request, built by `make` from the HTTP client and the base.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn with(&self, make: impl FnOnce(&reqwest::Client, &str) -> reqwest::RequestBuilder) -> Result<Answer> {
        self.send(make(&self.http, &self.base)).await
    }

    /// Opens the conversation with an agent and returns its id.
    ///
    /// # Errors
    /// If it was refused.
    pub async fn open(&self, tenant: impl ToString, agent: impl ToString) -> Result<String> {
        let body = json!({"tenant_id": tenant.to_string(), "agent_id": agent.to_string()});
        let answer = self.post("/conversations", &body).await?;
        let id = answer.body["id"].as_str().map(str::to_owned);
        id.with_context(|| format!("not opened: {} {}", answer.status, answer.body))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let request = request.timeout(PATIENCE).build()?;
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = self.http.execute(request).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await?;
        check::answered(method.as_str(), &path, status, &headers, &body)?;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Ok(Answer { status, headers, body })
    }
}

/// What a socket brings.
#[derive(Debug)]
pub enum Heard {
    /// A frame, as it was written.
    Frame(String),
    /// The end, with its code; `None` if the connection ended without one.
    Close(Option<u16>),
}

/// What a socket brings, to the letter.
#[derive(Debug, Clone, PartialEq)]
pub enum Farewell {
    /// It lives, and said this.
    Frame(Value),
    /// It ended with this code, for this reason.
    Close(u16, String),
    /// It ended without a word.
    Gone,
}

/// A socket.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    held: bool,
}

impl Socket {
    /// Opens a socket without saying who is asking.
    ///
    /// # Errors
    /// If the upgrade is refused; the HTTP status is in the message.
    pub async fn open(ws: &str, conversation: &str, origin: Option<&str>) -> Result<Self> {
        let mut request = format!("{ws}/chat/ws/{conversation}").into_client_request()?;
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", HeaderValue::from_str(origin)?);
        }
        Self::with(request).await
    }

    /// Opens a socket with a request of one's own.
    ///
    /// # Errors
    /// If the upgrade is refused; the HTTP status is in the message.
    pub async fn with(request: Request) -> Result<Self> {
        let (stream, _) = timeout(PATIENCE, connect_async(request)).await??;
        Ok(Self { stream, held: true })
    }

    /// Opens a socket, authenticates, and waits for `ready`, which it returns with the socket.
    ///
    /// # Errors
    /// If it is not let in.
    pub async fn join(ws: &str, conversation: &str, token: &str) -> Result<(Self, Value)> {
        let mut socket = Self::open(ws, conversation, None).await?;
        socket.say(&json!({"type": "auth", "token": token})).await?;
        let ready = socket.expect("ready").await?;
        Ok((socket, ready))
    }

    /// Holds nothing to the documents from now on: for programs that measure, and for people.
    #[must_use]
    pub fn trusting(mut self) -> Self {
        self.held = false;
        self
    }

    /// Sends a frame as a client should. One that it should not send goes by [`Socket::blurt`] or [`Socket::raw`].
    ///
    /// # Errors
    /// If it is not as documented, or the socket has ended.
    pub async fn say(&mut self, frame: &Value) -> Result<()> {
        if self.held {
            check::said(frame)?;
        }
        self.blurt(frame).await
    }

    /// Sends any JSON.
    ///
    /// # Errors
    /// If the socket has ended.
    pub async fn blurt(&mut self, frame: &Value) -> Result<()> {
        self.raw(Message::text(frame.to_string())).await
    }

    /// Sends a message.
    ///
    /// # Errors
    /// If the socket has ended.
    pub async fn message(&mut self, text: &str, client_message_id: Option<&str>) -> Result<()> {
        self.say(&json!({"type": "message", "text": text, "client_message_id": client_message_id})).await
    }

    /// Sends anything.
    ///
    /// # Errors
    /// If the socket has ended.
    pub async fn raw(&mut self, message: Message) -> Result<()> {
        Ok(self.stream.send(message).await?)
    }

    /// The next frame.
    ///
    /// # Errors
    /// If the socket ends first, with its close code in the message, or nothing comes.
    pub async fn next(&mut self) -> Result<Value> {
        self.next_within(PATIENCE).await
    }

    /// The next frame, if it comes in time.
    ///
    /// # Errors
    /// If the socket ends first, with its close code in the message, or nothing comes.
    pub async fn next_within(&mut self, patience: Duration) -> Result<Value> {
        match timeout(patience, self.hear()).await.map_err(|_| anyhow!("no frame came"))? {
            Heard::Frame(text) => documented(&text, self.held),
            Heard::Close(Some(code)) => bail!("closed with {code}"),
            Heard::Close(None) => bail!("the connection ended"),
        }
    }

    /// What comes next, however long it takes. Loses nothing when cancelled.
    pub async fn hear(&mut self) -> Heard {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => return Heard::Frame(text.as_str().to_owned()),
                Some(Ok(Message::Close(frame))) => return Heard::Close(frame.map(|frame| frame.code.into())),
                Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(_)) | None => return Heard::Close(None),
            }
        }
    }

    /// The next frame, or the code and the reason of the end, whichever comes.
    ///
    /// # Errors
    /// If nothing comes.
    pub async fn farewell_or_frame(&mut self) -> Result<Farewell> {
        let said = async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Text(text))) => return Ok(Farewell::Frame(documented(&text, self.held)?)),
                    Some(Ok(Message::Close(Some(frame)))) => {
                        return Ok(Farewell::Close(frame.code.into(), frame.reason.to_string()));
                    }
                    Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                    Some(Ok(Message::Close(None)) | Err(_)) | None => return Ok(Farewell::Gone),
                }
            }
        };
        timeout(PATIENCE, said).await.context("nothing came")?
    }

    /// The next frame, which must be of this type.
    ///
    /// # Errors
    /// If it is another one, or none comes.
    pub async fn expect(&mut self, kind: &str) -> Result<Value> {
        let frame = self.next().await.with_context(|| format!("waiting for {kind}"))?;
        if frame["type"] == kind { Ok(frame) } else { bail!("expected {kind}, got {frame}") }
    }

    /// Waits for a frame of this type, passing over others.
    ///
    /// # Errors
    /// If none comes.
    pub async fn until(&mut self, kind: &str) -> Result<Value> {
        loop {
            let frame = self.next().await.with_context(|| format!("waiting for {kind}"))?;
            if frame["type"] == kind {
                return Ok(frame);
            }
        }
    }

    /// Waits for the close code, passing over frames; `None` if the connection ended without one.
    ///
    /// # Errors
    /// If the socket stays open.
    pub async fn closed(&mut self) -> Result<Option<u16>> {
        let closed = async {
            loop {
                if let Heard::Close(code) = self.hear().await {
                    return code;
                }
            }
        };
        timeout(PATIENCE, closed).await.context("the socket stays open")
    }
}

/// A frame of the server; if it is held to it, as the document of the socket has it.
fn documented(text: &str, held: bool) -> Result<Value> {
    let frame = serde_json::from_str(text)?;
    if held {
        check::heard(&frame)?;
    }
    Ok(frame)
}

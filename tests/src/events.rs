//! The third kind of caller: one who reads a stream of events, parsed as a browser does (WHATWG HTML, section 9.2.6).

use anyhow::{Context, Result, anyhow, bail};
use reqwest::{Method, Response, header::HeaderMap};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    clients::{Answer, PATIENCE, http},
    described::check,
};

/// What came of asking for a stream.
pub enum Opened {
    /// One, from its beginning.
    Stream(Events),
    /// A refusal.
    Refused(Answer),
}

/// A stream of events.
pub struct Events {
    response: Response,
    /// What has come and is no whole line yet.
    rest: Vec<u8>,
    /// The id that would be sent when coming back.
    pub last_id: Option<String>,
    /// When to come back, in milliseconds, as the stream said.
    pub retry_ms: Option<u64>,
    /// Comments that came.
    pub comments: usize,
}

/// An event.
#[derive(Debug)]
pub struct Event {
    /// Its own id.
    pub id: Option<String>,
    /// Its name; `message` where it has none.
    pub name: String,
    /// What it says.
    pub data: Value,
    /// The same, to the letter.
    pub text: String,
}

impl Events {
    /// Asks for a stream of a conversation, at `base`, such as `http://127.0.0.1:8080`.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn ask(base: &str, conversation: &str, token: Option<&str>, more: &[(&str, &str)]) -> Result<Opened> {
        let mut request = http().request(Method::GET, format!("{base}/chat/sse/{conversation}"));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        let response = timeout(PATIENCE, request.send()).await.context("no answer came")??;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        if status == 200 {
            let stream = Self { response, rest: Vec::new(), last_id: None, retry_ms: None, comments: 0 };
            return Ok(Opened::Stream(stream));
        }
        let body = serde_json::from_slice(&timeout(PATIENCE, response.bytes()).await??).unwrap_or(Value::Null);
        Ok(Opened::Refused(Answer { status, headers, body }))
    }

    /// Opens a stream; comes back to where `last_event_id` says.
    ///
    /// # Errors
    /// If it is refused, with the status in the message.
    pub async fn open(base: &str, conversation: &str, token: &str, last_event_id: Option<&str>) -> Result<Self> {
        let more: Vec<_> = last_event_id.iter().map(|id| ("last-event-id", *id)).collect();
        match Self::ask(base, conversation, Some(token), &more).await? {
            Opened::Stream(stream) => Ok(stream),
            Opened::Refused(answer) => bail!("refused: {} {}", answer.status, answer.body),
        }
    }

    /// Opens a stream and waits for `ready`, which it returns with the stream.
    ///
    /// # Errors
    /// If it is not let in.
    pub async fn join(base: &str, conversation: &str, token: &str) -> Result<(Self, Value)> {
        let mut stream = Self::open(base, conversation, token, None).await?;
        let ready = stream.expect("ready").await?;
        Ok((stream, ready.data))
    }

    /// The headers of the answer.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The next event; `None` at the end of the stream.
    ///
    /// # Errors
    /// If nothing comes, the connection breaks, or what comes is no event.
    pub async fn hear(&mut self) -> Result<Option<Event>> {
        timeout(PATIENCE, self.event()).await.map_err(|_| anyhow!("no event came"))?
    }

    /// The next event.
    ///
    /// # Errors
    /// If none comes.
    pub async fn next(&mut self) -> Result<Event> {
        self.hear().await?.context("the stream ended")
    }

    /// The next event, whose frame must be of this type.
    ///
    /// # Errors
    /// If it is another one, or none comes.
    pub async fn expect(&mut self, kind: &str) -> Result<Event> {
        let event = self.next().await.with_context(|| format!("waiting for {kind}"))?;
        if event.data["type"] == kind { Ok(event) } else { bail!("expected {kind}, got {event:?}") }
    }

    /// Waits for an event with a frame of this type, passing over others.
    ///
    /// # Errors
    /// If none comes.
    pub async fn until(&mut self, kind: &str) -> Result<Event> {
        loop {
            let event = self.next().await.with_context(|| format!("waiting for {kind}"))?;
            if event.data["type"] == kind {
                return Ok(event);
            }
        }
    }

    /// Waits for the code of the `close` event, passing over others, and for the end behind it; `None` if the stream ended
    /// without one.
    ///
    /// # Errors
    /// If the stream stays open, or goes on behind that event.
    pub async fn closed(&mut self) -> Result<Option<u64>> {
        while let Some(event) = self.hear().await? {
            if event.name == "close" {
                let more = self.hear().await?;
                anyhow::ensure!(more.is_none(), "it goes on behind its end: {more:?}");
                anyhow::ensure!(event.data["reason"].is_string(), "{event:?}");
                return Ok(event.data["code"].as_u64());
            }
        }
        Ok(None)
    }

    async fn event(&mut self) -> Result<Option<Event>> {
        let (mut id, mut name, mut data) = (None, None, Vec::new());
        loop {
            let Some(line) = self.line().await? else { return Ok(None) };
            if line.is_empty() {
                if data.is_empty() {
                    (id, name) = (None, None);
                    continue;
                }
                let name = name.unwrap_or_else(|| "message".to_owned());
                let text = data.join("\n");
                let data = serde_json::from_str(&text)?;
                if name == "message" {
                    check::heard(&data)?;
                }
                return Ok(Some(Event { id, name, data, text }));
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "" => self.comments += 1,
                "id" => {
                    self.last_id = Some(value.clone());
                    id = Some(value);
                }
                "event" => name = Some(value),
                "data" => data.push(value),
                "retry" => self.retry_ms = Some(value.parse()?),
                _ => bail!("there is no field {field:?}"),
            }
        }
    }

    async fn line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.drain(..=end).collect::<Vec<_>>();
                return Ok(Some(String::from_utf8(line[..end].to_vec())?));
            }
            let Some(chunk) = self.response.chunk().await? else { return Ok(None) };
            self.rest.extend_from_slice(&chunk);
        }
    }
}

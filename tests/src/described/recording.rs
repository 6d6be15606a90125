//! Everything that can be said over the interface, said once to a running product, and written down as it went over the wire.
//!
//! A [`Recorder`] writes transcripts, in which ids and moments have names (`<message:1>`, `<time>`), so that two runs write the
//! same, and keeps an example of each operation and frame for the documents. What is said is in [`super::scenes`].

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{asyncapi, check, text};
use crate::{
    app::App,
    clients::{Heard, PATIENCE, Socket, http},
    events::Events,
};

/// An example of an operation: what was asked, and what came back, as JSON where it is JSON.
#[derive(Default)]
pub struct Exchange {
    /// The path with its ids, and the query.
    pub path: String,
    /// The body.
    pub asked: Option<Value>,
    /// The first answer of each status: the kind of content, and the body.
    pub answers: BTreeMap<(u16, String), Value>,
}

/// What was recorded.
#[derive(Default)]
pub struct Recording {
    /// Each transcript: its name, and its lines.
    pub transcripts: Vec<(&'static str, String)>,
    /// An example of each operation, by its id.
    pub operations: BTreeMap<String, Exchange>,
    /// An example of each frame, by its message's name.
    pub frames: BTreeMap<String, Value>,
}

/// Writes one transcript.
pub struct Recorder<'a> {
    app: &'a App,
    into: &'a mut Recording,
    lines: String,
    names: Names,
}

/// A person at a socket.
pub struct Person {
    /// Who: `ben@acme`.
    handle: String,
    socket: Socket,
}

impl<'a> Recorder<'a> {
    /// Begins a transcript of what is said to this product.
    #[must_use]
    pub fn new(app: &'a App, into: &'a mut Recording, about: &str) -> Self {
        let mut names = Names::default();
        for user in &app.demo.users {
            names.given.insert(user.id.to_string(), format!("user:{}", user.handle));
        }
        for agent in &app.demo.agents {
            names.of("agent", &agent.id.to_string());
            names.of("tenant", &agent.tenant.to_string());
        }
        Self { app, into, lines: format!("# {about}\n"), names }
    }

    /// Ends it.
    pub fn end(self, name: &'static str) {
        self.into.transcripts.push((name, self.lines));
    }

    /// Says something about what comes.
    pub fn note(&mut self, about: &str) {
        let _ = write!(self.lines, "\n# {about}\n");
    }

    /// Opens a socket without a word.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn come(&mut self, handle: &str, conversation: &str) -> Result<Person> {
        let socket = Socket::open(&self.app.product.ws(), conversation, None).await?;
        Ok(Person { handle: handle.to_owned(), socket })
    }

    /// Opens a socket and is let in; `more` are further fields of the first frame, beginning with a comma.
    ///
    /// # Errors
    /// If it is not.
    pub async fn enter(&mut self, handle: &str, conversation: &str, more: &str) -> Result<Person> {
        let person = self.come(handle, conversation).await?;
        self.introduce(person, more).await
    }

    /// The same at another hub than the product's own.
    ///
    /// # Errors
    /// If it is not let in.
    pub async fn enter_at(&mut self, ws: &str, handle: &str, conversation: &str) -> Result<Person> {
        let person = Person { handle: handle.to_owned(), socket: Socket::open(ws, conversation, None).await? };
        self.introduce(person, "").await
    }

    async fn introduce(&mut self, mut person: Person, more: &str) -> Result<Person> {
        let handle = person.handle.clone();
        let token = self.app.token(self.app.user(&handle));
        self.say(&mut person, &format!(r#"{{"type":"auth","token":"{token}"{more}}}"#)).await?;
        self.until(&mut person, "ready").await?;
        Ok(person)
    }

    /// Sends a frame, or what is none.
    ///
    /// # Errors
    /// If the socket has ended.
    pub async fn say(&mut self, person: &mut Person, frame: &str) -> Result<()> {
        if let Some(token) = frame.split(r#""token":""#).nth(1).and_then(|rest| rest.split('"').next()) {
            self.names.tokens.push((token.to_owned(), format!("<token:{}>", person.handle)));
        }
        self.line(&person.handle, '>', frame);
        if serde_json::from_str(frame).is_ok_and(|read| check::said(&read).is_ok()) {
            self.keep_frame("Client", frame)?;
        }
        person.socket.raw(tokio_tungstenite::tungstenite::Message::text(frame)).await
    }

    /// Waits for a frame of this type, and writes down all that come until then.
    ///
    /// # Errors
    /// If none comes, or one is not as documented.
    pub async fn until(&mut self, person: &mut Person, kind: &str) -> Result<Value> {
        loop {
            let heard = tokio::time::timeout(PATIENCE, person.socket.hear()).await;
            match heard.with_context(|| format!("waiting for {kind}"))? {
                Heard::Frame(frame) => {
                    let read: Value = serde_json::from_str(&frame)?;
                    check::heard(&read)?;
                    self.line(&person.handle, '<', &frame);
                    self.keep_frame("Server", &frame)?;
                    if read["type"] == kind {
                        return Ok(read);
                    }
                }
                Heard::Close(Some(code)) if kind == "close" => {
                    self.line(&person.handle, '<', &format!("(close {code})"));
                    return Ok(Value::Null);
                }
                Heard::Close(code) => bail!("closed with {code:?} while waiting for {kind}"),
            }
        }
    }

    /// Opens a stream of events at a hub; comes back to where `last_event_id` says.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn follow(
        &mut self,
        base: &str,
        handle: &str,
        conversation: &str,
        last_event_id: Option<&str>,
    ) -> Result<Events> {
        let token = self.app.token(self.app.user(handle));
        let back = last_event_id.map(|id| format!(" (Last-Event-ID: {id})")).unwrap_or_default();
        // As of the conversation whose messages are asked for.
        self.names.of("conversation", conversation);
        self.line(handle, '>', &format!("GET /chat/sse/{conversation}{back}"));
        Events::open(base, conversation, &token, last_event_id).await
    }

    /// Waits for an event with a frame of this type, or for the one that is named `close`, and writes down all that come
    /// until then.
    ///
    /// # Errors
    /// If none comes, or one is not as documented.
    pub async fn hear(&mut self, handle: &str, stream: &mut Events, kind: &str) -> Result<()> {
        loop {
            let event = stream.next().await.with_context(|| format!("waiting for {kind}"))?;
            let id = event.id.map(|id| format!("id: {id}, ")).unwrap_or_default();
            let name = if event.name == "message" { String::new() } else { format!("event: {}, ", event.name) };
            self.line(handle, '<', &format!("{id}{name}data: {}", event.text));
            if event.name == "close" {
                let example = serde_json::from_str(&event.text)?;
                self.into.frames.entry(asyncapi::CLOSE.to_owned()).or_insert(example);
            } else {
                self.keep_frame("Server", &event.text)?;
            }
            if event.name == kind || event.data["type"] == kind {
                return Ok(());
            }
        }
    }

    /// Asks over REST; `body` is JSON, as it is written, or empty. `key` is the header `Idempotency-Key`, or empty.
    ///
    /// # Errors
    /// If there is no answer, or it is not as documented.
    pub async fn ask(&mut self, handle: &str, method: &str, path: &str, key: &str, body: &str) -> Result<Value> {
        let url = format!("{}{}{path}", self.app.product.rest(), conversations::BASE);
        let mut request = http().request(method.parse()?, &url).timeout(PATIENCE);
        if !handle.is_empty() {
            request = request.bearer_auth(self.app.token(self.app.user(handle)));
        }
        if !key.is_empty() {
            request = request.header("Idempotency-Key", key);
        }
        if !body.is_empty() {
            request = request.header("Content-Type", "application/json").body(body.to_owned());
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let whole = response.url().path().to_owned();
        let answer = response.bytes().await?;
        check::answered(method, &whole, status, &headers, &answer)?;
        let answer = String::from_utf8(answer.to_vec())?;

        let key = if key.is_empty() { String::new() } else { format!(" (Idempotency-Key: {key})") };
        self.line(handle, '>', format!("{method} {path}{key} {body}").trim_end());
        let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        let kind = kind.split(';').next().unwrap_or_default();
        let shown = if path == "/openapi.json" { "{…}" } else { answer.as_str() };
        let next = if headers.contains_key("link") { " (Link: …; rel=\"next\")" } else { "" };
        self.line(handle, '<', format!("{status}{next} {shown}").trim_end());
        if let Some(operation) = check::operation(method, &whole) {
            self.keep_exchange(operation, path, body, (status, kind), &answer)?;
        }
        Ok(serde_json::from_str(&answer).unwrap_or(Value::String(answer)))
    }

    fn line(&mut self, handle: &str, direction: char, what: &str) {
        let what = self.names.put(what);
        let what = what.trim_end().replace('\n', "\n    ");
        let handle = if handle.is_empty() { "nobody" } else { handle };
        let _ = writeln!(self.lines, "{handle:<10} {direction} {what}");
    }

    fn keep_frame(&mut self, side: &str, frame: &str) -> Result<()> {
        let example: Value = serde_json::from_str(&self.names.example(frame))?;
        let name = check::message(side, text(&example["type"])).context("a frame that was documented before")?;
        let kept = self.into.frames.entry(name).or_insert_with(|| example.clone());
        // The one that shows most; the earliest of those.
        if example.as_object().map(serde_json::Map::len) > kept.as_object().map(serde_json::Map::len) {
            *kept = example;
        }
        Ok(())
    }

    fn keep_exchange(
        &mut self,
        operation: String,
        path: &str,
        body: &str,
        how: (u16, &str),
        answer: &str,
    ) -> Result<()> {
        let (status, kind) = how;
        // The document has not all of itself in it.
        let answer = if path == "/openapi.json" { r#"{"openapi":"3.1.1"}"# } else { answer };
        let example = self.names.example(answer);
        let example = if kind.ends_with("json") { serde_json::from_str(&example)? } else { Value::String(example) };
        let path = self.names.example(path);
        let asked = if body.is_empty() || status >= 300 {
            None
        } else {
            Some(serde_json::from_str(&self.names.example(body))?)
        };
        let kept = self.into.operations.entry(operation).or_default();
        if kept.path.is_empty() && status < 300 {
            kept.path = path;
            kept.asked = asked;
        }
        kept.answers.entry((status, kind.to_owned())).or_insert(example);
        Ok(())
    }
}

/// What ids and moments are called in a transcript.
#[derive(Default)]
struct Names {
    given: BTreeMap<String, String>,
    counts: BTreeMap<String, usize>,
    tokens: Vec<(String, String)>,
}

impl Names {
    /// The name of an id; the next one of its kind if it has none.
    fn of(&mut self, kind: &str, id: &str) -> String {
        if let Some(name) = self.given.get(id) {
            return name.clone();
        }
        let count = self.counts.entry(kind.to_owned()).or_default();
        *count += 1;
        let name = format!("{kind}:{count}");
        self.given.insert(id.to_owned(), name.clone());
        name
    }

    /// The text with names instead of ids, moments, days and tokens.
    fn put(&mut self, text: &str) -> String {
        self.replaced(text, |name| format!("<{name}>"), ["<time>", "<day>", "<ms>"])
    }

    /// The text with ids that are the same in each run.
    fn example(&mut self, text: &str) -> String {
        self.replaced(text, example_id, ["2026-11-26T09:30:00.000Z", "2026-11-26", "1500"])
    }

    fn replaced(&mut self, text: &str, name: impl Fn(&str) -> String, moments: [&str; 3]) -> String {
        let mut text = text.to_owned();
        for (token, called) in &self.tokens {
            text = text.replace(token, called);
        }
        let (mut out, mut rest) = (String::new(), text.as_str());
        while !rest.is_empty() {
            if is_like(rest, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx") {
                let (id, after) = rest.split_at(36);
                out.push_str(&name(&self.of(kind(&out, after), id)));
                rest = after;
            } else if is_like(rest, "dddd-dd-ddTdd:dd:dd.dddZ") {
                out.push_str(moments[0]);
                rest = &rest[24..];
            } else if is_like(rest, "dddd-dd-dd") {
                out.push_str(moments[1]);
                rest = &rest[10..];
            } else if out.ends_with(r#""delay_ms":"#) && rest.starts_with(|digit: char| digit.is_ascii_digit()) {
                out.push_str(moments[2]);
                rest = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
            } else {
                let mut letters = rest.chars();
                out.extend(letters.next());
                rest = letters.as_str();
            }
        }
        out
    }
}

/// The same id for the same name, and readable: the kind's number and the name's.
fn example_id(name: &str) -> String {
    let hash = |text: &str| text.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let (kind, which) = name.split_once(':').unwrap_or((name, "1"));
    let number = which.parse().unwrap_or_else(|_| hash(which));
    format!("0193b3a0-{:04x}-7000-8000-{number:012x}", hash(kind) & 0xffff)
}

/// What an id is, by the name of the field or the part of the path before it, and what comes after it.
fn kind(before: &str, after: &str) -> &'static str {
    if after.starts_with(r#"","tenant_id""#) {
        return "conversation";
    }
    let before = before.trim_end_matches(['"', ':', '=', '/', ' ', '.']);
    let word =
        before.rsplit(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')).next().unwrap_or_default();
    match word {
        "conversation_id" | "conversations" => "conversation",
        "tenant_id" => "tenant",
        "agent_id" => "agent",
        "client_message_id" | "Key" => "client",
        "request_id" => "request",
        "user_id" | "author_id" | "by" | "taken_by" => "user",
        _ => "message",
    }
}

/// Whether a text begins as a pattern does: `x` is a hexadecimal digit, `d` a decimal one, anything else itself.
fn is_like(text: &str, pattern: &str) -> bool {
    let mut bytes = text.bytes();
    pattern.bytes().all(|wanted| {
        bytes.next().is_some_and(|byte| match wanted {
            b'x' => byte.is_ascii_hexdigit(),
            b'd' => byte.is_ascii_digit(),
            other => byte == other,
        })
    })
}

//! The scenes that are recorded: each kind of conversation once, and each operation.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use chat_core::{Code, Error, timestamp::Timestamp};
use futures::{
    StreamExt,
    channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded},
    stream::BoxStream,
};
use orchestrator::model::{Ended, Model, Piece, Prompt, Purse, Said, ToolCall, Usage};
use serde_json::json;

use super::{
    openapi,
    recording::{Recorder, Recording},
    text,
};
use crate::{app::App, product::QueueKind};

/// What an agent is told a story by, word by word; other messages it answers at once.
const STORY: &str = "Tell me a story.";

/// Uses a tool.
const TIME: &str = "What time is it?";

/// Fails.
const FAIL: &str = "Fail, please.";

/// Answers by a fixed text, but for a few messages.
struct Actor(Mutex<Option<UnboundedReceiver<Piece>>>);

impl Model for Actor {
    fn speak<'a>(&'a self, prompt: &'a Prompt, purse: &'a dyn Purse) -> BoxStream<'a, chat_core::Result<Piece>> {
        let usage = Some(Usage { input_tokens: 12, output_tokens: 5 });
        let end = Ok(Piece::End(Ended { model: "actor".to_owned(), usage }));
        let found = prompt.said.iter().any(|said| matches!(said, Said::Tool { .. }));
        let asked = prompt.said.iter().rev().find_map(|said| match said {
            Said::User(words) => Some(words.as_str()),
            Said::Agent { .. } | Said::Tool { .. } => None,
        });
        let pieces = match asked.unwrap_or_default() {
            STORY => {
                let story = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
                return story.map_or_else(|| futures::stream::empty().boxed(), |story| story.map(Ok).boxed());
            }
            TIME if !found => {
                let call = ToolCall {
                    id: "call-1".to_owned(),
                    name: "current_time".to_owned(),
                    arguments: json!({"zone": "Europe/Berlin"}),
                    opaque: None,
                };
                vec![Ok(Piece::Call(call)), end]
            }
            TIME => vec![Ok(Piece::Text("It is late.".to_owned())), end],
            FAIL => vec![Err(Error::new(Code::ModelFailed, "told to"))],
            other => vec![Ok(Piece::Text(format!("You said: {other}"))), end],
        };
        let refused = futures::stream::once(purse.reserve("actor")).filter_map(async |paid| paid.err().map(Err));
        refused.chain(futures::stream::iter(pieces)).boxed()
    }
}

/// What dictates a story.
type Says = UnboundedSender<Piece>;

/// Plays a scene on a product with an [`Actor`], and ends that, however it went.
async fn staged(play: impl AsyncFnOnce(&App, Says) -> Result<()>) -> Result<()> {
    let (says, hears) = unbounded();
    let app = App::with(|setting| setting.model = Arc::new(Actor(Mutex::new(Some(hears))))).await?;
    let rules = json!([{"condition": "a human", "reason": "asked for one"}]).to_string();
    let set = "update agents set tools = '{current_time}', model = 'actor', escalation_rules = $1::text::jsonb";
    app.owner().await?.execute(set, &[&rules]).await?;
    let played = Box::pin(play(&app, says)).await;
    let finished = app.finish().await;
    played.and(finished)
}

const OWN: &str = "0193b3a0-0000-7000-8000-0000000000aa";
const OTHER: &str = "0193b3a0-0000-7000-8000-0000000000bb";
const THIRD: &str = "0193b3a0-0000-7000-8000-0000000000cc";

/// Records all of them.
///
/// # Errors
/// What went otherwise than it should, or is not as documented.
pub async fn record() -> Result<Recording> {
    let mut recording = Recording::default();
    staged(async |app, says| plain(app, says, &mut recording).await).await.context("plain")?;
    staged(async |app, says| streamed(app, says, &mut recording).await).await.context("streamed")?;
    staged(async |app, says| tool(app, says, &mut recording).await).await.context("tool")?;
    staged(async |app, says| stopped(app, says, &mut recording).await).await.context("stopped")?;
    staged(async |app, says| failed(app, says, &mut recording).await).await.context("failed")?;
    staged(async |app, says| escalated(app, says, &mut recording).await).await.context("escalated")?;
    staged(async |app, says| reset(app, says, &mut recording).await).await.context("reset")?;
    staged(async |app, says| resumed(app, says, &mut recording).await).await.context("resumed")?;
    staged(async |app, says| bad_frames(app, says, &mut recording).await).await.context("bad frames")?;
    staged(async |app, says| moved(app, says, &mut recording).await).await.context("moved")?;
    staged(async |app, says| events(app, says, &mut recording).await).await.context("events")?;
    staged(async |app, says| portal(app, says, &mut recording).await).await.context("portal")?;
    Ok(recording)
}

fn message(words: &str, id: &str) -> String {
    format!(r#"{{"type":"message","text":"{words}","client_message_id":"{id}"}}"#)
}

async fn plain(app: &App, _: Says, into: &mut Recording) -> Result<()> {
    let conversation = app.conversation("ben@acme").await?;
    let mut scene =
        Recorder::new(app, into, "A message and its answer, with two tabs open; and the same message again.");
    let mut here = scene.enter("ben@acme", &conversation, "").await?;
    scene.say(&mut here, &message("Hello", OWN)).await?;
    scene.until(&mut here, "response").await?;
    scene.note("How far one has read is heard by one's other tabs.");
    let mut there = scene.enter("ben@acme", &conversation, "").await?;
    scene.say(&mut there, r#"{"type":"read","seq":2}"#).await?;
    scene.until(&mut here, "read").await?;
    scene.note("Sent again, since its sender could not know that it had come.");
    scene.say(&mut here, &message("Hello", OWN)).await?;
    scene.until(&mut here, "turn").await?;
    scene.note("The same id with another text is a mistake.");
    scene.say(&mut here, &message("Goodbye", OWN)).await?;
    scene.until(&mut here, "error").await?;
    scene.end("plain");
    Ok(())
}

async fn streamed(app: &App, says: Says, into: &mut Recording) -> Result<()> {
    let conversation = app.conversation("ben@acme").await?;
    let mut scene =
        Recorder::new(app, into, "A reply that is told as it is written, and somebody who comes in its middle.");
    let mut ben = scene.enter("ben@acme", &conversation, "").await?;
    scene.say(&mut ben, &message(STORY, OWN)).await?;
    for words in ["Once upon ", "a time"] {
        says.unbounded_send(Piece::Text(words.to_owned()))?;
        scene.until(&mut ben, "delta").await?;
    }
    scene.note("Another tab: it is told what there is, and goes on from there.");
    let mut late = scene.enter("ben@acme", &conversation, "").await?;
    scene.until(&mut late, "delta").await?;
    says.unbounded_send(Piece::Text(".".to_owned()))?;
    scene.until(&mut late, "delta").await?;
    says.unbounded_send(Piece::End(Ended { model: "actor".to_owned(), usage: None }))?;
    scene.until(&mut late, "response").await?;
    scene.end("streamed");
    Ok(())
}

async fn tool(app: &App, _: Says, into: &mut Recording) -> Result<()> {
    let conversation = app.conversation("ben@acme").await?;
    let mut scene = Recorder::new(app, into, "An agent that uses a tool.");
    let mut ben = scene.enter("ben@acme", &conversation, "").await?;
    scene.say(&mut ben, &message(TIME, OWN)).await?;
    scene.until(&mut ben, "response").await?;
    scene.end("tool");
    Ok(())
}

async fn stopped(app: &App, says: Says, into: &mut Recording) -> Result<()> {
    let conversation = app.conversation("ben@acme").await?;
    let mut scene = Recorder::new(app, into, "A reply that is stopped: what was written is kept.");
    let mut ben = scene.enter("ben@acme", &conversation, "").await?;
    scene.say(&mut ben, &message(STORY, OWN)).await?;
    let accepted = scene.until(&mut ben, "accepted").await?;
    says.unbounded_send(Piece::Text("Once upon a time".to_owned()))?;
    scene.until(&mut ben, "delta").await?;
    scene.say(&mut ben, &format!(r#"{{"type":"stop","turn_id":{}}}"#, accepted["turn_id"])).await?;
    scene.until(&mut ben, "turn").await?;
    scene.ask("ben@acme", "GET", &format!("/conversations/{conversation}/messages"), "", "").await?;
    scene.end("stopped");
    Ok(())
}

async fn failed(app: &App, _: Says, into: &mut Recording) -> Result<()> {
    let conversation = app.conversation("ben@acme").await?;
    let mut scene = Recorder::new(app, into, "An agent whose model fails, and a message that cannot be carried.");
    let mut ben = scene.enter("ben@acme", &conversation, "").await?;
    scene.say(&mut ben, &message(FAIL, OWN)).await?;
    scene.until(&mut ben, "error").await?;
    scene.say(&mut ben, &message(r"a bell: \u0007", OTHER)).await?;
    scene.until(&mut ben, "error").await?;
    scene.end("failed");
    Ok(())
}

async fn escalated(app: &App, _: Says, into: &mut Recording) -> Result<()> {
    let conversation = app.conversation("ben@acme").await?;
    let mut scene = Recorder::new(
        app,
        into,
        "A conversation that is handed to a person, who answers in the agent's stead and hands it back.",
    );
    let mut ben = scene.enter("ben@acme", &conversation, "").await?;
    scene.say(&mut ben, &message("I want a human", OWN)).await?;
    scene.until(&mut ben, "turn").await?;
    let at = format!("/conversations/{conversation}");
    scene.ask("ada@acme", "POST", &format!("{at}/takeover"), "", "{}").await?;
    scene.until(&mut ben, "status").await?;
    let mut ada = scene.enter("ada@acme", &conversation, "").await?;
    scene.say(&mut ada, &message("I am Ada.", OTHER)).await?;
    scene.until(&mut ada, "turn").await?;
    scene.until(&mut ben, "response").await?;
    scene.say(&mut ben, &message("Thank you.", THIRD)).await?;
    scene.until(&mut ben, "turn").await?;
    scene.until(&mut ada, "message").await?;
    scene.ask("ada@acme", "POST", &format!("{at}/handback"), "", "{}").await?;
    scene.until(&mut ben, "status").await?;
    scene.end("escalated");
    Ok(())
}

async fn reset(app: &App, _: Says, into: &mut Recording) -> Result<()> {
    let conversation = app.conversation("ben@acme").await?;
    let mut scene =
        Recorder::new(app, into, "A conversation that begins anew: its messages are gone, its numbers go on.");
    let mut ben = scene.enter("ben@acme", &conversation, "").await?;
    scene.say(&mut ben, &message("Hello", OWN)).await?;
    scene.until(&mut ben, "response").await?;
    scene.ask("ben@acme", "DELETE", &format!("/conversations/{conversation}"), "", "").await?;
    scene.until(&mut ben, "reset").await?;
    scene.say(&mut ben, &message("Hello again", OTHER)).await?;
    scene.until(&mut ben, "response").await?;
    scene.end("reset");
    Ok(())
}

async fn resumed(app: &App, _: Says, into: &mut Recording) -> Result<()> {
    let conversation = app.conversation("ben@acme").await?;
    let mut scene = Recorder::new(app, into, "Somebody who comes back, and gets what they missed and no more.");
    let mut ben = scene.enter("ben@acme", &conversation, "").await?;
    scene.say(&mut ben, &message("One", OWN)).await?;
    scene.until(&mut ben, "response").await?;
    drop(ben);
    let path = format!("/conversations/{conversation}/messages");
    let sent = scene.ask("ben@acme", "POST", &path, OTHER, r#"{"text":"Two"}"#).await?;
    let answered = format!("{path}?after={}", sent["seq"]);
    let rest = app.rest("ben@acme");
    crate::app::until("the answer", || async { Ok(rest.get(&answered).await?.body[0].is_object()) }).await?;
    scene.enter("ben@acme", &conversation, r#","last_seq":2,"epoch":0"#).await?;
    scene.note("A position that is not ours is told, not guessed at.");
    scene.enter("ben@acme", &conversation, r#","last_seq":9,"epoch":0"#).await?;
    scene.end("resumed");
    Ok(())
}

async fn bad_frames(app: &App, _: Says, into: &mut Recording) -> Result<()> {
    let conversation = app.conversation("ben@acme").await?;
    let mut scene = Recorder::new(app, into, "Frames that cannot be read, and people who are not let in.");
    let mut ben = scene.enter("ben@acme", &conversation, "").await?;
    for frame in [r#"{"type":"dance"}"#, r#"{"type":"message"}"#, "not JSON"] {
        scene.say(&mut ben, frame).await?;
        scene.until(&mut ben, "error").await?;
    }
    scene.note("The first frame must be `auth`.");
    let mut early = scene.come("ben@acme", &conversation).await?;
    scene.say(&mut early, &message("Hello", OWN)).await?;
    scene.until(&mut early, "close").await?;
    scene.note("Somebody else's conversation, and one that there is not, are alike.");
    let mut other = scene.come("ben@globex", &conversation).await?;
    let token = app.token(app.user("ben@globex"));
    scene.say(&mut other, &format!(r#"{{"type":"auth","token":"{token}"}}"#)).await?;
    scene.until(&mut other, "close").await?;
    scene.end("bad_frames");
    Ok(())
}

async fn moved(app: &App, _: Says, into: &mut Recording) -> Result<()> {
    let mut leaving = app.second(QueueKind::Local(None)).await?;
    let conversation = app.conversation("ben@acme").await?;
    let mut scene = Recorder::new(app, into, "A hub that goes away.");
    let mut ben = scene.enter_at(&leaving.ws(), "ben@acme", &conversation).await?;
    leaving.stop().await?;
    scene.until(&mut ben, "reconnect").await?;
    scene.until(&mut ben, "close").await?;
    scene.end("moved");
    Ok(())
}

async fn events(app: &App, _: Says, into: &mut Recording) -> Result<()> {
    let mut leaving = app.second(QueueKind::Local(None)).await?;
    let (base, conversation) = (leaving.rest(), app.conversation("ben@acme").await?);
    let mut scene = Recorder::new(
        app,
        into,
        "A stream of events in a socket's stead: what is said goes over REST; whoever comes back gets what they missed.",
    );
    let path = format!("/conversations/{conversation}/messages");
    let mut ben = scene.follow(&base, "ben@acme", &conversation, None).await?;
    scene.hear("ben@acme", &mut ben, "ready").await?;
    scene.ask("ben@acme", "POST", &path, OWN, r#"{"text":"Hello"}"#).await?;
    scene.hear("ben@acme", &mut ben, "response").await?;
    let place = ben.last_id.clone();
    drop(ben);
    let sent = scene.ask("ben@acme", "POST", &path, OTHER, r#"{"text":"Hello again"}"#).await?;
    let (answered, rest) = (format!("{path}?after={}", sent["seq"]), app.rest("ben@acme"));
    crate::app::until("the answer", || async { Ok(rest.get(&answered).await?.body[0].is_object()) }).await?;
    let mut ben = scene.follow(&base, "ben@acme", &conversation, place.as_deref()).await?;
    scene.hear("ben@acme", &mut ben, "ready").await?;
    scene.note("The hub goes away.");
    leaving.stop().await?;
    scene.hear("ben@acme", &mut ben, "close").await?;
    scene.end("events");
    Ok(())
}

async fn portal(app: &App, _: Says, into: &mut Recording) -> Result<()> {
    let agent = app.agent_of(app.user("ben@acme"));
    let (tenant, agent) = (agent.tenant, agent.id);
    let mut scene = Recorder::new(app, into, "Every operation of REST, once.");
    scene.ask("", "GET", "/healthz", "", "").await?;
    scene.ask("", "GET", "/readyz", "", "").await?;
    scene.ask("", "GET", "/openapi.json", "", "").await?;
    scene.ask("", "GET", "/me", "", "").await?;
    let ben = "ben@acme";
    scene.ask(ben, "GET", "/me", "", "").await?;
    scene.ask(ben, "GET", &format!("/agents?tenant_id={tenant}"), "", "").await?;
    let body = format!(r#"{{"tenant_id":"{tenant}","agent_id":"{agent}"}}"#);
    let opened = scene.ask(ben, "POST", "/conversations", "", &body).await?;
    scene.ask(ben, "POST", "/conversations", "", &body).await?;
    let conversation = text(&opened["id"]).to_owned();
    let at = format!("/conversations/{conversation}");
    let mut socket = scene.enter(ben, &conversation, "").await?;

    let said = scene.ask(ben, "POST", &format!("{at}/messages"), OWN, r#"{"text":"Hello"}"#).await?;
    let reply = scene.until(&mut socket, "response").await?;
    scene.ask(ben, "POST", &format!("{at}/messages"), OWN, r#"{"text":"Hello"}"#).await?;
    scene.ask(ben, "POST", &format!("{at}/messages"), OWN, r#"{"text":"Goodbye"}"#).await?;
    scene.ask(ben, "POST", &format!("{at}/messages"), OTHER, r#"{"text":"Hello","loud":true}"#).await?;
    scene.ask(ben, "POST", &format!("{at}/turns/{}/stop", text(&said["turn_id"])), "", "").await?;
    let feedback = format!("{at}/messages/{}/feedback", text(&reply["message_id"]));
    scene.ask(ben, "PUT", &feedback, "", r#"{"rating":"up","comment":"It listens."}"#).await?;
    scene.ask(ben, "GET", &format!("{at}/messages?limit=1"), "", "").await?;
    scene.ask(ben, "DELETE", &feedback, "", "").await?;
    scene.ask(ben, "PUT", &format!("{at}/read"), "", r#"{"seq":2}"#).await?;
    scene.until(&mut socket, "read").await?;
    scene.ask(ben, "PATCH", &at, "", r#"{"title":"A greeting","archived":true}"#).await?;
    scene.until(&mut socket, "conversation").await?;
    scene.ask(ben, "GET", &at, "", "").await?;
    scene.ask(ben, "GET", &format!("/conversations?tenant_id={tenant}&archived=true"), "", "").await?;
    scene.ask(ben, "GET", &format!("{at}/export"), "", "").await?;
    scene.ask(ben, "GET", &format!("{at}/export?format=markdown"), "", "").await?;
    scene.ask(ben, "GET", &format!("/search?tenant_id={tenant}&q=hello"), "", "").await?;
    let today = Timestamp::now().to_string();
    let today = today.get(..10).context("a moment begins with its day")?;
    let usage = format!("/usage?tenant_id={tenant}&from={today}&to={today}");
    scene.ask("ada@acme", "GET", &usage, "", "").await?;
    scene.ask(ben, "GET", &usage, "", "").await?;
    scene.ask("ben@globex", "GET", &at, "", "").await?;
    scene.ask("root", "POST", &format!("{at}/takeover"), "", "").await?;
    scene.until(&mut socket, "status").await?;
    scene.ask("root", "POST", &format!("{at}/handback"), "", "").await?;
    scene.until(&mut socket, "status").await?;
    scene.ask(ben, "DELETE", &at, "", "").await?;
    scene.until(&mut socket, "reset").await?;
    scene.end("rest");
    let document = openapi::document();
    for (path, methods) in super::entries(&document["paths"]) {
        for (_, operation) in super::entries(methods) {
            let name = text(&operation["operationId"]);
            let shown = into.operations.get(name).is_some_and(|shown| !shown.path.is_empty());
            ensure!(shown, "{path}: nobody has shown {name}; do so in scenes.rs");
        }
    }
    Ok(())
}

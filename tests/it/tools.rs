//! Agents that use tools: what is shown of it, what they find, and where it ends.

use std::sync::{Arc, Mutex};

use chat_core::Result;
use futures::{StreamExt, stream::BoxStream};
use harness::{app::App, clients::Socket};
use orchestrator::model::{Ended, Model, Piece, Prompt, Purse, Said, ToolCall};
use serde_json::{Value, json};

/// A model that is asked step by step: `script` sees the prompt and says what it answers.
struct Stepwise<F> {
    script: F,
    asked: Arc<Mutex<Vec<Prompt>>>,
}

impl<F: Fn(&Prompt) -> Vec<Piece> + Send + Sync + 'static> Model for Stepwise<F> {
    fn speak<'a>(&'a self, prompt: &'a Prompt, _: &'a dyn Purse) -> BoxStream<'a, Result<Piece>> {
        self.asked.lock().unwrap().push(prompt.clone());
        let end = Piece::End(Ended { model: "stepwise".to_owned(), usage: None });
        let pieces = (self.script)(prompt).into_iter().chain([end]).map(Ok).collect::<Vec<_>>();
        // A real one takes a moment.
        let moment = futures::stream::once(tokio::task::yield_now()).filter_map(async |()| None);
        moment.chain(futures::stream::iter(pieces)).boxed()
    }
}

fn text(words: &str) -> Piece {
    Piece::Text(words.to_owned())
}

fn call(name: &str, arguments: Value) -> Piece {
    Piece::Call(ToolCall { id: format!("call-{name}"), name: name.to_owned(), arguments, opaque: None })
}

/// What the tools have found so far, as the model is told.
fn results(prompt: &Prompt) -> Vec<String> {
    let result = |said: &Said| if let Said::Tool { result, .. } = said { Some(result.clone()) } else { None };
    prompt.said.iter().filter_map(result).collect()
}

/// The product with such a model, whose agents have both tools.
async fn app(script: impl Fn(&Prompt) -> Vec<Piece> + Send + Sync + 'static) -> (App, Socket, Arc<Mutex<Vec<Prompt>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let model = Arc::new(Stepwise { script, asked: Arc::clone(&asked) });
    let app = App::with(|setting| setting.model = model).await.unwrap();
    let owner = app.owner().await.unwrap();
    let tools = "update agents set tools = '{current_time,search_history,not_written_yet}'";
    owner.execute(tools, &[]).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let socket = app.socket("ben@acme", &conversation).await.unwrap();
    (app, socket, asked)
}

/// Says something; returns the tools that were shown and the response.
async fn asked(socket: &mut Socket, message: &str) -> (Vec<(String, String)>, Value) {
    socket.message(message, None).await.unwrap();
    let accepted = socket.until("accepted").await.unwrap();
    let mut tools = Vec::new();
    loop {
        let frame = socket.next().await.unwrap();
        match frame["type"].as_str() {
            Some("tool") => {
                assert_eq!(frame["turn_id"], accepted["turn_id"]);
                tools.push((frame["name"].as_str().unwrap().to_owned(), frame["state"].as_str().unwrap().to_owned()));
            }
            Some("response") => return (tools, frame),
            Some("delta" | "typing") => {}
            _ => panic!("expected tools and a response, got {frame}"),
        }
    }
}

fn shown(tools: &[(&str, &str)]) -> Vec<(String, String)> {
    tools.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect()
}

#[tokio::test]
async fn an_agent_finds_what_was_said_and_its_user_sees_it_look() {
    let (app, mut socket, prompts) = app(|prompt| match (prompt.message(), results(prompt).as_slice()) {
        ("where was it?", []) => vec![text("Let me look."), call("search_history", json!({"words": "canary key"}))],
        (_, [found]) => vec![text(&format!("Found: {found}"))],
        _ => vec![text("Noted.")],
    })
    .await;
    asked(&mut socket, "The KEY is under the yellow canary.").await;
    asked(&mut socket, "Nothing of that kind here.").await;
    let (tools, response) = asked(&mut socket, "where was it?").await;
    assert_eq!(tools, shown(&[("search_history", "running"), ("search_history", "done")]));
    let text = response["text"].as_str().unwrap();
    assert!(
        text.starts_with("Let me look.\n\nFound: ") && text.contains("user: The KEY is under the yellow canary."),
        "{text}"
    );
    assert!(!text.contains("Nothing of that kind"), "{text}");
    let offered: Vec<_> = prompts.lock().unwrap()[0].tools.iter().map(|tool| tool.name).collect();
    assert_eq!(offered, ["current_time", "search_history"], "what is not written yet is not offered");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_tool_that_fails_tells_the_model_and_the_user() {
    let (app, mut socket, _) = app(|prompt| match results(prompt).as_slice() {
        [] => vec![
            call("current_time", json!({"zone": "Mars/Olympus"})),
            call("current_time", json!({"zone": 7})),
            call("drop_tables", json!({})),
            call("current_time", json!({"zone": "UTC"})),
        ],
        found => vec![text(&found.join("|"))],
    })
    .await;
    let (tools, response) = asked(&mut socket, "what time is it?").await;
    let states: Vec<_> = tools.iter().map(|(_, state)| state.as_str()).filter(|state| *state != "running").collect();
    assert_eq!(states, ["failed", "failed", "failed", "done"]);
    let found: Vec<_> = response["text"].as_str().unwrap().split('|').map(str::to_owned).collect();
    assert_eq!(found[0], "There is no such time zone.");
    assert!(found[1].starts_with("The arguments cannot be read"), "{found:?}");
    assert_eq!(found[2], "There is no such tool.");
    assert!(found[3].ends_with("+00:00 (UTC)"), "{found:?}");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn whoever_calls_forever_has_to_answer_in_the_end() {
    let (app, mut socket, prompts) = app(|prompt| {
        if prompt.tools.is_empty() { vec![text("Enough.")] } else { vec![call("current_time", json!({"zone": "UTC"}))] }
    })
    .await;
    let (tools, response) = asked(&mut socket, "and now?").await;
    assert_eq!((tools.len(), &response["text"]), (10, &json!("Enough.")));
    assert_eq!(prompts.lock().unwrap().len(), 6);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_was_said_before_a_tool_stays_when_the_answer_after_it_begins_anew() {
    let (app, mut socket, _) = app(|prompt| match results(prompt).as_slice() {
        [] => vec![text("One moment."), call("current_time", json!({"zone": "UTC"}))],
        _ => vec![text("wrong"), Piece::Anew, text("right")],
    })
    .await;
    assert_eq!(asked(&mut socket, "now?").await.1["text"], "One moment.\n\nright");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_tools_find_fits_into_the_models_context() {
    let (app, mut socket, prompts) = app(|prompt| {
        if prompt.tools.is_empty() {
            vec![text("Enough.")]
        } else {
            vec![call("search_history", json!({"words": "long"}))]
        }
    })
    .await;
    let owner = app.owner().await.unwrap();
    owner.execute("update agents set context_tokens = 3000, max_output_tokens = 100", &[]).await.unwrap();
    // As a talk of long messages would leave it; each is a result of about 1,300 tokens, by the count on the safe side.
    for number in 0..2 {
        asked(&mut socket, &format!("long {number} {}", "word ".repeat(90))).await;
    }
    prompts.lock().unwrap().clear();
    asked(&mut socket, "and?").await;
    let prompts = prompts.lock().unwrap().clone();
    let tokens = |prompt: &Prompt| results(prompt).iter().map(|result| result.len().div_ceil(3)).sum::<usize>();
    assert!(prompts.last().unwrap().tools.is_empty() && !results(prompts.last().unwrap()).is_empty());
    assert!(tokens(prompts.last().unwrap()) < 3_000, "{}", tokens(prompts.last().unwrap()));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn whoever_called_goes_on_and_who_gave_no_answer_is_not_asked_first_again() {
    let asked_first = Arc::new(Mutex::new(Vec::new()));
    let asks = Arc::clone(&asked_first);
    let (app, mut socket, _) = app(move |prompt| {
        asks.lock().unwrap().push(prompt.models[0].clone());
        if results(prompt).is_empty() { vec![call("current_time", json!({"zone": "UTC"}))] } else { vec![text("Now.")] }
    })
    .await;
    let owner = app.owner().await.unwrap();
    owner.execute("update agents set model = 'first', fallback_models = '{stepwise,third}'", &[]).await.unwrap();
    asked(&mut socket, "what time is it?").await;
    assert_eq!(*asked_first.lock().unwrap(), ["first", "stepwise"]);
    app.finish().await.unwrap();
}

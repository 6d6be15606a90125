//! Every provider behind the models, over HTTP: each protocol, tries, fallback and the breaker.

use std::{
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chat_core::{
    Code,
    config::{self, Secret, Speaks},
    ids::TenantId,
};
use futures::StreamExt;
use harness::model::{Act, Asked, Outcome, ScriptedModel, words};
use orchestrator::model::{
    Ended, Habits, Model, Models, Piece, Prompt, Purse, Said, ToolCall, ToolSpec, Unlimited, Usage, provider::Patience,
};
use serde_json::json;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

pub(crate) const KEY: &str = "sk-the-operators-key";

/// Never more than a moment, unless a test is about waiting.
pub(crate) fn short() -> Patience {
    Patience {
        connect: Duration::from_secs(5),
        first_token: Duration::from_secs(10),
        idle: Duration::from_secs(10),
        pause: Duration::from_millis(10),
        turn: Duration::from_secs(30),
        breaker: Habits::default(),
    }
}

/// The entry of a provider in the settings.
pub(crate) fn entry(name: &str, speaks: Speaks, base_url: String) -> config::Provider {
    config::Provider { name: name.to_owned(), speaks, base_url, api_key: Some(Secret::from(KEY.to_owned())) }
}

/// One provider, the default one.
pub(crate) fn only(provider: &ScriptedModel, speaks: Speaks, patience: Patience) -> Models {
    let provider = entry(speaks.as_str(), speaks, provider.base_url_for(speaks));
    Models::new(&config::Model { provider: Some(provider), ..config::Model::default() }, patience)
}

/// Several, by their names.
pub(crate) fn several(providers: &[(&str, &ScriptedModel)], patience: Patience) -> Models {
    let others =
        providers.iter().map(|(name, scripted)| entry(name, Speaks::OpenAi, scripted.base_url().to_owned())).collect();
    Models::new(&config::Model { others, ..config::Model::default() }, patience)
}

pub(crate) fn prompt(models: &[&str]) -> Prompt {
    Prompt {
        tenant: TenantId::new(),
        models: models.iter().map(|model| (*model).to_owned()).collect(),
        system: "Be brief.".to_owned(),
        said: vec![Said::User("hello whispered".to_owned())],
        tools: Vec::new(),
        temperature: None,
        max_output_tokens: None,
        until: None,
    }
}

/// Everything that was said, and the code of the failure if it ended with one.
pub(crate) async fn pieces(models: &Models, prompt: &Prompt) -> (Vec<Piece>, Option<Code>) {
    paid(models, prompt, &Unlimited).await
}

pub(crate) async fn paid(models: &Models, prompt: &Prompt, purse: &dyn Purse) -> (Vec<Piece>, Option<Code>) {
    let (mut pieces, mut stream) = (Vec::new(), models.speak(prompt, purse));
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => pieces.push(piece),
            Err(error) => {
                assert!(stream.next().await.is_none(), "an error is the last piece");
                return (pieces, Some(error.code()));
            }
        }
    }
    assert!(matches!(pieces.last(), Some(Piece::End(_))), "an end is said: {pieces:?}");
    (pieces, None)
}

/// The answer as its listener has it in the end, and who gave it.
pub(crate) fn answer(pieces: &[Piece]) -> (String, Option<&Ended>) {
    let (mut text, mut end) = (String::new(), None);
    for piece in pieces {
        match piece {
            Piece::Text(part) => text.push_str(part),
            Piece::Anew => text.clear(),
            Piece::Call(_) => {}
            Piece::End(ended) => end = Some(ended),
        }
    }
    (text, end)
}

pub(crate) fn outcomes(provider: &ScriptedModel) -> Vec<Outcome> {
    provider.calls().iter().map(|call| call.outcome).collect()
}

pub(crate) fn refuse(status: u16) -> Act {
    Act::Refuse { status, retry_after: None }
}

pub(crate) fn slowly(text: &str, pieces: usize, pause_ms: u64) -> Act {
    Act::Answer { text: text.to_owned(), pieces, pause: Duration::from_millis(pause_ms) }
}

#[tokio::test]
async fn each_protocol_asks_as_its_service_wants_and_passes_pieces_on_as_they_come() {
    const TEXT: &str = "Grüße 😀, eins\nzwei drei";
    for speaks in Speaks::ALL {
        let heard = Arc::new(Mutex::new(None::<Asked>));
        let hears = Arc::clone(&heard);
        let provider = ScriptedModel::start(move |asked| {
            *hears.lock().unwrap() = Some(asked.clone());
            slowly(TEXT, 6, 30)
        })
        .await
        .unwrap();
        let models = only(&provider, speaks, short());
        let said = |text: &str| Said::Agent { text: text.to_owned(), calls: Vec::new() };
        let prompt = Prompt {
            // A history that was cut begins with the agent; a message nobody answered stands beside the next.
            said: vec![
                said("welcome"),
                Said::User("one".to_owned()),
                said("two"),
                Said::User("three".to_owned()),
                Said::User("four".to_owned()),
            ],
            temperature: Some(0.7),
            max_output_tokens: Some(77),
            ..prompt(&["large-1"])
        };
        let (came, begun) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
        let mut stream = models.speak(&prompt, &Unlimited);
        let mut pieces = Vec::new();
        while let Some(piece) = stream.next().await {
            came.lock().unwrap().push(begun.elapsed());
            pieces.push(piece.unwrap());
        }
        let came = came.lock().unwrap().clone();
        let spread = came[came.len() - 2].saturating_sub(came[0]);
        assert!(spread >= Duration::from_millis(100), "{speaks:?}: pieces must not wait for the end: {came:?}");
        let (text, end) = answer(&pieces);
        assert_eq!(text, TEXT, "{speaks:?}");
        let asked = heard.lock().unwrap().take().unwrap();
        let usage = Usage { input_tokens: asked.input_tokens(), output_tokens: words(TEXT) };
        assert_eq!(end, Some(&Ended { model: "large-1".to_owned(), usage: Some(usage) }), "{speaks:?}");
        let pair = |role: &str, text: &str| (role.to_owned(), text.to_owned());
        let mut expected =
            vec![pair("user", "one"), pair("assistant", "two"), pair("user", "three"), pair("user", "four")];
        if speaks == Speaks::OpenAi {
            expected.insert(0, pair("assistant", "welcome"));
        }
        assert_eq!((asked.said, asked.message.as_str()), (expected, "four"), "{speaks:?}");
        assert_eq!((asked.model.as_str(), asked.system.as_deref()), ("large-1", Some("Be brief.")), "{speaks:?}");
        assert_eq!((asked.temperature, asked.max_tokens), (Some(0.7), Some(77)), "{speaks:?}");
        let key = if speaks == Speaks::OpenAi { format!("Bearer {KEY}") } else { KEY.to_owned() };
        assert_eq!(asked.authorization, Some(key), "{speaks:?}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_as_one_document_is_an_answer_too() {
    for speaks in Speaks::ALL {
        let provider = ScriptedModel::start(|_| Act::Whole { text: "all at once".to_owned() }).await.unwrap();
        let models = only(&provider, speaks, short());
        let (pieces, code) = pieces(&models, &prompt(&["m"])).await;
        let (text, end) = answer(&pieces);
        assert_eq!((text.as_str(), code), ("all at once", None), "{speaks:?}");
        let took = Usage { input_tokens: 4, output_tokens: 3 };
        assert_eq!(end.unwrap().usage, Some(took), "{speaks:?}");
    }
}

#[tokio::test]
async fn tools_are_asked_for_whole_and_their_results_go_back() {
    let tool = |name| ToolSpec {
        name,
        description: "Looks something up.",
        parameters: json!({"type": "object", "properties": {"place": {"type": "string"}}}),
    };
    for speaks in Speaks::ALL {
        let provider = ScriptedModel::start(|asked| match asked.called.len() {
            0 if asked.tools != ["weather", "news"] => refuse(400),
            0 => Act::Call {
                text: "Let me see.".to_owned(),
                calls: vec![("weather".to_owned(), json!({"place": "Zürich \"1\""})), ("news".to_owned(), json!({}))],
            },
            _ => {
                let results: Vec<_> =
                    asked.said.iter().filter(|(role, _)| role == "tool").map(|(_, text)| text.as_str()).collect();
                assert!(asked.tools.is_empty());
                let arguments: Vec<_> = asked.called.iter().map(|(_, _, arguments)| arguments).collect();
                Act::answer(format!("{} after {}", results.join(", "), json!(arguments)))
            }
        })
        .await
        .unwrap();
        let models = only(&provider, speaks, short());
        let mut prompt = Prompt { tools: vec![tool("weather"), tool("news")], ..prompt(&["m"]) };
        let (first, _) = pieces(&models, &prompt).await;
        let calls: Vec<ToolCall> = first
            .iter()
            .filter_map(|piece| match piece {
                Piece::Call(call) => Some(call.clone()),
                Piece::Text(_) | Piece::Anew | Piece::End(_) => None,
            })
            .collect();
        let wanted: Vec<_> = calls.iter().map(|call| (call.name.as_str(), &call.arguments)).collect();
        assert_eq!(wanted, [("weather", &json!({"place": "Zürich \"1\""})), ("news", &json!({}))], "{speaks:?}");
        assert_ne!(calls[0].id, calls[1].id, "{speaks:?}");
        assert_eq!(calls[0].opaque.is_some(), speaks == Speaks::Gemini, "its signature is kept");
        assert_eq!(answer(&first).0, "Let me see.", "{speaks:?}");

        let results: Vec<_> = calls
            .iter()
            .map(|call| Said::Tool { id: call.id.clone(), name: call.name.clone(), result: format!("{}!", call.name) })
            .collect();
        prompt.said.push(Said::Agent { text: "Let me see.".to_owned(), calls });
        prompt.said.extend(results);
        // Nothing more may be called.
        prompt.tools.clear();
        // The double refuses calls without results, results without calls, and calls without their signatures.
        let (second, code) = pieces(&models, &prompt).await;
        assert_eq!(code, None, "{speaks:?}");
        assert_eq!(answer(&second).0, r#"weather!, news! after [{"place":"Zürich \"1\""},{}]"#, "{speaks:?}");
    }
}

#[tokio::test]
async fn every_failure_is_told_by_its_code_in_every_protocol() {
    let text = || "a part".to_owned();
    let cut = |text: &str| Act::CutAfter { text: text.to_owned(), pieces: 2, pause: Duration::ZERO };
    let brief = Duration::from_millis(200);
    for speaks in Speaks::ALL {
        for (name, act, code, calls) in [
            ("busy", Act::Refuse { status: 429, retry_after: Some("0".to_owned()) }, Code::ModelUnavailable, 3),
            (
                "busy for long",
                Act::Refuse { status: 429, retry_after: Some("60".to_owned()) },
                Code::ModelUnavailable,
                1,
            ),
            ("broken", refuse(500), Code::ModelUnavailable, 3),
            ("overloaded", refuse(529), Code::ModelUnavailable, 3),
            ("hanging", Act::Hang, Code::ModelUnavailable, 1),
            ("slow to begin", slowly("late", 1, 5_000), Code::ModelUnavailable, 1),
            ("silent in the middle", slowly("half", 2, 700), Code::ModelUnavailable, 1),
            ("lost at once", cut(""), Code::ModelUnavailable, 3),
            ("cut", cut("a part"), Code::ModelFailed, 1),
            ("ended early", Act::EndEarly { text: text() }, Code::ModelFailed, 1),
            ("garbled", Act::Garbage, Code::ModelFailed, 1),
            ("empty", Act::answer(" \n"), Code::ModelFailed, 1),
            ("failing in the stream", Act::Fail { text: text() }, Code::ModelUnavailable, 1),
            ("failing before it", Act::Fail { text: String::new() }, Code::ModelUnavailable, 3),
            ("held back", Act::Withhold, Code::ModelRefused, 1),
            ("too long", Act::TooLong, Code::PromptTooLong, 1),
            ("far too long", refuse(413), Code::PromptTooLong, 1),
            ("no such model", refuse(404), Code::ModelFailed, 1),
            ("a wrong key", refuse(401), Code::ModelFailed, 1),
        ] {
            let shared = act.clone();
            let provider = ScriptedModel::start(move |_| shared.clone()).await.unwrap();
            let patience = match name {
                "hanging" | "slow to begin" => Patience { first_token: brief, ..short() },
                "silent in the middle" => Patience { idle: brief, ..short() },
                _ => short(),
            };
            let begun = Instant::now();
            let (came, told) = pieces(&only(&provider, speaks, patience), &prompt(&["m"])).await;
            assert_eq!(told, Some(code), "{speaks:?} {name}");
            assert_eq!(provider.calls().len(), calls, "{speaks:?} {name}: {:?}", provider.calls());
            assert!(begun.elapsed() < Duration::from_secs(4), "{speaks:?} {name}: {:?}", begun.elapsed());
            assert!(came.iter().all(|piece| matches!(piece, Piece::Text(_))), "{speaks:?} {name}: {came:?}");
        }
    }
}

#[tokio::test]
async fn a_service_that_does_not_know_all_of_the_protocol_is_asked_plainly_from_then_on() {
    let provider = ScriptedModel::start(|asked| match (asked.wants_usage, asked.message.as_str()) {
        (_, "bad") => refuse(400),
        (true, _) => refuse(422),
        (false, _) => Act::answer("plainly"),
    })
    .await
    .unwrap();
    let models = only(&provider, Speaks::OpenAi, short());
    for calls in [2, 3] {
        let (came, code) = pieces(&models, &prompt(&["m"])).await;
        assert_eq!((answer(&came).0.as_str(), code), ("plainly", None));
        assert_eq!(answer(&came).1.unwrap().usage, None, "it did not tell");
        assert_eq!(provider.calls().len(), calls, "what it takes is remembered");
    }
    let bad = Prompt { said: vec![Said::User("bad".to_owned())], ..prompt(&["m"]) };
    assert_eq!(pieces(&models, &bad).await.1, Some(Code::ModelFailed));
    assert_eq!(provider.calls().len(), 4, "a refusal of what it knows is about the prompt");
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Kept {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn neither_keys_nor_words_are_logged_or_told_however_it_fails() {
    let kept = Kept::default();
    let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new("trace")).with_writer(kept.clone()).finish();
    let _log = tracing::subscriber::set_default(log);
    let partly = || "spoken words".to_owned();
    for speaks in Speaks::ALL {
        for act in [
            Act::answer("spoken words"),
            refuse(400),
            refuse(401),
            refuse(500),
            Act::TooLong,
            Act::Garbage,
            Act::Withhold,
            Act::Fail { text: partly() },
            Act::EndEarly { text: partly() },
            Act::CutAfter { text: partly(), pieces: 2, pause: Duration::ZERO },
        ] {
            let provider = ScriptedModel::start(move |_| act.clone()).await.unwrap();
            let models = only(&provider, speaks, short());
            let prompt = prompt(&["m"]);
            let mut stream = models.speak(&prompt, &Unlimited);
            while let Some(piece) = stream.next().await {
                let told = piece.err().map(|error| format!("{error} {error:?}")).unwrap_or_default();
                assert!([KEY, "whispered", "spoken"].iter().all(|hidden| !told.contains(hidden)), "{told}");
            }
        }
    }
    let logged = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("the provider answered 500") && logged.contains("anthropic"), "{logged}");
    for hidden in [KEY, "whispered", "spoken", "Be brief"] {
        let line = logged.lines().find(|line| line.contains(hidden));
        assert_eq!(line, None, "{hidden} is in the log");
    }
}

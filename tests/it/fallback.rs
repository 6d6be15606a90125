//! Who answers when one does not: the next model, and nobody who fails again and again.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chat_core::{Code, Error, Result, config::Speaks};
use futures::future::BoxFuture;
use harness::{
    app::until,
    model::{Act, Outcome, ScriptedModel},
};
use orchestrator::model::{Habits, Piece, Purse, provider::Patience};

use crate::providers::{answer, only, outcomes, paid, pieces, prompt, refuse, several, short, slowly};

#[tokio::test]
async fn the_next_model_answers_when_one_does_not_and_what_was_said_before_is_taken_back() {
    let cut = Act::CutAfter { text: "a part".to_owned(), pieces: 2, pause: Duration::ZERO };
    for (name, act, taken_back) in [
        ("refused", refuse(400), false),
        ("too long", refuse(413), false),
        ("held back", Act::Withhold, false),
        ("broken", refuse(500), false),
        ("busy for long", Act::Refuse { status: 429, retry_after: Some("20".to_owned()) }, false),
        ("a wrong key", refuse(401), false),
        ("cut", cut, true),
        ("garbled", Act::Garbage, false),
        ("ended early", Act::EndEarly { text: "a part".to_owned() }, true),
    ] {
        let first = ScriptedModel::start(move |_| act.clone()).await.unwrap();
        let second = ScriptedModel::start(|asked| Act::answer(format!("I am {}", asked.model))).await.unwrap();
        let models = several(&[("first", &first), ("second", &second)], short());
        let begun = Instant::now();
        // Who stands twice in the list, or is nobody, costs nothing.
        let prompt = prompt(&["first:a", "first:a", "nobody", "second:b", "echo"]);
        let (came, code) = pieces(&models, &prompt).await;
        assert_eq!(code, None, "{name}");
        let (text, end) = answer(&came);
        assert_eq!((text.as_str(), end.unwrap().model.as_str()), ("I am b", "second:b"), "{name}");
        assert_eq!(came.contains(&Piece::Anew), taken_back, "{name}: {came:?}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{name}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn who_hangs_leaves_half_of_the_time_to_the_next_and_the_last_resort_is_built_in() {
    let hangs = ScriptedModel::start(|_| Act::Hang).await.unwrap();
    let models = several(&[("first", &hangs)], Patience { turn: Duration::from_secs(2), ..short() });
    let begun = Instant::now();
    let (came, code) = pieces(&models, &prompt(&["first:a", "echo"])).await;
    assert_eq!((answer(&came).0.as_str(), code), ("Echo: hello whispered", None));
    assert!(begun.elapsed() >= Duration::from_millis(900) && begun.elapsed() < Duration::from_millis(1_900));
    until("the caller to leave", async || Ok(outcomes(&hangs) == [Outcome::GivenUp])).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_does_not_end_ends_with_its_turn() {
    let endless = ScriptedModel::start(|_| slowly("a a a a a a a a a a", 19, 300)).await.unwrap();
    let models = several(&[("first", &endless)], Patience { turn: Duration::from_secs(1), ..short() });
    let begun = Instant::now();
    let (came, code) = pieces(&models, &prompt(&["first:a"])).await;
    assert_eq!(code, Some(Code::DeadlineExceeded), "{came:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_reason_that_will_not_pass_is_the_one_that_is_told() {
    let away = ScriptedModel::start(|_| refuse(503)).await.unwrap();
    let strict = ScriptedModel::start(|_| Act::Withhold).await.unwrap();
    let models = several(&[("away", &away), ("strict", &strict)], short());
    for (list, told) in [
        (&["away:a", "strict:b"][..], Code::ModelRefused),
        (&["strict:b", "away:a"], Code::ModelRefused),
        (&["away:c", "nobody"], Code::ModelFailed),
    ] {
        assert_eq!(pieces(&models, &prompt(list)).await.1, Some(told), "{list:?}");
    }
}

#[tokio::test]
async fn a_provider_that_fails_again_and_again_is_left_alone_until_one_call_finds_it_back() {
    let fails = Arc::new(AtomicBool::new(true));
    let failing = Arc::clone(&fails);
    let first = ScriptedModel::start(move |_| match failing.load(Ordering::Relaxed) {
        true => refuse(500),
        false => Act::answer("back"),
    })
    .await
    .unwrap();
    let second = ScriptedModel::start(|_| Act::answer("instead")).await.unwrap();
    let pause = Duration::from_secs(1);
    let patience = Patience { breaker: Habits { failures: 5, pause, longest: pause * 2 }, ..short() };
    let models = several(&[("first", &first), ("second", &second)], patience);
    let ask = async |list: &[&str]| {
        let (came, code) = pieces(&models, &prompt(list)).await;
        code.map_or_else(|| answer(&came).0, |code| code.to_string())
    };
    for calls in [3, 5, 5, 5] {
        assert_eq!(ask(&["first:a", "second:b"]).await, "instead");
        assert_eq!(first.calls().len(), calls, "five failures in a row open it");
    }
    assert_eq!(ask(&["first:a"]).await, "model_unavailable");
    assert_eq!(first.calls().len(), 5, "nobody is asked while it is open");

    // The probe fails: one call and no more, though its refusal would be tried again otherwise.
    until("the probe", async || {
        ask(&["first:a", "second:b"]).await;
        Ok(first.calls().len() > 5)
    })
    .await
    .unwrap();
    assert_eq!(first.calls().len(), 6);
    fails.store(false, Ordering::Relaxed);
    until("the provider to be found back", async || Ok(ask(&["first:a", "second:b"]).await == "back")).await.unwrap();
    assert_eq!(first.calls().len(), 7, "the first call that was let through found it");
    assert_eq!(ask(&["first:a"]).await, "back");
}

#[tokio::test]
async fn refusals_that_are_about_a_prompt_or_a_key_open_nothing() {
    for act in [refuse(400), refuse(401), refuse(403), Act::Withhold, Act::TooLong, Act::Garbage, refuse(429)] {
        let (count, name) = (Arc::new(AtomicUsize::new(0)), format!("{act:?}"));
        let counts = Arc::clone(&count);
        let provider = ScriptedModel::start(move |_| match counts.fetch_add(1, Ordering::Relaxed) {
            0..8 => act.clone(),
            _ => Act::answer("there"),
        })
        .await
        .unwrap();
        let patience = Patience { breaker: Habits { failures: 2, ..Habits::default() }, ..short() };
        let models = only(&provider, Speaks::Anthropic, patience);
        for _ in 0..8 {
            pieces(&models, &prompt(&["m"])).await;
        }
        let (came, _) = pieces(&models, &prompt(&["m"])).await;
        assert_eq!(answer(&came).0, "there", "{name}");
    }
}

/// Counts what is reserved, and refuses after so many times.
struct Counting {
    names: Mutex<Vec<String>>,
    most: usize,
}

impl Purse for Counting {
    fn reserve<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut names = self.names.lock().unwrap();
            if names.len() == self.most {
                return Err(Error::new(Code::Busy, "nothing left"));
            }
            names.push(model.to_owned());
            Ok(())
        })
    }
}

#[tokio::test]
async fn every_call_is_paid_for_before_it_is_made_and_none_that_cannot_be() {
    let first = ScriptedModel::start(|_| refuse(500)).await.unwrap();
    let second = ScriptedModel::start(|_| Act::answer("paid")).await.unwrap();
    let models = several(&[("first", &first), ("second", &second)], short());
    let prompt = prompt(&["first:a", "second:b"]);
    for (most, calls, told) in [(0, (0, 0), Some(Code::Busy)), (2, (2, 0), Some(Code::Busy)), (4, (5, 1), None)] {
        // A fresh breaker each time: this is about the purse alone.
        let models = if most == 0 { &models } else { &several(&[("first", &first), ("second", &second)], short()) };
        let purse = Counting { names: Mutex::default(), most };
        let (_, code) = paid(models, &prompt, &purse).await;
        assert_eq!((code, (first.calls().len(), second.calls().len())), (told, calls), "{most}");
        let names = purse.names.lock().unwrap().clone();
        assert_eq!(names, ["first:a", "first:a", "first:a", "second:b"][..most], "each try is a call");
    }
}

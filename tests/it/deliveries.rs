//! What is sent to Slack and WhatsApp is sent once, whoever dies and whatever fails; and where nobody can tell, it is said.

use std::time::{Duration, Instant};

use chat_core::{
    config::Times,
    job::Job,
    store::channel_turns::{Delivered, Heard},
    timestamp::Timestamp,
};
use harness::{
    app::{self, until},
    channels::{Act, Call, Ending, whatsapp::refusal},
    clients::PATIENCE,
    pump::{event, record},
    wire::{Moment, Wire},
};
use serde_json::json;

use crate::stage::{BOT, Stage, answered, channels, dies_when, failed, let_go, short, stage, well};

fn refuses(error: &str) -> Ending {
    Ending::Answer(200, None, json!({"ok": false, "error": error}).to_string())
}

#[tokio::test]
async fn the_same_record_five_times_at_once_and_again_is_answered_once() {
    let stage = stage(well, |_| {}).await;
    for body in [stage.slack("m1", "hello"), stage.whatsapp("m2", "hello")] {
        let again = stage.deliver(&[&body; 5]).await;
        assert!(again <= 4, "one of them ran; those that found it busy come again");
        for _ in 0..5 {
            assert_eq!(stage.one(&body).await, 0, "and find it done");
        }
    }
    assert_eq!(stage.shown(), ["re: hello", "re: hello"]);
    assert_eq!(stage.talker.asked.lock().unwrap().len(), 2);
    stage.app.finish().await.unwrap();
}

/// Waits until a turn is older than its first lease, in this state.
async fn outlives_its_lease(stage: &Stage, id: &str, state: &str) {
    until("a lease to pass", || async {
        let owner = stage.app.owner().await?;
        let old = "select count(*) = 1 from channel_turns
            where message_id = $1 and state = $2 and clock_timestamp() > created_at + interval '700 ms'";
        Ok(owner.query_one(old, &[&id, &state]).await?.get(0))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_record_that_comes_while_somebody_answers_comes_back_and_is_not_lost() {
    let stage = stage(well, |setting| setting.times = short()).await;
    let body = stage.whatsapp("m1", "wait");
    let meanwhile = async {
        // Whoever is alive keeps the turn, however long it takes.
        outlives_its_lease(&stage, "m1", "running").await;
        assert_eq!(stage.one(&body).await, 1);
        stage.talker.gate.add_permits(1);
    };
    assert_eq!(tokio::join!(stage.one(&body), meanwhile).0, 0);
    assert_eq!(stage.one(&body).await, 0);
    assert_eq!(stage.turns().await["m1"], answered(1));
    assert_eq!(stage.shown().len(), 1);
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_record_that_comes_while_somebody_sends_does_not_end_the_turn() {
    let slow =
        |call: &Call| if call.nth == 1 { Act::Instead(Ending::Answer(429, Some("1"), String::new())) } else { Act::Do };
    let stage = stage(slow, |setting| setting.times = short()).await;
    let body = stage.slack("m1", "hello");
    let meanwhile = async {
        outlives_its_lease(&stage, "m1", "sending").await;
        assert_eq!(stage.one(&body).await, 1);
    };
    assert_eq!(tokio::join!(stage.one(&body), meanwhile).0, 0);
    assert_eq!(stage.turns().await["m1"], answered(1));
    assert_eq!(stage.shown(), ["re: hello"]);
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_send_that_was_begun_goes_on_where_the_lease_is_lost_under_it() {
    let slow =
        |call: &Call| if call.nth == 1 { Act::Instead(Ending::Answer(429, Some("1"), String::new())) } else { Act::Do };
    let stage = stage(slow, |setting| setting.times = short()).await;
    let body = stage.slack("m1", "hello");
    let owner = stage.app.owner().await.unwrap();
    let meanwhile = async {
        let taken = "update channel_turns set attempt = attempt + 1 where message_id = 'm1' and state = 'sending'";
        until("the turn to be taken", || async { Ok(owner.execute(taken, &[]).await? == 1) }).await.unwrap();
    };
    let both = async { tokio::join!(stage.one(&body), meanwhile).0 };
    assert_eq!(tokio::time::timeout(PATIENCE, both).await.expect("it comes to an end"), 0);
    assert_eq!(stage.shown(), ["re: hello"], "it was sent, and once");
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_dies_before_it_sends_is_followed_by_one_that_does() {
    let stage = stage(well, |setting| setting.times = short()).await;
    let body = stage.slack("m1", "wait");
    for attempt in 1..=2 {
        dies_when(&stage, &body, "the model to be asked", async || stage.talker.asked.lock().unwrap().len() == attempt)
            .await;
        let_go(&stage, "m1").await;
    }
    stage.talker.gate.add_permits(1);
    assert_eq!(stage.one(&body).await, 0);
    assert_eq!(stage.turns().await["m1"], answered(3));
    assert_eq!(stage.shown(), ["re: wait"]);

    // A fourth attempt is not made; the user is told.
    let body = stage.slack("m2", "wait forever");
    for attempt in 4..=6 {
        dies_when(&stage, &body, "the model to be asked", async || stage.talker.asked.lock().unwrap().len() == attempt)
            .await;
        let_go(&stage, "m2").await;
    }
    assert_eq!(stage.one(&body).await, 0);
    assert_eq!(stage.turns().await["m2"], failed("attempts_exhausted", 4));
    assert_eq!(stage.shown()[1..], [chat_core::Code::AttemptsExhausted.failure()]);
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_slept_past_its_lease_may_send_nothing() {
    let stage = stage(well, |_| {}).await;
    let connection = stage.connect(stage.tenant, stage.agent, "slack", Some("T2"), Some(BOT)).await;
    let store = &stage.app.product.orchestrator.store;
    let heard = Heard {
        tenant: stage.tenant,
        channel: "slack".parse().unwrap(),
        message: "m1".to_owned(),
        connection,
        agent: stage.agent,
        thread: "C1/".to_owned(),
        sender: "U1".to_owned(),
        said: Ok("hello".to_owned()),
        said_at: Timestamp::now(),
        hint: Job::parse(&stage.slack("m1", "").to_string()).unwrap(),
    };
    // A lease this short has run out by the time of the next claim.
    let (no_time, long) = (Times { lease: Duration::from_nanos(1), ..Times::default() }, Times::default());
    let claim = async |times| {
        let Delivered::Ours(claim) = store.hear(&heard, times).await.unwrap() else { panic!("somebody else has it") };
        claim
    };
    let first = claim(&no_time).await;
    let second = claim(&long).await;
    assert_eq!((first.turn, first.attempt, second.attempt), (second.turn, 1, 2));
    assert!(!store.renew_channel_turn(&first, &long).await.unwrap());
    assert!(!store.begin_sending(&first, "late", None, &long).await.unwrap());
    assert!(store.begin_sending(&second, "in time", None, &long).await.unwrap());
    assert!(store.begin_sending(&second, "in time", None, &no_time).await.unwrap(), "asked again it says the same");
    assert!(!store.end_channel_turn(&first, None).await.unwrap().0);
    // And whoever was sending when somebody else found the turn abandoned does not end it twice.
    assert!(matches!(store.hear(&heard, &long).await.unwrap(), Delivered::Abandoned { .. }));
    assert!(!store.begin_sending(&second, "again", None, &long).await.unwrap());
    assert!(!store.end_channel_turn(&second, None).await.unwrap().0);
    assert!(matches!(store.hear(&heard, &long).await.unwrap(), Delivered::Over));
    assert_eq!(stage.turns().await["m1"], failed("delivery_unknown", 2));
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_dies_after_it_sent_is_followed_by_nobody_who_sends_again() {
    let stage = stage(|_| Act::Then(Ending::Hang), |setting| setting.times = short()).await;
    let mut waits = stage.slack("m3", "hello");
    waits["placeholder_ts"] = json!(stage.slack.post(BOT, "C1", "…"));
    waits["thread_id"] = json!("1.2");
    for (body, shown) in [(stage.slack("m1", "hello"), 2), (stage.whatsapp("m2", "hello"), 3), (waits, 3)] {
        let id = body["id"].as_str().unwrap();
        let calls = stage.slack.calls().len() + stage.whatsapp.calls().len();
        let called = async || stage.slack.calls().len() + stage.whatsapp.calls().len() > calls;
        dies_when(&stage, &body, "the service to be called", called).await;
        assert_eq!(stage.one(&body).await, 1, "its lease may still be held");
        let_go(&stage, id).await;
        for _ in 0..3 {
            assert_eq!(stage.one(&body).await, 0);
        }
        assert_eq!(stage.turns().await[id], failed("delivery_unknown", 1));
        assert_eq!(stage.shown().len(), shown, "{id}");
        assert_eq!(stage.slack.calls().len() + stage.whatsapp.calls().len(), calls + 1);
    }
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_dies_between_its_note_and_the_send_leaves_it_unsent() {
    let port = app::services().await.unwrap().postgres.port();
    let wire = Wire::before(([127, 0, 0, 1], port).into()).await.unwrap();
    let stage = stage(well, |setting| {
        setting.times = short();
        let through = format!(":{}/", wire.address.port());
        setting.database_url = setting.database_url.replace(&format!(":{port}/"), &through);
    })
    .await;
    for (id, moment) in [("m1", Moment::Answered), ("m2", Moment::Asked)] {
        let text = format!("hello {id}");
        let body = stage.whatsapp(id, &text);
        // The note holds the reply.
        let mut sprung = wire.trap(&format!("re: {text}"), moment);
        tokio::select! {
            _ = stage.one(&body) => panic!("its note was not confirmed"),
            sprung = &mut sprung => { sprung.unwrap(); }
        }
        wire.sever();
        let_go(&stage, id).await;
        assert_eq!(stage.one(&body).await, 0);
    }
    let turns = stage.turns().await;
    // Noted or not: only where it certainly was not it is answered, by the next worker.
    assert_eq!((&turns["m1"], &turns["m2"]), (&failed("delivery_unknown", 1), &answered(2)));
    assert_eq!(stage.shown(), ["re: hello m2"]);
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn what_nobody_can_tell_is_not_sent_again_and_is_said() {
    for ending in [
        Ending::Cut,
        Ending::Hang,
        Ending::Answer(500, None, String::new()),
        Ending::Answer(200, None, "<html>".to_owned()),
        Ending::Answer(200, None, "x".repeat(300_000)),
        Ending::Answer(500, None, refusal(131_000).to_string()),
        refuses("internal_error"),
    ] {
        let act = Act::Then(ending.clone());
        let stage = stage(move |_| act.clone(), |_| {}).await;
        for body in [stage.slack("m1", "hello"), stage.whatsapp("m2", "hello")] {
            for _ in 0..2 {
                assert_eq!(stage.one(&body).await, 0, "{ending:?}");
            }
        }
        assert_eq!(stage.shown(), ["re: hello", "re: hello"], "{ending:?}");
        for id in ["m1", "m2"] {
            assert_eq!(stage.turns().await[id], failed("delivery_unknown", 1), "{ending:?}");
        }
        stage.app.finish().await.unwrap();
    }
}

#[tokio::test]
async fn a_placeholder_is_replaced_again_where_nobody_can_tell() {
    for ending in [Ending::Cut, Ending::Hang, Ending::Answer(503, None, String::new()), refuses("fatal_error")] {
        let act = Act::Then(ending.clone());
        let stage = stage(move |call| if call.nth == 1 { act.clone() } else { Act::Do }, |_| {}).await;
        let mut body = stage.slack("m1", "hello");
        body["placeholder_ts"] = json!(stage.slack.post(BOT, "C1", "…"));
        assert_eq!(stage.one(&body).await, 0);
        assert_eq!(stage.turns().await["m1"], answered(1), "{ending:?}");
        assert_eq!((stage.slack.calls().len(), stage.shown()), (2, vec!["re: hello".to_owned()]));
        stage.app.finish().await.unwrap();
    }
}

#[tokio::test]
async fn what_was_certainly_not_sent_is_sent_when_the_service_says() {
    for instead in [
        Ending::Answer(429, Some("1"), json!({"ok": false, "error": "ratelimited"}).to_string()),
        Ending::Answer(200, Some("1"), json!({"ok": false, "error": "ratelimited"}).to_string()),
        Ending::Answer(400, Some("1"), refusal(131_056).to_string()),
    ] {
        let slack = !matches!(instead, Ending::Answer(400, ..));
        let act = Act::Instead(instead);
        let stage = stage(move |call| if call.nth == 1 { act.clone() } else { Act::Do }, |_| {}).await;
        let body = if slack { stage.slack("m1", "hello") } else { stage.whatsapp("m1", "hello") };
        let begun = Instant::now();
        assert_eq!(stage.one(&body).await, 0);
        assert!(begun.elapsed() >= Duration::from_secs(1), "after {:?}", begun.elapsed());
        assert_eq!(stage.turns().await["m1"], answered(1));
        assert_eq!(stage.shown(), ["re: hello"]);
        stage.app.finish().await.unwrap();
    }
}

#[tokio::test]
async fn a_refusal_ends_the_turn_at_once_and_one_that_passes_after_four_times() {
    for (ending, calls) in [
        (refuses("channel_not_found"), 1),
        (Ending::Answer(404, None, String::new()), 1),
        // A pause for which the turn has no time.
        (Ending::Answer(429, Some("900"), String::new()), 1),
        (Ending::Answer(429, None, String::new()), 4),
    ] {
        let act = Act::Instead(ending.clone());
        let stage = stage(move |_| act.clone(), |_| {}).await;
        for _ in 0..2 {
            assert_eq!(stage.one(&stage.slack("m1", "hello")).await, 0);
        }
        assert_eq!(stage.turns().await["m1"], failed("delivery_failed", 1), "{ending:?}");
        assert_eq!(stage.slack.calls().len(), calls, "{ending:?}");
        assert!(stage.shown().is_empty());
        stage.app.finish().await.unwrap();
    }
    // After a day of silence WhatsApp takes templates only.
    let act = Act::Instead(Ending::Answer(400, None, refusal(131_047).to_string()));
    let stage = stage(move |_| act.clone(), |_| {}).await;
    assert_eq!(stage.one(&stage.whatsapp("m1", "hello")).await, 0);
    assert_eq!((stage.turns().await["m1"].clone(), stage.whatsapp.calls().len()), (failed("delivery_failed", 1), 1));
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_service_that_is_away_is_called_until_it_is_back() {
    let stage = stage(well, |_| {}).await;
    // A port where nobody listens, until somebody does.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut orchestrator = stage.app.product.orchestrator.clone();
    orchestrator.channels = channels(format!("http://{free}/api"), format!("http://{free}/v26.0"));
    let away = event(vec![record("1", &stage.slack("m1", "hello").to_string())]);
    assert!(orchestrator.handle(away).await.batch_item_failures.is_empty());
    assert_eq!(stage.turns().await["m1"], failed("delivery_failed", 1), "and was not taken for perhaps sent");
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn an_answer_that_breaks_off_says_so_and_sends_no_further_part() {
    let act = Act::Then(Ending::Cut);
    let stage = stage(move |call| if call.nth == 3 { act.clone() } else { Act::Do }, |_| {}).await;
    for body in [stage.slack("m1", "long"), stage.whatsapp("m2", "long")] {
        for _ in 0..2 {
            assert_eq!(stage.one(&body).await, 0);
        }
        assert_eq!(stage.turns().await[body["id"].as_str().unwrap()], failed("delivery_unknown", 1));
    }
    assert_eq!((stage.slack.seen().len(), stage.whatsapp.got().len()), (3, 3));
    stage.app.finish().await.unwrap();
}

//! Turns: the database decides what runs, in which order, and how often.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chat_core::{
    Code, Error, Result,
    config::{Memory, Times},
    ids::{ClientMessageId, ConversationId, MessageId, TenantId},
    job::Job,
    queue::Mischief,
    store::{
        claim::Claim,
        sweep::Pace,
        turns::{Completion, End, Lease},
    },
};
use futures::{future::join_all, stream::BoxStream};
use harness::{
    app::{App, until},
    product::QueueKind,
    pump::{event, record},
};
use orchestrator::model::{Model, Piece, Prompt, Purse, at_once};
use serde_json::{Value, json};

/// A model that never answers.
pub(crate) struct Never;

impl Model for Never {
    fn speak<'a>(&'a self, _: &'a Prompt, _: &'a dyn Purse) -> BoxStream<'a, Result<Piece>> {
        Box::pin(futures::stream::pending())
    }
}

/// A model that answers with how often it was asked, fails when told to fail, and panics when told to panic.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Model for Counting {
    fn speak<'a>(&'a self, prompt: &'a Prompt, _: &'a dyn Purse) -> BoxStream<'a, Result<Piece>> {
        let count = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        at_once("counting", async move {
            match prompt.message() {
                "fail" => Err(Error::new(Code::ModelFailed, "no answer")),
                "panic" => panic!("told to"),
                _ => Ok(format!("answer {count}")),
            }
        })
    }
}

/// Waits until the turn that `sent` names is in this state.
pub(crate) async fn state_becomes(app: &App, sent: &Value, state: &str) {
    let owner = app.owner().await.unwrap();
    let turn = sent["turn_id"].as_str().unwrap();
    until(state, || async {
        let row = owner.query_one("select state from turns where id = $1::text::uuid", &[&turn]).await?;
        Ok(row.get::<_, String>(0) == state)
    })
    .await
    .unwrap();
}

/// A product whose queue gives nothing to its pump: the tests here hold the turns themselves.
pub(crate) async fn by_hand() -> (App, TenantId, ConversationId) {
    let app = App::with(|setting| setting.queue = silent()).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let tenant = app.user("ben@acme").tenant.unwrap();
    (app, tenant, conversation.parse().unwrap())
}

/// An SQS endpoint where nobody listens: every hint is lost.
pub(crate) fn silent() -> QueueKind {
    QueueKind::Sqs(harness::product::SqsAddress {
        endpoint: "http://127.0.0.1:9".to_owned(),
        queue_url: "http://127.0.0.1:9/queue".to_owned(),
        dead_letters_url: "http://127.0.0.1:9/dead".to_owned(),
    })
}

async fn say(app: &App, conversation: ConversationId, text: &str) -> Value {
    let key = ClientMessageId::new().to_string();
    let answer = app.rest("ben@acme").say(&conversation.to_string(), &key, text).await.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.body);
    answer.body
}

async fn claim(app: &App, tenant: TenantId, conversation: ConversationId, times: &Times) -> Option<Claim> {
    app.product.orchestrator.store.claim(tenant, conversation, times, &Memory::default()).await.unwrap()
}

#[tokio::test]
async fn a_second_delivery_of_a_turn_does_not_answer_twice() {
    let model = Arc::new(Counting::default());
    let app = App::with(|setting| {
        setting.model = Arc::clone(&model) as Arc<dyn Model>;
        setting.queue = QueueKind::Local(Some(Mischief { seed: 1, repeat: 1.0, reorder: 0.5 }));
    })
    .await
    .unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    for number in 1..=20 {
        socket.message("hello", None).await.unwrap();
        assert_eq!(socket.until("response").await.unwrap()["seq"], number * 2);
    }
    assert_eq!(model.0.load(Ordering::SeqCst), 20);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn messages_sent_at_once_are_answered_one_after_the_other_in_their_order() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    for number in 0..10 {
        socket.message(&format!("message {number}"), None).await.unwrap();
    }
    for number in 0..10 {
        assert_eq!(socket.until("response").await.unwrap()["text"], format!("Echo: message {number}"));
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn one_claim_at_a_time_and_the_late_one_is_refused() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    say(&app, conversation, "hello").await;
    // A lease this short has run out by the time of the next claim.
    let short = Times { lease: Duration::from_nanos(1), ..Times::default() };
    let long = Times::default();

    let claims = join_all((0..8).map(|_| claim(&app, tenant, conversation, &long))).await;
    assert_eq!(claims.iter().flatten().count(), 1, "one worker, the others find it busy");
    let first = claims.into_iter().flatten().next().unwrap();
    assert_eq!(store.renew(&first, &short).await.unwrap(), Lease::Held);

    let second = claim(&app, tenant, conversation, &long).await.expect("an abandoned turn is claimed again");
    assert_eq!((second.turn, first.attempt, second.attempt), (first.turn, 1, 2));
    assert_eq!(store.renew(&first, &long).await.unwrap(), Lease::Lost);
    let (late, _) = store.finish(&first, MessageId::new(), "late", Completion::Whole).await.unwrap();
    assert!(late.is_none(), "the ghost's reply is refused");
    assert!(!store.end(&first, End::Failed(Code::ModelFailed)).await.unwrap().0);
    let (reply, next) = store.finish(&second, MessageId::new(), "in time", Completion::Whole).await.unwrap();
    assert_eq!((reply.unwrap().seq, next), (2, None));
    assert!(store.finish(&second, MessageId::new(), "again", Completion::Whole).await.unwrap().0.is_none());
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_claim_brings_what_was_said_and_nothing_that_waits_behind_it() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    let times = Times::default();
    for text in ["one", "two", "three"] {
        say(&app, conversation, text).await;
    }
    for (text, before) in [("one", 0), ("two", 1), ("three", 2)] {
        let claim = claim(&app, tenant, conversation, &times).await.unwrap();
        assert_eq!(claim.message, text);
        let order: Vec<_> = claim.before.iter().map(|mark| mark.seq).collect();
        assert_eq!(order, [1, 4, 2, 5][..before * 2], "each reply behind its message");
        let (_, next) =
            store.finish(&claim, MessageId::new(), &format!("re: {text}"), Completion::Whole).await.unwrap();
        assert_eq!(next.is_some(), text != "three", "the next one's hint comes back with the finish");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_reply_of_before_the_reset_finds_its_fence_closed() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    let times = Times::default();
    say(&app, conversation, "before").await;
    let old = claim(&app, tenant, conversation, &times).await.unwrap();
    app.rest("ben@acme").delete(&format!("/conversations/{conversation}")).await.unwrap();
    assert_eq!(store.renew(&old, &times).await.unwrap(), Lease::Lost);
    assert!(store.finish(&old, MessageId::new(), "too late", Completion::Whole).await.unwrap().0.is_none());

    say(&app, conversation, "after").await;
    let new = claim(&app, tenant, conversation, &times).await.unwrap();
    assert_eq!(new.before, [], "nothing said before reaches the agent");
    assert_eq!(store.finish(&new, MessageId::new(), "fresh", Completion::Whole).await.unwrap().0.unwrap().seq, 3);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_agent_does_not_talk_over_the_person_who_took_over() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    let times = Times::default();
    say(&app, conversation, "help").await;
    let claim = claim(&app, tenant, conversation, &times).await.unwrap();
    let owner = app.owner().await.unwrap();
    owner.execute("update web_conversations set status = 'escalated' where id = $1", &[&conversation]).await.unwrap();
    assert_eq!(store.renew(&claim, &times).await.unwrap(), Lease::Lost);
    assert!(store.finish(&claim, MessageId::new(), "me first", Completion::Whole).await.unwrap().0.is_none());
    assert!(store.end(&claim, End::Escalated).await.unwrap().0);

    // And a later message is not even begun.
    let later = say(&app, conversation, "still there?").await;
    let job =
        Job::web(tenant, conversation, app.user("ben@acme").id, later["turn_id"].as_str().unwrap().parse().unwrap());
    let answer = app.product.orchestrator.handle(event(vec![record("1", &job.body())])).await;
    assert!(answer.batch_item_failures.is_empty());
    state_becomes(&app, &later, "escalated").await;
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_model_that_fails_or_panics_ends_in_an_error_that_the_user_sees() {
    let times = Times { lease: Duration::from_millis(150), renew: Duration::from_millis(50), ..Times::default() };
    let app = App::with(|setting| {
        setting.model = Arc::new(Counting::default());
        setting.times = times;
    })
    .await
    .unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message("fail", None).await.unwrap();
    let accepted = socket.until("accepted").await.unwrap();
    let turn = socket.expect("turn").await.unwrap();
    assert_eq!(
        (&turn["state"], &turn["code"], &turn["turn_id"]),
        (&json!("failed"), &json!("model_failed"), &accepted["turn_id"])
    );
    let error = socket.expect("error").await.unwrap();
    assert_eq!((&error["code"], &error["turn_id"]), (&json!("model_failed"), &accepted["turn_id"]));

    // A panic is a crash: the lease runs out, the turn is tried again, and given up.
    socket.message("panic", None).await.unwrap();
    let error = socket.until("error").await.unwrap();
    assert_eq!(error["code"], "attempts_exhausted");
    socket.message("hello", None).await.unwrap();
    assert!(socket.until("response").await.unwrap()["text"].as_str().unwrap().starts_with("answer"));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_turn_that_waits_is_stopped_at_once_and_one_that_runs_at_its_next_renewal() {
    let app = App::with(|setting| {
        setting.model = Arc::new(Never);
        setting.times = Times { renew: Duration::from_millis(50), ..Times::default() };
    })
    .await
    .unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let mut sent = Vec::new();
    for text in ["runs", "waits"] {
        socket.message(text, None).await.unwrap();
        sent.push(socket.until("accepted").await.unwrap());
    }
    state_becomes(&app, &sent[0], "running").await;
    for accepted in sent.iter().rev() {
        socket.say(&json!({"type": "stop", "turn_id": accepted["turn_id"]})).await.unwrap();
        let turn = socket.until("turn").await.unwrap();
        assert_eq!((&turn["turn_id"], &turn["state"]), (&accepted["turn_id"], &json!("stopped")));
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_sweep_finds_what_a_lost_hint_or_a_dead_worker_left_lying() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    let (ours, others) = (say(&app, conversation, "one").await, say(&app, conversation, "two").await);
    // Everything is late at once: what the seconds of the real pace would bring.
    let pace = Pace { first: Duration::ZERO, longest: Duration::ZERO, ..Pace::new(&Times::default()) };
    let hinted = async || {
        let found = store.sweep(&pace).await.unwrap();
        found.waiting.iter().map(|job| job.message.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(hinted().await, [ours["turn_id"].as_str().unwrap()], "the first of the conversation, not the second");

    let short = Times { lease: Duration::from_nanos(1), ..Times::default() };
    let live = claim(&app, tenant, conversation, &Times::default()).await.unwrap();
    assert!(hinted().await.is_empty(), "a live lease is left alone");
    store.renew(&live, &short).await.unwrap();
    assert_eq!(hinted().await.len(), 1, "an abandoned one is not");

    // Its third and last attempt is abandoned, too.
    for _ in 0..2 {
        claim(&app, tenant, conversation, &short).await.unwrap();
    }
    let found = store.sweep(&pace).await.unwrap();
    assert_eq!((found.waiting.len(), found.spent.len()), (0, 1));
    let (ended, next) = store.bury(found.spent[0], &pace).await.unwrap();
    assert_eq!(ended.unwrap().code, Code::AttemptsExhausted);
    assert_eq!(next.unwrap().message.id, others["turn_id"].as_str().unwrap(), "whoever ends a turn wakes the next");
    assert_eq!(store.bury(found.spent[0], &pace).await.unwrap(), (None, None), "it ends once");

    // One that nobody ever claims fails when it has waited long enough.
    let impatient = Pace { queue_age: Duration::ZERO, ..pace };
    store.sweep(&impatient).await.unwrap();
    let found = store.sweep(&impatient).await.unwrap();
    assert_eq!(store.bury(found.spent[0], &impatient).await.unwrap().0.unwrap().code, Code::DeadlineExceeded);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_message_whose_hint_was_lost_is_answered_all_the_same() {
    let app = App::with(|setting| setting.queue = silent()).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let sent = say(&app, conversation.parse().unwrap(), "is anybody there?").await;
    // The queue heals: from here on the sweep's hints arrive.
    let healed = app.second(QueueKind::Local(None)).await.unwrap();
    let owner = app.owner().await.unwrap();
    let turn = sent["turn_id"].as_str().unwrap();
    until("the reply", || async {
        // Time passes; both products sweep, and the first one's hints still go nowhere.
        owner.execute("update turns set hinted_at = now() - interval '61 s'", &[]).await?;
        let row = owner.query_one("select state from turns where id = $1::text::uuid", &[&turn]).await?;
        Ok(row.get::<_, String>(0) == "answered")
    })
    .await
    .unwrap();
    drop(healed);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_second_attempt_has_what_the_first_left_of_the_time() {
    let (app, tenant, conversation) = by_hand().await;
    let short = Times { lease: Duration::from_millis(1), ..Times::default() };
    say(&app, conversation, "hello").await;
    let first = claim(&app, tenant, conversation, &short).await.unwrap();
    assert!(first.left <= short.turn && first.left > short.turn / 2, "{:?}", first.left);
    let owner = app.owner().await.unwrap();
    let used = "update turns set deadline = clock_timestamp() + interval '7 seconds' where id = $1::text::uuid";
    owner.execute(used, &[&first.turn.to_string()]).await.unwrap();
    until("the lease to run out", || async {
        let lost = "select lease_until < clock_timestamp() from turns where id = $1::text::uuid";
        Ok(owner.query_one(lost, &[&first.turn.to_string()]).await?.get(0))
    })
    .await
    .unwrap();
    let second = claim(&app, tenant, conversation, &Times::default()).await.unwrap();
    assert_eq!(second.attempt, 2);
    assert!(second.left <= Duration::from_secs(7) && second.left > Duration::ZERO, "{:?}", second.left);
    app.product.orchestrator.store.end(&second, End::Stopped).await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_turn_is_not_left_to_a_person_who_has_handed_back() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    say(&app, conversation, "hello").await;
    let claim = claim(&app, tenant, conversation, &Times::default()).await.unwrap();
    assert!(!store.end(&claim, End::Escalated).await.unwrap().0, "nobody is there to answer");
    store.end(&claim, End::Stopped).await.unwrap();
    app.finish().await.unwrap();
}

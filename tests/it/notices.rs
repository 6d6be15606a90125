//! A tenant is told outside that a person is wanted: by a signed webhook, in Slack, again, and to nobody's cost.

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use chat_core::{
    config::{self, Secret, Times},
    ids::ConversationId,
    sealed::Sealer,
    store::sweep::Pace,
};
use futures::future::join_all;
use harness::{
    app::{App, until},
    clients::{PATIENCE, Socket},
    notices::{Outside, Received, Reply},
};
use serde_json::{Value, json};

use crate::escalation::{audited, set_rules};

/// The key of the webhook's signatures.
const KEY: &[u8] = b"a key of twenty-four bytes";

/// A product whose tenants' agents know one rule, and whose ben's company is told by webhook and in Slack.
async fn app_with(outside: &Outside, change: impl FnOnce(&mut config::Notices)) -> App {
    let app = App::with(|setting| {
        setting.sealing = config::Sealing::with(vec![[7; 32]]);
        setting.notices.allow_private = true;
        setting.notices.slack_base_url = format!("{}/api", outside.base_url());
        change(&mut setting.notices);
    })
    .await
    .unwrap();
    set_rules(&app, &json!([{"condition": "help", "reason": "needs <help>"}])).await;
    let sealer = Sealer::new(&app.setting.sealing);
    let tenant = app.user("ben@acme").tenant.unwrap();
    let seal = |purpose: &str, secret: String| sealer.seal(tenant, purpose, &Secret::from(secret)).unwrap();
    let set = "insert into escalation_notices (tenant_id, webhook_url, webhook_secret, slack_channel, slack_token)
        values ($1, $2, $3, 'C012345', $4)";
    let secret = seal("webhook", format!("whsec_{}", BASE64_STANDARD.encode(KEY)));
    let token = seal("slack_notice", "xoxb-a-bot".to_owned());
    let hook = format!("{}/hook", outside.base_url());
    app.owner().await.unwrap().execute(set, &[&tenant, &hook, &secret, &token]).await.unwrap();
    app
}

/// Both take what they get.
fn takes(received: &Received, _: usize) -> Reply {
    Reply::Answer(200, if received.path == "/hook" { String::new() } else { json!({"ok": true}).to_string() })
}

/// Ben asks for help; returns his conversation and socket once his turn has ended.
async fn escalate(app: &App) -> (String, Socket) {
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut bens = app.socket("ben@acme", &conversation).await.unwrap();
    bens.message("help & <rescue>", None).await.unwrap();
    assert_eq!(bens.until("turn").await.unwrap()["state"], "escalated");
    (conversation, bens)
}

/// What the audit says of the notices of a conversation, once there are this many.
async fn told(app: &App, conversation: &str, count: usize) -> Vec<Value> {
    let owner = app.owner().await.unwrap();
    let sql = "select detail::text from audit_events where subject_id = $1::text::uuid and action = 'conversation.told'
        and actor_id is null order by created_at";
    let details = async || {
        let rows = owner.query(sql, &[&conversation]).await.unwrap();
        rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect::<Vec<Value>>()
    };
    until("the tenant to be told", || async { Ok(details().await.len() >= count) }).await.unwrap();
    let details = details().await;
    assert_eq!(details.len(), count, "{details:?}");
    details
}

/// Lets the time pass until the next notice is due, and the sweep may give another hint.
async fn time_passes(app: &App) -> bool {
    let pass = "update web_conversations set tell_at = now(), tell_hinted_at = null where tell_at is not null";
    app.owner().await.unwrap().execute(pass, &[]).await.unwrap() > 0
}

fn verify(received: &Received) {
    let [id, timestamp, signature] =
        ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| received.header(name));
    let age = chat_core::timestamp::Timestamp::now().unix_micros() / 1_000_000 - timestamp.parse::<i64>().unwrap();
    assert!((-5..300).contains(&age), "{age}");
    let tag = BASE64_STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, KEY);
    hmac::verify(&key, format!("{id}.{timestamp}.{}", received.body).as_bytes(), &tag).unwrap();
    assert!(hmac::verify(&key, format!("{id}.{timestamp}.{} ", received.body).as_bytes(), &tag).is_err());
}

#[tokio::test]
async fn a_webhook_is_signed_and_slack_says_why_and_what() {
    let outside = Outside::start(takes).await.unwrap();
    let app = app_with(&outside, |_| {}).await;
    let (conversation, _bens) = escalate(&app).await;
    assert_eq!(told(&app, &conversation, 1).await, [json!({"count": 1, "webhook": "sent", "slack": "sent"})]);

    let [hook] = &outside.received("/hook")[..] else { panic!("once") };
    assert_eq!((hook.method.as_str(), hook.header("content-type")), ("POST", "application/json"));
    verify(hook);
    let body = hook.json();
    assert_eq!(
        (&body["type"], body["id"].as_str().unwrap()),
        (&json!("conversation.escalated"), hook.header("webhook-id"))
    );
    let data = &body["data"];
    let (ben, agent) = (app.user("ben@acme"), app.agent_of(app.user("ben@acme")));
    assert_eq!(data["tenant_id"], json!(ben.tenant));
    assert_eq!(data["conversation_id"], json!(conversation));
    assert_eq!(data["agent"], json!({"id": agent.id, "name": agent.name}));
    assert_eq!(data["user"], json!({"id": ben.id, "name": "ben@acme"}));
    assert_eq!((&data["reason"], &data["count"]), (&json!("needs <help>"), &json!(1)));
    let said = &data["transcript"][0];
    assert_eq!((&said["content"], &said["role"], &said["seq"]), (&json!("help & <rescue>"), &json!("user"), &json!(1)));
    let read = app.rest("ben@acme").get(&format!("/conversations/{conversation}")).await.unwrap().body;
    assert_eq!(data["since"], read["escalation"]["since"]);

    let [slack] = &outside.received("/api/chat.postMessage")[..] else { panic!("once") };
    assert_eq!((slack.method.as_str(), slack.header("authorization")), ("POST", "Bearer xoxb-a-bot"));
    let posted = slack.json();
    assert_eq!((&posted["channel"], &posted["mrkdwn"]), (&json!("C012345"), &json!(false)));
    let text = posted["text"].as_str().unwrap();
    for part in ["ben@acme waits for a person", "Reason: needs &lt;help&gt;", "ben@acme: help &amp; &lt;rescue&gt;"] {
        assert!(text.contains(part), "{text}");
    }

    // A tenant that wants to be told nothing is not: the other company's ben.
    let theirs = app.conversation("ben@globex").await.unwrap();
    let mut socket = app.socket("ben@globex", &theirs).await.unwrap();
    socket.message("help", None).await.unwrap();
    assert_eq!(socket.until("turn").await.unwrap()["state"], "escalated");
    assert!(
        app.owner()
            .await
            .unwrap()
            .query(
                "select 1 from web_conversations where tell_at is not null and id = $1",
                &[&theirs.parse::<ConversationId>().unwrap()]
            )
            .await
            .unwrap()
            .is_empty()
    );
    app.finish().await.unwrap();
}

#[tokio::test]
async fn whoever_does_not_answer_is_reminded_until_somebody_does() {
    let outside = Outside::start(takes).await.unwrap();
    let app = app_with(&outside, |notices| notices.reminders = 2).await;
    let (conversation, _bens) = escalate(&app).await;
    told(&app, &conversation, 1).await;
    let owner = app.owner().await.unwrap();
    let wait = "select extract(epoch from tell_at - now())::float8 from web_conversations where id = $1::text::uuid";
    let waits = async || owner.query_one(wait, &[&conversation]).await.unwrap().get::<_, Option<f64>>(0);
    let first = waits().await.unwrap();
    assert!((840.0..=900.0).contains(&first), "15 minutes: {first}");
    // Nobody hints but the sweep of the hub. Taking it over answers nothing yet.
    assert!(time_passes(&app).await);
    assert_eq!(told(&app, &conversation, 2).await[1]["count"], 2);
    let second = waits().await.unwrap();
    assert!((1_740.0..=1_800.0).contains(&second), "twice as long: {second}");
    let taken =
        app.rest("ada@acme").post(&format!("/conversations/{conversation}/takeover"), &json!({})).await.unwrap();
    assert_eq!(taken.status, 200);
    assert!(time_passes(&app).await);
    told(&app, &conversation, 3).await;
    assert_eq!(waits().await, None, "two reminders are all");
    let counts: Vec<Value> =
        outside.received("/hook").iter().map(|hook| hook.json()["data"]["count"].clone()).collect();
    assert_eq!(counts, [1, 2, 3]);

    // Where somebody answers nobody is told again.
    for act in ["answers", "hands back"] {
        let hand_back = format!("/conversations/{conversation}/handback");
        assert_eq!(app.rest("root").post(&hand_back, &json!({})).await.unwrap().status, 200);
        let before = outside.received("/hook").len();
        escalate(&app).await;
        until("the notice", || async { Ok(outside.received("/hook").len() > before) }).await.unwrap();
        assert!(waits().await.is_some(), "a new one begins anew");
        if act == "answers" {
            let key = chat_core::ids::ClientMessageId::new().to_string();
            assert_eq!(app.rest("ada@acme").say(&conversation, &key, "I am here.").await.unwrap().status, 202);
        } else {
            app.rest("root").post(&hand_back, &json!({})).await.unwrap();
        }
        assert_eq!(waits().await, None, "{act}");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_notice_has_one_teller_and_a_lost_one_is_found_by_the_sweep() {
    let outside = Outside::start(takes).await.unwrap();
    let app = app_with(&outside, |_| {}).await;
    let (conversation, _bens) = escalate(&app).await;
    told(&app, &conversation, 1).await;
    let store = &app.product.orchestrator.store;
    let (tenant, id) = (app.user("ben@acme").tenant.unwrap(), conversation.parse::<ConversationId>().unwrap());
    let settings = config::Notices::default();
    let claim = || store.claim_notice(tenant, id, &settings);
    assert!(claim().await.unwrap().is_none(), "nothing is due");

    // Due again, and every worker wants to tell it. Nobody sends it: as if its teller had died.
    let due = "update web_conversations set tell_at = now(), tell_hinted_at = now() where tell_at is not null";
    app.owner().await.unwrap().execute(due, &[]).await.unwrap();
    let claims = join_all((0..8).map(|_| claim())).await;
    let claims: Vec<_> = claims.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(claims.iter().map(|notice| notice.count).collect::<Vec<_>>(), [2]);
    assert_eq!(claims[0].transcript.len(), 1);

    // The next one; the sweep finds it once, and again after a while.
    let pace = Pace { longest: Duration::from_secs(3_600), ..Pace::new(&Times::default()) };
    app.owner().await.unwrap().execute(due, &[]).await.unwrap();
    assert!(store.sweep(&pace).await.unwrap().notices.is_empty(), "there was a hint of it just now");
    let soon = Pace { longest: Duration::ZERO, ..pace };
    let found = store.sweep(&soon).await.unwrap().notices;
    assert_eq!(found.len(), 1);
    for job in &found {
        assert_eq!((job.message.tenant_id, job.extras.conversation_id), (Some(tenant), Some(id)));
        let record = harness::pump::record("1", &job.body());
        let answer = app.product.orchestrator.handle(harness::pump::event(vec![record])).await;
        assert!(answer.batch_item_failures.is_empty());
    }
    assert_eq!(told(&app, &conversation, 2).await[1]["count"], 3, "the second was nobody's");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_webhook_that_hangs_delays_nobodys_answer() {
    let outside = Outside::start(
        |received: &Received, before| {
            if received.path == "/hook" { Reply::Hang } else { takes(received, before) }
        },
    )
    .await
    .unwrap();
    let app = app_with(&outside, |_| {}).await;
    let (conversation, mut bens) = escalate(&app).await;
    until("the webhook to be called", || async { Ok(outside.received("/hook").len() == 1) }).await.unwrap();
    let begun = Instant::now();
    bens.message("still there?", None).await.unwrap();
    assert_eq!(bens.until("turn").await.unwrap()["state"], "escalated");
    let other = app.conversation("ada@acme").await.unwrap();
    let mut adas = app.socket("ada@acme", &other).await.unwrap();
    adas.message("hello", None).await.unwrap();
    adas.until("response").await.unwrap();
    let owner = app.owner().await.unwrap();
    let told_yet = "select count(*) from audit_events where action = 'conversation.told'";
    let still_hangs = owner.query_one(told_yet, &[]).await.unwrap().get::<_, i64>(0) == 0;
    assert!(still_hangs, "answered while it hangs, after {:?}", begun.elapsed());
    let outcome = &told(&app, &conversation, 1).await[0];
    assert_eq!(outcome, &json!({"count": 1, "webhook": "no answer in time", "slack": "sent"}));
    assert_eq!(outside.received("/hook").len(), 1, "what may have arrived is not sent again");
    assert!(begun.elapsed() < PATIENCE);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_is_refused_for_the_moment_is_sent_again_and_what_is_refused_is_not() {
    let outside = Outside::start(|received: &Received, before| match (received.path.as_str(), before) {
        ("/hook", 0) => Reply::Later(503, 0),
        ("/hook", 1) => Reply::Later(429, 1),
        ("/hook", 2) => Reply::Answer(204, String::new()),
        ("/hook", 3) => Reply::Elsewhere(307, "/elsewhere".to_owned()),
        ("/hook", _) => Reply::Later(429, 3_600),
        (_, 0) => Reply::Answer(200, json!({"ok": false, "error": "channel_not_found"}).to_string()),
        (_, 1) => Reply::Answer(200, "no JSON".to_owned()),
        (_, _) => Reply::Answer(403, String::new()),
    })
    .await
    .unwrap();
    let app = app_with(&outside, |_| {}).await;
    let (conversation, _bens) = escalate(&app).await;
    told(&app, &conversation, 1).await;
    let hooks = outside.received("/hook");
    hooks.iter().for_each(verify);
    assert_eq!(hooks.len(), 3);
    assert!(hooks.iter().all(|hook| hook.header("webhook-id") == hooks[0].header("webhook-id")), "the same event");
    let between = [1, 2].map(|which| hooks[which].header("webhook-timestamp").parse::<u64>().unwrap());
    assert!(between[1] > between[0], "it comes back when it was asked to");
    for count in 2..=3 {
        assert!(time_passes(&app).await);
        told(&app, &conversation, count).await;
    }
    assert_eq!(
        told(&app, &conversation, 3).await,
        [
            json!({"count": 1, "webhook": "sent", "slack": "refused: channel_not_found"}),
            json!({"count": 2, "webhook": "answered 307", "slack": "the answer is no JSON"}),
            json!({"count": 3, "webhook": "answered 429", "slack": "answered 403"}),
        ]
    );
    assert!(outside.received("/elsewhere").is_empty(), "nobody leads us elsewhere");
    assert_eq!((outside.received("/hook").len(), outside.received("/api/chat.postMessage").len()), (5, 3));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_webhook_does_not_reach_what_only_we_can() {
    let outside = Outside::start(takes).await.unwrap();
    let app = app_with(&outside, |notices| notices.allow_private = false).await;
    let owner = app.owner().await.unwrap();
    let port = outside.base_url().rsplit(':').next().unwrap();
    let (conversation, _bens) = escalate(&app).await;
    for (count, (url, why)) in [
        (outside.base_url().to_owned(), "the address is not https"),
        (format!("https://127.0.0.1:{port}/hook"), "the address is not public"),
        (format!("https://localhost:{port}/hook"), "the address is not public"),
        (format!("https://[::ffff:7f00:1]:{port}/hook"), "the address is not public"),
    ]
    .into_iter()
    .enumerate()
    {
        if count > 0 {
            owner.execute("update escalation_notices set webhook_url = $1", &[&url]).await.unwrap();
            assert!(time_passes(&app).await);
        }
        let outcome = told(&app, &conversation, count + 1).await;
        assert_eq!((&outcome[count]["webhook"], &outcome[count]["slack"]), (&json!(why), &json!("sent")), "{url}");
    }
    // A secret of another tenant, or copied from another row, does not open.
    let other = Sealer::new(&app.setting.sealing);
    let foreign = other.seal(app.demo.tenants[1].id, "slack_notice", &Secret::from("xoxb-b".to_owned())).unwrap();
    owner.execute("update escalation_notices set slack_token = $1", &[&foreign]).await.unwrap();
    assert!(time_passes(&app).await);
    assert_eq!(told(&app, &conversation, 5).await[4]["slack"], "its secret does not open");
    assert_eq!(outside.received("/api/chat.postMessage").len(), 4);
    assert!(outside.received("/hook").is_empty());
    assert!(
        audited(&app, &conversation).await.iter().any(|(action, who)| action == "conversation.told" && who == "nobody")
    );
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_sweep_sees_when_to_tell_and_nothing_of_what() {
    let outside = Outside::start(takes).await.unwrap();
    let app = app_with(&outside, |_| {}).await;
    let (conversation, _bens) = escalate(&app).await;
    told(&app, &conversation, 1).await;
    let other = app.conversation("ben@globex").await.unwrap();
    let client = app.app_role().await.unwrap();
    client.batch_execute("set role chat_sweep").await.unwrap();
    let due = client.query("select id from web_conversations", &[]).await.unwrap();
    let due: Vec<ConversationId> = due.iter().map(|row| row.get(0)).collect();
    assert_eq!(due, [conversation.parse().unwrap()], "not {other}, which nobody is told of");
    for sql in [
        "select escalation_reason from web_conversations",
        "select user_id, status from web_conversations",
        "select 1 from web_conversation_messages",
        "select 1 from escalation_notices",
        "update web_conversations set tell_at = null",
        "update web_conversations set status = 'agent'",
    ] {
        assert!(client.execute(sql, &[]).await.is_err(), "{sql}");
    }
    // Nor may the cross-tenant reader see sealed secrets.
    client.batch_execute("set role none; set role chat_platform").await.unwrap();
    assert!(client.query("select 1 from escalation_notices", &[]).await.is_err());
    // A tenant reads its own members' names, and nobody else's.
    client.batch_execute("set role none").await.unwrap();
    assert!(client.query("select 1 from portal_users", &[]).await.unwrap().is_empty());
    client.batch_execute(&format!("set app.current_tenant = '{}'", app.demo.tenants[0].id)).await.unwrap();
    let names = client.query("select display_name from portal_users order by 1", &[]).await.unwrap();
    assert_eq!(names.iter().map(|row| row.get(0)).collect::<Vec<String>>(), ["ada@acme", "ben@acme"]);
    let own = client.query("select tenant_id from escalation_notices", &[]).await.unwrap();
    assert_eq!(own.len(), 1);
    client.batch_execute(&format!("set app.current_tenant = '{}'", app.demo.tenants[1].id)).await.unwrap();
    assert!(client.query("select 1 from escalation_notices", &[]).await.unwrap().is_empty());
    app.finish().await.unwrap();
}

//! A person takes over and the agent steps back: by its rules, by an admin's hand, and back again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chat_core::{Result, ids::ClientMessageId, job::Job, keys::escalation_status_key};
use futures::stream::BoxStream;
use harness::{
    app::{App, until},
    clients::Socket,
    pump::{event, record},
    services::User,
};
use orchestrator::model::{Model, Piece, Prompt, Purse, at_once};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// A model that answers `said: …`, counts how often it was asked, and waits for leave to answer `slowly`.
pub(crate) struct Patient {
    asked: AtomicUsize,
    leave: Semaphore,
}

impl Patient {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { asked: AtomicUsize::new(0), leave: Semaphore::new(0) })
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Model for Patient {
    fn speak<'a>(&'a self, prompt: &'a Prompt, _: &'a dyn Purse) -> BoxStream<'a, Result<Piece>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        at_once("patient", async move {
            if prompt.message() == "slowly" {
                self.leave.acquire().await.unwrap().forget();
            }
            Ok(format!("said: {}", prompt.message()))
        })
    }
}

/// The product with this model, whose agents have these rules.
pub(crate) async fn app_with(model: &Arc<Patient>, rules: &Value) -> App {
    let app = App::with(|setting| setting.model = Arc::clone(model) as Arc<dyn Model>).await.unwrap();
    set_rules(&app, rules).await;
    app
}

pub(crate) async fn set_rules(app: &App, rules: &Value) {
    let set = "update agents set escalation_rules = $1::text::jsonb";
    app.owner().await.unwrap().execute(set, &[&rules.to_string()]).await.unwrap();
}

/// What the audit says of a conversation, oldest first: the actions that are about who answers, and whose they are.
pub(crate) async fn audited(app: &App, conversation: &str) -> Vec<(String, String)> {
    let rows = "select e.action, coalesce(u.email, 'nobody') from audit_events e left join portal_users u on u.id = e.actor_id
        where e.subject_id = $1::text::uuid and e.action not in ('conversation.read', 'conversation.write')
          and e.action not in ('conversation.takeover', 'conversation.handback', 'conversation.reset') order by e.created_at, e.id";
    let rows = app.owner().await.unwrap().query(rows, &[&conversation]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get::<_, String>(1).replace(".example", ""))).collect()
}

pub(crate) fn as_pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let whole = |(action, who): &(&str, &str)| (format!("conversation.{action}"), (*who).to_owned());
    pairs.iter().map(whole).collect()
}

async fn cached(app: &App, conversation: &str) -> Option<String> {
    let key = escalation_status_key(app.user("ben@acme").tenant.unwrap(), conversation);
    let client = redis::Client::open(app.setting.redis.url(User::Harness)).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("GET").arg(key.as_str()).query_async(&mut redis).await.unwrap()
}

pub(crate) async fn post(app: &App, who: &str, conversation: &str, act: &str) -> (u16, Value) {
    let answer = app.rest(who).post(&format!("/conversations/{conversation}/{act}"), &json!({})).await.unwrap();
    (answer.status, answer.body)
}

async fn inbox(app: &App, who: &str) -> Value {
    let tenant = app.user(who).tenant.map(|tenant| format!("&tenant_id={tenant}")).unwrap_or_default();
    let answer = app.rest(who).get(&format!("/conversations?status=escalated{tenant}")).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

pub(crate) async fn messages(app: &App, conversation: &str) -> Vec<(String, String, Value)> {
    let answer = app.rest("root").get(&format!("/conversations/{conversation}/messages")).await.unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = answer.body.as_array().unwrap().iter();
    all.map(|one| (text(&one["role"]), text(&one["content"]), one["author_id"].clone())).collect()
}

/// Says something as the conversation's owner; returns the frames from `accepted` to the end of its turn.
pub(crate) async fn said(socket: &mut Socket, text: &str) -> Vec<Value> {
    socket.message(text, None).await.unwrap();
    let mut frames = vec![socket.until("accepted").await.unwrap()];
    let turn = frames[0]["turn_id"].clone();
    loop {
        let frame = socket.next().await.unwrap();
        let ends = frame["turn_id"] == turn && (frame["type"] == "response" || frame["type"] == "turn");
        frames.push(frame);
        if ends {
            return frames;
        }
    }
}

/// How a turn ended: `response`, or its state.
pub(crate) fn end(frames: &[Value]) -> String {
    let last = frames.last().unwrap();
    last["state"].as_str().or(last["type"].as_str()).unwrap().to_owned()
}

/// A conversation of ben's that waits for a person, and his socket in it.
pub(crate) async fn escalated(app: &App) -> (String, Socket) {
    set_rules(app, &json!([{"condition": "help"}])).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut bens = app.socket("ben@acme", &conversation).await.unwrap();
    assert_eq!(end(&said(&mut bens, "help").await), "escalated");
    (conversation, bens)
}

#[tokio::test]
async fn a_rule_hands_the_conversation_to_a_person_before_the_agent_is_asked() {
    let model = Patient::new();
    let rules =
        json!([{"condition": "AND"}, {"condition": "a human", "reason": "asked for one"}, {"condition": "talk"}]);
    let app = app_with(&model, &rules).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut bens = app.socket("ben@acme", &conversation).await.unwrap();
    assert_eq!(end(&said(&mut bens, "hello, humanoid").await), "response");
    assert_eq!(cached(&app, &conversation).await, None);

    let frames = said(&mut bens, "Let me talk to A  HUMAN.").await;
    let kinds: Vec<&str> = frames.iter().map(|frame| frame["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["accepted", "status", "turn"]);
    assert_eq!((&frames[1]["status"], &frames[1]["by"]), (&json!("escalated"), &Value::Null));
    assert_eq!(end(&frames), "escalated");
    assert_eq!(end(&said(&mut bens, "still there?").await), "escalated");
    assert_eq!(model.asked(), 1, "nobody asks the agent for a person's answer");

    let read = app.rest("ben@acme").get(&format!("/conversations/{conversation}")).await.unwrap().body;
    assert_eq!((&read["status"], &read["escalation"]["reason"]), (&json!("escalated"), &json!("asked for one")));
    assert_eq!(read["escalation"]["user_id"], app.user("ben@acme").id.to_string());
    for absent in ["by", "taken_by", "transcript"] {
        assert!(read["escalation"].get(absent).is_none(), "{read}");
    }
    assert_eq!(audited(&app, &conversation).await, as_pairs(&[("escalated", "ben@acme")]));
    until("the cache", || async { Ok(cached(&app, &conversation).await.as_deref() == Some("escalated")) })
        .await
        .unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn rules_count_what_was_said_up_to_their_message_and_no_more() {
    let (app, tenant, conversation) = crate::turns::by_hand().await;
    set_rules(&app, &json!([{"condition": "billing AND attempts > 2"}, {"condition": "messages >= 6"}])).await;
    let rest = app.rest("ben@acme");
    let run = async || {
        let job = Job::web(tenant, conversation, app.user("ben@acme").id, chat_core::ids::TurnId::new());
        let answer = app.product.orchestrator.handle(event(vec![record("1", &job.body())])).await;
        assert!(answer.batch_item_failures.is_empty());
    };
    let say = async |text: &str| {
        let sent = rest.say(&conversation.to_string(), &ClientMessageId::new().to_string(), text).await.unwrap();
        assert_eq!(sent.status, 202, "{}", sent.body);
        sent.body
    };
    // All wait before the first is looked at: a message does not count those behind it.
    for (round, (texts, last)) in [
        (vec!["billing", "weather", "Billing?", "BILLING!"], "billing AND attempts > 2"),
        (vec!["billing", "a", "b", "billing", "c", "d"], "messages >= 6"),
        (vec!["billing", "a", "billing"], ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut sent = Vec::new();
        for text in &texts {
            sent.push(say(text).await);
        }
        for (number, sent) in sent.iter().enumerate() {
            run().await;
            let escalates = !last.is_empty() && number + 1 == texts.len();
            let state = if escalates { "escalated" } else { "answered" };
            crate::turns::state_becomes(&app, sent, state).await;
        }
        let read = rest.get(&format!("/conversations/{conversation}")).await.unwrap().body;
        assert_eq!(read["escalation"]["reason"].as_str().unwrap_or_default(), last, "round {round}");
        match round {
            // Who hands back begins anew, and so does a reset; or the next message would be a person's again.
            0 => assert_eq!(post(&app, "ada@acme", &conversation.to_string(), "handback").await.0, 200),
            _ => assert_eq!(rest.delete(&format!("/conversations/{conversation}")).await.unwrap().status, 204),
        }
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_reply_that_is_being_written_while_a_person_takes_over_is_not_heard() {
    let model = Patient::new();
    let app = app_with(&model, &json!([])).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut bens = app.socket("ben@acme", &conversation).await.unwrap();
    bens.message("slowly", None).await.unwrap();
    let accepted = bens.until("accepted").await.unwrap();
    bens.message("and this waits", None).await.unwrap();
    let waits = bens.until("accepted").await.unwrap();
    until("the model to be asked", || async { Ok(model.asked() == 1) }).await.unwrap();

    let (status, taken) = post(&app, "root", &conversation, "takeover").await;
    assert_eq!((status, &taken["status"]), (200, &json!("escalated")));
    model.leave.add_permits(1);
    let root = json!(app.user("root").id);
    assert_eq!((&taken["escalation"]["by"], &taken["escalation"]["taken_by"]), (&root, &root));

    // Everything that is heard until a later message has ended.
    bens.message("later", None).await.unwrap();
    let (mut ends, mut later) = (Vec::new(), Value::Null);
    while ends.last() != Some(&later) || later.is_null() {
        let frame = bens.next().await.unwrap();
        match frame["type"].as_str().unwrap() {
            "accepted" => later = frame["turn_id"].clone(),
            "turn" => {
                assert_eq!(frame["state"], "escalated", "{frame}");
                ends.push(frame["turn_id"].clone());
            }
            "status" => assert_eq!((&frame["status"], &frame["by"]), (&json!("escalated"), &root)),
            "typing" => {}
            other => panic!("{other}: {frame}"),
        }
    }
    assert_eq!(ends, [accepted["turn_id"].clone(), waits["turn_id"].clone(), later], "each ends once");
    until("the worker to have given up", || async { Ok(model.leave.available_permits() <= 1) }).await.unwrap();
    let roles: Vec<String> = messages(&app, &conversation).await.into_iter().map(|(role, ..)| role).collect();
    assert_eq!(roles, ["user", "user", "user"], "nothing of the agent is stored");
    assert_eq!(model.asked(), 1);
    assert_eq!(audited(&app, &conversation).await, as_pairs(&[("escalated", "root"), ("taken_over", "root")]));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn only_admins_take_over_and_hand_back_and_doing_it_again_changes_nothing() {
    let app = app_with(&Patient::new(), &json!([])).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let adas = app.conversation("ada@acme").await.unwrap();
    let statuses = async |conversation: &str, act: &str| {
        let mut statuses = Vec::new();
        for who in ["ben@acme", "ada@acme", "ben@globex", "ada@globex"] {
            statuses.push(post(&app, who, conversation, act).await.0);
        }
        statuses
    };
    // While the agent answers: the owner may not, nobody else knows of it.
    assert_eq!(statuses(&conversation, "takeover").await, [403, 404, 404, 404]);
    assert_eq!(statuses(&conversation, "handback").await, [403, 404, 404, 404]);
    assert_eq!(statuses(&adas, "takeover").await, [404, 403, 404, 404], "an admin's own is the agent's, too");
    assert_eq!(statuses(&adas, "handback").await, [404, 200, 404, 404]);
    assert_eq!(audited(&app, &adas).await, []);
    drop(escalated(&app).await);

    assert_eq!(statuses(&conversation, "takeover").await, [403, 200, 404, 404]);
    let (_, again) = post(&app, "ada@acme", &conversation, "takeover").await;
    assert_eq!(again["escalation"]["taken_by"], json!(app.user("ada@acme").id));
    let (_, moved) = post(&app, "root", &conversation, "takeover").await;
    assert_eq!(moved["escalation"]["taken_by"], json!(app.user("root").id));
    assert_eq!(moved["escalation"]["reason"], "help");
    assert_eq!(post(&app, "ben@acme", &conversation, "handback").await.0, 403);
    let (status, back) = post(&app, "ada@acme", &conversation, "handback").await;
    assert_eq!((status, &back["status"], back.get("escalation")), (200, &json!("agent"), None));
    assert_eq!(post(&app, "ada@acme", &conversation, "handback").await.0, 404, "not hers to look at any more");
    assert_eq!(post(&app, "root", &conversation, "handback").await.0, 200);
    let rows =
        [("escalated", "ben@acme"), ("taken_over", "ada@acme"), ("taken_over", "root"), ("handed_back", "ada@acme")];
    assert_eq!(audited(&app, &conversation).await, as_pairs(&rows));
    assert_eq!(cached(&app, &conversation).await, None);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_inbox_shows_an_admin_what_waits_and_what_was_said() {
    let app = app_with(&Patient::new(), &json!([])).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut bens = app.socket("ben@acme", &conversation).await.unwrap();
    for text in ["the first", &"x".repeat(2_000), "short"] {
        said(&mut bens, text).await;
    }
    assert_eq!(inbox(&app, "ada@acme").await, json!([]));
    drop(escalated(&app).await);

    let listed = inbox(&app, "ada@acme").await;
    let escalation = &listed[0]["escalation"];
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["id"]), (1, &json!(conversation)));
    assert_eq!((&escalation["reason"], &escalation["user_name"]), (&json!("help"), &json!("ben@acme")));
    assert!(escalation["since"].as_str().unwrap().ends_with('Z'), "{escalation}");
    let lines = escalation["transcript"].as_array().unwrap();
    let chars = |line: &Value| line["content"].as_str().unwrap().chars().count();
    // 4 + 11 + 5 + 2006 of 3000 leave 974 for the 2000 before; what came before that is left out.
    let seen: Vec<(i64, &str, usize)> =
        lines.iter().map(|line| (line["seq"].as_i64().unwrap(), line["role"].as_str().unwrap(), chars(line))).collect();
    assert_eq!(seen, [(3, "user", 974), (4, "assistant", 2_006), (5, "user", 5), (6, "assistant", 11), (7, "user", 4)]);
    assert_eq!(lines[4]["content"], "help");
    assert!(lines[4]["created_at"].as_str().unwrap().ends_with('Z'));

    assert_eq!(inbox(&app, "root").await[0]["escalation"]["user_name"], "ben@acme");
    assert_eq!(inbox(&app, "ben@acme").await[0]["id"], json!(conversation), "his own");
    assert_eq!(inbox(&app, "ada@globex").await, json!([]));
    let tenant = app.user("ben@acme").tenant.unwrap();
    let foreign = app.rest("ada@globex").get(&format!("/conversations?status=escalated&tenant_id={tenant}")).await;
    assert_eq!(foreign.unwrap().status, 403);
    let plain = app.rest("ben@acme").get(&format!("/conversations?tenant_id={tenant}")).await.unwrap().body;
    assert!(plain[0]["escalation"]["reason"] == "help" && plain[0]["escalation"].get("transcript").is_none());
    post(&app, "ada@acme", &conversation, "handback").await;
    assert_eq!(inbox(&app, "ada@acme").await, json!([]));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_reset_gives_the_conversation_back_to_the_agent() {
    let app = app_with(&Patient::new(), &json!([])).await;
    let (conversation, mut bens) = escalated(&app).await;
    post(&app, "ada@acme", &conversation, "takeover").await;
    let mut adas = app.socket("ada@acme", &conversation).await.unwrap();
    bens.until("status").await.unwrap();
    let answer = app.rest("ben@acme").delete(&format!("/conversations/{conversation}")).await.unwrap();
    assert_eq!(answer.status, 204);
    let status = bens.expect("status").await.unwrap();
    assert_eq!((&status["status"], &status["by"]), (&json!("agent"), &json!(app.user("ben@acme").id)));
    assert_eq!(bens.expect("reset").await.unwrap()["epoch"], 1);
    assert_eq!(adas.closed().await.unwrap(), Some(4403));
    assert_eq!(end(&said(&mut bens, "hello again").await), "response");
    assert_eq!(inbox(&app, "ada@acme").await, json!([]));
    assert_eq!(cached(&app, &conversation).await, None);
    let rows = [("escalated", "ben@acme"), ("taken_over", "ada@acme"), ("handed_back", "ben@acme")];
    assert_eq!(audited(&app, &conversation).await, as_pairs(&rows));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_lost_status_is_told_with_the_next_ping() {
    let app = App::with(|setting| setting.limits.ping_ms = 200).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut bens = app.socket("ben@acme", &conversation).await.unwrap();
    let owner = app.owner().await.unwrap();
    for status in ["escalated", "agent"] {
        // Nobody publishes this.
        owner.execute("update web_conversations set status = $1", &[&status]).await.unwrap();
        let told = bens.next_within(Duration::from_secs(10)).await.unwrap();
        assert_eq!((&told["type"], &told["status"]), (&json!("status"), &json!(status)));
    }
    app.finish().await.unwrap();
}

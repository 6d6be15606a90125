//! Slack and WhatsApp: a message is answered where it came from, by the agent and with the token of its connection.

use chat_core::{
    Code,
    ids::{ConversationId, TurnId},
    job::Job,
};
use harness::{
    channels::{Act, Ending},
    product::QueueKind,
    pump::{create_queue, event, record},
};
use serde_json::{Value, json};

use crate::{
    original::Log,
    queue::endpoint,
    stage::{
        BOT, NUMBER, NUMBER_TOKEN, OTHER_BOT, PERSON, TEXT_CHARS, answered, dies_when, failed, let_go, short, stage,
        well,
    },
};

#[tokio::test]
async fn a_message_of_slack_is_answered_in_its_thread_and_the_placeholder_becomes_the_answer() {
    let stage = stage(well, |_| {}).await;
    assert_eq!(stage.one(&stage.slack("m1", "hello")).await, 0);
    let seen = stage.slack.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].channel.as_str(), seen[0].thread_ts.as_deref()), ("C1", Some("1699999999.000100")));
    assert_eq!((seen[0].text.as_str(), seen[0].token.as_str()), ("re: hello", BOT));
    let call = &stage.slack.calls()[0];
    assert_eq!((&call.body["unfurl_links"], &call.body["parse"]), (&json!(false), &json!("none")));

    let mut waits = stage.slack("m2", "markup");
    waits["placeholder_ts"] = json!(stage.slack.post(BOT, "C1", "…"));
    assert_eq!(stage.one(&waits).await, 0);
    let seen = stage.slack.seen();
    assert_eq!(seen.len(), 2, "nothing new was posted");
    assert_eq!(seen[1].text, "&lt;!channel&gt; a &lt; b &amp; *c*");
    assert_eq!(stage.turns().await["m2"], answered(1));

    // Where somebody deleted the placeholder the answer is posted.
    let mut gone = stage.slack("m3", "still there?");
    gone["placeholder_ts"] = json!("1.1");
    assert_eq!(stage.one(&gone).await, 0);
    assert_eq!(stage.slack.seen()[2].text, "re: still there?");
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_message_of_whatsapp_is_answered_to_whoever_wrote_it() {
    let stage = stage(well, |_| {}).await;
    assert_eq!(stage.one(&stage.whatsapp("wamid.1", "a < b?")).await, 0);
    let got = stage.whatsapp.got();
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].from.as_str(), got[0].to.as_str(), got[0].text.as_str()), (NUMBER, PERSON, "re: a < b?"));
    assert_eq!(stage.turns().await["wamid.1"], answered(1));
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_long_answer_comes_whole_in_parts_and_in_order() {
    let stage = stage(well, |_| {}).await;
    let mut waits = stage.slack("m1", "long");
    waits["placeholder_ts"] = json!(stage.slack.post(BOT, "C1", "…"));
    assert_eq!(stage.deliver(&[&waits, &stage.whatsapp("wamid.1", "long")]).await, 0);
    let whole: String = (0..2_000).map(|number| format!("word{number}&")).collect();
    let solid = |texts: Vec<String>| texts.concat().replace(char::is_whitespace, "");
    let slack: Vec<_> = stage.slack.seen().into_iter().map(|message| message.text.replace("&amp;", "&")).collect();
    let whatsapp: Vec<_> = stage.whatsapp.got().into_iter().map(|message| message.text).collect();
    assert!(slack.len() > 6 && whatsapp.len() > 5, "{} {}", slack.len(), whatsapp.len());
    assert_eq!(solid(slack), whole);
    assert_eq!(solid(whatsapp), whole);
    let calls = stage.slack.calls();
    assert_eq!(calls[0].path, "/api/chat.update");
    assert!(calls[1..].iter().all(|call| call.body["thread_ts"] == "1699999999.000100"));
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn the_agent_hears_what_was_said_in_this_talk_and_in_no_other() {
    let stage = stage(well, |_| {}).await;
    let owner = stage.app.owner().await.unwrap();
    owner.execute("update agents set system_prompt = 'Be brief.'", &[]).await.unwrap();
    stage.one(&stage.slack("m1", "one")).await;
    stage.one(&stage.slack("m2", "fail")).await;
    let mut elsewhere = stage.slack("m3", "another thread");
    elsewhere["thread_id"] = json!("1.2");
    let mut somebody = stage.slack("m4", "another person");
    somebody["sender"]["user_id"] = json!("U2");
    stage.deliver(&[&elsewhere, &somebody, &stage.whatsapp("m5", "another channel")]).await;
    stage.one(&stage.slack("m6", "system")).await;
    let asked = stage.talker.asked.lock().unwrap().clone();
    let last = asked.last().unwrap();
    assert_eq!(last, &["user: one", "agent: re: one", "user: fail", "user: system"]);
    assert!(stage.shown().contains(&"Be brief.".to_owned()));
    // The 20 last ones, in order.
    for number in 10..40 {
        stage.one(&stage.slack(&format!("m{number}"), &format!("text {number}"))).await;
    }
    let asked = stage.talker.asked.lock().unwrap().clone();
    let last = asked.last().unwrap();
    assert_eq!((last.len(), last[0].as_str(), last[38].as_str()), (39, "user: text 20", "user: text 39"));
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn two_messages_of_a_talk_are_answered_one_after_the_other() {
    let stage = stage(well, |_| {}).await;
    let (first, mut second) = (stage.slack("m1", "wait"), stage.slack("m2", "quick"));
    second.as_object_mut().unwrap().remove("channel_id");
    second["channel_metadata"]["channel"] = json!("C1");
    let other = stage.whatsapp("m3", "another talk");
    let begin = async {
        stage.becomes("m1", "running").await;
        // It has to wait, and its record comes back; another talk does not.
        assert_eq!(stage.deliver(&[&second, &other]).await, 1);
        assert_eq!(stage.turns().await["m2"].0, "queued");
        assert_eq!(stage.turns().await["m3"], answered(1));
        stage.talker.gate.add_permits(1);
    };
    assert_eq!(tokio::join!(stage.one(&first), begin).0, 0);
    // Nobody delivers it again: whoever ended the first woke it through the queue.
    stage.becomes("m2", "answered").await;
    assert_eq!(stage.shown(), ["re: wait", "re: quick", "re: another talk"]);
    assert_eq!(stage.one(&second).await, 0, "its own record finds it done");
    assert_eq!(stage.shown().len(), 3);
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_answered_is_told_in_words_by_the_same_way() {
    let stage = stage(well, |_| {}).await;
    let long = "x".repeat(TEXT_CHARS + 1);
    for (id, text, code) in [
        ("m1", "fail", Code::ModelFailed),
        ("m2", "control", Code::ModelFailed),
        ("m3", &long, Code::TextTooLong),
        ("m4", "a\u{1}b", Code::TextRefused),
        ("m5", " ", Code::TextRefused),
    ] {
        let before = stage.shown().len();
        assert_eq!(stage.one(&stage.slack(id, text)).await, 0);
        assert_eq!(stage.one(&stage.slack(id, text)).await, 0, "and once");
        assert_eq!(stage.shown()[before..], [code.failure()], "{id}");
        assert_eq!(stage.turns().await[id], failed(code.as_str(), 1));
    }
    assert_eq!(stage.talker.asked.lock().unwrap().len(), 2, "what is refused is not asked");
    assert_eq!(stage.one(&stage.slack("m6", "windows\r\nlines")).await, 0);
    assert_eq!(stage.turns().await["m6"], answered(1));
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_message_reaches_its_own_companys_connection_or_none() {
    let stage = stage(well, |_| {}).await;
    let globex = stage.app.agent_of(stage.app.user("ben@globex")).clone();
    // Globex has no connection; acme's is not theirs, whatever they say.
    for mut foreign in [stage.slack("m1", "hello"), stage.whatsapp("m2", "hello")] {
        foreign["tenant_id"] = json!(globex.tenant);
        assert_eq!(stage.one(&foreign).await, 1);
    }
    // A workspace or a number that acme has no connection to.
    let mut unknown = stage.slack("m3", "hello");
    unknown["channel_metadata"]["team_id"] = json!("T9");
    let mut number = stage.whatsapp("m4", "hello");
    number["phone_number_id"] = json!("1");
    assert_eq!(stage.deliver(&[&unknown, &number]).await, 2);
    // Sealed for acme, copied to globex: it does not open.
    let owner = stage.app.owner().await.unwrap();
    let copy = "insert into channel_connections (id, tenant_id, agent_id, channel_type, external_id, credentials)
        select gen_random_uuid(), $1, $2, channel_type, external_id, credentials from channel_connections where tenant_id = $3";
    owner.execute(copy, &[&globex.tenant, &globex.id, &stage.tenant]).await.unwrap();
    let mut copied = stage.slack("m5", "hello");
    copied["tenant_id"] = json!(globex.tenant);
    assert_eq!(stage.one(&copied).await, 1);
    assert!(stage.shown().is_empty() && stage.slack.calls().is_empty() && stage.whatsapp.calls().is_empty());
    assert!(stage.talker.asked.lock().unwrap().is_empty());

    // Two workspaces: the message says which, or nobody can tell.
    stage.connect(stage.tenant, stage.agent, "slack", Some("A2"), Some(OTHER_BOT)).await;
    let mut nameless = stage.slack("m6", "hello");
    nameless["channel_metadata"] = json!({});
    assert_eq!(stage.one(&nameless).await, 1);
    let mut app = stage.slack("m7", "hello");
    app["channel_metadata"] = json!({"api_app_id": "A2", "team_id": "T2"});
    assert_eq!(stage.deliver(&[&app, &stage.slack("m8", "hello")]).await, 0);
    let mut tokens: Vec<_> = stage.slack.seen().into_iter().map(|message| message.token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, [BOT, OTHER_BOT]);
    // An agent that is switched off says nothing.
    owner.execute("update agents set is_active = false", &[]).await.unwrap();
    assert_eq!(stage.one(&stage.slack("m9", "hello")).await, 1);
    assert_eq!(stage.shown().len(), 2);
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn nobody_answers_on_the_other_five() {
    let stage = stage(well, |_| {}).await;
    for channel in ["mattermost", "rocketchat", "teams", "telegram", "signal"] {
        let mut body = stage.slack("m1", "hello");
        body["channel"] = json!(channel);
        assert_eq!(stage.one(&body).await, 1, "{channel}");
    }
    assert!(stage.turns().await.is_empty() && stage.shown().is_empty());
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_message_that_a_gateway_puts_into_the_queue_is_answered() {
    let address = create_queue(&endpoint().await, "gateway").await.unwrap();
    let stage = stage(well, |setting| setting.queue = QueueKind::Sqs(address.clone())).await;
    let jobs = [stage.slack("m1", "hello"), stage.whatsapp("m2", "hello")];
    let jobs: Vec<_> = jobs.iter().map(|body| Job::parse(&body.to_string()).unwrap()).collect();
    assert!(jobs.iter().all(|job| !job.body().contains("xoxb")), "no secret gets into the queue");
    stage.app.product.queue.send(&jobs).await.unwrap();
    for id in ["m1", "m2"] {
        stage.becomes(id, "answered").await;
    }
    assert_eq!(stage.shown(), ["re: hello", "re: hello"]);
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_turn_waits_for_the_one_before_it_even_if_that_ones_worker_is_gone() {
    let stage = stage(well, |setting| setting.times = short()).await;
    let (first, second) = (stage.slack("m1", "wait"), stage.slack("m2", "quick"));
    tokio::select! {
        _ = stage.one(&first) => panic!("it waits for a permit"),
        () = stage.becomes("m1", "running") => {}
    }
    let_go(&stage, "m1").await;
    assert_eq!(stage.one(&second).await, 1, "the first one may still be answered");
    stage.talker.gate.add_permits(1);
    assert_eq!(stage.one(&first).await, 0);
    stage.becomes("m2", "answered").await;
    assert_eq!(stage.turns().await["m1"], answered(2));
    assert_eq!(stage.shown(), ["re: wait", "re: quick"]);
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_dead_letter_ends_only_a_turn_that_nobody_can_run() {
    let stage = stage(|_| Act::Then(Ending::Hang), |setting| setting.times = short()).await;
    let bury = async |body: &Value| {
        let letter = event(vec![record("letter", &body.to_string())]);
        stage.app.product.dead_letters.handle(letter).await.batch_item_failures.len()
    };
    // Half sent: while it is held it comes back, then it ends.
    let body = stage.whatsapp("m1", "hello");
    dies_when(&stage, &body, "the service to be called", async || stage.whatsapp.calls().len() == 1).await;
    assert_eq!(bury(&body).await, 1);
    let_go(&stage, "m1").await;
    assert_eq!(bury(&body).await, 0);
    assert_eq!(stage.turns().await["m1"], failed("delivery_unknown", 1));

    // In the middle of its attempts: may still run, until its time is over.
    let body = stage.slack("m2", "wait");
    dies_when(&stage, &body, "the model to be asked", async || stage.talker.asked.lock().unwrap().len() == 2).await;
    let_go(&stage, "m2").await;
    let mut behind = stage.slack("m3", "behind it");
    behind["placeholder_ts"] = json!("1.1");
    assert_eq!(stage.one(&behind).await, 1);
    assert_eq!((bury(&body).await, bury(&behind).await), (1, 1));
    let owner = stage.app.owner().await.unwrap();
    let late = "update channel_turns set deadline = now() - interval '1 s' where message_id = 'm2'";
    owner.execute(late, &[]).await.unwrap();
    assert_eq!(bury(&body).await, 0);
    assert_eq!(stage.turns().await["m2"], failed("deadline_exceeded", 1));
    assert_eq!(bury(&body).await, 0, "and is left alone");
    // The one behind it is woken.
    stage.becomes("m3", "sending").await;

    // What was never answered since nobody could tell by whom is kept, without a secret that should not be in it.
    let mut lost = stage.slack("m4", "hello");
    lost["channel_metadata"]["team_id"] = json!("T9");
    assert_eq!((stage.one(&lost).await, bury(&lost).await), (1, 0));
    let kept = owner.query_one("select body, reason from dead_letters", &[]).await.unwrap();
    assert!(kept.get::<_, &str>(0).contains("\"m4\"") && !kept.get::<_, &str>(0).contains("xoxb"));
    assert!(kept.get::<_, &str>(1).starts_with("channel"));
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn no_token_and_no_word_of_anybody_gets_into_the_log_or_lies_open_in_a_table() {
    let act = Act::Instead(Ending::Answer(
        400,
        None,
        json!({"ok": false, "error": BOT, "detail": "a private thing"}).to_string(),
    ));
    let stage = stage(move |call| if call.nth % 2 == 1 { act.clone() } else { Act::Do }, |_| {}).await;
    let log = Log::default();
    // For this thread, which is the test's runtime.
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    for number in 0..4 {
        stage.one(&stage.slack(&format!("s{number}"), "a private thing")).await;
        stage.one(&stage.whatsapp(&format!("w{number}"), "a private thing")).await;
    }
    let mut foreign = stage.slack("m1", "a private thing");
    foreign["tenant_id"] = json!(stage.app.user("ben@globex").tenant);
    let mut five = stage.slack("m2", "a private thing");
    five["channel"] = json!("teams");
    // A tenant's own key was replaced: its token does not open any more.
    let owner = stage.app.owner().await.unwrap();
    let spoilt = "update channel_connections set credentials = decode('01', 'hex') where channel_type = 'whatsapp'";
    owner.execute(spoilt, &[]).await.unwrap();
    assert_eq!(stage.deliver(&[&foreign, &five, &stage.whatsapp("m3", "a private thing")]).await, 3);
    drop(guard);
    let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for expected in ["refused", "turn is over", "no way to answer", "does not open", "no slack connection"] {
        assert!(said.contains(expected), "the log lacks {expected}: {said}");
    }
    for secret in [BOT, NUMBER_TOKEN, "xoxb", "private"] {
        assert!(!said.contains(secret), "{secret} is in the log: {said}");
    }
    let open = "select count(*) from channel_turns t, channel_connections c
        where t::text like '%xoxb%' or t.hint like '%private%' or encode(c.credentials, 'escape') like '%token%'";
    assert_eq!(owner.query_one(open, &[]).await.unwrap().get::<_, i64>(0), 0);
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn a_web_turn_and_a_message_of_slack_share_a_batch_and_nothing_else() {
    let stage = stage(well, |_| {}).await;
    let conversation: ConversationId = stage.app.conversation("ben@acme").await.unwrap().parse().unwrap();
    let ben = stage.app.user("ben@acme");
    let web = Job::web(stage.tenant, conversation, ben.id, TurnId::new());
    let web: Value = serde_json::from_str(&web.body()).unwrap();
    assert_eq!(stage.deliver(&[&web, &stage.slack("m1", "hello"), &json!("poison")]).await, 1);
    assert_eq!(stage.shown(), ["re: hello"]);
    stage.app.finish().await.unwrap();
}

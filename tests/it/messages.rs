//! Messages: numbered without gaps, accepted once, paged without holes.

use std::collections::HashSet;

use chat_core::{
    config::Limits,
    ids::{ClientMessageId, ConversationId},
};
use futures::future::join_all;
use harness::{
    app::{self, App},
    clients::Rest,
};
use serde_json::{Value, json};

/// All messages of a conversation, page by page, following the links.
async fn walk(rest: &Rest, first: &str) -> Vec<Vec<i64>> {
    let mut pages = Vec::new();
    let mut url = first.to_owned();
    loop {
        let answer = rest.get(&url).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        pages.push(answer.body.as_array().unwrap().iter().map(|m| m["seq"].as_i64().unwrap()).collect());
        let Some(link) = answer.headers.get("link") else { return pages };
        let link = link.to_str().unwrap();
        let next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
        url = next.strip_prefix(conversations::BASE).unwrap().to_owned();
    }
}

#[tokio::test]
async fn concurrent_sends_get_a_seq_without_gaps_and_repeats_use_up_no_number() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let rest = app.rest("ben@acme");
    // 40 messages, each sent three times at once.
    let sends = (0..120).map(|number| {
        let (rest, conversation) = (rest.clone(), conversation.clone());
        async move {
            // The copies side by side, so that they meet.
            let key = format!("0193b3a0-0000-7000-8000-{:012}", number / 3);
            rest.say(&conversation, &key, &format!("message {}", number / 3)).await.unwrap()
        }
    });
    let answers = join_all(sends).await;
    assert!(answers.iter().all(|answer| answer.status == 202), "{answers:?}");
    let distinct: HashSet<String> = answers.iter().map(|answer| answer.body.to_string()).collect();
    assert_eq!(distinct.len(), 40, "the same key, the same answer");

    let owner = app.owner().await.unwrap();
    harness::app::until("40 replies", || async {
        let replies = "select count(*) from web_conversation_messages where role = 'assistant'";
        Ok(owner.query_one(replies, &[]).await?.get::<_, i64>(0) == 40)
    })
    .await
    .unwrap();
    let pages = walk(&rest, &format!("/conversations/{conversation}/messages?limit=100&after=0")).await;
    assert_eq!(pages.concat(), (1..=80).collect::<Vec<i64>>());
    let page = rest.get(&format!("/conversations/{conversation}/messages?limit=100")).await.unwrap().body;
    let times: Vec<&str> = page.as_array().unwrap().iter().map(|m| m["created_at"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "time runs with seq: {times:?}");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn concurrent_openers_get_the_same_conversation() {
    let app = App::start().await.unwrap();
    let agent = app.agent_of(app.user("ben@acme"));
    let body = json!({"tenant_id": agent.tenant, "agent_id": agent.id});
    let rest = app.rest("ben@acme");
    let opened = join_all((0..30).map(|_| rest.post("/conversations", &body))).await;
    let opened: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
    assert_eq!(opened.iter().filter(|answer| answer.status == 201).count(), 1);
    assert_eq!(opened.iter().filter(|answer| answer.status == 200).count(), 29);
    let ids: HashSet<&str> = opened.iter().map(|answer| answer.body["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_same_id_is_the_same_message_on_both_edges_and_after_a_reset() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let own = ClientMessageId::new().to_string();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message("hello", Some(&own)).await.unwrap();
    let first = socket.until("accepted").await.unwrap();
    let reply = socket.until("response").await.unwrap();

    socket.message("hello", Some(&own)).await.unwrap();
    let again = socket.until("accepted").await.unwrap();
    assert_eq!(
        (&again["message_id"], &again["seq"], &again["duplicate"]),
        (&first["message_id"], &json!(1), &json!(true))
    );
    let turn = socket.expect("turn").await.unwrap();
    assert_eq!((&turn["state"], &turn["message_id"]), (&json!("answered"), &reply["message_id"]));

    socket.message("something else", Some(&own)).await.unwrap();
    let error = socket.until("error").await.unwrap();
    assert_eq!((&error["code"], &error["client_message_id"]), (&json!("idempotency_mismatch"), &json!(own)));

    let rest = app.rest("ben@acme");
    for _ in 0..2 {
        let same = rest.say(&conversation, &own, "hello").await.unwrap();
        assert_eq!((same.status, &same.body["message_id"]), (202, &first["message_id"]));
        let other = rest.say(&conversation, &own, "another").await.unwrap();
        assert_eq!((other.status, &other.body["code"]), (422, &json!("idempotency_mismatch")));
        rest.delete(&format!("/conversations/{conversation}")).await.unwrap();
    }
    let messages = rest.get(&format!("/conversations/{conversation}/messages")).await.unwrap();
    assert_eq!(messages.body, json!([]), "nothing was written again");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn pages_meet_without_holes_from_either_end() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    for number in 0..6 {
        socket.message(&format!("message {number}"), None).await.unwrap();
        socket.until("response").await.unwrap();
    }
    let rest = app.rest("ben@acme");
    let messages = format!("/conversations/{conversation}/messages");
    assert_eq!(
        walk(&rest, &format!("{messages}?limit=5")).await,
        [vec![8, 9, 10, 11, 12], vec![3, 4, 5, 6, 7], vec![1, 2]]
    );
    assert_eq!(
        walk(&rest, &format!("{messages}?limit=6&after=0")).await,
        [(1..=6).collect::<Vec<_>>(), (7..=12).collect()]
    );
    assert_eq!(walk(&rest, &format!("{messages}?after=12")).await, [Vec::<i64>::new()]);
    // A message's own id is as good a position as its seq.
    let all = rest.get(&messages).await.unwrap().body;
    let id = |seq: usize| all[seq - 1]["id"].as_str().unwrap().to_owned();
    assert_eq!(walk(&rest, &format!("{messages}?limit=2&before={}", id(4))).await[0], [2, 3]);
    assert_eq!(walk(&rest, &format!("{messages}?limit=2&after={}", id(4))).await[0], [5, 6]);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_list_pages_newest_change_first() {
    let app = App::start().await.unwrap();
    let ben = app.user("ben@acme");
    let owner = app.owner().await.unwrap();
    let tenant = ben.tenant.unwrap();
    let agents = "insert into agents (id, tenant_id, name) select gen_random_uuid(), $1, 'agent ' || n from generate_series(1, 7) n returning id";
    let agents = owner.query(agents, &[&tenant]).await.unwrap();
    let rest = app.rest("ben@acme");
    let mut opened = Vec::new();
    for agent in &agents {
        opened.push(rest.open(tenant, agent.get::<_, uuid::Uuid>(0)).await.unwrap());
    }
    // Something happens in the oldest: it is the newest now.
    rest.say(&opened[0], &ClientMessageId::new().to_string(), "wake up").await.unwrap();
    harness::app::until("the reply", || async {
        Ok(rest.get(&format!("/conversations/{}", opened[0])).await?.body["last_seq"] == 2)
    })
    .await
    .unwrap();
    let mut seen: Vec<String> = Vec::new();
    let mut url = format!("/conversations?tenant_id={tenant}&limit=3");
    loop {
        let page = rest.get(&url).await.unwrap();
        let entries = page.body.as_array().unwrap();
        seen.extend(entries.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()));
        if seen.len() == 3 {
            assert_eq!(entries[0]["last_message_preview"], "Echo: wake up");
        }
        let Some(link) = page.headers.get("link") else { break };
        let link = link.to_str().unwrap().split('>').next().unwrap().trim_start_matches('<').to_owned();
        url = link.strip_prefix(conversations::BASE).unwrap().to_owned();
    }
    let expected: Vec<String> = [&opened[0]].into_iter().chain(opened[1..].iter().rev()).cloned().collect();
    assert_eq!(seen, expected);
    assert_eq!(app.rest("ada@acme").get(&format!("/conversations?tenant_id={tenant}")).await.unwrap().body, json!([]));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn only_so_many_messages_wait_in_one_conversation() {
    let app = App::with(|setting| {
        setting.limits = Limits { queued_turns: 3, ..app::lifted() };
        setting.model = std::sync::Arc::new(crate::turns::Never);
    })
    .await
    .unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let rest = app.rest("ben@acme");
    let mut statuses = Vec::new();
    for number in 0..5 {
        let answer = rest.say(&conversation, &ClientMessageId::new().to_string(), &format!("{number}")).await.unwrap();
        statuses.push(answer.status);
        if number == 0 {
            crate::turns::state_becomes(&app, &answer.body, "running").await;
        }
        if answer.status == 429 {
            assert_eq!((&answer.body["code"], answer.headers.contains_key("retry-after")), (&json!("busy"), true));
        }
    }
    assert_eq!(statuses, [202, 202, 202, 202, 429], "one runs and three wait");
    let conversation_now: Value = rest.get(&format!("/conversations/{conversation}")).await.unwrap().body;
    assert_eq!(conversation_now["last_seq"], 4, "a refusal uses up no number");
    rest.delete(&format!("/conversations/{conversation}")).await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_page_of_long_messages_is_cut_to_what_lambda_lets_out() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let owner = app.owner().await.unwrap();
    let fill = "insert into web_conversation_messages (id, conversation_id, tenant_id, seq, epoch, role, content)
        select gen_random_uuid(), $1::text::uuid, $2, n, 0, 'user', repeat($3, 16000) from generate_series(1, 100) n";
    let tenant = app.user("ben@acme").tenant.unwrap();
    for longest in ["\"", "😀", "\n"] {
        owner.execute("delete from web_conversation_messages", &[]).await.unwrap();
        owner.execute(fill, &[&conversation, &tenant, &longest]).await.unwrap();
        let (rest, messages) = (app.rest("ben@acme"), format!("/conversations/{conversation}/messages"));
        let page = rest.get(&format!("{messages}?limit=100")).await.unwrap();
        // As Lambda counts: the body, as JSON in JSON.
        let answer = serde_json::to_string(&page.body.to_string()).unwrap();
        assert!(answer.len() < 6_291_456, "{} bytes of {longest:?}", answer.len());
        let mut back = walk(&rest, &format!("{messages}?limit=100")).await;
        back.reverse();
        assert_eq!(back.concat(), (1..=100).collect::<Vec<i64>>());
        assert_eq!(
            walk(&rest, &format!("{messages}?limit=100&after=0")).await.concat(),
            (1..=100).collect::<Vec<i64>>()
        );
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_statement_is_planned_once_whatever_its_limit() {
    let app = App::start().await.unwrap();
    let client = app.app_role().await.unwrap();
    let page =
        "select id from web_conversation_messages where conversation_id = $1 and seq < $2 order by seq desc limit $3";
    let page = client.prepare(page).await.unwrap();
    for limit in 1..20_i64 {
        client.query(&page, &[&ConversationId::new(), &i64::MAX, &limit]).await.unwrap();
    }
    let plans =
        "select generic_plans, custom_plans from pg_prepared_statements where generic_plans + custom_plans >= 19";
    let plans = client.query_one(plans, &[]).await.unwrap();
    assert_eq!((plans.get::<_, i64>(0), plans.get::<_, i64>(1)), (19, 0), "of the general and of each call's own");
    app.finish().await.unwrap();
}

//! What the portal asks beside conversations: me, agents, search, usage; and a conversation as a file, and a turn stopped,
//! over REST.

use chat_core::ids::{AgentId, ClientMessageId, TurnId};
use harness::app::{App, until};
use serde_json::{Value, json};

use crate::turns::by_hand;

#[tokio::test]
async fn everybody_learns_who_they_are_and_where_they_belong() {
    let app = App::start().await.unwrap();
    let acme = app.demo.tenants[0].id;
    let me = app.rest("ada@acme").get("/me").await.unwrap();
    assert_eq!(me.status, 200);
    let ada = app.user("ada@acme");
    assert_eq!((&me.body["id"], &me.body["role"]), (&json!(ada.id), &json!("customer_admin")));
    assert_eq!(me.body["tenants"], json!([{"id": acme, "name": "acme", "role": "customer_admin"}]));
    // The lesser of the two tables.
    let owner = app.owner().await.unwrap();
    owner.execute("update portal_users set role = 'customer_operator' where id = $1", &[&ada.id]).await.unwrap();
    let me = app.rest("ada@acme").get("/me").await.unwrap().body;
    assert_eq!((&me["role"], &me["tenants"][0]["role"]), (&json!("customer_operator"), &json!("customer_operator")));
    let root = app.rest("root").get("/me").await.unwrap().body;
    assert_eq!((&root["role"], &root["tenants"]), (&json!("platform_admin"), &json!([])));
    owner.execute("delete from portal_users where id = $1", &[&ada.id]).await.unwrap();
    assert_eq!(app.rest("ada@acme").get("/me").await.unwrap().status, 401);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn agents_come_by_name_page_by_page_whatever_comes_in_between() {
    let app = App::start().await.unwrap();
    let (rest, tenant) = (app.rest("ben@acme"), app.user("ben@acme").tenant.unwrap());
    let owner = app.owner().await.unwrap();
    let add = "insert into agents (id, tenant_id, name, is_active) values ($1, $2, $3, $4)";
    for (name, active) in [("Zoë & Co. <1>", true), ("Bea", true), ("Bea", true), ("Gone", false)] {
        owner.execute(add, &[&AgentId::new(), &tenant, &name, &active]).await.unwrap();
    }
    let id = app.conversation("ben@acme").await.unwrap();
    let first = rest.get(&format!("/agents?tenant_id={tenant}&limit=2")).await.unwrap();
    owner.execute(add, &[&AgentId::new(), &tenant, &"Aaron", &true]).await.unwrap();
    let rest_of_them = rest.pages(&first.next_page().unwrap()).await.unwrap().concat();
    let seen: Vec<Value> = first.body.as_array().unwrap().iter().cloned().chain(rest_of_them).collect();
    let names: Vec<&str> = seen.iter().map(|agent| agent["name"].as_str().unwrap()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(names.len(), 5, "{names:?}");
    assert!(names.contains(&"Zoë & Co. <1>") && !names.contains(&"Gone") && !names.contains(&"Aaron"), "{names:?}");
    let opened: Vec<&Value> = seen.iter().filter(|agent| agent["conversation_id"] == json!(id)).collect();
    assert_eq!(opened.len(), 1);
    assert_eq!(opened[0]["id"], json!(app.agent_of(app.user("ben@acme")).id));
    for (query, field) in [
        (String::new(), "tenant_id"),
        (format!("tenant_id={tenant}&limit=0"), "limit"),
        (format!("tenant_id={tenant}&after=17"), "after"),
        (format!("tenant_id={tenant}&status=escalated"), "status"),
    ] {
        let refused = rest.get(&format!("/agents?{query}")).await.unwrap();
        assert_eq!((refused.status, &refused.body["errors"][0]["field"]), (400, &json!(field)), "{query}");
    }
    app.finish().await.unwrap();
}

/// Puts messages into a conversation, a second apart, oldest first.
async fn said(app: &App, id: &str, texts: &[&str]) {
    let sql = "insert into web_conversation_messages (id, conversation_id, tenant_id, seq, epoch, role, content, created_at)
        select gen_random_uuid(), c.id, c.tenant_id, c.last_seq + t.place, c.epoch,
               case t.place % 2 when 1 then 'user' else 'assistant' end, t.content, now() - make_interval(secs => 1000 - t.place)
        from web_conversations c, unnest($2::text[]) with ordinality t (content, place) where c.id = $1::text::uuid";
    let owner = app.owner().await.unwrap();
    owner.execute(sql, &[&id, &texts]).await.unwrap();
    let moved = "update web_conversations set last_seq = last_seq + $2 where id = $1::text::uuid";
    owner.execute(moved, &[&id, &i64::try_from(texts.len()).unwrap()]).await.unwrap();
}

/// The texts that a search found, with what it marked in brackets.
fn marked(hits: &[Value]) -> Vec<String> {
    let piece = |piece: &Value| {
        let text = piece["text"].as_str().unwrap();
        if piece["hit"] == true { format!("[{text}]") } else { text.to_owned() }
    };
    hits.iter().map(|hit| hit["snippet"].as_array().unwrap().iter().map(piece).collect()).collect()
}

#[tokio::test]
async fn words_are_found_in_ones_own_conversations_newest_first() {
    let app = App::start().await.unwrap();
    let tenant = app.user("ben@acme").tenant.unwrap();
    let id = app.conversation("ben@acme").await.unwrap();
    let adas = app.conversation("ada@acme").await.unwrap();
    said(
        &app,
        &id,
        &["The invoice of May", "invoices are <b>paid</b>", "Die Rechnung für Zürich", "no May at all", "請求書"],
    )
    .await;
    said(&app, &adas, &["ada's invoice"]).await;
    let rest = app.rest("ben@acme");
    let found = async |query: &str| {
        let query: String = form_urlencoded(query);
        let answer = rest.get(&format!("/search?tenant_id={tenant}&q={query}")).await.unwrap();
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        marked(answer.body.as_array().unwrap())
    };
    for (query, hits) in [
        ("invoice", vec!["[invoices] are <b>paid</b>", "The [invoice] of May"]),
        ("INVOICE may", vec!["The [invoice] of [May]"]),
        ("\"of may\"", vec!["The invoice [of] [May]"]),
        ("may -invoice", vec!["no [May] at all"]),
        ("paid or zürich", vec!["Die Rechnung für [Zürich]", "invoices are <b>[paid]</b>"]),
        ("<b>", vec!["invoices are <[b]>paid</b>"]),
        ("inv", vec!["[invoices] are <b>paid</b>", "The [invoice] of May"]),
        ("請求書", vec!["[請求書]"]),
        ("nothing", vec![]),
        ("'&|!():*\\", vec![]),
        ("' or 1=1; --", vec![]),
    ] {
        assert_eq!(found(query).await, hits, "{query}");
    }
    let answer = rest.get(&format!("/search?tenant_id={tenant}&q=rechnung&conversation_id={id}")).await.unwrap();
    let hit = &answer.body[0];
    assert_eq!((&hit["conversation_id"], &hit["seq"], &hit["role"]), (&json!(id), &json!(3), &json!("user")));
    let elsewhere = rest.get(&format!("/search?tenant_id={tenant}&q=invoice&conversation_id={adas}")).await.unwrap();
    assert_eq!(elsewhere.body, json!([]), "another's");
    for (query, field) in [
        ("q=a".to_owned(), "tenant_id"),
        (format!("tenant_id={tenant}"), "q"),
        (format!("tenant_id={tenant}&q=%20"), "q"),
        (format!("tenant_id={tenant}&q=a%00"), "q"),
        (format!("tenant_id={tenant}&q={}", "x".repeat(201)), "q"),
        (format!("tenant_id={tenant}&q=a&before=17"), "before"),
        (format!("tenant_id={tenant}&q=a&limit=101"), "limit"),
    ] {
        let refused = rest.get(&format!("/search?{query}")).await.unwrap();
        assert_eq!((refused.status, &refused.body["errors"][0]["field"]), (400, &json!(field)), "{query}");
    }
    app.finish().await.unwrap();
}

/// Encodes a query's value.
fn form_urlencoded(value: &str) -> String {
    value.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test]
async fn a_search_goes_on_page_by_page_through_all_that_was_ever_said() {
    let app = App::start().await.unwrap();
    let tenant = app.user("ben@acme").tenant.unwrap();
    let id = app.conversation("ben@acme").await.unwrap();
    // More than one walk, with the words at both ends and none between.
    let owner = app.owner().await.unwrap();
    let long = "insert into web_conversation_messages (id, conversation_id, tenant_id, seq, epoch, role, content, created_at)
        select gen_random_uuid(), c.id, c.tenant_id, n, 0, 'user', case when n <= 3 or n > 4500 then 'needle ' || n else 'hay' end,
               now() - make_interval(secs => 5000 - n / 2)
        from web_conversations c, generate_series(1, 4503) n where c.id = $1::text::uuid";
    owner.execute(long, &[&id]).await.unwrap();
    let rest = app.rest("ben@acme");
    let pages = rest.pages(&format!("/search?tenant_id={tenant}&q=needle&limit=2")).await.unwrap();
    let found: Vec<i64> = pages.concat().iter().map(|hit| hit["seq"].as_i64().unwrap()).collect();
    let mut sorted = found.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [1, 2, 3, 4501, 4502, 4503], "each once");
    assert!(found[..3].iter().all(|seq| *seq > 4500), "newest first: {found:?}");
    assert!(pages.len() >= 3 && pages.iter().all(|page| page.len() <= 2));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn admins_see_what_their_agents_took_and_nobody_else_does() {
    let app = App::start().await.unwrap();
    let tenant = app.user("ada@acme").tenant.unwrap();
    let agents: Vec<AgentId> =
        app.demo.agents.iter().filter(|agent| agent.tenant == tenant).map(|agent| agent.id).collect();
    let owner = app.owner().await.unwrap();
    let spent =
        "insert into usage (tenant_id, turn_id, attempt, purpose, model, agent_id, calls, input_tokens, output_tokens,
          reserved_tokens, created_at)
        values ($1, $2, $3, $4, $5, $6, 2, 10, 5, 1, $7::text::timestamptz)";
    let turn = TurnId::new();
    for (turn, attempt, purpose, model, agent, at) in [
        (turn, 1, "reply", "large", agents[0], "2026-03-01T00:00:00Z"),
        (turn, 2, "reply", "large", agents[0], "2026-03-01T23:59:59Z"),
        (turn, 1, "summary", "small", agents[0], "2026-03-01T12:00:00Z"),
        (TurnId::new(), 1, "reply", "large", agents[1], "2026-03-02T00:00:00Z"),
        (TurnId::new(), 1, "reply", "large", AgentId::new(), "2026-03-02T00:00:00Z"),
        (TurnId::new(), 1, "reply", "large", agents[0], "2026-03-03T00:00:00Z"),
    ] {
        owner.execute(spent, &[&tenant, &turn, &attempt, &purpose, &model, &agent, &at]).await.unwrap();
    }
    let query = format!("/usage?tenant_id={tenant}&from=2026-03-01&to=2026-03-02");
    let ada = app.rest("ada@acme");
    let lines = ada.get(&query).await.unwrap();
    assert_eq!(lines.status, 200);
    let lines = lines.body.as_array().unwrap().clone();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    let first = lines.iter().find(|line| line["day"] == "2026-03-01" && line["model"] == "large").unwrap();
    assert_eq!(first["agent_id"], json!(agents[0]));
    for (field, value) in
        [("turns", 1), ("calls", 4), ("input_tokens", 20), ("output_tokens", 10), ("reserved_tokens", 2)]
    {
        assert_eq!(first[field], value, "{field}");
    }
    assert_eq!(lines.iter().filter(|line| line["agent_name"].is_null()).count(), 1, "one agent is gone");
    assert_eq!(ada.pages(&format!("{query}&limit=1")).await.unwrap().concat(), lines);
    for handle in ["ben@acme", "ada@globex", "ben@globex"] {
        assert_eq!(app.rest(handle).get(&query).await.unwrap().status, 403, "{handle}");
    }
    assert_eq!(app.rest("root").get(&query).await.unwrap().body.as_array().unwrap().len(), 4);
    for (dates, field) in [
        ("from=2026-03-01", "to"),
        ("from=yesterday&to=2026-03-01", "from"),
        ("from=2026-02-30&to=2026-03-01", "from"),
        ("from=2026-03-02&to=2026-03-01", "to"),
        ("from=2024-03-02&to=2026-03-01", "to"),
        ("from=2026-03-01&to=2026-03-01&limit=1001", "limit"),
        ("from=2026-03-01&to=2026-03-01&after=x", "after"),
    ] {
        let refused = ada.get(&format!("/usage?tenant_id={tenant}&{dates}")).await.unwrap();
        assert_eq!((refused.status, &refused.body["errors"][0]["field"]), (400, &json!(field)), "{dates}");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_conversation_is_taken_along_as_json_and_as_markdown() {
    let app = App::start().await.unwrap();
    let (rest, id) = (app.rest("ben@acme"), app.conversation("ben@acme").await.unwrap());
    said(&app, &id, &["# Hello\nyou", "Hi."]).await;
    rest.patch(&format!("/conversations/{id}"), &json!({"title": "Greetings"})).await.unwrap();
    let path = format!("/conversations/{id}/export");
    let json_file = rest.get(&path).await.unwrap();
    assert_eq!(json_file.status, 200);
    assert_eq!(json_file.headers["content-disposition"], format!("attachment; filename=\"{id}.json\""));
    assert_eq!(json_file.body["conversation"]["title"], "Greetings");
    let page = rest.get(&format!("/conversations/{id}/messages")).await.unwrap().body;
    assert_eq!(json_file.body["messages"], page);

    let http = harness::clients::http();
    let url = format!("{}{}{path}?format=markdown", app.product.rest(), conversations::BASE);
    let file = http.get(url).bearer_auth(app.token(app.user("ben@acme"))).send().await.unwrap();
    assert_eq!(file.headers()["content-type"], "text/markdown; charset=utf-8");
    let text = file.text().await.unwrap();
    assert!(text.starts_with("# Greetings\n"), "{text}");
    assert!(text.contains("\n> # Hello\n> you\n") && text.contains("\n> Hi.\n"), "{text}");
    let beyond = "after=9007199254740992";
    for (query, field) in [("format=pdf", "format"), ("after=-1", "after"), (beyond, "after"), ("limit=5", "limit")] {
        let refused = rest.get(&format!("{path}?{query}")).await.unwrap();
        assert_eq!((refused.status, &refused.body["errors"][0]["field"]), (400, &json!(field)), "{query}");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_very_long_conversation_is_taken_along_in_parts() {
    let app = App::start().await.unwrap();
    let (rest, id) = (app.rest("ben@acme"), app.conversation("ben@acme").await.unwrap());
    let owner = app.owner().await.unwrap();
    let long = "insert into web_conversation_messages (id, conversation_id, tenant_id, seq, epoch, role, content)
        select gen_random_uuid(), c.id, c.tenant_id, n, 0, 'user', 'message ' || n
        from web_conversations c, generate_series(1, 6000) n where c.id = $1::text::uuid";
    owner.execute(long, &[&id]).await.unwrap();
    let (mut next, mut seen, mut parts) = (Some(format!("/conversations/{id}/export")), Vec::new(), 0);
    while let Some(path) = next {
        let part = rest.get(&path).await.unwrap();
        seen.extend(part.body["messages"].as_array().unwrap().iter().map(|message| message["seq"].as_i64().unwrap()));
        parts += 1;
        next = part.next_page();
    }
    assert_eq!(parts, 2);
    assert_eq!(seen, (1..=6000).collect::<Vec<i64>>());
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_turn_is_stopped_over_rest_wherever_it_is() {
    let (app, tenant, conversation) = by_hand().await;
    let rest = app.rest("ben@acme");
    let id = conversation.to_string();
    let send = async || rest.say(&id, &ClientMessageId::new().to_string(), "hello").await.unwrap().body;
    let (first, second) = (send().await, send().await);
    let stop = |turn: &Value| format!("/conversations/{id}/turns/{}/stop", turn["turn_id"].as_str().unwrap());
    let mut socket = app.socket("ben@acme", &id).await.unwrap();
    // Waiting: it ends at once, and the sockets hear of it.
    let stopped = rest.post(&stop(&second), &json!({})).await.unwrap();
    assert_eq!((stopped.status, &stopped.body), (202, &json!({"turn_id": second["turn_id"], "state": "stopped"})));
    let told = socket.until("turn").await.unwrap();
    assert_eq!((&told["turn_id"], &told["state"]), (&second["turn_id"], &json!("stopped")));
    // Running: its worker is asked.
    let store = &app.product.orchestrator.store;
    let times = chat_core::config::Times::default();
    let claim =
        store.claim(tenant, conversation, &times, &chat_core::config::Memory::default()).await.unwrap().unwrap();
    let asked = rest.post(&stop(&first), &json!({})).await.unwrap();
    assert_eq!((asked.status, &asked.body["state"]), (202, &json!("running")));
    assert_eq!(store.renew(&claim, &times).await.unwrap(), chat_core::store::turns::Lease::StopRequested);
    store.end(&claim, chat_core::store::turns::End::Stopped).await.unwrap();
    // Over: it says how.
    let over = rest.post(&stop(&first), &json!({})).await.unwrap();
    assert_eq!((over.status, &over.body["state"]), (202, &json!("stopped")));
    let absent = json!({"turn_id": TurnId::new()});
    assert_eq!(rest.post(&stop(&absent), &json!({})).await.unwrap().status, 404);
    let malformed = rest.post(&stop(&json!({"turn_id": "17"})), &json!({})).await.unwrap();
    assert_eq!((malformed.status, &malformed.body["errors"][0]["field"]), (400, &json!("turn_id")));
    until("no turn to be open", || async {
        let open = "select count(*) from turns where state in ('queued', 'running')";
        Ok(app.owner().await?.query_one(open, &[]).await?.get::<_, i64>(0) == 0)
    })
    .await
    .unwrap();
    app.finish().await.unwrap();
}

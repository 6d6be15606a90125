//! What is away comes back, what was lost is found, and nobody waits for ever.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chat_core::{
    Code,
    config::{Database, Memory, Secret, Times},
    ids::{ClientMessageId, MessageId},
    store::{
        Store,
        conversations::Listing,
        door::Action,
        messages::{Page, Position},
        sweep::Pace,
        turns::{Completion, End},
    },
    timestamp::Timestamp,
    token::Identity,
};
use futures::stream::BoxStream;
use harness::{
    app::{self, App, until},
    clients::Socket,
    product::{Product, Setting},
    services::{Options, Services},
};
use orchestrator::model::{Model, Piece, Prompt, Purse, at_once};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpListener, sync::Notify, time::timeout};

use crate::turns::{by_hand, state_becomes};

/// Within this a lost last hint is repaired while a turn is open.
const REPAIRED: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_reply_whose_news_were_lost_arrives_all_the_same() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    let mut here = app.socket("ben@acme", &conversation.to_string()).await.unwrap();
    let mut there = app.socket("ben@acme", &conversation.to_string()).await.unwrap();
    here.message("hello", None).await.unwrap();
    here.until("accepted").await.unwrap();
    let claim = store.claim(tenant, conversation, &Times::default(), &Memory::default()).await.unwrap().unwrap();
    // Stored, and then nobody publishes it.
    store.finish(&claim, MessageId::new(), "here I am", Completion::Whole).await.unwrap().0.unwrap();
    let stored = Instant::now();
    for socket in [&mut here, &mut there] {
        assert_eq!(socket.until("response").await.unwrap()["text"], "here I am");
    }
    assert!(stored.elapsed() < REPAIRED, "{:?}", stored.elapsed());
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_failure_whose_news_were_lost_is_told_all_the_same() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    let mut socket = app.socket("ben@acme", &conversation.to_string()).await.unwrap();
    socket.message("hello", None).await.unwrap();
    let accepted = socket.until("accepted").await.unwrap();
    let claim = store.claim(tenant, conversation, &Times::default(), &Memory::default()).await.unwrap().unwrap();
    store.end(&claim, End::Failed(Code::ModelFailed)).await.unwrap();
    let turn = socket.until("turn").await.unwrap();
    assert_eq!((&turn["turn_id"], &turn["state"]), (&accepted["turn_id"], &json!("failed")));
    assert_eq!(socket.expect("error").await.unwrap()["code"], "model_failed");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_turn_that_nobody_claims_in_time_fails_and_its_user_is_told() {
    let hurried = Times {
        queue_age: Duration::from_millis(200),
        sweep_first: Duration::from_millis(50),
        sweep_longest: Duration::from_millis(100),
        ..Times::default()
    };
    let app = App::with(|setting| (setting.queue, setting.times) = (crate::turns::silent(), hurried)).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message("is anybody there?", None).await.unwrap();
    let accepted = socket.until("accepted").await.unwrap();
    let turn = socket.until("turn").await.unwrap();
    assert_eq!((&turn["turn_id"], &turn["state"]), (&accepted["turn_id"], &json!("failed")));
    assert_eq!(socket.expect("error").await.unwrap()["code"], "deadline_exceeded");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_hub_looks_as_often_as_it_is_set_to() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    let often = Times { look: Duration::from_millis(20), ..Times::default() };
    let seldom = Times { look: Duration::from_secs(3_600), look_all: Duration::from_secs(3_600), ..often };
    let token = app.token(app.user("ben@acme"));
    let mut sockets = Vec::new();
    let mut hubs = Vec::new();
    for times in [often, seldom] {
        let setting = Setting { times, ..app.setting.clone() };
        let hub = Product::start(&setting, TcpListener::bind(("127.0.0.1", 0)).await.unwrap()).await.unwrap();
        sockets.push(Socket::join(&hub.ws(), &conversation.to_string(), &token).await.unwrap().0);
        hubs.push(hub);
    }
    sockets[0].message("hello", None).await.unwrap();
    sockets[0].until("accepted").await.unwrap();
    sockets[1].until("message").await.unwrap();
    let claim = store.claim(tenant, conversation, &Times::default(), &Memory::default()).await.unwrap().unwrap();
    store.finish(&claim, MessageId::new(), "here I am", Completion::Whole).await.unwrap().0.unwrap();
    let stored = Instant::now();
    sockets[0].until("response").await.unwrap();
    // Less than a look of the usual length, of which it takes two.
    assert!(stored.elapsed() < Duration::from_secs(2), "{:?}", stored.elapsed());
    assert!(sockets[1].next_within(REPAIRED).await.is_err(), "found without a look");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn whoever_was_away_when_a_turn_failed_is_told_on_return() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    let mut socket = app.socket("ben@acme", &conversation.to_string()).await.unwrap();
    for text in ["one", "two"] {
        socket.message(text, None).await.unwrap();
    }
    let first = socket.until("accepted").await.unwrap();
    let second = socket.until("accepted").await.unwrap();
    drop(socket);
    let claim = store.claim(tenant, conversation, &Times::default(), &Memory::default()).await.unwrap().unwrap();
    store.end(&claim, End::Failed(Code::ModelFailed)).await.unwrap();

    let mut back = Socket::open(&app.product.ws(), &conversation.to_string(), None).await.unwrap();
    let token = app.token(app.user("ben@acme"));
    back.say(&json!({"type": "auth", "token": token, "last_seq": 2, "epoch": 0})).await.unwrap();
    let turn = back.expect("turn").await.unwrap();
    assert_eq!((&turn["turn_id"], &turn["code"]), (&first["turn_id"], &json!("model_failed")));
    back.expect("ready").await.unwrap();
    // And the one that still waits is waited for here, too.
    let claim = store.claim(tenant, conversation, &Times::default(), &Memory::default()).await.unwrap().unwrap();
    store.end(&claim, End::Stopped).await.unwrap();
    let turn = back.expect("turn").await.unwrap();
    assert_eq!((&turn["turn_id"], &turn["state"]), (&second["turn_id"], &json!("stopped")));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn without_redis_sockets_stay_messages_are_answered_and_new_sockets_come_in() {
    let own = Services::start(&Options { durable: false, max_connections: 10 }, &|_| {}).await.unwrap();
    let app = App::with(|setting| setting.redis = own.redis.entrance.clone()).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut here = app.socket("ben@acme", &conversation).await.unwrap();
    let mut there = app.socket("ben@acme", &conversation).await.unwrap();
    harness::signal(own.redis.pid(), "KILL").unwrap();

    let said = Instant::now();
    here.message("anybody?", None).await.unwrap();
    here.expect("typing").await.unwrap();
    here.expect("accepted").await.unwrap();
    assert_eq!(here.until("response").await.unwrap()["text"], "Echo: anybody?");
    assert!(said.elapsed() < REPAIRED * 2, "{:?}", said.elapsed());
    assert_eq!(there.until("response").await.unwrap()["seq"], 2, "the other tab, too");

    let mut new = app.socket("ben@acme", &conversation).await.unwrap();
    let sent = app.rest("ben@acme").say(&conversation, &ClientMessageId::new().to_string(), "by REST").await.unwrap();
    assert_eq!(sent.status, 202);
    assert_eq!(new.until("response").await.unwrap()["text"], "Echo: by REST");
    let ready = reqwest::get(format!("{}/readyz", app.product.rest())).await.unwrap();
    assert_eq!((ready.status().as_u16(), ready.text().await.unwrap().as_str()), (503, "redis"));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn without_postgres_nothing_is_accepted_and_the_same_message_goes_through_later() {
    let own = Services::start(&Options { durable: false, max_connections: 40 }, &|_| {}).await.unwrap();
    let app = App::on(&own, |_| {}).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let superuser = app::connect(&own.postgres.superuser_url("postgres")).await.unwrap();
    let database = app.setting.database_url.rsplit('/').next().unwrap().to_owned();
    superuser.batch_execute(&format!("alter database {database} allow_connections false")).await.unwrap();
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'chat_app'";
    superuser.execute(cut, &[]).await.unwrap();

    let id = ClientMessageId::new().to_string();
    socket.message("are you there?", Some(&id)).await.unwrap();
    let error = socket.until("error").await.unwrap();
    assert_eq!((&error["code"], &error["client_message_id"]), (&json!("unavailable"), &json!(id)));
    assert!(error["retry_after_ms"].is_u64());
    let rest = app.rest("ben@acme").get(&format!("/conversations/{conversation}")).await.unwrap();
    assert_eq!((rest.status, rest.headers.contains_key("retry-after")), (503, true));

    superuser.batch_execute(&format!("alter database {database} allow_connections true")).await.unwrap();
    let back = Instant::now();
    let accepted = loop {
        socket.message("are you there?", Some(&id)).await.unwrap();
        let frame = loop {
            let frame = socket.next().await.unwrap();
            if frame["type"] == "error" || frame["type"] == "accepted" {
                break frame;
            }
        };
        if frame["type"] == "accepted" {
            break frame;
        }
    };
    assert!(back.elapsed() < REPAIRED, "{:?}", back.elapsed());
    assert_eq!((&accepted["seq"], &accepted["duplicate"]), (&json!(1), &json!(false)));
    socket.until("response").await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_hub_that_leaves_says_so_and_another_one_goes_on() {
    let mut app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut second = app.second(harness::product::QueueKind::Local(None)).await.unwrap();
    let token = app.token(app.user("ben@acme"));
    let (mut socket, _) = Socket::join(&second.ws(), &conversation, &token).await.unwrap();
    socket.message("before", None).await.unwrap();
    socket.until("response").await.unwrap();

    let (stopped, goodbye) = tokio::join!(second.stop(), async {
        let reconnect = socket.until("reconnect").await.unwrap();
        (reconnect["delay_ms"].as_u64().unwrap(), socket.closed().await.unwrap())
    });
    stopped.unwrap();
    assert!(goodbye.0 < 5_000 && goodbye.1 == Some(1012), "{goodbye:?}");
    let sent = app.rest("ben@acme").say(&conversation, &ClientMessageId::new().to_string(), "meanwhile").await.unwrap();
    assert_eq!(sent.body["seq"], 3);
    let mut back = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
    back.say(&json!({"type": "auth", "token": token, "last_seq": 2, "epoch": 0})).await.unwrap();
    assert_eq!(back.until("message").await.unwrap()["message"]["content"], "meanwhile");
    assert_eq!(back.until("response").await.unwrap()["seq"], 4);
    app.product.stop().await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_reset_while_away_is_told() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message("hello", None).await.unwrap();
    socket.until("response").await.unwrap();
    drop(socket);
    app.rest("ben@acme").delete(&format!("/conversations/{conversation}")).await.unwrap();
    let mut back = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
    let token = app.token(app.user("ben@acme"));
    back.say(&json!({"type": "auth", "token": token, "last_seq": 2, "epoch": 0})).await.unwrap();
    assert_eq!(back.expect("reset").await.unwrap()["epoch"], 1);
    let ready = back.expect("ready").await.unwrap();
    assert_eq!((&ready["resumed"], &ready["epoch"], &ready["last_seq"]), (&json!(false), &json!(1), &json!(2)));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_reply_that_could_not_be_stored_at_once_is_not_paid_for_again() {
    let model = Arc::new(Gated::default());
    let app = App::with(|setting| setting.model = Arc::clone(&model) as Arc<dyn Model>).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message("hello", None).await.unwrap();
    let accepted = socket.until("accepted").await.unwrap();
    state_becomes(&app, &accepted, "running").await;
    // Somebody sits on the conversation's row for longer than a script waits for a lock.
    let mut owner = app.owner().await.unwrap();
    let held = owner.transaction().await.unwrap();
    held.execute("select 1 from web_conversations where id = $1::text::uuid for update", &[&conversation])
        .await
        .unwrap();
    model.gate.notify_one();
    let waiting = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' and usename = 'chat_app'";
    // Only a superuser sees what others wait for, and a transaction sees one picture of it.
    let database = app.owner_url.rsplit('/').next().unwrap();
    let looker = app::services().await.unwrap().postgres.superuser_url(database);
    let looker = app::connect(&looker).await.unwrap();
    for (what, expected) in [("a wait", 1), ("its end", 0)] {
        until(what, || async { Ok(looker.query_one(waiting, &[]).await?.get::<_, i64>(0) == expected) }).await.unwrap();
    }
    held.commit().await.unwrap();
    assert_eq!(socket.until("response").await.unwrap()["text"], "one answer");
    assert_eq!(model.asked.load(Ordering::SeqCst), 1);
    app.finish().await.unwrap();
}

/// A model that answers when it is let.
#[derive(Default)]
struct Gated {
    gate: Notify,
    asked: AtomicUsize,
}

impl Model for Gated {
    fn speak<'a>(&'a self, _: &'a Prompt, _: &'a dyn Purse) -> BoxStream<'a, chat_core::Result<Piece>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        at_once("gated", async move {
            self.gate.notified().await;
            Ok("one answer\0".to_owned())
        })
    }
}

#[tokio::test]
async fn half_a_request_does_not_keep_a_hub_that_leaves() {
    let mut app = App::start().await.unwrap();
    let mut half = tokio::net::TcpStream::connect(app.product.address).await.unwrap();
    half.write_all(b"GET /healthz HTTP/1.1\r\nHo").await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut mute = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
    let (stopped, closed) = tokio::join!(timeout(Duration::from_secs(25), app.product.stop()), mute.closed());
    stopped.expect("leaves within the time a container gets").unwrap();
    assert_eq!(closed.unwrap(), Some(1012), "one that has not said who it is, too");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_sweep_finds_thousands_though_the_statistics_are_of_quiet_times() {
    let app = App::with(|setting| setting.queue = crate::turns::silent()).await.unwrap();
    let owner = app.owner().await.unwrap();
    let agent = app.agent_of(app.user("ben@acme"));
    let fill = format!(
        "alter table turns set (autovacuum_enabled = false); analyze turns;
        insert into portal_users (id, email, display_name, role)
          select gen_random_uuid(), 'user' || n, 'user', 'customer_operator' from generate_series(1, 5000) n;
        insert into web_conversations (id, tenant_id, agent_id, user_id)
          select gen_random_uuid(), '{}', '{}', id from portal_users where email like 'user%';
        insert into turns (id, tenant_id, conversation_id, user_id, seq, epoch, text_sha256, hinted_at)
          select gen_random_uuid(), tenant_id, id, user_id, 1, 0, '', now() - interval '1 day' from web_conversations",
        agent.tenant, agent.id
    );
    owner.batch_execute(&fill).await.unwrap();
    let pace = Pace { batch: 5_000, ..Pace::new(&Times::default()) };
    // The product's own sweep may have taken some of them.
    let found = app.product.orchestrator.store.sweep(&pace).await.unwrap();
    let hinted: i64 = owner.query_one("select count(*) from turns where hints > 1", &[]).await.unwrap().get(0);
    assert!(hinted == 5_000 && !found.waiting.is_empty(), "{hinted}, {} of them now", found.waiting.len());
    owner.execute("delete from turns", &[]).await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_list_costs_the_same_beside_a_long_conversation() {
    let app = App::start().await.unwrap();
    let (mine, theirs) = (app.conversation("ben@acme").await.unwrap(), app.conversation("ada@acme").await.unwrap());
    let (owner, ben) = (app.owner().await.unwrap(), app.user("ben@acme"));
    // Nearly all messages are of one conversation, so that a plan takes any other for as long.
    let fill = format!(
        "insert into web_conversation_messages (id, conversation_id, tenant_id, seq, epoch, role, content)
         select gen_random_uuid(), id, tenant_id, n, 0, case n % 2 when 0 then 'assistant' else 'user' end, 'hello'
         from web_conversations, generate_series(1, case id when '{theirs}' then 50000 else 0 end) n;
         update web_conversations set last_seq = 50000, read_seq = 50000 where id = '{theirs}';
         analyze web_conversation_messages; analyze web_conversations"
    );
    owner.batch_execute(&fill).await.unwrap();
    let url = Secret::from(app.setting.database_url.clone());
    let store = Store::connect(&Database { url, pool_size: 1 }).await.unwrap();
    let who = Identity { user_id: ben.id, expires_at: Timestamp::now(), role_hint: None, tenant_hint: ben.tenant };
    for _ in 0..12 {
        let listing = Listing { tenant: ben.tenant, escalated: false, archived: Some(false), before: None, limit: 50 };
        let listed = store.conversations(&who, listing).await.unwrap();
        assert_eq!(listed.iter().map(|one| one.id.to_string()).collect::<Vec<_>>(), [mine.as_str()]);
    }
    // A connection that ends has reported what it read; the planner reads a few rows at the ends of an index.
    drop(store);
    let scans = "select coalesce(idx_scan, 0)::bigint from pg_stat_user_tables where relname = 'user_tenant_roles'";
    until("the statistics", || async { Ok(owner.query_one(scans, &[]).await?.get::<_, i64>(0) >= 12) }).await.unwrap();
    let read = "select (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint from pg_stat_user_tables
        where relname = 'web_conversation_messages'";
    let read: i64 = owner.query_one(read, &[]).await.unwrap().get(0);
    assert!(read < 50_000, "12 lists of one conversation read {read} rows");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_page_costs_the_same_in_a_long_conversation() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let (owner, ben) = (app.owner().await.unwrap(), app.user("ben@acme"));
    // One long one among many short ones, so that a plan for any of them takes it for short, too.
    let (tenant, ben) = (ben.tenant.unwrap(), ben.id);
    let fill = format!(
        "with a as (insert into agents (id, tenant_id, name)
                    select gen_random_uuid(), '{tenant}', 'n' from generate_series(1, 500) returning id),
              c as (insert into web_conversations (id, tenant_id, agent_id, user_id, last_seq)
                    select gen_random_uuid(), '{tenant}', id, '{ben}', 20 from a returning id, last_seq),
              all_of as (select id, last_seq from c union all select '{conversation}', 20000),
              m as (insert into web_conversation_messages (id, conversation_id, tenant_id, seq, epoch, role, content)
                    select gen_random_uuid(), id, '{tenant}', n, 0, case n % 2 when 0 then 'assistant' else 'user' end, 'hello'
                    from all_of, generate_series(1, last_seq) n returning id, conversation_id, seq, role)
         insert into turns (id, tenant_id, conversation_id, user_id, seq, epoch, state, text_sha256, ended_at)
           select id, '{tenant}', conversation_id, '{ben}', seq, 0, 'answered', '', now() from m where role = 'user';
         update web_conversations set last_seq = 20000 where id = '{conversation}';
         analyze web_conversation_messages; analyze turns; analyze web_conversations"
    );
    owner.batch_execute(&fill).await.unwrap();
    let url = Secret::from(app.setting.database_url.clone());
    let store = Store::connect(&Database { url, pool_size: 1 }).await.unwrap();
    let who = Identity { user_id: ben, expires_at: Timestamp::now(), role_hint: None, tenant_hint: Some(tenant) };
    let conversation = conversation.parse().unwrap();
    let (_, newest, _) = store.messages(&who, conversation, Page::Newest, 50, Action::Read).await.unwrap();
    // Often enough for Postgres to settle for a plan that does not look at the values.
    for page in [
        Page::After(Position::Seq(19_900)),
        Page::Before(Position::Seq(100)),
        Page::After(Position::Id(newest[0].id)),
        Page::Before(Position::Id(newest[0].id)),
        Page::Newest,
    ] {
        for _ in 0..12 {
            store.messages(&who, conversation, page, 50, Action::Read).await.unwrap();
        }
    }
    for _ in 0..12 {
        store.standing(&who, conversation).await.unwrap();
    }
    // A connection that ends has reported what it read.
    drop(store);
    let read = "select coalesce(sum(idx_tup_fetch + seq_tup_read), 0)::bigint from pg_stat_user_tables
        where relname in ('web_conversation_messages', 'turns')";
    let before: i64 = 20_000;
    until("the statistics", || async { Ok(owner.query_one(read, &[]).await?.get::<_, i64>(0) > 2_000) }).await.unwrap();
    let read: i64 = owner.query_one(read, &[]).await.unwrap().get(0);
    assert!(read < before, "60 pages of 50 and 12 looks at as many turns read {read} rows");
    app.finish().await.unwrap();
}

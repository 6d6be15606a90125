//! Retention: what a company does not want to keep any longer goes, and nothing else does, whoever asks.

use chat_core::{
    config::{Memory, Times},
    ids::{ClientMessageId, TenantId},
    keys::memory_short_key,
    store::{claim::Claim, retention::Expired, turns::End},
};
use harness::{
    app::{App, until},
    clients::Socket,
};
use serde_json::json;
use tokio_postgres::Client;

use crate::{
    filled::{filled, rows, superuser},
    turns::by_hand,
};

/// Makes everything that there is forty days older.
async fn age(superuser: &Client) {
    let sql = "do $$ declare c record; begin
        for c in select a.attrelid::regclass as t, a.attname from pg_attribute a join pg_class k on k.oid = a.attrelid
                 where k.relnamespace = 'public'::regnamespace and k.relkind = 'r' and a.attnum > 0
                   and not a.attisdropped and a.atttypid = 'timestamptz'::regtype and k.relname <> 'refinery_schema_history'
        loop execute format('update %s set %I = %I - interval ''40 days''', c.t, c.attname, c.attname); end loop; end $$";
    superuser.batch_execute(sql).await.unwrap();
}

async fn keeps(superuser: &Client, tenant: TenantId, days: i32) {
    let sql = "update tenants set retention_days = $2, retained_at = null where id = $1";
    superuser.execute(sql, &[&tenant, &days]).await.unwrap();
}

/// Deletes all that is due, as a hub does.
async fn expire(app: &App, tenant: TenantId) -> Expired {
    let mut all = Expired::default();
    loop {
        let some = app.product.orchestrator.store.expire_some(tenant).await.unwrap();
        all.messages += some.messages;
        all.turns += some.turns;
        all.memories.extend(some.memories);
        if !some.more {
            return all;
        }
    }
}

async fn say(socket: &mut Socket, text: &str) -> i64 {
    socket.message(text, Some(&ClientMessageId::new().to_string())).await.unwrap();
    socket.until("response").await.unwrap()["seq"].as_i64().unwrap()
}

async fn count(superuser: &Client, of: &str) -> i64 {
    superuser.query_one(&format!("select count(*) from {of}"), &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_hub_deletes_what_is_due_and_only_of_who_wants_it() {
    let app = App::start().await.unwrap();
    let [bens, _] = filled(&app).await;
    let superuser = superuser(&app).await;
    age(&superuser).await;
    // What is young stays, with its turn.
    let tenant = app.user("ada@acme").tenant.unwrap();
    let conversation = app.conversation("ada@acme").await.unwrap();
    let mut socket = app.socket("ada@acme", &conversation).await.unwrap();
    say(&mut socket, "young").await;
    let before = rows(&superuser).await;
    let memory = memory_short_key(tenant, app.agent_of(app.user("ben@acme")).id, app.user("ben@acme").id);
    assert!(!app.product.orchestrator.publisher.recall(&memory).await.unwrap().is_empty());

    keeps(&superuser, tenant, 30).await;
    let of_bens = format!("web_conversation_messages where conversation_id = '{bens}'");
    until("the old ones to go", || async { Ok(count(&superuser, &of_bens).await == 0) }).await.unwrap();
    until("the turns to go", || async {
        Ok(count(&superuser, &format!("turns where conversation_id = '{bens}'")).await == 0)
    })
    .await
    .unwrap();
    until("Redis to forget", || async { Ok(app.product.orchestrator.publisher.recall(&memory).await?.is_empty()) })
        .await
        .unwrap();
    assert_eq!(count(&superuser, &format!("channel_turns where tenant_id = '{tenant}'")).await, 0);
    let kept = "select summary is null and summary_seq = 3 and expired_seq = 3 and last_seq = 3 from web_conversations
        where id = $1::text::uuid";
    assert!(superuser.query_one(kept, &[&bens]).await.unwrap().get::<_, bool>(0));

    // Everything else is as it was: the other company's, what is young, and what holds no words.
    let after = rows(&superuser).await;
    for (table, rows) in before {
        let touched = ["web_conversations", "tenants"].contains(&table.as_str());
        for row in rows {
            let acmes = row.contains(&tenant.to_string());
            let gone = ["web_conversation_messages", "turns", "channel_turns"].contains(&table.as_str())
                && acmes
                && !row.contains(&conversation);
            assert!(gone || (touched && acmes) || after[&table].contains(&row), "{table} lost {row}");
        }
    }
    // It goes on where it was.
    let listed = app.rest("ben@acme").get(&format!("/conversations?tenant_id={tenant}")).await.unwrap();
    assert_eq!((&listed.body[0]["last_message_preview"], &listed.body[0]["last_seq"]), (&json!(null), &json!(3)));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_reader_from_before_the_edge_begins_anew_and_paging_ends_there() {
    let app = App::start().await.unwrap();
    let superuser = superuser(&app).await;
    let tenant = app.user("ben@acme").tenant.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    say(&mut socket, "one").await;
    say(&mut socket, "two").await;
    age(&superuser).await;
    say(&mut socket, "three").await;
    keeps(&superuser, tenant, 30).await;
    expire(&app, tenant).await;
    assert_eq!(count(&superuser, "web_conversation_messages").await, 2);
    say(&mut socket, "four").await;

    let token = app.token(app.user("ben@acme"));
    for (last_seq, told) in [(0, "reset"), (3, "reset"), (4, "message"), (6, "message"), (8, "ready")] {
        let mut back = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
        back.say(&json!({"type": "auth", "token": token, "last_seq": last_seq, "epoch": 0})).await.unwrap();
        let first = back.next().await.unwrap();
        assert_eq!(first["type"], told, "from {last_seq}: {first}");
        match told {
            "reset" => assert_eq!(
                (&first["epoch"], &back.expect("ready").await.unwrap()["resumed"]),
                (&json!(0), &json!(false))
            ),
            "message" => assert_eq!(first["message"]["seq"], json!(last_seq + 1)),
            _ => assert_eq!(first["resumed"], json!(true)),
        }
    }
    let rest = app.rest("ben@acme");
    let page = rest.get(&format!("/conversations/{conversation}/messages?before=7&limit=2")).await.unwrap();
    let seqs: Vec<i64> = page.body.as_array().unwrap().iter().map(|message| message["seq"].as_i64().unwrap()).collect();
    assert_eq!((seqs, page.headers.get("link")), (vec![5, 6], None), "nothing before them");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_waits_for_its_answer_stays_however_old_it_is() {
    let (app, tenant, conversation) = by_hand().await;
    let superuser = superuser(&app).await;
    let mut socket = app.socket("ben@acme", &conversation.to_string()).await.unwrap();
    for text in ["one", "two"] {
        socket.message(text, None).await.unwrap();
        socket.until("accepted").await.unwrap();
    }
    let store = &app.product.orchestrator.store;
    let claim = store.claim(tenant, conversation, &Times::default(), &Memory::default()).await.unwrap().unwrap();
    keeps(&superuser, tenant, 30).await;
    let old = "update web_conversation_messages set created_at = created_at - interval '40 days';
        update turns set created_at = created_at - interval '40 days'; update web_conversations set oldest_at = null";
    superuser.batch_execute(old).await.unwrap();
    let expired = expire(&app, tenant).await;
    assert_eq!((expired.messages, expired.turns), (0, 0));
    let end = End::Stopped;
    assert!(store.end(&claim, end).await.unwrap().0);
    superuser.batch_execute("update web_conversations set oldest_at = null").await.unwrap();
    let expired = expire(&app, tenant).await;
    assert_eq!((expired.messages, expired.turns), (1, 1), "the one that has its end, up to the one that waits");
    let claim = store.claim(tenant, conversation, &Times::default(), &Memory::default()).await.unwrap().unwrap();
    assert_eq!(claim.message, "two");
    // A summary that was begun before that speaks of what has gone, and is refused.
    let begun_before = Claim { expired_seq: 0, ..claim.clone() };
    assert!(!store.summarize(&begun_before, "of one and two", 2).await.unwrap());
    assert!(store.summarize(&claim, "of two", 2).await.unwrap());
    assert!(store.end(&claim, end).await.unwrap().0);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_role_that_deletes_can_delete_nothing_but_what_is_due_and_read_no_word() {
    let app = App::start().await.unwrap();
    filled(&app).await;
    let superuser = superuser(&app).await;
    let tenant = app.user("ben@acme").tenant.unwrap();
    let client = app.app_role().await.unwrap();
    let tables = ["web_conversation_messages", "turns", "channel_turns"];
    // Young rows, rows of who keeps everything; with or without a tenant, which opens rows to everybody else.
    for days in [None, Some(30)] {
        superuser.execute("update tenants set retention_days = $1", &[&days]).await.unwrap();
        for setting in ["", &format!("set local app.current_tenant = '{tenant}';")] {
            for table in tables {
                let sql = format!("begin; {setting} set local role chat_retention; delete from {table}; commit");
                let before = count(&superuser, table).await;
                client.batch_execute(&sql).await.unwrap();
                assert_eq!(count(&superuser, table).await, before, "{days:?} {setting} {table}");
            }
        }
    }
    age(&superuser).await;
    superuser.batch_execute("update turns set state = 'queued', hinted_at = 'infinity'").await.unwrap();
    client.batch_execute("begin; set local role chat_retention; delete from turns; commit").await.unwrap();
    assert_eq!(count(&superuser, "turns").await, 4, "open ones stay");
    client
        .batch_execute("begin; set local role chat_retention; delete from web_conversation_messages; commit")
        .await
        .unwrap();
    assert_eq!(count(&superuser, "web_conversation_messages where role = 'user'").await, 2, "and what they are about");
    superuser.batch_execute("update turns set state = 'answered'").await.unwrap();
    for forbidden in [
        "select content from web_conversation_messages",
        "select summary from web_conversations",
        "select said from channel_turns",
        "select name from tenants",
        "delete from web_conversations",
        "delete from audit_events",
        "delete from usage",
        "delete from tenants",
        "update web_conversations set last_seq = 0",
        "update tenants set retention_days = 1",
        "update turns set state = 'failed'",
        "update web_conversation_messages set content = ''",
        "select 1 from portal_users",
        "select 1 from user_tenant_roles",
    ] {
        client.batch_execute("begin; set local role chat_retention").await.unwrap();
        let error = client.batch_execute(forbidden).await.expect_err(forbidden);
        assert_eq!(error.code().unwrap().code(), "42501", "{forbidden}: {error:?}");
        client.batch_execute("rollback").await.unwrap();
    }
    for table in tables {
        client
            .batch_execute(&format!("begin; set local role chat_retention; delete from {table}; commit"))
            .await
            .unwrap();
        assert_eq!(count(&superuser, table).await, 0, "what is due can be deleted: {table}");
    }
    app.finish().await.unwrap();
}

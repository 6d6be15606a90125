//! The walls between tenants, tried from both sides. What the catalogue must say of them is in `catalogue.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use chat_core::{
    Code,
    config::{Database, Secret},
    ids::{ClientMessageId, ConversationId},
    store::{
        Store,
        door::Action,
        messages::{Page, Position},
    },
    text::Text,
    timestamp::Timestamp,
    token::Identity,
};
use harness::{
    app::{self, App},
    attack::{self, EXEMPT, Policies, TRIED},
};
use tokio_postgres::Client;

/// Tables with a tenant, by the column that names it.
async fn tenant_tables(owner: &Client) -> BTreeMap<String, String> {
    let sql = "select c.relname, a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
          and (a.attname = 'tenant_id' or (c.relname = 'tenants' and a.attname = 'id'))";
    owner.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn without_a_tenant_nothing_comes_back() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message("a secret", None).await.unwrap();
    socket.until("response").await.unwrap();
    let owner = app.owner().await.unwrap();
    let tables = tenant_tables(&owner).await;
    let client = app.app_role().await.unwrap();
    let tenant = app.user("ben@acme").tenant.unwrap();
    for (state, sql) in [
        ("unset", "select 1".to_owned()),
        ("empty", "set app.current_tenant = ''".to_owned()),
        ("after a transaction that had one", format!("begin; set local app.current_tenant = '{tenant}'; commit")),
        ("another's", "set app.current_tenant = '00000000-0000-7000-8000-000000000000'".to_owned()),
    ] {
        client.batch_execute(&sql).await.unwrap();
        for table in tables.keys().filter(|table| *table != "audit_events") {
            let rows = client.query(&format!("select 1 from {table}"), &[]).await.unwrap();
            assert!(rows.is_empty(), "{state}: {} rows of {table}", rows.len());
        }
        let written = client
            .execute(
                "insert into audit_events (id, tenant_id, actor_id, action) values (gen_random_uuid(), $1, $1, 'x')",
                &[&tenant],
            )
            .await;
        assert!(written.is_err(), "{state}: wrote into another tenant");
    }
    client.batch_execute(&format!("set app.current_tenant = '{tenant}'")).await.unwrap();
    let rows = client.query("select 1 from web_conversation_messages", &[]).await.unwrap();
    assert_eq!(rows.len(), 2, "with the tenant, its own come back");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_tenant_cannot_reach_into_another_even_with_its_ids() {
    let app = App::start().await.unwrap();
    let theirs = app.conversation("ben@globex").await.unwrap();
    let client = app.app_role().await.unwrap();
    let acme = app.demo.tenants[0].id;
    client.batch_execute(&format!("set app.current_tenant = '{acme}'")).await.unwrap();
    let id = theirs.parse::<ConversationId>().unwrap();
    assert!(client.query("select 1 from web_conversations where id = $1", &[&id]).await.unwrap().is_empty());
    assert_eq!(client.execute("update web_conversations set last_seq = 9 where id = $1", &[&id]).await.unwrap(), 0);
    // Its id is no better than one that does not exist.
    let mut codes = Vec::new();
    for conversation in [id, ConversationId::new()] {
        let insert = "insert into web_conversation_messages (id, conversation_id, tenant_id, seq, epoch, role, content)
            values (gen_random_uuid(), $1, $2, 1, 0, 'user', 'hello')";
        let error = client.execute(insert, &[&conversation, &acme]).await.unwrap_err();
        codes.push(error.code().unwrap().clone());
    }
    assert_eq!(codes[0], codes[1]);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_role_that_could_bypass_the_policies_is_refused_at_the_start() {
    let app = App::start().await.unwrap();
    let refuses = async |url: String| {
        Store::connect(&Database { url: Secret::from(url), pool_size: 1 }).await.err().map(|error| format!("{error:?}"))
    };
    let services = app::services().await.unwrap();
    let name = app.owner_url.rsplit('/').next().unwrap();
    for url in [app.owner_url.clone(), services.postgres.superuser_url(name)] {
        let why = refuses(url).await.expect("must be refused");
        assert!(why.contains("bypass row-level security"), "{why}");
    }
    assert_eq!(refuses(app.setting.database_url.clone()).await, None);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_served_one_tenant_serves_the_next_clean() {
    let app = App::start().await.unwrap();
    // One connection for everybody.
    let url = Secret::from(app.setting.database_url.clone());
    let store = Store::connect(&Database { url, pool_size: 1 }).await.unwrap();
    let mut seats = Vec::new();
    for handle in ["ben@acme", "ben@globex"] {
        let conversation: ConversationId = app.conversation(handle).await.unwrap().parse().unwrap();
        let user = app.user(handle);
        let who =
            Identity { user_id: user.id, expires_at: Timestamp::now(), role_hint: Some(user.role), tenant_hint: None };
        seats.push((who, conversation));
    }
    for round in 0..200 {
        let (who, own) = seats[round % 2];
        let foreign = seats[(round + 1) % 2].1;
        let text = Text::parse(format!("from {}", who.user_id), 100).unwrap();
        let refused = store.accept(&who, foreign, &text, None, 1_000).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        // Cut at a random place: whatever becomes of it, the connection must come back clean.
        let cut = tokio::time::Duration::from_micros(rand::random_range(0..3_000));
        let id = Some(ClientMessageId::new());
        let _ = tokio::time::timeout(cut, store.accept(&who, own, &text, id, 1_000)).await;
        // The same message again: now it is there, once.
        store.accept(&who, own, &text, id, 1_000).await.unwrap();
        let after = Page::After(Position::Seq(0));
        let (seat, messages, _) = store.messages(&who, own, after, 1_000, Action::Read).await.unwrap();
        assert_eq!(seat.last_seq, i64::try_from(messages.len()).unwrap());
        assert_eq!(messages.len(), round / 2 + 1, "each message once");
        assert!(messages.iter().all(|message| message.content == text.as_str()), "foreign rows");
    }
    let owner = app.owner().await.unwrap();
    owner.execute("delete from turns", &[]).await.unwrap();
    app.finish().await.unwrap();
}

/// Both walls at once. Each of them alone: below, and `cargo walls`, which takes the application's out.
#[tokio::test]
async fn a_company_gets_nothing_of_another() {
    let report = attack::run(Policies::On).await.unwrap();
    assert!(report.held(), "{report:#?}");
}

#[tokio::test]
async fn without_policies_a_company_gets_nothing_of_another() {
    let report = attack::run(Policies::Off).await.unwrap();
    assert!(report.held(), "{report:#?}");
}

#[test]
fn every_function_of_the_store_is_attacked() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/src/store");
    let mut functions = BTreeSet::new();
    let mut paths = vec![folder];
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        let (_, methods) = text.split_once("impl Store {").unwrap_or_default();
        let names = methods.lines().filter_map(|line| line.strip_prefix("    pub async fn ")?.split('(').next());
        functions.extend(names.map(str::to_owned));
    }
    let known: BTreeSet<String> =
        TRIED.iter().chain(EXEMPT.iter().map(|(name, _)| name)).map(|name| (*name).to_owned()).collect();
    assert_eq!(functions, known, "each is tried in tests/src/attack/store.rs, or exempt with a reason");
}

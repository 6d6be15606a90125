//! The walls between tenants, read from the catalog and tried from both sides.

use std::collections::BTreeMap;

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
use harness::app::{self, App};
use tokio_postgres::Client;

/// Tables with a tenant, by the column that names it.
async fn tenant_tables(owner: &Client) -> BTreeMap<String, String> {
    let sql = "select c.relname, a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
          and (a.attname = 'tenant_id' or (c.relname = 'tenants' and a.attname = 'id'))";
    owner.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn every_table_with_a_tenant_has_forced_row_level_security_both_ways() {
    let app = App::start().await.unwrap();
    let owner = app.owner().await.unwrap();
    let tables = tenant_tables(&owner).await;
    assert!(tables.len() >= 8, "{tables:?}");
    for (table, column) in &tables {
        let row = owner
            .query_one(
                "select relrowsecurity, relforcerowsecurity from pg_class where oid = $1::text::regclass",
                &[table],
            )
            .await
            .unwrap();
        assert_eq!((row.get(0), row.get(1)), (true, true), "{table} must have ENABLE and FORCE");
        let policies =
            "select policyname::text, cmd, roles::text[], qual, with_check from pg_policies where tablename = $1";
        let policies = owner.query(policies, &[table]).await.unwrap();
        let setting = "NULLIF(current_setting('app.current_tenant'::text, true), ''::text)";
        let guards =
            |text: Option<&str>| text.is_some_and(|text| text.contains(setting) && text.contains(column.as_str()));
        assert!(
            policies
                .iter()
                .any(|policy| { policy.get::<_, &str>(1) == "ALL" && guards(policy.get(3)) && guards(policy.get(4)) }),
            "{table} must have a policy with USING and WITH CHECK on the tenant"
        );
        // Whatever else opens it is read-only, or for a role that services enter by name.
        for policy in &policies {
            let (name, command, roles): (&str, &str, Vec<&str>) = (policy.get(0), policy.get(1), policy.get(2));
            let named = roles.iter().all(|role| ["chat_platform", "chat_sweep", "chat_retention"].contains(role));
            let tenants = guards(policy.get(3)) && guards(policy.get(4));
            assert!(named || tenants || command == "SELECT", "{table}: {name} opens too much");
        }
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn no_foreign_key_crosses_tenants_and_nothing_sees_around_the_policies() {
    let app = App::start().await.unwrap();
    let owner = app.owner().await.unwrap();
    let tables = tenant_tables(&owner).await;
    let keys = "select k.conrelid::regclass::text, k.confrelid::regclass::text, pg_get_constraintdef(k.oid)
        from pg_constraint k where k.contype = 'f'";
    for key in owner.query(keys, &[]).await.unwrap() {
        let (from, to, definition): (String, String, String) = (key.get(0), key.get(1), key.get(2));
        if tables.contains_key(&from) && tables.contains_key(&to) {
            assert!(definition.starts_with("FOREIGN KEY (tenant_id"), "{from} -> {to}: {definition}");
        }
    }
    let around = "select c.relname::text from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('v', 'm')
        union all select p.proname::text from pg_proc p where p.pronamespace = 'public'::regnamespace and p.prosecdef";
    let around: Vec<String> = owner.query(around, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(around.is_empty(), "views and security definer functions need a look: {around:?}");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_roles_have_what_they_need_and_no_more() {
    let app = App::start().await.unwrap();
    let owner = app.owner().await.unwrap();
    let roles =
        "select rolname::text, rolsuper or rolbypassrls or rolcreaterole or rolcreatedb, rolcanlogin, rolinherit
        from pg_roles where rolname in ('chat_app', 'chat_platform', 'chat_sweep', 'chat_retention') order by 1";
    let roles = owner.query(roles, &[]).await.unwrap();
    let facts: Vec<(String, bool, bool)> = roles.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let expected = [
        ("chat_app", false, true),
        ("chat_platform", false, false),
        ("chat_retention", false, false),
        ("chat_sweep", false, false),
    ];
    assert_eq!(facts, expected.map(|(name, power, login)| (name.to_owned(), power, login)));
    assert!(!roles[0].get::<_, bool>(3), "chat_app inherits nothing from the roles it may enter");

    let privileges = "select grantee::text, table_name::text, string_agg(privilege_type::text, ',' order by privilege_type::text)
        from information_schema.role_table_grants where table_schema = 'public' and grantee like 'chat\\_%' and grantee <> 'chat_owner'
        group by 1, 2 order by 1, 2";
    let granted: BTreeMap<(String, String), String> =
        owner.query(privileges, &[]).await.unwrap().iter().map(|r| ((r.get(0), r.get(1)), r.get(2))).collect();
    let app_may = |table: &str| granted.get(&("chat_app".to_owned(), table.to_owned())).map_or("", String::as_str);
    for (table, expected) in [
        ("tenants", "SELECT"),
        ("portal_users", "SELECT"),
        ("portal_user_identities", "SELECT"),
        ("user_tenant_roles", "SELECT"),
        ("agents", "SELECT"),
        ("channel_connections", "SELECT"),
        ("channel_turns", "INSERT,SELECT"),
        ("web_conversations", "INSERT,SELECT"),
        ("web_conversation_messages", "DELETE,INSERT,SELECT"),
        ("turns", "INSERT,SELECT"),
        ("budgets", "SELECT"),
        ("usage", "INSERT,SELECT"),
        ("audit_events", "INSERT"),
        ("escalation_notices", "SELECT"),
        ("dead_letters", "INSERT"),
        ("model_keys", "SELECT"),
    ] {
        assert_eq!(app_may(table), expected, "{table}");
    }
    for ((role, table), what) in &granted {
        let fine = match role.as_str() {
            "chat_app" => true,
            "chat_platform" => what == "SELECT" || (table == "audit_events" && what == "INSERT"),
            // Only what is due, by a restrictive policy of each of these; what it reads, it has column by column.
            "chat_retention" => {
                what == "DELETE" && ["web_conversation_messages", "turns", "channel_turns"].contains(&table.as_str())
            }
            // Column by column, so it stands in no row of this view.
            _ => false,
        };
        assert!(fine, "{role} has {what} on {table}");
    }
    app.finish().await.unwrap();
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

//! A database with rows of two companies in every table, and all its rows as text: what a deletion is measured by.

use std::collections::BTreeMap;

use chat_core::ids::{ClientMessageId, TurnId};
use harness::{
    app::{App, connect, services},
    demo::User,
};
use serde_json::json;
use tokio_postgres::Client;

/// Every row of every table, as text.
pub(crate) type Rows = BTreeMap<String, Vec<String>>;

/// Tables without a row of anybody's.
const OF_NOBODY: &[&str] = &["refinery_schema_history"];

/// A connection as superuser, whom nothing is hidden from.
pub(crate) async fn superuser(app: &App) -> Client {
    let database = app.owner_url.rsplit('/').next().unwrap();
    connect(&services().await.unwrap().postgres.superuser_url(database)).await.unwrap()
}

async fn tables(superuser: &Client) -> Vec<String> {
    let sql = "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p') and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\\_%'
        order by 1";
    superuser.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Every row there is.
pub(crate) async fn rows(superuser: &Client) -> Rows {
    let mut all = Rows::new();
    for table in tables(superuser).await {
        let rows = superuser.query(&format!("select t::text from {table} t order by 1"), &[]).await.unwrap();
        all.insert(table, rows.iter().map(|row| row.get(0)).collect());
    }
    all
}

/// Which columns of which tables hold one of these words, in whatever type: as text, and in bytes as text.
pub(crate) async fn naming(superuser: &Client, words: &[String]) -> Vec<String> {
    let columns = "select a.attname::text, format_type(a.atttypid, null) from pg_attribute a
        where a.attrelid = $1::text::regclass and a.attnum > 0 and not a.attisdropped";
    let mut naming = Vec::new();
    for table in tables(superuser).await {
        for column in superuser.query(columns, &[&table]).await.unwrap() {
            let (column, kind): (String, String) = (column.get(0), column.get(1));
            let text = if kind == "bytea" { format!("encode({column}, 'escape')") } else { format!("{column}::text") };
            let sql = format!("select count(*) from {table}, unnest($1::text[]) word where strpos({text}, word) > 0");
            let count: i64 = superuser.query_one(&sql, &[&words]).await.unwrap().get(0);
            if count > 0 {
                naming.push(format!("{table}.{column}: {count}"));
            }
        }
    }
    naming
}

/// What somebody says who must not be found again.
pub(crate) fn words_of(handle: &str) -> String {
    format!("words-of-{handle}")
}

/// Fills every table with rows of both companies of the demo; returns the conversations of ben@acme and ben@globex, which
/// wait for a person and were answered by their company's ada.
///
/// A table that comes to be later has to be filled here, too: that is asserted from the catalogue.
pub(crate) async fn filled(app: &App) -> [String; 2] {
    let superuser = superuser(app).await;
    let mut conversations = Vec::new();
    for company in ["acme", "globex"] {
        let (ben, ada) = (app.user(&format!("ben@{company}")), app.user(&format!("ada@{company}")));
        conversations.push(talk(app, &superuser, ben, ada).await);
        elsewhere(app, &superuser, ben).await;
    }
    let all = rows(&superuser).await;
    for (table, rows) in all.iter().filter(|(table, _)| !OF_NOBODY.contains(&table.as_str())) {
        for company in ["acme", "globex"] {
            let users = app.demo.users.iter().filter(|user| user.handle.ends_with(company));
            let tenant = app.user(&format!("ben@{company}")).tenant.unwrap().to_string();
            let ids: Vec<String> = users.map(|user| user.id.to_string()).chain([tenant]).collect();
            let of_theirs = rows.iter().any(|row| ids.iter().any(|id| row.contains(id)));
            assert!(of_theirs, "{table} has no row of {company}: fill it in");
        }
    }
    conversations.try_into().unwrap()
}

/// A conversation: ben says something and is answered; a person is wanted, ada comes and answers.
async fn talk(app: &App, superuser: &Client, ben: &User, ada: &User) -> String {
    let conversation = app.conversation(&ben.handle).await.unwrap();
    let mut socket = app.socket(&ben.handle, &conversation).await.unwrap();
    socket.message(&words_of(&ben.handle), Some(&ClientMessageId::new().to_string())).await.unwrap();
    socket.until("response").await.unwrap();
    let summed_up = format!("{} said {}", ben.handle, words_of(&ben.handle));
    let escalated = "update web_conversations set status = 'escalated', escalated_at = now(), escalated_by = $2,
        escalation_reason = 'a person is wanted', summary = $3, summary_seq = 1 where id = $1::text::uuid";
    superuser.execute(escalated, &[&conversation, &ada.id, &summed_up]).await.unwrap();
    let answer = words_of(&ada.handle);
    let said = app.rest(&ada.handle).say(&conversation, &ClientMessageId::new().to_string(), &answer).await.unwrap();
    assert_eq!(said.status, 202);
    // The product's own admin looks in, and leaves a trace.
    app.rest("root").get(&format!("/conversations/{conversation}/messages")).await.unwrap();
    conversation
}

/// What the portal fills in, what other channels leave, and what nobody could read.
async fn elsewhere(app: &App, superuser: &Client, ben: &User) {
    let tenant = ben.tenant.unwrap();
    let agent = app.agent_of(ben).id;
    let hint = json!({"id": "1", "tenant_id": tenant, "channel": "slack", "portal_user_id": ben.id}).to_string();
    let sql = format!(
        "insert into portal_user_identities (issuer, subject, user_id)
           select 'https://issuer.example', id::text, id from portal_users where id in
             (select user_id from user_tenant_roles where tenant_id = '{tenant}');
         insert into budgets (tenant_id, monthly_calls) values ('{tenant}', 1000000);
         insert into usage (tenant_id, turn_id, attempt, purpose, model, agent_id, calls)
           values ('{tenant}', '{turn}', 1, 'reply', 'large', '{agent}', 1);
         insert into escalation_notices (tenant_id, webhook_url, webhook_secret) values ('{tenant}', 'https://a.example', '\\x00');
         insert into model_keys (tenant_id, provider, sealed) values ('{tenant}', 'openai', decode(repeat('00', 40), 'hex'));
         with k as (
           insert into channel_connections (id, tenant_id, agent_id, channel_type, external_id)
           values (gen_random_uuid(), '{tenant}', '{agent}', 'slack', 'T1') returning id
         ) insert into channel_turns (id, tenant_id, channel, message_id, connection_id, agent_id, thread, sender, said,
             said_at, hint, state, deadline, ended_at)
           select gen_random_uuid(), '{tenant}', 'slack', '1', k.id, '{agent}', '', 'U1', 'hello', now(), '{hint}',
             'answered', now(), now() from k;
         insert into dead_letters (message_id, body, reason) values
           ('of {tenant}', '{hint}', 'channel'), ('from {handle}', 'mail from {handle}.example', 'body');
         insert into audit_events (id, tenant_id, action, subject_id, detail) values
           (gen_random_uuid(), '{tenant}', 'user.changed', '{ben}', '{{\"user\": \"{ben}\"}}'),
           (gen_random_uuid(), null, 'tenant.changed', '{tenant}', null)",
        turn = TurnId::new(),
        ben = ben.id,
        handle = ben.handle,
    );
    superuser.batch_execute(&sql).await.unwrap();
}

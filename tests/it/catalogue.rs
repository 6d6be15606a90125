//! What the catalogue of the database must say, so that no table, view, function, key or grant opens a wall between tenants.
//!
//! [`violations`] names everything that breaks a rule; whoever adds something finds here what it must be like, or adds a
//! line with a reason.

use std::collections::BTreeSet;

use chat_core::store::unpatched;
use harness::app::App;
use tokio_postgres::Client;

/// Tables without row-level security, and why each can do without. Any other has it, forced.
const OPEN_TABLES: &[(&str, &str)] = &[
    ("dead_letters", "what nobody could read has no tenant; the services may add to it and no more"),
    ("refinery_schema_history", "the migrations' own; no role of ours has any right to it"),
];

/// Policies beside `tenant` that open rows for everybody: each to read only, and each by who is asking or where they are.
const PERSONS: &[(&str, &str)] = &[
    ("portal_user_identities", "own"),
    ("portal_users", "own"),
    ("portal_users", "tenant_members"),
    ("user_tenant_roles", "own"),
    ("tenants", "own"),
    ("web_conversations", "own"),
    ("web_conversations", "inbox"),
];

/// Columns whose values we make ourselves, at random: a unique index that begins with one tells nobody anything.
const OUR_IDS: &[&str] = &["id", "conversation_id", "reply_to"];

/// Who may do what: role, table, right; with columns where it is for those alone. Whatever stands here is granted, and
/// nothing else is, to these roles and to everybody.
const GRANTS: &str = "
chat_app agents SELECT
chat_app audit_events INSERT
chat_app budgets SELECT
chat_app budgets UPDATE calls calls_past_warning month tokens
chat_app channel_connections SELECT
chat_app channel_turns INSERT
chat_app channel_turns SELECT
chat_app channel_turns UPDATE agent_id attempt code ended_at lease_until reply state
chat_app dead_letters INSERT
chat_app escalation_notices SELECT
chat_app model_keys SELECT
chat_app portal_user_identities SELECT
chat_app portal_users SELECT
chat_app tenants SELECT
chat_app turns INSERT
chat_app turns SELECT
chat_app turns UPDATE attempt claimed_at code deadline ended_at hinted_at hints lease_until state stop_requested
chat_app usage INSERT
chat_app usage SELECT
chat_app usage UPDATE calls input_tokens output_tokens reserved_tokens settled_at
chat_app user_tenant_roles SELECT
chat_app web_conversation_messages DELETE
chat_app web_conversation_messages INSERT
chat_app web_conversation_messages SELECT
chat_app web_conversation_messages UPDATE rated_at rating rating_comment
chat_app web_conversations INSERT
chat_app web_conversations SELECT
chat_app web_conversations UPDATE answered_at archived_at epoch escalated_at escalated_by escalation_reason last_seq read_seq rules_count_from status summary summary_seq taken_at taken_by tell_at tell_hinted_at title title_seq told updated_at
chat_platform agents SELECT
chat_platform audit_events INSERT
chat_platform budgets SELECT
chat_platform channel_connections SELECT agent_id channel_type config created_at external_id id tenant_id
chat_platform channel_turns SELECT
chat_platform portal_users SELECT
chat_platform tenants SELECT
chat_platform turns SELECT
chat_platform usage SELECT
chat_platform user_tenant_roles SELECT
chat_platform web_conversation_messages SELECT
chat_platform web_conversations SELECT
chat_retention channel_turns DELETE
chat_retention channel_turns SELECT created_at deadline id state tenant_id
chat_retention tenants SELECT id retained_at retention_days
chat_retention tenants UPDATE retained_at
chat_retention turns DELETE
chat_retention turns SELECT conversation_id created_at id seq state tenant_id
chat_retention web_conversation_messages DELETE
chat_retention web_conversation_messages SELECT conversation_id created_at id seq tenant_id
chat_retention web_conversations SELECT agent_id expired_seq id oldest_at tenant_id title_seq user_id
chat_retention web_conversations UPDATE expired_seq oldest_at summary summary_seq title title_seq
chat_sweep turns SELECT attempt conversation_id created_at deadline hinted_at hints id lease_until seq state tenant_id user_id waiting_since
chat_sweep turns UPDATE hinted_at hints waiting_since
chat_sweep web_conversations SELECT id tell_at tell_hinted_at tenant_id user_id
chat_sweep web_conversations UPDATE tell_hinted_at
";

/// The setting that a policy on `setting` compares with, as the catalogue writes it.
fn current(setting: &str) -> String {
    format!("(NULLIF(current_setting('app.{setting}'::text, true), ''::text))::uuid")
}

/// Tables with a tenant, and the column that names it.
const TENANT_TABLES: &str = "
    select c.oid, c.relname::text as name, a.attname::text as tenant from pg_class c
    join pg_attribute a on a.attrelid = c.oid and not a.attisdropped
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
      and (a.attname = 'tenant_id' or (c.relname = 'tenants' and a.attname = 'id'))";

/// Rules that one statement can tell; each row is a violation. `{open}` are [`OPEN_TABLES`], `{ids}` [`OUR_IDS`].
const RULES: &[(&str, &str)] = &[
    (
        "has no forced row-level security",
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
           and not (relrowsecurity and relforcerowsecurity) and relname <> all({open})",
    ),
    (
        "is a view that runs with its owner's rights",
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind = 'v'
           and not coalesce(reloptions, '{}') && '{security_invoker=true,security_invoker=on,security_invoker=1}'
          ",
    ),
    (
        "is a materialized view or a foreign table, which no policy holds",
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('m', 'f')
          ",
    ),
    (
        "is a SECURITY DEFINER function without a fixed search_path, or one for everybody",
        "select p.proname::text from pg_proc p where p.pronamespace = 'public'::regnamespace and p.prosecdef
          
           and (not exists (select from unnest(p.proconfig) c where c like 'search\\_path=%')
                or has_function_privilege('public', p.oid, 'execute'))",
    ),
    (
        "is a foreign key to a tenant's table without the tenant",
        "with t as (select c.oid from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
                    where c.relnamespace = 'public'::regnamespace)
         select k.conname::text from pg_constraint k where k.contype = 'f' and k.confrelid in (select oid from t)
          
           and not exists (
             select from unnest(k.conkey, k.confkey) pair (here, there)
             join pg_attribute h on h.attrelid = k.conrelid and h.attnum = pair.here and h.attname = 'tenant_id'
             join pg_attribute f on f.attrelid = k.confrelid and f.attnum = pair.there and f.attname = 'tenant_id')",
    ),
    (
        "is a unique index of a tenant's table that begins neither with the tenant nor with an id of ours",
        "with t as (select c.oid from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
                    where c.relnamespace = 'public'::regnamespace)
         select i.indexrelid::regclass::text from pg_index i
         left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
         where i.indisunique and i.indrelid in (select oid from t)
           and coalesce(a.attname <> 'tenant_id' and not (a.attname = any({ids}) and a.atttypid = 'uuid'::regtype), true)",
    ),
    (
        "are default privileges: what is made later would be open",
        "select pg_get_userbyid(defaclrole)::text from pg_default_acl",
    ),
    (
        "may make objects in the schema",
        "select coalesce(nullif(a.grantee, 0)::regrole::text, 'everybody') from pg_namespace n,
           lateral aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
         where n.nspname = 'public' and a.privilege_type = 'CREATE' and a.grantee <> n.nspowner
           and pg_get_userbyid(a.grantee) <> 'chat_owner'",
    ),
    (
        "is a role of ours with a power that it must not have",
        "select rolname::text from pg_roles where rolname in ('chat_app', 'chat_platform', 'chat_sweep', 'chat_retention')
           and (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication
                or rolcanlogin <> (rolname = 'chat_app') or (rolname = 'chat_app' and rolinherit))
          ",
    ),
    (
        "is a membership that lets a role of ours be another",
        "select m.member::regrole || ' in ' || m.roleid::regrole from pg_auth_members m
         where m.member::regrole::text in ('chat_app', 'chat_platform', 'chat_sweep', 'chat_retention')
          
           and (m.admin_option or m.member::regrole::text <> 'chat_app'
                or m.roleid::regrole::text not in ('chat_platform', 'chat_sweep', 'chat_retention'))",
    ),
    (
        "belongs to a role of the services",
        "select relname::text from pg_class where pg_get_userbyid(relowner) in ('chat_app', 'chat_platform', 'chat_sweep', 'chat_retention')
          ",
    ),
];

/// Rights as they stand in the catalogue, written as [`GRANTS`] are. Sequences are among the tables.
const GRANTED: &str = "
    select coalesce(nullif(a.grantee, 0)::regrole::text, 'everybody') || ' ' || c.relname || ' ' || a.privilege_type
        || case when a.is_grantable then ' and may pass it on' else '' end
    from pg_class c, lateral aclexplode(c.relacl) a
    where c.relnamespace = 'public'::regnamespace and a.grantee <> c.relowner and c.relname <> all($1::text[])
    union all
    select coalesce(nullif(a.grantee, 0)::regrole::text, 'everybody') || ' ' || c.relname || ' ' || a.privilege_type
        || ' ' || string_agg(t.attname, ' ' order by t.attname collate \"C\")
    from pg_class c join pg_attribute t on t.attrelid = c.oid and not t.attisdropped, lateral aclexplode(t.attacl) a
    where c.relnamespace = 'public'::regnamespace and a.grantee <> c.relowner
    group by a.grantee, c.relname, a.privilege_type";

/// Everything in the catalogue that breaks a rule, each with what it is.
async fn violations(owner: &Client) -> Vec<String> {
    let mut found = Vec::new();
    let open: Vec<&str> = OPEN_TABLES.iter().map(|(table, _)| *table).collect();
    let list = |names: &[&str]| format!("array['{}']", names.join("', '"));
    for (rule, sql) in RULES {
        let sql = sql.replace("{open}", &list(&open)).replace("{ids}", &list(OUR_IDS));
        let rows = owner.query(&sql, &[]).await.unwrap();
        found.extend(rows.iter().map(|row| format!("{} {rule}", row.get::<_, String>(0))));
    }
    found.extend(policies(owner).await);
    // Views are judged above; what may be read of one with its reader's rights, its tables say.
    let views = "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind = 'v'";
    let views: Vec<String> = owner.query(views, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let granted: BTreeSet<String> =
        owner.query(GRANTED, &[&views]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let written: BTreeSet<String> = GRANTS.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    found.extend(granted.difference(&written).map(|grant| format!("{grant} is granted and not written down")));
    found.extend(written.difference(&granted).map(|grant| format!("{grant} is written down and not granted")));
    found
}

/// Policies that are missing, or open too much. Permissive ones are OR-ed, so the widest one decides: beside the tenant's
/// own, each is for a role that a service enters by name, or reads by the person of the transaction.
async fn policies(owner: &Client) -> Vec<String> {
    let mut found = Vec::new();
    let sql =
        "select tablename::text, policyname::text, cmd, roles::text[], coalesce(qual, ''), coalesce(with_check, '')
        from pg_policies where schemaname = 'public' and permissive = 'PERMISSIVE' order by 1, 2";
    let all = owner.query(sql, &[]).await.unwrap();
    let tables = owner.query(TENANT_TABLES, &[]).await.unwrap();
    for table in &tables {
        let (name, column): (&str, &str) = (table.get("name"), table.get("tenant"));
        let guard = format!("({column} = {})", current("current_tenant"));
        let tenants = all.iter().any(|policy| {
            policy.get::<_, &str>(0) == name
                && policy.get::<_, &str>(2) == "ALL"
                && [4, 5].iter().all(|text| policy.get::<_, &str>(*text) == guard)
        });
        if !tenants {
            found.push(format!("{name} has no policy that holds reading and writing to the tenant"));
        }
    }
    // Whoever may delete across tenants is held to what is due, whatever permissive policy would open the row.
    let undue = "select c.relname::text from pg_class c where c.relnamespace = 'public'::regnamespace
          and has_table_privilege('chat_retention', c.oid, 'delete')
          and not exists (select from pg_policy p where p.polrelid = c.oid and not p.polpermissive and p.polcmd = 'd'
                          and p.polroles = array['chat_retention'::regrole::oid]
                          and pg_get_expr(p.polqual, p.polrelid) like '%(created_at < app_kept_since(tenant_id))%')";
    let undue = owner.query(undue, &[]).await.unwrap();
    found.extend(
        undue
            .iter()
            .map(|row| format!("{} may be deleted by chat_retention before it is due", row.get::<_, String>(0))),
    );
    for policy in &all {
        let (table, name, command): (&str, &str, &str) = (policy.get(0), policy.get(1), policy.get(2));
        let (roles, using, check): (Vec<&str>, &str, &str) = (policy.get(3), policy.get(4), policy.get(5));
        let column =
            tables.iter().find(|row| row.get::<_, &str>("name") == table).map(|row| row.get::<_, &str>("tenant"));
        let guard = column.map(|column| format!("({column} = {})", current("current_tenant")));
        let by_tenant = guard.is_some_and(|guard| using == guard && check == guard);
        let platform =
            roles == ["chat_platform"] && (command == "SELECT" || (command == "INSERT" && table == "audit_events"));
        let sweep = roles == ["chat_sweep"] && ["turns", "web_conversations"].contains(&table) && command == "ALL";
        // What it may delete its restrictive policies say; see below.
        let retention = roles == ["chat_retention"] && name == "retention" && command == "ALL";
        let by =
            |setting: &str| using.contains(&format!("NULLIF(current_setting('app.{setting}'::text, true), ''::text)"));
        let by_person = by("current_user") || by("current_tenant") || (by("current_issuer") && by("current_subject"));
        let person = PERSONS.contains(&(table, name)) && command == "SELECT" && by_person;
        if !(by_tenant || platform || sweep || retention || person) {
            found.push(format!("{table} is opened too far by the policy {name}"));
        }
    }
    found
}

#[tokio::test]
async fn nothing_in_the_catalogue_opens_a_wall() {
    let app = App::start().await.unwrap();
    let owner = app.owner().await.unwrap();
    assert_eq!(violations(&owner).await, Vec::<String>::new());
    // A line here that is about nothing any more would hide whatever is called so next.
    for (table, why) in OPEN_TABLES {
        let there = "select to_regclass('public.' || $1::text) is not null";
        assert!(owner.query_one(there, &[table]).await.unwrap().get::<_, bool>(0), "there is no {table}: {why}");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn whatever_opens_a_wall_is_named() {
    let app = App::start().await.unwrap();
    let owner = app.owner().await.unwrap();
    let tenant = "tenant_id uuid not null references tenants (id)";
    let guard = "tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid";
    let forced = |table: &str| {
        format!(
            "alter table {table} enable row level security, force row level security;
             create policy tenant on {table} using ({guard}) with check ({guard});"
        )
    };
    // What somebody does, and who is named for it.
    let planted = [
        (format!("create table bare (id uuid primary key, {tenant})"), vec!["bare has no forced", "bare has no policy"]),
        ("create table untenanted (id uuid primary key)".to_owned(), vec!["untenanted has no forced"]),
        (
            format!("create table unforced (id uuid primary key, {tenant}); {} alter table unforced no force row level security", forced("unforced")),
            vec!["unforced has no forced"],
        ),
        (
            format!("create table readable (id uuid primary key, {tenant}); {} alter policy tenant on readable using (true)", forced("readable")),
            vec!["readable has no policy", "readable is opened too far"],
        ),
        (
            "create policy everybody on agents for select using (true)".to_owned(),
            vec!["agents is opened too far by the policy everybody"],
        ),
        (
            "create policy writes on turns for update to chat_platform using (true)".to_owned(),
            vec!["turns is opened too far by the policy writes"],
        ),
        ("drop policy due on turns".to_owned(), vec!["turns may be deleted by chat_retention before"]),
        ("alter policy own on web_conversations using (true)".to_owned(), vec!["opened too far by the policy own"]),
        ("create view seen as select * from agents".to_owned(), vec!["seen is a view"]),
        ("create materialized view kept as select * from agents".to_owned(), vec!["kept is a materialized view"]),
        (
            "create function leap() returns int language sql security definer return 1".to_owned(),
            vec!["leap is a SECURITY DEFINER function"],
        ),
        (
            "create function leap_for_all() returns int language sql security definer set search_path = pg_catalog return 1".to_owned(),
            vec!["leap_for_all is a SECURITY DEFINER function"],
        ),
        (
            format!(
                "alter table agents add unique (id, model);
                 create table lame (id uuid primary key, {tenant}, agent_id uuid constraint lame_key references agents (id)); {}",
                forced("lame")
            ),
            vec!["lame_key is a foreign key"],
        ),
        (
            format!("create table named (id uuid primary key, {tenant}, name text constraint named_unique unique); {}", forced("named")),
            vec!["named_unique is a unique index"],
        ),
        ("grant truncate on turns to chat_app".to_owned(), vec!["chat_app turns TRUNCATE is granted"]),
        ("grant references on agents to chat_platform".to_owned(), vec!["chat_platform agents REFERENCES is granted"]),
        ("grant select (content) on web_conversation_messages to chat_sweep".to_owned(), vec!["chat_sweep web_conversation_messages SELECT content is granted"]),
        ("grant select on tenants to public".to_owned(), vec!["everybody tenants SELECT is granted"]),
        ("create sequence counted; grant usage on sequence counted to chat_app".to_owned(), vec!["chat_app counted USAGE is granted"]),
        ("revoke insert on usage from chat_app".to_owned(), vec!["chat_app usage INSERT is written down and not"]),
        ("alter default privileges in schema public grant select on tables to chat_app".to_owned(), vec!["chat_owner are default privileges"]),
        ("grant create on schema public to chat_app".to_owned(), vec!["chat_app may make objects"]),
    ];
    for (sql, named) in planted {
        // Undone each time: each is seen by itself.
        owner.batch_execute(&format!("begin; {sql}")).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let found = violations(&owner).await;
        for name in &named {
            assert!(found.iter().any(|found| found.contains(name)), "{sql}: {name} is not in {found:?}");
        }
        owner.batch_execute("rollback").await.unwrap();
    }
    assert_eq!(violations(&owner).await, Vec::<String>::new());
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_server_has_the_mended_leaks_of_statistics() {
    let app = App::start().await.unwrap();
    let owner = app.owner().await.unwrap();
    let version = owner.query_one("select current_setting('server_version_num')::int", &[]).await.unwrap().get(0);
    assert_eq!(unpatched(version), None, "this Postgres tells of rows behind policies; update it");
    app.finish().await.unwrap();
}

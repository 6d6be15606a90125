//! The statements behind [`Owner::create`](crate::store::owner::Owner::create) and the like, made of a [`Table`]'s names.
//!
//! `t` is the table, `v` the values as the table's own types: `$1`, one JSON object.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio_postgres::{Row, Transaction};

use super::{Done, Operator, Outcome, Record, Table, Values, record};
use crate::{
    error::{Code, Error, Result},
    ids::{AuditId, TenantId, UserId},
    store::{column, script::translate},
};

/// A row that stands.
pub(super) struct Found {
    pub(super) key: Values,
    pub(super) differs: Vec<String>,
}

/// `$3` who or what, `$4` in which company.
const AUDIT: &str = "
    insert into audit_events (id, actor_id, action, subject_id, tenant_id, detail)
    values ($1, '00000000-0000-0000-0000-000000000000', $2, $3, $4, $5::text::jsonb)";

pub(super) async fn insert(
    tx: &Transaction<'_>,
    table: &'static Table,
    values: &Values,
    by: &Operator,
) -> Result<Done> {
    let columns: Vec<&str> = values.keys().copied().collect();
    let read: Vec<String> = columns.iter().map(|name| format!("v.{name}")).collect();
    let sql = format!(
        "insert into {} ({}) select {} from {}",
        table.name,
        columns.join(", "),
        read.join(", "),
        reading(table)
    );
    tx.execute(&sql, &[&text(values)]).await.map_err(|error| refused(table, error))?;
    let key: Values =
        values.iter().filter(|(name, _)| table.key.contains(name)).map(|(n, v)| (*n, v.clone())).collect();
    audit(tx, table, Outcome::Created, &[], &key, by).await?;
    Ok(Done { outcome: Outcome::Created, changed: Vec::new(), row: shown(tx, table, &key).await?.pop() })
}

pub(super) async fn update(
    tx: &Transaction<'_>,
    table: &'static Table,
    found: &Found,
    values: &Values,
    by: &Operator,
) -> Result<Done> {
    let outcome = if found.differs.is_empty() { Outcome::Unchanged } else { Outcome::Changed };
    if outcome == Outcome::Changed {
        let sets: Vec<String> = values
            .keys()
            .filter(|name| found.differs.iter().any(|differs| differs == *name))
            .map(|name| format!("{name} = v.{name}"))
            .collect();
        let all: Values = found.key.iter().chain(values).map(|(name, value)| (*name, value.clone())).collect();
        let sql = format!(
            "update {} t set {} from {} where {}",
            table.name,
            sets.join(", "),
            reading(table),
            matches(table.key)
        );
        tx.execute(&sql, &[&text(&all)]).await.map_err(|error| refused(table, error))?;
        audit(tx, table, outcome, &found.differs, &found.key, by).await?;
    }
    Ok(Done { outcome, changed: found.differs.clone(), row: shown(tx, table, &found.key).await?.pop() })
}

/// The rows that have these of the values, locked, and in which of the values they differ.
pub(super) async fn matching(
    tx: &Transaction<'_>,
    table: &'static Table,
    by: &[&str],
    values: &Values,
) -> Result<Vec<Found>> {
    let sql = format!(
        "select {}, array(select n.key from jsonb_each(to_jsonb(v)) n
           where n.key = any($2) and n.value is distinct from to_jsonb(t) -> n.key order by n.key) as differs
         from {} t, {} where {} for update of t",
        key_of(table),
        table.name,
        reading(table),
        matches(by)
    );
    let names: Vec<&str> = values.keys().copied().collect();
    let rows = tx.query(&sql, &[&text(values), &names]).await.map_err(|error| refused(table, error))?;
    rows.iter().map(|row| Ok(Found { key: read_key(table, row)?, differs: column(row, "differs")? })).collect()
}

/// What a row has of what it is known by, where the values say nothing of it.
pub(super) async fn missing(
    tx: &Transaction<'_>,
    table: &'static Table,
    key: &Values,
    values: &Values,
) -> Result<Values> {
    let sql = format!(
        "select to_jsonb(t)::text as has from {} t, {} where {}",
        table.name,
        reading(table),
        matches(table.key)
    );
    let row = tx.query_one(&sql, &[&text(key)]).await.map_err(translate)?;
    let has: BTreeMap<String, Value> = serde_json::from_str(column(&row, "has")?).map_err(Error::internal)?;
    let rest = table.known_by.iter().filter(|name| !values.contains_key(*name));
    Ok(rest.map(|name| (*name, has.get(*name).cloned().unwrap_or(Value::Null))).collect())
}

pub(super) async fn shown(tx: &Transaction<'_>, table: &'static Table, having: &Values) -> Result<Vec<Record>> {
    let names: Vec<&str> = having.keys().copied().collect();
    let sql = format!(
        "select row_to_json(x)::text as x from (select {} from {} t, {} where {} order by {}) x",
        table.shown,
        table.name,
        reading(table),
        matches(&names),
        table.order
    );
    let rows = tx.query(&sql, &[&text(having)]).await.map_err(|error| refused(table, error))?;
    rows.iter().map(|row| Record::read(column(row, "x")?)).collect()
}

/// `changed` are columns: their names tell nothing of anybody.
pub(super) async fn audit(
    tx: &Transaction<'_>,
    table: &'static Table,
    outcome: Outcome,
    changed: &[String],
    key: &Values,
    by: &Operator,
) -> Result<()> {
    let tenant = table.tenant.map_or_else(|| "null::uuid".to_owned(), |tenant| format!("t.{tenant}"));
    let sql = format!(
        "select t.{} as subject, {tenant} as tenant from {} t, {} where {}",
        table.subject,
        table.name,
        reading(table),
        matches(table.key)
    );
    let row = tx.query_one(&sql, &[&text(key)]).await.map_err(translate)?;
    let (subject, tenant): (UserId, Option<TenantId>) = (column(&row, "subject")?, column(&row, "tenant")?);
    let mut detail = json!({"by": by.0});
    if !changed.is_empty() {
        detail["changed"] = json!(changed);
    }
    note(tx, &format!("{}.{}", table.noun, outcome.as_str()), subject, tenant, &detail).await
}

/// Writes an audit row of an operator's.
pub(super) async fn note(
    tx: &Transaction<'_>,
    action: &str,
    subject: UserId,
    tenant: Option<TenantId>,
    detail: &Value,
) -> Result<()> {
    let written = tx.execute(AUDIT, &[&AuditId::new(), &action, &subject, &tenant, &detail.to_string()]).await;
    written.map(drop).map_err(translate)
}

/// What the values read as, in the table's own types: `v`.
pub(super) fn reading(table: &Table) -> String {
    format!("jsonb_populate_record(null::{}, $1::text::jsonb) v", table.name)
}

pub(super) fn matches(columns: &[&str]) -> String {
    let alike: Vec<String> = columns.iter().map(|name| format!("t.{name} is not distinct from v.{name}")).collect();
    if alike.is_empty() { "true".to_owned() } else { alike.join(" and ") }
}

pub(super) fn key_of(table: &Table) -> String {
    let key: Vec<String> = table.key.iter().map(|name| format!("'{name}', t.{name}")).collect();
    format!("jsonb_build_object({})::text as key", key.join(", "))
}

pub(super) fn read_key(table: &Table, row: &Row) -> Result<Values> {
    let mut key: BTreeMap<String, Value> = serde_json::from_str(column(row, "key")?).map_err(Error::internal)?;
    Ok(table.key.iter().map(|name| (*name, key.remove(*name).unwrap_or(Value::Null))).collect())
}

pub(super) fn text(values: &Values) -> String {
    serde_json::to_string(values).expect("names and values are always JSON")
}

pub(super) fn words(key: &Values) -> String {
    let words: Vec<String> = key.values().map(record::word).collect();
    words.join(" ")
}

/// Refuses what a row shall be known by, if another row is.
pub(super) fn refuse_another(table: &Table, known: &[Found], own: Option<&Values>) -> Result<()> {
    let is_own =
        |found: &Found| own.is_some_and(|own| table.key.iter().all(|name| own.get(name) == found.key.get(name)));
    match known.iter().find(|found| !is_own(found)) {
        None => Ok(()),
        Some(other) => {
            Err(Error::field(table.known_by.join(", "), format!("is that of {} {}", table.noun, words(&other.key))))
        }
    }
}

pub(super) fn absent(table: &Table) -> Error {
    Error::new(Code::NotFound, format!("There is no such {}.", table.noun))
}

/// What Postgres says to values that cannot be. Its sentence holds no row; the constraint's name holds the columns'.
pub(super) fn refused(table: &Table, error: tokio_postgres::Error) -> Error {
    let Some(server) = error.as_db_error() else { return translate(error) };
    let constraint = server.constraint().unwrap_or(table.noun);
    let of = constraint.strip_prefix(&format!("{}_", table.name)).unwrap_or(constraint);
    let field = ["_fkey", "_check", "_key"].iter().find_map(|end| of.strip_suffix(end)).unwrap_or(of).to_owned();
    let says = match server.code().code() {
        "23503" => "names something that does not exist".to_owned(),
        "23505" => "is another's".to_owned(),
        "23514" => "has a value that it cannot have".to_owned(),
        "23502" => return Error::field(server.column().unwrap_or(&field), "is missing"),
        code if code.starts_with("22") => server.message().to_owned(),
        _ => return translate(error),
    };
    Error::field(field, says)
}

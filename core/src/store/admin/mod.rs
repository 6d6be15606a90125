//! What an operator sets up and changes by command, as the owner role: rows of the portal's tables.
//!
//! One way for all tables: a [`Table`] says what a row is known by, and [`Owner`] makes, changes, removes and lists rows
//! of it. Names of tables and columns are literals of this folder; values travel as one JSON parameter, which Postgres
//! itself reads into the table's own types. Each command is one transaction, in which whatever changed is compared with
//! what stands, and leaves one audit row: the columns that changed and who did it, never a value.

pub mod letters;
mod record;
mod rows;
mod sockets;
pub mod tables;
mod turns;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio_postgres::Transaction;

pub use record::Record;

use super::{column, owner::Owner, script::translate};
use crate::{
    error::{Error, Result},
    ids::AuditId,
};
use rows::{
    absent, audit, insert, key_of, matches, matching, missing, read_key, reading, refuse_another, refused, shown, text,
    update, words,
};

/// A table as operators keep it.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// What a row is, in sentences and in the audit: `tenant` gives `tenant.created`.
    pub noun: &'static str,
    /// The primary key. Where that is `id` alone a new row gets one.
    pub key: &'static [&'static str],
    /// By what people know a row, if not by its key: no two rows that operators make share it.
    pub known_by: &'static [&'static str],
    /// What of a row `t` an operator sees: no secret, no long text.
    pub shown: &'static str,
    /// In which order.
    pub order: &'static str,
    /// Where a row says whose it is: the audit row's tenant. A person is no company's.
    pub tenant: Option<&'static str>,
    /// Whom or what the audit row is about.
    pub subject: &'static str,
}

/// Values, by their columns.
pub type Values = BTreeMap<&'static str, Value>;

/// Who gives a command, in their own words: no portal user, so the audit names them in its detail, and the
/// actor is the id zero.
#[derive(Debug, Clone)]
pub struct Operator(pub String);

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The row is new.
    Created,
    /// Something of it is.
    Changed,
    /// It is gone.
    Removed,
    /// All was so already; there is no audit row.
    Unchanged,
}

impl Outcome {
    /// The audit's word, and the operator's.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Unchanged => "unchanged",
        }
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    /// What became of it.
    pub outcome: Outcome,
    /// The columns that changed.
    pub changed: Vec<String>,
    /// The row as it is now; as it was, if it is gone; none, if there was none to remove.
    pub row: Option<Record>,
}

/// What to do about a row that stands with other values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Refuse,
    Change,
}

/// Operators are few; one at a time, none makes what another is making.
const ONE_AT_A_TIME: &str = "select pg_advisory_xact_lock(hashtext('hub admin'))";

impl Owner {
    /// Makes a row. One that stands with these values is left as it is.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) if it stands with others, or what it is known by is another row's; or what
    /// the table refuses. [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not confirm.
    pub async fn create(&mut self, table: &'static Table, values: Values, by: &Operator) -> Result<Done> {
        self.put(table, values, Standing::Refuse, by).await
    }

    /// Makes a row, or gives one that stands these values.
    ///
    /// # Errors
    /// As [`Owner::create`], but for a row that stands.
    pub async fn set(&mut self, table: &'static Table, values: Values, by: &Operator) -> Result<Done> {
        self.put(table, values, Standing::Change, by).await
    }

    /// Gives a row that stands these values; `values` holds its key, too.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) if there is none; else as [`Owner::create`].
    pub async fn change(&mut self, table: &'static Table, values: Values, by: &Operator) -> Result<Done> {
        let tx = self.begin_change().await?;
        let found = matching(&tx, table, table.key, &values).await?.pop().ok_or_else(|| absent(table))?;
        // What it shall be known by must not be another's.
        let mut names: Values = values.clone();
        if table.known_by.iter().any(|name| found.differs.iter().any(|differs| differs == name)) {
            let rest = missing(&tx, table, &found.key, &values).await?;
            names.extend(rest);
            refuse_another(table, &matching(&tx, table, table.known_by, &names).await?, Some(&found.key))?;
        }
        let done = update(&tx, table, &found, &values, by).await?;
        tx.commit().await.map_err(translate)?;
        Ok(done)
    }

    /// Removes a row. None is left as it is.
    ///
    /// # Errors
    /// What the table refuses; [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not confirm.
    pub async fn remove(&mut self, table: &'static Table, key: Values, by: &Operator) -> Result<Done> {
        let tx = self.begin_change().await?;
        let Some(found) = matching(&tx, table, table.key, &key).await?.pop() else {
            return Ok(Done { outcome: Outcome::Unchanged, changed: Vec::new(), row: None });
        };
        let row = shown(&tx, table, &found.key).await?.pop();
        audit(&tx, table, Outcome::Removed, &[], &found.key, by).await?;
        let delete = format!("delete from {} t using {} where {}", table.name, reading(table), matches(table.key));
        tx.execute(&delete, &[&text(&found.key)]).await.map_err(|error| refused(table, error))?;
        tx.commit().await.map_err(translate)?;
        Ok(Done { outcome: Outcome::Removed, changed: Vec::new(), row })
    }

    /// The rows that have these values; all, if none are given.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not answer.
    pub async fn list(&mut self, table: &'static Table, having: &Values) -> Result<Vec<Record>> {
        let tx = self.client.transaction().await.map_err(translate)?;
        shown(&tx, table, having).await
    }

    /// What a column with a sealed secret holds in the row that has these values, if there is one, and its key.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not answer.
    pub async fn sealed(
        &mut self,
        table: &'static Table,
        secret: &'static str,
        having: &Values,
    ) -> Result<Option<(Values, Option<Vec<u8>>)>> {
        let names: Vec<&'static str> = having.keys().copied().collect();
        let sql = format!(
            "select t.{secret}, {} from {} t, {} where {} limit 1",
            key_of(table),
            table.name,
            reading(table),
            matches(&names)
        );
        let row = self.client.query_opt(&sql, &[&text(having)]).await.map_err(translate)?;
        row.map(|row| Ok((read_key(table, &row)?, column(&row, secret)?))).transpose()
    }

    async fn begin_change(&mut self) -> Result<Transaction<'_>> {
        let tx = self.client.transaction().await.map_err(translate)?;
        tx.query(ONE_AT_A_TIME, &[]).await.map_err(translate)?;
        Ok(tx)
    }

    async fn put(
        &mut self,
        table: &'static Table,
        mut values: Values,
        standing: Standing,
        by: &Operator,
    ) -> Result<Done> {
        let tx = self.begin_change().await?;
        let has = |columns: &[&str]| !columns.is_empty() && columns.iter().all(|name| values.contains_key(name));
        let (by_key, by_name) = (has(table.key), has(table.known_by));
        let mut found = if by_key { matching(&tx, table, table.key, &values).await? } else { Vec::new() };
        if by_name {
            let named = matching(&tx, table, table.known_by, &values).await?;
            if by_key {
                refuse_another(table, &named, found.first().map(|found| &found.key).or(Some(&values)))?;
            } else if named.len() > 1 {
                return Err(Error::field(
                    table.known_by.join(", "),
                    format!("is that of several: say which {} by --id", table.noun),
                ));
            } else {
                found = named;
            }
        }
        let done = match found.pop() {
            Some(found) if found.differs.is_empty() || standing == Standing::Change => {
                update(&tx, table, &found, &values, by).await?
            }
            Some(found) => {
                let (key, differs) = (words(&found.key), found.differs.join(", "));
                let says =
                    format!("{} {key} stands with another; it may be changed by a command of its own", table.noun);
                return Err(Error::field(differs, says));
            }
            None => {
                if table.key == ["id"] {
                    // Of whatever kind: an id that we make is a version 7.
                    values.entry("id").or_insert_with(|| json!(AuditId::new()));
                }
                insert(&tx, table, &values, by).await?
            }
        };
        tx.commit().await.map_err(translate)?;
        Ok(done)
    }
}

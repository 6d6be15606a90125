//! What the queue gave up on and nobody could read or route, for an operator: the rows of `dead_letters`.

use serde_json::json;

use super::{Operator, Record, rows::note};
use crate::{
    error::Result,
    ids::UserId,
    store::{column, owner::Owner, script::translate},
};

/// Without their bodies: a message of Slack or WhatsApp says there what somebody said.
const LETTERS: &str = "
    select row_to_json(x)::text as x from (
      select d.message_id, d.reason, length(d.body) as chars,
             to_char(d.received_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') as received_at
      from dead_letters d order by d.received_at, d.message_id) x";

/// `$1` the letter after which to go on, none for the first; the oldest first.
const NEXT: &str = "
    select d.message_id, d.body from dead_letters d
    where $1::text is null
       or (d.received_at, d.message_id) > (select e.received_at, e.message_id from dead_letters e where e.message_id = $1)
    order by d.received_at, d.message_id limit 1";

const ONE: &str = "select d.message_id, d.body from dead_letters d where d.message_id = $1";

const GONE: &str = "delete from dead_letters where message_id = $1";

/// A letter that is kept.
pub struct Letter {
    /// The queue's id of it, when it came.
    pub message_id: String,
    /// What it says.
    pub body: String,
}

/// What became of a letter that is not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// It was sent again.
    SentBack,
    /// Nobody wants it.
    Deleted,
}

impl Owner {
    /// The letters, oldest first, without what they say.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not answer.
    pub async fn letters(&self) -> Result<Vec<Record>> {
        let rows = self.client.query(LETTERS, &[]).await.map_err(translate)?;
        rows.iter().map(|row| Record::read(column(row, "x")?)).collect()
    }

    /// The oldest letter, or the oldest that came after another one that is still kept.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not answer.
    pub async fn next_letter(&self, after: Option<&str>) -> Result<Option<Letter>> {
        self.one_letter(NEXT, &after).await
    }

    /// The letter of this id.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not answer.
    pub async fn letter(&self, message_id: &str) -> Result<Option<Letter>> {
        self.one_letter(ONE, &message_id).await
    }

    /// Keeps a letter no longer, and says so in the audit. One that is gone already is left so.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not confirm.
    pub async fn part_with(&mut self, message_id: &str, parting: Parting, by: &Operator) -> Result<bool> {
        let action = match parting {
            Parting::SentBack => "dead_letter.sent_back",
            Parting::Deleted => "dead_letter.deleted",
        };
        let tx = self.client.transaction().await.map_err(translate)?;
        let gone = tx.execute(GONE, &[&message_id]).await.map_err(translate)? > 0;
        if gone {
            // It is nobody's: who cannot be read cannot be told apart.
            let nobody = UserId::from(uuid::Uuid::nil());
            note(&tx, action, nobody, None, &json!({"by": by.0, "message_id": message_id})).await?;
        }
        tx.commit().await.map_err(translate)?;
        Ok(gone)
    }

    async fn one_letter(&self, sql: &str, which: &(dyn tokio_postgres::types::ToSql + Sync)) -> Result<Option<Letter>> {
        let row = self.client.query_opt(sql, &[which]).await.map_err(translate)?;
        row.map(|row| Ok(Letter { message_id: column(&row, "message_id")?, body: column(&row, "body")? })).transpose()
    }
}

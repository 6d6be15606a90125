//! Words found again in a conversation.

use tokio_postgres::Row;

use super::{Scope, Store, claim::Claim, column, moment, script::Step, word};
use crate::{conversation::Author, error::Result, timestamp::Timestamp};

/// A place where words were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// When it was said.
    pub at: Timestamp,
    /// Who spoke.
    pub author: Author,
    /// The words, with some around them; a short message as a whole.
    pub excerpt: String,
}

/// `$1` conversation, `$2` epoch, `$3` the message that asks, `$4` words, `$5` messages looked through at most, `$6` most
/// found. Newest first. The words may stand in any order; without a language, so that each is found as it is written.
const SEARCH: &str = "
    select m.created_at, m.role,
           case when length(m.content) <= 500 then m.content
                else ts_headline('simple', m.content, plainto_tsquery('simple', $4),
                                 'MaxWords=60, MinWords=30, MaxFragments=2, StartSel=\"\", StopSel=\"\"') end as excerpt
    from (select created_at, role, content, seq from web_conversation_messages
          where conversation_id = $1 and tenant_id = app_tenant() and epoch = $2 and seq < $3
          order by seq desc limit $5) m
    where to_tsvector('simple', m.content) @@ plainto_tsquery('simple', $4)
    order by m.seq desc limit $6";

/// Messages that a search looks through at most: there is no index of words, and an agent waits.
const LOOKED_THROUGH: i64 = 5_000;

impl Store {
    /// Where all of these words stand in a message before a turn's own, newest first, at most that many.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) if Postgres did not answer in time.
    pub async fn search(&self, claim: &Claim, words: &str, most: i64) -> Result<Vec<Found>> {
        let Claim { conversation, epoch, seq, .. } = claim;
        let work: [Step<'_>; 1] = [(SEARCH, &[conversation, epoch, seq, &words, &LOOKED_THROUGH, &most])];
        self.run(Scope::Tenant(claim.tenant), &work).await?[0].iter().map(found).collect()
    }
}

fn found(row: &Row) -> Result<Found> {
    Ok(Found { at: moment(row, "created_at")?, author: word(row, "role")?, excerpt: column(row, "excerpt")? })
}

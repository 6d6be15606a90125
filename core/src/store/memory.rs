//! What an agent remembers: the words of messages whose places a claim has named, and the summary of what is older.

use tokio_postgres::Row;

use super::{Scope, Store, claim::Claim, column, script::Step, word};
use crate::{conversation::Author, error::Result};

/// Something that was said, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// Its place in the conversation.
    pub seq: i64,
    /// Who spoke.
    pub author: Author,
    /// What.
    pub text: String,
}

/// `$1` conversation, `$2` epoch, `$3` places.
const WORDS: &str = "
    select seq, role, content from web_conversation_messages
    where conversation_id = $1 and tenant_id = app_tenant() and epoch = $2 and seq = any($3) order by seq";

/// `$1` conversation, `$2` epoch, `$3` and `$4` the places between, `$5` most. No row: somebody was quicker.
const FALLEN_OUT: &str = "
    select m.seq, m.role, m.content from web_conversations c
    join web_conversation_messages m on m.conversation_id = c.id and m.epoch = c.epoch and m.seq > $3 and m.seq < $4
    where c.id = $1 and c.tenant_id = app_tenant() and c.epoch = $2 and c.summary_seq = $3
    order by m.seq limit $5";

/// `$1` conversation, `$2` epoch, `$3` summary, `$4` up to which place, `$5` up to which place had expired. Only onward,
/// only in its own epoch, and only while all that it speaks of is there.
const SUMMARIZE: &str = "
    update web_conversations set summary = $3, summary_seq = $4
    where id = $1 and tenant_id = app_tenant() and epoch = $2 and summary_seq < $4 and expired_seq = $5
    returning id";

impl Store {
    /// The words of these places, in their order; those that a reset has taken are left out.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) if Postgres did not answer.
    pub async fn words(&self, claim: &Claim, places: &[i64]) -> Result<Vec<Words>> {
        let work: [Step<'_>; 1] = [(WORDS, &[&claim.conversation, &claim.epoch, &places])];
        self.run(Scope::Tenant(claim.tenant), &work).await?[0].iter().map(words).collect()
    }

    /// The oldest words before a place that the summary of a claim does not hold, at most that many; none where there is
    /// a newer summary already.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) if Postgres did not answer.
    pub async fn fallen_out(&self, claim: &Claim, before: i64, most: i64) -> Result<Vec<Words>> {
        let Claim { conversation, epoch, summary_seq, .. } = claim;
        let work: [Step<'_>; 1] = [(FALLEN_OUT, &[conversation, epoch, summary_seq, &before, &most])];
        self.run(Scope::Tenant(claim.tenant), &work).await?[0].iter().map(words).collect()
    }

    /// Keeps the summary of everything up to a place. Returns whether it was kept: not after a reset, not if a later one
    /// stands already, and not if some of what it speaks of has expired meanwhile.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) if Postgres did not confirm.
    pub async fn summarize(&self, claim: &Claim, summary: &str, until: i64) -> Result<bool> {
        let Claim { conversation, epoch, expired_seq, .. } = claim;
        let work: [Step<'_>; 1] = [(SUMMARIZE, &[conversation, epoch, &summary, &until, expired_seq])];
        Ok(!self.run(Scope::Tenant(claim.tenant), &work).await?[0].is_empty())
    }
}

fn words(row: &Row) -> Result<Words> {
    Ok(Words { seq: column(row, "seq")?, author: word(row, "role")?, text: column(row, "content")? })
}

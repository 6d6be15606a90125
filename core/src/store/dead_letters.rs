//! What the queue gave up on and nobody could read.

use super::{Scope, Store, script::Step};
use crate::{error::Result, text::carried};

/// Characters of a body that are kept: enough to see what it was meant to be.
const KEPT: usize = 65_536;

/// A letter that comes twice is kept once. No conflict target: it would need the right to read.
const KEEP: &str = "insert into dead_letters (message_id, body, reason) values ($1, $2, $3) on conflict do nothing";

impl Store {
    /// Keeps a letter for an operator.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) if Postgres did not confirm.
    pub async fn keep_dead_letter(&self, message_id: &str, body: &str, reason: &str) -> Result<()> {
        let body: String = carried(body).chars().take(KEPT).collect();
        let work: [Step<'_>; 1] = [(KEEP, &[&message_id, &body, &reason])];
        self.run(Scope::Nobody, &work).await.map(drop)
    }
}

//! Whom an outside issuer's words mean.

use super::{Scope, Store, column, script::Step};
use crate::{
    error::{Code, Error, Result},
    token::{Identity, Outside, Subject, Verified},
};

/// Names the one row that this transaction may see. `$1` issuer, `$2` subject.
const NAME: &str = "select set_config('app.current_issuer', $1, true), set_config('app.current_subject', $2, true)";

const WHO: &str = "select user_id from portal_user_identities where issuer = $1 and subject = $2";

impl Store {
    /// Tells which portal user a token speaks for. One round trip for an outside issuer's; none for the portal's own, whose
    /// subjects are found out at the door.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`] for somebody whom nobody has made known here.
    pub async fn recognize(&self, token: &Verified) -> Result<Identity> {
        match &token.subject {
            Subject::User(user) => Ok(token.of(*user)),
            Subject::Outside(outside) => {
                let Outside { issuer, subject } = &**outside;
                let steps: [Step<'_>; 2] = [(NAME, &[issuer, subject]), (WHO, &[issuer, subject])];
                let rows = self.run(Scope::Nobody, &steps).await?;
                let row = rows[1].first();
                let row = row.ok_or_else(|| Error::new(Code::Unauthenticated, "The token names nobody we know."))?;
                Ok(token.of(column(row, "user_id")?))
            }
        }
    }
}

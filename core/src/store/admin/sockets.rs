//! Whose sockets end by an operator's command. The fact is a number in the person's row; a hint makes their sockets look.

use serde_json::json;

use super::{
    Operator,
    rows::{absent, note},
    tables::USERS,
};
use crate::{
    error::Result,
    ids::{TenantId, UserId},
    store::{column, owner::Owner, script::translate},
};

const PUT_OUT: &str = "update portal_users set put_out = put_out + 1 where id = $1";

/// `$1` person. Where they may have sockets: their companies, where they were once, and everywhere for who runs the product.
const TENANTS_OF: &str = "
    select t.id from tenants t
    where exists (select from portal_users u where u.id = $1 and u.role = 'platform_admin')
       or t.id in (select m.tenant_id from user_tenant_roles m where m.user_id = $1)
       or t.id in (select c.tenant_id from web_conversations c where c.user_id = $1)
    order by t.id";

const MEMBERS_OF: &str = "
    select u.id from portal_users u
    where u.role = 'platform_admin' or u.id in (select m.user_id from user_tenant_roles m where m.tenant_id = $1)
    order by u.id";

impl Owner {
    /// The companies in which a person may have sockets.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not answer.
    pub async fn tenants_of(&self, user: UserId) -> Result<Vec<TenantId>> {
        let rows = self.client.query(TENANTS_OF, &[&user]).await.map_err(translate)?;
        rows.iter().map(|row| column(row, "id")).collect()
    }

    /// The people who may have sockets in a company.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not answer.
    pub async fn people_of(&self, tenant: TenantId) -> Result<Vec<UserId>> {
        let rows = self.client.query(MEMBERS_OF, &[&tenant]).await.map_err(translate)?;
        rows.iter().map(|row| column(row, "id")).collect()
    }

    /// Ends the sockets that a person has at this moment, as soon as they look. They may come again with a good token.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) if there is nobody of this id;
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not confirm.
    pub async fn put_out(&mut self, user: UserId, by: &Operator) -> Result<()> {
        let tx = self.client.transaction().await.map_err(translate)?;
        if tx.execute(PUT_OUT, &[&user]).await.map_err(translate)? == 0 {
            return Err(absent(&USERS));
        }
        note(&tx, "user.sockets_closed", user, None, &json!({"by": by.0})).await?;
        tx.commit().await.map_err(translate)
    }
}

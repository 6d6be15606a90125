//! The roll: whether those who sit in a company's conversations may still sit there, asked for all of them together.
//!
//! A [`door`](super::door) finds that out for one person, as that person. A hub that holds thousands of silent sockets asks
//! for a company's people at once instead, in that company's own scope, and has whoever is not found as they were go
//! through the door again. So the roll lets nobody in; it only spares those of whom nothing has changed.

use tokio_postgres::Row;

use super::{Scope, Store, column, door::Seat, script::Step, word};
use crate::{
    caller::Role,
    conversation::Status,
    error::Result,
    ids::{ConversationId, TenantId, UserId},
};

/// What somebody sits in a conversation by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footing {
    /// What they are: `portal_users.role`.
    pub role: Role,
    /// As what the company knows them.
    pub member: Role,
    /// Who answers in the conversation.
    pub status: Status,
    /// How often an operator had their sockets closed.
    pub put_out: i32,
}

impl Seat {
    /// What whoever entered sits by; none for a platform_admin, who is no member anywhere.
    #[must_use]
    pub fn footing(&self) -> Option<Footing> {
        let caller = self.member.caller;
        let member = caller.tenant_role.filter(|_| caller.role != Role::PlatformAdmin)?;
        Some(Footing { role: caller.role, member, status: self.status, put_out: self.put_out })
    }
}

/// Somebody who was found where they were said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present {
    /// By what.
    pub footing: Footing,
    /// Up to which `seq` the conversation's owner has read.
    pub read_seq: i64,
}

/// `$1` conversations, `$2` persons, in pairs. The conditions are those of a member's door.
const ROLL: &str = concat!(
    "select k.place - 1 as place, u.role, m.role as member_role, c.status, u.put_out, c.read_seq
     from unnest($1::uuid[], $2::uuid[]) with ordinality k (conversation, person, place)
     join web_conversations c on c.id = k.conversation and c.tenant_id = app_tenant()
     join user_tenant_roles m on m.tenant_id = c.tenant_id and m.user_id = k.person
     join portal_users u on u.id = k.person
     where ",
    super::door::may_sit!("k.person")
);

impl Store {
    /// Calls the roll of a company: of each pair, in their order, who is there and by what; none of whom may not be there.
    /// In one round trip.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) if Postgres did not answer.
    pub async fn roll(
        &self,
        tenant: TenantId,
        conversations: &[ConversationId],
        persons: &[UserId],
    ) -> Result<Vec<Option<Present>>> {
        let work: [Step<'_>; 1] = [(ROLL, &[&conversations, &persons])];
        let rows = self.run(Scope::Tenant(tenant), &work).await?;
        let mut roll = vec![None; conversations.len()];
        for row in &rows[0] {
            let place: i64 = column(row, "place")?;
            if let Some(found) = usize::try_from(place).ok().and_then(|place| roll.get_mut(place)) {
                *found = Some(present(row)?);
            }
        }
        Ok(roll)
    }
}

fn present(row: &Row) -> Result<Present> {
    let (role, member, status) = (word(row, "role")?, word(row, "member_role")?, word(row, "status")?);
    let footing = Footing { role, member, status, put_out: column(row, "put_out")? };
    Ok(Present { footing, read_seq: column(row, "read_seq")? })
}

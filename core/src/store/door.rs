//! Who may enter what, found out by the database in the transaction that does the work.
//!
//! A door is the first statement of a script. It reads, as the person alone, who they are and whether they belong
//! where they want to go; if so it sets the tenant, and the statements behind it see that tenant's rows. If not, there
//! is no tenant and they see none. Both cases run the same statements, so a refusal tells nothing.
//!
//! A platform_admin goes through a door of their own: as `chat_platform`, which sees every tenant, it finds the
//! tenant and writes the audit row; then the role is left again and the work runs in that tenant as everybody's does.

use tokio_postgres::Row;

use super::{Scope, Store, column, optional_word, script::Step, word};
use crate::{
    caller::{PortalCaller, Role, TenantMember, require_tenant_member},
    conversation::Status,
    error::{Code, Error, Result},
    ids::{AuditId, ConversationId, TenantId, UserId},
    sabotage::{Defence, out},
    token::Identity,
};

/// What somebody does behind a door, as the audit names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Lists conversations.
    List,
    /// Opens a conversation.
    Create,
    /// Reads a conversation or its messages.
    Read,
    /// Goes on with what was entered for reading before, and recorded then.
    Stay,
    /// Writes a message, or stops a turn.
    Write,
    /// Deletes the messages.
    Reset,
    /// Takes it over from the agent, or from somebody else.
    TakeOver,
    /// Gives it back to the agent.
    HandBack,
    /// Does what only its owner may: nothing of anybody else's is seen.
    Mine,
    /// Reads all of a conversation, to keep it elsewhere.
    Export,
    /// Looks for words in one's own conversations.
    Search,
    /// Reads what the company's agents are.
    Agents,
    /// Reads what the company's agents took.
    Usage,
}

impl Action {
    /// The audit's word for it; `None` for what leaves no row of its own.
    fn recorded(self) -> Option<&'static str> {
        match self {
            Self::List => Some("conversations.list"),
            Self::Create => Some("conversation.create"),
            Self::Read => Some("conversation.read"),
            Self::Stay => None,
            Self::Write => Some("conversation.write"),
            Self::Reset => Some("conversation.reset"),
            Self::TakeOver => Some("conversation.takeover"),
            Self::HandBack => Some("conversation.handback"),
            Self::Mine => None,
            Self::Export => Some("conversation.export"),
            Self::Search => Some("messages.search"),
            Self::Agents => Some("agents.list"),
            Self::Usage => Some("usage.read"),
        }
    }
}

/// A caller inside a conversation, and how it stood when they entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Who entered, and into which tenant.
    pub member: TenantMember,
    /// The conversation.
    pub conversation: ConversationId,
    /// Whose conversation it is.
    pub owner: UserId,
    /// Who answers.
    pub status: Status,
    /// The current epoch.
    pub epoch: i32,
    /// Its newest `seq`.
    pub last_seq: i64,
    /// Up to which `seq` its messages have gone by their age.
    pub expired_seq: i64,
    /// Up to which `seq` its owner has read.
    pub read_seq: i64,
    /// How often an operator had the sockets of whoever entered closed, until then.
    pub put_out: i32,
}

impl Seat {
    /// The tenant of the conversation.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.member.tenant
    }

    /// Whether a client's position is one of this conversation's: its epoch, not ahead of us, and nothing behind it has
    /// expired.
    #[must_use]
    pub fn knows(&self, last_seq: i64, epoch: Option<i32>) -> bool {
        (self.expired_seq..=self.last_seq).contains(&last_seq) && epoch.is_none_or(|epoch| epoch == self.epoch)
    }
}

const TENANT: &str = "
    select u.role, m.role as member_role,
           set_config('app.current_tenant', case when m.user_id is null then '' else $2::uuid::text end, true)
    from portal_users u
    left join user_tenant_roles m on m.tenant_id = $2 and m.user_id = $1 and u.role <> 'platform_admin'
    where u.id = $1";

/// What the door of a conversation tells of person and conversation, and the tenant that it opens.
macro_rules! seat {
    ($rest:expr) => {
        concat!(
            "select u.role, u.put_out, m.role as member_role, c.tenant_id, c.user_id, c.status, c.epoch, c.last_seq,
                    c.expired_seq, c.read_seq, set_config('app.current_tenant', coalesce(c.tenant_id::text, ''), true)
             from portal_users u ",
            $rest
        )
    };
}

/// The same without its conditions, for a build that shows what they are for: whatever row is seen sets the tenant.
#[cfg(feature = "sabotage")]
pub(super) const ANY_CONVERSATION: &str = seat!(
    "left join web_conversations c on c.id = $2
     left join user_tenant_roles m on m.tenant_id = c.tenant_id and m.user_id = $1
     where u.id = $1"
);

/// Whether a member may sit in a conversation: of portal_users `u`, user_tenant_roles `m`, web_conversations `c`.
macro_rules! may_sit {
    ($who:literal) => {
        concat!(
            "u.role <> 'platform_admin' and (c.user_id = ",
            $who,
            " or (c.status = 'escalated' and u.role = 'customer_admin' and m.role = 'customer_admin'))"
        )
    };
}
pub(super) use may_sit;

pub(super) const CONVERSATION: &str = seat!(concat!(
    "left join (web_conversations c join user_tenant_roles m on m.tenant_id = c.tenant_id and m.user_id = $1)
       on c.id = $2 and ",
    may_sit!("$1"),
    " where u.id = $1"
));

/// `$1` person, `$2` conversation. Behind the lock: whoever was let in because it waited for a person may be so no longer,
/// and then the door shuts again.
pub(super) const STILL_IN: &str = "
    select set_config('app.current_tenant', case when exists (
        select from web_conversations c join portal_users u on u.id = $1
        where c.id = $2 and c.tenant_id = app_tenant() and (c.user_id = $1 or u.role = 'platform_admin' or c.status = 'escalated'))
      then current_setting('app.current_tenant', true) else '' end, true)";

/// `$1` person, `$2` conversation. The door shuts again for everybody but its owner.
pub(super) const MINE: &str = "
    select set_config('app.current_tenant', case when exists (
        select from web_conversations c where c.id = $2 and c.tenant_id = app_tenant() and c.user_id = $1)
      then current_setting('app.current_tenant', true) else '' end, true)";

const BECOME_PLATFORM: &str = "
    select u.role, u.put_out, case when u.role = 'platform_admin' then set_config('role', 'chat_platform', true) end
    from portal_users u where u.id = $1";

const PLATFORM_TENANT: &str = "
    with audit as (
      insert into audit_events (id, tenant_id, actor_id, action)
      select $3, t.id, $1, $4 from tenants t where t.id = $2 and current_user = 'chat_platform')
    select set_config('app.current_tenant', case current_user when 'chat_platform' then $2::uuid::text else '' end, true)";

const PLATFORM_CONVERSATION: &str = "
    with c as materialized (
      select c.tenant_id, c.user_id, c.status, c.epoch, c.last_seq, c.expired_seq, c.read_seq from web_conversations c
      where c.id = $2 and current_user = 'chat_platform'
    ), audit as (
      insert into audit_events (id, tenant_id, actor_id, action, subject_id)
      select $3, c.tenant_id, $1, $4, $2 from c where c.user_id <> $1 and $4::text is not null)
    select c.*, null::text as member_role, set_config('app.current_tenant', c.tenant_id::text, true) from c";

const PLATFORM_EVERYWHERE: &str = "
    insert into audit_events (id, actor_id, action)
    select $2, $1, $3 where current_user = 'chat_platform'";

const LEAVE_PLATFORM: &str = "select set_config('role', 'none', true)";

impl Store {
    /// Runs `work` inside `tenant`, if this person may act there.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`] for a user who does not exist; [`Code::Forbidden`] for one who is not a member;
    /// what the script itself may fail with.
    pub(crate) async fn in_tenant(
        &self,
        who: &Identity,
        tenant: TenantId,
        action: Action,
        work: &[Step<'_>],
    ) -> Result<(TenantMember, Vec<Vec<Row>>)> {
        let (user, audit, action) = (who.user_id, AuditId::new(), action.recorded());
        let member: [Step<'_>; 1] = [(TENANT, &[&user, &tenant])];
        let platform: [Step<'_>; 3] =
            [(BECOME_PLATFORM, &[&user]), (PLATFORM_TENANT, &[&user, &tenant, &audit, &action]), (LEAVE_PLATFORM, &[])];
        let (role, mut rows) = self.through(who, &member, &platform, work).await?;
        let caller = match role {
            Role::PlatformAdmin => PortalCaller { user_id: user, role, tenant_id: None, tenant_role: None },
            Role::CustomerAdmin | Role::CustomerOperator => caller(user, role, tenant, &rows[0][0])?,
        };
        let member = require_tenant_member(caller, tenant)?;
        Ok((member, rows.split_off(rows.len() - work.len())))
    }

    /// Runs `work` inside the tenant of `conversation`, if this person may enter it.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`] for a user who does not exist; [`Code::NotFound`] where the conversation is absent or
    /// not theirs, alike; what the script itself may fail with.
    pub(crate) async fn in_conversation(
        &self,
        who: &Identity,
        conversation: ConversationId,
        action: Action,
        work: &[Step<'_>],
    ) -> Result<(Seat, Vec<Vec<Row>>)> {
        let (user, audit, action) = (who.user_id, AuditId::new(), action.recorded());
        let member: [Step<'_>; 1] = [(CONVERSATION, &[&user, &conversation])];
        let platform: [Step<'_>; 3] = [
            (BECOME_PLATFORM, &[&user]),
            (PLATFORM_CONVERSATION, &[&user, &conversation, &audit, &action]),
            (LEAVE_PLATFORM, &[]),
        ];
        let (role, mut rows) = self.through(who, &member, &platform, work).await?;
        let found = rows.get(usize::from(role == Role::PlatformAdmin)).and_then(|door| door.first());
        let row = found.ok_or_else(Error::not_found)?;
        let tenant: TenantId = column::<Option<TenantId>>(row, "tenant_id")?.ok_or_else(Error::not_found)?;
        let seat = Seat {
            member: require_tenant_member(caller(user, role, tenant, row)?, tenant)?,
            conversation,
            owner: column(row, "user_id")?,
            status: word(row, "status")?,
            epoch: column(row, "epoch")?,
            last_seq: column(row, "last_seq")?,
            expired_seq: column(row, "expired_seq")?,
            read_seq: column(row, "read_seq")?,
            put_out: column(&rows[0][0], "put_out")?,
        };
        Ok((seat, rows.split_off(rows.len() - work.len())))
    }

    /// Runs `work` inside the tenant of `conversation`, if it is this person's own.
    ///
    /// # Errors
    /// As [`Store::in_conversation`]; [`Code::Forbidden`] for whoever may be in it and is not its owner.
    pub(crate) async fn in_own_conversation(
        &self,
        who: &Identity,
        conversation: ConversationId,
        work: &[Step<'_>],
    ) -> Result<(Seat, Vec<Vec<Row>>)> {
        let mine: [Step<'_>; 1] = [(MINE, &[&who.user_id, &conversation])];
        let (seat, mut rows) = self.in_conversation(who, conversation, Action::Mine, &[&mine, work].concat()).await?;
        if seat.owner != who.user_id && !out(Defence::ApplicationChecks) {
            return Err(Error::new(Code::Forbidden, "Only the person whose conversation it is may do that."));
        }
        rows.remove(0);
        Ok((seat, rows))
    }

    /// Runs `work` across all tenants, as `chat_platform`, if this person is a platform_admin.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`] for a user who does not exist; [`Code::Invalid`] for anyone else, who must
    /// name a tenant; what the script itself may fail with.
    pub(crate) async fn everywhere(&self, who: &Identity, action: Action, work: &[Step<'_>]) -> Result<Vec<Vec<Row>>> {
        let (user, audit, action) = (who.user_id, AuditId::new(), action.recorded());
        let door: [Step<'_>; 2] = [(BECOME_PLATFORM, &[&user]), (PLATFORM_EVERYWHERE, &[&user, &audit, &action])];
        let steps = [&door, work].concat();
        let mut rows = self.run(Scope::Person(user), &steps).await?;
        if role_of(&rows)? != Role::PlatformAdmin && !out(Defence::ApplicationChecks) {
            return Err(Error::field("tenant_id", "is required for anyone but a platform_admin"));
        }
        Ok(rows.split_off(rows.len() - work.len()))
    }

    /// Tries the door that the token's role suggests, then the other if the database knows better. Exactly one of the
    /// two opens for a person, so the work is done once.
    async fn through(
        &self,
        who: &Identity,
        member: &[Step<'_>],
        platform: &[Step<'_>],
        work: &[Step<'_>],
    ) -> Result<(Role, Vec<Vec<Row>>)> {
        let mut as_platform = who.role_hint == Some(Role::PlatformAdmin);
        loop {
            let door = if as_platform { platform } else { member };
            let steps = [door, work].concat();
            let rows = self.run(Scope::Person(who.user_id), &steps).await?;
            let role = role_of(&rows)?;
            if as_platform == (role == Role::PlatformAdmin) {
                return Ok((role, rows));
            }
            as_platform = !as_platform;
        }
    }
}

fn role_of(rows: &[Vec<Row>]) -> Result<Role> {
    let row = rows.first().and_then(|door| door.first());
    let row = row.ok_or_else(|| Error::new(Code::Unauthenticated, "The token names nobody we know."))?;
    word(row, "role")
}

/// The caller as the two tables know them; a platform_admin's door has no membership.
fn caller(user_id: UserId, role: Role, tenant: TenantId, row: &Row) -> Result<PortalCaller> {
    let tenant_role: Option<Role> = optional_word(row, "member_role")?;
    Ok(PortalCaller { user_id, role, tenant_id: tenant_role.map(|_| tenant), tenant_role })
}

//! Erasure: a company or a person leaves, and no row names them any more.
//!
//! The order is what makes it whole. First their doors are shut, in one transaction; then what they leave goes in bounded
//! steps, each a short transaction, conversation by conversation: turns before messages, so that a worker finds its fence
//! closed; at last the row itself, whose foreign keys take along what had slipped in meanwhile, and refuse what comes
//! later. So a large company holds up nobody, and an erasure that was cut is simply begun again.
//!
//! What a person did to what belongs to others stays there, as done by [`UserId`] zero, which is nobody's: the answers
//! they gave in an agent's stead, and the rows of the audit. Null would say that nobody but the product did it.

use std::collections::BTreeMap;

use tokio_postgres::{Row, Transaction, types::ToSql};
use uuid::Uuid;

use super::{column, owner::Owner, script::translate};
use crate::{
    error::{Error, Result},
    ids::{AgentId, AuditId, ConversationId, TenantId, TurnId, UserId},
};

/// Who is erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// A company, with everything of it. Its people stay, as people without it.
    Tenant(TenantId),
    /// A person, in all companies.
    User(UserId),
}

impl Whom {
    fn uuid(self) -> Uuid {
        match self {
            Self::Tenant(tenant) => tenant.uuid(),
            Self::User(user) => user.uuid(),
        }
    }

    /// The table of the row itself, and the column that says whom one means.
    fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::Tenant(_) => ("tenants", "name"),
            Self::User(_) => ("portal_users", "email"),
        }
    }
}

/// Rows, by their table.
pub type Rows = BTreeMap<&'static str, u64>;

/// A conversation whose sockets shall look at their seats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The company.
    pub tenant: TenantId,
    /// The conversation.
    pub conversation: ConversationId,
    /// Its agent.
    pub agent: AgentId,
    /// Whose it is.
    pub user: UserId,
}

/// A step: some conversations that are gone.
#[derive(Debug, Default)]
pub struct Step {
    /// Which.
    pub places: Vec<Place>,
    /// Those of their turns that Redis may still know something of.
    pub turns: Vec<(TenantId, TurnId)>,
    /// A worker was on one of them a moment ago, and may not have noticed yet.
    pub at_work: bool,
    /// What was deleted.
    pub rows: Rows,
}

/// Conversations of one step.
const TOGETHER: i64 = 200;

/// `$1` who. Those that are theirs.
const PLACES_OF_TENANT: &str = "select id, tenant_id, agent_id, user_id from web_conversations where tenant_id = $1";
const PLACES_OF_USER: &str = "select id, tenant_id, agent_id, user_id from web_conversations where user_id = $1";

/// `$1` person. Those of others where they may sit: as an admin of the company while a person is wanted, or as the
/// product's admin, who leaves an audit row there.
const PLACES_OF_OTHERS: &str = "
    select c.id, c.tenant_id, c.agent_id, c.user_id from web_conversations c
    where c.user_id <> $1
      and ((c.status = 'escalated' and c.tenant_id in (select m.tenant_id from user_tenant_roles m where m.user_id = $1))
        or c.id in (select e.subject_id from audit_events e where e.actor_id = $1))";

/// A step's conversations stand still meanwhile, so that nobody waits for us with half of what we want in their hands.
const LOCK_PLACES: &str = "select 1 from web_conversations where id = any($1) order by id for no key update";

/// `$1` conversations. What Redis keeps of a turn, it keeps for a minute after its end.
const TURNS: &str = "
    delete from turns where ctid = any(array(select ctid from turns where conversation_id = any($1) limit 5000))
    returning id, tenant_id, state = 'running' or coalesce(ended_at > clock_timestamp() - interval '5 s', false) as at_work,
      state in ('queued', 'running') or coalesce(ended_at > clock_timestamp() - interval '2 min', true) as fresh";

const MESSAGES: &str = "
    delete from web_conversation_messages
    where ctid = any(array(select ctid from web_conversation_messages where conversation_id = any($1) limit 5000))";

const CONVERSATIONS: &str = "delete from web_conversations where id = any($1)";

/// A statement that deletes, or changes, some rows of a table at most; it is repeated until it finds none.
macro_rules! some {
    ($table:literal, $of:literal) => {
        some!($table, concat!("delete from ", $table), $of)
    };
    ($table:literal, $does:expr, $of:literal) => {
        ($table, concat!($does, " where ctid = any(array(select ctid from ", $table, " where ", $of, " limit 5000))"))
    };
}

/// The person that nobody is.
macro_rules! nobody {
    () => {
        "'00000000-0000-0000-0000-000000000000'"
    };
}

/// What a company leaves besides its conversations, `$1`.
const REST_OF_TENANT: &[(&str, &str)] = &[
    some!("channel_turns", "tenant_id = $1"),
    some!("usage", "tenant_id = $1"),
    some!(
        "audit_events",
        "tenant_id = $1 or (tenant_id is null and (subject_id = $1 or strpos(detail::text, $1::uuid::text) > 0))"
    ),
    some!("dead_letters", "strpos(body || reason, $1::uuid::text) > 0"),
    some!("model_keys", "tenant_id = $1"),
    some!("budgets", "tenant_id = $1"),
    some!("escalation_notices", "tenant_id = $1"),
    some!("channel_connections", "tenant_id = $1"),
    some!("agents", "tenant_id = $1"),
    some!("user_tenant_roles", "tenant_id = $1"),
];

/// What a person leaves besides their conversations, `$1`. What they had taken waits for a person again, and is told.
const REST_OF_USER: &[(&str, &str)] = &[
    some!(
        "web_conversation_messages",
        concat!("update web_conversation_messages set author_id = ", nobody!()),
        "author_id = $1"
    ),
    some!(
        "web_conversations",
        concat!(
            "update web_conversations set escalated_by = case escalated_by when $1 then ",
            nobody!(),
            " else escalated_by end, taken_by = nullif(taken_by, $1),
             taken_at = case taken_by when $1 then null else taken_at end,
             answered_at = case taken_by when $1 then null else answered_at end,
             told = case taken_by when $1 then 0 else told end,
             tell_at = case taken_by when $1 then (select clock_timestamp() from escalation_notices n
                                                  where n.tenant_id = web_conversations.tenant_id) else tell_at end"
        ),
        "status = 'escalated' and (taken_by = $1 or escalated_by = $1)"
    ),
    some!("audit_events", concat!("update audit_events set actor_id = ", nobody!()), "actor_id = $1"),
    some!(
        "audit_events",
        concat!("update audit_events set subject_id = nullif(subject_id, $1), detail = null"),
        "subject_id = $1 or strpos(detail::text, $1::uuid::text) > 0"
    ),
    some!("channel_turns", "strpos(hint, $1::uuid::text) > 0"),
    some!("dead_letters", "strpos(body || reason, $1::uuid::text) > 0"),
    some!("portal_user_identities", "user_id = $1"),
    some!("user_tenant_roles", "user_id = $1"),
];

/// Letters that name a person by their address, `$1`.
const LETTERS_OF: &str = "delete from dead_letters where strpos(body, $1) > 0";

/// That it was done, and how many rows it took, says an audit row that names nobody. `$2` `tenant.erased` or `user.erased`.
const ERASED: &str = "insert into audit_events (id, action, detail) values ($1, $2, $3::text::jsonb)";

impl Owner {
    /// The conversations that are theirs, and those of others where they may sit at the moment. To be asked before their
    /// doors are shut.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not answer.
    pub async fn places(&self, whom: Whom) -> Result<Vec<Place>> {
        let theirs = match whom {
            Whom::Tenant(_) => [PLACES_OF_TENANT].as_slice(),
            Whom::User(_) => &[PLACES_OF_USER, PLACES_OF_OTHERS],
        };
        let mut places = Vec::new();
        for sql in theirs {
            let rows = self.client.query(*sql, &[&whom.uuid()]).await.map_err(translate)?;
            places.extend(rows.iter().map(place).collect::<Result<Vec<_>>>()?);
        }
        Ok(places)
    }

    /// Shuts their doors: from here on they come in nowhere, nobody comes into what was theirs, and no agent of a company
    /// is asked. `meant` is the company's name or the person's e-mail address, which has to be right as long as there
    /// is a row.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) if somebody else is meant; nothing was done then.
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not confirm.
    pub async fn shut(&mut self, whom: Whom, meant: &str) -> Result<Rows> {
        let (table, named) = whom.row();
        let who = whom.uuid();
        let tx = self.client.transaction().await.map_err(translate)?;
        let row = tx.query_opt(&format!("select {named} from {table} where id = $1 for update"), &[&who]).await;
        let is = row.map_err(translate)?.map(|row| column::<String>(&row, named)).transpose()?;
        if is.is_some_and(|is| is != meant) {
            return Err(Error::field(named, "is not that of the id"));
        }
        let (members, others) = match whom {
            Whom::Tenant(_) => (
                "delete from user_tenant_roles where tenant_id = $1",
                "update agents set is_active = false where tenant_id = $1 and is_active",
            ),
            Whom::User(_) => (
                "delete from user_tenant_roles where user_id = $1",
                "update portal_users set role = 'customer_operator' where id = $1 and role <> 'customer_operator'",
            ),
        };
        let shut = tx.execute(members, &[&who]).await.map_err(translate)?;
        tx.execute(others, &[&who]).await.map_err(translate)?;
        tx.commit().await.map_err(translate)?;
        Ok(Rows::from([("user_tenant_roles", shut)]))
    }

    /// Deletes some of their conversations, with all that was said there. `None` once there are no more.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not confirm.
    pub async fn erase_some(&mut self, whom: Whom) -> Result<Option<Step>> {
        let theirs = match whom {
            Whom::Tenant(_) => PLACES_OF_TENANT,
            Whom::User(_) => PLACES_OF_USER,
        };
        let rows = self.client.query(&format!("{theirs} order by id limit {TOGETHER}"), &[&whom.uuid()]).await;
        let places = rows.map_err(translate)?.iter().map(place).collect::<Result<Vec<_>>>()?;
        if places.is_empty() {
            return Ok(None);
        }
        let ids: Vec<ConversationId> = places.iter().map(|place| place.conversation).collect();
        let mut step = Step { places, ..Step::default() };
        loop {
            let tx = self.client.transaction().await.map_err(translate)?;
            tx.execute(LOCK_PLACES, &[&ids]).await.map_err(translate)?;
            let turns = tx.query(TURNS, &[&ids]).await.map_err(translate)?;
            tx.commit().await.map_err(translate)?;
            if turns.is_empty() {
                break;
            }
            *step.rows.entry("turns").or_default() += turns.len() as u64;
            for row in &turns {
                step.at_work |= column::<bool>(row, "at_work")?;
                if column(row, "fresh")? {
                    step.turns.push((column(row, "tenant_id")?, column(row, "id")?));
                }
            }
        }
        self.repeat("web_conversation_messages", MESSAGES, &ids, &mut step.rows).await?;
        let gone = self.client.execute(CONVERSATIONS, &[&ids]).await.map_err(translate)?;
        step.rows.insert("web_conversations", gone);
        Ok(Some(step))
    }

    /// Deletes what else there is of them, and at last their own row. Returns what it deleted or made nobody's.
    /// `before` is what the steps before it did; together they are the audit row.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not confirm.
    pub async fn erase_rest(&mut self, whom: Whom, meant: &str, before: Rows) -> Result<Rows> {
        let who = whom.uuid();
        let mut rows = before;
        let rest = match whom {
            Whom::Tenant(_) => REST_OF_TENANT,
            Whom::User(_) => REST_OF_USER,
        };
        for (table, sql) in rest {
            self.repeat(table, sql, &who, &mut rows).await?;
        }
        if matches!(whom, Whom::User(_)) && !meant.is_empty() {
            *rows.entry("dead_letters").or_default() +=
                self.client.execute(LETTERS_OF, &[&meant]).await.map_err(translate)?;
        }
        let tx = self.client.transaction().await.map_err(translate)?;
        let (table, _) = whom.row();
        let gone = tx.execute(&format!("delete from {table} where id = $1"), &[&who]).await.map_err(translate)?;
        rows.insert(table, gone);
        rows.retain(|_, count| *count > 0);
        if !rows.is_empty() {
            audit(&tx, whom, &rows).await?;
        }
        tx.commit().await.map_err(translate)?;
        Ok(rows)
    }

    /// Runs a statement until it finds no more rows, each time in a transaction of its own.
    async fn repeat(&self, table: &'static str, sql: &str, of: &(dyn ToSql + Sync), rows: &mut Rows) -> Result<()> {
        loop {
            let did = self.client.execute(sql, &[of]).await.map_err(translate)?;
            if did == 0 {
                return Ok(());
            }
            *rows.entry(table).or_default() += did;
        }
    }
}

async fn audit(tx: &Transaction<'_>, whom: Whom, rows: &Rows) -> Result<()> {
    let action = match whom {
        Whom::Tenant(_) => "tenant.erased",
        Whom::User(_) => "user.erased",
    };
    let detail = serde_json::to_string(rows).map_err(Error::internal)?;
    tx.execute(ERASED, &[&AuditId::new(), &action, &detail]).await.map(drop).map_err(translate)
}

fn place(row: &Row) -> Result<Place> {
    Ok(Place {
        tenant: column(row, "tenant_id")?,
        conversation: column(row, "id")?,
        agent: column(row, "agent_id")?,
        user: column(row, "user_id")?,
    })
}

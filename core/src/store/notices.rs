//! Notices: a tenant is told outside that a conversation waits for a person, and told again until one answers.
//!
//! A notice is due when the conversation's `tell_at` has passed. It is claimed before it is sent, by moving that to the
//! next reminder: two workers do not tell twice, and where a send came to nothing the reminder makes up for it.

use super::{
    Scope, Store, column,
    escalations::{lines, transcript},
    moment,
    script::Step,
};
use crate::{
    config,
    conversation::Line,
    error::Result,
    ids::{AgentId, AuditId, ConversationId, TenantId, UserId},
    timestamp::Timestamp,
};

/// A notice in our hands: to be sent once, by us.
#[derive(Debug, Clone)]
pub struct Notice {
    /// Its id, the same for whoever gets it, and of the audit row that says what became of it.
    pub id: AuditId,
    /// The company.
    pub tenant: TenantId,
    /// The conversation.
    pub conversation: ConversationId,
    /// The AI employee that stepped back.
    pub agent: AgentId,
    /// Its name.
    pub agent_name: String,
    /// Who waits for a person.
    pub user: UserId,
    /// What they are called, if they are a member of the company.
    pub user_name: Option<String>,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Which notice of this escalation it is, from 1.
    pub count: i32,
    /// The last of what was said, oldest first.
    pub transcript: Vec<Line>,
    /// Where a signed webhook goes, and its sealed secret.
    pub webhook: Option<(String, Vec<u8>)>,
    /// The Slack channel, and the sealed token of a bot that may post there.
    pub slack: Option<(String, Vec<u8>)>,
}

/// `$1` conversation, `$2` seconds to the first reminder, `$3` most reminders. The conditions stand on the updated row
/// itself, where they are checked again after a wait for its lock. No row: nothing is due, or somebody else tells it.
const CLAIM: &str = concat!(
    "with due as (
       update web_conversations w
       set told = w.told + 1, tell_hinted_at = null,
           tell_at = case when w.told < $3 then clock_timestamp() + make_interval(secs => $2::float8 * 2.0 ^ least(w.told, 30)) end
       where w.id = $1 and w.tenant_id = app_tenant() and w.status = 'escalated' and w.tell_at <= clock_timestamp()
       returning w.id, w.tenant_id, w.agent_id, w.user_id, w.told, w.escalation_reason, w.escalated_at
     )
     select c.agent_id, a.name, c.user_id, u.display_name, coalesce(c.escalation_reason, '') as reason, c.escalated_at,
            c.told, n.webhook_url, n.webhook_secret, n.slack_channel, n.slack_token, ",
    transcript!(),
    " as transcript
     from due c
     join agents a on a.tenant_id = c.tenant_id and a.id = c.agent_id
     join escalation_notices n on n.tenant_id = c.tenant_id
     left join portal_users u on u.id = c.user_id"
);

/// `$1` audit row, `$2` conversation, `$3` how it came out, as JSON.
const TOLD: &str = "
    insert into audit_events (id, tenant_id, action, subject_id, detail)
    select $1, app_tenant(), 'conversation.told', $2, $3::text::jsonb";

impl Store {
    /// Claims the notice of a conversation that is due, if one is. Whoever has it sends it, once.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) if Postgres did not answer; a notice that was claimed all the same
    /// is made up for by the next reminder.
    pub async fn claim_notice(
        &self,
        tenant: TenantId,
        conversation: ConversationId,
        settings: &config::Notices,
    ) -> Result<Option<Notice>> {
        let (first, most) = (settings.remind.as_secs_f64(), settings.reminders);
        let work: [Step<'_>; 1] = [(CLAIM, &[&conversation, &first, &most])];
        let rows = self.run(Scope::Tenant(tenant), &work).await?;
        let Some(row) = rows[0].first() else { return Ok(None) };
        let both = |address: &str, secret: &str| {
            let (address, secret): (Option<String>, Option<Vec<u8>>) = (column(row, address)?, column(row, secret)?);
            Ok::<_, crate::Error>(address.zip(secret))
        };
        Ok(Some(Notice {
            id: AuditId::new(),
            tenant,
            conversation,
            agent: column(row, "agent_id")?,
            agent_name: column(row, "name")?,
            user: column(row, "user_id")?,
            user_name: column(row, "display_name")?,
            reason: column(row, "reason")?,
            since: moment(row, "escalated_at")?,
            count: column(row, "told")?,
            transcript: lines(column(row, "transcript")?)?.unwrap_or_default(),
            webhook: both("webhook_url", "webhook_secret")?,
            slack: both("slack_channel", "slack_token")?,
        }))
    }

    /// Writes down what became of a notice: `outcome` is a JSON object.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) if Postgres did not confirm.
    pub async fn notice_told(&self, notice: &Notice, outcome: &str) -> Result<()> {
        let work: [Step<'_>; 1] = [(TOLD, &[&notice.id, &notice.conversation, &outcome])];
        self.run(Scope::Tenant(notice.tenant), &work).await.map(drop)
    }
}

//! The company that is attacked: something of every kind that a company can have, with a canary in every text.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::Result;
use chat_core::ids::{AgentId, ClientMessageId, ConnectionId, ConversationId, MessageId, TenantId, TurnId, UserId};
use tokio_postgres::Client;

use super::CANARY;
use crate::app::App;

/// A conversation of acme's.
#[derive(Debug, Clone, Copy)]
pub struct Talk {
    /// Its id.
    pub id: ConversationId,
    /// The turn of its user message, and that message.
    pub turn: TurnId,
    /// The client's own id of it.
    pub client: ClientMessageId,
    /// The reply.
    pub reply: MessageId,
}

/// What an attacker may know of acme.
#[derive(Debug, Clone)]
pub struct House {
    /// Who it is.
    pub tenant: TenantId,
    /// Its AI employees.
    pub agents: Vec<AgentId>,
    /// Its people.
    pub people: Vec<UserId>,
    /// Its message waits for a worker.
    pub queued: Talk,
    /// A worker has the message of each.
    pub running: [Talk; 5],
    /// It waits for a person, and somebody is to be told.
    pub waiting: Talk,
    /// Its message is past its time.
    pub spent: Talk,
    /// Its connection to Slack.
    pub connection: ConnectionId,
    /// A turn of that channel that a worker has.
    pub slack_turn: TurnId,
}

/// The name of acme's workspace in Slack, and of a message there whose turn was abandoned.
pub(super) const WORKSPACE: &str = "T-acme";
/// See [`WORKSPACE`].
pub(super) const SLACK_MESSAGE: &str = "M-acme";
/// A provider that acme has a key for.
pub(super) const PROVIDER: &str = "openai";

impl House {
    /// Builds it. Nothing of it is due: no sweep and no worker of the product touches it by itself.
    ///
    /// # Errors
    /// What Postgres refuses.
    pub async fn build(app: &App, owner: &Client) -> Result<Self> {
        let tenant = app.user("ada@acme").tenant.unwrap_or_else(TenantId::new);
        let agents: Vec<AgentId> =
            app.demo.agents.iter().filter(|agent| agent.tenant == tenant).map(|agent| agent.id).collect();
        let mut people: Vec<UserId> =
            app.demo.users.iter().filter(|user| user.tenant == Some(tenant)).map(|user| user.id).collect();
        for name in ["cleo", "dan"] {
            let user = UserId::new();
            let insert =
                "insert into portal_users (id, email, display_name, role) values ($1, $2, $2, 'customer_operator')";
            owner.execute(insert, &[&user, &name]).await?;
            let join = "insert into user_tenant_roles (tenant_id, user_id, role) values ($1, $2, 'customer_operator')";
            owner.execute(join, &[&tenant, &user]).await?;
            people.push(user);
        }
        let talk = || Talk {
            id: ConversationId::new(),
            turn: TurnId::new(),
            client: ClientMessageId::new(),
            reply: MessageId::new(),
        };
        let house = Self {
            tenant,
            agents,
            people,
            queued: talk(),
            running: [talk(), talk(), talk(), talk(), talk()],
            waiting: talk(),
            spent: talk(),
            connection: ConnectionId::new(),
            slack_turn: TurnId::new(),
        };
        owner.batch_execute(&house.company()).await?;
        Ok(house)
    }

    /// Puts its conversations in, as new.
    ///
    /// # Errors
    /// What Postgres refuses.
    pub async fn furnish(&self, owner: &Client) -> Result<()> {
        let tenant = self.tenant;
        let mut sql = format!("delete from web_conversations where tenant_id = '{tenant}';");
        let held = "state = 'running', attempt = 1, lease_until = now() + interval '1 hour', deadline = now() + interval '1 hour'";
        let running = self.running.iter().map(|talk| (*talk, held));
        let others = [
            (self.queued, "state = 'queued'"),
            (self.waiting, "state = 'escalated', ended_at = now()"),
            (self.spent, "state = 'queued', deadline = now() - interval '1 hour'"),
        ];
        for (number, (Talk { id, turn, client, reply }, change)) in running.chain(others).enumerate() {
            // Each person has one conversation with each agent.
            let (user, agent) = (self.people[number / 2], self.agents[number % 2]);
            write!(
                sql,
                "insert into web_conversations (id, tenant_id, agent_id, user_id, last_seq, summary)
                   values ('{id}', '{tenant}', '{agent}', '{user}', 2, '{CANARY} summary');
                 insert into web_conversation_messages (id, conversation_id, tenant_id, seq, epoch, role, content)
                   values ('{turn}', '{id}', '{tenant}', 1, 0, 'user', '{CANARY} question'),
                          ('{reply}', '{id}', '{tenant}', 2, 0, 'assistant', '{CANARY} answer');
                 update web_conversation_messages set rating = 'down', rating_comment = '{CANARY} comment', rated_at = now()
                   where id = '{reply}';
                 insert into turns (id, tenant_id, conversation_id, user_id, seq, epoch, client_message_id, text_sha256, hinted_at)
                   values ('{turn}', '{tenant}', '{id}', '{user}', 1, 0, '{client}', sha256('x'), now() + interval '1 day');
                 update turns set {change} where id = '{turn}';"
            )?;
        }
        let waiting = self.waiting.id;
        write!(
            sql,
            "update web_conversations set status = 'escalated', escalated_at = now(), escalation_reason = '{CANARY} reason',
               title = '{CANARY} title',
               tell_at = now(), tell_hinted_at = now() + interval '1 day' where id = '{waiting}'"
        )?;
        Ok(owner.batch_execute(&sql).await?)
    }

    /// What the company has beside its conversations.
    fn company(&self) -> String {
        let (Self { tenant, connection, slack_turn, .. }, agent) = (self, self.agents[0]);
        format!(
            "update tenants set name = '{CANARY}' where id = '{tenant}';
             update portal_users set display_name = '{CANARY} person'
               where id in (select user_id from user_tenant_roles where tenant_id = '{tenant}');
             update agents set name = '{CANARY} agent', system_prompt = '{CANARY} prompt', tools = '{{search_history}}',
               escalation_rules = '[{{\"condition\": \"attempts > 9\", \"reason\": \"{CANARY}\"}}]' where tenant_id = '{tenant}';
             insert into escalation_notices (tenant_id, webhook_url, webhook_secret)
               values ('{tenant}', 'https://{CANARY}.example', '{CANARY} sealed');
             insert into model_keys (tenant_id, provider, sealed) values ('{tenant}', '{PROVIDER}', '{CANARY} sealed key of the company');
             insert into budgets (tenant_id, monthly_calls, monthly_tokens, calls, tokens) values ('{tenant}', 1000, 1000, 1, 1);
             insert into usage (tenant_id, turn_id, attempt, purpose, model, agent_id, calls)
               values ('{tenant}', '{}', 1, 'reply', '{CANARY}', '{agent}', 1);
             insert into audit_events (id, tenant_id, action, detail)
               values (gen_random_uuid(), '{tenant}', '{CANARY}', '{{\"reason\": \"{CANARY}\"}}');
             insert into channel_connections (id, tenant_id, agent_id, channel_type, external_id, credentials)
               values ('{connection}', '{tenant}', '{agent}', 'slack', '{WORKSPACE}', '{CANARY} sealed token');
             insert into channel_turns (id, tenant_id, channel, message_id, connection_id, agent_id, thread, sender, said, said_at, hint,
                 state, attempt, lease_until, deadline)
               values ('{slack_turn}', '{tenant}', 'slack', 'M-running', '{connection}', '{agent}', '', 'U1', '{CANARY} said', now(),
                 '{CANARY} hint', 'running', 1, now() + interval '1 hour', now() + interval '1 hour'),
                 (gen_random_uuid(), '{tenant}', 'slack', '{SLACK_MESSAGE}', '{connection}', '{agent}', '', 'U2', '{CANARY} said', now(),
                 '{CANARY} hint', 'sending', 1, now() - interval '1 hour', now() + interval '1 hour');",
            self.running[0].turn
        )
    }

    /// Every conversation.
    #[must_use]
    pub fn talks(&self) -> Vec<Talk> {
        [self.queued, self.waiting, self.spent].into_iter().chain(self.running).collect()
    }

    /// A digest of all its rows, by table.
    ///
    /// # Errors
    /// If Postgres cannot be reached.
    pub async fn rows(&self, owner: &Client) -> Result<BTreeMap<String, String>> {
        let tables = "select c.relname::text from pg_class c join pg_attribute a on a.attrelid = c.oid
            where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attname = 'tenant_id'";
        let mut digests = BTreeMap::new();
        for row in owner.query(tables, &[]).await? {
            let table: String = row.get(0);
            let digest = format!(
                "select count(*) || ' ' || coalesce(md5(string_agg(x::text, '|' order by x::text)), '') from {table} x where tenant_id = $1"
            );
            let digest = owner.query_one(&digest, &[&self.tenant]).await?.get(0);
            digests.insert(table, digest);
        }
        Ok(digests)
    }

    /// Ends what is open, so that nobody waits for it.
    ///
    /// # Errors
    /// If Postgres cannot be reached.
    pub async fn leave(&self, owner: &Client) -> Result<()> {
        owner.execute("delete from turns where tenant_id = $1", &[&self.tenant]).await?;
        Ok(())
    }
}

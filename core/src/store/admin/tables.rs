//! The tables that operators keep, and what they see of them.

use super::Table;

/// A moment as every edge writes it.
macro_rules! moment {
    ($of:literal) => {
        moment!($of, $of)
    };
    ($of:literal, $name:literal) => {
        concat!("to_char(t.", $of, " at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') as ", $name)
    };
}

/// Companies.
pub static TENANTS: Table = Table {
    name: "tenants",
    noun: "tenant",
    key: &["id"],
    known_by: &["name"],
    shown: concat!("t.id, t.name, t.retention_days, ", moment!("created_at")),
    order: "t.name, t.id",
    tenant: Some("id"),
    subject: "id",
};

/// People.
pub static USERS: Table = Table {
    name: "portal_users",
    noun: "user",
    key: &["id"],
    known_by: &["email"],
    shown: concat!("t.id, t.email, t.display_name, t.role, ", moment!("created_at")),
    order: "t.email",
    tenant: None,
    subject: "id",
};

/// What outside issuers call people.
pub static IDENTITIES: Table = Table {
    name: "portal_user_identities",
    noun: "identity",
    key: &["issuer", "subject"],
    known_by: &[],
    shown: concat!("t.issuer, t.subject, t.user_id, ", moment!("created_at")),
    order: "t.issuer, t.subject",
    tenant: None,
    subject: "user_id",
};

/// Who belongs where.
pub static MEMBERS: Table = Table {
    name: "user_tenant_roles",
    noun: "member",
    key: &["tenant_id", "user_id"],
    known_by: &[],
    shown: concat!(
        "t.tenant_id, t.user_id, (select u.email from portal_users u where u.id = t.user_id) as email, t.role, ",
        moment!("created_at")
    ),
    order: "t.tenant_id, t.user_id",
    tenant: Some("tenant_id"),
    subject: "user_id",
};

/// AI employees.
pub static AGENTS: Table = Table {
    name: "agents",
    noun: "agent",
    key: &["id"],
    known_by: &["tenant_id", "name"],
    shown: concat!(
        "t.id, t.tenant_id, t.name, t.model, t.fallback_models, t.is_active, t.temperature, t.max_output_tokens,
         t.context_tokens, t.tools, jsonb_array_length(t.escalation_rules) as escalation_rules,
         length(t.system_prompt) as system_prompt_chars, ",
        moment!("created_at")
    ),
    order: "t.tenant_id, t.name, t.id",
    tenant: Some("tenant_id"),
    subject: "id",
};

/// Connections to channels.
pub static CONNECTIONS: Table = Table {
    name: "channel_connections",
    noun: "channel",
    key: &["id"],
    known_by: &["tenant_id", "agent_id", "channel_type", "external_id"],
    shown: concat!(
        "t.id, t.tenant_id, t.agent_id, t.channel_type, t.external_id, t.credentials is not null as has_credentials, ",
        moment!("created_at")
    ),
    order: "t.tenant_id, t.channel_type, t.external_id, t.id",
    tenant: Some("tenant_id"),
    subject: "id",
};

/// Companies' own keys for models.
pub static MODEL_KEYS: Table = Table {
    name: "model_keys",
    noun: "model_key",
    key: &["tenant_id", "provider"],
    known_by: &[],
    shown: concat!("t.tenant_id, t.provider, ", moment!("created_at")),
    order: "t.tenant_id, t.provider",
    tenant: Some("tenant_id"),
    subject: "tenant_id",
};

/// What companies may spend.
pub static BUDGETS: Table = Table {
    name: "budgets",
    noun: "budget",
    key: &["tenant_id"],
    known_by: &[],
    shown: "t.tenant_id, t.monthly_calls, t.monthly_tokens, t.month, t.calls, t.tokens",
    order: "t.tenant_id",
    tenant: Some("tenant_id"),
    subject: "tenant_id",
};

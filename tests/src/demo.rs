//! Companies, people and AI employees to try the product with.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use chat_core::{
    caller::Role,
    ids::{AgentId, TenantId, UserId},
};
use tokio_postgres::{Client, NoTls};

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Companies.
    pub tenants: usize,
    /// People a company: the first is its customer_admin, the others are customer_operators.
    pub users: usize,
    /// AI employees a company.
    pub agents: usize,
}

/// What was made. There is one platform_admin besides, the first user.
#[derive(Debug, Clone)]
pub struct Demo {
    /// The companies.
    pub tenants: Vec<Tenant>,
    /// The people.
    pub users: Vec<User>,
    /// The AI employees.
    pub agents: Vec<Agent>,
}

/// A company.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name.
    pub name: String,
}

/// A person.
#[derive(Debug, Clone)]
pub struct User {
    /// Their id.
    pub id: UserId,
    /// How they are called on a command line: `ada@acme`.
    pub handle: String,
    /// What they are.
    pub role: Role,
    /// Their company; the platform_admin has none.
    pub tenant: Option<TenantId>,
}

/// An AI employee.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// Its company.
    pub tenant: TenantId,
}

const COMPANIES: &[&str] = &["acme", "globex", "initech", "umbrella", "hooli", "stark", "wayne", "tyrell"];
const PEOPLE: &[&str] = &["ada", "ben", "cleo", "dan", "eva", "finn", "gia", "hugo"];
const AGENTS: &[&str] = &["Mila from Support", "Otto from Sales", "Nora from Research", "Iris from Finance"];

/// Makes a demo, as the owner role.
///
/// # Errors
/// What Postgres refuses.
pub async fn seed(owner_url: &str, size: Size) -> Result<Demo> {
    let (client, connection) = tokio_postgres::connect(owner_url, NoTls).await.context("connecting as the owner")?;
    let connection = tokio::spawn(connection);
    let demo = plan(size);
    write(&client, &demo).await.context("seeding the demo")?;
    drop(client);
    connection.await??;
    Ok(demo)
}

/// Gives every agent this model, as the owner role.
///
/// # Errors
/// What Postgres refuses.
pub async fn set_model(owner_url: &str, model: &str) -> Result<()> {
    set(owner_url, "update agents set model = $1", model).await
}

/// Has every agent call a person to a conversation in which these words are said, as the owner role.
///
/// # Errors
/// What Postgres refuses.
pub async fn set_escalation(owner_url: &str, words: &str) -> Result<()> {
    let rules = serde_json::json!([{"condition": words, "reason": format!("asked for {words}")}]).to_string();
    set(owner_url, "update agents set escalation_rules = $1::text::jsonb", &rules).await
}

async fn set(owner_url: &str, statement: &str, to: &str) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(owner_url, NoTls).await.context("connecting as the owner")?;
    let connection = tokio::spawn(connection);
    client.execute(statement, &[&to]).await.context("setting up the agents")?;
    drop(client);
    connection.await??;
    Ok(())
}

/// A name from a list, numbered once the list is used up.
fn name(names: &[&str], number: usize) -> String {
    let name = names[number % names.len()];
    if number < names.len() { name.to_owned() } else { format!("{name}{}", number / names.len() + 1) }
}

fn plan(size: Size) -> Demo {
    let root = User { id: UserId::new(), handle: "root".to_owned(), role: Role::PlatformAdmin, tenant: None };
    let mut demo = Demo { tenants: Vec::new(), users: vec![root], agents: Vec::new() };
    for number in 0..size.tenants {
        let tenant = Tenant { id: TenantId::new(), name: name(COMPANIES, number) };
        for number in 0..size.users {
            let role = if number == 0 { Role::CustomerAdmin } else { Role::CustomerOperator };
            let handle = format!("{}@{}", name(PEOPLE, number), tenant.name);
            demo.users.push(User { id: UserId::new(), handle, role, tenant: Some(tenant.id) });
        }
        for number in 0..size.agents {
            demo.agents.push(Agent { id: AgentId::new(), name: name(AGENTS, number), tenant: tenant.id });
        }
        demo.tenants.push(tenant);
    }
    demo
}

/// Everything in a few statements: a large demo has thousands of rows.
async fn write(client: &Client, demo: &Demo) -> Result<()> {
    let mut sql = String::from("begin;");
    let mut rows = |table: &str, values: Vec<String>| {
        for chunk in values.chunks(1_000) {
            // Ids, roles and names of our own making: nothing to escape.
            write!(sql, "insert into {table} values {};", chunk.join(",")).expect("a String takes any text");
        }
    };
    rows("tenants (id, name)", demo.tenants.iter().map(|t| format!("('{}','{}')", t.id, t.name)).collect());
    rows(
        "portal_users (id, email, display_name, role)",
        demo.users.iter().map(|u| format!("('{}','{}.example','{}','{}')", u.id, u.handle, u.handle, u.role)).collect(),
    );
    rows(
        "user_tenant_roles (tenant_id, user_id, role)",
        demo.users.iter().filter_map(|u| Some(format!("('{}','{}','{}')", u.tenant?, u.id, u.role))).collect(),
    );
    rows(
        "agents (id, tenant_id, name)",
        demo.agents.iter().map(|a| format!("('{}','{}','{}')", a.id, a.tenant, a.name)).collect(),
    );
    sql.push_str("commit;");
    client.batch_execute(&sql).await?;
    Ok(())
}

impl Demo {
    /// The user with this handle or id.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.handle == name || user.id.to_string() == name)
    }
}

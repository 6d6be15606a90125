//! What the system says of processes, and what `pgbench` gets out of the same Postgres.

use std::{fs, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::Stack;
use crate::services::pg_bin;

/// Memory that a process has for itself, in bytes: the anonymous part of its PSS. The rest is its share of its program's
/// file, which grows when another process of that program ends. 0 where the system does not tell.
/// Source: proc(5), `smaps_rollup`.
#[must_use]
pub fn memory(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

/// CPU time of a process so far; zero where the system does not tell. Source: proc(5), fields 14 and 15 of `stat`, in ticks
/// of 10 ms.
#[must_use]
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or_else(Vec::new, |(_, fields)| fields.split(' ').collect());
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<u64>().ok());
    Duration::from_millis(ticks(11).zip(ticks(12)).map_or(0, |(user, system)| (user + system) * 10))
}

/// The plain pair: two transactions with one INSERT each, under forced row-level security, into a table with the columns,
/// the foreign key and the index that anybody would give it first. What the machine can do for a chat.
pub const PAIR: &str = r"
\set n random(1, 4000)
begin;
set local app.current_tenant = 'TENANT';
insert into bench_messages (conversation_id, tenant_id, role, content) values (md5((:n)::text)::uuid, 'TENANT', 'user', 'How are you today? I have a question.');
commit;
begin;
set local app.current_tenant = 'TENANT';
insert into bench_messages (conversation_id, tenant_id, role, content) values (md5((:n)::text)::uuid, 'TENANT', 'assistant', 'Echo: How are you today? I have a question.');
commit;
";

const TABLE: &str = "
    create table if not exists bench_conversations (id uuid primary key, tenant_id uuid not null, unique (tenant_id, id));
    insert into bench_conversations select md5(n::text)::uuid, 'TENANT' from generate_series(1, 4000) n on conflict do nothing;
    create table if not exists bench_messages (
      id uuid primary key default gen_random_uuid(), conversation_id uuid not null, tenant_id uuid not null,
      role text not null check (role in ('user', 'assistant')), content text not null,
      created_at timestamptz not null default now(),
      foreign key (tenant_id, conversation_id) references bench_conversations (tenant_id, id));
    create index if not exists bench_messages_by_conversation on bench_messages (conversation_id, created_at);
    alter table bench_messages enable row level security;
    alter table bench_messages force row level security;
    drop policy if exists tenant on bench_messages;
    create policy tenant on bench_messages using (tenant_id = app_tenant()) with check (tenant_id = app_tenant());
    grant select, insert on bench_messages to chat_app";

/// How often a second `pgbench` runs a script as the app role, with so many connections. `TENANT` in it is a tenant.
///
/// # Errors
/// If there is no `pgbench`, or it fails.
pub async fn pgbench(stack: &Stack, script: &str, connections: usize, length: Duration) -> Result<f64> {
    let tenant = stack.demo.tenants.first().context("a tenant")?.id.to_string();
    stack.owner.batch_execute(&TABLE.replace("TENANT", &tenant)).await?;
    let file = stack.services.folder().join("script.sql");
    fs::write(&file, script.replace("TENANT", &tenant))?;
    let output = Command::new(pg_bin("pgbench")?)
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
        .arg(format!("--client={connections}"))
        .arg(format!("--time={}", length.as_secs()))
        .arg(format!("--file={}", file.display()))
        .arg(&stack.setting.database_url)
        .stdin(Stdio::null())
        .output()
        .await
        .context("starting pgbench")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    let tps = said.lines().find_map(|line| line.strip_prefix("tps = ")).context("a rate")?;
    Ok(tps.split(' ').next().context("a rate")?.parse()?)
}

//! What lies behind the edges, searched: the bus while it storms, and what Redis and the tables hold afterwards.

use anyhow::{Context, Result};
use futures::StreamExt;
use redis::AsyncCommands;
use tokio_postgres::Client;

use super::{Marks, Tally};
use crate::{app::App, demo::Demo};

/// The company whose name in Redis this is.
fn company(demo: &Demo, name: &str) -> Option<usize> {
    demo.tenants.iter().position(|tenant| name.starts_with(&format!("{}:", tenant.id)))
}

/// Listens to everything that is published, until it is dropped: each company's topics carry what is its own.
pub(super) async fn bus(url: String, demo: Demo, marks: Marks, tally: Tally) -> Result<()> {
    let mut listener = redis::Client::open(url)?.get_async_pubsub().await?;
    listener.psubscribe("*").await?;
    let mut news = listener.into_on_message();
    while let Some(told) = news.next().await {
        let Some(own) = company(&demo, told.get_channel_name()) else { continue };
        let text = String::from_utf8_lossy(told.get_payload_bytes());
        tally.note(|report| report.news += 1);
        tally.search(&marks, own, "news", &text);
    }
    Ok(())
}

/// Every key of each company's in Redis, name and value.
pub(super) async fn redis(app: &App, marks: &Marks, tally: &Tally) -> Result<()> {
    let client = redis::Client::open(app.setting.redis.url(crate::services::User::Harness))?;
    let mut conn = client.get_multiplexed_async_connection().await?;
    for (own, tenant) in app.demo.tenants.iter().enumerate() {
        let names: Vec<String> = conn.keys(format!("{}:*", tenant.id)).await?;
        for name in names {
            let kind: String = redis::cmd("TYPE").arg(&name).query_async(&mut conn).await?;
            let value = match kind.as_str() {
                "string" => conn.get::<_, Option<String>>(&name).await?.unwrap_or_default(),
                "list" => conn.lrange::<_, Vec<String>>(&name, 0, -1).await?.join("\n"),
                "hash" => conn.hgetall::<_, Vec<String>>(&name).await?.join("\n"),
                // Gone meanwhile.
                "none" => continue,
                other => anyhow::bail!("{name} is a {other}: how is that read?"),
            };
            tally.note(|report| report.values += 1);
            tally.search(marks, own, "a value in Redis", &format!("{name} {value}"));
        }
    }
    Ok(())
}

/// Every row of each company's in every table that has companies.
pub(super) async fn rows(owner: &Client, demo: &Demo, marks: &Marks, tally: &Tally) -> Result<()> {
    let tables = "select c.relname::text from pg_class c join pg_attribute a on a.attrelid = c.oid
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attname = 'tenant_id'";
    for table in owner.query(tables, &[]).await? {
        let table: String = table.get(0);
        for (own, tenant) in demo.tenants.iter().enumerate() {
            let all = format!("select x::text from {table} x where tenant_id = $1");
            for row in owner.query(&all, &[&tenant.id]).await.with_context(|| format!("reading {table}"))? {
                tally.note(|report| report.rows += 1);
                tally.search(marks, own, &format!("a row of {table}"), row.get(0));
            }
        }
    }
    Ok(())
}

//! Lists and pages of history over REST, against `pgbench` with the same SELECT; and whether they stay as fast as they grow.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::Instant};

use super::{HOURS, Stack, line, machine, rate, tell};
use crate::{clients::http, demo::Size, product::Product, series::Series};

/// Who asks at the same time.
const CONNECTIONS: usize = 16;

/// The page of history as `core/src/store/messages.rs` reads it, without the check who asks.
const PAGE: &str = r"
begin;
set local app.current_tenant = 'TENANT';
select m.id, m.seq, m.role, m.content, m.created_at, m.reply_to, m.author_id, t.state, t.code, m.rating, m.rating_comment, m.rated_at
  from web_conversation_messages m
  left join turns t on t.id = m.id and t.tenant_id = app_tenant() and m.role = 'user'
  where m.conversation_id = 'CONVERSATION'::uuid and m.tenant_id = app_tenant() and m.seq < 9223372036854775807
  order by m.seq desc limit 50;
commit;
";

/// Messages of a conversation, in one statement: who speaks alternates.
const MESSAGES: &str = "
    insert into web_conversation_messages (id, conversation_id, tenant_id, seq, epoch, role, content)
    select gen_random_uuid(), c.id, c.tenant_id, n, 0, case n % 2 when 1 then 'user' else 'assistant' end,
           'How are you today? I have a question.'
    from web_conversations c, generate_series(1, $2::bigint) n where c.id = $1::text::uuid";

/// Lists of each length, and pages of histories of each.
///
/// # Errors
/// What cannot be started.
pub async fn run(histories: &[i64], lists: &[usize], seconds: u64) -> Result<Value> {
    let length = Duration::from_secs(seconds);
    let people = histories.len() + lists.len();
    let agents = lists.iter().copied().max().unwrap_or(1);
    let stack = Stack::start(Size { tenants: 1, users: people, agents }).await?;
    let mut product = Product::start(&stack.setting, TcpListener::bind(("127.0.0.1", 0)).await?).await?;
    product.answers().await?;
    line(&format!("\nREST, {CONNECTIONS} connections, {seconds} s each; times in ms"));
    line(&format!("{:>26} {:>11} {:>12} {:>9} {:>8} {:>8}", "", "requests/s", "pgbench/s", "of it", "p50", "p99"));
    let mut report = Vec::new();
    tell("REST: an answer that needs no database");
    let healthz = format!("{}{}/healthz", product.rest(), conversations::BASE);
    report.push(one("HTTP alone", &healthz, "", None, length).await?);
    let users: Vec<_> = stack.demo.users.iter().filter(|user| user.tenant.is_some()).collect();
    let tenant = stack.demo.tenants.first().context("a tenant")?.id;
    let (readers, listers) = users.split_at(histories.len());
    for (user, &messages) in readers.iter().zip(histories) {
        tell(&format!("REST: a page of {messages} messages"));
        let open = "insert into web_conversations (id, tenant_id, agent_id, user_id, last_seq)
                    select gen_random_uuid(), tenant_id, id, $1::text::uuid, $2 from agents limit 1 returning id::text";
        let id: String = stack.owner.query_one(open, &[&user.id.to_string(), &messages]).await?.get(0);
        stack.owner.execute(MESSAGES, &[&id, &messages]).await?;
        stack.owner.batch_execute("analyze").await?;
        let limit = machine::pgbench(&stack, &PAGE.replace("CONVERSATION", &id), CONNECTIONS, length).await?;
        let token = stack.mint.token(user.id, user.role, user.tenant, HOURS);
        let url = format!("{}{}/conversations/{id}/messages?limit=50", product.rest(), conversations::BASE);
        report.push(one(&format!("page of {messages}"), &url, &token, Some(limit), length).await?);
    }
    for (user, &count) in listers.iter().zip(lists) {
        tell(&format!("REST: a list of {count} conversations"));
        let open = "insert into web_conversations (id, tenant_id, agent_id, user_id)
                    select gen_random_uuid(), tenant_id, id, $1::text::uuid from agents limit $2";
        let opened = stack.owner.execute(open, &[&user.id.to_string(), &i64::try_from(count)?]).await?;
        ensure!(opened == count as u64, "as many as wanted");
        stack.owner.batch_execute("analyze").await?;
        let token = stack.mint.token(user.id, user.role, user.tenant, HOURS);
        let url = format!("{}{}/conversations?tenant_id={tenant}&limit=50", product.rest(), conversations::BASE);
        report.push(one(&format!("list of {count}"), &url, &token, None, length).await?);
    }
    product.stop().await?;
    stack.stop().await?;
    Ok(json!(report))
}

async fn one(what: &str, url: &str, token: &str, limit: Option<f64>, length: Duration) -> Result<Value> {
    let begun = Instant::now();
    let asking = (0..CONNECTIONS).map(|_| async {
        let client = http();
        let mut series = Series::default();
        while begun.elapsed() < length {
            let since = Instant::now();
            let answer = client.get(url).bearer_auth(token).send().await?;
            let (status, body) = (answer.status(), answer.bytes().await?);
            ensure!(status == 200, "{url} answers {status}: {}", String::from_utf8_lossy(&body));
            series.add(since);
        }
        anyhow::Ok(series)
    });
    let mut all = Series(try_join_all(asking).await?.into_iter().flat_map(|series| series.0).collect());
    let rate = rate(all.0.len() as u64, begun.elapsed());
    let (p50, p99) = (all.quantile(0.5), all.quantile(0.99));
    let (shown, of) =
        limit.map_or_else(Default::default, |limit| (format!("{limit:.0}"), format!("{:.2}", rate / limit)));
    line(&format!("{what:>26} {rate:>11.0} {shown:>12} {of:>9} {p50:>8.2} {p99:>8.2}"));
    Ok(json!({
        "what": what, "requests_per_second": rate, "pgbench_per_second": limit,
        "of_pgbench": limit.map(|limit| rate / limit), "p50_ms": p50, "p99_ms": p99,
    }))
}

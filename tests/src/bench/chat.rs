//! Chats through real sockets, against what the machine can do.
//!
//! Three measures of one run: `pgbench` with the plain pair of INSERTs; accept, claim and finish called directly, one
//! after the other as a chat needs them; and whole chats with the echo model, client included.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use chat_core::{
    config::{Memory, Secret, Times},
    ids::{ConversationId, MessageId},
    store::{Store, turns::Completion},
    text::Text,
    timestamp::Timestamp,
    token::Identity,
};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep_until},
};

use super::{HOURS, Stack, line, machine, program, rate, tell};
use crate::{
    cache,
    clients::{Rest, Socket, http},
    demo::{Agent, Size, User},
    hub_process::{HubProcess, environment},
    product::{Product, QueueKind},
    pump::create_queue,
    series::Series,
};

/// What opens the hubs' figures.
const METRICS_TOKEN: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// What everybody says.
const SAID: &str = "How are you today? I have a question.";

/// Connections of `pgbench`: as many as callers, up to here, where more only cost.
const CONNECTIONS: usize = 64;

/// What one caller, or all of them together, measured.
#[derive(Default)]
struct Figures {
    typing: Series,
    accepted: Series,
    response: Series,
}

/// One caller: a person with an agent.
struct Caller<'a> {
    user: &'a User,
    agent: &'a Agent,
    token: String,
}

/// Closed loop at each number of sockets; then an open loop at shares of the best of them. The hub and the orchestrator
/// have `pool` connections each; `hubs` are processes of their own that hear of everything through SQS and Redis, none is
/// the one in this process.
///
/// # Errors
/// What cannot be started.
pub async fn run(counts: &[usize], shares: &[u32], hubs: usize, pool: usize, seconds: u64) -> Result<Value> {
    let most = counts.iter().copied().max().unwrap_or(1);
    let mut stack = Stack::start(Size { tenants: 4, users: most.div_ceil(4), agents: 1 }).await?;
    stack.setting.pool_size = pool;
    stack.setting.metrics.token = Some(Secret::from(METRICS_TOKEN.to_owned()));
    if hubs > 0 {
        let endpoint = stack.services.start_sqs(&cache(), &|step| tell(step)).await?.endpoint();
        stack.setting.queue = QueueKind::Sqs(create_queue(&endpoint, "bench").await?);
    }
    let queue = if hubs > 0 { "an SQS-compatible server" } else { "in-process" };
    let mut product = Product::start(&stack.setting, TcpListener::bind(("127.0.0.1", 0)).await?).await?;
    product.answers().await?;
    let mut house = House { product: &product, hubs: Vec::new() };
    for _ in 0..hubs {
        let mut env = environment(&stack.setting)?;
        env.push(("METRICS_TOKEN", METRICS_TOKEN.to_owned()));
        house.hubs.push(HubProcess::start(&program("hub")?, &env).await?);
    }
    let callers = callers(&stack)?;
    let length = Duration::from_secs(seconds);
    line(&format!(
        "\nchat, closed loop: {} hubs, queue {queue}, {pool} connections for each and for the orchestrator; {seconds} s each; times in ms, p50/p99",
        hubs.max(1)
    ));
    line(&format!(
        "{:>7} | {:>9} | {:>10} {:>13} | {:>8} {:>8} {:>8} | {:>13} {:>13} {:>13}",
        "sockets", "pgbench", "store", "its chat", "chats/s", "of pair", "of store", "typing", "accepted", "response"
    ));
    let mut report = Vec::new();
    let mut peak: f64 = 0.0;
    for &sockets in counts {
        let callers = &callers[..sockets];
        tell(&format!("chat: {sockets} sockets; pgbench"));
        let pair = machine::pgbench(&stack, machine::PAIR, sockets.min(CONNECTIONS), length).await?;
        tell(&format!("chat: {sockets} sockets; the store alone"));
        let (mut alone, alone_rate) = store_alone(&stack, &product, callers, length).await?;
        tell(&format!("chat: {sockets} sockets; chats"));
        let (mut figures, rate) = closed(&house, callers, length).await?;
        peak = peak.max(rate);
        line(&format!(
            "{sockets:>7} | {pair:>9.0} | {alone_rate:>10.0} {:>13} | {rate:>8.0} {:>8.2} {:>8.2} | {:>13} {:>13} {:>13}",
            alone.pair(),
            rate / pair,
            rate / alone_rate,
            figures.typing.pair(),
            figures.accepted.pair(),
            figures.response.pair(),
        ));
        report.push(json!({
            "sockets": sockets,
            "pgbench_pairs_per_second": pair,
            "store": {"chats_per_second": alone_rate, "chat_ms": alone.json()},
            "chats_per_second": rate, "of_pair": rate / pair, "of_store": rate / alone_rate,
            "typing_ms": figures.typing.json(), "accepted_ms": figures.accepted.json(),
            "response_ms": figures.response.json(),
        }));
    }
    let open = open(&house, &callers, peak, shares, length).await?;
    drop(house);
    product.stop().await?;
    stack.stop().await?;
    Ok(json!({"hubs": hubs.max(1), "queue": queue, "pool": pool, "closed": report, "open": open}))
}

/// Everybody but the platform_admin, with the agent of their company.
fn callers(stack: &Stack) -> Result<Vec<Caller<'_>>> {
    let people = stack.demo.users.iter().filter(|user| user.tenant.is_some());
    people
        .map(|user| {
            let agent = stack.demo.agents.iter().find(|agent| Some(agent.tenant) == user.tenant);
            let token = stack.mint.token(user.id, user.role, user.tenant, HOURS);
            Ok(Caller { user, agent: agent.context("each company has an agent")?, token })
        })
        .collect()
}

/// Accept, claim, finish, without sockets, bus and queue: the time of all three, and how many a second.
async fn store_alone(
    stack: &Stack,
    product: &Product,
    callers: &[Caller<'_>],
    length: Duration,
) -> Result<(Series, f64)> {
    let store = Store::connect(&stack.database()).await?;
    let (begun, times) = (Instant::now(), Times::default());
    let mut runs = Vec::new();
    for caller in callers {
        let rest = Rest::new(&product.rest(), Some(&caller.token));
        let tenant = caller.agent.tenant;
        let conversation: ConversationId = rest.open(tenant, caller.agent.id).await?.parse()?;
        let (user_id, role_hint) = (caller.user.id, Some(caller.user.role));
        let who = Identity { user_id, expires_at: Timestamp::now(), role_hint, tenant_hint: None };
        let text = Text::parse(SAID.to_owned(), 100)?;
        let store = store.clone();
        runs.push(tokio::spawn(async move {
            let mut series = Series::default();
            while begun.elapsed() < length {
                let since = Instant::now();
                store.accept(&who, conversation, &text, None, 100).await?;
                let claim = store
                    .claim(tenant, conversation, &times, &Memory::default())
                    .await?
                    .context("nobody else claims")?;
                store.finish(&claim, MessageId::new(), SAID, Completion::Whole).await?;
                series.add(since);
            }
            anyhow::Ok(series)
        }));
    }
    let mut all = Vec::new();
    for series in try_join_all(runs).await? {
        all.extend(series?.0);
    }
    let rate = rate(all.len() as u64, begun.elapsed());
    Ok((Series(all), rate))
}

/// A product, and the hubs beside it that people come to instead of its own.
struct House<'a> {
    product: &'a Product,
    hubs: Vec<HubProcess>,
}

/// For each step of times, by its end in seconds, how many messages had their `typing` written within it, so long after
/// their frame was read.
type Typed = BTreeMap<String, f64>;

impl House<'_> {
    /// What its hubs say of that, together.
    async fn typed(&self) -> Result<Typed> {
        let mut typed = Typed::new();
        let own = [self.product.ws()];
        let hubs = if self.hubs.is_empty() { own.to_vec() } else { self.hubs.iter().map(HubProcess::ws).collect() };
        for hub in hubs {
            let host = hub.trim_start_matches("ws://").split('/').next().unwrap_or_default();
            let answer = http().get(format!("http://{host}/metrics")).bearer_auth(METRICS_TOKEN).send().await?;
            for line in answer.error_for_status()?.text().await?.lines() {
                let of = "chat_message_stage_seconds_bucket{le=\"";
                let Some((end, rest)) = line.strip_prefix(of).and_then(|line| line.split_once('"')) else { continue };
                let Some(count) = rest.strip_prefix(",stage=\"typing\"} ") else { continue };
                *typed.entry(end.to_owned()).or_default() += count.parse::<f64>()?;
            }
        }
        ensure!(!typed.is_empty(), "the hub tells how long `typing` takes");
        Ok(typed)
    }
}

/// The share of messages between two looks whose `typing` was written within a millisecond.
fn within_a_millisecond(before: &Typed, after: &Typed) -> f64 {
    let between = |end: &str| after.get(end).unwrap_or(&f64::NAN) - before.get(end).unwrap_or(&0.0);
    between("0.001") / between("+Inf")
}

/// Everybody comes in, to one hub after the other.
async fn sockets(house: &House<'_>, callers: &[Caller<'_>]) -> Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for (number, caller) in callers.iter().enumerate() {
        let rest = Rest::new(&house.product.rest(), Some(&caller.token));
        let conversation = rest.open(caller.agent.tenant, caller.agent.id).await?;
        let ws = match house.hubs.len() {
            0 => house.product.ws(),
            hubs => house.hubs[number % hubs].ws(),
        };
        sockets.push(Socket::join(&ws, &conversation, &caller.token).await?.0.trusting());
    }
    Ok(sockets)
}

/// One chat: a message, its `typing`, `accepted` and `response`, each after `since`.
async fn chat(socket: &mut Socket, since: Instant, figures: &mut Figures) -> Result<()> {
    socket.message(SAID, None).await?;
    socket.expect("typing").await?;
    figures.typing.add(since);
    socket.expect("accepted").await?;
    figures.accepted.add(since);
    socket.expect("response").await?;
    figures.response.add(since);
    Ok(())
}

/// Each socket chats as fast as it is answered.
async fn closed(house: &House<'_>, callers: &[Caller<'_>], length: Duration) -> Result<(Figures, f64)> {
    let sockets = sockets(house, callers).await?;
    let begun = Instant::now();
    let runs = sockets.into_iter().map(|mut socket| {
        tokio::spawn(async move {
            let mut figures = Figures::default();
            while begun.elapsed() < length {
                chat(&mut socket, Instant::now(), &mut figures).await?;
            }
            anyhow::Ok(figures)
        })
    });
    let all = gather(try_join_all(runs).await?)?;
    let rate = rate(all.response.0.len() as u64, begun.elapsed());
    Ok((all, rate))
}

/// Each chat begins at its time, whether those before have ended or not; so a slow moment is felt by all that fall into it.
async fn open(
    house: &House<'_>,
    callers: &[Caller<'_>],
    peak: f64,
    shares: &[u32],
    length: Duration,
) -> Result<Vec<Value>> {
    if shares.is_empty() {
        return Ok(Vec::new());
    }
    line(&format!(
        "\nchat, open loop: {} sockets, shares of {peak:.0} chats/s; from the time a chat was to begin, in ms, p50/p99/p99.9; and the share of `typing` written within 1 ms of reading the frame",
        callers.len()
    ));
    line(&format!(
        "{:>7} {:>9} {:>9} {:>24} {:>8} {:>24} {:>24}",
        "share", "wanted/s", "chats/s", "typing", "in 1 ms", "accepted", "response"
    ));
    let mut sockets = sockets(house, callers).await?;
    let mut report = Vec::new();
    for &share in shares {
        let wanted = peak * f64::from(share) / 100.0;
        tell(&format!("chat: {share} % of the peak"));
        let before = house.typed().await?;
        let begun = Instant::now();
        #[expect(clippy::cast_precision_loss, reason = "a time")]
        let pace = Duration::from_secs_f64(sockets.len() as f64 / wanted);
        let count = u32::try_from(sockets.len())?;
        let figures = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut runs = Vec::new();
        for (number, mut socket) in (0_u32..).zip(sockets.drain(..)) {
            let figures = Arc::clone(&figures);
            runs.push(tokio::spawn(async move {
                let mut own = Figures::default();
                let mut due = begun + pace * number / count;
                while due < begun + length {
                    sleep_until(due).await;
                    chat(&mut socket, due, &mut own).await?;
                    due += pace;
                }
                figures.lock().expect("nobody panics").push(Ok(own));
                anyhow::Ok(socket)
            }));
        }
        for socket in try_join_all(runs).await? {
            sockets.push(socket?);
        }
        let rate_now = begun.elapsed();
        let in_time = within_a_millisecond(&before, &house.typed().await?);
        let mut all = gather(std::mem::take(&mut *figures.lock().expect("nobody panics")))?;
        let reached = rate(all.response.0.len() as u64, rate_now);
        let three = |series: &mut Series| {
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| series.quantile(share));
            (format!("{p50:.2}/{p99:.2}/{p999:.2}"), json!({"p50": p50, "p99": p99, "p999": p999}))
        };
        let (typing, accepted, response) = (three(&mut all.typing), three(&mut all.accepted), three(&mut all.response));
        line(&format!(
            "{share:>5} % {wanted:>9.0} {reached:>9.0} {:>24} {:>6.2} % {:>24} {:>24}",
            typing.0,
            in_time * 100.0,
            accepted.0,
            response.0
        ));
        report.push(json!({
            "share_percent": share, "wanted_per_second": wanted, "chats_per_second": reached,
            "typing_ms": typing.1, "accepted_ms": accepted.1, "response_ms": response.1,
            "typing_within_1_ms_of_the_frame": in_time,
        }));
    }
    Ok(report)
}

fn gather(runs: Vec<Result<Figures>>) -> Result<Figures> {
    let mut all = Figures::default();
    for figures in runs {
        let figures = figures?;
        all.typing.0.extend(figures.typing.0);
        all.accepted.0.extend(figures.accepted.0);
        all.response.0.extend(figures.response.0);
    }
    Ok(all)
}

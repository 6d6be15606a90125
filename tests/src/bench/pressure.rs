//! What others notice when somebody does not read, wants more than their share, or when all want more than there is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use chat_core::{
    config::Limits,
    event::ServerFrame,
    ids::{TenantId, TurnId},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    process::Command,
    task::JoinSet,
    time::{Instant, interval, sleep_until},
};

use super::{
    HOURS, Stack,
    crowd::{Crowd, Heard, Order, Standing},
    idle::join,
    line, pass, rate,
    relay::{publish, tool, topics},
    tell,
};
use crate::{
    clients::{Rest, Socket, http},
    demo::{Size, User},
    product::Product,
    series::Series,
};

/// All three.
///
/// # Errors
/// What cannot be started.
pub async fn run(seconds: u64) -> Result<Value> {
    let length = Duration::from_secs(seconds);
    Ok(json!({
        "slow_readers": slow(length).await?, "greedy": greedy(length).await?, "overload": overload(length).await?,
    }))
}

/// Sockets whose times are measured, and what they hear a second together.
const READERS: usize = 1_000;
const TO_READERS: u64 = 5_000;

/// Sockets that stop reading, and what is published for each a second, in frames of so many bytes.
const SLOW: usize = 20;
const TO_EACH_SLOW: u64 = 50;
const BYTES: usize = 16 * 1024;

/// The same load twice: all of them read; then the process of some is halted, and they do not.
async fn slow(length: Duration) -> Result<Value> {
    let stack = Stack::start(Size { tenants: 10, users: 3 * READERS / 100, agents: 10 }).await?;
    let hub = stack.hub().await?;
    let entrants = stack.entrants(READERS + SLOW).await?;
    let (reading, idling) = entrants.split_at(READERS);
    let program = std::env::current_exe()?;
    let (mut readers, mut sleepers) = (Crowd::start(&program)?, Crowd::start(&program)?);
    let () = readers.order(&join(&hub.ws(), reading.to_vec(), 64)).await?;
    let () = sleepers.order(&join(&hub.ws(), idling.to_vec(), 64)).await?;
    let (fast, slow) = (topics(&stack, reading).await?, topics(&stack, idling).await?);
    line(&format!(
        "\nslow readers: {TO_READERS} deliveries a second to {READERS} sockets; {SLOW} others are sent {} MB a second",
        TO_EACH_SLOW * (SLOW * BYTES) as u64 / 1_000_000
    ));
    let mut figures = Vec::new();
    for (what, halted) in [("all read", false), ("those do not read", true)] {
        tell(&format!("pressure: {what}"));
        if halted {
            signal(sleepers.pid().context("it runs")?, "STOP").await?;
        }
        let _: Heard = readers.order(&Order::Heard).await?;
        tokio::try_join!(
            publish(&stack, &fast, TO_READERS, length, tool),
            publish(&stack, &slow, TO_EACH_SLOW * SLOW as u64, length, large),
        )?;
        let heard: Heard = readers.order(&Order::Heard).await?;
        line(&format!("{what:>20}: p50 {:.2} ms, p99 {:.2} ms", ms(heard.p50_us), ms(heard.p99_us)));
        figures.push(heard);
    }
    signal(sleepers.pid().context("it runs")?, "CONT").await?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut standing: Standing = sleepers.standing().await?;
    while standing.ready < SLOW {
        ensure!(Instant::now() < deadline, "those who did not read do not come back: {standing:?}");
        pass(Duration::from_millis(100)).await;
        standing = sleepers.standing().await?;
    }
    let (apart, cut) = (ms(figures[1].p99_us) / ms(figures[0].p99_us), standing.entered - SLOW as u64);
    line(&format!(
        "{:>20}: p99 {apart:.2} of what it was; of those who did not read {cut} were cut, and all are there",
        "others"
    ));
    readers.leave().await?;
    sleepers.leave().await?;
    drop(hub);
    stack.stop().await?;
    Ok(json!({
        "p99_ms_all_read": ms(figures[0].p99_us), "p99_ms_some_do_not": ms(figures[1].p99_us), "ratio": apart, "cut": cut,
    }))
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}

fn large() -> String {
    ServerFrame::Delta { turn_id: TurnId::new(), attempt: 1, offset: 0, text: "x".repeat(BYTES) }.json()
}

async fn signal(process: u32, name: &str) -> Result<()> {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status().await?;
    ensure!(sent.success(), "no {name} for {process}");
    Ok(())
}

/// People of each company, and how often each of the modest ones says something.
const PEOPLE: usize = 20;
const PAUSE: Duration = Duration::from_millis(2_500);

/// What a burst of the other company takes to be answered.
const BURST: Duration = Duration::from_secs(3);

/// How much more those of the other company send.
const GREED: u32 = 50;

/// Two companies of the same size, with the limits as they are by default. The one chats; then the other sends fifty times
/// as much beside it, whatever it is answered.
async fn greedy(length: Duration) -> Result<Value> {
    let stack = {
        let mut stack = Stack::start(Size { tenants: 2, users: PEOPLE, agents: 1 }).await?;
        stack.setting.limits = Limits { address_unauthenticated: 1_000, ..Limits::default() };
        stack
    };
    let mut product = Product::start(&stack.setting, TcpListener::bind(("127.0.0.1", 0)).await?).await?;
    product.answers().await?;
    let [modest, greedy] = [0, 1].map(|place: usize| stack.demo.tenants.get(place).map(|tenant| tenant.id));
    line(&format!(
        "\ngreed: {PEOPLE} people chat every {:.1} s; beside them as many of another company send {GREED} times as much",
        PAUSE.as_secs_f64()
    ));
    let mut alone = chatting(&stack, &product, modest, length).await?;
    let (sent, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut flood = JoinSet::new();
    for mut socket in sockets(&stack, &product, greedy).await? {
        let (sent, refused) = (Arc::clone(&sent), Arc::clone(&refused));
        flood.spawn(async move {
            let mut beat = interval(PAUSE / GREED);
            loop {
                tokio::select! {
                    _ = beat.tick() => {
                        socket.message("More, and now.", None).await?;
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    frame = socket.next() => {
                        refused.fetch_add(u64::from(frame?["type"] == "error"), Ordering::Relaxed);
                    }
                }
            }
            #[expect(unreachable_code, reason = "names the error")]
            anyhow::Ok(())
        });
    }
    // What everybody may say at once has been said; from here on it is what they may say in the long run.
    pass(BURST).await;
    let mut beside = chatting(&stack, &product, modest, length).await?;
    flood.shutdown().await;
    let (sent, refused) = (sent.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    let [before, with] = [&mut alone, &mut beside].map(|series| series.quantile(0.95));
    line(&format!("{:>20}: response p95 {before:.2} ms", "alone"));
    line(&format!(
        "{:>20}: response p95 {with:.2} ms, {:.2} of it; {sent} sent there, {refused} refused",
        "beside the other",
        with / before
    ));
    product.stop().await?;
    stack.stop().await?;
    Ok(json!({"p95_ms_alone": before, "p95_ms_beside": with, "ratio": with / before, "sent": sent, "refused": refused}))
}

/// A socket of each person of a company.
async fn sockets(stack: &Stack, product: &Product, tenant: Option<TenantId>) -> Result<Vec<Socket>> {
    let agent = stack.demo.agents.iter().find(|agent| Some(agent.tenant) == tenant).context("an agent")?;
    let mut sockets = Vec::new();
    for user in stack.demo.users.iter().filter(|user| user.tenant == tenant) {
        let conversation = Rest::new(&product.rest(), Some(&token(stack, user))).open(agent.tenant, agent.id).await?;
        sockets.push(Socket::join(&product.ws(), &conversation, &token(stack, user)).await?.0.trusting());
    }
    Ok(sockets)
}

fn token(stack: &Stack, user: &User) -> String {
    stack.mint.token(user.id, user.role, user.tenant, HOURS)
}

/// Everybody says something at their times; how long the replies take.
async fn chatting(stack: &Stack, product: &Product, tenant: Option<TenantId>, length: Duration) -> Result<Series> {
    let begun = Instant::now();
    let mut people = JoinSet::new();
    for (number, mut socket) in (0_u32..).zip(sockets(stack, product, tenant).await?) {
        people.spawn(async move {
            let mut series = Series::default();
            let mut due = begun + PAUSE * number / u32::try_from(PEOPLE)?;
            while due < begun + length {
                sleep_until(due).await;
                socket.message("How are you?", None).await?;
                socket.until("response").await?;
                series.add(due);
                due += PAUSE;
            }
            anyhow::Ok(series)
        });
    }
    let mut all = Series::default();
    while let Some(series) = people.join_next().await {
        all.0.extend(series??.0);
    }
    Ok(all)
}

/// Who asks at once, first a few and then far more than one connection to Postgres serves in a second.
const CALLERS: [usize; 2] = [500, 4_000];

/// Pages of history through one connection to Postgres. Who is refused comes again when they were told to.
async fn overload(length: Duration) -> Result<Value> {
    let mut stack = Stack::start(Size { tenants: 1, users: 1, agents: 1 }).await?;
    stack.setting.pool_size = 1;
    let mut product = Product::start(&stack.setting, TcpListener::bind(("127.0.0.1", 0)).await?).await?;
    product.answers().await?;
    let (conversation, token) = stack.entrants(1).await?.remove(0);
    let url = format!("{}{}/conversations/{conversation}/messages", product.rest(), conversations::BASE);
    line("\noverload: pages of history through one connection to Postgres; times in ms, p50/p99");
    line(&format!("{:>8} {:>10} {:>16} {:>11} {:>16}", "callers", "served/s", "after", "refused/s", "after"));
    let mut report = Vec::new();
    let client = http();
    for callers in CALLERS {
        tell(&format!("pressure: {callers} callers"));
        let begun = Instant::now();
        let mut asking = JoinSet::new();
        for _ in 0..callers {
            let (client, url, token) = (client.clone(), url.clone(), token.clone());
            asking.spawn(async move {
                let (mut served, mut refused) = (Series::default(), Series::default());
                while begun.elapsed() < length {
                    let since = Instant::now();
                    let answer = client.get(&url).bearer_auth(&token).send().await?;
                    if answer.status() == 503 {
                        refused.add(since);
                        let wait = answer.headers().get("retry-after").context("when to come again")?.to_str()?;
                        sleep_until(Instant::now() + Duration::from_secs(wait.parse()?)).await;
                    } else {
                        answer.error_for_status()?.bytes().await?;
                        served.add(since);
                    }
                }
                anyhow::Ok((served, refused))
            });
        }
        let (mut served, mut refused) = (Series::default(), Series::default());
        while let Some(one) = asking.join_next().await {
            let (one_served, one_refused) = one??;
            served.0.extend(one_served.0);
            refused.0.extend(one_refused.0);
        }
        let [a_second, refused_a_second] =
            [&served, &refused].map(|series| rate(series.0.len() as u64, begun.elapsed()));
        line(&format!(
            "{callers:>8} {a_second:>10.0} {:>16} {refused_a_second:>11.0} {:>16}",
            served.pair(),
            refused.pair()
        ));
        report.push(json!({
            "callers": callers, "served_per_second": a_second, "served_ms": served.json(),
            "refused_per_second": refused_a_second, "refused_ms": refused.json(),
        }));
    }
    product.stop().await?;
    stack.stop().await?;
    Ok(json!(report))
}

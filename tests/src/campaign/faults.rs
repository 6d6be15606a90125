//! The faults of a campaign: each is put in, held for a while, and healed.
//!
//! The names F1 to F30 are those of the fault matrix that ARCHITECTURE.md lists. Processes are killed at named points:
//! the proxies see what goes over their links, so the binaries are those that are deployed.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::{Context, Result, ensure};
use chat_core::{ids::TurnId, job::Job};
use futures::future::{try_join, try_join_all};
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use tokio::time::{Instant, sleep, timeout};

use super::{
    ledger::MARK,
    rest::Rest,
    script::{BAD, REPLY, Weather},
    stack::{HUBS, Stack},
};
use crate::{
    app::{self, until},
    product::sqs_client,
    signal,
    wire::{Moment, Wire},
};

/// Of a hundred deliveries, how many go wrong in each way at all times; and while that is the fault.
pub const USUAL_MISCHIEF: u32 = 4;
const MUCH_MISCHIEF: u32 = 50;

/// Longest wait for somebody to walk into a trap.
const TRAP_PATIENCE: Duration = Duration::from_secs(4);

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $matrix:literal;)*) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// Its name on the command line and in the report.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),* }
            }

            /// Its place in the fault matrix.
            #[must_use]
            pub fn matrix(self) -> &'static str {
                match self { $(Self::$kind => $matrix),* }
            }
        }
    };
}

kinds! {
    /// kill -9 of a hub, whatever it is doing.
    HubKilled = "hub-killed", "F2 F19";
    /// kill -9 of a hub when its transaction has not reached Postgres.
    HubKilledBeforeCommit = "hub-killed-before-commit", "F2";
    /// kill -9 of a hub after the commit, before it knows of it: no hint, no `accepted`.
    HubKilledAfterCommit = "hub-killed-after-commit", "F1";
    /// kill -9 of a hub after the queue took a hint.
    HubKilledAfterHint = "hub-killed-after-hint", "F3";
    /// The connection breaks after the commit was sent.
    CommitUnknown = "commit-unknown", "F15";
    /// SIGTERM, one hub after the other.
    HubsRolled = "hubs-rolled", "F22";
    /// kill -9 of an orchestrator with a claim, before the model is asked.
    WorkerKilledAtModel = "worker-killed-at-model", "F4";
    /// kill -9 of an orchestrator with an answer, before it is stored.
    WorkerKilledBeforeReply = "worker-killed-before-reply", "F4";
    /// kill -9 of an orchestrator after the reply is stored, before anybody is told.
    WorkerKilledAfterReply = "worker-killed-after-reply", "F4";
    /// kill -9 of an orchestrator after the news went out, before the next turn's hint.
    WorkerKilledAfterNews = "worker-killed-after-news", "F4";
    /// SIGSTOP of a busy orchestrator for longer than its lease.
    WorkerStopped = "worker-stopped", "F5";
    /// SIGSTOP of an idle one, as Lambda freezes it; its connections die meanwhile.
    WorkerFrozen = "worker-frozen", "F23";
    /// Every connection of a busy orchestrator breaks.
    WorkerCutOff = "worker-cut-off", "F4 F14";
    /// kill -9 of the REST function.
    RestKilled = "rest-killed", "F2";
    /// kill -9 of Redis; another takes its place, empty.
    RedisKilled = "redis-killed", "F11";
    /// Redis says nothing, and nobody closes a connection.
    RedisSilent = "redis-silent", "F12";
    /// CLIENT KILL TYPE pubsub.
    RedisSubscribersCut = "redis-subscribers-cut", "F12";
    /// FLUSHALL.
    RedisFlushed = "redis-flushed", "F11";
    /// kill -9 of a backend: Postgres drops everybody and recovers from its log.
    PostgresCrashed = "postgres-crashed", "F14";
    /// Every backend of ours is terminated.
    PostgresCut = "postgres-cut", "F14";
    /// Postgres says nothing, and nobody closes a connection.
    PostgresSilent = "postgres-silent", "F16";
    /// Somebody sits on a lock of the turns.
    PostgresLocked = "postgres-locked", "F16";
    /// The queue can be reached by nobody.
    QueueAway = "queue-away", "F17";
    /// Half of all deliveries come twice, late, in another order.
    DeliveriesWrong = "deliveries-wrong", "F6 F7";
    /// Hints that are no JSON, of no turn, of another company's turn.
    Poison = "poison", "F8 F10";
    /// A provider that is slow, busy, broken, silent, cut or garbled.
    ModelWeather = "model-weather", "F18";
    /// Every client's connection breaks.
    ClientsDropped = "clients-dropped", "F19 F20";
    /// Every client comes back while the hubs cannot listen to Redis, and while answers are stored.
    ClientsReturnWhileDeaf = "clients-return-while-deaf", "F13 F19";
    /// A few conversations are reset again and again while people talk in them.
    ResetStorm = "reset-storm", "F19";
    /// Somebody sits on a message of conversations that are reset, while people go on talking in them.
    ResetBlocked = "reset-blocked", "F16 F19";
    /// Conversations are reset in the middle.
    Reset = "reset", "F19";
    /// Redis killed, a hub killed and deliveries wrong, all at once.
    Together = "together", "F30";
}

/// Puts one in, holds it and heals it. Returns whether it hit anybody.
///
/// # Errors
/// If it could not be put in or healed, or if the product did what it never may.
pub async fn inject(kind: Kind, stack: &mut Stack, rests: &[Rest], random: &mut StdRng) -> Result<bool> {
    let some_time = Duration::from_millis(random.random_range(100..1_500));
    let hub = random.random_range(0..HUBS);
    let long = random.random_bool(0.2);
    match kind {
        Kind::HubKilled => {
            stack.hubs[hub].kill().await?;
            pause(some_time).await;
            stack.hubs[hub].come_up().await?;
        }
        Kind::HubKilledBeforeCommit => return hub_killed(stack, |hub| &hub.postgres, MARK, Moment::Asked).await,
        Kind::HubKilledAfterCommit => return hub_killed(stack, |hub| &hub.postgres, MARK, Moment::Answered).await,
        Kind::HubKilledAfterHint => {
            return hub_killed(stack, |hub| &hub.queue, "SendMessageBatch", Moment::Answered).await;
        }
        Kind::CommitUnknown => {
            let wires: Vec<&Wire> = stack.hubs.iter().map(|hub| &hub.links.postgres).collect();
            let Some(hit) = sprung(&wires, MARK, Moment::Answered).await else { return Ok(false) };
            // The commit is on its way; only its answer shall be lost.
            pause(Duration::from_millis(100)).await;
            wires[hit].sever();
        }
        Kind::HubsRolled => {
            for hub in &stack.hubs {
                let code = hub.terminate().await?;
                ensure!(code == Some(0), "a hub ended with {code:?} after SIGTERM");
                hub.come_up().await?;
            }
        }
        Kind::WorkerKilledAtModel => return worker_killed(stack, |links| &links.model, "POST", Moment::Asked).await,
        Kind::WorkerKilledBeforeReply => {
            return worker_killed(stack, |links| &links.postgres, REPLY, Moment::Asked).await;
        }
        Kind::WorkerKilledAfterReply => {
            return worker_killed(stack, |links| &links.postgres, REPLY, Moment::Answered).await;
        }
        Kind::WorkerKilledAfterNews => {
            return worker_killed(stack, |links| &links.redis, REPLY, Moment::Answered).await;
        }
        Kind::WorkerStopped => {
            stack.script.weather(Weather::Treacherous);
            let pid = busy(stack).await.map(|number| stack.orchestrators.environments()[number].lambda().pid());
            let hit = pid.is_some_and(|pid| signal(pid, "STOP").is_ok());
            if let Some(pid) = pid.filter(|_| hit) {
                pause(Duration::from_millis(3_000) + some_time).await;
                // Whoever waited for its answer may have given it up for dead.
                let _ = signal(pid, "CONT");
                pause(Duration::from_millis(1_000)).await;
            }
            stack.script.weather(Weather::Fair);
            return Ok(hit);
        }
        Kind::WorkerFrozen => {
            let Some(environment) = stack.orchestrators.idle() else { return Ok(false) };
            let pid = environment.lambda().pid();
            if signal(pid, "STOP").is_err() {
                return Ok(false);
            }
            environment.links.postgres.sever();
            environment.links.redis.sever();
            pause(some_time).await;
            let _ = signal(pid, "CONT");
        }
        Kind::WorkerCutOff => {
            let Some(number) = busy(stack).await else { return Ok(false) };
            let links = &stack.orchestrators.environments()[number].links;
            for wire in [&links.postgres, &links.redis, &links.model, &links.queue] {
                wire.sever();
            }
        }
        Kind::RestKilled => {
            let environment = stack.fronts.environments().choose(random).context("some run")?;
            // It may have died of another fault already.
            let _ = signal(environment.lambda().pid(), "KILL");
        }
        Kind::RedisKilled => {
            for links in stack.links() {
                links.redis.cut(true);
            }
            pause(some_time * if long { 4 } else { 1 }).await;
            stack.replace_redis().await?;
        }
        Kind::RedisSilent => {
            hold(stack, |links| &links.redis, some_time + Duration::from_secs(if long { 9 } else { 1 })).await;
        }
        Kind::RedisSubscribersCut => redis(stack, redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub")).await?,
        Kind::RedisFlushed => redis(stack, &redis::cmd("FLUSHALL")).await?,
        Kind::PostgresCrashed => {
            let looker = app::connect(&stack.services.postgres.superuser_url("chat")).await?;
            let backend = "select pid from pg_stat_activity where usename = 'chat_app' limit 1";
            let Some(row) = looker.query_opt(backend, &[]).await? else { return Ok(false) };
            signal(row.get::<_, i32>(0).unsigned_abs(), "KILL")?;
            until("Postgres to recover", || async { Ok(app::connect(&stack.owner_url).await.is_ok()) }).await?;
        }
        Kind::PostgresCut => {
            let looker = app::connect(&stack.services.postgres.superuser_url("chat")).await?;
            let cut = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'chat_app'";
            looker.execute(cut, &[]).await?;
        }
        Kind::PostgresSilent => {
            hold(stack, |links| &links.postgres, some_time + Duration::from_millis(if long { 8_500 } else { 500 }))
                .await;
        }
        Kind::PostgresLocked => {
            let owner = app::connect(&stack.owner_url).await?;
            owner.batch_execute("begin; lock table turns in exclusive mode").await?;
            pause(some_time * if long { 3 } else { 1 }).await;
            owner.batch_execute("commit").await?;
        }
        Kind::QueueAway => {
            stack.queue_links().for_each(|wire| wire.cut(true));
            pause(some_time * if long { 4 } else { 1 }).await;
            stack.queue_links().for_each(|wire| wire.cut(false));
        }
        Kind::DeliveriesWrong => {
            stack.mischief.percent.store(MUCH_MISCHIEF, Ordering::Relaxed);
            pause(some_time * 2).await;
            stack.mischief.percent.store(USUAL_MISCHIEF, Ordering::Relaxed);
        }
        Kind::Poison => poison(stack, random).await?,
        Kind::ModelWeather => {
            stack.script.weather(*BAD.choose(random).context("there is bad weather")?);
            pause(some_time).await;
            stack.script.weather(Weather::Fair);
        }
        Kind::ClientsDropped => stack.balancer.sever(),
        Kind::ClientsReturnWhileDeaf => {
            // What is asked now is answered when they are back and wait for their subscription.
            stack.script.weather(Weather::Slow);
            pause(Duration::from_millis(300)).await;
            stack.hubs.iter().for_each(|hub| hub.links.redis.hold(true));
            stack.balancer.sever();
            // Less than a socket waits for that.
            pause(Duration::from_millis(1_500)).await;
            stack.hubs.iter().for_each(|hub| hub.links.redis.hold(false));
            stack.script.weather(Weather::Fair);
        }
        Kind::ResetStorm => {
            let (rests, ends) = (rests.sample(random, 3), Instant::now() + some_time + Duration::from_secs(1));
            let storms = rests.map(|rest| async move {
                while Instant::now() < ends {
                    rest.reset().await?;
                }
                anyhow::Ok(())
            });
            try_join_all(storms).await?;
        }
        Kind::ResetBlocked => {
            let owner = app::connect(&stack.owner_url).await?;
            let rests: Vec<&Rest> = rests.sample(random, 3).collect();
            owner.batch_execute("begin").await?;
            let oldest = "select 1 from web_conversation_messages where conversation_id = $1::text::uuid
                order by seq limit 1 for update";
            for rest in &rests {
                owner.execute(oldest, &[&rest.conversation]).await?;
            }
            let released = async {
                // Less than a statement waits for a lock.
                pause(some_time + Duration::from_secs(1)).await;
                Ok(owner.batch_execute("commit").await?)
            };
            try_join(try_join_all(rests.iter().map(|rest| rest.reset())), released).await?;
        }
        Kind::Reset => {
            for rest in rests.sample(random, 3) {
                rest.reset().await?;
            }
        }
        Kind::Together => {
            stack.mischief.percent.store(MUCH_MISCHIEF, Ordering::Relaxed);
            for links in stack.links() {
                links.redis.cut(true);
            }
            stack.hubs[hub].kill().await?;
            pause(some_time).await;
            stack.replace_redis().await?;
            stack.hubs[hub].come_up().await?;
            stack.mischief.percent.store(USUAL_MISCHIEF, Ordering::Relaxed);
        }
    }
    Ok(true)
}

/// The number of the link on which somebody walks into the trap first.
async fn sprung(wires: &[&Wire], needle: &str, moment: Moment) -> Option<usize> {
    timeout(TRAP_PATIENCE, Wire::trap_any(wires, needle, moment)).await.ok()?.ok()
}

async fn hub_killed(
    stack: &Stack,
    link: impl Fn(&super::links::Links) -> &Wire,
    needle: &str,
    moment: Moment,
) -> Result<bool> {
    let wires: Vec<&Wire> = stack.hubs.iter().map(|hub| link(&hub.links)).collect();
    let Some(number) = sprung(&wires, needle, moment).await else { return Ok(false) };
    stack.hubs[number].kill().await?;
    stack.hubs[number].come_up().await?;
    Ok(true)
}

/// Its environment is replaced when the event source finds it dead.
async fn worker_killed(
    stack: &Stack,
    link: impl Fn(&super::links::Links) -> &Wire,
    needle: &str,
    moment: Moment,
) -> Result<bool> {
    let environments = stack.orchestrators.environments();
    let wires: Vec<&Wire> = environments.iter().map(|environment| link(&environment.links)).collect();
    let Some(number) = sprung(&wires, needle, moment).await else { return Ok(false) };
    // One that has died of something else is not hit.
    Ok(signal(environments[number].lambda().pid(), "KILL").is_ok())
}

/// An orchestrator that is at work, as soon as one is.
async fn busy(stack: &Stack) -> Option<usize> {
    let found = async {
        loop {
            if let Some(number) = stack.orchestrators.busy() {
                return number;
            }
            pause(Duration::from_millis(5)).await;
        }
    };
    timeout(TRAP_PATIENCE, found).await.ok()
}

async fn hold(stack: &Stack, link: impl Fn(&super::links::Links) -> &Wire, time: Duration) {
    stack.links().for_each(|links| link(links).hold(true));
    pause(time).await;
    stack.links().for_each(|links| link(links).hold(false));
}

async fn redis(stack: &Stack, command: &redis::Cmd) -> Result<()> {
    let client = redis::Client::open(stack.services.redis.url())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    Ok(command.exec_async(&mut connection).await?)
}

async fn poison(stack: &Stack, random: &mut StdRng) -> Result<()> {
    let user = stack.demo.users.iter().filter(|user| user.tenant.is_some()).collect::<Vec<_>>();
    let user = user.choose(random).context("there are users")?;
    let owner = app::connect(&stack.owner_url).await?;
    let row = owner.query_one("select id, tenant_id from web_conversations order by random() limit 1", &[]).await?;
    let others = stack.demo.tenants.iter().find(|tenant| tenant.id != row.get("tenant_id")).context("two tenants")?;
    let bodies = [
        "{".to_owned(),
        Job::web(row.get("tenant_id"), row.get("id"), user.id, TurnId::new()).body(),
        Job::web(others.id, row.get("id"), user.id, TurnId::new()).body(),
    ];
    let client = sqs_client(&stack.queue.endpoint);
    stack.poisoned.fetch_add(1, Ordering::Relaxed);
    for body in bodies {
        client.send_message().queue_url(&stack.queue.queue_url).message_body(body).send().await?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "holds a fault")]
async fn pause(time: Duration) {
    sleep(time).await;
}

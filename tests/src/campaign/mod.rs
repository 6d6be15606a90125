//! The campaign: the product as it is deployed, clients that write down what they see, seeded faults, and a judge.
//!
//! [`stack`] starts everything, with a proxy on each link ([`links`], [`pool`], [`source`], [`script`]); [`client`]s talk
//! and keep a [`view`] each and one [`ledger`] together; [`faults`] puts faults in and heals them; when all is healed and
//! has come to rest, [`judge`] compares views, ledger and store.

pub mod client;
pub mod defences;
pub mod faults;
pub mod judge;
pub mod ledger;
pub mod links;
pub mod pool;
pub mod report;
pub mod rest;
pub mod script;
pub mod source;
pub mod stack;
pub mod view;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use chat_core::conversation::TurnState;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{app, demo::Size};
use client::{Client, Shared, Stay};
use faults::{Kind, USUAL_MISCHIEF};
use judge::Facts;
use ledger::{Entry, Ledger};
use report::{Faults, Messages, Report};
use rest::Rest;
use stack::{Build, STUCK_AFTER, Stack};
use view::{Flaws, View};

/// What a campaign does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Messages that users send.
    pub messages: usize,
    /// Faults, in turns of every kind.
    pub faults: usize,
    /// The kinds.
    pub kinds: Vec<Kind>,
    /// Messages that one user has open at once: with 1 they wait for the answer before they say more.
    pub open: usize,
    /// Longest wait for an end, after everything was healed.
    pub patience: Duration,
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// What runs.
    pub build: Build,
}

/// The usual patience: twice what the slowest message may take.
pub const PATIENCE: Duration = STUCK_AFTER.saturating_mul(2);

/// Longest wait for poison to become dead letters: five receives, each hidden for the visibility timeout, and mischief.
const BURIED: Duration = Duration::from_secs(150);

/// How often a fault that hit nobody is put in again.
const AGAIN: usize = 3;

/// Longest time between two messages that may be said while a fault is on; and over which all of them are spread.
const DRIP: Duration = Duration::from_millis(70);
const DRIPS: Duration = Duration::from_millis(1_500);

/// Messages that are told of because they took longest.
const SLOWEST: usize = 5;

/// Companies, people a company and agents a company; each person talks with each agent.
const SIZE: Size = Size { tenants: 4, users: 6, agents: 2 };

/// Of so many conversations one has a second tab that listens.
const SECOND_TABS: usize = 3;

/// How long a token of a campaign holds.
const TOKEN: Duration = Duration::from_secs(24 * 3_600);

/// The next fault waits for the recovery from the last, but no longer than this.
const BETWEEN: Duration = Duration::from_secs(4);

/// Messages that are open when a fault comes, if there is as much to say.
const LOAD: usize = 8;

/// Within this after the last news, each connected client shows what the store holds: some looks at held conversations.
const REPAIRED: Duration = Duration::from_secs(15);

/// Runs one.
///
/// # Errors
/// If the stack does not come up, a fault cannot be put in or healed, or a client is put out.
pub async fn run(plan: &Plan, say: &dyn Fn(&str), progress: &dyn Fn(&str)) -> Result<Report> {
    let began = Instant::now();
    let mut random = StdRng::seed_from_u64(plan.seed);
    let mut stack = Stack::start(&plan.build, SIZE, plan.seed, say).await?;
    stack.mischief.percent.store(USUAL_MISCHIEF, Ordering::Relaxed);
    let ledger = Arc::new(Ledger::default());
    let (stay, staying) = watch::channel(Stay::Talk);
    let shared = Arc::new(Shared {
        ws: format!("ws://{}", stack.balancer.address),
        ledger: Arc::clone(&ledger),
        leave_to_speak: Semaphore::new(0),
        open: plan.open,
        stay: staying,
    });
    say("opening conversations");
    let rests = conversations(&stack).await?;
    let mut clients = JoinSet::new();
    let mut tabs = Vec::new();
    for (number, (rest, token)) in rests.iter().enumerate() {
        for talks in [true].into_iter().chain((number % SECOND_TABS == 0).then_some(false)) {
            let seed = random.random();
            let client = Client::new(number, talks, token.clone(), rest.clone(), Arc::clone(&shared), seed);
            tabs.push(Tab { conversation: rest.conversation.clone(), view: Arc::clone(&client.view) });
            clients.spawn(client.live());
        }
    }
    let rests: Vec<Rest> = rests.into_iter().map(|(rest, _)| rest).collect();

    let mut report = BTreeMap::<Kind, Faults>::new();
    let mut recoveries = Vec::new();
    for (number, kind) in order(plan, &mut random).into_iter().enumerate() {
        let leave = plan.messages * (number + 1) / plan.faults - plan.messages * number / plan.faults;
        let at_once = leave.min(LOAD);
        shared.leave_to_speak.add_permits(at_once);
        let open = load(&ledger, at_once).await;
        // The rest while the fault is on, so that it meets messages at every moment.
        let dripping = tokio::spawn(drip(Arc::clone(&shared), leave - at_once));
        progress(&format!("fault {} of {}: {} ({open} messages open)", number + 1, plan.faults, kind.name()));
        let mut hit = false;
        for _ in 0..AGAIN {
            let injected = faults::inject(kind, &mut stack, &rests, &mut random).await;
            hit = injected.with_context(|| format!("fault {} of {}, {}", number + 1, plan.faults, kind.name()))?;
            if hit {
                break;
            }
            shared.leave_to_speak.add_permits(LOAD);
        }
        dripping.await?;
        if let Some(left) = clients.try_join_next() {
            left??;
            bail!("a client has left");
        }
        let faults = report.entry(kind).or_default();
        faults.injected += 1;
        faults.hit += usize::from(hit);
        // The next one comes when this one is over, or soon; it is looked after all the same.
        let mut recovers = tokio::spawn(recovery(kind, Arc::clone(&ledger), plan.patience));
        match timeout(BETWEEN, &mut recovers).await {
            Ok(done) => note(done, &mut report)?,
            Err(_) => recoveries.push(recovers),
        }
    }
    progress("healed; waiting for the rest");
    until_said(&shared, plan.patience).await;
    // From here on nothing is said; whatever is open shall end.
    stay.send_replace(Stay::Listen);
    for recovers in recoveries {
        note(recovers.await, &mut report)?;
    }
    ledger.all_ended(&ledger.open(), plan.patience).await;
    let owner = app::connect(&stack.owner_url).await?;
    let facts = settled(&owner, &tabs, plan.patience.min(REPAIRED)).await?;
    let buried = buried(&owner, stack.poisoned.load(Ordering::Relaxed)).await?;
    let mut flaws = Flaws { holes: differences(&facts, &tabs), ..Flaws::default() };
    tabs.iter().for_each(|tab| tab.tell_differences(&facts));
    stay.send_replace(Stay::Go);
    while let Some(left) = clients.join_next().await {
        let mut client = left??;
        // A day later, at whichever hub.
        client.last_visit().await.with_context(|| format!("the last visit of client {}", client.number))?;
    }
    flaws.holes += differences(&facts, &tabs);
    let mut stories = Vec::new();
    for tab in &tabs {
        let (seen, told) = tab.look(|view| (view.flaws, view.stories.clone()));
        stories.extend(told.into_iter().map(|story| format!("{}: {story}", tab.conversation)));
        flaws.duplicated += seen.duplicated;
        flaws.reordered += seen.reordered;
        flaws.holes += seen.holes;
    }
    let foreign = ledger.foreigns() + stack.script.foreigns();
    let entries = ledger.all();
    let report = Report {
        seed: plan.seed,
        took: began.elapsed(),
        messages: messages(&entries, &facts),
        counters: facts.judge(&entries, flaws, foreign),
        slowest: facts.slowest(&entries, SLOWEST),
        stories,
        calls: stack.script.calls(),
        wrong_deliveries: stack.mischief.done.load(Ordering::Relaxed),
        dead_letters: buried,
        errors: ledger.errors(),
        faults: report,
    };
    stack.stop().await?;
    Ok(report)
}

/// What is to be judged of a client.
struct Tab {
    conversation: String,
    view: Arc<Mutex<View>>,
}

impl Tab {
    fn tell_differences(&self, facts: &Facts) {
        let (epoch, rows) = facts.of(&self.conversation);
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        if view.differs_from(&rows, epoch) > 0 {
            view.tell_differences(&rows, epoch);
        }
    }

    fn look<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Each person with each agent of their company, and the person's token.
async fn conversations(stack: &Stack) -> Result<Vec<(Rest, String)>> {
    let mut rests = Vec::new();
    for user in &stack.demo.users {
        let Some(tenant) = user.tenant else { continue };
        let token = stack.mint.token(user.id, user.role, Some(tenant), TOKEN);
        for agent in stack.demo.agents.iter().filter(|agent| agent.tenant == tenant) {
            rests.push((Rest::open(Arc::clone(&stack.fronts), &token, tenant, agent.id).await?, token.clone()));
        }
    }
    Ok(rests)
}

/// Every kind in each round, in an order of the seed's choosing.
fn order(plan: &Plan, random: &mut StdRng) -> Vec<Kind> {
    let mut order = Vec::with_capacity(plan.faults);
    while order.len() < plan.faults {
        let mut round = plan.kinds.clone();
        round.shuffle(random);
        order.extend(round);
    }
    order.truncate(plan.faults);
    // Poison needs the longest time to show.
    if let Some(poison) = order.iter().position(|kind| *kind == Kind::Poison) {
        order.swap(0, poison);
    }
    order
}

/// From the healing to the end of every message that was open then.
async fn recovery(kind: Kind, ledger: Arc<Ledger>, patience: Duration) -> (Kind, Duration, usize) {
    let (healed, open) = (Instant::now(), ledger.open());
    let unrecovered = ledger.all_ended(&open, patience).await;
    (kind, healed.elapsed(), unrecovered)
}

fn note(
    done: Result<(Kind, Duration, usize), tokio::task::JoinError>,
    report: &mut BTreeMap<Kind, Faults>,
) -> Result<()> {
    let (kind, took, unrecovered) = done?;
    let faults = report.entry(kind).or_default();
    faults.recoveries.push(took);
    faults.unrecovered += unrecovered;
    Ok(())
}

/// Lets so many messages be said, one after the other.
#[expect(clippy::disallowed_methods, reason = "paces the messages")]
async fn drip(shared: Arc<Shared>, messages: usize) {
    let pause = DRIP.min(DRIPS / u32::try_from(messages.max(1)).unwrap_or(u32::MAX));
    for _ in 0..messages {
        sleep(pause).await;
        shared.leave_to_speak.add_permits(1);
    }
}

/// Waits for so many messages to be open, so that a fault meets somebody; returns how many are.
#[expect(clippy::disallowed_methods, reason = "looks now and again")]
async fn load(ledger: &Ledger, wanted: usize) -> usize {
    let began = Instant::now();
    loop {
        let open = ledger.open().len();
        if open >= wanted || began.elapsed() > BETWEEN {
            return open;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until everything has been said that may be.
#[expect(clippy::disallowed_methods, reason = "looks now and again")]
async fn until_said(shared: &Shared, patience: Duration) {
    let said = async {
        while shared.leave_to_speak.available_permits() > 0 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    // What was not said by then shows in the number of attempts.
    let _ = timeout(patience, said).await;
}

/// Waits until every client shows what the store holds, or should.
#[expect(clippy::disallowed_methods, reason = "looks now and again")]
async fn settled(owner: &tokio_postgres::Client, tabs: &[Tab], patience: Duration) -> Result<Facts> {
    let began = Instant::now();
    loop {
        let facts = Facts::read(owner).await?;
        if (facts.at_rest() && differences(&facts, tabs) == 0) || began.elapsed() > patience {
            return Ok(facts);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until what nobody can read has become dead letters, each kept once; returns how many are.
#[expect(clippy::disallowed_methods, reason = "looks now and again")]
async fn buried(owner: &tokio_postgres::Client, poisoned: i64) -> Result<i64> {
    let began = Instant::now();
    loop {
        let kept: i64 = owner.query_one("select count(*) from dead_letters", &[]).await?.get(0);
        if kept == poisoned {
            return Ok(kept);
        }
        ensure!(began.elapsed() < BURIED, "{poisoned} records were poisoned, and {kept} dead letters kept");
        sleep(Duration::from_millis(500)).await;
    }
}

fn differences(facts: &Facts, tabs: &[Tab]) -> usize {
    tabs.iter().map(|tab| tab.look(|view| facts.differences(&tab.conversation, view))).sum()
}

fn messages(entries: &[Arc<Entry>], facts: &Facts) -> Messages {
    let lives: Vec<_> = entries.iter().map(|entry| entry.life()).collect();
    Messages {
        attempted: lives.iter().filter(|life| life.tries > 0).count(),
        sent_again: lives.iter().filter(|life| life.tries > 1).count(),
        accepted: lives.iter().filter(|life| life.accepted.is_some()).count(),
        answered: facts.count(TurnState::Answered),
        failed: facts.count(TurnState::Failed),
        stopped: facts.count(TurnState::Stopped),
    }
}

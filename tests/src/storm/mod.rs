//! The cancel storm: people of many companies whose requests and sockets are cut off at random, in one product with few
//! connections to share; and whether anybody ever gets what is another company's.
//!
//! Why: a request that was cancelled once left a shared connection out of step, and people saw other people's chats.
//! Source: <https://openai.com/index/march-20-chatgpt-outage/>.
//!
//! Each company says a word that no other one says, and has ids of its own. What anybody is sent (bodies, frames), what the
//! model is asked, what Redis is told and keeps, and every row is searched for the words and ids of the others.

mod people;
mod watch;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use chat_core::config::{self, Speaks, Times};
use orchestrator::model::{Models, provider::Patience};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    app::App,
    demo::{Demo, Size},
    model::{Act, Asked, ScriptedModel},
};

/// How long, how many, and with which dice.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How long.
    pub time: Duration,
    /// People at the same time.
    pub clients: usize,
    /// Companies.
    pub tenants: usize,
    /// With the same one everybody does the same, if not at the same moments.
    pub seed: u64,
}

/// What happened.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Requests that were answered.
    pub answers: usize,
    /// Frames that were read.
    pub frames: usize,
    /// Prompts that the model was asked.
    pub prompts: usize,
    /// What was heard on the bus.
    pub news: usize,
    /// Values that were found in Redis.
    pub values: usize,
    /// Rows of the tables.
    pub rows: usize,
    /// What was cut off, by where.
    pub cuts: BTreeMap<&'static str, usize>,
    /// What somebody got that is another company's: where, and what.
    pub foreign: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answers, frames, prompts, news, values, rows, cuts, foreign } = self;
        writeln!(
            f,
            "searched   {answers} answers, {frames} frames, {prompts} prompts, {news} news, {values} values, {rows} rows"
        )?;
        let cuts: Vec<String> = cuts.iter().map(|(place, count)| format!("{place} {count}")).collect();
        writeln!(f, "cut off    {}", cuts.join(", "))?;
        write!(f, "foreign    {}", foreign.len())?;
        foreign.iter().take(10).try_for_each(|found| write!(f, "\n  {found}"))
    }
}

impl Report {
    /// The counters, for a program.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let Self { answers, frames, prompts, news, values, rows, cuts, foreign } = self;
        json!({"answers": answers, "frames": frames, "prompts": prompts, "news": news, "values": values, "rows": rows,
            "cuts": cuts, "foreign": foreign.len()})
    }
}

/// What each company is known by.
pub(crate) struct Marks {
    /// By its place: its word, its id, those of its agents and people.
    of: Vec<Vec<String>>,
}

impl Marks {
    fn of(demo: &Demo) -> Self {
        let marks = demo.tenants.iter().enumerate().map(|(number, tenant)| {
            let agents = demo.agents.iter().filter(|agent| agent.tenant == tenant.id).map(|agent| agent.id.to_string());
            let people =
                demo.users.iter().filter(|user| user.tenant == Some(tenant.id)).map(|user| user.id.to_string());
            [word(number), tenant.id.to_string()].into_iter().chain(agents).chain(people).collect()
        });
        Self { of: marks.collect() }
    }

    /// Another company's mark in a text that is for this one.
    pub(crate) fn foreign(&self, own: usize, text: &str) -> Option<&str> {
        let others = self.of.iter().enumerate().filter(|(number, _)| *number != own);
        others.flat_map(|(_, marks)| marks).map(String::as_str).find(|mark| text.contains(mark))
    }

    /// The company whose word stands in a text; the first, if there are several.
    pub(crate) fn speaker(&self, text: &str) -> Option<usize> {
        self.of.iter().position(|marks| text.contains(&marks[0]))
    }
}

/// The word of a company.
pub(crate) fn word(number: usize) -> String {
    format!("canary{number:02}of")
}

/// Counts, for everybody in the storm.
#[derive(Clone, Default)]
pub(crate) struct Tally(Arc<Mutex<Report>>);

impl Tally {
    pub(crate) fn note(&self, note: impl FnOnce(&mut Report)) {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn cut(&self, place: &'static str) {
        self.note(|report| *report.cuts.entry(place).or_default() += 1);
    }

    /// Notes a text that is for one company, if it holds what is another's.
    pub(crate) fn search(&self, marks: &Marks, own: usize, place: &str, text: &str) {
        if let Some(mark) = marks.foreign(own, text) {
            let text: String = text.chars().take(300).collect();
            self.note(|report| report.foreign.push(format!("{place} of company {own} holds {mark}: {text}")));
        }
    }

    fn report(&self) -> Report {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A provider of models that says each company's word, slowly, and has its agents search for what was said.
async fn model(tally: &Tally, marks: &Arc<std::sync::OnceLock<Marks>>, seed: u64) -> Result<ScriptedModel> {
    let (tally, marks) = (tally.clone(), Arc::clone(marks));
    let dice = Mutex::new(StdRng::seed_from_u64(seed));
    ScriptedModel::start(move |asked: &Asked| {
        let said: Vec<&str> = asked.said.iter().map(|(_, text)| text.as_str()).collect();
        let prompt = [asked.system.as_deref().unwrap_or_default(), &said.join("\n")].join("\n");
        tally.note(|report| report.prompts += 1);
        let Some(marks) = marks.get() else { return Act::answer("too early") };
        let Some(own) = marks.speaker(asked.system.as_deref().unwrap_or_default()) else { return Act::answer("who?") };
        tally.search(marks, own, "a prompt", &prompt);
        let mut dice = dice.lock().unwrap_or_else(PoisonError::into_inner);
        let may_search = asked.said.last().is_some_and(|(role, _)| role == "user") && !asked.tools.is_empty();
        if may_search && dice.random_ratio(1, 4) {
            return Act::Call {
                text: String::new(),
                calls: vec![("search_history".to_owned(), json!({"words": "said"}))],
            };
        }
        let (pieces, pause) = (dice.random_range(1..8), Duration::from_millis(dice.random_range(0..15)));
        Act::Answer { text: format!("{} answered {}", word(own), "word ".repeat(20)), pieces, pause }
    })
    .await
}

/// What the storm needs of the demo: each company's word wherever one of it has a name.
const NAMES: &str = "
    update tenants set name = $2 where id = $1::uuid";
const AGENTS: &str = "
    update agents set name = $2 || ' agent', system_prompt = $2 || ' helps.', model = 'large', tools = '{search_history}'
    where tenant_id = $1::uuid";
const PEOPLE: &str = "
    update portal_users set display_name = $2 || ' person'
    where id in (select user_id from user_tenant_roles where tenant_id = $1::uuid)";

/// Lets it storm.
///
/// # Errors
/// What is missing on this machine, or if turns stay open afterwards.
pub async fn run(plan: &Plan, progress: &dyn Fn(&str)) -> Result<Report> {
    let (tally, marks) = (Tally::default(), Arc::new(std::sync::OnceLock::new()));
    let provider = model(&tally, &marks, plan.seed).await?;
    let main = config::Provider::main(Speaks::OpenAi, provider.base_url(), None);
    let settings = config::Model { provider: Some(main), ..config::Model::default() };
    let models = Models::new(&settings, Patience::within(Duration::from_secs(60)));
    let users = plan.clients.div_ceil(plan.tenants);
    let size = Size { tenants: plan.tenants, users, agents: 2 };
    let app = App::of(size, |setting| {
        setting.model = Arc::new(models);
        // A worker that was cut off is missed soon.
        setting.times = Times {
            lease: Duration::from_secs(1),
            renew: Duration::from_millis(300),
            sweep_first: Duration::from_millis(500),
            sweep_longest: Duration::from_secs(2),
            ..Times::default()
        };
    })
    .await?;
    let owner = app.owner().await?;
    for (number, tenant) in app.demo.tenants.iter().enumerate() {
        for sql in [NAMES, AGENTS, PEOPLE] {
            owner.execute(sql, &[&tenant.id, &word(number)]).await.context("naming the companies")?;
        }
    }
    let marks = marks.get_or_init(|| Marks::of(&app.demo));
    let ends = Instant::now() + plan.time;
    let storm = async {
        let mut clients = Vec::new();
        for number in 0..plan.clients {
            let dice = StdRng::seed_from_u64(plan.seed.wrapping_add(number as u64));
            clients.push(people::live(&app, marks, &tally, number % plan.tenants, number / plan.tenants, dice, ends));
        }
        let dice = StdRng::seed_from_u64(!plan.seed);
        let (_, ()) = tokio::join!(futures::future::join_all(clients), people::workers(&app, &tally, dice, ends));
    };
    let mut watchers = JoinSet::new();
    watchers.spawn(watch::bus(
        app.setting.redis.url(crate::services::User::Harness),
        app.demo.clone(),
        Marks::of(&app.demo),
        tally.clone(),
    ));
    let telling = async {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            let report = tally.report();
            let cuts: usize = report.cuts.values().sum();
            let left = ends.saturating_duration_since(Instant::now()).as_secs();
            progress(&format!(
                "{} answers, {} frames, {cuts} cut off, {} foreign; {left} s left",
                report.answers,
                report.frames,
                report.foreign.len()
            ));
        }
    };
    tokio::select! {
        () = storm => {}
        () = telling => {}
    }
    watch::redis(&app, marks, &tally).await.context("what Redis keeps")?;
    watch::rows(&owner, &app.demo, marks, &tally).await.context("what the tables hold")?;
    watchers.shutdown().await;
    app.finish().await?;
    Ok(tally.report())
}

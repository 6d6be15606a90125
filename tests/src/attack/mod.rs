//! An attack of one company on another, with everything that it could know of it.
//!
//! `globex` tries whatever there is with the ids of `acme`: every route, the socket, records of the queue, and every
//! function of the store, as its member, as its admin, and with tokens that claim more. A word that stands wherever acme
//! says something must come back nowhere: in no answer, no frame, and in nothing that Postgres tells a service meanwhile. And
//! not a row of acme's may change.
//!
//! It is run with both walls between tenants, with each of them alone, and without any, which must show.

mod edges;
mod house;
mod store;

use std::{collections::BTreeSet, fmt};

use anyhow::{Context, Result};
use tokio_postgres::Client;

use crate::{
    app::{self, App},
    wire::Wire,
};
pub use house::House;
pub use store::{BLIND, EXEMPT, TRIED};

/// Stands in all that acme says, and is found in nothing that globex gets.
pub const CANARY: &str = "canary-of-acme";

/// Whether Postgres keeps the tenants apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policies {
    /// As the migrations made it.
    On,
    /// No table has row-level security.
    Off,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// What was tried.
    pub tries: usize,
    /// What opened, or gave something that it should not have.
    pub open: Vec<String>,
    /// What opened, by its name alone.
    pub opened: BTreeSet<String>,
    /// Canaries that the services had from Postgres.
    pub told: usize,
    /// Tables in which rows of acme's changed.
    pub changed: BTreeSet<String>,
}

impl Report {
    /// Nothing of acme's came out, and nothing got in.
    #[must_use]
    pub fn held(&self) -> bool {
        self.open.is_empty() && self.told == 0 && self.changed.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tries, open, told, changed, .. } = self;
        write!(
            f,
            "{tries} tries, {} open, {told} canaries told by Postgres, {} tables changed",
            open.len(),
            changed.len()
        )
    }
}

/// What tries leave behind.
#[derive(Default)]
struct Tries(Report);

impl Tries {
    /// Notes one: `got` is what it gave, if it gave anything that it should not have.
    fn note(&mut self, what: &str, got: Option<String>) {
        self.0.tries += 1;
        if let Some(got) = got {
            self.0.opened.insert(what.to_owned());
            self.0.open.push(format!("{what}: {}", got.chars().take(200).collect::<String>()));
        }
    }
}

/// Who attacks.
enum Phase {
    /// Whoever can reach the edges.
    Edges,
    /// People of globex's, as the store knows them.
    Persons,
    /// Its workers.
    Workers,
}

/// Switches row-level security off on every table, as the owner.
const POLICIES_OFF: &str = "
    do $$ declare name text; begin
      for name in select oid::regclass::text from pg_class where relrowsecurity and relnamespace = 'public'::regnamespace loop
        execute format('alter table %s disable row level security, no force row level security', name);
      end loop;
    end $$";

/// Leaves a database without row-level security: what holds then is the application alone.
///
/// # Errors
/// If Postgres cannot be reached.
pub async fn switch_policies_off(owner: &Client) -> Result<()> {
    Ok(owner.batch_execute(POLICIES_OFF).await?)
}

/// A product with both companies in it, behind a wire on which all that Postgres says is kept; attacked.
///
/// # Errors
/// What is missing on this machine, or what should work for globex itself and did not.
pub async fn run(policies: Policies) -> Result<Report> {
    let port = app::services().await?.postgres.port();
    let wire = Wire::before(([127, 0, 0, 1], port).into()).await?;
    let (from, to) = (format!(":{port}/"), format!(":{}/", wire.address.port()));
    let app = App::with(|setting| setting.database_url = setting.database_url.replace(&from, &to)).await?;
    let owner = app.owner().await?;
    let house = House::build(&app, &owner).await.context("building acme's house")?;
    if policies == Policies::Off {
        switch_policies_off(&owner).await?;
    }
    wire.record();
    let mut tries = Tries::default();
    for phase in [Phase::Edges, Phase::Persons, Phase::Workers] {
        // What one has broken the next finds whole: so each try could see for itself.
        house.furnish(&owner).await?;
        let before = house.rows(&owner).await?;
        match phase {
            Phase::Edges => edges::attack(&app, &house, &mut tries).await.context("at the edges")?,
            Phase::Persons => store::as_persons(&app, &house, &mut tries).await.context("at the store's doors")?,
            Phase::Workers => store::as_workers(&app, &house, &mut tries).await.context("at the store behind them")?,
        }
        let after = house.rows(&owner).await?;
        let changed = before.into_iter().filter(|(table, rows)| after.get(table) != Some(rows));
        tries.0.changed.extend(changed.map(|(table, _)| table));
    }
    let mut report = tries.0;
    report.told = wire.tape().count(CANARY);
    house.leave(&owner).await?;
    app.finish().await?;
    Ok(report)
}

//! The campaign can see: with a defence taken out, a counter must not be zero.
//!
//! The defences cover for each other: what a socket missed because it listened too late, the look at held conversations
//! would find. So each removal names what has to be out of the way as well, and the same campaign with the defence in
//! place, as a control, must be clean.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};

use super::{Plan, faults::Kind, judge::Counters, run, stack::Build};

/// A defence to be taken out, and the campaign that misses it.
#[derive(Debug)]
pub struct Removal {
    /// Its name, for people.
    pub name: &'static str,
    /// Its name for the build that can take it out (`SABOTAGE`), where it is one in code.
    pub sabotage: &'static str,
    /// What the owner role drops, where it is one in the schema.
    pub sql: &'static str,
    /// What covers for it, out of the way in the control, too.
    pub settings: &'static [(&'static str, &'static str)],
    /// The faults that it stands against.
    pub kinds: &'static [Kind],
    /// How many of them.
    pub faults: usize,
    /// Messages of that campaign.
    pub messages: usize,
    /// Messages that a user has open at once.
    pub open: usize,
    /// Which counters may show it; one of them must.
    pub shows: fn(&Counters) -> usize,
    /// What would go wrong.
    pub otherwise: &'static str,
}

/// Nobody compares what was heard with the store for an hour: what a socket missed it must find by itself.
const NO_LOOKS: &[(&str, &str)] = &[("HUB_LOOK_MS", "3600000"), ("HUB_LOOK_ALL_MS", "3600000")];

/// Every defence that can be taken out.
pub const REMOVALS: &[Removal] = &[
    Removal {
        name: "subscribe first",
        sabotage: "subscribe-first",
        sql: "",
        settings: NO_LOOKS,
        kinds: &[Kind::ClientsReturnWhileDeaf],
        faults: 4,
        messages: 400,
        open: 1,
        shows: |counters| counters.stuck + counters.holes + counters.lost,
        otherwise: "a reply stored between the read and the subscription is never shown",
    },
    Removal {
        name: "re-read on resume",
        sabotage: "re-read",
        sql: "",
        settings: NO_LOOKS,
        kinds: &[Kind::ClientsReturnWhileDeaf],
        faults: 4,
        messages: 400,
        open: 1,
        shows: |counters| counters.stuck + counters.holes + counters.lost,
        otherwise: "a reply that came while its reader was away is never shown",
    },
    Removal {
        name: "sweep",
        sabotage: "sweep",
        sql: "",
        // As in production: a record whose worker died does not come again within the campaign.
        settings: &[("QUEUE_VISIBILITY_MS", "240000")],
        kinds: &[Kind::WorkerKilledAtModel, Kind::QueueAway],
        faults: 6,
        messages: 500,
        open: 3,
        shows: |counters| counters.stuck + counters.lost,
        otherwise: "a message whose hint or worker was lost waits",
    },
    Removal {
        name: "fence",
        sabotage: "fence",
        sql: "",
        settings: &[],
        kinds: &[Kind::WorkerStopped],
        faults: 10,
        messages: 400,
        open: 3,
        shows: |counters| counters.duplicated + counters.lost,
        otherwise: "a worker that was thought dead ends a turn that another has answered",
    },
    Removal {
        name: "fence and unique reply",
        sabotage: "fence",
        sql: "drop index web_conversation_messages_reply",
        settings: &[],
        kinds: &[Kind::WorkerStopped],
        faults: 10,
        messages: 400,
        open: 3,
        shows: |counters| counters.duplicated,
        otherwise: "a message is answered twice",
    },
    Removal {
        name: "lock first",
        sabotage: "lock",
        sql: "",
        settings: &[],
        kinds: &[Kind::ResetBlocked],
        faults: 6,
        messages: 1_200,
        open: 3,
        shows: |counters| counters.foreign,
        otherwise: "what is said while a conversation is reset stays in it",
    },
];

/// Longest wait for an end in these campaigns: after it somebody has waited in vain.
const PATIENCE: Duration = Duration::from_secs(10);

/// Campaigns without a defence, each of another seed, until one shows that it is out: a fault has to hit somebody at the
/// moment that the defence is for, and on a busy machine a whole campaign may pass without that.
const TRIES: u64 = 3;

/// What came of a campaign with a defence in place, and of the same one without it.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// With it.
    pub with: Counters,
    /// Without it.
    pub without: Counters,
    /// The campaign could tell the one from the other.
    pub told: bool,
}

impl Removal {
    /// Runs the campaign with the defence in place, and without it; `folder` has binaries built for sabotage.
    ///
    /// # Errors
    /// As [`run`].
    pub async fn show(&self, folder: &Path, seed: u64, progress: &dyn Fn(&str)) -> Result<Seen> {
        let with = self.campaign(folder, seed, false, progress).await.context("with the defence in place")?;
        let mut without = Counters::default();
        for seed in seed..seed + TRIES {
            without = self.campaign(folder, seed, true, progress).await.context("without the defence")?;
            if (self.shows)(&without) > 0 {
                break;
            }
        }
        Ok(Seen { with, without, told: with.clean() && (self.shows)(&without) > 0 })
    }

    async fn campaign(&self, folder: &Path, seed: u64, out: bool, progress: &dyn Fn(&str)) -> Result<Counters> {
        let mut settings: Vec<_> = self.settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        if out {
            settings.push(("SABOTAGE", self.sabotage.to_owned()));
        }
        let sql = if out { self.sql } else { "" };
        let plan = Plan {
            messages: self.messages,
            faults: self.faults,
            kinds: self.kinds.to_vec(),
            open: self.open,
            patience: PATIENCE,
            seed,
            build: Build { folder: folder.to_owned(), rolled_to: None, settings, sql, logs: None },
        };
        let how = if out { "without" } else { "with" };
        let progress = |line: &str| progress(&format!("{how} {}: {line}", self.name));
        Ok(run(&plan, &|_| {}, &progress).await?.counters)
    }
}

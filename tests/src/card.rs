//! What a running local stack tells programs that drive it: a card, written once everything answers.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use chat_core::{
    caller::Role,
    ids::{AgentId, TenantId, UserId},
};
use serde::{Deserialize, Serialize};

use crate::{cache, product::SqsAddress, services::Entrance};

/// The card of a running stack.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Card {
    /// Where REST is, without the base path.
    pub rest: String,
    /// Where the sockets are.
    pub ws: String,
    /// Postgres, as the app role.
    pub database_url: String,
    /// Postgres, as the owner role, who sees every row.
    pub owner_database_url: String,
    /// Redis, and how to come in as each of its users.
    pub redis: Entrance,
    /// Who is running.
    pub pids: Pids,
    /// The demo's people.
    pub users: Vec<UserCard>,
    /// The demo's AI employees.
    pub agents: Vec<AgentCard>,
    /// The queue, if it is one that other processes can reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<SqsAddress>,
    /// What tokens are signed with; only in the file that this checkout's own commands read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// The processes of a stack.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Pids {
    /// The product.
    pub local: u32,
    /// The postmaster.
    pub postgres: u32,
    /// The Redis server.
    pub redis: u32,
}

/// A person, with a token that holds for hours.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UserCard {
    /// Their id.
    pub id: UserId,
    /// How they are called on the command line.
    pub handle: String,
    /// What they are.
    pub role: Role,
    /// Their company.
    pub tenant_id: Option<TenantId>,
    /// Their token.
    pub token: String,
}

/// An AI employee.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentCard {
    /// Its id.
    pub id: AgentId,
    /// Its company.
    pub tenant_id: TenantId,
    /// Its name.
    pub name: String,
}

const NONE_RUNS: &str = "no local stack is running; start one with: cargo local";

/// A card that lies where its readers look, until dropped.
pub struct Laid(PathBuf);

impl Card {
    /// Where `cargo local token` and `cargo local chat` look: in this checkout's `target` folder.
    #[must_use]
    pub fn usual_place() -> PathBuf {
        cache().join("local.json")
    }

    /// Lays the card: complete from its first moment, and readable by its owner alone, since it holds tokens.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn lay(&self, path: &Path) -> Result<Laid> {
        let unfinished = path.with_extension(format!("{}.unfinished", std::process::id()));
        let write = || {
            // Where cargo builds elsewhere, this checkout has no such folder yet.
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
            fs::rename(&unfinished, path)?;
            anyhow::Ok(())
        };
        write().with_context(|| format!("writing {}", path.display()))?;
        Ok(Laid(path.to_owned()))
    }

    /// Reads the card of the stack that this checkout runs.
    ///
    /// # Errors
    /// If none runs.
    pub fn of_running_stack() -> Result<Self> {
        let Ok(text) = fs::read_to_string(Self::usual_place()) else { bail!(NONE_RUNS) };
        let card: Self =
            serde_json::from_str(&text).context("the running stack is of another version; start it again")?;
        // A stack that was killed could not take its card away.
        let address = card.rest.trim_start_matches("http://");
        TcpStream::connect(address).context(NONE_RUNS)?;
        Ok(card)
    }

    /// The person with this handle or id.
    ///
    /// # Errors
    /// If there is none; names those there are.
    pub fn user(&self, name: &str) -> Result<&UserCard> {
        let found = self.users.iter().find(|user| user.handle == name || user.id.to_string() == name);
        found.with_context(|| {
            let known: Vec<&str> = self.users.iter().take(10).map(|user| user.handle.as_str()).collect();
            format!("nobody is called {name}; there are {}", known.join(", "))
        })
    }
}

impl Drop for Laid {
    fn drop(&mut self) {
        // Another stack may have laid its own since.
        let ours =
            |text: String| serde_json::from_str::<Card>(&text).is_ok_and(|card| card.pids.local == std::process::id());
        if fs::read_to_string(&self.0).is_ok_and(ours) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

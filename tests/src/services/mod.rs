//! The services the product stands on, as private instances on loopback: Postgres, Redis and,
//! on demand, an SQS-compatible server.
//!
//! `cargo local` and `cargo test` start them the same way. Each set has its own folder, ports
//! and watchdog, so any number may run side by side, and however its owner ends nothing is
//! left: no process, no folder. Nothing listens but on 127.0.0.1, and what the machine itself
//! runs is not touched.

mod chromedriver;
mod cluster;
mod postgres;
mod process;
mod programs;
mod redis;
mod sqs;
mod watchdog;

use std::fs::{Permissions, create_dir, set_permissions};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub(crate) use chromedriver::explained;
pub use chromedriver::{Chromedriver, must_be_there};
pub use cluster::RedisCluster;
pub use postgres::{Postgres, pg_bin};
pub use redis::{ACL, Entrance, Redis, User};
pub use sqs::Sqs;
pub use watchdog::{Ending, Watchdog};

use process::Site;

/// What may differ between one set of services and another.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether Postgres waits for the disk: fsync, synchronous_commit and full_page_writes.
    /// Only tests, whose data nobody will miss, turn it off.
    pub durable: bool,
    /// How many connections Postgres accepts, pools of all processes and tests together.
    pub max_connections: u32,
}

/// A running set of services.
///
/// [`Services::stop`] is the good end. Dropping ends them too, but blocks the thread while it
/// does, tens of milliseconds as a rule; a process that dies has its watchdog do the same.
#[derive(Debug)]
pub struct Services {
    /// The database server.
    pub postgres: Postgres,
    /// The bus.
    pub redis: Redis,
    sqs: Option<Sqs>,
    watchdog: Watchdog,
    folder: PathBuf,
    root: bool,
}

impl Services {
    /// Starts Postgres and Redis, both at once, installing with apt-get what is missing where
    /// we are root on Debian or Ubuntu. `say` gets a line per step, for a human who waits.
    ///
    /// # Errors
    /// Names the program that is missing and how to get it, or quotes the last lines of the
    /// server that did not come up. Nothing is left running.
    pub async fn start(options: &Options, say: &dyn Fn(&str)) -> Result<Self> {
        let watchdog = Watchdog::start()?;
        let (folder, root) = fresh_folder()?;
        watchdog.removes(&folder)?;
        let site = Site { folder: &folder, root, watchdog: &watchdog, say };
        let (postgres, redis) = tokio::try_join!(Postgres::start(&site, options), Redis::start(&site))?;
        Ok(Self { postgres, redis, sqs: None, watchdog, folder, root })
    }

    /// The SQS-compatible server, started the first time it is asked for. Its programs are
    /// kept in `cache`, which outlives us; the first use of a cache installs them there.
    ///
    /// # Errors
    /// As [`Services::start`]. The other services go on.
    pub async fn start_sqs(&mut self, cache: &Path, say: &dyn Fn(&str)) -> Result<&Sqs> {
        let sqs = match self.sqs.take() {
            Some(running) => running,
            None => {
                let site = Site { folder: &self.folder, root: self.root, watchdog: &self.watchdog, say };
                Sqs::start(&site, cache).await?
            }
        };
        Ok(self.sqs.insert(sqs))
    }

    /// Kills Redis, with all that it holds, and starts another on another port, with the same passwords.
    ///
    /// # Errors
    /// As [`Services::start`]. There is no Redis then.
    pub async fn replace_redis(&mut self) -> Result<()> {
        self.redis.service.kill(&self.watchdog).await?;
        let site = Site { folder: &self.folder, root: self.root, watchdog: &self.watchdog, say: &|_| {} };
        self.redis = Redis::start_as(&site, &self.redis.entrance).await?;
        Ok(())
    }

    /// Ends whatever the caller starts beside the services, by the same rule.
    #[must_use]
    pub fn watchdog(&self) -> &Watchdog {
        &self.watchdog
    }

    /// Where the services keep their data and logs, `NAME/server.log`, while they run.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends all services, newest first, and removes their folder; returns when that is done.
    ///
    /// # Errors
    /// If the folder could not be removed, or somebody killed the watchdog.
    pub async fn stop(self) -> Result<()> {
        let removed = self.watchdog.finish().await;
        if let Some(sqs) = self.sqs {
            sqs.service.reap().await?;
        }
        self.redis.service.reap().await?;
        self.postgres.service.reap().await?;
        removed
    }
}

/// A port on 127.0.0.1 nobody uses at this moment. Somebody may before you do: be ready to
/// ask for another.
///
/// Below those that systems give out by themselves (from 32768 on Linux, from 49152 elsewhere): a hundred
/// tests that connect to something at once would take one of those before whoever asked for it.
///
/// # Errors
/// If none of many is free.
pub fn free_port() -> std::io::Result<u16> {
    let mut taken = None;
    for _ in 0..100 {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, rand::random_range(10_000..32_000))) {
            Ok(listener) => return Ok(listener.local_addr()?.port()),
            Err(error) => taken = Some(error),
        }
    }
    Err(taken.expect("a hundred were tried"))
}

/// A new folder of ours that other users may pass through but not list, and whether we are
/// root. Postgres then runs as another user, who must get in: a TMPDIR below, say, `/root`
/// is passed over for `/tmp`.
fn fresh_folder() -> Result<(PathBuf, bool)> {
    let temporary = std::env::temp_dir().canonicalize().context("no folder for temporary files")?;
    let folder = numbered_folder(&temporary)?;
    let root = folder.metadata()?.uid() == 0;
    let passable = |folder: &Path| folder.metadata().is_ok_and(|meta| meta.mode() & 0o001 != 0);
    if !root || temporary.ancestors().all(passable) {
        return Ok((folder, root));
    }
    std::fs::remove_dir(&folder)?;
    Ok((numbered_folder(Path::new("/tmp"))?, root))
}

fn numbered_folder(parent: &Path) -> Result<PathBuf> {
    for number in 0_u32.. {
        let folder = parent.join(format!("chat-services-{}-{number}", std::process::id()));
        match create_dir(&folder) {
            Err(taken) if taken.kind() == ErrorKind::AlreadyExists => {}
            made => {
                made.and_then(|()| set_permissions(&folder, Permissions::from_mode(0o711)))
                    .with_context(|| format!("could not make the folder {}", folder.display()))?;
                return Ok(folder);
            }
        }
    }
    unreachable!("four thousand million folders")
}

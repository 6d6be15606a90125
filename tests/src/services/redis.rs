//! A private Redis that keeps nothing on disk.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use redis::InfoDict;
use tokio::process::Command;

use super::process::{Plan, Service, Site};
use super::programs::{all, env, found_or_installed};
use super::watchdog::Ending;

const ADVICE: &str = "Redis is not installed. Debian, Ubuntu: apt-get install redis-server. \
    Fedora: dnf install valkey. macOS: brew install redis. \
    If it is somewhere unusual, set REDIS_SERVER to the program.";

/// A running Redis.
#[derive(Debug)]
pub struct Redis {
    pub(super) service: Service,
}

impl Redis {
    pub(super) async fn start(site: &Site<'_>) -> Result<Self> {
        let found = found_or_installed(site, program, "redis-tools", ADVICE).await?;
        let folder = site.subfolder("redis", None)?;
        let program = as_server(found, &folder)?;
        let command = |port: u16| {
            let mut server = Command::new(&program);
            server.current_dir(&folder).arg("--dir").arg(&folder);
            server.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
            server.args(["--save", "", "--appendonly", "no"]);
            server
        };
        let plan = Plan { name: "Redis", folder: &folder, ending: Ending::Terminate };
        let service = Service::launch(site, &plan, command, async |port, pid| {
            let client = redis::Client::open(url(port))?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            let _: String = redis::cmd("PING").query_async(&mut connection).await?;
            let about: InfoDict = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
            ensure!(about.get("process_id") == Some(pid), "somebody else's Redis answers on this port");
            let version: String = about.get("redis_version").unwrap_or_default();
            (site.say)(&format!("Redis {version}: {}", program.display()));
            Ok(())
        })
        .await?;
        Ok(Self { service })
    }

    /// `redis://127.0.0.1:PORT`, without user or password.
    #[must_use]
    pub fn url(&self) -> String {
        url(self.port())
    }

    /// The process id of the server.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.service.pid
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.service.port
    }
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

/// REDIS_SERVER as it is given, or what PATH leads to. Debian's `redis-tools` holds the
/// server under the name of its checking tool and brings no system service; that is why it
/// is the package we install.
fn program() -> Option<PathBuf> {
    let given = env("REDIS_SERVER").map(PathBuf::from);
    let names = ["redis-server", "valkey-server", "redis-check-rdb"];
    given.or_else(|| names.iter().find_map(|name| all(name).next()))
}

/// The program decides by the name it was started with what it is.
fn as_server(found: PathBuf, folder: &Path) -> Result<PathBuf> {
    if !found.ends_with("redis-check-rdb") {
        return Ok(found);
    }
    let server = folder.join("redis-server");
    if server.exists() {
        return Ok(server);
    }
    symlink(&found, &server).with_context(|| format!("could not link {} to {}", server.display(), found.display()))?;
    Ok(server)
}

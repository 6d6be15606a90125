//! A private Redis that keeps nothing on disk, and lets in whom `redis.acl` lets in: the users of a deployment, each
//! with its own password and rights, and one more for the tests, who may look at everything.

use std::fmt::Display;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use chat_core::config::{self, Secret};
use redis::InfoDict;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::process::{Plan, Service, Site};
use super::programs::{all, env, found_or_installed};
use super::watchdog::Ending;

const ADVICE: &str = "Redis is not installed. Debian, Ubuntu: apt-get install redis-server. \
    Fedora: dnf install valkey. macOS: brew install redis. \
    If it is somewhere unusual, set REDIS_SERVER to the program.";

/// What an operator fills in and gives to Redis.
pub const ACL: &str = include_str!("../../../redis.acl");

/// A user of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// `hub serve`.
    Hub,
    /// The REST function.
    Conversations,
    /// The function that answers.
    Orchestrator,
    /// The function behind the queue's dead letters.
    DeadLetters,
    /// `hub admin`.
    Admin,
    /// Whoever looks behind the walls; in no deployment.
    Harness,
}

impl User {
    /// The users of a deployment.
    pub const DEPLOYED: [Self; 5] =
        [Self::Hub, Self::Conversations, Self::Orchestrator, Self::DeadLetters, Self::Admin];

    /// As Redis knows them; a deployable's is the name of its binary.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Conversations => "conversations",
            Self::Orchestrator => "orchestrator",
            Self::DeadLetters => "dead_letters",
            Self::Admin => "admin",
            Self::Harness => "harness",
        }
    }

    /// The user of a deployed binary.
    ///
    /// # Errors
    /// If nothing of that name is deployed.
    pub fn of(binary: &Path) -> Result<Self> {
        let name = binary.file_name().and_then(|name| name.to_str());
        match Self::DEPLOYED.into_iter().find(|user| Some(user.name()) == name) {
            Some(user) => Ok(user),
            None => bail!("{} has no user in redis.acl", binary.display()),
        }
    }
}

/// How to come in, as each of the users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entrance {
    /// Host and port.
    pub address: String,
    /// Hosts and ports of a cluster for what is published, if there is one.
    pub bus: Vec<String>,
    /// What the passwords are made of.
    pub(super) secret: String,
    /// Whom to trust, where the connection is protected.
    pub(super) ca_file: Option<String>,
}

impl Entrance {
    /// The URL of a user.
    #[must_use]
    pub fn url(&self, user: User) -> String {
        self.url_at(&self.address, user)
    }

    /// The URLs of a user in the cluster for what is published, if there is one.
    #[must_use]
    pub fn bus_url(&self, user: User) -> Option<String> {
        let urls: Vec<String> = self.bus.iter().map(|address| self.url_at(address, user)).collect();
        (!urls.is_empty()).then(|| urls.join(", "))
    }

    fn url_at(&self, address: &str, user: User) -> String {
        let scheme = if self.ca_file.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://{}:{}@{address}", user.name(), self.password(user))
    }

    /// The same users and passwords elsewhere: at a proxy, or where nobody is.
    #[must_use]
    pub fn at(&self, address: impl Display) -> Self {
        Self { address: address.to_string(), ..self.clone() }
    }

    /// The same users and passwords by TLS, with whom the authorities of a file speak for.
    #[must_use]
    pub fn protected(&self, address: impl Display, ca_file: &Path) -> Self {
        Self { ca_file: Some(ca_file.display().to_string()), ..self.at(address) }
    }

    /// The settings of a user.
    #[must_use]
    pub fn settings(&self, user: User) -> config::Redis {
        let bus_url = self.bus_url(user).map(Secret::from);
        config::Redis { url: Secret::from(self.url(user)), bus_url, ca_file: self.ca_file.clone() }
    }

    fn password(&self, user: User) -> String {
        format!("{}-{}", self.secret, user.name())
    }

    /// `redis.acl` as an operator fills it in, with the harness's own user behind.
    fn acl(&self) -> String {
        let hash = |user: User| hex(digest(&SHA256, self.password(user).as_bytes()).as_ref());
        let filled = User::DEPLOYED.into_iter().fold(ACL.to_owned(), |acl, user| {
            acl.replace(&format!("<SHA-256 of the password of {}>", user.name()), &hash(user))
        });
        format!("{filled}user harness on #{} ~* &* +@all\n", hash(User::Harness))
    }
}

/// A running Redis.
#[derive(Debug)]
pub struct Redis {
    pub(super) service: Service,
    /// How to come in.
    pub entrance: Entrance,
}

impl Redis {
    /// Starts one whose passwords are new.
    pub(super) async fn start(site: &Site<'_>) -> Result<Self> {
        Self::start_with(site, hex(&rand::random::<[u8; 16]>()), "redis", &[]).await
    }

    /// Starts one whose passwords are those of another.
    pub(super) async fn start_as(site: &Site<'_>, another: &Entrance) -> Result<Self> {
        Self::start_with(site, another.secret.clone(), "redis", &[]).await
    }

    /// Starts one in a folder of its own, with further arguments; `--port` among them is its port.
    pub(super) async fn start_with(
        site: &Site<'_>,
        secret: String,
        folder: &str,
        arguments: &[String],
    ) -> Result<Self> {
        let found = found_or_installed(site, program, "redis-tools", ADVICE).await?;
        let folder = site.subfolder(folder, None)?;
        let program = as_server(found, &folder)?;
        let given = arguments.iter().skip_while(|argument| *argument != "--port").nth(1);
        let given: Option<u16> = given.map(|port| port.parse()).transpose()?;
        let entrance = |port: u16| Entrance {
            address: format!("127.0.0.1:{port}"),
            bus: Vec::new(),
            secret: secret.clone(),
            ca_file: None,
        };
        let acl = folder.join("redis.acl");
        std::fs::write(&acl, entrance(0).acl()).with_context(|| format!("could not write {}", acl.display()))?;
        let command = |port: u16| {
            let mut server = Command::new(&program);
            server.current_dir(&folder).arg("--dir").arg(&folder);
            server.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
            server.args(["--save", "", "--appendonly", "no"]).arg("--aclfile").arg(&acl).args(arguments);
            server
        };
        let plan = Plan { name: "Redis", folder: &folder, ending: Ending::Terminate };
        let mut service = Service::launch(site, &plan, command, async |port, pid| {
            let client = redis::Client::open(entrance(given.unwrap_or(port)).url(User::Harness))?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            let _: String = redis::cmd("PING").query_async(&mut connection).await?;
            let about: InfoDict = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
            ensure!(about.get("process_id") == Some(pid), "somebody else's Redis answers on this port");
            let version: String = about.get("redis_version").unwrap_or_default();
            (site.say)(&format!("Redis {version}: {}", program.display()));
            Ok(())
        })
        .await?;
        service.port = given.unwrap_or(service.port);
        let entrance = entrance(service.port);
        Ok(Self { service, entrance })
    }

    /// The URL of the harness, who may do everything: for looking, not for the product.
    #[must_use]
    pub fn url(&self) -> String {
        self.entrance.url(User::Harness)
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

//! A private Postgres: found or installed, in a fresh data folder, on a free port.
//!
//! Every connection is TCP on 127.0.0.1 and trusted. The machine's own cluster, should it
//! have one, is never looked at: only the programs are shared.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls};

use super::Options;
use super::process::{Plan, Service, Site, run};
use super::programs::{all, env, found_or_installed};
use super::watchdog::Ending;

const ADVICE: &str = "Postgres is not installed. Debian, Ubuntu: apt-get install postgresql. \
    Fedora: dnf install postgresql-server. macOS: brew install postgresql@17. \
    If it is somewhere unusual, set PG_BIN to the folder that holds initdb.";

/// The role that owns every database and runs the migrations. BYPASSRLS because it must see
/// every tenant's rows to migrate them; CREATEROLE because migrations make `chat_app`.
const CREATE_OWNER: &str = "do $$ begin \
    if not exists (select from pg_roles where rolname = 'chat_owner') then \
        create role chat_owner login createrole bypassrls nosuperuser; \
    end if; \
    end $$";

/// A running Postgres with the role `chat_owner`.
#[derive(Debug)]
pub struct Postgres {
    pub(super) service: Service,
    /// Two copies of one template at a time refuse each other.
    creating: Mutex<()>,
}

impl Postgres {
    pub(super) async fn start(site: &Site<'_>, options: &Options) -> Result<Self> {
        let bin = found_or_installed(site, binaries, "postgresql", ADVICE).await?;
        ensure!(
            bin.join("initdb").is_file(),
            "PG_BIN is {}, where no initdb is: correct it or unset it",
            bin.display()
        );
        (site.say)(&format!("Postgres {}: {}", version(&bin).await?, bin.display()));

        let user = if site.root { Some(unprivileged()?) } else { None };
        let folder = site.subfolder("postgres", user)?;
        let data = folder.join("data");
        let program = |name: &str| {
            let mut command = Command::new(bin.join(name));
            command.current_dir(&folder).env("LC_ALL", "C").arg("-D").arg(&data);
            if let Some((uid, gid)) = user {
                // std clears the supplementary groups along with it.
                command.uid(uid).gid(gid);
            }
            command
        };

        let mut initdb = program("initdb");
        initdb.args("-U postgres --auth=trust --no-sync -E UTF8 --locale=C".split(' '));
        run(site, initdb, &folder.join("initdb.log")).await?;

        let connections = format!("max_connections={}", options.max_connections);
        let server = |port: u16| {
            let mut server = program("postgres");
            // No Unix socket: its path is limited to 107 bytes, and nobody asks for it.
            server.args(["-h", "127.0.0.1", "-k", "", "-p", &port.to_string()]);
            server.args(["-c", "shared_buffers=128MB", "-c", &connections]);
            if !options.durable {
                server.args("-F -c synchronous_commit=off -c full_page_writes=off".split(' '));
            }
            server
        };
        let plan = Plan { name: "Postgres", folder: &folder, ending: Ending::Interrupt };
        let service = Service::launch(site, &plan, server, async |port, _pid| {
            let row = connect(port).await?.query_one("show data_directory", &[]).await?;
            let served: &str = row.get(0);
            ensure!(Path::new(served) == data, "somebody else's Postgres answers on this port");
            Ok(())
        })
        .await?;

        let postgres = Self { service, creating: Mutex::new(()) };
        postgres.execute(CREATE_OWNER).await.context("could not create the role chat_owner")?;
        Ok(postgres)
    }

    /// The URL of `database` for the superuser: for looking, not for the product.
    #[must_use]
    pub fn superuser_url(&self, database: &str) -> String {
        self.url("postgres", database)
    }

    /// The URL of `database` for `chat_owner`: for migrations.
    #[must_use]
    pub fn owner_url(&self, database: &str) -> String {
        self.url("chat_owner", database)
    }

    /// The URL of `database` for `chat_app`, the role the product runs as. The migrations
    /// create it; before them this URL is refused.
    #[must_use]
    pub fn app_url(&self, database: &str) -> String {
        self.url("chat_app", database)
    }

    /// Creates the database `name`, owned by `chat_owner`: empty, or a copy of `template`.
    ///
    /// Copies by the server's default strategy: FILE_COPY was measured on Postgres 15 with
    /// 20 tables, with and without fsync, and was no faster.
    ///
    /// # Errors
    /// If `name` exists, or somebody is connected to the template.
    pub async fn create_database(&self, name: &str, template: Option<&str>) -> Result<()> {
        let mut create = format!("create database {} owner chat_owner", quoted(name));
        if let Some(template) = template {
            create += &format!(" template {}", quoted(template));
        }
        let _alone = self.creating.lock().await;
        self.execute(&create).await.with_context(|| format!("could not create database {name}"))
    }

    /// Drops the database `name` and ends its connections; no such database is fine too.
    ///
    /// # Errors
    /// If Postgres refuses, for instance because it is gone.
    pub async fn drop_database(&self, name: &str) -> Result<()> {
        self.execute(&format!("drop database if exists {} with (force)", quoted(name)))
            .await
            .with_context(|| format!("could not drop database {name}"))
    }

    /// The process id of the postmaster.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.service.pid
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.service.port
    }

    fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port())
    }

    async fn execute(&self, statement: &str) -> Result<()> {
        Ok(connect(self.port()).await?.batch_execute(statement).await?)
    }
}

/// The superuser's connection to the database every cluster has.
async fn connect(port: u16) -> Result<Client> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).user("postgres").dbname("postgres");
    let (client, connection) = config.connect_timeout(Duration::from_secs(2)).connect(NoTls).await?;
    // Ends by itself when the client is dropped; an error reaches the client's caller too.
    tokio::spawn(connection);
    Ok(client)
}

/// A program that comes with Postgres.
///
/// # Errors
/// If it does not come with this one.
pub fn pg_bin(name: &str) -> Result<PathBuf> {
    let program = binaries().context("no Postgres")?.join(name);
    ensure!(program.is_file(), "{} is not there", program.display());
    Ok(program)
}

/// The folder with `initdb` and `postgres`: PG_BIN as it is given, what PATH leads to, or the
/// newest of Debian's versions, which are not on PATH.
fn binaries() -> Option<PathBuf> {
    if let Some(given) = env("PG_BIN") {
        return Some(given.into());
    }
    let complete = |bin: &PathBuf| bin.join("initdb").is_file() && bin.join("postgres").is_file();
    let folder_of = |program: PathBuf| Some(program.canonicalize().ok()?.parent()?.to_owned());
    all("initdb").filter_map(folder_of).find(complete).or_else(|| {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
        versions
            .map(|version| (version.file_name(), version.path().join("bin")))
            .filter(|(_, bin)| complete(bin))
            .max_by_key(|(version, _)| version.to_str().and_then(|v| v.parse::<u32>().ok()))
            .map(|(_, bin)| bin)
    })
}

/// "15.18" out of "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)".
async fn version(bin: &Path) -> Result<String> {
    let mut postgres = Command::new(bin.join("postgres"));
    let output = postgres.arg("--version").output().await;
    let output = output.with_context(|| format!("could not run postgres in {}", bin.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(2);
    Ok(version.unwrap_or("of unknown version").to_owned())
}

/// `(uid, gid)` of whom Postgres runs as when we are root, which it refuses to be. It insists
/// on a user that is listed.
fn unprivileged() -> Result<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").context("could not read /etc/passwd")?;
    let user = |name: &str| {
        let line = passwd.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let mut fields = line.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    user("postgres")
        .or_else(|| user("nobody"))
        .context("Postgres cannot run as root: add a user postgres to this machine")
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

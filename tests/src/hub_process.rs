//! The hub as it is deployed: its real binary in a process of its own, which can be told to go or be killed.

use std::{
    net::SocketAddr,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use chat_core::config::Keys;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpListener,
    process::{Child, Command},
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    clients::PATIENCE,
    product::{QueueKind, Setting},
    services::{Ending, User, Watchdog, free_port},
};

/// Longest wait for the end of a hub that was told to go: what a container usually gets.
const CONTAINER_PATIENCE: Duration = Duration::from_secs(30);

/// Bytes kept of what a hub writes, the newest.
const KEPT: usize = 256 * 1024;

/// Longest wait for one answer to the question whether it is up.
const ANSWER: Duration = Duration::from_secs(2);

/// A hub that serves. Dropping it kills the process; should we be killed, a watchdog does.
pub struct HubProcess {
    child: Child,
    pid: u32,
    address: SocketAddr,
    said: Arc<Mutex<Vec<u8>>>,
    listening: JoinHandle<()>,
    watchdog: Watchdog,
}

/// The settings of a hub beside a product that has this one: the same facts, pipes and tokens, and so much leave to send
/// that no test meets a limit by accident. Limits and times are not carried over; whoever wants others adds them behind.
///
/// # Errors
/// If the product's queue is in its own process, where no other reaches it.
pub fn environment(setting: &Setting) -> Result<Vec<(&'static str, String)>> {
    let QueueKind::Sqs(queue) = &setting.queue else { bail!("a process of its own needs a queue it can reach") };
    let Keys::Shared(secret) = &setting.token.keys else {
        bail!("a process of its own knows tokens by a shared secret")
    };
    let plenty = || 1_000_000.to_string();
    Ok(vec![
        ("DATABASE_URL", setting.database_url.clone()),
        ("DATABASE_POOL_SIZE", setting.pool_size.to_string()),
        ("REDIS_URL", setting.redis.url(User::Hub)),
        ("REDIS_BUS_URL", setting.redis.bus_url(User::Hub).unwrap_or_default()),
        ("QUEUE_URL", queue.queue_url.clone()),
        ("AWS_ENDPOINT_URL_SQS", queue.endpoint.clone()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "local".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
        ("JWT_SECRET", secret.expose().to_owned()),
        ("ALLOWED_ORIGINS", setting.allowed_origins.join(",")),
        ("LIMIT_ADDRESS_UNAUTHENTICATED", plenty()),
        ("LIMIT_USER_SOCKETS", plenty()),
        ("LIMIT_TENANT_SOCKETS", plenty()),
        ("LIMIT_SOCKET_FRAMES_PER_SECOND", plenty()),
        ("LIMIT_SOCKET_FRAMES_BURST", plenty()),
        ("LIMIT_USER_MESSAGES_PER_MINUTE", plenty()),
        ("LIMIT_USER_MESSAGES_BURST", plenty()),
        ("LIMIT_QUEUED_TURNS", plenty()),
    ])
}

impl HubProcess {
    /// Starts `program serve` with these settings and no others, later ones before earlier ones, and returns once it
    /// answers. Where `LISTEN` is not among them it gets a free port; naming the port of one that has ended makes the new
    /// one its successor.
    ///
    /// # Errors
    /// If there is no such program, or it ends or stays silent instead of answering; with what it said.
    pub async fn start(program: &Path, env: &[(&str, String)]) -> Result<Self> {
        let named = env.iter().rev().find(|(name, _)| *name == "LISTEN").map(|(_, listen)| listen.clone());
        let listen = named.clone().map_or_else(|| free_port().map(|port| format!("127.0.0.1:{port}")), Ok)?;
        let address: SocketAddr = listen.parse().with_context(|| format!("LISTEN={listen}"))?;
        if named.is_some() {
            // Else somebody who listens there already would answer for the one that could not. A port that has just been
            // found free is not asked again: another test that begins a process at this moment may hold it for a blink.
            drop(TcpListener::bind(address).await.with_context(|| format!("the port of {address}"))?);
        }
        let watchdog = Watchdog::start()?;
        let mut child = Command::new(program)
            .arg("serve")
            .env_clear()
            .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
            .env("LISTEN", &listen)
            // The watchdog signals whole groups; and Ctrl-C in the terminal is our business.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("could not start {}", program.display()))?;
        let pid = child.id().context("nobody has waited for this child yet")?;
        watchdog.ends(pid, Ending::Terminate)?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take().context("a process without stderr")?;
        let listening = tokio::spawn(listen_to(stderr, Arc::clone(&said)));
        let mut hub = Self { child, pid, address, said, listening, watchdog };
        hub.answers().await?;
        Ok(hub)
    }

    async fn answers(&mut self) -> Result<()> {
        let http = reqwest::Client::builder().timeout(ANSWER).build()?;
        let url = format!("http://{}/healthz", self.address);
        let deadline = Instant::now() + PATIENCE;
        while !http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            if let Ok(status) = timeout(Duration::from_millis(20), self.child.wait()).await {
                bail!("the hub ended with {} instead of serving; it said:\n{}", status?, self.said());
            }
            ensure!(Instant::now() < deadline, "the hub does not answer; it said:\n{}", self.said());
        }
        Ok(())
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its sockets are.
    #[must_use]
    pub fn ws(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Sends it a signal, by its name: `TERM`, `KILL`, `STOP`, `CONT`.
    ///
    /// # Errors
    /// If it has ended, or there is no such signal.
    pub fn signal(&self, name: &str) -> Result<()> {
        // While nobody has waited for it, its number is nobody else's.
        ensure!(self.child.id().is_some(), "the hub has ended");
        crate::signal(self.pid, name)
    }

    /// Waits until it has ended, by itself or by a signal.
    ///
    /// # Errors
    /// If it goes on for longer than a container would let it; with what it said.
    pub async fn exit(&mut self) -> Result<ExitStatus> {
        let status = timeout(CONTAINER_PATIENCE, self.child.wait()).await;
        let status = status.map_err(|_| anyhow!("the hub does not end; it said:\n{}", self.said()))??;
        self.watchdog.forgets(self.pid)?;
        // The pipe ends with the process; then all that it wrote is here.
        let _ = timeout(PATIENCE, &mut self.listening).await;
        Ok(status)
    }

    /// What it wrote, of which the newest 256 KiB are kept.
    #[must_use]
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Drop for HubProcess {
    fn drop(&mut self) {
        // At once, so that the watchdog, which goes next, has nothing to wait for. An ended one cannot be killed.
        let _ = self.child.start_kill();
    }
}

async fn listen_to(mut stderr: impl AsyncRead + Unpin, said: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(&buffer[..read]);
        let surplus = said.len().saturating_sub(KEPT);
        said.drain(..surplus);
    }
}

//! What the three services have in common: a folder, a log, a port, a wait until ready.
//!
//! Every process here leads its own group (Ctrl-C in the terminal does not reach it), reads
//! nothing, writes to a log in its folder, and is known to the watchdog from its first moment.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::free_port;
use super::watchdog::{Ending, Watchdog};

/// Longest wait until a service answers. Each takes less than 2 s on two busy cores.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// Between two questions whether a service is ready.
const POLL: Duration = Duration::from_millis(10);

/// Longest wait for one answer to that question.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// Longest wait for the end of a process that has been ended.
const REAP_DEADLINE: Duration = Duration::from_secs(1);

/// Ports tried, one after the other, when somebody else takes the one we chose.
const PORTS_TRIED: u32 = 5;

/// Where services are started: what every launcher needs to know.
pub(super) struct Site<'a> {
    /// The folder of this set of services; everything they write is below it.
    pub(super) folder: &'a Path,
    /// Whether we are root, and so may install packages and must not run Postgres ourselves.
    pub(super) root: bool,
    pub(super) watchdog: &'a Watchdog,
    /// One short line for the human who waits.
    pub(super) say: &'a dyn Fn(&str),
}

impl Site<'_> {
    /// Makes the folder `name`, open to its owner alone: `(uid, gid)`, or else ourselves.
    pub(super) fn subfolder(&self, name: &str, owner: Option<(u32, u32)>) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("could not make the folder {}", path.display()))?;
        if let Some((uid, gid)) = owner {
            chown(&path, Some(uid), Some(gid))
                .with_context(|| format!("could not give {} to uid {uid}", path.display()))?;
        }
        Ok(path)
    }
}

/// What tells one service from another when it is launched.
pub(super) struct Plan<'a> {
    /// As it appears in messages.
    pub(super) name: &'a str,
    /// Takes the log.
    pub(super) folder: &'a Path,
    pub(super) ending: Ending,
}

/// A server that runs and has answered.
///
/// Nobody waits for the process while this exists, so its pid cannot be given away.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) pid: u32,
    pub(super) port: u16,
    child: Child,
}

impl Service {
    /// Launches `command(port)` on a free port until `probe(port, pid)` succeeds. The probe
    /// must make sure that it is this process that answers: two parallel launches may have
    /// chosen one port. Whoever loses it tries another.
    pub(super) async fn launch(
        site: &Site<'_>,
        plan: &Plan<'_>,
        command: impl Fn(u16) -> Command,
        probe: impl AsyncFn(u16, u32) -> Result<()>,
    ) -> Result<Self> {
        let name = plan.name;
        let log = plan.folder.join("server.log");
        let began = Instant::now();
        for attempt in 1.. {
            let port = free_port().context("no free port on 127.0.0.1")?;
            let (mut child, pid) = spawn(site, command(port), &log, plan.ending)?;
            let ready = async || probe(port, pid).await;
            let Err(error) = until_ready(&mut child, began + READY_DEADLINE, ready).await else {
                let seconds = began.elapsed().as_secs_f32();
                (site.say)(&format!("{name} ready on 127.0.0.1:{port} in {seconds:.1} s"));
                return Ok(Self { pid, port, child });
            };
            if child.id().is_some() {
                child.kill().await.with_context(|| format!("could not end {name}"))?;
            }
            site.watchdog.forgets(pid)?;
            let said = last_lines(&log);
            if attempt == PORTS_TRIED || !said.to_lowercase().contains("address already in use") {
                return Err(error.context(format!("{name} did not start; its last lines:\n{said}")));
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Ends the process without a word, and takes note of it.
    pub(super) async fn kill(&mut self, watchdog: &Watchdog) -> Result<()> {
        self.child.kill().await?;
        watchdog.forgets(self.pid)
    }

    /// Takes note of the end of a process the watchdog has ended. Should somebody have killed
    /// the watchdog itself, ends it the hard way.
    pub(super) async fn reap(mut self) -> Result<()> {
        match timeout(REAP_DEADLINE, self.child.wait()).await {
            Ok(status) => status.map(drop)?,
            Err(_still_running) => self.child.kill().await?,
        }
        Ok(())
    }
}

/// Asks `ready` until it says so; gives up at the deadline, and at once if `child` ends.
async fn until_ready(child: &mut Child, deadline: Instant, ready: impl AsyncFn() -> Result<()>) -> Result<()> {
    loop {
        let answer = timeout(ANSWER_DEADLINE, ready()).await;
        let Err(refusal) = answer.map_err(Error::from).flatten() else {
            return Ok(());
        };
        if let Ok(status) = timeout(POLL, child.wait()).await {
            bail!("it ended with {} instead of getting ready", status?);
        }
        if Instant::now() > deadline {
            let seconds = READY_DEADLINE.as_secs();
            return Err(refusal.context(format!("it was not ready within {seconds} s")));
        }
    }
}

/// Runs a program that ends by itself, such as `initdb`; a failure quotes its last lines.
/// A caller that stops waiting ends it.
pub(super) async fn run(site: &Site<'_>, mut command: Command, log: &Path) -> Result<()> {
    let program = command.as_std().get_program().display().to_string();
    command.kill_on_drop(true);
    let (mut child, pid) = spawn(site, command, log, Ending::Terminate)?;
    let status = child.wait().await?;
    site.watchdog.forgets(pid)?;
    succeeded(&program, status, log)
}

/// An error that quotes the log's last lines unless `status` is a success.
pub(super) fn succeeded(program: &str, status: ExitStatus, log: &Path) -> Result<()> {
    if !status.success() {
        bail!("{program} ended with {status}; its last lines:\n{}", last_lines(log));
    }
    Ok(())
}

/// Sends what `command` writes to `log`, gives it nothing to read and its own group.
pub(super) fn detached(command: &mut Command, log: &Path) -> Result<Child> {
    let output = File::create(log).with_context(|| format!("could not write the log {}", log.display()))?;
    let program = command.as_std().get_program().display().to_string();
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("could not start {program}"))
}

fn spawn(site: &Site<'_>, mut command: Command, log: &Path, ending: Ending) -> Result<(Child, u32)> {
    let mut child = detached(&mut command, log)?;
    let pid = child.id().expect("nobody has waited for this child yet");
    if let Err(gone) = site.watchdog.ends(pid, ending) {
        child.start_kill()?;
        return Err(gone);
    }
    Ok((child, pid))
}

/// The last twelve lines of a log, or why there are none.
fn last_lines(log: &Path) -> String {
    let text = match std::fs::read(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("({}: {error})", log.display()),
    };
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_port_taken_by_somebody_else_is_given_up_for_another() {
        let watchdog = Watchdog::start().unwrap();
        let folder = std::env::temp_dir().join(format!("chat-process-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        watchdog.removes(&folder).unwrap();
        let site = Site { folder: &folder, root: false, watchdog: &watchdog, say: &|_| {} };
        let attempts = Cell::new(0);
        let command = |_port: u16| {
            attempts.set(attempts.get() + 1);
            let taken = "echo 'bind: Address already in use'; exit 1";
            let script = if attempts.get() < 3 { taken } else { "exec sleep 60" };
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", script]);
            shell
        };
        let plan = Plan { name: "sleep", folder: &folder, ending: Ending::Terminate };
        let ready = async |_port, _pid| {
            anyhow::ensure!(attempts.get() == 3, "not yet");
            Ok(())
        };
        let service = Service::launch(&site, &plan, command, ready).await.unwrap();
        assert_eq!(attempts.get(), 3);
        watchdog.finish().await.unwrap();
        service.reap().await.unwrap();
        assert!(!folder.exists());
    }
}

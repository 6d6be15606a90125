//! Finds the programs we launch, and installs them where that is ours to do: as root on
//! Debian or Ubuntu. Everywhere else the error says what to install.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::time::interval;

use super::process::{Site, detached, succeeded};

/// Searched after PATH, which may be empty or lack what a login shell would add.
const USUAL_FOLDERS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest wait for another process that installs, in seconds.
const INSTALL_DEADLINE_S: u32 = 600;

/// The environment variable `name`, unless it is unset, empty or not UTF-8.
#[expect(clippy::disallowed_methods, reason = "names a program, not a setting")]
pub(super) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// PATH, then the usual folders.
pub(super) fn search_path() -> String {
    match env("PATH") {
        Some(path) => format!("{path}:{USUAL_FOLDERS}"),
        None => USUAL_FOLDERS.to_owned(),
    }
}

/// Every file called `name` along [`search_path`], best first.
pub(super) fn all(name: &str) -> impl Iterator<Item = PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(&search_path()).collect();
    let paths = folders.into_iter().filter(|folder| folder.is_absolute());
    let name = name.to_owned();
    paths.map(move |folder| folder.join(&name)).filter(|path| path.is_file())
}

/// What `find` finds; where it finds nothing, `package` is installed with apt-get first.
///
/// # Errors
/// `advice` where apt-get is not ours to use; apt-get's last lines where it fails.
pub(super) async fn found_or_installed<T>(
    site: &Site<'_>,
    find: impl Fn() -> Option<T>,
    package: &str,
    advice: &str,
) -> Result<T> {
    if let Some(found) = find() {
        return Ok(found);
    }
    if !site.root || all("apt-get").next().is_none() {
        bail!("{advice}");
    }
    let _lock = exclusive(site, Path::new("/var/lib/apt/lists")).await?;
    if let Some(found) = find() {
        return Ok(found);
    }
    (site.say)(&format!("installing {package} with apt-get"));
    let log = site.folder.join(format!("apt-get-{package}.log"));
    // Stale lists are worth trying too: the second command decides.
    let _ = apt_get(&log, &["update"]).await;
    apt_get(&log, &["install", "-y", "--no-install-recommends", package])
        .await
        .with_context(|| format!("could not install {package}. {advice}"))?;
    find().with_context(|| format!("apt-get installed {package}, yet it is nowhere. {advice}"))
}

/// Not registered with the watchdog and writing to a file, not to us: an apt-get that was
/// begun is better finished, whatever becomes of us.
async fn apt_get(log: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("PATH", search_path())
        .current_dir("/");
    let status = detached(&mut command, log)?.wait().await?;
    succeeded("apt-get", status, log)
}

/// Waits until nobody else on this machine holds `folder`; ours until the file is dropped.
/// A lock on the folder itself leaves no file behind and dies with its process.
pub(super) async fn exclusive(site: &Site<'_>, folder: &Path) -> Result<File> {
    let named = || format!("could not lock the folder {}", folder.display());
    let lock = File::open(folder).with_context(named)?;
    let mut seconds = interval(Duration::from_secs(1));
    for waited in 0..INSTALL_DEADLINE_S {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(error)) => return Err(error).with_context(named),
            Err(TryLockError::WouldBlock) if waited == 0 => {
                (site.say)("waiting for another process that is installing");
            }
            Err(TryLockError::WouldBlock) => {}
        }
        seconds.tick().await;
    }
    bail!("another process has been installing for {INSTALL_DEADLINE_S} s; see what holds it up")
}

//! A private SQS-compatible server: ministack, a Python program with one service switched on.
//!
//! It lives in a virtual environment under a cache folder of the caller's and is installed
//! there from PyPI on first use: about 10 s and 90 MB.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::process::{Plan, Service, Site, run};
use super::programs::{all, exclusive, found_or_installed, search_path};
use super::watchdog::Ending;

/// Chosen for what it passed: 22 of 22 checks of FIFO order, deduplication and redrive.
const VERSION: &str = "1.5.33";

const ADVICE: &str = "SQS needs Python 3.10 or newer with its venv module. \
    Debian, Ubuntu: apt-get install python3-venv. Fedora: dnf install python3. \
    macOS: brew install python.";

/// A running SQS-compatible server.
#[derive(Debug)]
pub struct Sqs {
    pub(super) service: Service,
}

impl Sqs {
    pub(super) async fn start(site: &Site<'_>, cache: &Path) -> Result<Self> {
        let python = environment(site, cache).await?;
        let folder = site.subfolder("sqs", None)?;
        // Echoed by the health page, which says nothing else about who answers.
        let mark = site.folder.file_name().context("a folder without a name")?.display().to_string();
        let command = |port: u16| {
            let mut server = Command::new(&python);
            // It reads many variables and writes to HOME and TMPDIR: it gets our own alone.
            server.args(["-m", "ministack"]).current_dir(&folder).env_clear();
            server.env("PATH", search_path()).env("HOME", &folder).env("TMPDIR", &folder);
            server.env("BIND_HOST", "127.0.0.1").env("GATEWAY_PORT", port.to_string());
            server.env("SERVICES", "sqs").env("MINISTACK_EDITION", &mark);
            server
        };
        let plan = Plan { name: "SQS", folder: &folder, ending: Ending::Terminate };
        let service = Service::launch(site, &plan, command, async |port, _pid| {
            let health = get(port, "/_ministack/health").await?;
            ensure!(health.starts_with("HTTP/1.1 200"), "the health page says: {health}");
            ensure!(health.contains(&format!("\"{mark}\"")), "somebody else's server answers on this port");
            Ok(())
        })
        .await?;
        Ok(Self { service })
    }

    /// `http://127.0.0.1:PORT`, for `AWS_ENDPOINT_URL_SQS`. Any credentials and region do.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
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

/// The Python of the environment that holds ministack, made if it is not there yet.
///
/// One process at a time builds, under another name; only a complete one gets the name that
/// is looked for. A renamed environment works as long as nobody uses its console scripts,
/// which name their interpreter by its old path: hence `python -m`.
async fn environment(site: &Site<'_>, cache: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(cache).with_context(|| format!("could not make the folder {}", cache.display()))?;
    let cache = cache.canonicalize()?;
    let ready = cache.join(format!("ministack-{VERSION}"));
    let python = ready.join("bin/python");
    if python.is_file() {
        return Ok(python);
    }
    let _lock = exclusive(site, &cache).await?;
    if python.is_file() {
        return Ok(python);
    }
    let began = Instant::now();
    let package = format!("ministack=={VERSION}");
    (site.say)(&format!("installing {package} from PyPI into {}", ready.display()));
    // Both may be left of an attempt that was cut short, or of a Python that is gone.
    let unfinished = cache.join(format!("ministack-{VERSION}.unfinished"));
    for stale in [&unfinished, &ready].into_iter().filter(|folder| folder.exists()) {
        std::fs::remove_dir_all(stale).with_context(|| format!("could not remove {}", stale.display()))?;
    }
    let log = site.folder.join("ministack-install.log");
    let mut venv = Command::new(found_or_installed(site, capable, "python3-venv", ADVICE).await?);
    venv.args(["-m", "venv"]).arg(&unfinished).env("TMPDIR", site.folder);
    run(site, venv, &log).await.context(ADVICE)?;
    let mut pip = Command::new(unfinished.join("bin/python"));
    pip.env("TMPDIR", site.folder);
    pip.args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check", &package]);
    run(site, pip, &log).await.with_context(|| format!("could not install {package}"))?;
    std::fs::rename(&unfinished, &ready).with_context(|| format!("could not rename {}", unfinished.display()))?;
    (site.say)(&format!("installed {package} in {:.0} s", began.elapsed().as_secs_f32()));
    Ok(python)
}

/// The first Python that is new enough and can make virtual environments.
fn capable() -> Option<PathBuf> {
    let question = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
    all("python3").find(|python| {
        let answer = std::process::Command::new(python).args(["-c", question]).output();
        answer.is_ok_and(|output| output.status.success())
    })
}

/// The whole response to one GET, as text.
async fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut response).await?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

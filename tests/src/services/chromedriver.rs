//! A browser for tests: Chromium, and the driver that tells it what to do (WebDriver).
//!
//! Both are found or installed as the servers are, and end with them: the browsers a driver starts stay in its process
//! group, and all that they write lies in the folder of the services.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::Services;
use super::process::{Plan, Service, Site};
use super::programs::{all, env, found_or_installed};
use super::watchdog::Ending;

const ADVICE: &str = "Chromium and its driver are not installed. Debian: apt-get install chromium-driver. \
    Fedora: dnf install chromedriver. macOS: brew install --cask google-chrome chromedriver. \
    If they are somewhere unusual, set CHROMEDRIVER and CHROME to the programs.";

/// A running driver.
#[derive(Debug)]
pub struct Chromedriver {
    service: Service,
    browser: PathBuf,
    folder: PathBuf,
    root: bool,
}

impl Chromedriver {
    /// Starts one beside the services.
    ///
    /// # Errors
    /// Names the program that is missing and how to get it, or quotes the driver's last lines.
    pub async fn start(services: &Services, say: &dyn Fn(&str)) -> Result<Self> {
        let site = Site { folder: &services.folder, root: services.root, watchdog: &services.watchdog, say };
        let (driver, browser) = found_or_installed(&site, programs, "chromium-driver", ADVICE).await?;
        let folder = site.subfolder("chromedriver", None)?;
        let command = |port: u16| {
            let mut command = Command::new(&driver);
            // What a browser keeps for its user is nobody's here.
            command.env("HOME", &folder).env("TMPDIR", &folder).env("LANGUAGE", "en_US").env("TZ", "UTC");
            command.env_remove("DBUS_SESSION_BUS_ADDRESS").env_remove("DISPLAY").current_dir(&folder);
            command.arg(format!("--port={port}"));
            command
        };
        let plan = Plan { name: "chromedriver", folder: &folder, ending: Ending::Terminate };
        let log = folder.join("server.log");
        let service = Service::launch(&site, &plan, command, async |port, _pid| {
            let said = std::fs::read_to_string(&log)?;
            ensure!(said.contains(&format!("started successfully on port {port}")), "it is not ready");
            Ok(())
        })
        .await?;
        Ok(Self { service, browser, folder, root: services.root })
    }

    /// Where it is spoken to.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.service.port)
    }

    /// The browser it is to start.
    #[must_use]
    pub fn browser(&self) -> &Path {
        &self.browser
    }

    /// Where browsers may write.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether we are root, whom Chromium refuses its sandbox.
    #[must_use]
    pub fn root(&self) -> bool {
        self.root
    }
}

/// The driver and a browser: as they are given, or what PATH leads to.
fn programs() -> Option<(PathBuf, PathBuf)> {
    let given = |name: &str| env(name).map(PathBuf::from);
    let driver = given("CHROMEDRIVER").or_else(|| all("chromedriver").next())?;
    let browsers = ["chromium", "google-chrome", "google-chrome-stable", "chrome", "chromium-browser"];
    let browser = given("CHROME").or_else(|| browsers.into_iter().find_map(|name| all(name).next()))?;
    Some((driver, browser))
}

/// Whether a test that lacks a program fails instead of being passed over: where a machine tests for all (`CI`).
#[must_use]
pub fn must_be_there() -> bool {
    env("CI").is_some_and(|value| value != "false")
}

/// The driver, or why there is none, for a test that can be passed over.
pub(crate) fn explained<T>(started: Result<T>) -> Result<Option<T>> {
    match started {
        Ok(driver) => Ok(Some(driver)),
        Err(error) if must_be_there() => Err(error).context("CI tests with a browser"),
        Err(error) => {
            use std::io::Write;
            // Not by the macro, which the test runner keeps to itself while a test passes.
            let _ = writeln!(std::io::stderr(), "\nNOT TESTED: the page in a browser. {error:#}\n");
            Ok(None)
        }
    }
}

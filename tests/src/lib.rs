//! The whole product on one machine: what `cargo local` starts is what the tests stand on.
//!
//! [`services`] starts private instances of Postgres, Redis and an SQS-compatible server; [`product`] runs the REST
//! function, the hub and the orchestrator in this process, with [`pump`] in the part of the event source; [`demo`] fills
//! a database; [`app`] gives each test a database of its own; [`clients`] and [`events`] are the kinds of callers; [`model`]
//! plays a provider of models, [`channels`] the services behind Slack and WhatsApp, [`local_portal`] a company's portal. [`mod@bench`] measures. [`lambda`] and [`hub_process`] run the real binaries instead.

pub mod app;
pub mod attack;
pub mod balancer;
pub mod bench;
pub mod breaches;
pub mod browser;
pub mod campaign;
pub mod card;
pub mod channels;
pub mod clients;
pub mod demo;
pub mod described;
pub mod events;
pub mod fuzz;
pub mod hub_process;
pub mod issuer;
pub mod lambda;
pub mod local_portal;
pub mod metadata;
pub mod mint;
pub mod model;
pub mod notices;
pub mod product;
pub mod pump;
pub mod raw;
pub mod requests;
pub mod series;
pub mod services;
pub mod storm;
pub mod template;
pub mod terminal;
pub mod wire;

/// Sends a signal, by its name, to a process of ours. The shell knows how on every system.
///
/// # Errors
/// If there is no such process.
pub fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    let mut shell = std::process::Command::new("/bin/sh");
    let sent = shell.args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()]).output()?;
    anyhow::ensure!(sent.status.success(), "SIG{name} could not be sent to {pid}");
    Ok(())
}

/// Where programs fetched for the local stack are kept between runs: the workspace's `target` folder.
#[must_use]
pub fn cache() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").join("target")
}

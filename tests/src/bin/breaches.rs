//! `cargo breaches`: takes each defence of SECURITY.md out, one at a time, and shows that its test is red then.
//!
//! Works on a copy of the sources under `target/breaches`, so nothing here is touched. Each breach is compiled anew, which
//! takes a minute or two; `--only` chooses by a part of the defence, the threat's number, the file or the test.
#![expect(clippy::print_stdout, reason = "it prints a table")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use harness::{
    breaches::{Breach, all},
    cache,
};

/// Defences taken out, and tests that see it.
#[derive(Parser)]
struct Cli {
    /// Only those that name this: a threat (`T3`), or words of a defence, a file or a test.
    #[arg(long)]
    only: Option<String>,
    /// List them, and change nothing.
    #[arg(long)]
    list: bool,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let wanted = |breach: &Breach| {
        cli.only.as_deref().is_none_or(|only| {
            breach.threat == only || [breach.defence, breach.file, breach.test].iter().any(|text| text.contains(only))
        })
    };
    let breaches: Vec<Breach> = all().into_iter().filter(wanted).collect();
    ensure!(!breaches.is_empty(), "no breach names that");
    if cli.list {
        breaches.iter().for_each(|breach| println!("{:4} {} ({})", breach.threat, breach.defence, breach.test));
        return Ok(ExitCode::SUCCESS);
    }
    let root = cache().parent().context("target lies in the workspace")?.to_owned();
    let copy = copied(&root)?;
    let mut unseen = 0;
    for (nth, breach) in breaches.iter().enumerate() {
        let begun = Instant::now();
        let seen = seen(&copy, breach)?;
        let word = if seen { "red" } else { "NOT SEEN" };
        unseen += usize::from(!seen);
        let (of, seconds) = (breaches.len(), begun.elapsed().as_secs());
        println!(
            "{:>3}/{of} {word:8} {seconds:>4} s  {:4} {} ({})",
            nth + 1,
            breach.threat,
            breach.defence,
            breach.test
        );
    }
    println!("of {1} defences {0} were seen to be out", breaches.len() - unseen, breaches.len());
    Ok(if unseen == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The sources that git knows, in a folder of their own.
fn copied(root: &Path) -> Result<PathBuf> {
    let copy = cache().join("breaches");
    let files = Command::new("git").arg("-C").arg(root).args(["ls-files", "-z"]).output()?;
    ensure!(files.status.success(), "git knows no files here");
    for file in String::from_utf8(files.stdout)?.split('\0').filter(|file| !file.is_empty()) {
        let (from, to) = (root.join(file), copy.join("tree").join(file));
        fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
        let text = fs::read(&from).with_context(|| format!("{} is not committed as it is here", from.display()))?;
        // What has not changed keeps its time, and is not compiled anew.
        if fs::read(&to).ok().as_ref() != Some(&text) {
            fs::write(&to, text)?;
        }
    }
    Ok(copy)
}

/// Takes a defence out, tells whether its test is red, and puts it back.
fn seen(copy: &Path, breach: &Breach) -> Result<bool> {
    let tree = copy.join("tree");
    let file = tree.join(breach.file);
    let whole = fs::read_to_string(&file)?;
    fs::write(&file, breach.without(&tree)?)?;
    let compiled = cargo(copy, breach, &["--no-run"]);
    let outcome = compiled.and_then(|compiled| {
        if !compiled.status.success() {
            bail!("without «{}» nothing compiles:\n{}", breach.defence, String::from_utf8_lossy(&compiled.stderr));
        }
        cargo(copy, breach, &[])
    });
    fs::write(&file, whole)?;
    let told = String::from_utf8(outcome?.stdout)?;
    ensure!(told.contains("1 passed") || told.contains("1 failed"), "{} is no one test", breach.test);
    Ok(told.contains("1 failed"))
}

fn cargo(copy: &Path, breach: &Breach, more: &[&str]) -> Result<Output> {
    let (target, test) = match breach.test.split_once(':').filter(|(_, test)| !test.starts_with(':')) {
        Some(("browser", test)) => ("--test=browser", test),
        Some((_, test)) => ("--lib", test),
        None => ("--test=it", breach.test),
    };
    let mut cargo = Command::new("cargo");
    cargo.current_dir(copy.join("tree")).env("CARGO_TARGET_DIR", copy.join("target")).env_remove("RUSTFLAGS");
    cargo.args(["test", "--workspace", target]).args(more).args(["--", "--exact", test]);
    Ok(cargo.output()?)
}

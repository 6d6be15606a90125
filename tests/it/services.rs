//! The launchers keep their promises: nothing is left, nothing collides, errors say why.
//!
//! Linux alone, because what is left is looked for in `/proc`.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail as the test may")]

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use harness::services::{Options, Services};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio_postgres::NoTls;

const QUICK: Options = Options { durable: false, max_connections: 40 };

#[tokio::test]
async fn a_clean_stop_leaves_no_process_and_no_folder() {
    let mut services = started().await;
    let folder = services.folder().to_owned();
    let sqs = services.start_sqs(cache(), &|_| {}).await.unwrap();
    assert!(answers(sqs.port()).await);
    assert!(running_in(&folder).len() >= 3);
    services.stop().await.unwrap();
    assert_eq!(running_in(&folder), Vec::<String>::new());
    assert!(!folder.exists());
}

#[tokio::test]
async fn dropping_them_is_as_good_as_stopping_them() {
    let services = started().await;
    let folder = services.folder().to_owned();
    drop(services);
    assert_eq!(running_in(&folder), Vec::<String>::new());
    assert!(!folder.exists());
}

#[tokio::test]
async fn nothing_is_left_running_after_a_hard_kill() {
    Holder::start(holder()).await.killed().await;
}

#[tokio::test]
async fn ctrl_c_leaves_the_services_to_our_decision() {
    let mut holder = Holder::start(holder()).await;
    // The whole group, as the terminal does it.
    let group = format!("-{}", holder.pid);
    let sent = Command::new("/bin/sh").args(["-c", "kill -s INT -- \"$0\"", &group]).status().await;
    assert!(sent.unwrap().success());
    assert_eq!(holder.next("INTERRUPTED ").await, "still answering");
    assert!(holder.child.wait().await.unwrap().success());
    assert!(!holder.folder.exists());
}

#[tokio::test]
async fn an_empty_environment_is_enough() {
    let mut bare = holder();
    bare.env_clear().env("PATH", "/usr/bin:/bin").env(HOLD, "1");
    Holder::start(bare).await.killed().await;
}

#[tokio::test]
async fn two_starts_at_once_do_not_collide() {
    let (one, other) = tokio::join!(started(), started());
    assert_ne!(one.folder(), other.folder());
    assert_ne!(one.postgres.port(), other.postgres.port());
    assert_ne!(one.redis.port(), other.redis.port());
    one.stop().await.unwrap();
    assert!(answers(other.postgres.port()).await && answers(other.redis.port()).await);
    other.stop().await.unwrap();
}

#[tokio::test]
async fn copies_of_a_template_can_be_asked_for_all_at_once() {
    let services = started().await;
    let postgres = &services.postgres;
    postgres.create_database("template", None).await.unwrap();
    {
        let (client, connection) = tokio_postgres::connect(&postgres.owner_url("template"), NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        client.batch_execute("create table t (n int); insert into t values (7)").await.unwrap();
        drop(client);
        connection.await.unwrap().unwrap();
    }
    let copy = async |name: &str| {
        postgres.create_database(name, Some("template")).await.unwrap();
        let (client, connection) = tokio_postgres::connect(&postgres.owner_url(name), NoTls).await.unwrap();
        tokio::spawn(connection);
        client.query_one("select n from t", &[]).await.unwrap().get::<_, i32>(0)
    };
    let copies = tokio::join!(copy("one"), copy("two"), copy("a \"third\""));
    assert_eq!(copies, (7, 7, 7));
    postgres.drop_database("one").await.unwrap();
    postgres.create_database("one", None).await.unwrap();
    services.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why_at_once() {
    let since = Instant::now();
    let refused = Options { max_connections: 0, ..QUICK };
    let error = Services::start(&refused, &|_| {}).await.unwrap_err();
    assert!(format!("{error:#}").contains("max_connections"), "{error:#}");
    assert!(since.elapsed() < Duration::from_secs(15));
}

/// Not a test of its own: what the tests above run as another process and then kill.
#[tokio::test]
async fn holds_services_for_another_test() {
    if std::env::var_os(HOLD).is_none() {
        return;
    }
    let services = started().await;
    // Listening before anybody knows: the signal may come right after the line.
    let mut interrupts = signal(SignalKind::interrupt()).unwrap();
    tell(&format!("HOLDING {}", services.folder().display()));
    interrupts.recv().await.unwrap();
    let answering = answers(services.postgres.port()).await && answers(services.redis.port()).await;
    tell(if answering { "INTERRUPTED still answering" } else { "INTERRUPTED silent" });
    services.stop().await.unwrap();
}

/// Set for the process that [`holds_services_for_another_test`].
const HOLD: &str = "HARNESS_TEST_HOLDS_SERVICES";

/// This test binary, told to start services and keep them.
fn holder() -> Command {
    let module = module_path!().split_once("::").unwrap().1;
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", &format!("{module}::holds_services_for_another_test")]);
    command.process_group(0).env(HOLD, "1").stdin(Stdio::null()).stdout(Stdio::piped());
    command.into()
}

/// Another process that has started services.
struct Holder {
    child: Child,
    pid: u32,
    lines: Lines<BufReader<ChildStdout>>,
    folder: PathBuf,
}

impl Holder {
    async fn start(mut command: Command) -> Self {
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let pid = child.id().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut holder = Self { child, pid, lines, folder: PathBuf::new() };
        holder.folder = holder.next("HOLDING ").await.into();
        holder
    }

    /// SIGKILL for the holder; returns when its services, its folder and its watchdog, whose
    /// name in the process list carries the holder's pid, are gone too.
    async fn killed(mut self) {
        assert!(running_in(&self.folder).len() >= 2, "Postgres and Redis run");
        self.child.kill().await.unwrap();
        let watchdog = format!("watchdog-of-{}", self.pid);
        let deadline = Instant::now() + Duration::from_secs(6);
        let mut poll = tokio::time::interval(Duration::from_millis(20));
        loop {
            let mut left = running_in(&self.folder);
            left.extend(running(|process| command_line(process).contains(&watchdog)));
            if left.is_empty() && !self.folder.exists() {
                return;
            }
            assert!(Instant::now() < deadline, "left in {}: {left:?}", self.folder.display());
            poll.tick().await;
        }
    }

    /// What follows `word` in the next line that has it. The test framework writes to the
    /// same stream, on the same line too.
    async fn next(&mut self, word: &str) -> String {
        while let Some(line) = self.lines.next_line().await.unwrap() {
            if let Some((_, rest)) = line.split_once(word) {
                return rest.to_owned();
            }
        }
        panic!("the other process ended without a line {word}");
    }
}

#[expect(clippy::print_stdout, reason = "the pipe to the process that started this one")]
fn tell(line: &str) {
    println!("{line}");
}

async fn started() -> Services {
    Services::start(&QUICK, &|_| {}).await.unwrap()
}

/// The target folder, as `cargo local` uses it: it outlives the tests.
fn cache() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

async fn answers(port: u16) -> bool {
    tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
}

/// The command lines of the processes whose working folder is in `folder`: every service's.
fn running_in(folder: &Path) -> Vec<String> {
    running(|process| process.join("cwd").read_link().is_ok_and(|cwd| cwd.starts_with(folder)))
}

/// The command lines of the processes that `wanted` picks by their folder in `/proc`.
fn running(wanted: impl Fn(&Path) -> bool) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    processes.filter(|process| wanted(process)).map(|process| command_line(&process)).collect()
}

fn command_line(process: &Path) -> String {
    let bytes = std::fs::read(process.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

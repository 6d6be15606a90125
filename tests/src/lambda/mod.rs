//! Plays Lambda for one function: its real binary, the real Runtime API, on loopback.
//!
//! What stands between a function and the world on Lambda is here and nowhere in the function: an environment with
//! nothing in it but what was configured, one invocation at a time, events as JSON, an answer of at most 6 MB.
//! Source: <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>.

pub mod http;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ::http::{HeaderName, StatusCode};
use anyhow::{Context, Result, anyhow, bail};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path as InPath, State, rejection::BytesRejection},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chat_core::ids::RequestId;
use serde::Serialize;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpListener,
    process::Command,
    sync::{self, OnceCell, mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::clients::{Answer, PATIENCE};
use http::{http_answer, http_event};

/// Largest answer that Lambda takes from a function, in bytes.
/// Source: <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>, "Invocation payload".
const MAX_ANSWER_BYTES: usize = 6 * 1024 * 1024;

/// What is deployed of the workspace, by the names of the binaries.
const DEPLOYED: &[&str] = &["conversations", "dead_letters", "hub", "orchestrator"];

/// A function that runs, alone in its environment. Dropping it kills the process.
pub struct Lambda {
    name: String,
    pid: u32,
    began: Instant,
    calls: mpsc::Sender<Call>,
    first_poll: watch::Receiver<Option<Instant>>,
    exit: watch::Receiver<Option<ExitStatus>>,
    said: Arc<Mutex<String>>,
    /// The server and whoever waits for the process; they end with us.
    _tasks: JoinSet<()>,
}

/// How a function ended by itself.
#[derive(Debug)]
pub struct Exit {
    /// Its status.
    pub status: ExitStatus,
    /// What it wrote, to stdout and stderr.
    pub said: String,
}

/// An invocation on its way to the function.
struct Call {
    event: Vec<u8>,
    answer: oneshot::Sender<Result<Value>>,
}

/// What the endpoints share.
struct Runtime {
    name: String,
    calls: sync::Mutex<mpsc::Receiver<Call>>,
    /// The invocations that the function has and has not answered, by request id.
    open: Mutex<BTreeMap<String, oneshot::Sender<Result<Value>>>>,
    first_poll: watch::Sender<Option<Instant>>,
    said: Arc<Mutex<String>>,
}

impl Lambda {
    /// Starts a function's binary with these settings, beside those that Lambda itself sets, and no others.
    ///
    /// # Errors
    /// If there is no port, or no such program.
    pub async fn start(program: &Path, env: &[(&str, String)]) -> Result<Self> {
        let name = program.file_name().context("a program without a name")?.to_string_lossy().into_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let api = listener.local_addr()?.to_string();
        // One at a time: the sender waits until the function takes the call.
        let (calls, taken) = mpsc::channel(1);
        let (polled, first_poll) = watch::channel(None);
        let (exited, exit) = watch::channel(None);
        let said = Arc::new(Mutex::new(String::new()));
        let runtime = Runtime {
            name: name.clone(),
            calls: sync::Mutex::new(taken),
            open: Mutex::default(),
            first_poll: polled,
            said: Arc::clone(&said),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // It ends with us; until then there is nothing that it could fail with.
            let _ = axum::serve(listener, router(runtime)).await;
        });
        let began = Instant::now();
        let mut child = Command::new(program)
            .env_clear()
            .envs(reserved(&name, &api))
            .envs(env.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("could not start {}", program.display()))?;
        let pid = child.id().context("it has only just begun")?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let heard = Arc::clone(&said);
        tasks.spawn(async move {
            let (status, (), ()) = tokio::join!(child.wait(), listen(stdout, &heard), listen(stderr, &heard));
            // Whoever does not listen does not want to know.
            let _ = exited.send(status.ok());
        });
        Ok(Self { name, pid, began, calls, first_poll, exit, said, _tasks: tasks })
    }

    /// Waits until the function has asked for its first event; returns the time from exec to then.
    ///
    /// # Errors
    /// If it ends first, with what it said, or never asks.
    pub async fn ready(&self) -> Result<Duration> {
        let mut first_poll = self.first_poll.clone();
        let polled = async { first_poll.wait_for(Option::is_some).await.ok().and_then(|polled| *polled) };
        let polled = self.before_its_end("ready", polled).await?;
        Ok(polled.context("the Runtime API is gone")?.duration_since(self.began))
    }

    /// How long ago it was started.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Invokes the function and returns its answer.
    ///
    /// # Errors
    /// If it answers with an error, ends first, or does not answer in time; with what it said.
    pub async fn invoke(&self, event: &impl Serialize) -> Result<Value> {
        let (answer, answered) = oneshot::channel();
        let call = Call { event: serde_json::to_vec(event)?, answer };
        let answered = async {
            self.calls.send(call).await.map_err(|_| anyhow!("the Runtime API is gone"))?;
            answered.await.map_err(|_| anyhow!("the invocation was dropped"))?
        };
        self.before_its_end("answered", answered).await?
    }

    /// Invokes the function as an HTTP API does; `path` may have a query.
    ///
    /// # Errors
    /// As [`Lambda::invoke`], and if the answer is not one for an HTTP API.
    pub async fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer> {
        let answer = self.invoke(&http_event(method, path, headers, body)).await?;
        http_answer(&answer).with_context(|| format!("no answer for an HTTP API: {answer}"))
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Waits until the function ends by itself.
    ///
    /// # Errors
    /// If it goes on.
    pub async fn exit(&self) -> Result<Exit> {
        let mut exit = self.exit.clone();
        let status = timeout(PATIENCE, exit.wait_for(Option::is_some)).await;
        let status = status.map_err(|_| anyhow!("{} does not end; it said:\n{}", self.name, self.said()))?;
        let status = status.ok().and_then(|status| *status).context("nobody knows how it ended")?;
        Ok(Exit { status, said: self.said() })
    }

    /// What the function wrote until now, to stdout and stderr, and what it told the Runtime API of its start.
    #[must_use]
    pub fn said(&self) -> String {
        lock(&self.said).clone()
    }

    async fn before_its_end<T>(&self, what: &str, wanted: impl Future<Output = T>) -> Result<T> {
        let mut exit = self.exit.clone();
        tokio::select! {
            biased;
            wanted = timeout(PATIENCE, wanted) => {
                wanted.map_err(|_| anyhow!("{} is not {what} in time; it said:\n{}", self.name, self.said()))
            }
            _ = exit.wait_for(Option::is_some) => {
                bail!("{} ended before it {what}; it said:\n{}", self.name, self.said())
            }
        }
    }
}

/// What Lambda sets for every function.
/// Source: <https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html>, "Defined runtime environment
/// variables".
fn reserved(name: &str, api: &str) -> [(&'static str, String); 12] {
    [
        ("AWS_LAMBDA_RUNTIME_API", api.to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", name.to_owned()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256".to_owned()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{name}")),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/01/01/[$LATEST]0".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "local".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
        ("LAMBDA_TASK_ROOT", "/var/task".to_owned()),
        ("TZ", ":UTC".to_owned()),
    ]
}

fn router(runtime: Runtime) -> Router {
    Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
        .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
        .route("/2018-06-01/runtime/init/error", post(init_error))
        .layer(DefaultBodyLimit::max(MAX_ANSWER_BYTES))
        .with_state(Arc::new(runtime))
}

/// The next event, as soon as there is one. Losing the connection loses nothing: a call is taken only to be answered.
async fn next(State(runtime): State<Arc<Runtime>>) -> Response {
    runtime.first_poll.send_if_modified(|polled| {
        let first = polled.is_none();
        polled.get_or_insert_with(Instant::now);
        first
    });
    let Some(call) = runtime.calls.lock().await.recv().await else { return StatusCode::GONE.into_response() };
    let id = RequestId::new().to_string();
    let deadline = SystemTime::now() + PATIENCE;
    let deadline_ms = deadline.duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_millis();
    lock(&runtime.open).insert(id.clone(), call.answer);
    let headers = [
        ("lambda-runtime-aws-request-id", id),
        ("lambda-runtime-deadline-ms", deadline_ms.to_string()),
        (
            "lambda-runtime-invoked-function-arn",
            format!("arn:aws:lambda:us-east-1:000000000000:function:{}", runtime.name),
        ),
        ("lambda-runtime-trace-id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0".to_owned()),
        ("content-type", "application/json".to_owned()),
    ];
    (headers.map(|(name, value)| (HeaderName::from_static(name), value)), call.event).into_response()
}

async fn response(
    State(runtime): State<Arc<Runtime>>,
    InPath(id): InPath<String>,
    body: Result<Bytes, BytesRejection>,
) -> StatusCode {
    let (status, answer) = match body {
        Ok(body) => (StatusCode::ACCEPTED, serde_json::from_slice(&body).context("the answer is no JSON")),
        Err(refused) if refused.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            (refused.status(), Err(anyhow!("the answer has more than {MAX_ANSWER_BYTES} bytes")))
        }
        Err(refused) => (refused.status(), Err(anyhow!("the answer broke off: {refused}"))),
    };
    runtime.answer(&id, answer).unwrap_or(status)
}

async fn error(State(runtime): State<Arc<Runtime>>, InPath(id): InPath<String>, body: Bytes) -> StatusCode {
    let answer = Err(anyhow!("{} failed: {}", runtime.name, String::from_utf8_lossy(&body)));
    runtime.answer(&id, answer).unwrap_or(StatusCode::ACCEPTED)
}

async fn init_error(State(runtime): State<Arc<Runtime>>, body: Bytes) -> StatusCode {
    lock(&runtime.said).push_str(&format!("init error: {}\n", String::from_utf8_lossy(&body)));
    StatusCode::ACCEPTED
}

impl Runtime {
    /// Hands an answer on; the status is that of an invocation that nobody has open.
    fn answer(&self, id: &str, answer: Result<Value>) -> Option<StatusCode> {
        let Some(waits) = lock(&self.open).remove(id) else { return Some(StatusCode::BAD_REQUEST) };
        // Whoever gave up waiting has said so already.
        let _ = waits.send(answer);
        None
    }
}

/// Takes down what a process writes, until it ends.
async fn listen(pipe: Option<impl AsyncRead + Unpin>, said: &Mutex<String>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        lock(said).push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The folder with the deployed binaries, of the profile that this process was built with; built where they are missing or
/// old. Cargo builds a package's binaries for that package's tests alone, and these are others'.
///
/// # Errors
/// What the compiler says.
pub async fn binaries() -> Result<PathBuf> {
    static FOLDER: OnceCell<PathBuf> = OnceCell::const_new();
    FOLDER.get_or_try_init(own_profile).await.cloned()
}

/// The folder with binaries whose defences can be taken out, built in a target folder of their own so that nobody takes
/// them for others. `besides` are programs of the harness that are wanted beside what is deployed.
///
/// # Errors
/// What the compiler says.
pub async fn sabotaged_binaries(besides: &[&str]) -> Result<PathBuf> {
    let target = crate::cache().join("sabotage");
    let besides = besides.iter().flat_map(|name| ["--bin", name]);
    let options: Vec<&str> = ["--features", "chat-core/sabotage"].into_iter().chain(besides).collect();
    build(&target, "dev", &options).await?;
    Ok(target.join("debug"))
}

async fn own_profile() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    // target/PROFILE/deps/it-0123456789abcdef, but a binary such as `local` is in target/PROFILE itself.
    let folder = own.parent().context("a program in no folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().context("deps/ in no folder")? } else { folder };
    let profile = folder.file_name().and_then(|name| name.to_str()).context("a profile's folder")?;
    let target = folder.parent().context("a profile's folder in no target folder")?;
    build(target, if profile == "debug" { "dev" } else { profile }, &[]).await?;
    Ok(folder.to_owned())
}

#[expect(clippy::disallowed_methods, reason = "names a program, not a setting")]
async fn build(target: &Path, profile: &str, options: &[&str]) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    // The whole workspace, because the features of shared dependencies add up over what is built together.
    command.args(["build", "--workspace", "--quiet", "--profile", profile]).args(options);
    command.args(DEPLOYED.iter().flat_map(|name| ["--bin", name]));
    command.arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("could not start cargo")?;
    if !output.status.success() {
        bail!("cargo could not build what is deployed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

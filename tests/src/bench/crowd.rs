//! Many sockets in a process of their own, which does as a line on its standard input says and answers with a line.
//!
//! A process holds so many files, and the hub needs its own; and what its clients cost must not count as the hub's. They do
//! what a browser does: authenticate, listen, and come back after any end with the `seq` they have seen.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, ensure};
use futures::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpSocket, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest, protocol::WebSocketConfig},
};

use super::pass;

/// Bytes that a socket of ours reads at once; the library's default is 128 KiB.
const READ_BUFFER: usize = 4 * 1024;

/// Back-off of a socket that lost its hub, as the page's client has it: at random from the least up to it doubled with
/// every try, 20 s at most.
const LEAST_WAIT: Duration = Duration::from_millis(500);
const MOST_WAIT: Duration = Duration::from_secs(20);

/// Longest wait for a hub to let a socket in.
const PATIENCE: Duration = Duration::from_secs(60);

/// One who comes in: the conversation and a token.
pub type Entrant = (String, String);

/// What a crowd shall do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Come in, so many at once, and stay. Who loses their hub comes back to these, one after the other.
    Join {
        /// The hubs, as `ws://…`; the first one is where all go.
        hubs: Vec<String>,
        /// Who.
        entrants: Vec<Entrant>,
        /// How many at the same time.
        at_once: usize,
    },
    /// Say how it stands.
    Count,
    /// Say how long what was published since the last time was under way.
    Heard,
    /// Leave.
    Leave,
}

/// How a crowd stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Let in, and ready.
    pub ready: usize,
    /// Tries that failed so far.
    pub failed: u64,
    /// Times that somebody was let in.
    pub entered: u64,
}

/// What was heard.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Heard {
    /// Frames that tell when they were published.
    pub frames: u64,
    /// How long they were under way, in microseconds.
    pub p50_us: u64,
    /// The same for all but one in a hundred.
    pub p99_us: u64,
    /// The same for all but one in a thousand.
    pub p999_us: u64,
}

/// Now, in nanoseconds, as the frames that measure carry it.
///
/// # Panics
/// Before 1970.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
    u64::try_from(since).expect("before 2554")
}

/// A crowd, seen from the process that started it.
pub struct Crowd {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Crowd {
    /// Starts the process: this program, with `crowd`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(program: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .arg("crowd")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting a crowd")?;
        let stdin = child.stdin.take().context("a pipe")?;
        let stdout = BufReader::new(child.stdout.take().context("a pipe")?).lines();
        Ok(Self { child, stdin, stdout })
    }

    /// The process, as long as it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Has it do something, and waits until that is done.
    ///
    /// # Errors
    /// What it could not do.
    pub async fn order<T: for<'de> Deserialize<'de>>(&mut self, order: &Order) -> Result<T> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        self.stdin.write_all(&line).await?;
        let answer = self.stdout.next_line().await?.context("the crowd has ended")?;
        let answer: std::result::Result<serde_json::Value, String> = serde_json::from_str(&answer)?;
        Ok(serde_json::from_value(answer.map_err(|error| anyhow!(error))?)?)
    }

    /// How it stands.
    ///
    /// # Errors
    /// If it has ended.
    pub async fn standing(&mut self) -> Result<Standing> {
        self.order(&Order::Count).await
    }

    /// Lets all of them leave, and ends.
    ///
    /// # Errors
    /// If it has ended already.
    pub async fn leave(mut self) -> Result<()> {
        let () = self.order(&Order::Leave).await?;
        drop(self.stdin);
        self.child.wait().await?;
        Ok(())
    }
}

/// What the sockets of one process share.
struct Shared {
    hubs: Vec<String>,
    ready: AtomicUsize,
    failed: AtomicU64,
    entered: AtomicU64,
    heard: Mutex<Histogram<u64>>,
    doors: Semaphore,
}

/// Does what its standard input says, until that ends.
///
/// # Errors
/// If a line is no order.
pub async fn serve() -> Result<()> {
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let mut stdout = tokio::io::stdout();
    let mut crowd: Option<(Arc<Shared>, JoinSet<()>)> = None;
    while let Some(line) = orders.next_line().await? {
        let answer = obey(&mut crowd, serde_json::from_str(&line)?).await.map_err(|error| format!("{error:#}"));
        stdout.write_all(format!("{}\n", serde_json::to_string(&answer)?).as_bytes()).await?;
        stdout.flush().await?;
    }
    Ok(())
}

async fn obey(crowd: &mut Option<(Arc<Shared>, JoinSet<()>)>, order: Order) -> Result<serde_json::Value> {
    match order {
        Order::Join { hubs, entrants, at_once } => {
            let shared = Arc::new(Shared {
                hubs,
                ready: AtomicUsize::new(0),
                failed: AtomicU64::new(0),
                entered: AtomicU64::new(0),
                heard: Mutex::new(Histogram::new_with_bounds(1, 60_000_000, 3)?),
                doors: Semaphore::new(at_once),
            });
            let mut sockets = JoinSet::new();
            let wanted = entrants.len();
            for (conversation, token) in entrants {
                let shared = Arc::clone(&shared);
                sockets.spawn(async move { live(&shared, &conversation, &token).await });
            }
            let deadline = Instant::now() + PATIENCE * 10;
            while shared.ready.load(Ordering::Relaxed) < wanted {
                ensure!(Instant::now() < deadline, "only {} came in", shared.ready.load(Ordering::Relaxed));
                pass(Duration::from_millis(20)).await;
            }
            *crowd = Some((shared, sockets));
            Ok(json!(null))
        }
        Order::Count => {
            let (shared, _) = crowd.as_ref().context("nobody is here")?;
            Ok(serde_json::to_value(Standing {
                ready: shared.ready.load(Ordering::Relaxed),
                failed: shared.failed.load(Ordering::Relaxed),
                entered: shared.entered.load(Ordering::Relaxed),
            })?)
        }
        Order::Heard => {
            let (shared, _) = crowd.as_ref().context("nobody is here")?;
            let mut heard = shared.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let told = Heard {
                frames: heard.len(),
                p50_us: heard.value_at_quantile(0.5),
                p99_us: heard.value_at_quantile(0.99),
                p999_us: heard.value_at_quantile(0.999),
            };
            heard.reset();
            Ok(serde_json::to_value(told)?)
        }
        Order::Leave => {
            if let Some((_, mut sockets)) = crowd.take() {
                sockets.shutdown().await;
            }
            Ok(json!(null))
        }
    }
}

/// One who stays: comes in, listens, and comes back whenever that ends.
async fn live(shared: &Shared, conversation: &str, token: &str) {
    let (mut seen, mut tries) = (None, 0_u32);
    for hub in 0.. {
        let hub = &shared.hubs[hub % shared.hubs.len()];
        match enter(shared, hub, conversation, token, seen).await {
            Ok((socket, last_seq)) => {
                shared.ready.fetch_add(1, Ordering::Relaxed);
                shared.entered.fetch_add(1, Ordering::Relaxed);
                (seen, tries) = (Some(last_seq), 0);
                listen(shared, socket).await;
                shared.ready.fetch_sub(1, Ordering::Relaxed);
            }
            Err(_) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                tries += 1;
            }
        }
        let most = MOST_WAIT.min(LEAST_WAIT * 2_u32.saturating_pow(tries + 1));
        let wait = rand::random_range(LEAST_WAIT..=most);
        pass(wait).await;
    }
}

type Socket = WebSocketStream<TcpStream>;

/// Connects, from some address of the many that a loopback has where the system lets us choose: of one address the ports
/// run out, since each is kept for a minute after its connection.
async fn connect(to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if cfg!(target_os = "linux") {
        let from = Ipv4Addr::new(127, rand::random_range(1..=250), rand::random(), rand::random_range(1..=250));
        socket.bind((from, 0).into())?;
    }
    Ok(socket.connect(to).await?)
}

/// Comes in. The socket, and the newest `seq` of its conversation.
async fn enter(
    shared: &Shared,
    hub: &str,
    conversation: &str,
    token: &str,
    last_seq: Option<i64>,
) -> Result<(Socket, i64)> {
    let _door = shared.doors.acquire().await?;
    let entering = async {
        let tcp = connect(hub.trim_start_matches("ws://").parse()?).await?;
        tcp.set_nodelay(true)?;
        let request = format!("{hub}/chat/ws/{conversation}").into_client_request()?;
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER).write_buffer_size(0);
        let (mut socket, _) = client_async_with_config(request, tcp, Some(config)).await?;
        let auth = json!({"type": "auth", "token": token, "last_seq": last_seq});
        socket.send(Message::text(auth.to_string())).await?;
        loop {
            let Message::Text(text) = socket.next().await.context("the end")?? else { continue };
            let frame: serde_json::Value = serde_json::from_str(&text)?;
            if frame["type"] == "ready" {
                return anyhow::Ok((socket, frame["last_seq"].as_i64().context("a seq")?));
            }
        }
    };
    timeout(PATIENCE, entering).await?
}

/// Listens until the end; what tells when it was published is measured.
async fn listen(shared: &Shared, mut socket: Socket) {
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        // A `tool` frame, whose name is the time: the cheapest frame that may say anything.
        let Some(since) = text.split_once("\"name\":\"").and_then(|(_, rest)| rest.split('"').next()) else { continue };
        let Ok(since) = since.parse::<u64>() else { continue };
        let us = now().saturating_sub(since) / 1_000;
        shared.heard.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(us.max(1));
    }
}

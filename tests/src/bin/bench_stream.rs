//! `cargo bench-stream`: replies that come token by token, from the provider to the socket.
//!
//! A provider over HTTP says its tokens at a steady pace and notes when; each socket notes when it hears them. So every
//! figure is what the house adds to the provider's own time, measured in the same run on the same clock. The words are
//! collected for several times in turn (`DELTA_MS`): how much later they come, and what that saves.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints a table")]

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse, Response},
    routing::post,
    serve::ListenerExt,
};
use chat_core::{
    config::{self, Memory, Secret, Speaks, Times, Titles},
    store::migrate::migrate,
};
use clap::Parser;
use futures::{future::try_join_all, stream};
use harness::{
    app,
    clients::{Rest, Socket},
    demo::{self, Size},
    mint::Mint,
    product::{Product, QueueKind, Setting, real_channels},
    series::Series,
    services::{Options, Services},
};
use orchestrator::model::{Models, provider::Patience};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    time::{Instant, interval},
};

/// Replies that come token by token, from the provider to the socket.
#[derive(Parser)]
struct Cli {
    /// How long words are collected, in milliseconds; several runs, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "0,20,40,80")]
    collect: Vec<u64>,
    /// How many sockets ask at once.
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    sockets: Vec<usize>,
    /// Replies that each socket asks for.
    #[arg(long, default_value_t = 10)]
    replies: usize,
    /// Tokens of a reply.
    #[arg(long, default_value_t = 150)]
    tokens: usize,
    /// Time between two tokens, in milliseconds.
    #[arg(long, default_value_t = 10)]
    pace: u64,
    /// Where to write the figures as JSON.
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

/// A token: five characters.
const TOKEN: &str = "word ";

/// When the provider was asked for each reply, and when it said each token.
#[derive(Clone)]
struct Provider {
    said: Arc<Mutex<HashMap<String, Vec<Instant>>>>,
    tokens: usize,
    pace: Duration,
}

impl Provider {
    fn note(&self, message: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.entry(message.to_owned()).or_default().push(Instant::now());
    }

    /// When it was asked, and then when it said each token.
    fn times(&self, message: &str) -> Vec<Instant> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).remove(message).unwrap_or_default()
    }

    async fn complete(State(provider): State<Self>, body: Bytes) -> Response {
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let last = body["messages"].as_array().and_then(|messages| messages.last());
        let message = last.and_then(|last| last["content"].as_str()).unwrap_or_default().to_owned();
        provider.note(&message);
        // The first tick comes at once; and ticks that come late do not move those after them.
        let mut pace = interval(provider.pace);
        pace.tick().await;
        let events = stream::unfold((0, pace), move |(told, mut pace)| {
            let (provider, message) = (provider.clone(), message.clone());
            async move {
                if told > provider.tokens {
                    return None;
                }
                let event = if told == provider.tokens {
                    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
                    format!("data: {end}\n\ndata: [DONE]\n\n")
                } else {
                    pace.tick().await;
                    provider.note(&message);
                    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": TOKEN}}]}))
                };
                Some((Ok::<_, Infallible>(event), (told + 1, pace)))
            }
        });
        ([("content-type", "text/event-stream")], Body::from_stream(events)).into_response()
    }
}

/// What was measured, in milliseconds.
#[derive(Default)]
struct Figures {
    /// From `accepted` to when the provider was asked.
    asked: Series,
    /// From the provider's first token to the first `delta`.
    first: Series,
    /// From each token to the `delta` that brings it.
    token: Series,
    /// From the provider's last token to the `response`.
    response: Series,
    deltas: usize,
    replies: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let say = |step: &str| eprintln!("  {step}");
    let services = Services::start(&Options { durable: true, max_connections: 200 }, &say).await?;
    services.postgres.create_database("bench", None).await?;
    let owner_url = services.postgres.owner_url("bench");
    migrate(&Secret::from(owner_url.clone())).await?;
    let most = cli.sockets.iter().copied().max().unwrap_or(1);
    let demo = demo::seed(&owner_url, Size { tenants: 1, users: most, agents: 1 }).await?;
    app::connect(&owner_url).await?.execute("update agents set model = 'steady'", &[]).await?;

    let provider = Provider { said: Arc::default(), tokens: cli.tokens, pace: Duration::from_millis(cli.pace) };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let base_url = format!("http://{}/v1", listener.local_addr()?);
    // As the services' own front ends: a small write does not wait for the acknowledgement of the one before.
    let listener = listener.tap_io(|tcp| tcp.set_nodelay(true).unwrap_or_default());
    let router = Router::new().route("/v1/chat/completions", post(Provider::complete)).with_state(provider.clone());
    tokio::spawn(axum::serve(listener, router).into_future());

    println!(
        "{} tokens, one each {} ms; Postgres durable; queue in-process; times in ms, p50/p99; CPU of everything but Postgres",
        cli.tokens, cli.pace
    );
    println!(
        "{:>7} {:>7} | {:>15} {:>15} {:>15} {:>15} | {:>7} {:>13} {:>13}",
        "collect", "sockets", "asked after", "first delta", "any token", "response after", "deltas", "CPU", "Redis CPU"
    );
    println!(
        "{:>7} {:>7} | {:>15} {:>15} {:>15} {:>15} | {:>7} {:>13} {:>13}",
        "ms",
        "",
        "accepted",
        "after its token",
        "to its delta",
        "the last token",
        "a reply",
        "ms a reply",
        "ms a reply"
    );
    let mut report = Vec::new();
    let mut epoch = 0;
    for &sockets in &cli.sockets {
        for &collect in &cli.collect {
            epoch += 1;
            let mint = Mint::new();
            let model = config::Model {
                provider: Some(config::Provider::main(Speaks::OpenAi, &base_url, None)),
                ..config::Model::default()
            };
            let times = Times { delta: Duration::from_millis(collect), ..Times::default() };
            let setting = Setting {
                database_url: services.postgres.app_url("bench"),
                redis: services.redis.entrance.clone(),
                queue: QueueKind::Local(None),
                token: mint.settings(),
                allowed_origins: Vec::new(),
                trusted_proxies: 0,
                portal: config::Portal::default(),
                metrics: config::Metrics::default(),
                local_portal: None,
                limits: app::lifted(),
                times,
                notices: config::Notices::default(),
                sealing: config::Sealing::default(),
                memory: Memory::default(),
                titles: Titles { turns: 0 },
                model: Arc::new(Models::new(&model, Patience::within(times.turn))),
                channels: real_channels(),
                figures: orchestrator::figures::Figures::default(),
                pool_size: 8,
            };
            let mut product = Product::start(&setting, TcpListener::bind(("127.0.0.1", 0)).await?).await?;
            product.answers().await?;
            let (ours, redis) = (cpu("self"), cpu(&services.redis.pid().to_string()));
            let mut runs = Vec::new();
            for (number, user) in demo.users.iter().filter(|user| user.tenant.is_some()).take(sockets).enumerate() {
                let token = mint.token(user.id, user.role, user.tenant, Duration::from_secs(3_600));
                let rest = Rest::new(&product.rest(), Some(&token));
                let agent = demo.agents.first().context("an agent")?;
                let conversation = rest.open(agent.tenant, agent.id).await?;
                let (socket, _) = Socket::join(&product.ws(), &conversation, &token).await?;
                let name = format!("{epoch}.{number}");
                runs.push(tokio::spawn(talk(socket, provider.clone(), name, cli.replies)));
            }
            let mut all = Figures::default();
            for figures in try_join_all(runs).await? {
                let figures = figures?;
                for (all, one) in [
                    (&mut all.asked, figures.asked),
                    (&mut all.first, figures.first),
                    (&mut all.token, figures.token),
                    (&mut all.response, figures.response),
                ] {
                    all.0.extend(one.0);
                }
                all.deltas += figures.deltas;
                all.replies += figures.replies;
            }
            #[expect(clippy::cast_precision_loss, reason = "figures for people")]
            let each = |sum: f64| sum / all.replies as f64;
            #[expect(clippy::cast_precision_loss, reason = "figures for people")]
            let deltas = each(all.deltas as f64);
            let (ours, redis) = (each(cpu("self") - ours), each(cpu(&services.redis.pid().to_string()) - redis));
            println!(
                "{collect:>7} {sockets:>7} | {:>15} {:>15} {:>15} {:>15} | {deltas:>7.1} {ours:>13.1} {redis:>13.2}",
                all.asked.pair(),
                all.first.pair(),
                all.token.pair(),
                all.response.pair(),
            );
            report.push(json!({
                "collect_ms": collect,
                "sockets": sockets,
                "asked_after_accepted_ms": all.asked.json(),
                "first_delta_after_first_token_ms": all.first.json(),
                "delta_after_token_ms": all.token.json(),
                "response_after_last_token_ms": all.response.json(),
                "deltas_a_reply": deltas,
                "cpu_ms_a_reply": ours,
                "redis_cpu_ms_a_reply": redis,
            }));
            product.stop().await?;
        }
    }
    if let Some(path) = cli.json {
        std::fs::write(&path, serde_json::to_string_pretty(&report)?).context("writing the figures")?;
    }
    services.stop().await
}

/// Asks for replies, one after the other, and notes when it hears what.
async fn talk(socket: Socket, provider: Provider, name: String, replies: usize) -> Result<Figures> {
    let mut socket = socket.trusting();
    let mut figures = Figures::default();
    for number in 0..replies {
        let message = format!("message {name}.{number}");
        socket.message(&message, None).await?;
        socket.until("accepted").await?;
        let accepted = Instant::now();
        // When how many tokens had been heard.
        let mut heard: Vec<(Instant, usize)> = Vec::new();
        let response = loop {
            let frame = socket.next().await?;
            let now = Instant::now();
            match frame["type"].as_str() {
                Some("delta") => {
                    let offset = frame["offset"].as_u64().context("an offset")?;
                    let text = frame["text"].as_str().context("a text")?;
                    heard.push((now, (usize::try_from(offset)? + text.len()) / TOKEN.len()));
                }
                Some("response") => break now,
                _ => {}
            }
        };
        let times = provider.times(&message);
        let (asked, tokens) = times.split_first().context("the provider was asked")?;
        figures.asked.push(asked.saturating_duration_since(accepted));
        figures.response.push(response.saturating_duration_since(*tokens.last().context("tokens")?));
        for (number, said) in tokens.iter().enumerate() {
            // The last ones may come with the response alone.
            let came = heard.iter().find(|(_, until)| *until > number).map_or(response, |(came, _)| *came);
            let after = came.saturating_duration_since(*said);
            figures.token.push(after);
            if number == 0 {
                figures.first.push(after);
            }
        }
        figures.deltas += heard.len();
        figures.replies += 1;
    }
    Ok(figures)
}

/// The CPU time of a process so far, in milliseconds; not a number where the system does not tell this way. Source:
/// proc(5), fields 14 and 15 of `stat`, in ticks of 10 ms.
fn cpu(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or_else(Vec::new, |(_, fields)| fields.split(' ').collect());
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<u32>().ok());
    ticks(11).zip(ticks(12)).map_or(f64::NAN, |(user, system)| f64::from(user + system) * 10.0)
}

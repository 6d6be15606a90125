//! How long a function takes from its start to its first question for work, beside one that does nothing.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Stack, line, program, tell};
use crate::{
    demo::Size,
    lambda::Lambda,
    product::{QueueKind, SqsAddress},
    series::Series,
    services::User,
};

/// The functions, and as whom each comes into Redis.
const FUNCTIONS: &[(&str, User)] = &[
    ("conversations", User::Conversations),
    ("orchestrator", User::Orchestrator),
    ("dead_letters", User::DeadLetters),
];

/// Starts each so many times, in turn with the empty one.
///
/// # Errors
/// What cannot be started.
pub async fn run(times: usize) -> Result<Value> {
    let stack = Stack::start(Size { tenants: 1, users: 1, agents: 1 }).await?;
    let empty = program("empty_function")?;
    line(&format!("\ncold start: from exec to the first poll, {times} times each, in ms, p50; the files in MB"));
    line(&format!("{:>16} {:>8} {:>11} {:>9} {:>10}", "", "poll", "empty's", "of it", "file"));
    let mut report = Vec::new();
    for &(name, user) in FUNCTIONS {
        tell(&format!("cold start: {name}"));
        let path = program(name)?;
        let env = env(&stack, user);
        let (mut own, mut nothing) = (Series::default(), Series::default());
        for _ in 0..times {
            nothing.push(Lambda::start(&empty, &[]).await?.ready().await?);
            own.push(Lambda::start(&path, &env).await?.ready().await?);
        }
        let (own, nothing) = (own.quantile(0.5), nothing.quantile(0.5));
        let file = megabytes(&path)?;
        line(&format!("{name:>16} {own:>8.2} {nothing:>11.2} {:>9.2} {file:>10.1}", own / nothing));
        report.push(json!({
            "function": name, "first_poll_ms": own, "empty_first_poll_ms": nothing, "of_empty": own / nothing,
            "file_mb": file,
        }));
    }
    stack.stop().await?;
    Ok(json!(report))
}

fn env(stack: &Stack, user: User) -> Vec<(&'static str, String)> {
    let nowhere = "http://127.0.0.1:9".to_owned();
    let queue =
        SqsAddress { queue_url: format!("{nowhere}/queue"), dead_letters_url: String::new(), endpoint: nowhere };
    let setting = crate::product::Setting { queue: QueueKind::Sqs(queue), ..stack.setting.clone() };
    let mut env = crate::hub_process::environment(&setting).expect("a queue that others reach");
    env.push(("REDIS_URL", setting.redis.url(user)));
    env
}

#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn megabytes(path: &Path) -> Result<f64> {
    Ok(std::fs::metadata(path)?.len() as f64 / 1e6)
}

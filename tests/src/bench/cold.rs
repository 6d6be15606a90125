//! How long a function takes from its start to its first question for work, and to its first answer, beside one that does
//! nothing. The event waits from the start, as it does where somebody's request made Lambda start the function.

use std::{io::Write, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use chat_core::{ids::ConversationId, job::Job, store::Store, text::Text, timestamp::Timestamp, token::Identity};
use flate2::{Compression, write::DeflateEncoder};
use serde_json::{Value, json};

use super::{HOURS, Stack, line, pass, program, tell};
use crate::{
    demo::Size,
    lambda::{Lambda, http::http_event},
    product::{QueueKind, SqsAddress},
    pump,
    series::Series,
    services::User,
};

/// The functions, and as whom each comes into Redis.
const FUNCTIONS: &[(&str, User)] = &[
    ("conversations", User::Conversations),
    ("orchestrator", User::Orchestrator),
    ("dead_letters", User::DeadLetters),
];

/// Time between the end of one and the start of the next.
const SETTLING: Duration = Duration::from_millis(100);

/// Starts each so many times, in turn with the empty one.
///
/// # Errors
/// What cannot be started.
pub async fn run(times: usize) -> Result<Value> {
    let stack = Stack::start(Size { tenants: 1, users: times, agents: 1 }).await?;
    let empty = program("empty_function")?;
    line(&format!(
        "\ncold start: from exec to the first poll and the first answer, {times} times each, in ms, p50; in MB"
    ));
    line(&format!(
        "{:>16} {:>8} {:>11} {:>9} {:>9} {:>11} {:>9} {:>8} {:>8}",
        "", "poll", "empty's", "of it", "answer", "empty's", "of it", "file", "zipped"
    ));
    let mut report = Vec::new();
    for &(name, user) in FUNCTIONS {
        tell(&format!("cold start: {name}"));
        let path = program(name)?;
        let env = env(&stack, user);
        let mut series: [Series; 4] = Default::default();
        for event in events(&stack, name, times).await? {
            for (number, program, env) in [(0, &empty, [].as_slice()), (2, &path, env.as_slice())] {
                let function = Lambda::start(program, env).await?;
                let answer = function.invoke(&event).await?;
                series[number + 1].push(function.age());
                ensure!(number == 0 || well(name, &answer), "{name} answers {answer}");
                series[number].push(function.ready().await?);
                drop(function);
                // Its end, and its session's, shall not fall into the start of the next.
                pass(SETTLING).await;
            }
        }
        let [no_poll, no_answer, poll, answer] = series.each_mut().map(|series| series.quantile(0.5));
        let (file, zipped) = megabytes(&path)?;
        line(&format!(
            "{name:>16} {poll:>8.2} {no_poll:>11.2} {:>9.2} {answer:>9.2} {no_answer:>11.2} {:>9.2} {file:>8.1} {zipped:>8.1}",
            poll / no_poll,
            answer / no_answer
        ));
        report.push(json!({
            "function": name, "first_poll_ms": poll, "empty_first_poll_ms": no_poll, "of_empty": poll / no_poll,
            "first_answer_ms": answer, "empty_first_answer_ms": no_answer, "file_mb": file, "zip_mb": zipped,
        }));
    }
    stack.stop().await?;
    Ok(json!(report))
}

/// So many events for a function, each with something to do: a list of conversations, a turn that waits, a letter to keep.
async fn events(stack: &Stack, name: &str, times: usize) -> Result<Vec<Value>> {
    let store = Store::new(&stack.database())?;
    let people = stack.demo.users.iter().filter(|user| user.tenant.is_some());
    let mut events = Vec::new();
    for (number, user) in people.take(times).enumerate() {
        let tenant = user.tenant.context("of a company")?;
        events.push(match name {
            "conversations" => {
                let bearer = format!("Bearer {}", stack.mint.token(user.id, user.role, user.tenant, HOURS));
                let path = format!("{}/conversations?tenant_id={tenant}", conversations::BASE);
                http_event("GET", &path, &[("Authorization", &bearer)], None)
            }
            "orchestrator" => {
                let open = "insert into web_conversations (id, tenant_id, agent_id, user_id)
                            select gen_random_uuid(), tenant_id, id, $1::text::uuid from agents returning id::text";
                let opened = stack.owner.query_one(open, &[&user.id.to_string()]).await?;
                let conversation: ConversationId = opened.get::<_, String>(0).parse()?;
                let (role_hint, expires_at) = (Some(user.role), Timestamp::now());
                let who = Identity { user_id: user.id, expires_at, role_hint, tenant_hint: None };
                let text = Text::parse("Are you there?".to_owned(), 100)?;
                let (_, accepted) = store.accept(&who, conversation, &text, None, 100).await?;
                let job = Job::web(tenant, conversation, user.id, accepted.id.into());
                json!(pump::event(vec![pump::record(&number.to_string(), &job.body())]))
            }
            _ => json!(pump::event(vec![pump::record(&number.to_string(), "not a job")])),
        });
    }
    Ok(events)
}

/// Whether that is what a function answers that did what was wanted.
fn well(name: &str, answer: &Value) -> bool {
    match name {
        "conversations" => answer["statusCode"] == 200,
        _ => answer["batchItemFailures"].as_array().is_some_and(Vec::is_empty),
    }
}

fn env(stack: &Stack, user: User) -> Vec<(&'static str, String)> {
    let nowhere = "http://127.0.0.1:9".to_owned();
    let queue =
        SqsAddress { queue_url: format!("{nowhere}/queue"), dead_letters_url: String::new(), endpoint: nowhere };
    let setting = crate::product::Setting { queue: QueueKind::Sqs(queue), ..stack.setting.clone() };
    let mut env = crate::hub_process::environment(&setting).expect("a queue that others reach");
    env.push(("REDIS_URL", setting.redis.url(user)));
    // Somebody to ask, as every deployed orchestrator has; the agents here are echoes.
    env.extend([("MODEL_PROVIDER", "openai".to_owned()), ("MODEL_API_KEY", "sk-nobodys-0f1e2d3c4b5a6978".to_owned())]);
    env
}

/// The size of a file, and of what `zip -9` makes of it but for the 150 bytes of its names.
#[expect(clippy::cast_precision_loss, reason = "sizes for people")]
fn megabytes(path: &Path) -> Result<(f64, f64)> {
    let file = std::fs::read(path)?;
    let mut zip = DeflateEncoder::new(Vec::new(), Compression::best());
    zip.write_all(&file)?;
    Ok((file.len() as f64 / 1e6, zip.finish()?.len() as f64 / 1e6))
}

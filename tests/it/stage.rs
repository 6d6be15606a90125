//! What the tests of Slack and WhatsApp stand on: a product, both services behind it, and companies that are connected.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use chat_core::{
    Code, Error, Result,
    config::{self, Sealing, Secret, Times},
    ids::{AgentId, ConnectionId, TenantId},
    sealed::Sealer,
};
use futures::stream::BoxStream;
use harness::{
    app::{App, until},
    channels::{Act, Call, Slack, WhatsApp},
    product::Setting,
    pump::{event, record},
};
use orchestrator::{
    model::{Model, Piece, Prompt, Purse, Said, at_once},
    routes::delivery::{Channels, Patience},
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// The tokens of the connections that tests make, and the numbers of WhatsApp.
pub(crate) const BOT: &str = "xoxb-a-token-nobody-may-read";
pub(crate) const OTHER_BOT: &str = "xoxb-another-token";
pub(crate) const NUMBER: &str = "106540352242922";
pub(crate) const NUMBER_TOKEN: &str = "EAAa-token-nobody-may-read";
pub(crate) const PERSON: &str = "4915100000000";

/// Longest message that is taken in, in these tests.
pub(crate) const TEXT_CHARS: usize = 200;

/// A model that does what it is told, and remembers all it was asked.
pub(crate) struct Talker {
    /// Each prompt, as what was said in it.
    pub(crate) asked: Mutex<Vec<Vec<String>>>,
    /// Who is told to `wait` waits for a permit.
    pub(crate) gate: Semaphore,
}

impl Model for Talker {
    fn speak<'a>(&'a self, prompt: &'a Prompt, _: &'a dyn Purse) -> BoxStream<'a, Result<Piece>> {
        let said = prompt.said.iter().map(|said| match said {
            Said::User(text) => format!("user: {text}"),
            Said::Agent { text, .. } => format!("agent: {text}"),
            Said::Tool { result, .. } => format!("tool: {result}"),
        });
        self.asked.lock().unwrap().push(said.collect());
        at_once("talker", async move {
            let message = prompt.message();
            if message.starts_with("wait") {
                self.gate.acquire().await.expect("never closed").forget();
            }
            match message {
                "fail" => Err(Error::new(Code::ModelFailed, "no answer")),
                "control" => Ok("\u{1b}\0 ".to_owned()),
                "long" => Ok((0..2_000).map(|number| format!("word {number} & ")).collect()),
                "markup" => Ok("<!channel> a < b & *c*".to_owned()),
                "system" => Ok(prompt.system.clone()),
                _ => Ok(format!("re: {message}")),
            }
        })
    }
}

/// A product, and both services behind it. Acme has a connection to each: to its workspace T1 and to its number.
pub(crate) struct Stage {
    pub(crate) app: App,
    pub(crate) slack: Slack,
    pub(crate) whatsapp: WhatsApp,
    pub(crate) talker: Arc<Talker>,
    pub(crate) tenant: TenantId,
    pub(crate) agent: AgentId,
}

fn sealing() -> Sealing {
    Sealing::with(vec![[7; 32]])
}

/// The services at these addresses, waited for as long as a test can bear.
pub(crate) fn channels(slack_base_url: String, whatsapp_base_url: String) -> Channels {
    let patience =
        Patience { connect: Duration::from_secs(5), answer: Duration::from_secs(2), pause: Duration::from_millis(10) };
    let settings = config::Channels { slack_base_url, whatsapp_base_url };
    Channels::new(&settings, &sealing(), TEXT_CHARS, patience)
}

/// Starts one, with services that act as `script` says.
pub(crate) async fn stage(
    script: impl Fn(&Call) -> Act + Send + Sync + Clone + 'static,
    change: impl FnOnce(&mut Setting),
) -> Stage {
    let slack = Slack::start(&[BOT, OTHER_BOT], script.clone()).await.unwrap();
    let whatsapp = WhatsApp::start(&[(NUMBER, NUMBER_TOKEN)], script).await.unwrap();
    let talker = Arc::new(Talker { asked: Mutex::default(), gate: Semaphore::new(0) });
    let app = App::with(|setting| {
        setting.model = Arc::clone(&talker) as Arc<dyn Model>;
        setting.channels = channels(slack.base_url(), whatsapp.base_url());
        change(setting);
    })
    .await
    .unwrap();
    let agent = app.agent_of(app.user("ben@acme")).clone();
    let stage = Stage { app, slack, whatsapp, talker, tenant: agent.tenant, agent: agent.id };
    stage.connect(agent.tenant, agent.id, "slack", Some("T1"), Some(BOT)).await;
    stage.connect(agent.tenant, agent.id, "whatsapp", Some(NUMBER), Some(NUMBER_TOKEN)).await;
    stage
}

impl Stage {
    /// Connects an agent to a channel, as the portal does.
    pub(crate) async fn connect(
        &self,
        tenant: TenantId,
        agent: AgentId,
        channel: &str,
        external: Option<&str>,
        token: Option<&str>,
    ) -> ConnectionId {
        let id = ConnectionId::new();
        let seal = |token: &str| {
            let token = Secret::from(token.to_owned());
            Sealer::new(&sealing()).seal(tenant, &format!("channel:{id}"), &token).unwrap()
        };
        let insert = "insert into channel_connections (id, tenant_id, agent_id, channel_type, external_id, credentials)
            values ($1, $2, $3, $4, $5, $6)";
        let owner = self.app.owner().await.unwrap();
        owner.execute(insert, &[&id, &tenant, &agent, &channel, &external, &token.map(seal)]).await.unwrap();
        id
    }

    /// A message to acme's bot in Slack.
    pub(crate) fn slack(&self, id: &str, text: &str) -> Value {
        json!({
            "id": id, "tenant_id": self.tenant, "channel": "slack", "channel_metadata": {"team_id": "T1"},
            "sender": {"user_id": "U1", "display_name": "Ben"}, "content": {"text": text},
            "timestamp": moment(id), "thread_id": "1699999999.000100", "reply_to": null, "context": {},
            "channel_id": "C1", "bot_token": "xoxb-from-the-queue",
        })
    }

    /// A message to acme's number in WhatsApp.
    pub(crate) fn whatsapp(&self, id: &str, text: &str) -> Value {
        json!({
            "id": id, "tenant_id": self.tenant, "channel": "whatsapp", "channel_metadata": {},
            "sender": {"user_id": PERSON}, "content": {"text": text},
            "timestamp": moment(id), "thread_id": null, "phone_number_id": NUMBER,
        })
    }

    /// Delivers records, side by side in one batch; returns how many shall come again.
    pub(crate) async fn deliver(&self, bodies: &[&Value]) -> usize {
        let records = bodies.iter().enumerate().map(|(id, body)| record(&id.to_string(), &body.to_string())).collect();
        self.app.product.orchestrator.handle(event(records)).await.batch_item_failures.len()
    }

    /// Delivers one record.
    pub(crate) async fn one(&self, body: &Value) -> usize {
        self.deliver(&[body]).await
    }

    /// Every turn, by its message: state, code, attempts.
    pub(crate) async fn turns(&self) -> BTreeMap<String, (String, Option<String>, i32)> {
        let owner = self.app.owner().await.unwrap();
        let rows = owner.query("select message_id, state, code, attempt from channel_turns", &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3)))).collect()
    }

    /// Waits for a message's turn to be in this state.
    pub(crate) async fn becomes(&self, id: &str, state: &str) {
        until(state, || async { Ok(self.turns().await.get(id).is_some_and(|turn| turn.0 == state)) }).await.unwrap();
    }

    /// What people were shown: in Slack, then in WhatsApp.
    pub(crate) fn shown(&self) -> Vec<String> {
        let slack = self.slack.seen().into_iter().map(|message| message.text);
        slack.chain(self.whatsapp.got().into_iter().map(|message| message.text)).collect()
    }
}

/// A moment that is the later the greater the number in an id.
fn moment(id: &str) -> String {
    let number: u32 = id.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or_default();
    format!("2026-11-22T14:{:02}:{:02}.000Z", number / 60, number % 60)
}

pub(crate) fn answered(attempt: i32) -> (String, Option<String>, i32) {
    ("answered".to_owned(), None, attempt)
}

pub(crate) fn failed(code: &str, attempt: i32) -> (String, Option<String>, i32) {
    ("failed".to_owned(), Some(code.to_owned()), attempt)
}

/// A service that does what it is asked.
pub(crate) fn well(_: &Call) -> Act {
    Act::Do
}

/// Waits until nobody holds a message's turn.
pub(crate) async fn let_go(stage: &Stage, id: &str) {
    until("the lease to run out", || async {
        let owner = stage.app.owner().await?;
        let out = "select coalesce(lease_until < clock_timestamp(), true) from channel_turns where message_id = $1";
        Ok(owner.query_one(out, &[&id]).await?.get(0))
    })
    .await
    .unwrap();
}

/// A worker that dies once the condition holds: its future is dropped in the middle.
pub(crate) async fn dies_when(stage: &Stage, body: &Value, what: &str, holds: impl AsyncFn() -> bool) {
    tokio::select! {
        _ = stage.one(body) => panic!("it should have died before"),
        came = until(what, || async { Ok(holds().await) }) => came.unwrap(),
    }
}

/// Leases that a test can wait for.
pub(crate) fn short() -> Times {
    Times { lease: Duration::from_millis(300), renew: Duration::from_millis(50), ..Times::default() }
}

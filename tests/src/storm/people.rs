//! Who is in the storm: people with requests and sockets that are cut off, and workers that die.

use std::{future::Future, time::Duration};

use chat_core::{
    ids::{ClientMessageId, ConversationId, TenantId, TurnId, UserId},
    job::Job,
};
use rand::{RngExt, rngs::StdRng};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{Marks, Tally, word};
use crate::{
    app::App,
    clients::{Answer, Heard, Rest, Socket},
    demo::User,
    pump::{event, record},
};

/// Workers beside those of the product, each cut off somewhere.
const WORKERS: usize = 4;

/// One person of a company, until it is over.
pub(super) async fn live(
    app: &App,
    marks: &Marks,
    tally: &Tally,
    company: usize,
    number: usize,
    mut dice: StdRng,
    ends: Instant,
) {
    let tenant = app.demo.tenants[company].id;
    let Some(user) = app.demo.users.iter().filter(|user| user.tenant == Some(tenant)).nth(number) else { return };
    let token = app.token(user);
    let person =
        Person { app, marks, tally, company, tenant, user, rest: Rest::new(&app.product.rest(), Some(&token)), token };
    while Instant::now() < ends {
        let agents: Vec<_> = app.demo.agents.iter().filter(|agent| agent.tenant == tenant).collect();
        let agent = agents[dice.random_range(0..agents.len())].id;
        let Ok(conversation) = person.rest.open(tenant, agent).await else { continue };
        if dice.random_ratio(1, 2) {
            person.requests(&conversation, &mut dice).await;
        } else {
            person.socket(&conversation, &mut dice).await;
        }
    }
}

struct Person<'a> {
    app: &'a App,
    marks: &'a Marks,
    tally: &'a Tally,
    company: usize,
    tenant: TenantId,
    user: &'a User,
    rest: Rest,
    token: String,
}

/// Some moment within which something is cut off, or time enough.
fn moment(dice: &mut StdRng) -> Duration {
    if dice.random_ratio(1, 4) { Duration::from_secs(10) } else { Duration::from_micros(dice.random_range(0..20_000)) }
}

impl Person<'_> {
    fn search(&self, place: &str, text: &str) {
        self.tally.search(self.marks, self.company, place, text);
    }

    /// Waits for an answer, or not that long.
    async fn answer(
        &self,
        place: &'static str,
        dice: &mut StdRng,
        asked: impl Future<Output = anyhow::Result<Answer>>,
    ) {
        match timeout(moment(dice), asked).await {
            Err(_) => self.tally.cut(place),
            Ok(Ok(answer)) => {
                self.tally.note(|report| report.answers += 1);
                self.search("an answer", &format!("{:?} {}", answer.headers, answer.body));
            }
            // A connection that somebody before cut off.
            Ok(Err(_)) => {}
        }
    }

    async fn requests(&self, conversation: &str, dice: &mut StdRng) {
        let Self { rest, tenant, .. } = self;
        for _ in 0..dice.random_range(1..6) {
            let one = format!("/conversations/{conversation}");
            match dice.random_range(0..8) {
                0 => self.answer("a list", dice, rest.get(&format!("/conversations?tenant_id={tenant}"))).await,
                1 => self.answer("a page", dice, rest.get(&format!("{one}/messages?limit=20"))).await,
                2 => self.answer("a conversation", dice, rest.get(&one)).await,
                3 => self.answer("a takeover", dice, rest.post(&format!("{one}/takeover"), &json!({}))).await,
                4 => self.answer("a handback", dice, rest.post(&format!("{one}/handback"), &json!({}))).await,
                5 if dice.random_ratio(1, 4) => self.answer("a reset", dice, rest.delete(&one)).await,
                _ => {
                    let (key, text) = (ClientMessageId::new().to_string(), format!("{} said", word(self.company)));
                    self.answer("a message", dice, rest.say(conversation, &key, &text)).await;
                }
            }
        }
    }

    /// A socket that is cut off somewhere: dropped, without a goodbye.
    async fn socket(&self, conversation: &str, dice: &mut StdRng) {
        let mut place = "a socket being opened";
        let patience = moment(dice) + Duration::from_millis(dice.random_range(0..60));
        let life = async {
            let mut socket = Socket::open(&self.app.product.ws(), conversation, None).await.ok()?;
            place = "a socket being let in";
            let last_seq = dice.random_ratio(1, 2).then(|| dice.random_range(0..5));
            socket.say(&json!({"type": "auth", "token": self.token, "last_seq": last_seq})).await.ok()?;
            self.read(&mut socket, "ready").await?;
            place = "a message on its way";
            for _ in 0..dice.random_range(1..4) {
                socket
                    .message(&format!("{} said", word(self.company)), Some(&ClientMessageId::new().to_string()))
                    .await
                    .ok()?;
            }
            let turn = self.read(&mut socket, "accepted").await?;
            place = "a reply being written";
            if dice.random_ratio(1, 6) {
                socket.say(&json!({"type": "stop", "turn_id": turn["turn_id"]})).await.ok()?;
            }
            self.read(&mut socket, "response").await?;
            place = "a socket at rest";
            self.read(&mut socket, "nothing that there is").await
        };
        if timeout(patience.min(Duration::from_secs(1)), life).await.is_err() {
            self.tally.cut(place);
        }
    }

    /// Reads until a frame of a type comes; everything that comes is searched. `None` if the socket ends.
    async fn read(&self, socket: &mut Socket, kind: &str) -> Option<serde_json::Value> {
        loop {
            let Heard::Frame(text) = socket.hear().await else { return None };
            self.tally.note(|report| report.frames += 1);
            self.search(&format!("a frame to {}", self.user.handle), &text);
            let frame: serde_json::Value = serde_json::from_str(&text).ok()?;
            if frame["type"] == kind {
                return Some(frame);
            }
        }
    }
}

/// Workers that take whatever waits, and are cut off somewhere.
pub(super) async fn workers(app: &App, tally: &Tally, mut dice: StdRng, ends: Instant) {
    let Ok(owner) = app.owner().await else { return };
    let waiting = "select tenant_id, conversation_id, user_id, id from turns where state in ('queued', 'running')
        order by random() limit $1";
    while Instant::now() < ends {
        let Ok(rows) = owner.query(waiting, &[&i64::try_from(WORKERS).unwrap_or(1)]).await else { continue };
        let work = rows.iter().map(|row| {
            let (tenant, conversation): (TenantId, ConversationId) = (row.get(0), row.get(1));
            let (user, turn): (UserId, TurnId) = (row.get(2), row.get(3));
            let body = Job::web(tenant, conversation, user, turn).body();
            let patience = moment(&mut dice) * 4;
            async move {
                let work = app.product.orchestrator.handle(event(vec![record("1", &body)]));
                if timeout(patience.min(Duration::from_secs(1)), work).await.is_err() {
                    tally.cut("a worker");
                }
            }
        });
        futures::future::join_all(work.collect::<Vec<_>>()).await;
        if rows.is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

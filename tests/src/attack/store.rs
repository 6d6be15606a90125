//! The attack on the store itself: each of its functions in globex's name, with acme's ids.

use std::fmt::Debug;

use anyhow::{Context, Result, anyhow};
use chat_core::{
    Result as Answer,
    config::{Database, Memory, Notices, Secret, Times},
    conversation::Rating,
    ids::{ClientMessageId, ConversationId, MessageId, TenantId},
    job::Job,
    message::ChannelType,
    store::{
        Store,
        channel_turns::{Buried, Delivered, Heard},
        claim::Claim,
        conversations::Listing,
        door::Action,
        messages::{Page, Position},
        owned::Change,
        portal::{Found, Search, UsageOf},
        spend::{Bill, Drawn, Line, Payer, Purpose},
        sweep::{Pace, Spent},
        turns::{Completion, End, Stop},
    },
    text::{Text, Title},
    timestamp::Timestamp,
    token::Identity,
};

use time::macros::date;

use super::{House, Tries, house};
use crate::app::App;

/// Functions of the store that are tried here. Whoever adds one to the store adds a try, or says in [`EXEMPT`] why not.
pub const TRIED: &[&str] = &[
    "accept",
    "agents",
    "begin_sending",
    "bury",
    "bury_channel_turn",
    "change_conversation",
    "claim",
    "claim_notice",
    "connection",
    "conversation",
    "conversations",
    "end",
    "end_and_settle",
    "end_channel_turn",
    "entitle",
    "escalate",
    "export",
    "fallen_out",
    "find",
    "finish",
    "finish_and_settle",
    "hand_back",
    "hear",
    "mark_read",
    "messages",
    "messages_counted",
    "messages_said",
    "model_key",
    "notice_told",
    "open_conversation",
    "progress",
    "rate",
    "renew",
    "renew_channel_turn",
    "reserve",
    "reset_conversation",
    "roll",
    "search",
    "seat",
    "settle",
    "standing",
    "stop",
    "stored",
    "summarize",
    "take_over",
    "usage",
    "words",
];

/// Those that have no tenant to be outside of, and why.
pub const EXEMPT: &[(&str, &str)] = &[
    ("connect", "opens the pool"),
    ("ping", "asks nothing"),
    ("me", "tells somebody who they are themselves; no company is named"),
    ("sweep", "looks at every tenant's open turns by design; its role sees ids and no text"),
    ("open_turns", "numbers and ages of every tenant's open turns together; its role sees no text"),
    ("not_hinted", "undoes what `sweep` did, for the turns that it returned"),
    ("keep_dead_letter", "what nobody could read has no tenant"),
    ("recognize", "tells whom an issuer's word means, before any tenant; that word's row is the only one it can see"),
    ("tenant_exists", "asks, in the tenant's own name, whether it is still there"),
    ("next_with_retention", "looks at every tenant that keeps nothing for ever; its role sees no text"),
    (
        "expire_some",
        "deletes what is due, of whichever tenant comes next; the database lets its role delete nothing else",
    ),
];

/// Those that give nothing away by themselves even where no wall stands, and what shows it then.
pub const BLIND: &[(&str, &str)] = &[
    ("hear", "foreign keys carry the tenant: acme's ids are no better than ones that nothing has"),
    ("notice_told", "writes an audit row of the writer's own tenant"),
    ("settle", "acme's budget and usage change"),
];

/// What a call gave, if it gave anything.
fn any<T: Debug>(answer: Answer<T>) -> Option<String> {
    answer.ok().map(|got| format!("{got:?}"))
}

fn some<T: Debug>(answer: Answer<Option<T>>) -> Option<String> {
    answer.ok().flatten().map(|got| format!("{got:?}"))
}

fn many<T: Debug>(answer: Answer<Vec<T>>) -> Option<String> {
    answer.ok().filter(|got| !got.is_empty()).map(|got| format!("{got:?}"))
}

fn yes(answer: Answer<bool>) -> Option<String> {
    answer.ok().filter(|yes| *yes).map(|_| "done".to_owned())
}

fn number(answer: Answer<i64>) -> Option<String> {
    answer.ok().filter(|number| *number != 0).map(|number| number.to_string())
}

/// What ends a turn: whether it did, and the hint for another one.
fn ended<T: Debug>(answer: Answer<(bool, Option<T>)>) -> Option<String> {
    answer.ok().filter(|(done, next)| *done || next.is_some()).map(|got| format!("{got:?}"))
}

/// Who tries, and with what in hand that is rightly theirs.
struct Attacker<'a> {
    store: &'a Store,
    house: &'a House,
    tenant: TenantId,
    own: ConversationId,
}

/// The store, as a service opens it.
async fn open(app: &App) -> Result<Store> {
    let url = Secret::from(app.setting.database_url.clone());
    Ok(Store::connect(&Database { url, pool_size: 2 }).await?)
}

/// Through its doors, as people of globex's.
pub(super) async fn as_persons(app: &App, house: &House, tries: &mut Tries) -> Result<()> {
    let store = &open(app).await?;
    let tenant = app.user("ben@globex").tenant.context("ben is a member")?;
    // What waits for a person is there for the admin first.
    for handle in ["ada@globex", "ben@globex"] {
        let own: ConversationId = app.conversation(handle).await?.parse()?;
        let user = app.user(handle);
        for (role_hint, tenant_hint) in super::edges::hints(house, app, handle) {
            let who = Identity { user_id: user.id, expires_at: Timestamp::now(), role_hint, tenant_hint };
            Attacker { store, house, tenant, own }.as_person(&who, tries).await?;
        }
    }
    Ok(())
}

/// Behind them, as a worker of globex's with a claim that is rightly its own, who then says that it is of acme's turns.
pub(super) async fn as_workers(app: &App, house: &House, tries: &mut Tries) -> Result<()> {
    let store = &open(app).await?;
    let ben = app.user("ben@globex");
    let tenant = ben.tenant.context("ben is a member")?;
    let agent = app.agent_of(ben).id;
    let own: ConversationId = app.conversation("ben@globex").await?.parse()?;
    let attacker = Attacker { store, house, tenant, own };
    let who = Identity { user_id: ben.id, expires_at: Timestamp::now(), role_hint: None, tenant_hint: None };
    let text = Text::parse("hello".to_owned(), 100)?;
    let claim = loop {
        // The product's own worker may be quicker.
        store.accept(&who, own, &text, None, 1_000).await?;
        if let Some(claim) = store.claim(tenant, own, &Times::default(), &Memory::default()).await? {
            break claim;
        }
    };
    attacker.as_worker(&claim, tries).await;
    store.end(&claim, End::Stopped).await?;
    attacker.with_budget(agent, tries).await;
    attacker.over_channels(app, agent, tries).await
}

impl Attacker<'_> {
    async fn as_person(&self, who: &Identity, tries: &mut Tries) -> Result<()> {
        let Self { store, house, tenant, own } = *self;
        for (listed, escalated) in
            [(Some(house.tenant), false), (Some(house.tenant), true), (None, false), (None, true)]
        {
            let listing = Listing { tenant: listed, escalated, archived: None, before: None, limit: 50 };
            tries.note("conversations", many(store.conversations(who, listing).await));
        }
        for company in [house.tenant, tenant] {
            let of = house.talks()[0].id;
            for conversation in [None, Some(of)] {
                let search = Search { tenant: company, conversation, words: "answer", before: None, limit: 10 };
                let found = store.find(who, &search).await;
                let foreign = |found: Found| format!("{found:?}").contains(super::CANARY).then(|| format!("{found:?}"));
                tries.note("find", found.ok().and_then(foreign));
            }
            let theirs = |got: String| got.contains(super::CANARY).then_some(got);
            tries.note("agents", many(store.agents(who, company, None, 10).await).and_then(theirs));
            let (from, to) = (date!(2000 - 01 - 01), date!(2100 - 01 - 01));
            let of = UsageOf { tenant: company, from, to, after: None, limit: 10 };
            tries.note("usage", many(store.usage(who, &of).await).and_then(theirs));
            tries.note("open_conversation", any(store.open_conversation(who, company, house.agents[0]).await));
        }
        let text = Text::parse("let me in".to_owned(), 100)?;
        for talk in house.talks() {
            let (id, at) = (talk.id, Position::Id(talk.turn.into()));
            tries.note("conversation", any(store.conversation(who, id).await));
            for action in [Action::Read, Action::Stay, Action::Write] {
                tries.note("seat", any(store.seat(who, id, action).await));
            }
            tries.note("standing", any(store.standing(who, id).await));
            for page in [Page::Newest, Page::After(Position::Seq(0)), Page::Before(at), Page::After(at)] {
                tries.note("messages", any(store.messages(who, id, page, 10, Action::Read).await));
                if !matches!(page, Page::Newest | Page::After(Position::Seq(_))) {
                    tries.note("messages of one's own", any(store.messages(who, own, page, 10, Action::Read).await));
                }
            }
            for client in [talk.client, ClientMessageId::new()] {
                tries.note("accept", any(store.accept(who, id, &text, Some(client), 1_000).await));
            }
            tries.note("stop", any(store.stop(who, id, talk.turn).await));
            let stopped = store.stop(who, own, talk.turn).await;
            tries.note(
                "stop at home",
                stopped.ok().filter(|(_, stop)| *stop != Stop::NoSuchTurn).map(|stop| format!("{stop:?}")),
            );
            let change = Change { title: Some(Some(Title::parse("ours now")?)), archived: Some(true) };
            tries.note("change_conversation", any(store.change_conversation(who, id, &change).await));
            tries.note("mark_read", any(store.mark_read(who, id, 1).await));
            for reply in [talk.reply, talk.turn.into()] {
                let rating = Some((Rating::Up, Some(&text)));
                tries.note("rate", some(store.rate(who, id, reply, rating).await));
                tries.note("rate at home", some(store.rate(who, own, reply, rating).await));
            }
            tries.note("export", any(store.export(who, id, 0, 10).await));
            tries.note("take_over", any(store.take_over(who, id).await));
            tries.note("hand_back", any(store.hand_back(who, id).await));
            tries.note("reset_conversation", any(store.reset_conversation(who, id).await));
        }
        Ok(())
    }

    async fn as_worker(&self, claim: &Claim, tries: &mut Tries) {
        let ours = Title::parse("ours now").expect("a title");
        let Self { store, house, tenant, .. } = *self;
        let (times, pace) = (Times::default(), Pace::new(&Times::default()));
        let ids: Vec<ConversationId> = house.talks().iter().map(|talk| talk.id).collect();
        tries.note("progress", many(store.progress(tenant, &ids).await));
        let (there, people): (Vec<_>, Vec<_>) =
            ids.iter().flat_map(|id| house.people.iter().map(move |person| (*id, *person))).unzip();
        let roll = store.roll(tenant, &there, &people).await;
        tries.note("roll", many(roll.map(|roll| roll.into_iter().flatten().collect())));
        for talk in house.talks() {
            tries.note("claim", some(store.claim(tenant, talk.id, &times, &Memory::default()).await));
            // The turn that a worker of acme's has is of this attempt.
            let forged = Claim {
                conversation: talk.id,
                turn: talk.turn,
                attempt: 1,
                epoch: 0,
                seq: 9,
                summary_seq: 0,
                ..claim.clone()
            };
            let forged = &forged;
            let renewed = store.renew(forged, &times).await;
            let lost = |lease: &chat_core::store::turns::Lease| *lease != chat_core::store::turns::Lease::Lost;
            tries.note("renew", renewed.ok().filter(lost).map(|lease| format!("{lease:?}")));
            tries.note("messages_counted", number(store.messages_counted(forged, 10).await));
            tries.note("messages_said", many(store.messages_said(forged, 9, 10).await));
            tries.note("words", many(store.words(forged, &[1, 2]).await));
            tries.note("fallen_out", many(store.fallen_out(forged, 9, 10).await));
            tries.note("search", many(store.search(forged, "answer", 10).await));
            tries.note("entitle", some(store.entitle(forged, &ours).await));
            tries.note("summarize", yes(store.summarize(forged, "ours now", 9).await));
            tries.note("stored", some(store.stored(forged, talk.turn.into()).await));
            // Each of these ends a turn that is held: so each comes first at one of them.
            let at = house.running.iter().position(|running| running.turn == talk.turn).unwrap_or_default();
            for number in (at..at + house.running.len()).map(|number| number % house.running.len()) {
                self.ends(number, forged, tries).await;
            }
            let spent = Spent { tenant, conversation: talk.id, turn: talk.turn };
            let buried = store.bury(spent, &pace).await;
            tries.note("bury", ended(buried.map(|(ended, next)| (ended.is_some(), next))));
            let notice = store.claim_notice(tenant, talk.id, &Notices::default()).await;
            if let Ok(Some(notice)) = &notice {
                tries.note("notice_told", any(store.notice_told(notice, "{}").await));
            }
            tries.note("claim_notice", some(notice));
        }
        tries.note("model_key", some(store.model_key(tenant, house::PROVIDER).await));
    }

    /// One of the ways in which a worker ends a turn.
    async fn ends(&self, number: usize, forged: &Claim, tries: &mut Tries) {
        let (store, reply, said) = (self.store, MessageId::new(), "said by globex");
        let (what, got) = match number {
            0 => {
                let finished = store.finish(forged, reply, said, Completion::Whole).await;
                ("finish", ended(finished.map(|(reply, next)| (reply.is_some(), next))))
            }
            1 => {
                let finished = store.finish_and_settle(forged, reply, said, Completion::Stopped, None).await;
                ("finish_and_settle", ended(finished.map(|(reply, next)| (reply.is_some(), next))))
            }
            2 => ("escalate", ended(store.escalate(forged, "globex wants it").await)),
            3 => ("end", ended(store.end(forged, End::Stopped).await)),
            _ => ("end_and_settle", ended(store.end_and_settle(forged, End::Stopped, None).await)),
        };
        tries.note(what, got);
    }

    /// Globex has no budget; what it spends is not counted against acme's, whatever turn it names.
    async fn with_budget(&self, agent: chat_core::ids::AgentId, tries: &mut Tries) {
        let Self { store, house, tenant, .. } = *self;
        let turn = house.running[0].turn;
        let payer = Payer { tenant, agent, turn, attempt: 1, purpose: Purpose::Reply };
        let reserved = store.reserve(&payer, super::CANARY, 100).await;
        // That there is a budget would be acme's.
        tries.note("reserve", some(reserved.map(|reservation| reservation.month)));
        let line = Line {
            model: super::CANARY.to_owned(),
            calls: 1,
            input_tokens: 7,
            output_tokens: 7,
            released_tokens: 0,
            reserved_tokens: 0,
        };
        for drawn in [None, Some(Drawn { month: None, difference: 500 })] {
            let settled = store.settle(tenant, &Bill::new(&payer, vec![line.clone()], drawn)).await;
            tries.note("settle", settled.err().map(|error| format!("globex may pay: {error:?}")));
        }
    }

    async fn over_channels(&self, app: &App, agent: chat_core::ids::AgentId, tries: &mut Tries) -> Result<()> {
        let Self { store, house, tenant, .. } = *self;
        let (slack, times) = (ChannelType::Slack, Times::default());
        let found = store.connection(tenant, slack, &[house::WORKSPACE]).await;
        tries.note("connection", any(found.map(|connection| connection.id)));
        let owner = app.owner().await?;
        let own = chat_core::ids::ConnectionId::new();
        let insert =
            "insert into channel_connections (id, tenant_id, agent_id, channel_type) values ($1, $2, $3, 'slack')";
        owner.execute(insert, &[&own, &tenant, &agent]).await?;
        let ben = app.user("ben@globex").id;
        let heard = |connection, agent, message: &str, sender: &str| Heard {
            tenant,
            channel: slack,
            message: message.to_owned(),
            connection,
            agent,
            thread: String::new(),
            sender: sender.to_owned(),
            said: Ok("hello".to_owned()),
            said_at: Timestamp::now(),
            hint: Job::web(tenant, self.own, ben, house.queued.turn),
        };
        for (connection, agent) in
            [(house.connection, house.agents[0]), (own, house.agents[0]), (house.connection, agent)]
        {
            tries.note("hear", any(store.hear(&heard(connection, agent, house::SLACK_MESSAGE, "U2"), &times).await));
        }
        let Delivered::Ours(mut claim) = store.hear(&heard(own, agent, "M-own", "U1"), &times).await? else {
            return Err(anyhow!("globex is heard"));
        };
        let strangers = claim.history.len() != 1;
        tries.note("hear at home", strangers.then(|| format!("{:?}", claim.history)));
        let own_turn = std::mem::replace(&mut claim.turn, house.slack_turn);
        tries.note("renew_channel_turn", yes(store.renew_channel_turn(&claim, &times).await));
        tries.note("begin_sending", yes(store.begin_sending(&claim, "said by globex", None, &times).await));
        tries.note("end_channel_turn", ended(store.end_channel_turn(&claim, None).await));
        let buried = store.bury_channel_turn(tenant, slack, house::SLACK_MESSAGE, 3).await;
        let buried = buried.ok().filter(|buried| !matches!(buried, Buried::NoSuchTurn));
        tries.note("bury_channel_turn", buried.map(|buried| format!("{buried:?}")));
        claim.turn = own_turn;
        store.begin_sending(&claim, "hi", None, &times).await?;
        store.end_channel_turn(&claim, None).await?;
        Ok(())
    }
}

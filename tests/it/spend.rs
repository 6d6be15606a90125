//! What a tenant may spend: reserved before each call, settled after it, exact however many ask at once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chat_core::{
    Code, Error,
    config::{self, Memory, Speaks, Times},
    ids::{ClientMessageId, ConversationId, TenantId},
    store::{
        claim::Claim,
        spend::{Bill, Drawn, Line, Payer, Purpose},
        turns::End,
    },
};
use futures::{StreamExt, future::join_all, stream, stream::BoxStream};
use harness::{
    app::App,
    clients::Socket,
    model::{Act, ScriptedModel},
    product::Setting,
};
use orchestrator::model::{
    Ended, Habits, Model, Models, Piece, Prompt, Purse, Said, ToolCall, Usage, provider::Patience,
};
use serde_json::{Value, json};

use crate::turns::by_hand;

/// A model that takes what it is told to: `two` calls of one model and one of another, `fail` and `hang` after one call;
/// `look` wants a tool first; anything else is one call. What it tells of is 30 tokens read and 20 written, for the last of its calls.
pub(crate) struct Costly;

/// Calls of [`Costly`] that hang, or did.
pub(crate) static HANGING: AtomicUsize = AtomicUsize::new(0);

impl Model for Costly {
    fn speak<'a>(&'a self, prompt: &'a Prompt, purse: &'a dyn Purse) -> BoxStream<'a, chat_core::Result<Piece>> {
        let answer = async move {
            let (first, other) = ("vendor/first", "vendor/other");
            purse.reserve(first).await?;
            let last = match prompt.message() {
                "fail" => return Err(Error::new(Code::ModelFailed, "no answer")),
                "hang" => {
                    HANGING.fetch_add(1, Ordering::SeqCst);
                    return std::future::pending().await;
                }
                "two" => {
                    purse.reserve(first).await?;
                    purse.reserve(other).await?;
                    other
                }
                _ => first,
            };
            let usage = Some(Usage { input_tokens: 30, output_tokens: 20 });
            let said = if prompt.message() == "look" {
                let (id, name, arguments) = ("1".to_owned(), "current_time".to_owned(), json!({}));
                Piece::Call(ToolCall { id, name, arguments, opaque: None })
            } else {
                Piece::Text("an answer".to_owned())
            };
            Ok([said, Piece::End(Ended { model: last.to_owned(), usage })])
        };
        let pieces = |answer: chat_core::Result<[Piece; 2]>| match answer {
            Ok(pieces) => pieces.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        stream::once(answer).flat_map(move |answer| stream::iter(pieces(answer))).boxed()
    }
}

pub(crate) fn costly(setting: &mut Setting) {
    setting.model = Arc::new(Costly);
    setting.times = Times { renew: Duration::from_millis(50), ..Times::default() };
}

/// Gives a tenant a budget.
pub(crate) async fn allow(app: &App, tenant: TenantId, calls: Option<i64>, tokens: Option<i64>) {
    let sql = "insert into budgets (tenant_id, monthly_calls, monthly_tokens) values ($1, $2, $3)
        on conflict (tenant_id) do update set monthly_calls = $2, monthly_tokens = $3";
    app.owner().await.unwrap().execute(sql, &[&tenant, &calls, &tokens]).await.unwrap();
}

/// Calls and tokens that a tenant's budget counts.
pub(crate) async fn taken(app: &App, tenant: TenantId) -> (i64, i64) {
    let sql = "select calls, tokens from budgets where tenant_id = $1";
    let row = app.owner().await.unwrap().query_one(sql, &[&tenant]).await.unwrap();
    (row.get(0), row.get(1))
}

/// What is written down of a tenant: calls, input and output tokens, whether some are reserved, whether it is settled,
/// for each attempt and model.
pub(crate) async fn usage(app: &App, tenant: TenantId) -> BTreeMap<(String, i32, String), (i64, i64, i64, bool, bool)> {
    let sql = "select turn_id::text, attempt, model || case purpose when 'reply' then '' else ', ' || purpose end, calls, input_tokens, output_tokens, reserved_tokens > 0, settled_at is not null
        from usage where tenant_id = $1";
    let rows = app.owner().await.unwrap().query(sql, &[&tenant]).await.unwrap();
    let read = |row: &tokio_postgres::Row| {
        ((row.get(0), row.get(1), row.get(2)), (row.get(3), row.get(4), row.get(5), row.get(6), row.get(7)))
    };
    rows.iter().map(read).collect()
}

/// The budget and the rows beside it are two views of the same thing.
pub(crate) async fn assert_books_agree(app: &App, tenant: TenantId) {
    let sql = "select coalesce(sum(calls), 0)::bigint, coalesce(sum(input_tokens + output_tokens + reserved_tokens), 0)::bigint
        from usage where tenant_id = $1";
    let row = app.owner().await.unwrap().query_one(sql, &[&tenant]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), taken(app, tenant).await);
}

/// Says something and waits for what becomes of it: a `response` or an `error`.
pub(crate) async fn asked(socket: &mut Socket, text: &str) -> Value {
    socket.message(text, None).await.unwrap();
    end(socket).await
}

pub(crate) async fn end(socket: &mut Socket) -> Value {
    loop {
        let frame = socket.next().await.unwrap();
        if frame["type"] == "response" || frame["type"] == "error" {
            return frame;
        }
    }
}

/// A socket of `ben@acme`, and his company.
pub(crate) async fn joined(app: &App) -> (TenantId, Socket) {
    let conversation = app.conversation("ben@acme").await.unwrap();
    (app.user("ben@acme").tenant.unwrap(), app.socket("ben@acme", &conversation).await.unwrap())
}

/// A claimed turn whose message is `text`.
pub(crate) async fn claimed(app: &App, tenant: TenantId, conversation: ConversationId, text: &str) -> Claim {
    let key = ClientMessageId::new().to_string();
    let sent = app.rest("ben@acme").say(&conversation.to_string(), &key, text).await.unwrap();
    assert_eq!(sent.status, 202, "{}", sent.body);
    app.product
        .orchestrator
        .store
        .claim(tenant, conversation, &Times::default(), &Memory::default())
        .await
        .unwrap()
        .unwrap()
}

/// Something to ask.
pub(crate) static PROMPT: std::sync::LazyLock<Prompt> = std::sync::LazyLock::new(|| Prompt {
    tenant: TenantId::new(),
    models: vec!["vendor/first".to_owned()],
    system: String::new(),
    said: vec![Said::User("hello".to_owned())],
    tools: Vec::new(),
    temperature: None,
    max_output_tokens: Some(100),
    until: None,
});

pub(crate) fn payer(claim: &Claim) -> Payer {
    Payer {
        tenant: claim.tenant,
        agent: claim.agent.id,
        turn: claim.turn,
        attempt: claim.attempt,
        purpose: Purpose::Reply,
    }
}

#[tokio::test]
async fn a_hundred_messages_at_once_at_a_budget_of_ten_calls_make_ten() {
    let provider = ScriptedModel::start(|_| Act::answer("here I am")).await.unwrap();
    let patience = Patience { pause: Duration::from_millis(10), ..Patience::within(Duration::from_secs(30)) };
    let settings = config::Model {
        provider: Some(config::Provider::main(Speaks::OpenAi, provider.base_url(), None)),
        others: Vec::new(),
        default: None,
    };
    let models = Arc::new(Models::new(&settings, patience));
    let app = App::with(|setting| setting.model = models).await.unwrap();
    let tenant = app.user("ben@acme").tenant.unwrap();
    let owner = app.owner().await.unwrap();
    let agents = "insert into agents (id, tenant_id, name, model)
        select gen_random_uuid(), $1, 'agent ' || n, 'vendor/large-1' from generate_series(1, 25) n returning id";
    let agents = owner.query(agents, &[&tenant]).await.unwrap();
    allow(&app, tenant, Some(10), None).await;

    let rest = app.rest("ben@acme");
    let conversations = agents.iter().map(|agent| rest.open(tenant, agent.get::<_, uuid::Uuid>(0)));
    let conversations: Vec<String> = join_all(conversations).await.into_iter().map(Result::unwrap).collect();
    let told = join_all(conversations.iter().map(async |conversation| {
        let mut socket = app.socket("ben@acme", conversation).await.unwrap();
        let sends = (0..4).map(async |number| {
            let key = ClientMessageId::new().to_string();
            let sent = rest.say(conversation, &key, &format!("message {number}")).await.unwrap();
            assert_eq!(sent.status, 202, "{}", sent.body);
        });
        join_all(sends).await;
        let mut ends = Vec::new();
        let mut failed = Vec::new();
        while ends.len() < 4 {
            let frame = socket.next().await.unwrap();
            match frame["type"].as_str().unwrap() {
                "response" => ends.push("answered".to_owned()),
                "error" => {
                    assert_eq!(failed.pop(), Some(frame["turn_id"].clone()), "the turn's end is told first");
                    assert!(frame["message"].as_str().unwrap().contains("budget"), "{frame}");
                    ends.push(frame["code"].as_str().unwrap().to_owned());
                }
                "turn" => {
                    assert_eq!((&frame["state"], &frame["code"]), (&json!("failed"), &json!("over_budget")));
                    failed.push(frame["turn_id"].clone());
                }
                _ => {}
            }
        }
        ends
    }))
    .await
    .concat();

    assert_eq!(provider.calls().len(), 10);
    let count = |what: &str| told.iter().filter(|end| *end == what).count();
    assert_eq!((count("answered"), count("over_budget")), (10, 90));
    let states = "select state, coalesce(code, ''), count(*) from turns group by 1, 2 order by 1";
    let states = owner.query(states, &[]).await.unwrap();
    let states: Vec<(&str, &str, i64)> = states.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(states, [("answered", "", 10), ("failed", "over_budget", 90)]);
    assert_eq!(taken(&app, tenant).await.0, 10);
    assert_books_agree(&app, tenant).await;
    app.finish().await.unwrap();
}

#[tokio::test]
async fn tokens_are_reserved_by_an_estimate_and_settled_by_what_was_taken() {
    let app = App::with(costly).await.unwrap();
    let (tenant, mut socket) = joined(&app).await;
    let owner = app.owner().await.unwrap();
    owner.execute("update agents set max_output_tokens = 100, system_prompt = ''", &[]).await.unwrap();
    allow(&app, tenant, None, Some(1_000)).await;
    // Each takes 50 in the end, but must find room for its estimate: 100 and what the prompt may take, which grows with
    // the history. Were the estimate kept, 9 would be the most; were there none, all 20.
    let mut answers = 0;
    while answers < 20 {
        let end = asked(&mut socket, "hello").await;
        if end["type"] == "error" {
            assert_eq!(end["code"], "over_budget");
            break;
        }
        answers += 1;
        assert_eq!(taken(&app, tenant).await, (answers, answers * 50));
    }
    assert!((11..18).contains(&answers), "{answers}");
    assert_books_agree(&app, tenant).await;
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_new_month_begins_with_nothing_spent() {
    let app = App::with(costly).await.unwrap();
    let (tenant, mut socket) = joined(&app).await;
    let owner = app.owner().await.unwrap();
    allow(&app, tenant, Some(1), None).await;
    for _ in 0..2 {
        assert_eq!(asked(&mut socket, "hello").await["type"], "response");
        assert_eq!(asked(&mut socket, "hello").await["code"], "over_budget");
        assert_eq!(taken(&app, tenant).await, (1, 50));
        let earlier = "update budgets set month = (month - interval '1 month')::date, tokens = 1000000";
        owner.execute(earlier, &[]).await.unwrap();
    }
    assert_eq!(asked(&mut socket, "hello").await["type"], "response");
    let sql = "select calls, tokens, month = date_trunc('month', now() at time zone 'utc')::date from budgets";
    let row = owner.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), (1_i64, 50_i64, true));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn one_company_s_budget_is_no_other_s() {
    let app = App::with(costly).await.unwrap();
    let (acme, mut ben) = joined(&app).await;
    allow(&app, acme, Some(0), None).await;
    let globex = app.user("ben@globex").tenant.unwrap();
    allow(&app, globex, Some(1), None).await;
    let conversation = app.conversation("ben@globex").await.unwrap();
    let mut other = app.socket("ben@globex", &conversation).await.unwrap();
    assert_eq!(asked(&mut ben, "hello").await["code"], "over_budget");
    assert_eq!(asked(&mut other, "hello").await["type"], "response");
    assert_eq!(asked(&mut other, "hello").await["code"], "over_budget");
    assert_eq!((taken(&app, acme).await, taken(&app, globex).await), ((0, 0), (1, 50)));
    // Nor can one be settled under another's name.
    let (store, turn) = (&app.product.orchestrator.store, chat_core::ids::TurnId::new());
    let payer =
        Payer { tenant: acme, agent: app.agent_of(app.user("ben@acme")).id, turn, attempt: 1, purpose: Purpose::Reply };
    let theirs = usage(&app, globex).await;
    let turn = theirs.keys().next().unwrap().0.parse().unwrap();
    let line = Line {
        model: "vendor/first".to_owned(),
        calls: 1,
        input_tokens: 9,
        output_tokens: 9,
        released_tokens: 0,
        reserved_tokens: 0,
    };
    let bill = Bill::new(&Payer { turn, ..payer }, vec![line], Some(Drawn { month: None, difference: 9 }));
    store.settle(acme, &bill).await.unwrap();
    assert_eq!(usage(&app, globex).await, theirs);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_built_in_model_is_free() {
    let app = App::start().await.unwrap();
    let (tenant, mut socket) = joined(&app).await;
    allow(&app, tenant, Some(0), Some(0)).await;
    assert_eq!(asked(&mut socket, "hello").await["text"], "Echo: hello");
    assert_eq!(taken(&app, tenant).await, (0, 0));
    assert!(usage(&app, tenant).await.is_empty());
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_warning_comes_once_a_month_at_four_fifths() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    let claim = claimed(&app, tenant, conversation, "hello").await;
    let payer = payer(&claim);
    for (calls, tokens) in [(Some(10), None), (None, Some(1_000)), (Some(10), Some(1_000_000))] {
        allow(&app, tenant, calls, tokens).await;
        let owner = app.owner().await.unwrap();
        owner.execute("update budgets set month = date '2020-01-01'", &[]).await.unwrap();
        let mut warned = Vec::new();
        for number in 1..=10 {
            if number == 9 {
                // Settled below the mark, it is passed again: that is no news.
                owner.execute("update budgets set tokens = tokens - 150", &[]).await.unwrap();
            }
            let reservation = store.reserve(&payer, "vendor/first", 100).await.unwrap();
            warned.extend(reservation.warn.then_some(number));
        }
        assert_eq!(warned, [8], "{calls:?} {tokens:?}");
        if calls.is_some() {
            let error = store.reserve(&payer, "vendor/first", 100).await.unwrap_err();
            assert_eq!(error.code(), Code::OverBudget);
        }
    }
    store.end(&claim, End::Stopped).await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn each_try_is_a_call_and_the_budget_ends_the_tries() {
    let provider = ScriptedModel::start(|_| Act::Refuse { status: 503, retry_after: None }).await.unwrap();
    let pause = Duration::from_millis(1);
    let patience = Patience {
        pause,
        breaker: Habits { failures: 1_000, ..Habits::default() },
        ..Patience::within(Duration::from_secs(30))
    };
    let main = Some(config::Provider::main(Speaks::OpenAi, provider.base_url(), None));
    let models = config::Model { provider: main, ..config::Model::default() };
    let app = App::with(|setting| setting.model = Arc::new(Models::new(&models, patience))).await.unwrap();
    app.owner().await.unwrap().execute("update agents set model = 'large'", &[]).await.unwrap();
    let (tenant, mut socket) = joined(&app).await;
    allow(&app, tenant, Some(4), None).await;
    // Three tries for the first message, one for the second, then none.
    for code in ["model_unavailable", "over_budget", "over_budget"] {
        assert_eq!(asked(&mut socket, "hello").await["code"], code);
    }
    assert_eq!((provider.calls().len(), taken(&app, tenant).await.0), (4, 4));
    assert_books_agree(&app, tenant).await;
    app.finish().await.unwrap();
}

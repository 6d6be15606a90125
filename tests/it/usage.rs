//! What is written down of what models took: of every turn, however it ended, and once.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use chat_core::{
    config::{Database, Secret},
    ids::{ConversationId, MessageId},
    store::{
        Store,
        turns::{Completion, End},
    },
};
use futures::StreamExt;
use harness::{
    app::{self, App, until},
    wire::Wire,
};
use orchestrator::{
    model::{Piece, ask},
    spend::Account,
};
use serde_json::json;

use crate::{
    spend::{Costly, HANGING, PROMPT, allow, assert_books_agree, claimed, costly, end, joined, payer, taken, usage},
    turns::by_hand,
};

#[tokio::test]
async fn a_month_that_is_over_is_not_settled_in_the_next() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    allow(&app, tenant, None, Some(1_000_000)).await;
    let claim = claimed(&app, tenant, conversation, "hello").await;
    let account = Account::of(store, &claim);
    let mut pieces = ask(&Costly, &PROMPT, &account).collect::<Vec<_>>().await;
    assert!(matches!(pieces.pop(), Some(Ok(Piece::End(_)))));
    let owner = app.owner().await.unwrap();
    owner.execute("update budgets set month = (month + interval '1 month')::date, tokens = 7", &[]).await.unwrap();
    store.end_and_settle(&claim, End::Stopped, Some(&account.bill())).await.unwrap();
    assert_eq!(taken(&app, tenant).await.1, 7);
    // The clock of a reservation that waited is behind the row's: it counts with the row's month.
    let reservation = store.reserve(&payer(&claim), "vendor/first", 10).await.unwrap();
    assert!(reservation.month.is_some());
    assert_eq!(taken(&app, tenant).await.1, 17);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_a_dead_worker_reserved_stays_spent() {
    let app = App::with(|setting| {
        costly(setting);
        setting.queue = crate::turns::silent();
    })
    .await
    .unwrap();
    let (tenant, mut socket) = joined(&app).await;
    let conversation: ConversationId = app.conversation("ben@acme").await.unwrap().parse().unwrap();
    allow(&app, tenant, Some(10), None).await;
    let claim = claimed(&app, tenant, conversation, "hello").await;
    let orchestrator = &app.product.orchestrator;
    orchestrator.store.reserve(&payer(&claim), "vendor/first", 500).await.unwrap();
    // It dies here, and its lease runs out.
    let owner = app.owner().await.unwrap();
    owner.execute("update turns set lease_until = now() - interval '1 second'", &[]).await.unwrap();
    orchestrator.turn(tenant, conversation).await.unwrap();

    assert_eq!(end(&mut socket).await["type"], "response", "the second attempt answers");
    assert_eq!(taken(&app, tenant).await, (2, 550));
    let key = |attempt| (claim.turn.to_string(), attempt, "vendor/first".to_owned());
    assert_eq!(
        usage(&app, tenant).await,
        BTreeMap::from([(key(1), (1, 0, 0, true, false)), (key(2), (1, 30, 20, false, true))])
    );
    assert_books_agree(&app, tenant).await;
    app.finish().await.unwrap();
}

#[tokio::test]
async fn every_turn_that_asked_a_model_is_written_down_however_it_ended() {
    // Nobody else lets it hang.
    let mut hangs = 0;
    for budget in [None, Some(1_000_000)] {
        let app = App::with(costly).await.unwrap();
        let (tenant, mut socket) = joined(&app).await;
        if budget.is_some() {
            allow(&app, tenant, budget, budget).await;
        }
        let owner = app.owner().await.unwrap();
        owner.execute("update agents set tools = '{current_time}'", &[]).await.unwrap();
        let mut expected = BTreeMap::new();
        for (text, rows) in [
            ("one", vec![("vendor/first", (1, 30, 20, false, true))]),
            ("two", vec![("vendor/first", (2, 0, 0, true, true)), ("vendor/other", (1, 30, 20, false, true))]),
            ("look", vec![("vendor/first", (2, 60, 40, false, true))]),
            ("fail", vec![("vendor/first", (1, 0, 0, true, true))]),
            ("hang", vec![("vendor/first", (1, 0, 0, true, true))]),
        ] {
            socket.message(text, None).await.unwrap();
            let accepted = socket.until("accepted").await.unwrap();
            if text == "hang" {
                hangs += 1;
                until("the call", async || Ok(HANGING.load(Ordering::SeqCst) == hangs)).await.unwrap();
                socket.say(&json!({"type": "stop", "turn_id": accepted["turn_id"]})).await.unwrap();
                assert_eq!(socket.until("turn").await.unwrap()["state"], "stopped");
            } else {
                end(&mut socket).await;
            }
            let turn = accepted["turn_id"].as_str().unwrap();
            expected.extend(rows.into_iter().map(|(model, row)| ((turn.to_owned(), 1, model.to_owned()), row)));
        }
        // And one that is taken from its worker in the middle.
        socket.message("hang", None).await.unwrap();
        let accepted = socket.until("accepted").await.unwrap();
        hangs += 1;
        until("the call", async || Ok(HANGING.load(Ordering::SeqCst) == hangs)).await.unwrap();
        let conversation = app.conversation("ben@acme").await.unwrap();
        app.rest("ben@acme").delete(&format!("/conversations/{conversation}")).await.unwrap();
        let turn = accepted["turn_id"].as_str().unwrap().to_owned();
        let taken_away = (turn, 1, "vendor/first".to_owned());
        until("its bill", async || {
            Ok(usage(&app, tenant).await.get(&taken_away).is_some_and(|(.., settled)| *settled))
        })
        .await
        .unwrap();
        expected.insert(taken_away, (1, 0, 0, true, true));
        assert_eq!(usage(&app, tenant).await, expected, "with a budget of {budget:?}");
        if budget.is_some() {
            assert_eq!(taken(&app, tenant).await.0, 9);
            assert_books_agree(&app, tenant).await;
        }
        app.finish().await.unwrap();
    }
}

#[tokio::test]
async fn the_answers_of_one_turn_are_summed_and_settled_once() {
    for budget in [None, Some(1_000_000)] {
        let (app, tenant, conversation) = by_hand().await;
        let store = &app.product.orchestrator.store;
        if budget.is_some() {
            allow(&app, tenant, budget, budget).await;
        }
        let claim = claimed(&app, tenant, conversation, "hello").await;
        assert_eq!(claim.budgeted, budget.is_some());
        let account = Account::of(store, &claim);
        for _ in 0..3 {
            assert_eq!(ask(&Costly, &PROMPT, &account).collect::<Vec<_>>().await.len(), 2);
        }
        let (bill, id) = (account.bill(), MessageId::new());
        store.finish_and_settle(&claim, id, "hi", Completion::Whole, Some(&bill)).await.unwrap().0.unwrap();
        // As after a commit that was not confirmed: the fence is closed, and nothing is paid twice.
        assert!(store.finish_and_settle(&claim, id, "hi", Completion::Whole, Some(&bill)).await.unwrap().0.is_none());
        store.settle(tenant, &bill).await.unwrap();
        // What is summarized afterwards stands beside it.
        let summary = Account::of_summary(store, &claim);
        assert_eq!(ask(&Costly, &PROMPT, &summary).collect::<Vec<_>>().await.len(), 2);
        summary.write_down().await;
        let row = |what: &str, row| ((claim.turn.to_string(), 1, format!("vendor/first{what}")), row);
        let expected = [row("", (3, 90, 60, false, true)), row(", summary", (1, 30, 20, false, true))];
        assert_eq!(usage(&app, tenant).await, BTreeMap::from(expected));
        if budget.is_some() {
            assert_eq!(taken(&app, tenant).await, (4, 200));
        }
        app.finish().await.unwrap();
    }
}

#[tokio::test]
async fn a_reply_that_came_too_late_is_paid_for() {
    let (app, tenant, conversation) = by_hand().await;
    let store = &app.product.orchestrator.store;
    allow(&app, tenant, Some(10), None).await;
    let claim = claimed(&app, tenant, conversation, "hello").await;
    let account = Account::of(store, &claim);
    assert_eq!(ask(&Costly, &PROMPT, &account).collect::<Vec<_>>().await.len(), 2);
    app.rest("ben@acme").delete(&format!("/conversations/{conversation}")).await.unwrap();
    let stored = store
        .finish_and_settle(&claim, MessageId::new(), "hi", Completion::Whole, Some(&account.bill()))
        .await
        .unwrap()
        .0;
    assert!(stored.is_none(), "the conversation was reset");
    assert_eq!(taken(&app, tenant).await, (1, 50));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_tenant_without_a_budget_costs_no_round_trip_and_one_with_it_one_a_call() {
    let app = App::with(|setting| setting.queue = crate::turns::silent()).await.unwrap();
    let conversation: ConversationId = app.conversation("ben@acme").await.unwrap().parse().unwrap();
    let tenant = app.user("ben@acme").tenant.unwrap();
    let port = app::services().await.unwrap().postgres.port();
    let wire = Wire::before(([127, 0, 0, 1], port).into()).await.unwrap();
    let url = app.setting.database_url.replace(&format!(":{port}/"), &format!(":{}/", wire.address.port()));
    let store = Store::connect(&Database { url: Secret::from(url), pool_size: 1 }).await.unwrap();
    let mut trips = Vec::new();
    // Each kind twice: the first time prepares the statements.
    for budget in [None, None, Some(1_000_000), Some(1_000_000)] {
        if budget.is_some() {
            allow(&app, tenant, budget, budget).await;
        }
        let claim = claimed(&app, tenant, conversation, "hello").await;
        let account = Account::of(&store, &claim);
        let before = wire.trips();
        assert_eq!(ask(&Costly, &PROMPT, &account).collect::<Vec<_>>().await.len(), 2);
        let asked = wire.trips();
        store
            .finish_and_settle(&claim, MessageId::new(), "hi", Completion::Whole, Some(&account.bill()))
            .await
            .unwrap()
            .0
            .unwrap();
        trips.push((asked - before, wire.trips() - asked));
    }
    assert_eq!((trips[1], trips[3]), ((0, 1), (1, 1)));
    app.finish().await.unwrap();
}

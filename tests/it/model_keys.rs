//! Tenants' own keys for the services behind the models: sealed, used for whom they belong to, and for nobody else.

use std::{process::Stdio, time::Duration};

use chat_core::{
    Code,
    config::{self, Sealing, Secret, Speaks},
    ids::TenantId,
    sealed::Sealer,
};
use harness::{
    app::App,
    lambda::binaries,
    model::{Act, ScriptedModel},
};
use orchestrator::model::{
    Habits, Models, Prompt,
    keys::{TenantKeys, purpose},
    provider::Patience,
};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::providers::{KEY, answer, entry, only, pieces, prompt, refuse, short};

/// Seals a key and stores it.
async fn store_key(app: &App, tenant: TenantId, provider: &str, sealer: &Sealer, key: &str) {
    let sealed = sealer.seal(tenant, &purpose(provider), &Secret::from(key.to_owned())).unwrap();
    let insert = "insert into model_keys (tenant_id, provider, sealed) values ($1, $2, $3)
        on conflict (tenant_id, provider) do update set sealed = excluded.sealed";
    app.owner().await.unwrap().execute(insert, &[&tenant, &provider, &sealed]).await.unwrap();
}

fn sealer(byte: u8) -> Sealer {
    Sealer::new(&Sealing::with(vec![[byte; 32]]))
}

#[tokio::test]
async fn a_tenants_own_key_is_used_for_that_tenant_and_that_provider_alone() {
    let provider = ScriptedModel::start(|asked| Act::answer(asked.authorization.clone().unwrap())).await.unwrap();
    let app = App::start().await.unwrap();
    let (acme, globex) = (app.demo.tenants[0].id, app.demo.tenants[1].id);
    store_key(&app, acme, "openai", &sealer(1), "sk-of-acme").await;
    let others = vec![entry("groq", Speaks::OpenAi, provider.base_url().to_owned())];
    let default = Some(entry("openai", Speaks::OpenAi, provider.base_url().to_owned()));
    let settings = config::Model { provider: default, others, default: None };
    let new = || {
        let keys = TenantKeys::new(app.product.orchestrator.store.clone(), sealer(1));
        (Models::new(&settings, short()), keys)
    };
    let (models, keys) = new();
    let models = models.with_keys(keys);
    let operators = format!("Bearer {KEY}");
    let ask = async |models: &Models, tenant, model: &str| {
        let (came, code) = pieces(models, &Prompt { tenant, ..prompt(&[model]) }).await;
        code.map_or_else(|| answer(&came).0, |code| code.to_string())
    };
    for (tenant, model, used) in [
        (acme, "m", "Bearer sk-of-acme"),
        (acme, "openai:m", "Bearer sk-of-acme"),
        (acme, "groq:m", &*operators),
        (globex, "m", &*operators),
    ] {
        assert_eq!(ask(&models, tenant, model).await, used, "{model}");
    }

    // What was read is believed for a while: a turn is not a round trip to Postgres each time.
    store_key(&app, acme, "openai", &sealer(1), "sk-another").await;
    store_key(&app, globex, "openai", &sealer(1), "sk-of-globex").await;
    assert_eq!(ask(&models, acme, "m").await, "Bearer sk-of-acme");
    assert_eq!(ask(&models, globex, "m").await, operators, "that there is none is believed, too");
    let (models, keys) = new();
    let models = models.with_keys(keys.kept_for(Duration::ZERO));
    assert_eq!(ask(&models, acme, "m").await, "Bearer sk-another");
    assert_eq!(ask(&models, globex, "m").await, "Bearer sk-of-globex");

    // One that does not open, or was sealed for somebody else, is nobody's; and the operator's is not used for it.
    let calls = provider.calls().len();
    store_key(&app, acme, "openai", &sealer(2), "sk-of-acme").await;
    assert_eq!(ask(&models, acme, "m").await, "model_key_refused");
    let steal =
        "update model_keys set sealed = (select sealed from model_keys where tenant_id = $2) where tenant_id = $1";
    app.owner().await.unwrap().execute(steal, &[&acme, &globex]).await.unwrap();
    assert_eq!(ask(&models, acme, "m").await, "model_key_refused");
    assert_eq!(provider.calls().len(), calls, "nobody was asked");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_tenants_key_that_is_not_taken_is_told_as_theirs_and_opens_nothing_for_others() {
    let provider = ScriptedModel::start(|asked| match asked.authorization.as_deref() {
        Some("sk-revoked") => refuse(401),
        _ => Act::answer("welcome"),
    })
    .await
    .unwrap();
    let app = App::start().await.unwrap();
    let (acme, globex) = (app.demo.tenants[0].id, app.demo.tenants[1].id);
    store_key(&app, acme, "gemini", &sealer(1), "sk-revoked").await;
    let patience = Patience { breaker: Habits { failures: 1, ..Habits::default() }, ..short() };
    let keys = TenantKeys::new(app.product.orchestrator.store.clone(), sealer(1));
    let models = only(&provider, Speaks::Gemini, patience).with_keys(keys);
    for _ in 0..3 {
        let (_, code) = pieces(&models, &Prompt { tenant: acme, ..prompt(&["m"]) }).await;
        assert_eq!(code, Some(Code::ModelKeyRefused));
    }
    assert_eq!(pieces(&models, &Prompt { tenant: globex, ..prompt(&["m"]) }).await.1, None);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_hub_seal_prints_is_a_tenants_key_and_needs_nothing_but_the_sealing_key() {
    let provider = ScriptedModel::start(|asked| Act::answer(asked.authorization.clone().unwrap())).await.unwrap();
    let app = App::start().await.unwrap();
    let acme = app.demo.tenants[0].id;
    let hub = binaries().await.unwrap().join("hub");
    let key: [u8; 32] = rand::random();
    let digits = key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let seal = async |arguments: [&str; 3]| {
        let mut command = Command::new(&hub);
        command.args(arguments).env_clear().env("SECRETS_KEY", &digits).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"sk-of-acme\n").await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!format!("{said}{told}").contains("sk-of-acme"));
        output.status.success().then_some(said)
    };
    let line = seal(["seal", &acme.to_string(), "model:openai"]).await.expect("it is sealed");
    // As an operator would: the line is what psql takes.
    let insert =
        format!("insert into model_keys (tenant_id, provider, sealed) values ('{acme}', 'openai', '{}')", line.trim());
    app.owner().await.unwrap().batch_execute(&insert).await.unwrap();
    let keys = TenantKeys::new(app.product.orchestrator.store.clone(), Sealer::new(&Sealing::with(vec![key])));
    let models = only(&provider, Speaks::OpenAi, short()).with_keys(keys);
    let (came, _) = pieces(&models, &Prompt { tenant: acme, ..prompt(&["m"]) }).await;
    assert_eq!(answer(&came).0, "Bearer sk-of-acme");
    assert_eq!(seal(["seal", "acme", "model:openai"]).await, None, "no tenant has such an id");
    app.finish().await.unwrap();
}

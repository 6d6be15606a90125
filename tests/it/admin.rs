//! `hub admin`: an operator needs no psql. Each command is the real binary in a process of its own.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use chat_core::{
    caller::Role,
    config::Sealing,
    ids::{ConnectionId, TenantId, UserId},
    sealed::Sealer,
};
use harness::{
    app::App,
    clients::{Rest, Socket},
    lambda::binaries,
    product::QueueKind,
    services::User,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::filled::{naming, superuser};

/// The key that seals, in these tests.
const SECRETS_KEY: &str = "9b1f3c7e5a2d4806f1e3b5d7092a4c6e8f0b1d3a5c7e9f2b4d6a8c0e1f3b5d79";

/// What must be seen nowhere.
const BOT: &str = "xoxb-an-operators-secret";
const KEY: &str = "sk-an-operators-secret";
const PROMPT: &str = "You are Mila, and you tell nobody of the blue cupboard.\n";

/// `hub admin …`, as an operator runs it who writes `input`.
pub(crate) async fn run(app: &App, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(binaries().await.unwrap().join("hub"));
    command.arg("admin").args(arguments).env_clear().kill_on_drop(true);
    command.env("DATABASE_URL", &app.owner_url).env("REDIS_URL", app.setting.redis.url(User::Admin));
    if let QueueKind::Sqs(queue) = &app.setting.queue {
        command.env("QUEUE_URL", &queue.queue_url).env("AWS_ENDPOINT_URL_SQS", &queue.endpoint);
        command.env("AWS_REGION", "us-east-1").env("AWS_ACCESS_KEY_ID", "local").env("AWS_SECRET_ACCESS_KEY", "local");
    }
    command.env("SECRETS_KEY", SECRETS_KEY).env("USER", "olga").env("RUST_LOG", "trace");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Whoever reads nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
    let done = child.wait_with_output().await.unwrap();
    for said in [&done.stdout, &done.stderr] {
        let said = String::from_utf8_lossy(said);
        assert!(!said.contains("operators-secret") && !said.contains("blue cupboard"), "{arguments:?}: {said}");
    }
    done
}

/// What it answers as JSON.
pub(crate) async fn asked(app: &App, arguments: &[&str]) -> Value {
    given(app, arguments, "").await
}

async fn given(app: &App, arguments: &[&str], input: &str) -> Value {
    let done = run(app, &[arguments, &["--json"]].concat(), input).await;
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// Why it is refused: with exit code 1, a sentence on standard error, and nothing on standard output.
async fn refused(app: &App, arguments: &[&str], input: &str) -> String {
    let done = run(app, arguments, input).await;
    assert_eq!((done.status.code(), done.stdout.as_slice()), (Some(1), &b""[..]), "{arguments:?}");
    String::from_utf8(done.stderr).unwrap()
}

fn id(answer: &Value) -> &str {
    answer["row"]["id"].as_str().unwrap_or_else(|| panic!("{answer} has no id"))
}

/// Every audit row of operators', in order: action, company, subject, detail.
async fn audit(app: &App) -> Vec<(String, Option<TenantId>, UserId, Value)> {
    let sql = "select action, tenant_id, subject_id, detail::text from audit_events
        where detail ? 'by' and actor_id = '00000000-0000-0000-0000-000000000000' order by created_at, id";
    let rows = app.owner().await.unwrap().query(sql, &[]).await.unwrap();
    let detail = |text: String| serde_json::from_str(&text).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), detail(row.get(3)))).collect()
}

#[tokio::test]
async fn a_company_is_set_up_by_commands_alone_and_its_person_chats() {
    let app = App::start().await.unwrap();
    let tenant = asked(&app, &["tenant", "create", "--name", "Initrode"]).await;
    let tenant = id(&tenant);
    let user = asked(&app, &["user", "create", "--email", "Zoe@Initrode.example", "--name", "Zoe"]).await;
    assert_eq!(user["row"]["email"], "zoe@initrode.example");
    let user = id(&user);
    asked(&app, &["member", "set", tenant, user, "--role", "customer_operator"]).await;
    let create = ["agent", "create", "--tenant", tenant, "--name", "Mila", "--system-prompt", "-"];
    let agent = given(&app, &create, PROMPT).await;
    let agent = id(&agent);

    let token = app.mint.token(user.parse().unwrap(), Role::CustomerOperator, None, Duration::from_secs(60));
    let conversation = Rest::new(&app.product.rest(), Some(&token)).open(tenant, agent).await.unwrap();
    let (mut socket, _) = Socket::join(&app.product.ws(), &conversation, &token).await.unwrap();
    socket.message("Hello", None).await.unwrap();
    assert_eq!(socket.until("response").await.unwrap()["text"], "Echo: Hello");

    // What was not a default is told to the agent from its next turn on.
    let changed = asked(&app, &["agent", "change", agent, "--model", "of-nobody", "--fallback-models", "b,c:d"]).await;
    assert_eq!((&changed["outcome"], &changed["changed"]), (&json!("changed"), &json!(["fallback_models", "model"])));
    socket.message("And now?", None).await.unwrap();
    let failed = socket.until("error").await.unwrap();
    let life = asked(&app, &["turn", "show", failed["turn_id"].as_str().unwrap()]).await;
    assert_eq!(
        (&life["state"], &life["code"], &life["reply_id"]),
        (&json!("failed"), &json!("model_failed"), &Value::Null)
    );
    assert_eq!(crate::admin_live::steps(&life), ["accepted", "hinted", "claimed", "ended"]);
    asked(&app, &["agent", "change", agent, "--active", "false"]).await;
    let agents =
        Rest::new(&app.product.rest(), Some(&token)).get(&format!("/agents?tenant_id={tenant}")).await.unwrap();
    assert_eq!(agents.body, json!([]));

    asked(&app, &["member", "remove", tenant, user]).await;
    let listed = Rest::new(&app.product.rest(), Some(&token)).get(&format!("/conversations?tenant_id={tenant}")).await;
    assert_eq!(listed.unwrap().status, 403);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn each_command_may_be_repeated_and_each_change_leaves_one_audit_row() {
    let app = App::start().await.unwrap();
    let tenant = asked(&app, &["tenant", "create", "--name", "Initrode"]).await;
    let user = asked(&app, &["user", "create", "--email", "zoe@initrode.example"]).await;
    let agent = asked(&app, &["agent", "create", "--tenant", id(&tenant), "--name", "Mila"]).await;
    let (tenant, user, agent) = (id(&tenant), id(&user), id(&agent));
    let connect = [
        "channel",
        "connect",
        "--tenant",
        tenant,
        "--agent",
        agent,
        "--type",
        "slack",
        "--external-id",
        "T9",
        "--credentials",
    ];
    let channel = given(&app, &connect, BOT).await;
    let channel = id(&channel);
    let named = ["--issuer", "https://idp.example", "--subject", "zoe-1"];
    let before = audit(&app).await.len();
    assert_eq!(before, 4);

    // Again as they were: nothing changes, and there is no audit row.
    for (command, input) in [
        (&["tenant", "create", "--name", "Initrode"][..], ""),
        (&["tenant", "create", "--name", "Initrode", "--id", tenant], ""),
        (&["user", "create", "--email", "zoe@initrode.example"], ""),
        (&["agent", "create", "--tenant", tenant, "--name", "Mila"], ""),
        (&connect, BOT),
        (&["identity", "remove", named[0], named[1], named[2], named[3]], ""),
        (&["member", "remove", tenant, user], ""),
        (&["model-key", "remove", tenant, "openai"], ""),
        (&["retention", "clear", tenant], ""),
        (&["tenant", "change", tenant, "--name", "Initrode"], ""),
    ] {
        assert_eq!(given(&app, command, input).await["outcome"], "unchanged", "{command:?}");
    }
    assert_eq!(audit(&app).await.len(), before);

    // Each of them twice: the first changes something, the second nothing.
    let changes: &[(&[&str], &str, &str, &str)] = &[
        (&["tenant", "change", tenant, "--name", "Initrode & Co"], "", "tenant.changed", "name"),
        (&["user", "change", user, "--role", "customer_admin"], "", "user.changed", "role"),
        (&["user", "change", user, "--email", "z@initrode.example"], "", "user.changed", "email"),
        (&["identity", "add", user, named[0], named[1], named[2], named[3]], "", "identity.created", ""),
        (&["member", "set", tenant, user, "--role", "customer_operator"], "", "member.created", ""),
        (&["member", "set", tenant, user, "--role", "customer_admin"], "", "member.changed", "role"),
        (&["agent", "change", agent, "--system-prompt", "-"], PROMPT, "agent.changed", "system_prompt"),
        (&["agent", "change", agent, "--temperature", "0.3"], "", "agent.changed", "temperature"),
        (
            &["agent", "change", agent, "--escalation-rules", "-"],
            r#"[{"condition":"messages > 3"}]"#,
            "agent.changed",
            "escalation_rules",
        ),
        (
            &["channel", "change", channel, "--credentials"],
            "xoxb-another-operators-secret",
            "channel.changed",
            "credentials",
        ),
        (&["model-key", "set", tenant, "openai"], KEY, "model_key.created", ""),
        (&["budget", "set", tenant, "--monthly-calls", "100"], "", "budget.created", ""),
        (&["budget", "set", tenant, "--monthly-tokens", "9000"], "", "budget.changed", "monthly_tokens"),
        (&["retention", "set", tenant, "30"], "", "tenant.changed", "retention_days"),
        (&["retention", "clear", tenant], "", "tenant.changed", "retention_days"),
        (&["budget", "clear", tenant], "", "budget.changed", "monthly_calls monthly_tokens"),
        (&["model-key", "remove", tenant, "openai"], "", "model_key.removed", ""),
        (&["identity", "remove", named[0], named[1], named[2], named[3]], "", "identity.removed", ""),
        (&["member", "remove", tenant, user], "", "member.removed", ""),
        (&["channel", "disconnect", channel], "", "channel.removed", ""),
    ];
    for (command, input, action, columns) in changes {
        let known = audit(&app).await.len();
        let done = given(&app, &[command, &["--by", "Olga the operator"][..]].concat(), input).await;
        let rows = audit(&app).await;
        assert_eq!(rows.len(), known + 1, "{command:?}");
        let (said, of, about, detail) = rows.last().unwrap();
        assert_eq!((said.as_str(), &detail["by"]), (*action, &json!("Olga the operator")), "{command:?}");
        assert_eq!(done["outcome"], said.split_once('.').unwrap().1);
        let columns: Vec<&str> = columns.split_whitespace().collect();
        assert_eq!(detail.get("changed").cloned().unwrap_or(json!([])), json!(columns), "{command:?}");
        assert_eq!(done["changed"], json!(columns), "{command:?}");
        // A person is no company's; all else is.
        let persons = action.starts_with("user.") || action.starts_with("identity.");
        assert_eq!(of.map(|of| of.to_string()), (!persons).then(|| tenant.to_owned()), "{command:?}");
        if persons || action.starts_with("member.") {
            assert_eq!(about.to_string(), user, "{command:?}");
        }
        assert_eq!(given(&app, command, input).await["outcome"], "unchanged", "{command:?}");
        assert_eq!(audit(&app).await.len(), known + 1, "{command:?} again");
    }
    let words = ["operators-secret", "idp.example", "zoe-1", "initrode.example", "messages > 3"].map(str::to_owned);
    let naming = naming(&superuser(&app).await, &words).await;
    assert!(naming.iter().all(|place| !place.starts_with("audit_events")), "{naming:?}");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn secrets_are_sealed_for_their_row_and_shown_nowhere() {
    let app = App::start().await.unwrap();
    let agent = app.agent_of(app.user("ben@acme")).clone();
    let (tenant, agent_id) = (agent.tenant.to_string(), agent.id.to_string());
    let connect = [
        "channel",
        "connect",
        "--tenant",
        &tenant,
        "--agent",
        &agent_id,
        "--type",
        "slack",
        "--external-id",
        "T9",
        "--credentials",
    ];
    let channel = given(&app, &connect, &format!("{BOT}\n")).await;
    assert_eq!(channel["row"]["has_credentials"], true);
    given(&app, &["model-key", "set", &tenant, "openai"], KEY).await;

    let owner = app.owner().await.unwrap();
    let key: [u8; 32] = std::array::from_fn(|at| u8::from_str_radix(&SECRETS_KEY[2 * at..2 * at + 2], 16).unwrap());
    let sealer = Sealer::new(&Sealing::with(vec![key]));
    let sealed =
        owner.query_one("select id, credentials from channel_connections where external_id = 'T9'", &[]).await.unwrap();
    let (connection, sealed): (ConnectionId, Vec<u8>) = (sealed.get(0), sealed.get(1));
    assert_eq!(connection.to_string(), id(&channel));
    assert_eq!(sealer.open(agent.tenant, &format!("channel:{connection}"), &sealed).unwrap().expose(), BOT);
    let sealed: Vec<u8> = owner.query_one("select sealed from model_keys", &[]).await.unwrap().get(0);
    assert_eq!(sealer.open(agent.tenant, "model:openai", &sealed).unwrap().expose(), KEY);
    assert_eq!(naming(&superuser(&app).await, &["operators-secret".to_owned()]).await, Vec::<String>::new());

    // Every list, in words and as JSON, with what stands in it; `run` looks for the secrets.
    for subject in ["tenant", "user", "identity", "member", "agent", "channel", "model-key"] {
        let rows = asked(&app, &[subject, "list"]).await;
        assert!(subject == "identity" || !rows.as_array().unwrap().is_empty(), "{subject}");
        assert!(run(&app, &[subject, "list"], "").await.status.success());
    }
    // Another's secret is no idle repetition.
    let other = refused(&app, &connect, "xoxb-another-operators-secret").await;
    assert!(other.contains("credentials: ") && other.contains(id(&channel)), "{other}");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn rows_have_the_documented_fields_and_an_erased_person_leaves_no_audit_row_that_names_them() {
    let app = App::start().await.unwrap();
    let ben = app.user("ben@acme");
    let (user, tenant) = (ben.id.to_string(), ben.tenant.unwrap().to_string());
    for (command, fields) in [
        (&["tenant", "list"][..], "id name retention_days created_at"),
        (&["user", "list", "--email", "ben@acme.example"], "id email display_name role created_at"),
        (&["member", "list", "--user", &user], "tenant_id user_id email role created_at"),
        (
            &["agent", "list", "--tenant", &tenant],
            "id tenant_id name model fallback_models is_active temperature max_output_tokens context_tokens tools \
             escalation_rules system_prompt_chars created_at",
        ),
    ] {
        let rows = asked(&app, command).await;
        for row in rows.as_array().unwrap() {
            let mut expected: Vec<&str> = fields.split_whitespace().collect();
            expected.sort_unstable();
            assert_eq!(row.as_object().unwrap().keys().collect::<Vec<_>>(), expected, "{command:?}");
            let created: &str = row["created_at"].as_str().unwrap();
            assert!(serde_json::from_value::<chat_core::timestamp::Timestamp>(json!(created)).is_ok(), "{created}");
            assert!(created.ends_with('Z'), "{created}");
        }
        assert!(!rows.as_array().unwrap().is_empty(), "{command:?}");
    }
    asked(&app, &["budget", "set", &tenant, "--monthly-calls", "3"]).await;
    assert_eq!(asked(&app, &["budget", "show", &tenant]).await["monthly_calls"], 3);
    assert_eq!(asked(&app, &["tenant", "show", &tenant]).await["name"], "acme");

    asked(&app, &["user", "change", &user, "--name", "Benjamin"]).await;
    asked(&app, &["member", "set", &tenant, &user, "--role", "customer_admin"]).await;
    let erased = run(&app, &["erase-user", &user, "--email", "ben@acme.example"], "").await;
    assert!(erased.status.success(), "{}", String::from_utf8_lossy(&erased.stderr));
    assert_eq!(naming(&superuser(&app).await, &[user, "Benjamin".to_owned()]).await, Vec::<String>::new());
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_by_the_name_of_its_field() {
    let app = App::start().await.unwrap();
    let (ben, other) = (app.user("ben@acme"), TenantId::new().to_string());
    let (user, tenant) = (ben.id.to_string(), ben.tenant.unwrap().to_string());
    let (agent, long) = (app.agent_of(ben).id.to_string(), "x".repeat(201));
    let of_another = app.agent_of(app.user("ben@globex")).id.to_string();
    let named = ["--issuer", "https://idp.example", "--subject", "ben-1"];
    asked(&app, &[&["identity", "add", &user][..], &named].concat()).await;
    let ada = app.user("ada@acme").id.to_string();
    let before = audit(&app).await.len();
    for (command, input, says) in [
        (&["tenant", "create", "--name", " "][..], "", &["--name", "1 to 200"][..]),
        (&["tenant", "create", "--name", &long], "", &["--name", "1 to 200"]),
        (&["tenant", "create", "--name", "acme", "--id", &other], "", &["name: ", &tenant]),
        (&["tenant", "create", "--name", "Renamed", "--id", &tenant], "", &["name: ", "stands with another"]),
        (&["tenant", "change", &tenant, "--name", "globex"], "", &["name: is that of tenant"]),
        (&["tenant", "change", &other, "--name", "Initrode"], "", &["no such tenant"]),
        (&["tenant", "show", &other], "", &["tenant: "]),
        (&["user", "create", "--email", "nobody"], "", &["--email", "e-mail address"]),
        (&["user", "create", "--email", "ben@acme.example", "--id", &other], "", &["email: ", &user]),
        (&["user", "create", "--email", "ben@acme.example", "--name", "Benno"], "", &["display_name: ", &user]),
        (&["user", "change", &user, "--email", "ada@acme.example"], "", &["email: ", &ada]),
        (&["user", "change", &user], "", &["nothing to change"]),
        (&["user", "create", "--email", "z@acme.example", "--role", "king"], "", &["--role", "no such role: king"]),
        (&["identity", "add", &ada, named[0], named[1], named[2], named[3]], "", &["user_id: ", "stands with another"]),
        (&["member", "set", &other, &user, "--role", "customer_admin"], "", &["tenant_id: names something"]),
        (&["member", "set", &tenant, "ben", "--role", "customer_admin"], "", &["<USER>"]),
        (&["agent", "create", "--tenant", &other, "--name", "Mila"], "", &["tenant_id: names something"]),
        (&["agent", "change", &agent, "--temperature", "9"], "", &["temperature: "]),
        (&["agent", "change", &agent, "--context-tokens", "9"], "", &["context_tokens: "]),
        (&["agent", "change", &agent, "--system-prompt", "/no/such/file"], "", &["system_prompt: "]),
        (&["agent", "change", &agent, "--escalation-rules", "-"], "{}", &["escalation_rules: "]),
        (&["agent", "change", &agent, "--model", "two words"], "", &["--model", "one word"]),
        (
            &["channel", "connect", "--tenant", &tenant, "--agent", &of_another, "--type", "web"],
            "",
            &["agent_id: names something"],
        ),
        (&["channel", "connect", "--tenant", &tenant, "--agent", &agent, "--type", "fax"], "", &["--type"]),
        (&["channel", "change", &other, "--credentials"], BOT, &["connection: "]),
        (&["model-key", "set", &tenant, "Open_AI"], KEY, &["provider: "]),
        (&["model-key", "set", &tenant, "openai"], "", &["secret: "]),
        (&["budget", "set", &tenant, "--monthly-calls", "-1"], "", &["--monthly-calls"]),
        (&["retention", "set", &tenant, "0"], "", &["<DAYS>"]),
        (&["turn", "show", &other], "", &["turn: "]),
        (&["sockets", "close", "--user", &other], "", &["no such user"]),
        (&["sockets", "list"], "", &["--user", "--tenant"]),
    ] {
        let said = refused(&app, command, input).await;
        assert!(says.iter().all(|word| said.contains(word)), "{command:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    assert_eq!(audit(&app).await.len(), before, "nothing was done");
    app.finish().await.unwrap();
}

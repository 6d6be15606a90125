//! A release goes in its order, and no further than it goes well: `deploy/release`, with doubles of the programs it calls.
//! And a database that was restored, whose clients have seen more than it knows.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Output,
};

use chat_core::ids::ClientMessageId;
use harness::{app::App, clients::Socket, template::root};
use serde_json::json;
use tokio::process::Command;

/// Plays `aws`, `docker`, `sam` and `git`: writes down how it was called, and answers what the script goes by.
const DOUBLE: &str = r#"#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case "$(basename "$0") $*" in
  "git status"*) ;;
  "git rev-parse"*) echo 0123456789ab ;;
  "aws ecr describe-images"*) exit 1 ;;
  "aws cloudformation describe-stacks"*-foundation*)
    echo "ImageRepository=000000000000.dkr.ecr.eu-central-1.amazonaws.com/chat-dev-hub"
    echo "SubnetIds=subnet-1,subnet-2"; echo "SecurityGroupIds=sg-1"; echo "Architecture=overridden"
    echo "DatabaseUrlSecretArn=arn:aws:secretsmanager:eu-central-1:000000000000:secret:app" ;;
  "aws cloudformation describe-stacks"*-operator*)
    echo "OperatorCluster=operators"; echo "OperatorTask=hub:7"; echo "PrepareTask=prepare:7"; echo "OperatorLog=log"
    echo "OperatorRoleName=operator" ;;
  "aws cloudformation describe-stacks"*) exit 255 ;;
  "aws ecs run-task"*migrate*) echo arn:aws:ecs:eu-central-1:000000000000:task/operators/migrates ;;
  "aws ecs run-task"*) echo arn:aws:ecs:eu-central-1:000000000000:task/operators/prepares ;;
  "aws ecs describe-tasks"*migrates*) echo "$MIGRATED" ;;
  "aws ecs describe-tasks"*) echo 0 ;;
esac
"#;

/// `deploy/release dev`, in a world in which the migration ends with this code; and the calls that it made.
async fn release(name: &str, migrated: &str) -> (Output, Vec<String>) {
    let folder: PathBuf = std::env::temp_dir().join(format!("chat-release-{}-{name}", std::process::id()));
    fs::create_dir_all(folder.join("bin")).unwrap();
    for program in ["aws", "docker", "sam", "git", "curl"] {
        let path = folder.join("bin").join(program);
        fs::write(&path, DOUBLE).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }
    // A copy, so that nothing is fetched into the real one.
    let copied = Command::new("cp").arg("-r").arg(root().join("deploy")).arg(&folder).status().await.unwrap();
    assert!(copied.success());
    for file in ["samconfig.toml", "template.yaml"] {
        fs::copy(root().join(file), folder.join(file)).unwrap();
    }
    fs::write(folder.join("deploy/trust/rds-ca.pem"), "BEGIN CERTIFICATE").unwrap();
    let calls = folder.join("calls");
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", folder.join("bin").display());
    let mut script = Command::new("bash");
    script.arg("deploy/release").arg("dev").current_dir(&folder).env_clear();
    script.env("PATH", path).env("CALLS", &calls).env("MIGRATED", migrated).env("USER", "olga");
    let output = script.output().await.unwrap();
    let calls = fs::read_to_string(calls).unwrap().lines().map(str::to_owned).collect();
    fs::remove_dir_all(folder).unwrap();
    (output, calls)
}

#[tokio::test]
async fn the_schema_comes_before_whatever_takes_traffic() {
    let (output, calls) = release("good", "0").await;
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), calls.join("\n"));
    let steps = [
        "docker push 000000000000.dkr.ecr.eu-central-1.amazonaws.com/chat-dev-hub:0123456789ab",
        "aws cloudformation deploy --stack-name chat-dev-operator",
        "aws ecs run-task --cluster operators --launch-type FARGATE --task-definition prepare:7",
        "aws ecs run-task --cluster operators --launch-type FARGATE --task-definition hub:7",
        "sam build",
        "sam deploy",
    ];
    let at: Vec<usize> = steps
        .iter()
        .map(|step| calls.iter().position(|call| call.starts_with(step)).unwrap_or_else(|| panic!("no {step}")))
        .collect();
    assert!(at.is_sorted(), "{}", calls.join("\n"));
    // What was given comes before what a stack put out, each once, and nothing that the template does not know.
    let deploy = calls.last().unwrap();
    assert!(deploy.contains("Architecture=arm64") && !deploy.contains("overridden"), "{deploy}");
    assert!(deploy.contains("HubImage=000000000000.dkr.ecr.eu-central-1.amazonaws.com/chat-dev-hub:0123456789ab"));
    assert!(deploy.contains("OperatorRoleName=operator") && !deploy.contains("ImageRepository"), "{deploy}");
}

#[tokio::test]
async fn a_schema_that_does_not_come_stops_the_release() {
    let (output, calls) = release("bad", "1").await;
    assert!(!output.status.success());
    assert!(calls.iter().any(|call| call.contains("\"migrate\"")), "{}", calls.join("\n"));
    assert!(!calls.iter().any(|call| call.starts_with("sam ")), "{}", calls.join("\n"));
}

#[tokio::test]
async fn a_client_that_is_ahead_of_a_restored_database_reads_again_and_goes_on() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message("of before", None).await.unwrap();
    socket.until("response").await.unwrap();
    let lost = ClientMessageId::new().to_string();
    socket.message("of after", Some(&lost)).await.unwrap();
    assert_eq!(socket.until("response").await.unwrap()["seq"], 4);
    drop(socket);

    let restored = "delete from web_conversation_messages where seq > 2; delete from turns where seq > 2;
        update web_conversations set last_seq = 2";
    app.owner().await.unwrap().batch_execute(restored).await.unwrap();
    let mut back = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
    let token = app.token(app.user("ben@acme"));
    back.say(&json!({"type": "auth", "token": token, "last_seq": 4, "epoch": 0})).await.unwrap();
    back.expect("reset").await.unwrap();
    assert_eq!(back.until("ready").await.unwrap()["last_seq"], 2);
    let page = app.rest("ben@acme").get(&format!("/conversations/{conversation}/messages")).await.unwrap().body;
    assert_eq!(
        page.as_array().unwrap().iter().map(|message| message["seq"].as_i64().unwrap()).collect::<Vec<_>>(),
        [1, 2]
    );
    // Sent anew it is a message like any other, though the client gives it the name that it had.
    back.message("of after", Some(&lost)).await.unwrap();
    let accepted = back.until("accepted").await.unwrap();
    assert_eq!((&accepted["seq"], &accepted["duplicate"]), (&json!(3), &json!(false)));
    assert_eq!(back.until("response").await.unwrap()["seq"], 4);
    app.finish().await.unwrap();
}

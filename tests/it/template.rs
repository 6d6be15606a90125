//! What deploys the product and what it is agree: names, settings, times, numbers of connections.

use std::{collections::BTreeSet, path::Path, time::Duration};

use chat_core::config::Limits;
use harness::{
    app::App,
    hub_process::{HubProcess, environment},
    lambda::{Lambda, binaries},
    product::QueueKind,
    pump::create_queue,
    services::User,
    template::{Template, root},
};
use serde_json::Value;

use crate::queue::endpoint;

/// Of Postgres's connections, those that are kept from the product: its own 3, some of RDS's, an operator's task.
const KEPT: u64 = 10;

/// A file of the repository.
fn file(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// `Name=Value` lines.
fn given(path: &str) -> Vec<(String, String)> {
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    file(path).lines().filter(|line| !line.starts_with('#')).filter_map(pair).collect()
}

fn with(template: Template, given: &[(String, String)]) -> Template {
    template.with(given.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

/// The product's template, with whatever its environments and stacks give it.
fn product() -> Template {
    let arn = |what: &str| format!("arn:aws:secretsmanager:us-east-1:000000000000:secret:{what}");
    let template = Template::read("template.yaml").unwrap();
    let secrets: Vec<(String, String)> = template
        .parameters()
        .filter(|(name, default)| name.ends_with("SecretArn") && default.is_none())
        .map(|(name, _)| (name.to_owned(), arn(name)))
        .collect();
    let jwt = arn("jwt");
    with(template, &secrets).with([
        ("JwtSecretArn", jwt.as_str()),
        ("HubDomain", "chat.example"),
        ("AllowedOrigins", "https://portal.example"),
        ("PortalHosts", "https://portal.example"),
        ("HubImage", "hub:1"),
        ("AWS::Region", "us-east-1"),
        ("AWS::URLSuffix", "amazonaws.com"),
        ("Api", "abcdefghij"),
    ])
}

/// The settings that a function gets, as far as the template knows them.
fn of_function(template: &Template, name: &str) -> Vec<(String, String)> {
    let own = template.resource(name)["Environment"]["Variables"].as_object().unwrap();
    let all = template.document["Globals"]["Function"]["Environment"]["Variables"].as_object().unwrap();
    let resolved = |(name, value): (&String, &Value)| Some((name.clone(), template.text(value).unwrap()?));
    all.iter().chain(own).filter_map(resolved).collect()
}

/// The settings that the hub gets.
fn of_hub(template: &Template) -> Vec<(String, String)> {
    let container = &template.resource("HubTask")["ContainerDefinitions"][0];
    let list = |key: &str, value: &'static str| -> Vec<(String, String)> {
        let entries = container[key].as_array().unwrap().iter();
        let chosen = entries.filter_map(|entry| template.chosen(entry).unwrap());
        let resolved = chosen.filter_map(|entry| {
            Some((entry["Name"].as_str().unwrap().to_owned(), template.text(&entry[value]).unwrap()?))
        });
        resolved.collect()
    };
    [list("Environment", "Value"), list("Secrets", "ValueFrom")].concat()
}

/// What only a deployment has, from the stack of the tests: never more than the template names.
fn filled(settings: &[(String, String)], real: &[(&'static str, String)]) -> Vec<(String, String)> {
    let own = |name: &str| real.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    settings.iter().map(|(name, value)| (name.clone(), own(name).unwrap_or_else(|| value.clone()))).collect()
}

fn borrowed(settings: &[(String, String)]) -> Vec<(&str, String)> {
    settings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect()
}

#[tokio::test]
async fn every_process_starts_with_the_settings_that_its_template_gives_it_and_no_others() {
    let queue = create_queue(&endpoint().await, "template").await.unwrap();
    let app = App::with(|setting| setting.queue = QueueKind::Sqs(queue)).await.unwrap();
    let (template, folder) = (product(), binaries().await.unwrap());
    let real = environment(&app.setting).unwrap();
    // What the platform itself gives, as ECS and Lambda do; and where the queue is, which is AWS there.
    let platform: Vec<(String, String)> = real
        .iter()
        .filter(|(name, _)| name.starts_with("AWS_"))
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();

    for (resource, binary) in
        [("Conversations", "conversations"), ("Orchestrator", "orchestrator"), ("DeadLetters", "dead_letters")]
    {
        let mut own = real.clone();
        own.push(("REDIS_URL", app.setting.redis.url(User::of(Path::new(binary)).unwrap())));
        own.retain(|(name, value)| *name != "REDIS_URL" || value.contains(&format!("{binary}:")));
        let env = [filled(&of_function(&template, resource), &own), platform.clone()].concat();
        let function = Lambda::start(&folder.join(binary), &borrowed(&env)).await.unwrap();
        function.ready().await.unwrap();
    }

    let hub = [filled(&of_hub(&template), &real), platform].concat();
    // The tests choose its port.
    let hub: Vec<(String, String)> = hub.into_iter().filter(|(name, _)| name != "LISTEN").collect();
    let hub = HubProcess::start(&folder.join("hub"), &borrowed(&hub)).await.unwrap();
    let ready = reqwest::get(format!("http://{}/readyz", hub.address())).await.unwrap();
    assert_eq!(ready.status().as_u16(), 200);
    app.finish().await.unwrap();
}

#[test]
fn no_setting_is_given_that_nothing_reads() {
    let example = file(".env.example");
    let known: BTreeSet<&str> = example
        .lines()
        .filter_map(|line| line.trim_start_matches("# ").split_once('='))
        .map(|(name, _)| name)
        .chain(["SECRETS_VERSION", "AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH"])
        .collect();
    let template = product();
    let functions = ["Conversations", "Orchestrator", "DeadLetters"].map(|name| of_function(&template, name));
    for (name, _) in functions.concat().into_iter().chain(of_hub(&template)) {
        assert!(known.contains(name.as_str()), "template.yaml sets {name}, which is not in .env.example");
    }
}

#[test]
fn times_agree() {
    let template = product();
    let seconds = |value: &Value| Duration::from_secs(template.number(value).unwrap());
    let setting = |settings: &[(String, String)], name: &str| {
        let found = settings.iter().find(|(known, _)| known == name);
        Duration::from_millis(found.unwrap_or_else(|| panic!("{name} is not set")).1.parse().unwrap())
    };
    let (hub, orchestrator) = (of_hub(&template), of_function(&template, "Orchestrator"));
    for settings in [&hub, &orchestrator] {
        let timeout = seconds(&template.resource("Orchestrator")["Timeout"]);
        assert_eq!(setting(settings, "FUNCTION_TIMEOUT_MS"), timeout);
        let hidden = seconds(&template.resource("Turns")["VisibilityTimeout"]);
        assert_eq!(setting(settings, "QUEUE_VISIBILITY_MS"), hidden);
    }
    let buried = of_function(&template, "DeadLetters");
    assert_eq!(setting(&hub, "TURN_QUEUE_AGE_MS"), setting(&buried, "TURN_QUEUE_AGE_MS"));
    assert!(
        seconds(&template.resource("DeadTurns")["VisibilityTimeout"])
            > seconds(&template.resource("DeadLetters")["Timeout"])
    );

    // A hub that goes: heard of in time, and nobody in a hurry.
    let attribute = |of: &Value, name: &str| {
        let all = of.as_array().unwrap();
        let one = all.iter().find(|one| one["Key"] == name).unwrap_or_else(|| panic!("{name} is not set"));
        seconds(&one["Value"])
    };
    let container = &template.resource("HubTask")["ContainerDefinitions"][0];
    assert!(seconds(&container["StopTimeout"]) > hub::DRAIN);
    let targets = &template.resource("HubTargets")["TargetGroupAttributes"];
    let delay = attribute(targets, "deregistration_delay.timeout_seconds");
    assert!(delay > hub::notice_to_leave::EVERY * 2 + hub::DRAIN, "{delay:?}");
    let balancer = &template.resource("Balancer")["LoadBalancerAttributes"];
    let idle = attribute(balancer, "idle_timeout.timeout_seconds");
    assert!(idle > Duration::from_millis(Limits::default().ping_ms * 2), "{idle:?}");
    // Fewer receives than attempts would bury turns that may still be run.
    assert!(
        template.number(&template.resource("Turns")["RedrivePolicy"]["maxReceiveCount"]).unwrap()
            > u64::try_from(chat_core::config::Times::default().attempts).unwrap()
    );
}

/// Every connection that may be open at once: while a deployment rolls there are hubs of both releases.
fn connections(product: &Template) -> u64 {
    let parameter = |name: &str| product.number(&serde_json::json!({"Ref": name})).unwrap();
    let pool = |size: usize| u64::try_from(size).unwrap();
    let buried = &product.resource("DeadLetters")["Events"]["DeadTurns"]["Properties"]["ScalingConfig"];
    let rolling = product.number(&product.resource("HubService")["DeploymentConfiguration"]["MaximumPercent"]).unwrap();
    let orchestrators = &product.resource("Orchestrator")["Events"]["Turns"]["Properties"]["ScalingConfig"];
    product.number(&orchestrators["MaximumConcurrency"]).unwrap() * pool(orchestrator::POOL_SIZE)
        + product.number(&product.resource("Conversations")["ReservedConcurrentExecutions"]).unwrap()
            * pool(conversations::POOL_SIZE)
        + product.number(&buried["MaximumConcurrency"]).unwrap() * pool(dead_letters::POOL_SIZE)
        + parameter("HubMax") * rolling / 100 * pool(hub::POOL_SIZE)
}

#[test]
fn all_that_may_be_open_at_once_fits_into_max_connections() {
    for environment in ["dev", "prod"] {
        let product = with(product(), &given(&format!("deploy/{environment}.params")));
        let foundation = Template::read("deploy/foundation.yaml").unwrap();
        let foundation = with(foundation, &given(&format!("deploy/{environment}.foundation.params")));
        let granted = foundation.number(&serde_json::json!({"Ref": "MaxConnections"})).unwrap();
        let open = connections(&product);
        assert!(open + KEPT <= granted, "{environment}: {open} connections and {KEPT} of {granted}");
    }
    let granted = Template::read("deploy/foundation.yaml").unwrap();
    let granted = granted.number(&serde_json::json!({"Ref": "MaxConnections"})).unwrap();
    assert!(connections(&product()) + KEPT <= granted, "by default");
}

#[test]
fn every_parameter_is_given_by_a_stack_or_by_whoever_deploys() {
    let outputs = |template: &Template| -> BTreeSet<String> {
        template.document["Outputs"].as_object().unwrap().keys().cloned().collect()
    };
    let foundation = Template::read("deploy/foundation.yaml").unwrap();
    let operator = Template::read("deploy/operator.yaml").unwrap();
    let product = Template::read("template.yaml").unwrap();
    for environment in ["dev", "prod"] {
        let own = given(&format!("deploy/{environment}.params"));
        let own = || own.iter().map(|(name, _)| name.clone()).chain(["HubImage".to_owned()]);
        let for_operator: BTreeSet<String> = outputs(&foundation).into_iter().chain(own()).collect();
        let for_product: BTreeSet<String> = outputs(&operator).into_iter().chain(for_operator.clone()).collect();
        for (template, there, what) in
            [(&operator, &for_operator, "operator.yaml"), (&product, &for_product, "template.yaml")]
        {
            for (name, default) in template.parameters() {
                assert!(default.is_some() || there.contains(name), "{environment}: nobody gives {what} {name}");
            }
        }
        let parameters: BTreeSet<&str> = product.parameters().map(|(name, _)| name).collect();
        for (name, _) in given(&format!("deploy/{environment}.params")) {
            assert!(parameters.contains(name.as_str()), "{environment}.params names {name}, which is no parameter");
        }
        let parameters: BTreeSet<&str> = foundation.parameters().map(|(name, _)| name).collect();
        for (name, _) in given(&format!("deploy/{environment}.foundation.params")) {
            assert!(parameters.contains(name.as_str()), "{environment}: {name} is no parameter of the foundation");
        }
    }
}

#[test]
fn lines_that_raise_alarms_are_said_by_the_code() {
    fn sources(folder: &Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                sources(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let template = product();
    let mut counted = 0;
    for (name, filter) in template.resources("AWS::Logs::MetricFilter") {
        let folders: &[&str] = match filter["LogGroupName"]["Ref"].as_str().unwrap() {
            "HubLog" => &["hub/src", "core/src"],
            "OrchestratorLog" => &["functions/orchestrator/src", "core/src"],
            "DeadLettersLog" => &["functions/dead_letters/src", "core/src"],
            log => panic!("{name} listens to {log}"),
        };
        let mut text = String::new();
        folders.iter().for_each(|folder| sources(&root().join(folder), &mut text));
        let pattern = filter["FilterPattern"].as_str().unwrap();
        let words = pattern.split('"').nth(1).unwrap().trim_end_matches('*');
        assert!(text.contains(&format!("\"{words}")), "nothing in {folders:?} says {words:?}, which {name} waits for");
        counted += 1;
    }
    assert!(counted > 0, "no filters");
}

#[test]
fn redis_lets_in_whom_the_file_lets_in() {
    let foundation = Template::read("deploy/foundation.yaml").unwrap();
    let there: BTreeSet<(String, String)> = foundation
        .resources("AWS::ElastiCache::User")
        .map(|(_, user)| (user["UserName"].as_str().unwrap().to_owned(), user["AccessString"].as_str().unwrap().into()))
        .collect();
    let here: BTreeSet<(String, String)> = file("redis.acl")
        .lines()
        .map(|line| {
            let (name, rights) = line.strip_prefix("user ").unwrap().split_once(' ').unwrap();
            // There, passwords are set beside the rights.
            let mut rights = rights.replace("resetpass ", "");
            if let (Some(from), Some(to)) = (rights.find("#<"), rights.find("> ")) {
                rights.replace_range(from..to + 2, "");
            }
            (name.to_owned(), rights)
        })
        .collect();
    assert_eq!(there, here);
    let of_group: BTreeSet<&str> = foundation.resource("RedisUsers")["UserIds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["Ref"].as_str().unwrap())
        .collect();
    let users: BTreeSet<&str> = foundation.resources("AWS::ElastiCache::User").map(|(name, _)| name).collect();
    assert_eq!(of_group, users);
}

#[test]
fn what_a_browser_asks_before_it_may_ask_needs_no_token() {
    let template = product().with([("JwtAuthorizerIssuer", "https://id.example")]);
    let mut free = BTreeSet::new();
    for (_, route) in template.resources("AWS::ApiGatewayV2::Route") {
        let guarded = template.text(&route["AuthorizationType"]).unwrap().unwrap() == "JWT";
        assert_eq!(guarded, template.chosen(&route["AuthorizerId"]).unwrap().is_some_and(|id| !id.is_null()));
        if !guarded {
            free.insert(route["RouteKey"].as_str().unwrap().to_owned());
        }
    }
    let free: Vec<&str> = free.iter().map(String::as_str).collect();
    assert_eq!(
        free,
        [
            "GET /api/portal/chat/healthz",
            "GET /api/portal/chat/openapi.json",
            "GET /api/portal/chat/readyz",
            "OPTIONS /api/portal/chat/{proxy+}"
        ]
    );
    // By default our code alone looks at tokens.
    let template = product();
    for (name, route) in template.resources("AWS::ApiGatewayV2::Route") {
        assert_eq!(template.text(&route["AuthorizationType"]).unwrap().unwrap(), "NONE", "{name}");
    }
    assert!(template.resource("Api").get("CorsConfiguration").is_none(), "CORS is decided in one place: our code");
}

//! Who may do what in Redis: each deployable comes in as its own user of `redis.acl`, and may do what it needs.
//!
//! That the rights suffice is what all other tests show: every product in them comes in by this file. Here is that they
//! do not reach further.

use std::fs;

use chat_core::{
    ids::{AgentId, ConversationId, TenantId, TurnId, UserId},
    keys::{
        escalation_status_key, memory_short_key, ratelimit_key, webchat_partial_key, webchat_response_key,
        webchat_stop_key,
    },
};
use harness::{
    app,
    services::{ACL, Options, Services, User},
};
use redis::aio::MultiplexedConnection;

async fn connected(user: User) -> MultiplexedConnection {
    let url = app::services().await.unwrap().redis.entrance.url(user);
    redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// What becomes of a command: its error's code, or nothing.
async fn refusal(redis: &mut MultiplexedConnection, command: &str) -> Option<String> {
    let mut words = command.split(' ');
    let mut asked = redis::cmd(words.next().unwrap());
    for word in words {
        asked.arg(word);
    }
    let error = asked.query_async::<redis::Value>(redis).await.err()?;
    Some(error.code().map_or_else(|| error.to_string(), str::to_owned))
}

/// Names of every kind that there is.
struct Names {
    topic: String,
    partial: String,
    stop: String,
    memory: String,
    escalation: String,
    rate: String,
    sockets: String,
    foreign: String,
}

impl Names {
    fn new() -> Self {
        let (tenant, conversation, turn) = (TenantId::new(), ConversationId::new(), TurnId::new());
        Self {
            topic: webchat_response_key(tenant, conversation).to_string(),
            partial: webchat_partial_key(tenant, turn).to_string(),
            stop: webchat_stop_key(tenant, turn).to_string(),
            memory: memory_short_key(tenant, AgentId::new(), UserId::new()).to_string(),
            escalation: escalation_status_key(tenant, &conversation.to_string()).to_string(),
            rate: ratelimit_key(tenant, UserId::new()).to_string(),
            sockets: format!("{tenant}:sockets:tenant"),
            foreign: format!("{tenant}:of:somebody:else"),
        }
    }

    /// Reading and writing of every kind of key, each as `(kind, what, command)`.
    fn commands(&self) -> Vec<(&'static str, &'static str, String)> {
        let Self { topic, partial, stop, memory, escalation, rate, sockets, foreign } = self;
        let mut all = vec![
            ("topic", "publish", format!("PUBLISH {topic} x")),
            ("topic", "publish", format!("SPUBLISH {topic} x")),
            ("topic", "hear", format!("SUBSCRIBE {topic}")),
            ("topic", "hear", format!("SSUBSCRIBE {topic}")),
        ];
        for (kind, key) in [
            ("partial", partial),
            ("stop", stop),
            ("memory", memory),
            ("escalation", escalation),
            ("rate", rate),
            ("sockets", sockets),
            ("foreign", foreign),
        ] {
            all.extend([
                (kind, "get", format!("GET {key}")),
                (kind, "set", format!("SET {key} 1 PX 1000")),
                (kind, "setex", format!("SETEX {key} 60 1")),
                (kind, "exists", format!("EXISTS {key}")),
                (kind, "del", format!("DEL {key}")),
                (kind, "unlink", format!("UNLINK {key}")),
                (kind, "lrange", format!("LRANGE {key} 0 -1")),
                (kind, "rpush", format!("RPUSH {key} x")),
                (kind, "hset", format!("HSET {key} f x")),
                (kind, "hgetall", format!("HGETALL {key}")),
            ]);
        }
        all
    }
}

/// Everything that a user may do to names; all else is refused. Through the scripts of `core::bus` each may do what it
/// needs, and what its script does it may do itself: Redis knows no script by its words.
fn allowed(user: User) -> &'static [(&'static str, &'static [&'static str])] {
    match user {
        User::Hub => &[
            ("topic", &["publish", "hear"]),
            ("partial", &["lrange"]),
            ("stop", &["setex"]),
            ("memory", &["unlink"]),
            ("rate", &["get", "set"]),
            ("sockets", &["hset", "hgetall"]),
        ],
        User::Conversations => &[
            ("topic", &["publish"]),
            ("stop", &["setex"]),
            ("memory", &["del"]),
            ("escalation", &["setex", "del"]),
            ("rate", &["get", "set"]),
        ],
        User::Orchestrator => &[
            ("topic", &["publish"]),
            ("partial", &["del", "rpush"]),
            ("stop", &["exists"]),
            ("memory", &["lrange", "rpush"]),
            ("escalation", &["setex"]),
        ],
        User::DeadLetters => &[("topic", &["publish"])],
        User::Admin => &[
            ("topic", &["publish"]),
            ("partial", &["unlink"]),
            ("stop", &["unlink"]),
            ("memory", &["unlink"]),
            ("escalation", &["unlink"]),
            ("rate", &["unlink"]),
            ("sockets", &["unlink", "hgetall"]),
            ("foreign", &["unlink"]),
        ],
        User::Harness => unreachable!("in no deployment"),
    }
}

#[tokio::test]
async fn each_user_of_redis_may_do_to_keys_and_topics_what_it_needs_and_no_more() {
    let mut all = connected(User::Harness).await;
    for user in User::DEPLOYED {
        let may = |kind: &str, what: &str| allowed(user).iter().any(|(k, whats)| *k == kind && whats.contains(&what));
        for (kind, what, command) in Names::new().commands() {
            // A connection of its own: one that listens may do little else.
            let refused = refusal(&mut connected(user).await, &command).await;
            let expected = if may(kind, what) { None } else { Some("NOPERM".to_owned()) };
            assert_eq!(refused, expected, "{}: {command}", user.name());
            let key = command.split(' ').nth(1).unwrap();
            redis::cmd("DEL").arg(key).exec_async(&mut all).await.unwrap();
        }
    }
}

#[tokio::test]
async fn no_user_of_redis_may_look_around_or_command_the_server() {
    for user in User::DEPLOYED {
        let mut redis = connected(user).await;
        for command in [
            "KEYS *",
            "RANDOMKEY",
            "DBSIZE",
            "FLUSHALL",
            "FLUSHDB",
            "CONFIG GET *",
            "CONFIG SET maxmemory 1",
            "SHUTDOWN NOSAVE",
            "ACL LIST",
            "ACL WHOAMI",
            "ACL SETUSER default on",
            "MONITOR",
            "CLIENT LIST",
            "CLIENT KILL TYPE pubsub",
            "PSUBSCRIBE *",
            "PUBSUB CHANNELS",
            "PUBSUB SHARDCHANNELS",
            "PUBLISH other:channel x",
            "SPUBLISH other:channel x",
            "SSUBSCRIBE other:channel",
            "CLUSTER NODES",
            "CLUSTER MEET 127.0.0.1 1",
            "CLUSTER FAILOVER",
            "CLUSTER RESET",
            "EVAL return(1) 0",
            "SCRIPT FLUSH",
            "FUNCTION LIST",
            "MODULE LIST",
            "REPLICAOF NO ONE",
            "SAVE",
            "INFO",
            "SWAPDB 0 1",
            "MIGRATE 127.0.0.1 1 k 0 1",
        ] {
            assert_eq!(refusal(&mut redis, command).await.as_deref(), Some("NOPERM"), "{}: {command}", user.name());
        }
        // Redis refuses this one to everybody, by a setting of its own, before it looks at rights.
        let mut tried = redis::cmd("ACL");
        tried.arg(&["DRYRUN", user.name(), "DEBUG", "SLEEP", "0"]);
        let verdict: String = tried.query_async(&mut connected(User::Harness).await).await.unwrap();
        assert!(verdict.contains("no permissions"), "{}: DEBUG: {verdict}", user.name());
        let looks_through = refusal(&mut redis, "SCAN 0").await;
        assert_eq!(looks_through.is_none(), user == User::Admin, "{}: {looks_through:?}", user.name());
    }
}

/// A script has the rights of its caller, not of whoever wrote it.
#[tokio::test]
async fn a_script_may_do_no_more_than_its_caller() {
    let names = Names::new();
    for (user, commands) in [
        (User::Hub, ["redis.call('get',KEYS[1])", "redis.call('flushall')"]),
        (User::Conversations, ["redis.call('hset',KEYS[1],'f','x')", "redis.call('publish','other','x')"]),
        (User::Orchestrator, ["redis.call('lrange',KEYS[1],0,-1)", "redis.call('publish','other','x')"]),
    ] {
        let mut redis = connected(user).await;
        for (command, key) in commands.into_iter().zip([&names.foreign, own_key(&names, user)]) {
            let load = redis::cmd("SCRIPT").arg(&["LOAD", &format!("return {command}")]).clone();
            let sha: String = load.query_async(&mut redis).await.unwrap();
            let mut run = redis::cmd("EVALSHA");
            let error = run.arg(sha).arg(1).arg(key).query_async::<redis::Value>(&mut redis).await.unwrap_err();
            let said = error.to_string();
            assert!(
                error.code() == Some("NOPERM") || said.contains("The user executing the script can't"),
                "{}: {command}: {said}",
                user.name()
            );
        }
    }
}

fn own_key(names: &Names, user: User) -> &String {
    if user == User::Orchestrator { &names.partial } else { &names.rate }
}

#[tokio::test]
async fn nobody_comes_into_redis_without_a_password_or_with_anothers() {
    let redis = &app::services().await.unwrap().redis;
    let own = redis.entrance.url(User::Hub);
    let (hub, rest) = own.split_once("hub:").unwrap();
    for url in [
        format!("redis://{}", redis.entrance.address),
        format!("{hub}dead_letters:{rest}"),
        format!("{hub}hub:@{}", redis.entrance.address),
        format!("{hub}default:{rest}"),
    ] {
        let client = redis::Client::open(url.as_str()).unwrap();
        let connected = client.get_multiplexed_async_connection().await;
        let refused = match connected {
            Ok(mut redis) => refusal(&mut redis, "PING").await.is_some(),
            Err(_) => true,
        };
        assert!(refused, "{url}");
    }
}

/// The placeholder is no password, and no hash of one: whoever forgets to fill it in has no Redis, not an open one.
#[tokio::test]
async fn the_acl_file_as_it_is_lets_redis_not_start() {
    for user in User::DEPLOYED {
        let line = ACL.lines().find(|line| line.starts_with(&format!("user {} ", user.name()))).unwrap();
        assert!(line.contains(&format!(" #<SHA-256 of the password of {}> ", user.name())), "{line}");
        assert!(!line.contains("nopass") && !line.contains(" >"), "{line}");
        assert!(line.contains(" resetkeys resetchannels -@all "), "{line}");
    }
    assert_eq!(ACL.lines().count(), User::DEPLOYED.len() + 1, "and the default user");
    let own = Services::start(&Options { durable: false, max_connections: 10 }, &|_| {}).await.unwrap();
    let unfilled = own.folder().join("redis/unfilled.acl");
    fs::write(&unfilled, ACL).unwrap();
    let mut redis = redis::Client::open(own.redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    fs::copy(&unfilled, own.folder().join("redis/redis.acl")).unwrap();
    let error = redis::cmd("ACL").arg("LOAD").query_async::<redis::Value>(&mut redis).await.unwrap_err().to_string();
    assert!(error.contains("64") || error.contains("hash"), "{error}");
    own.stop().await.unwrap();
}

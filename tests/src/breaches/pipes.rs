//! Redis and Postgres: who comes in, and over what.

use super::Breach;

pub(super) const BREACHES: &[Breach] = &[
    Breach {
        threat: "T28",
        defence: "the user hub of Redis may not read a memory",
        file: "redis.acl",
        find: "(+unlink %W~*:memory:short:*) (+script",
        replace: "(+unlink +lrange ~*:memory:short:*) (+script",
        test: "acl::each_user_of_redis_may_do_to_keys_and_topics_what_it_needs_and_no_more",
    },
    Breach {
        threat: "T28",
        defence: "the orchestrator may not listen to conversations",
        file: "redis.acl",
        find: "-@all +publish +cluster|slots +spublish &*:webchat:response:* (+script|load +evalsha +lindex",
        replace: "-@all +subscribe +publish +cluster|slots +spublish &*:webchat:response:* (+script|load +evalsha +lindex",
        test: "acl::each_user_of_redis_may_do_to_keys_and_topics_what_it_needs_and_no_more",
    },
    Breach {
        threat: "T28",
        defence: "no user of Redis commands the server",
        file: "redis.acl",
        find: "user dead_letters on #<SHA-256 of the password of dead_letters> resetkeys resetchannels -@all",
        replace: "user dead_letters on #<SHA-256 of the password of dead_letters> resetkeys resetchannels -@all +config",
        test: "acl::no_user_of_redis_may_look_around_or_command_the_server",
    },
    Breach {
        threat: "T28",
        defence: "nobody comes into Redis without a password",
        file: "redis.acl",
        find: "user default off resetpass resetkeys resetchannels -@all",
        replace: "user default on nopass resetkeys resetchannels -@all +ping",
        test: "acl::nobody_comes_into_redis_without_a_password_or_with_anothers",
    },
    Breach {
        threat: "T28",
        defence: "TLS to Redis without verification is refused",
        file: "core/src/bus/mod.rs",
        find: "if *insecure {",
        replace: "if *insecure && settings.url.expose().is_empty() {",
        test: "tls::a_redis_url_that_would_believe_anybody_is_refused_by_its_name",
    },
    Breach {
        threat: "T28",
        defence: "TLS to Postgres is demanded, not merely offered",
        file: "core/src/store/tls.rs",
        find: "SslMode::Require } else",
        replace: "SslMode::Prefer } else",
        test: "tls::a_server_without_tls_is_refused_where_it_is_demanded",
    },
    Breach {
        threat: "T28",
        defence: "plain TCP to another machine is explicit",
        file: "core/src/store/tls.rs",
        find: "None if is_this_machine(&config) => None",
        replace: "None if is_this_machine(&config) || mode.is_none() => None",
        test: "chat-core:store::tls::tests::to_another_machine_the_url_says_how_and_nothing_less_than_verify_full_passes_for_tls",
    },
];

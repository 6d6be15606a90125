//! What stood before, and what is forged: the first frame, the roles of the database, rates, budgets, tools, webhooks, hints.

use super::Breach;

pub(super) const BREACHES: &[Breach] = &[
    Breach {
        threat: "T2",
        defence: "what a first frame says of its sender must agree with what is known",
        file: "hub/src/handshake.rs",
        find: "if agrees { Ok(()) }",
        replace: "if agrees || true { Ok(()) }",
        test: "identity::what_the_first_frame_says_must_agree_with_what_is_known",
    },
    Breach {
        threat: "T10",
        defence: "a connection of a role that could bypass the policies is refused, and a hub does not start with one",
        file: "core/src/store/role.rs",
        find: "select r.rolsuper or r.rolbypassrls or exists (",
        replace: "select false and exists (",
        test: "walls::a_role_that_could_bypass_the_policies_is_refused_at_the_start",
    },
    Breach {
        threat: "T12",
        defence: "without a tenant, or with an empty one, there is no row",
        file: "migrations/V004__walls.sql",
        find: "create policy tenant on web_conversations\n  using (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)",
        replace: "create policy tenant on web_conversations\n  using (coalesce(tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid, true))",
        test: "walls::without_a_tenant_nothing_comes_back",
    },
    Breach {
        threat: "T22",
        defence: "a person writes at their rate at all hubs and functions together",
        file: "core/src/bus/bucket.rs",
        find: "if wait > 0 then return math.ceil(wait) end",
        replace: "if wait > 1e15 then return math.ceil(wait) end",
        test: "rates::those_who_ask_at_once_do_not_get_more_than_there_is",
    },
    Breach {
        threat: "T23",
        defence: "a call of a model is reserved before it is made, however many ask at once",
        file: "core/src/store/spend.rs",
        find: "\" + 1 <= b.monthly_calls)",
        replace: "\" + 1 <= b.monthly_calls + 5)",
        test: "spend::a_hundred_messages_at_once_at_a_budget_of_ten_calls_make_ten",
    },
    Breach {
        threat: "T24",
        defence: "a tool reaches the claimed turn's own conversation and no other",
        file: "core/src/store/search.rs",
        find: "where conversation_id = $1 and tenant_id = app_tenant() and epoch",
        replace: "where $1::uuid is not null and epoch",
        test: "hygiene::a_hostile_model_gets_nothing_of_anybody_else",
    },
    Breach {
        threat: "T25",
        defence: "a webhook's name is checked where it is resolved for the very connection",
        file: "functions/orchestrator/src/notice/address.rs",
        find: "found.filter(|address| is_public(address.ip()))",
        replace: "found.filter(|address| address.port() == 0 || is_public(address.ip()))",
        test: "orchestrator:notice::address::tests::a_name_that_leads_here_is_not_resolved",
    },
    Breach {
        threat: "T28",
        defence: "what is published under one conversation's name and names another is refused, and counted",
        file: "hub/src/fanout.rs",
        find: "conversation_of(topic) != Some(named)",
        replace: "topic.is_empty() && conversation_of(topic) != Some(named)",
        test: "identity::a_forged_publication_shows_nothing_and_breaks_nothing",
    },
];

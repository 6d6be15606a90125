//! What came with the rest of the interface: what is one's own alone, streams of events, and operators who put people out.

use super::Breach;

pub(super) const BREACHES: &[Breach] = &[
    Breach {
        threat: "T8",
        defence: "what a person makes of a conversation is its owner's alone",
        file: "core/src/store/door.rs",
        find: "if seat.owner != who.user_id && !out(Defence::ApplicationChecks) {",
        replace: "if false {",
        test: "rbac::everybody_may_do_what_the_table_says_and_no_more",
    },
    Breach {
        threat: "T8",
        defence: "a search is of one's own conversations",
        file: "core/src/store/portal.rs",
        find: "where c.tenant_id = app_tenant() and c.user_id = $1 and ($7",
        replace: "where c.tenant_id = app_tenant() and $1::uuid is not null and ($7",
        test: "portal::words_are_found_in_ones_own_conversations_newest_first",
    },
    Breach {
        threat: "T15",
        defence: "what a company's agents took is its admins' to know",
        file: "core/src/store/portal.rs",
        find: "require_tenant_admin(member.caller, *tenant)?;",
        replace: "let _ = require_tenant_admin(member.caller, *tenant);",
        test: "portal::admins_see_what_their_agents_took_and_nobody_else_does",
    },
    Breach {
        threat: "T7",
        defence: "whom an operator puts out is out of every hub",
        file: "hub/src/session/mod.rs",
        find: "if seat.put_out != self.seat.put_out {",
        replace: "if seat.put_out < self.seat.put_out {",
        test: "admin_live::a_persons_sockets_are_counted_and_closed_on_all_hubs_and_nobody_elses",
    },
    Breach {
        threat: "T27",
        defence: "a stream of events names only origins of the list to browsers",
        file: "hub/src/events.rs",
        find: "AllowOrigin::list(origins)",
        replace: "AllowOrigin::predicate({ let known = origins.count(); move |_, _| known < 99 })",
        test: "sse::pages_of_listed_origins_may_read_and_no_others",
    },
    Breach {
        threat: "T20",
        defence: "who takes nothing of a stream of events is cut",
        file: "hub/src/peer.rs",
        find: "timeout(PATIENCE, reader.write(frame, &text))",
        replace: "timeout(PATIENCE * 1_000, reader.write(frame, &text))",
        test: "sse::a_reader_who_takes_nothing_is_cut_and_misses_nothing",
    },
    Breach {
        threat: "T36",
        defence: "a title that a model made of what was said goes with it",
        file: "core/src/store/retention.rs",
        find: "where id = $1 and title_seq <= expired_seq",
        replace: "where id = $1 and title_seq < 0",
        test: "titles::a_made_title_goes_with_the_message_that_it_was_made_from",
    },
];

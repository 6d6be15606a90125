//! Statements without the defence that is out; see [`crate::sabotage`]. In every other build they are as they are.

#[cfg(feature = "sabotage")]
pub(super) use taken::statement;

/// A statement as it is sent.
#[cfg(not(feature = "sabotage"))]
pub(super) fn statement(sql: &'static str) -> &'static str {
    sql
}

#[cfg(feature = "sabotage")]
mod taken {
    use std::{
        collections::HashMap,
        sync::{Mutex, PoisonError},
    };

    use crate::sabotage::{Defence, out};

    /// What is taken out of the statements, and what stands there instead; each parameter stays in use.
    const REPLACED: &[(Defence, &str, &str)] = &[
        // Whole statements first: they hold what the last of these looks for, too.
        (Defence::ApplicationChecks, super::super::door::CONVERSATION, super::super::door::ANY_CONVERSATION),
        (Defence::ApplicationChecks, super::super::door::STILL_IN, "select $1::uuid, $2::uuid"),
        (Defence::ApplicationChecks, super::super::door::MINE, "select $1::uuid, $2::uuid"),
        (Defence::ApplicationChecks, "c.user_id = $1 and ($7", "$1::uuid is not null and ($7"),
        (Defence::ApplicationChecks, "m.tenant_id = $2 and m.user_id = $1", "m.tenant_id = $2"),
        (Defence::ApplicationChecks, "c.id = $2 and current_user = 'chat_platform'", "c.id = $2"),
        (Defence::ApplicationChecks, "current_user = 'chat_platform' and (not $1", "(not $1"),
        (Defence::ApplicationChecks, "tenant_id = app_tenant()", "tenant_id is not null"),
        (Defence::Lock, super::super::LOCK, "select $1::uuid"),
        (Defence::Sweep, "limit $5\n      for no key update", "limit $5 * 0\n      for no key update"),
        (Defence::Fence, "and t.attempt = $3 and t.state = 'running'", "and $3::int is not null"),
        (Defence::Fence, "and attempt = $3 and state = 'running'", "and $3::int is not null"),
    ];

    /// A statement as it is sent. Each is changed once, and stays for the process's life as its original does.
    pub(in crate::store) fn statement(sql: &'static str) -> &'static str {
        static CHANGED: Mutex<Option<HashMap<&'static str, &'static str>>> = Mutex::new(None);
        let mut changed = CHANGED.lock().unwrap_or_else(PoisonError::into_inner);
        changed.get_or_insert_default().entry(sql).or_insert_with(|| {
            let replaced = REPLACED.iter().filter(|(defence, ..)| out(*defence));
            let sabotaged = replaced.fold(sql.to_owned(), |sql, (_, from, to)| sql.replace(from, to));
            if sabotaged == sql { sql } else { sabotaged.leak() }
        })
    }
}

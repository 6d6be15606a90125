//! How tenants are told outside that a conversation waits for a person.

use std::time::Duration;

use super::{Env, channels::slack};

/// How notices are sent, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notices {
    /// Webhooks may go to private addresses, and unencrypted; for a machine of one's own. Otherwise a tenant could make
    /// us call what only we can reach.
    pub allow_private: bool,
    /// What stands before `/chat.postMessage`, without a slash at its end.
    pub slack_base_url: String,
    /// Time from the first notice to the second while no person answers; it doubles with each further one.
    pub remind: Duration,
    /// Notices after the first at most.
    pub reminders: i32,
}

impl Notices {
    /// Reads `NOTICE_ALLOW_PRIVATE`, `SLACK_BASE_URL`, `NOTICE_REMIND_MS` and `NOTICE_REMINDERS`.
    pub fn read(env: &mut Env<'_>) -> Self {
        let allow_private = match env.optional("NOTICE_ALLOW_PRIVATE").as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                env.faults.push("NOTICE_ALLOW_PRIVATE must be true or false".to_owned());
                false
            }
        };
        Self {
            allow_private,
            slack_base_url: slack(env),
            remind: Duration::from_millis(env.number("NOTICE_REMIND_MS", 900_000, (10, 86_400_000))),
            reminders: env.number("NOTICE_REMINDERS", 5, (0, 100)),
        }
    }
}

impl Default for Notices {
    fn default() -> Self {
        Self::read(&mut Env::new(&|_| None))
    }
}

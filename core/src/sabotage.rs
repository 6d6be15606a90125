//! Defences that can be taken out, one in a process, so that the fault campaign and the attack on the walls can show that
//! they would notice.
//!
//! The feature `sabotage` is for builds made for that purpose, in a folder of their own; without it nothing here can be
//! taken out, and a release refuses to be built with it. What stands in SQL is taken out of the statements on their way to
//! Postgres, in `store/sabotage.rs`.

#[cfg(all(feature = "sabotage", not(debug_assertions)))]
compile_error!("the feature `sabotage` takes defences out; a release must not have it");

/// A defence, named as the campaign names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defence {
    /// A socket listens before it reads.
    SubscribeFirst,
    /// A socket that comes back is sent what it missed.
    Reread,
    /// The conversation is locked before anything looks at more than one of its rows.
    Lock,
    /// Turns left lying are found.
    Sweep,
    /// Whoever is not a turn's worker any more cannot end it.
    Fence,
    /// What the application itself says between tenants, beside the policies: the tenant in each statement, the conditions
    /// of the doors, and the guards of [`caller`](crate::caller).
    ApplicationChecks,
}

/// Whether a defence is out. Never, but in a build for sabotage that was started so.
#[must_use]
pub fn out(defence: Defence) -> bool {
    #[cfg(feature = "sabotage")]
    return taken::defence() == Some(defence);
    #[cfg(not(feature = "sabotage"))]
    {
        let _ = defence;
        false
    }
}

#[cfg(feature = "sabotage")]
mod taken {
    use std::sync::OnceLock;

    use super::Defence;

    /// The defence that `SABOTAGE` names.
    pub(super) fn defence() -> Option<Defence> {
        static OUT: OnceLock<Option<Defence>> = OnceLock::new();
        *OUT.get_or_init(|| {
            let name = crate::config::process("SABOTAGE").filter(|name| !name.is_empty())?;
            let defences = [
                ("subscribe-first", Defence::SubscribeFirst),
                ("re-read", Defence::Reread),
                ("lock", Defence::Lock),
                ("sweep", Defence::Sweep),
                ("fence", Defence::Fence),
                ("application-checks", Defence::ApplicationChecks),
            ];
            let found = defences.into_iter().find(|(known, _)| *known == name);
            Some(found.expect("SABOTAGE names a defence").1)
        })
    }
}

//! Redis, Postgres and the queue.

use super::Breach;

pub(super) const BREACHES: &[Breach] = &[];

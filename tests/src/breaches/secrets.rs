//! What must not be seen, and what cannot be read.

use super::Breach;

pub(super) const BREACHES: &[Breach] = &[];

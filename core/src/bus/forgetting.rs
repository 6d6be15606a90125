//! What Redis holds of a company or a person is forgotten, where they are erased.

use std::time::Duration;

use tokio::time::timeout;

use super::Publisher;
use crate::{
    error::{Error, Result},
    keys::{Key, Pattern},
};

/// Keys that one step of a SCAN looks at: a fraction of a millisecond of Redis's time, between which others are served.
const STEP: usize = 1_000;

/// Longest time for looking through all keys. A hundred million take about a minute.
const LOOK_THROUGH: Duration = Duration::from_secs(300);

/// Until when a key stands by itself, at most: the memory, which stands for a week after it was last used.
pub const FORGOTTEN_WITHIN: Duration = Duration::from_secs(super::memory::EXPIRY_SECONDS.unsigned_abs());

impl Publisher {
    /// Forgets these keys; returns how many there were.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not answer.
    pub async fn forget(&self, keys: &[Key]) -> Result<u64> {
        let mut forgotten = 0;
        for together in keys.chunks(STEP) {
            forgotten += self.unlink(together.iter().map(Key::as_str)).await?;
        }
        Ok(forgotten)
    }

    /// Looks through all keys and forgets those of a pattern; returns how many there were. Those that come to be
    /// meanwhile may be missed.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not answer, or has more keys than can be looked
    /// through in five minutes.
    pub async fn forget_all(&self, of: &Pattern) -> Result<u64> {
        let looking = async {
            let (mut cursor, mut forgotten) = (0_u64, 0);
            loop {
                let mut step = redis::cmd("SCAN");
                step.arg(cursor).arg("MATCH").arg(of.as_str()).arg("COUNT").arg(STEP);
                let (next, found): (u64, Vec<String>) =
                    step.query_async(&mut self.conn.clone()).await.map_err(Error::unavailable)?;
                forgotten += self.unlink(found.iter().map(String::as_str)).await?;
                cursor = next;
                if cursor == 0 {
                    return Ok(forgotten);
                }
            }
        };
        timeout(LOOK_THROUGH, looking).await.map_err(Error::unavailable)?
    }

    async fn unlink(&self, names: impl Iterator<Item = &str>) -> Result<u64> {
        let names: Vec<&str> = names.collect();
        if names.is_empty() {
            return Ok(0);
        }
        redis::cmd("UNLINK").arg(names).query_async(&mut self.conn.clone()).await.map_err(Error::unavailable)
    }
}

//! The short-term memory: the last words between an agent and a person, so that they need not be read again.
//!
//! A copy, as all in Redis. Which messages count a claim says; what is missing here is read from Postgres. Each entry
//! carries its epoch and its place, so that nothing of before a reset is taken for what holds now, even where Redis was
//! away when it was told to forget.

use redis::AsyncCommands;
use serde::{Deserialize, Serialize};

use super::Publisher;
use crate::{
    conversation::Author,
    error::{Error, Result},
    keys::Key,
};

/// How long a memory stands untouched, in seconds: a week.
pub(super) const EXPIRY_SECONDS: i64 = 7 * 24 * 3_600;

/// A message, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The conversation's epoch.
    pub epoch: i32,
    /// The message's place in it.
    pub seq: i64,
    /// Who spoke.
    pub role: Author,
    /// What.
    pub text: String,
}

impl Publisher {
    /// What is remembered, oldest first. Entries that cannot be read count as forgotten.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not answer.
    pub async fn recall(&self, memory: &Key) -> Result<Vec<Remembered>> {
        let entries: Vec<String> =
            self.conn.clone().lrange(memory.as_str(), 0, -1).await.map_err(Error::unavailable)?;
        Ok(entries.iter().filter_map(|entry| serde_json::from_str(entry).ok()).collect())
    }

    /// Remembers these as well, `most` altogether; older ones are forgotten.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not confirm.
    pub async fn remember(&self, memory: &Key, entries: &[Remembered], most: i64) -> Result<()> {
        let most = isize::try_from(most).unwrap_or(isize::MAX);
        let entries: Vec<String> =
            entries.iter().map(|entry| serde_json::to_string(entry).expect("numbers and text are JSON")).collect();
        let mut pipeline = redis::pipe();
        pipeline.rpush(memory.as_str(), entries).ignore();
        pipeline.ltrim(memory.as_str(), -most, -1).ignore();
        pipeline.expire(memory.as_str(), EXPIRY_SECONDS).ignore();
        pipeline.query_async::<()>(&mut self.conn.clone()).await.map_err(Error::unavailable)
    }
}

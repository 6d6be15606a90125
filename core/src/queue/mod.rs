//! The queue: hints that a conversation has work. It may lose, repeat and reorder them; Postgres decides what runs.
//!
//! Two kinds: [`Sqs`], and [`Local`] in this process, which refuses what SQS refuses and can repeat and reorder.

mod local;
mod sqs;

use futures::future::BoxFuture;

use crate::{error::Result, job::Job};

pub use local::{Delivery, Inbox, Local, Mischief};
pub use sqs::Sqs;

/// Takes hints for the orchestrator.
pub trait Queue: Send + Sync + 'static {
    /// Sends hints, any number.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if one or more were not taken. Nothing is lost: the sweep
    /// finds their turns.
    fn send<'a>(&'a self, jobs: &'a [Job]) -> BoxFuture<'a, Result<()>>;
}

//! What more than one deployable of the web chat needs.
//!
//! Without features this crate is pure: types and rules, no IO, no runtime. Each feature is a door to
//! one thing outside the process: `store` to Postgres, `queue` to SQS, `bus` to Redis.
//! Something moves in here when a second deployable needs it, not before.
//!
//! The idea that carries everything: **Postgres holds the facts; both pipes carry hints.**
//! [`store`] is where the facts are; [`queue`] says *a conversation has work*, [`bus`] says
//! *a conversation has news*. Lose, repeat or reorder any hint and only time is lost.

pub mod caller;
pub mod complaint;
pub mod config;
pub mod conversation;
pub mod error;
pub mod event;
pub mod ids;
pub mod job;
pub mod keys;
pub mod message;
pub mod portal;
pub mod problem;
pub mod sabotage;
pub mod secret;
pub mod text;
pub mod timestamp;
pub mod token;
pub mod trace;
pub mod waits;

#[cfg(feature = "batch")]
pub mod batch;
#[cfg(feature = "bus")]
pub mod bus;
#[cfg(all(feature = "store", feature = "queue"))]
pub mod dispatch;
#[cfg(any(feature = "bus", feature = "queue"))]
mod drain;
#[cfg(feature = "log")]
pub mod log;
#[cfg(feature = "queue")]
pub mod queue;
#[cfg(feature = "sealed")]
pub mod sealed;
#[cfg(feature = "store")]
pub mod store;
#[cfg(feature = "tls")]
mod tls;

pub use error::{Code, Error, Kind, Result};

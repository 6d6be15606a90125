//! The chat page in a real browser: what people see and do, against the whole product. A process of its own, since a browser
//! takes as much of a machine as everything else.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod embedding;
mod for_all;
mod history;
mod hostile;
mod lost;
mod person;
mod play;
mod signing_in;
mod talking;

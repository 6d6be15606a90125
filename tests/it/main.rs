//! One binary for all integration tests: one link, one set of services, all in parallel.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bus;
mod channels;
mod chat;
mod dead_letters;
mod deliveries;
mod drain;
mod edges;
mod erasure;
mod escalation;
mod fallback;
mod faults;
mod filled;
mod hygiene;
mod identity;
mod in_stead;
mod lambda;
mod memory;
mod messages;
mod model;
mod model_keys;
mod notices;
mod original;
mod providers;
mod queue;
mod rates;
mod resets;
mod services;
mod spend;
mod stage;
mod streaming;
mod tools;
mod turns;
mod usage;
mod walls;
mod wire;

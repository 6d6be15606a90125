//! The settings that are numbers, each with its default and range: what a peer can grow, and the times of a turn and of
//! those who look after it.

use std::time::Duration;

use super::Env;
use crate::text::MAX_REPLY_BYTES;

macro_rules! numbers {
    ($(#[$doc:meta])* $group:ident { $(
        $(#[$field_doc:meta])* $field:ident: $type:ty = $default:literal in $least:literal..$most:literal, $name:literal;
    )* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $group { $($(#[$field_doc])* pub $field: $type,)* }

        impl Default for $group {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $group {
            /// The names of these settings.
            pub const NAMES: &[&str] = &[$($name),*];

            /// Reads them; each has a default and a range.
            fn read_each(env: &mut Env<'_>) -> Self {
                Self { $($field: env.number($name, $default, ($least, $most)),)* }
            }
        }
    };
}

numbers! {
    /// What a peer can grow, and how far. Over each is an error with its documented code, nothing else.
    Limits {
        /// Longest message text, in Unicode code points.
        text_chars: usize = 16_000 in 1..1_000_000, "LIMIT_TEXT_CHARS";
        /// Largest frame or body, in bytes.
        frame_bytes: usize = 262_144 in 1_024..16_777_216, "LIMIT_FRAME_BYTES";
        /// Longest wait for the first frame, in milliseconds: long enough for a phone waking its radio.
        auth_ms: u64 = 10_000 in 100..120_000, "LIMIT_AUTH_MS";
        /// Time between two pings, in milliseconds: well below half of a load balancer's usual 60 s idle time. With each
        /// one a socket's right to be here is looked at, hence at most 30 s: whoever was put out is gone by then.
        ping_ms: u64 = 25_000 in 100..30_000, "LIMIT_PING_MS";
        /// Longest time for the head of a request, and longest silence of a connection between two, in milliseconds.
        header_ms: u64 = 10_000 in 100..60_000, "LIMIT_HEADER_MS";
        /// Connections of one address that nobody has authenticated on: a whole office may come back at once behind one
        /// address, and each needs its place for a moment only.
        address_unauthenticated: usize = 100 in 1..1_000_000, "LIMIT_ADDRESS_UNAUTHENTICATED";
        /// Sockets one user may hold in a tenant, on all hubs together.
        user_sockets: usize = 20 in 1..1_000_000, "LIMIT_USER_SOCKETS";
        /// Sockets all users of a tenant may hold, on all hubs together.
        tenant_sockets: usize = 5_000 in 1..10_000_000, "LIMIT_TENANT_SOCKETS";
        /// How long a hub's sockets count at the others without being told again, in milliseconds: so long after it was
        /// killed its places are free.
        sockets_lease_ms: u64 = 60_000 in 300..600_000, "LIMIT_SOCKETS_LEASE_MS";
        /// Longest wait for Redis, which keeps count of sockets for all hubs, in milliseconds; past it this one decides alone.
        sockets_wait_ms: u64 = 250 in 1..3_000, "LIMIT_SOCKETS_WAIT_MS";
        /// Frames a second that one socket may send, on average; whatever they are, pings as well.
        socket_frames_per_second: u32 = 10 in 1..1_000_000_000, "LIMIT_SOCKET_FRAMES_PER_SECOND";
        /// Frames that one socket may send at once.
        socket_frames_burst: u32 = 100 in 10..1_000_000_000, "LIMIT_SOCKET_FRAMES_BURST";
        /// Sockets this hub holds at most.
        hub_sockets: usize = 100_000 in 1..10_000_000, "LIMIT_HUB_SOCKETS";
        /// Sockets that this hub lets go in a second when it goes away; all of them within 5 s, however many there are.
        leaves_per_second: u32 = 5_000 in 1..1_000_000, "LIMIT_LEAVES_PER_SECOND";
        /// Messages a minute one user may send, on average; stops and resets count as well.
        user_messages_per_minute: u32 = 30 in 1..1_000_000_000, "LIMIT_USER_MESSAGES_PER_MINUTE";
        /// Messages one user may send at once.
        user_messages_burst: u32 = 10 in 1..1_000_000_000, "LIMIT_USER_MESSAGES_BURST";
        /// Longest wait for Redis, which keeps count of that for all processes, in milliseconds; past it this one decides
        /// alone.
        user_messages_wait_ms: u64 = 50 in 1..3_000, "LIMIT_USER_MESSAGES_WAIT_MS";
        /// Turns of one conversation that may wait.
        queued_turns: i64 = 20 in 1..1_000_000, "LIMIT_QUEUED_TURNS";
        /// Messages this hub accepts while the queue takes no hints. Above what one call of the queue may leave waiting.
        unsent_hints: usize = 10_000 in 1..10_000_000, "LIMIT_UNSENT_HINTS";
        /// Bytes written to a socket that its peer has not taken yet.
        unsent_bytes: usize = 1_048_576 in 65_536..67_108_864, "LIMIT_UNSENT_BYTES";
    }
}

impl Limits {
    /// Reads the limits and checks those that rest on each other.
    pub fn read(env: &mut Env<'_>) -> Self {
        let limits = Self::read_each(env);
        // Six bytes a code point, as JSON may escape it, and some for the frame around the text.
        let longest = limits.text_chars.max(MAX_REPLY_BYTES);
        if longest * 6 + 1_024 > limits.unsent_bytes {
            let least = format!("six times LIMIT_TEXT_CHARS or {MAX_REPLY_BYTES}, the greater, and 1024");
            env.faults.push(format!("LIMIT_UNSENT_BYTES must hold a whole message and a whole reply: {least}"));
        }
        limits
    }
}

numbers! {
    /// What an agent is reminded of.
    Memory {
        /// Messages before the one to answer, at most, that an agent reads in full; what is older it knows in short.
        messages: i64 = 20 in 2..1_000, "MEMORY_MESSAGES";
    }
}

numbers! {
    /// What conversations are called, where their owners have not said.
    Titles {
        /// Turns from a conversation's beginning after which the agent's model is asked for a title, while it has none; 0
        /// never asks. More than one, since a call may fail, and hello says little.
        turns: usize = 3 in 0..100, "TITLE_TURNS";
    }
}

impl Titles {
    /// Reads it.
    pub fn read(env: &mut Env<'_>) -> Self {
        Self::read_each(env)
    }
}

impl Memory {
    /// Reads it.
    pub fn read(env: &mut Env<'_>) -> Self {
        Self::read_each(env)
    }
}

numbers! {
    /// The times of a turn's life and of those who look after it. They hold each other up, so [`Times::read`] checks them
    /// together. The ranges are wide, so that a test can hurry any of them or keep it from happening.
    RawTimes {
        /// How long a claim holds without renewal, in milliseconds.
        lease_ms: u64 = 15_000 in 100..600_000, "TURN_LEASE_MS";
        /// Time between two renewals, in milliseconds.
        renew_ms: u64 = 5_000 in 10..600_000, "TURN_RENEW_MS";
        /// Longest life of a turn from its first claim, in milliseconds.
        turn_ms: u64 = 180_000 in 100..3_600_000, "TURN_DEADLINE_MS";
        /// Time in which the words of a running reply are collected before they are told, in milliseconds; 0 tells each as
        /// it comes.
        delta_ms: u64 = 40 in 0..1_000, "DELTA_MS";
        /// Claims of one turn at most.
        attempts: i32 = 3 in 1..100, "TURN_ATTEMPTS";
        /// Longest wait of a turn that is the first of its conversation and that nobody claims, in milliseconds.
        queue_age_ms: u64 = 900_000 in 100..86_400_000, "TURN_QUEUE_AGE_MS";
        /// Lambda's limit on one invocation of the orchestrator, in milliseconds.
        function_ms: u64 = 210_000 in 1_000..900_000, "FUNCTION_TIMEOUT_MS";
        /// How long SQS hides a message that was received, in milliseconds.
        visibility_ms: u64 = 240_000 in 1_000..43_200_000, "QUEUE_VISIBILITY_MS";
        /// Time from a turn's hint to its second one, in milliseconds; it doubles with each further one.
        sweep_first_ms: u64 = 5_000 in 10..3_600_000, "SWEEP_FIRST_MS";
        /// Longest time between two hints of a turn, in milliseconds.
        sweep_longest_ms: u64 = 60_000 in 10..3_600_000, "SWEEP_LONGEST_MS";
        /// Turns of one sweep at most.
        sweep_batch: i64 = 500 in 1..100_000, "SWEEP_BATCH";
        /// Time between two looks of a hub at the held conversations that wait for an answer, in milliseconds. News that
        /// were lost are found at the second look, so above 2,500 a lost reply takes longer than the 5 s that the
        /// documents name; a test that wants to see what else finds it may go up to an hour.
        look_ms: u64 = 2_000 in 10..3_600_000, "HUB_LOOK_MS";
        /// Time between two looks of a hub at all conversations it holds, in milliseconds. Where it is no longer than the
        /// time between two pings, the roll of those who sit there is called as well, and spares them a question each.
        look_all_ms: u64 = 25_000 in 10..3_600_000, "HUB_LOOK_ALL_MS";
    }
}

/// The times of a turn's life and of those who look after it, checked against each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// How long a claim holds without renewal.
    pub lease: Duration,
    /// Time between two renewals.
    pub renew: Duration,
    /// Longest life of a turn from its first claim.
    pub turn: Duration,
    /// Time in which the words of a running reply are collected before they are told.
    pub delta: Duration,
    /// Claims of one turn at most.
    pub attempts: i32,
    /// Longest wait of a turn that is the first of its conversation and that nobody claims.
    pub queue_age: Duration,
    /// Time from a turn's hint to its second one; it doubles with each further one.
    pub sweep_first: Duration,
    /// Longest time between two hints of a turn.
    pub sweep_longest: Duration,
    /// Turns of one sweep at most.
    pub sweep_batch: i64,
    /// Time between two looks of a hub at the held conversations that wait for an answer.
    pub look: Duration,
    /// Time between two looks of a hub at all conversations it holds.
    pub look_all: Duration,
}

impl Times {
    /// Reads the times and checks each against those that rest on it.
    ///
    /// The queue's age asks for less than it seems. It counts from when a sweep first found the turn at the head of its
    /// conversation, so no turn in front of it uses it up. But a hint may wait until a worker is free, and each of them
    /// may be busy for a turn's whole life (which is longer than a lease); and a turn should not fail before its hint was
    /// repeated. The queue's own patience, `maxReceiveCount` times the visibility timeout, need not fit into it, nor it
    /// into that: a sweep's hints are new records, and a dead letter finds a turn that has failed as ended.
    pub fn read(env: &mut Env<'_>) -> Self {
        let raw = RawTimes::read_each(env);
        for (holds, what) in [
            (raw.renew_ms * 2 < raw.lease_ms, "TURN_RENEW_MS must be less than half of TURN_LEASE_MS"),
            (raw.lease_ms < raw.turn_ms, "TURN_LEASE_MS must be less than TURN_DEADLINE_MS"),
            (raw.turn_ms < raw.function_ms, "TURN_DEADLINE_MS must be less than FUNCTION_TIMEOUT_MS"),
            (raw.function_ms < raw.visibility_ms, "FUNCTION_TIMEOUT_MS must be less than QUEUE_VISIBILITY_MS"),
            (raw.turn_ms < raw.queue_age_ms, "TURN_DEADLINE_MS must be less than TURN_QUEUE_AGE_MS"),
            (raw.sweep_longest_ms < raw.queue_age_ms, "SWEEP_LONGEST_MS must be less than TURN_QUEUE_AGE_MS"),
            (raw.sweep_first_ms <= raw.sweep_longest_ms, "SWEEP_FIRST_MS must be at most SWEEP_LONGEST_MS"),
            (raw.look_ms <= raw.look_all_ms, "HUB_LOOK_MS must be at most HUB_LOOK_ALL_MS"),
        ] {
            if !holds {
                env.faults.push(what.to_owned());
            }
        }
        Self {
            lease: Duration::from_millis(raw.lease_ms),
            renew: Duration::from_millis(raw.renew_ms),
            turn: Duration::from_millis(raw.turn_ms),
            delta: Duration::from_millis(raw.delta_ms),
            attempts: raw.attempts,
            queue_age: Duration::from_millis(raw.queue_age_ms),
            sweep_first: Duration::from_millis(raw.sweep_first_ms),
            sweep_longest: Duration::from_millis(raw.sweep_longest_ms),
            sweep_batch: raw.sweep_batch,
            look: Duration::from_millis(raw.look_ms),
            look_all: Duration::from_millis(raw.look_all_ms),
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        Self::read(&mut Env::new(&|_| None))
    }
}

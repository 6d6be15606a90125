//! Erases a company or a person, everywhere: in Postgres, in Redis, and from the sockets.

use std::io::Write;

use chat_core::{
    Error, Result,
    bus::{FORGOTTEN_WITHIN, Publisher},
    config::Times,
    keys::{
        Key, Pattern, Topic, escalation_status_key, keys_of_tenant, keys_of_user, memory_short_key,
        webchat_partial_key, webchat_response_key, webchat_stop_key,
    },
    store::{
        erasure::{Place, Step, Whom},
        owner::Owner,
    },
};
use tokio::time::sleep;
use tracing::{info, warn};

/// Erases, and writes how many rows of each table that took. `meant` is the name or address that shows who is meant.
///
/// The facts go first, and go whatever becomes of Redis.
///
/// # Errors
/// [`Kind::Invalid`](chat_core::Kind::Invalid) if somebody else is meant: nothing was done.
/// [`Kind::Unavailable`](chat_core::Kind::Unavailable) if Postgres did not confirm: begin again; or if Redis did not
/// answer, which is said, after the facts are gone.
pub async fn erase(
    owner: &mut Owner,
    redis: &Publisher,
    whom: Whom,
    meant: &str,
    times: &Times,
    mut out: impl Write,
) -> Result<()> {
    let mut pipe = Pipe { redis, failed: None };
    let places = owner.places(whom).await?;
    let mut rows = owner.shut(whom, meant).await?;
    info!(conversations = places.len(), "the doors are shut");
    pipe.put_out(&places).await;
    let (mut gone, mut at_work) = (0, false);
    while let Some(step) = owner.erase_some(whom).await? {
        step.rows.iter().for_each(|(table, count)| *rows.entry(table).or_default() += count);
        gone += step.places.len();
        at_work |= step.at_work;
        info!(gone, of = places.len(), "conversations erased");
        // Whoever had a door of another kind finds it gone now.
        pipe.put_out(&step.places).await;
        pipe.forget(&named(&step)).await;
    }
    let rows = owner.erase_rest(whom, meant, rows).await?;
    let of = match whom {
        Whom::Tenant(tenant) => keys_of_tenant(tenant),
        Whom::User(user) => keys_of_user(user),
    };
    pipe.forget_all(&of).await;
    if at_work {
        // Its worker notices when it renews, and at the end of its lease at the latest; until then it may tell words.
        info!(seconds = times.lease.as_secs(), "a worker may not have noticed yet; waiting for its lease to run out");
        sleep(times.lease).await;
        pipe.forget_all(&of).await;
    }
    for (table, count) in &rows {
        writeln!(out, "{table} {count}").map_err(Error::internal)?;
    }
    match pipe.failed {
        None => Ok(()),
        Some(error) => {
            let hours = FORGOTTEN_WITHIN.as_secs() / 3_600;
            Err(Error::unavailable(format!(
                "the rows are gone, but Redis did not answer ({error:?}): sockets end with their next ping, and the \
                 keys by themselves within {hours} h; run this again to forget them now"
            )))
        }
    }
}

/// The keys of a step's conversations and turns that can be told by their names.
fn named(step: &Step) -> Vec<Key> {
    let of_places = step.places.iter().flat_map(|place| {
        let Place { tenant, conversation, agent, user } = *place;
        [memory_short_key(tenant, agent, user), escalation_status_key(tenant, &conversation.to_string())]
    });
    let of_turns = step
        .turns
        .iter()
        .flat_map(|(tenant, turn)| [webchat_partial_key(*tenant, *turn), webchat_stop_key(*tenant, *turn)]);
    of_places.chain(of_turns).collect()
}

/// Redis, and the first thing that it did not do.
struct Pipe<'a> {
    redis: &'a Publisher,
    failed: Option<Error>,
}

impl Pipe<'_> {
    async fn put_out(&mut self, places: &[Place]) {
        let topics: Vec<Topic> =
            places.iter().map(|place| webchat_response_key(place.tenant, place.conversation)).collect();
        let asked = self.redis.look_again(&topics).await;
        self.note(asked);
    }

    async fn forget(&mut self, keys: &[Key]) {
        let forgotten = self.redis.forget(keys).await.map(drop);
        self.note(forgotten);
    }

    async fn forget_all(&mut self, of: &Pattern) {
        let forgotten = self.redis.forget_all(of).await.map(|keys| info!(keys, "Redis has forgotten"));
        self.note(forgotten);
    }

    fn note(&mut self, done: Result<()>) {
        if let Err(error) = done {
            warn!(?error, "Redis did not do its part");
            self.failed.get_or_insert(error);
        }
    }
}

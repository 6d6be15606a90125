//! Sockets that are open at the moment, on all hubs.
//!
//! *Closing* a person's sockets ends those that are open when the command runs, within seconds, with 1012. It takes
//! nothing from anybody: whoever has a good token may come back at once, and finds what the facts say then. To keep
//! somebody out, take their membership (`member remove`), their identity or their row first.
//!
//! The fact is a number in the person's row, which each socket compares when it looks; a hint on the bus makes it look
//! now. So a forged hint costs a look and closes nothing, and a lost one costs the time until the next ping.

use std::io::Write;

use chat_core::{
    Error, Result,
    bus::Publisher,
    ids::{TenantId, UserId},
    keys::{Key, tenant_sockets_key, user_sockets_key, webchat_response_key},
    store::{admin::Record, erasure::Whom},
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Desk;

/// Whose sockets.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Whose {
    /// Those of a person, by company.
    #[arg(long)]
    user: Option<UserId>,
    /// Those of a company, by person; and all of them, who is no member included.
    #[arg(long)]
    tenant: Option<TenantId>,
}

/// A command about sockets.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how many sockets are open, as hubs count them in Redis.
    List {
        /// See there.
        #[command(flatten)]
        whose: Whose,
    },
    /// Close a person's sockets, on all hubs; they may come back with a token that still holds.
    Close {
        /// Whose.
        #[arg(long)]
        user: UserId,
    },
}

/// Carries it out.
///
/// # Errors
/// What is refused, or cannot be reached.
pub async fn run(command: Command, desk: &mut Desk<impl Write>, redis: &Publisher) -> Result<()> {
    match command {
        Command::List { whose } => {
            let (names, total) = match (whose.user, whose.tenant) {
                (_, Some(tenant)) => {
                    let people = desk.owner.people_of(tenant).await?;
                    (people.into_iter().map(|user| (tenant, user)).collect(), Some(tenant))
                }
                (Some(user), None) => (places(desk, user).await?, None),
                (None, None) => (Vec::new(), None),
            };
            let rows = counted(redis, &names, total).await?;
            desk.rows(&rows)
        }
        Command::Close { user } => close(user, desk, redis).await,
    }
}

async fn places(desk: &Desk<impl Write>, user: UserId) -> Result<Vec<(TenantId, UserId)>> {
    Ok(desk.owner.tenants_of(user).await?.into_iter().map(|tenant| (tenant, user)).collect())
}

/// Those who have any. The company's own line has no person.
async fn counted(redis: &Publisher, names: &[(TenantId, UserId)], total: Option<TenantId>) -> Result<Vec<Record>> {
    let mut keys: Vec<Key> = names.iter().map(|(tenant, user)| user_sockets_key(*tenant, *user)).collect();
    keys.extend(total.map(tenant_sockets_key));
    let held = redis.held(&keys).await.map_err(|error| away(&error))?;
    let row = |tenant: TenantId, user: Value, sockets: u64| {
        let column = |name: &str, value| (name.to_owned(), value);
        Record(vec![column("tenant_id", json!(tenant)), column("user_id", user), column("sockets", json!(sockets))])
    };
    let mut rows: Vec<Record> = names
        .iter()
        .zip(&held)
        .filter(|(_, sockets)| **sockets > 0)
        .map(|((tenant, user), sockets)| row(*tenant, json!(user), *sockets))
        .collect();
    rows.extend(total.zip(held.last()).map(|(tenant, sockets)| row(tenant, Value::Null, *sockets)));
    Ok(rows)
}

async fn close(user: UserId, desk: &mut Desk<impl Write>, redis: &Publisher) -> Result<()> {
    // Counted before, since whoever was put out may be back at once.
    let names = places(desk, user).await?;
    let keys: Vec<Key> = names.iter().map(|(tenant, user)| user_sockets_key(*tenant, *user)).collect();
    let held = redis.held(&keys).await;
    desk.owner.put_out(user, &desk.by).await?;
    let places = desk.owner.places(Whom::User(user)).await?;
    let topics: Vec<_> = places.iter().map(|place| webchat_response_key(place.tenant, place.conversation)).collect();
    let asked = redis.look_again(&topics).await;
    let sockets: u64 = held.and_then(|held| asked.map(|()| held.iter().sum())).map_err(|error| {
        Error::unavailable(format!(
            "they will close, but not before their next ping, since Redis did not answer: {error:?}"
        ))
    })?;
    if desk.json {
        return desk.row(&Record(vec![("user_id".to_owned(), json!(user)), ("sockets".to_owned(), json!(sockets))]));
    }
    writeln!(desk.out, "closed {sockets} sockets").map_err(Error::internal)
}

fn away(error: &Error) -> Error {
    Error::unavailable(format!("REDIS_URL, as the user admin: {error:?}"))
}

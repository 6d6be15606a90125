//! The text so far of a running reply, and the deltas that bring it to whoever listens.
//!
//! Both in one step: what is appended is published, and whoever reads the text after having subscribed misses nothing in
//! between. Where a cluster publishes it is two, in this order: a piece may be heard that the text held already, and is
//! passed over by its offset; and one that was appended and not published makes its writer begin again. It is a hint as all the rest: lost, it is written again from the beginning; the whole reply is stored at the
//! end whatever became of this.

use std::sync::LazyLock;

use redis::{AsyncCommands, Script};

use super::Publisher;
use crate::{
    error::{Error, Result},
    event::ServerFrame,
    ids::{ConversationId, TenantId, TurnId},
    keys::{webchat_partial_key, webchat_response_key},
};

/// How long a text stands after its last piece, in milliseconds: above the longest silence of a model.
const EXPIRY_MS: u64 = 60_000;

/// A list: first the attempt that writes and how many code points it has written, then the pieces.
///
/// `ARGV`: 1 attempt, 2 offset, 3 code points and 4 text of the piece, 5 expiry, 6 channel or nothing, 7 frame.
static APPEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local attempt, length = string.match(redis.call('lindex', KEYS[1], 0) or '0 0', '^(%d+) (%d+)$')
        if tonumber(attempt) > tonumber(ARGV[1]) then return 'late' end
        if ARGV[2] == '0' then redis.call('del', KEYS[1])
        elseif attempt ~= ARGV[1] or length ~= ARGV[2] then return 'gap' end
        local head = string.format('%d %d', ARGV[1], ARGV[2] + ARGV[3])
        if ARGV[2] == '0' then redis.call('rpush', KEYS[1], head) else redis.call('lset', KEYS[1], 0, head) end
        redis.call('rpush', KEYS[1], ARGV[4])
        redis.call('pexpire', KEYS[1], ARGV[5])
        if ARGV[6] ~= '' then redis.call('publish', ARGV[6], ARGV[7]) end
        return 'told'",
    )
});

/// Which reply is being written, and by which claim of its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The company.
    pub tenant: TenantId,
    /// The conversation.
    pub conversation: ConversationId,
    /// The turn.
    pub turn: TurnId,
    /// The claim.
    pub attempt: i32,
}

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is part of the text, and published.
    Told,
    /// The text does not reach to where it begins: begin again.
    Gap,
    /// A later claim writes.
    Late,
}

/// The text so far of a running reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// Which claim of the turn has written it.
    pub attempt: i32,
    /// The text.
    pub text: String,
}

impl Publisher {
    /// Adds a piece to the text of a reply and tells whoever listens, in one step. `offset` is where it begins, in code
    /// points; 0 replaces what was there.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not confirm, or a cluster did not publish.
    pub async fn append(&self, place: Place, offset: usize, piece: &str) -> Result<Appended> {
        let Place { tenant, conversation, turn, attempt } = place;
        let frame = ServerFrame::Delta { turn_id: turn, attempt, offset, text: piece.to_owned() };
        let (topic, json) = (webchat_response_key(tenant, conversation), frame.json());
        let became: String = APPEND
            .key(webchat_partial_key(tenant, turn).as_str())
            .arg(attempt)
            .arg(offset)
            .arg(piece.chars().count())
            .arg(piece)
            .arg(EXPIRY_MS)
            .arg(if self.shards.is_some() { "" } else { topic.as_str() })
            .arg(&json)
            .invoke_async(&mut self.conn.clone())
            .await
            .map_err(Error::unavailable)?;
        if let Some(shards) = self.shards.as_ref().filter(|_| became == "told") {
            shards.publish(vec![(&topic, json)]).await?;
        }
        Ok(match became.as_str() {
            "told" => Appended::Told,
            "gap" => Appended::Gap,
            _ => Appended::Late,
        })
    }

    /// The text so far of a running reply; `None` where there is none (any more).
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not answer.
    pub async fn partial(&self, tenant: TenantId, turn: TurnId) -> Result<Option<Partial>> {
        let key = webchat_partial_key(tenant, turn);
        let list: Vec<String> = self.conn.clone().lrange(key.as_str(), 0, -1).await.map_err(Error::unavailable)?;
        let Some((head, pieces)) = list.split_first() else { return Ok(None) };
        let attempt = head.split_once(' ').and_then(|(attempt, _)| attempt.parse().ok());
        Ok(attempt.map(|attempt| Partial { attempt, text: pieces.concat() }))
    }
}

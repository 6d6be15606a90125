//! A turn's life, for an operator who looks for what went wrong: when what happened, and no word of what was said.

use super::Record;
use crate::{
    error::Result,
    ids::TurnId,
    store::{column, owner::Owner, script::translate},
};

/// `$1` turn. Of hints the last one is known; of claims the first, and how many there were. A reply that a reset took is
/// not there any more.
const LIFE: &str = "
    select row_to_json(x)::text as x from (
      select t.id, t.tenant_id, t.conversation_id, c.agent_id, t.user_id, t.seq, t.state, t.code, t.attempt, t.hints,
             t.stop_requested, r.id as reply_id, length(r.content) as reply_chars,
             (select json_agg(json_build_object('step', s.step, 'after_ms', s.after_ms,
                       'at', to_char(s.at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')) order by s.at, s.n)
              from (
                select v.n, v.step, v.at, round((extract(epoch from v.at - lag(v.at) over (order by v.at, v.n)) * 1000)::numeric, 1)::float8 as after_ms
                from (values (1, 'accepted', t.created_at), (2, 'hinted', t.hinted_at), (3, 'claimed', t.claimed_at),
                             (4, 'reply_stored', r.created_at), (5, 'ended', t.ended_at)) v (n, step, at)
                where v.at is not null) s) as steps,
             round((extract(epoch from coalesce(t.ended_at, clock_timestamp()) - t.created_at) * 1000)::numeric, 1)::float8 as whole_ms
      from turns t
      join web_conversations c on c.id = t.conversation_id
      left join web_conversation_messages r on r.reply_to = t.id
      where t.id = $1) x";

impl Owner {
    /// The life of a turn of the web channel: `state`, counts, and `steps` in the order in which they happened, each with
    /// its time and the milliseconds since the one before; `None` if there is no such turn.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres did not answer.
    pub async fn life(&self, turn: TurnId) -> Result<Option<Record>> {
        let row = self.client.query_opt(LIFE, &[&turn]).await.map_err(translate)?;
        row.map(|row| Record::read(column(&row, "x")?)).transpose()
    }
}

//! What the portal asks beside conversations: who somebody is, whom they may talk to, where words were said, and what a
//! company's agents took.

/// A day, UTC.
pub use time::Date as Day;
use time::OffsetDateTime;
use tokio_postgres::Row;

use super::{Scope, Store, column, door::Action, moment, optional_moment, script::Step, word};
use crate::{
    caller::{Role, require_tenant_admin},
    error::{Code, Error, Result},
    ids::{AgentId, ConversationId, MessageId, TenantId},
    portal::{AgentCard, Hit, Me, Membership, Piece, Usage},
    timestamp::Timestamp,
    token::Identity,
};

/// What to look for in one's own conversations.
#[derive(Debug, Clone)]
pub struct Search<'a> {
    /// In this company.
    pub tenant: TenantId,
    /// In this conversation alone.
    pub conversation: Option<ConversationId>,
    /// These words, as people type them into a search: quoted ones together, `-` before what shall not be there, `or` between
    /// two; the last one may be a beginning.
    pub words: &'a str,
    /// Only what was said before this.
    pub before: Option<Said>,
    /// At most this many.
    pub limit: i64,
}

/// A place in time: what was said when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// The moment, exact to Postgres' microsecond.
    pub at: Timestamp,
    /// The message.
    pub id: MessageId,
}

/// What was found, newest first, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The messages.
    pub hits: Vec<Hit>,
    /// Everything behind this was not looked at yet; `None` if that is nothing.
    pub onward: Option<Said>,
}

/// Which lines of a company's usage to tell.
#[derive(Debug, Clone)]
pub struct UsageOf {
    /// The company.
    pub tenant: TenantId,
    /// From this day on.
    pub from: Day,
    /// Up to this day, with it.
    pub to: Day,
    /// Only those behind this line.
    pub after: Option<(Day, AgentId, String)>,
    /// At most this many.
    pub limit: i64,
}

const PERSON: &str = "select display_name, role from portal_users where id = $1";

const MEMBERSHIPS: &str = "
    select t.id, t.name, m.role from user_tenant_roles m join tenants t on t.id = m.tenant_id
    where m.user_id = $1 order by t.name, t.id";

/// `$1` user, `$2` and `$3` name and id of the agent behind which to begin, `$4` most.
const AGENTS: &str = "
    select a.id, a.tenant_id, a.name,
           (select c.id from web_conversations c
            where c.tenant_id = app_tenant() and c.agent_id = a.id and c.user_id = $1) as conversation_id
    from agents a
    where a.tenant_id = app_tenant() and a.is_active and ($2::text is null or (a.name, a.id) > ($2, $3))
    order by a.name, a.id limit $4";

/// Messages that one search looks through at most, newest first. There is no index of words: behind policies Postgres does
/// not use one, since the comparison could tell of rows that it then hides. So a search is a walk, and this its length; the
/// next page goes on from its end.
const LOOKED_THROUGH: i64 = 2_000;

/// What stands around a word that was found: no message has such a character.
const OPENS: char = '\u{1}';
/// See [`OPENS`].
const CLOSES: char = '\u{2}';

/// Stands for `<` meanwhile: what begins with that Postgres takes for a tag, and neither finds nor shows it.
const TAG: char = '\u{3}';

/// `$1` user, `$2` words, `$3` and `$4` place, `$5` looked through, `$6` most, `$7` the only conversation. The last word may
/// be a beginning. Each row says how far the walk came, also where nothing was found.
const FIND: &str = "
    with query as materialized (
      select case when numnode(q) = 0 then q else (q::text || ':*')::tsquery end as q
      from websearch_to_tsquery('simple', $2) q
    ), mine as materialized (
      select c.id, c.agent_id, c.title from web_conversations c
      where c.tenant_id = app_tenant() and c.user_id = $1 and ($7::uuid is null or c.id = $7)
    ), looked as materialized (
      select m.* from mine, lateral (
        select m.id, m.conversation_id, m.seq, m.role, translate(m.content, '<', E'\\x03') as content, m.created_at
        from web_conversation_messages m
        where m.conversation_id = mine.id and m.tenant_id = app_tenant() and (m.created_at, m.id) < ($3, $4)
        order by m.created_at desc, m.id desc limit $5) m
      order by m.created_at desc, m.id desc limit $5
    ), far as (
      select count(*) as looked, min(created_at) as far_at,
             (array_agg(id order by created_at, id))[1] as far_id from looked
    ), hit as materialized (
      select l.* from looked l, query where to_tsvector('simple', l.content) @@ query.q
      order by l.created_at desc, l.id desc limit $6
    )
    select far.looked, far.far_at, far.far_id, hit.id, hit.conversation_id, hit.seq, hit.role, hit.created_at,
           mine.agent_id, mine.title, a.name as agent_name,
           ts_headline('simple', hit.content, query.q,
             case when length(hit.content) <= 300 then 'HighlightAll=true'
                  else 'MaxWords=30, MinWords=15, ShortWord=0, MaxFragments=2, FragmentDelimiter=\" … \"' end
             || E', StartSel=\"\\x01\", StopSel=\"\\x02\"') as snippet
    from far cross join query left join hit on true left join mine on mine.id = hit.conversation_id
    left join agents a on a.id = mine.agent_id and a.tenant_id = app_tenant()
    order by hit.created_at desc, hit.id desc";

/// `$1` first and `$2` last day, `$3` to `$5` the line behind which to begin, `$6` most, `$7` who asks. Days are UTC's. Nobody
/// reads it but the company's admins, and the product's.
const USAGE: &str = "
    select x.*, to_char(x.day, 'YYYY-MM-DD') as named, a.name as agent_name
    from (select (u.created_at at time zone 'utc')::date as day, u.agent_id, u.model,
                 count(distinct u.turn_id) as turns, sum(u.calls)::bigint as calls,
                 sum(u.input_tokens)::bigint as input_tokens, sum(u.output_tokens)::bigint as output_tokens,
                 sum(u.reserved_tokens)::bigint as reserved_tokens
          from usage u
          where u.tenant_id = app_tenant()
            and u.created_at >= ($1::date)::timestamp at time zone 'utc'
            and u.created_at < ($2::date + 1)::timestamp at time zone 'utc'
            and exists (select from portal_users p where p.id = $7
                          and (p.role = 'platform_admin' or (p.role = 'customer_admin' and exists (
                                select from user_tenant_roles m
                                where m.user_id = p.id and m.tenant_id = app_tenant() and m.role = 'customer_admin'))))
          group by 1, 2, 3) x
    left join agents a on a.id = x.agent_id and a.tenant_id = app_tenant()
    where $3::date is null or (x.day, x.agent_id, x.model) > ($3, $4, $5)
    order by x.day, x.agent_id, x.model limit $6";

impl Store {
    /// Who somebody is, and where they belong. In one round trip.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`] for a user who does not exist.
    pub async fn me(&self, who: &Identity) -> Result<Me> {
        let user = who.user_id;
        let work: [Step<'_>; 2] = [(PERSON, &[&user]), (MEMBERSHIPS, &[&user])];
        let rows = self.run(Scope::Person(user), &work).await?;
        let nobody = || Error::new(Code::Unauthenticated, "The token names nobody we know.");
        let person = rows[0].first().ok_or_else(nobody)?;
        let role: Role = word(person, "role")?;
        let membership = |row: &Row| {
            let known: Role = word(row, "role")?;
            Ok(Membership { id: column(row, "id")?, name: column(row, "name")?, role: role.within(known) })
        };
        let tenants = rows[1].iter().map(membership).collect::<Result<_>>()?;
        Ok(Me { id: user, display_name: column(person, "display_name")?, role, tenants })
    }

    /// The agents of a company that one may talk to, by name; at most `limit` behind `after`. In one round trip.
    ///
    /// # Errors
    /// [`Code::Forbidden`] for a tenant that is not theirs.
    pub async fn agents(
        &self,
        who: &Identity,
        tenant: TenantId,
        after: Option<&(String, AgentId)>,
        limit: i64,
    ) -> Result<Vec<AgentCard>> {
        let (name, id) = after.map(|(name, id)| (name, id)).unzip();
        let work: [Step<'_>; 1] = [(AGENTS, &[&who.user_id, &name, &id, &limit])];
        let (_, rows) = self.in_tenant(who, tenant, Action::Agents, &work).await?;
        let card = |row: &Row| {
            let (id, tenant_id, name) = (column(row, "id")?, column(row, "tenant_id")?, column(row, "name")?);
            Ok(AgentCard { id, tenant_id, name, conversation_id: column(row, "conversation_id")? })
        };
        rows[0].iter().map(card).collect()
    }

    /// Looks for words in the caller's own conversations, newest first. Each call looks through a bounded number of messages
    /// and says where the next goes on, so what it costs does not grow with what was ever said. In one round trip.
    ///
    /// # Errors
    /// [`Code::Forbidden`] for a tenant that is not theirs.
    pub async fn find(&self, who: &Identity, search: &Search<'_>) -> Result<Found> {
        let Search { tenant, conversation, words, before, limit } = search;
        let end = before.map_or(END, |said| said.at.into());
        let last = before.map_or_else(|| uuid::Uuid::max().into(), |said| said.id);
        let one_more = limit + 1;
        let work: [Step<'_>; 1] =
            [(FIND, &[&who.user_id, words, &end, &last, &LOOKED_THROUGH, &one_more, conversation])];
        let (_, rows) = self.in_tenant(who, *tenant, Action::Search, &work).await?;
        let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
        let mut hits = Vec::new();
        for row in &rows[0] {
            hits.extend(hit(row)?);
        }
        let more = hits.len() > limit;
        hits.truncate(limit);
        let onward = if more {
            hits.last().map(|last| Said { at: last.created_at, id: last.message_id })
        } else {
            rows[0].first().map(walked).transpose()?.flatten()
        };
        Ok(Found { hits, onward })
    }

    /// What a company's agents took, by day, agent and model. In one round trip.
    ///
    /// # Errors
    /// [`Code::Forbidden`] for anyone but its admins.
    pub async fn usage(&self, who: &Identity, of: &UsageOf) -> Result<Vec<Usage>> {
        let UsageOf { tenant, from, to, after, limit } = of;
        let (day, agent, model) = match after {
            Some((day, agent, model)) => (Some(day), Some(agent), Some(model)),
            None => (None, None, None),
        };
        let work: [Step<'_>; 1] = [(USAGE, &[from, to, &day, &agent, &model, limit, &who.user_id])];
        let (member, rows) = self.in_tenant(who, *tenant, Action::Usage, &work).await?;
        require_tenant_admin(member.caller, *tenant)?;
        rows[0].iter().map(usage).collect()
    }
}

/// Later than anything that is ever said.
const END: OffsetDateTime = time::macros::datetime!(9999-12-31 00:00 UTC);

/// Where a walk ended that did not come to the end.
fn walked(row: &Row) -> Result<Option<Said>> {
    if column::<i64>(row, "looked")? < LOOKED_THROUGH {
        return Ok(None);
    }
    let at = optional_moment(row, "far_at")?;
    Ok(at.zip(column(row, "far_id")?).map(|(at, id)| Said { at, id }))
}

fn hit(row: &Row) -> Result<Option<Hit>> {
    let Some(message_id) = column(row, "id")? else { return Ok(None) };
    Ok(Some(Hit {
        conversation_id: column(row, "conversation_id")?,
        agent_id: column(row, "agent_id")?,
        agent_name: column(row, "agent_name")?,
        title: column(row, "title")?,
        message_id,
        seq: column(row, "seq")?,
        role: word(row, "role")?,
        created_at: moment(row, "created_at")?,
        snippet: pieces(column(row, "snippet")?),
    }))
}

/// A snippet, taken apart at its marks.
fn pieces(snippet: &str) -> Vec<Piece> {
    let marked = snippet.split_inclusive([OPENS, CLOSES]).filter_map(|part| {
        let hit = part.ends_with(CLOSES);
        let text = part.trim_end_matches([OPENS, CLOSES]);
        (!text.is_empty()).then(|| Piece { text: text.replace(TAG, "<"), hit })
    });
    marked.collect()
}

fn usage(row: &Row) -> Result<Usage> {
    Ok(Usage {
        day: column(row, "named")?,
        agent_id: column(row, "agent_id")?,
        agent_name: column(row, "agent_name")?,
        model: column(row, "model")?,
        turns: column(row, "turns")?,
        calls: column(row, "calls")?,
        input_tokens: column(row, "input_tokens")?,
        output_tokens: column(row, "output_tokens")?,
        reserved_tokens: column(row, "reserved_tokens")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Piece, pieces};

    #[test]
    fn a_snippet_comes_apart_at_its_marks() {
        let piece = |text: &str, hit| Piece { text: text.to_owned(), hit };
        assert_eq!(
            pieces("the \u{1}red\u{2} and the \u{1}blue\u{2}"),
            [piece("the ", false), piece("red", true), piece(" and the ", false), piece("blue", true)]
        );
        assert_eq!(pieces("plain"), [piece("plain", false)]);
        assert_eq!(pieces(""), []);
    }
}

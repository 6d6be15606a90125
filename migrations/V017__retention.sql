-- How long what was said is kept. Who deletes it is a role of its own, which can delete nothing but what is due: the
-- database says so itself, whatever statement or setting comes.

alter table tenants
  -- Null keeps everything.
  add retention_days  integer check (retention_days between 1 and 36500),
  -- When a hub last set out to look for what is due.
  add retained_at     timestamptz;

alter table web_conversations
  -- What stood up to this seq has gone by its age. Who has seen less reads again.
  add expired_seq  bigint not null default 0,
  -- Nothing that could be due is older, as far as the last look knew; null: nobody has looked.
  add oldest_at    timestamptz;
alter table web_conversations alter oldest_at set default now();

create index channel_turns_created on channel_turns (tenant_id, created_at);

do $$
begin
  if not exists (select from pg_roles where rolname = 'chat_retention') then
    create role chat_retention nologin nosuperuser nocreatedb nocreaterole;
  end if;
end
$$;
grant chat_retention to chat_app;
grant usage on schema public to chat_retention;

-- What is older than this is due; null where a company keeps everything.
create function app_kept_since(tenant uuid) returns timestamptz language sql stable parallel safe
  return now() - make_interval(days => (select t.retention_days from tenants t where t.id = tenant));

-- A person's own companies are looked up by memberships, which this role may not read.
alter policy own on tenants to chat_app, chat_platform;

-- A list that is made once a statement, since a look reads many rows.
create policy retention on tenants to chat_retention
  using (retention_days is not null) with check (retention_days is not null);
create policy retention on web_conversations to chat_retention
  using (tenant_id in (select t.id from tenants t where t.retention_days is not null))
  with check (tenant_id in (select t.id from tenants t where t.retention_days is not null));
create policy retention on web_conversation_messages to chat_retention
  using (tenant_id in (select t.id from tenants t where t.retention_days is not null)) with check (false);
create policy retention on turns to chat_retention
  using (tenant_id in (select t.id from tenants t where t.retention_days is not null)) with check (false);
create policy retention on channel_turns to chat_retention
  using (tenant_id in (select t.id from tenants t where t.retention_days is not null)) with check (false);

-- Restrictive: these hold as well where another policy would open the row, as `tenant` does for everybody.
create policy due on web_conversation_messages as restrictive for delete to chat_retention
  using (created_at < app_kept_since(tenant_id)
         and not exists (select from turns t where t.id = web_conversation_messages.id and t.state in ('queued', 'running')));
create policy due on turns as restrictive for delete to chat_retention
  using (created_at < app_kept_since(tenant_id) and state not in ('queued', 'running'));
-- No sweep ends a turn whose record was lost; a day past its deadline there is none any more that could.
create policy due on channel_turns as restrictive for delete to chat_retention
  using (created_at < app_kept_since(tenant_id)
         and (state in ('answered', 'failed') or deadline < now() - interval '1 day'));

-- No text among them, and nothing that anybody reads as a fact but the place up to which it is gone.
grant select (id, retention_days, retained_at), update (retained_at) on tenants to chat_retention;
grant select (id, tenant_id, agent_id, user_id, expired_seq, oldest_at),
  update (summary, summary_seq, expired_seq, oldest_at) on web_conversations to chat_retention;
grant select (id, tenant_id, conversation_id, seq, created_at), delete on web_conversation_messages to chat_retention;
grant select (id, tenant_id, conversation_id, state, created_at, seq), delete on turns to chat_retention;
grant select (id, tenant_id, state, deadline, created_at), delete on channel_turns to chat_retention;

-- A person takes over, and the agent steps back: when that happens, who it is, and who is told outside.

-- When an agent hands a conversation to a person: a list of {"condition": …, "reason"?: …}, the first match wins.
alter table agents
  add escalation_rules jsonb not null default '[]'
    check (jsonb_typeof(escalation_rules) = 'array' and jsonb_array_length(escalation_rules) <= 100);

-- All null, but for the last two, while the agent answers.
alter table web_conversations
  add escalated_at       timestamptz,
  -- Why: the matched rule's reason.
  add escalation_reason  text,
  -- The person who took it away from the agent; null where a rule did.
  add escalated_by       uuid,
  -- The person who answers, and since when.
  add taken_by           uuid,
  add taken_at           timestamptz,
  -- When a person first answered; nobody needs to be reminded after that.
  add answered_at        timestamptz,
  -- When the tenant is told outside, for the first time or again, and when the sweep last gave a hint of it.
  add tell_at            timestamptz,
  add tell_hinted_at     timestamptz,
  -- How often it was told.
  add told               integer not null default 0,
  -- Rules count messages above this seq: where a person hands back, they begin anew, or a rule that counts messages
  -- would take the next one away from the agent again.
  add rules_count_from   bigint not null default 0;

-- What the sweep looks for. Messages move neither column, so their updates stay heap-only.
create index web_conversations_tell on web_conversations (tell_at) where tell_at is not null;

-- Where a tenant wants to be told that a conversation waits for a person.
create table escalation_notices (
  tenant_id       uuid primary key references tenants (id) on delete cascade,
  -- Signed after https://www.standardwebhooks.com; the secret, whsec_…, is sealed for the purpose `webhook`.
  webhook_url     text check (webhook_url <> ''),
  webhook_secret  bytea,
  -- The channel's id, and a bot's token with chat:write, sealed for the purpose `slack_notice`.
  slack_channel   text check (slack_channel <> ''),
  slack_token     bytea,
  created_at      timestamptz not null default now(),
  check ((webhook_url is null) = (webhook_secret is null)),
  check ((slack_channel is null) = (slack_token is null))
);

alter table escalation_notices enable row level security;
alter table escalation_notices force row level security;
create policy tenant on escalation_notices
  using (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

-- The names of a tenant's members, for whoever answers in the agent's stead. After `own` in the alphabet, hence in the
-- order of evaluation: a door that asks for the caller's own row does not pay for it.
create policy tenant_members on portal_users for select
  using (exists (select from user_tenant_roles m where m.user_id = portal_users.id
                 and m.tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid));

-- The sweep finds what is to be told, and sees nothing else of a conversation.
-- The inbox looks up memberships, which the sweep may not; only a service's own role enters by it.
alter policy inbox on web_conversations to chat_app;
create policy sweep on web_conversations to chat_sweep
  using (tell_at is not null) with check (tell_at is not null);

alter table audit_events
  -- Null where the product itself acted: it told somebody outside.
  alter actor_id drop not null,
  -- How it came out, where the action alone does not say.
  add detail jsonb;

grant update (escalated_at, escalation_reason, escalated_by, taken_by, taken_at, answered_at, tell_at, tell_hinted_at,
  told, rules_count_from) on web_conversations to chat_app;
-- Not to chat_platform: nobody reads sealed secrets across tenants.
grant select on escalation_notices to chat_app;
grant select (id, tenant_id, user_id, tell_at, tell_hinted_at), update (tell_hinted_at) on web_conversations to chat_sweep;

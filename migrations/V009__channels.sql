-- Other channels than the web: which connection a message belongs to, with which secret it is answered, and what became
-- of it. The portal fills channel_connections.

alter table channel_connections
  -- What the channel itself calls the other end: Slack's workspace (team_id) or app (api_app_id), WhatsApp's
  -- phone_number_id. A message that names one is answered by that connection and no other.
  add external_id  text check (external_id <> ''),
  -- Slack's bot token, WhatsApp's access token; sealed for the purpose `channel:{id of this row}`.
  add credentials  bytea,
  add unique (tenant_id, id);

create unique index channel_connections_external on channel_connections (tenant_id, channel_type, external_id)
  where external_id is not null;

-- One message of a channel and what becomes of it. Such a channel has no conversation row: a talk is one person with one
-- connection in one thread, and its messages are answered one after the other.
create table channel_turns (
  id             uuid primary key,
  tenant_id      uuid not null,
  channel        text not null check (channel in ('slack', 'whatsapp')),
  -- The message's id in its channel: the same one again is the same message.
  message_id     text not null check (message_id <> ''),
  connection_id  uuid not null,
  -- Who answers: whom the connection named at the last claim.
  agent_id       uuid not null,
  -- The thread in its channel; empty where it has none.
  thread         text not null,
  -- Who wrote, in the channel's words.
  sender         text not null,
  -- Empty where the text was refused; code says why.
  said           text not null,
  -- When it was written, as the channel says; the order within a talk.
  said_at        timestamptz not null,
  -- The queue message without its words: wakes whoever runs this turn once those before it have ended.
  hint           text not null,
  -- Stored before it is sent. While `sending`, nobody but the sender knows how much of it has arrived.
  reply          text,
  state          text not null default 'queued' check (state in ('queued', 'running', 'sending', 'answered', 'failed')),
  -- Why it failed, or shall fail once the user was told.
  code           text,
  -- Counts the claims; whoever names another one is a ghost.
  attempt        integer not null default 0,
  lease_until    timestamptz,
  -- Nobody begins an answer after this.
  deadline       timestamptz not null,
  created_at     timestamptz not null default clock_timestamp(),
  ended_at       timestamptz,
  unique (tenant_id, channel, message_id),
  foreign key (tenant_id, connection_id) references channel_connections (tenant_id, id) on delete cascade,
  foreign key (tenant_id, agent_id) references agents (tenant_id, id) on delete cascade
);

create index channel_turns_talk on channel_turns (tenant_id, connection_id, thread, sender, said_at, id);
create index channel_turns_agent on channel_turns (tenant_id, agent_id);

alter table channel_turns enable row level security;
alter table channel_turns force row level security;

create policy tenant on channel_turns
  using (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);
create policy platform on channel_turns for select to chat_platform using (true);

grant select, insert on channel_turns to chat_app;
grant update (agent_id, reply, state, code, attempt, lease_until, ended_at) on channel_turns to chat_app;
grant select on channel_turns to chat_platform;

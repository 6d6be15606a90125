-- The web channel: one thread of (tenant, agent, user), its messages, and what becomes of each.
-- Foreign keys between tenant tables carry tenant_id, since foreign-key checks do not see policies.

create table web_conversations (
  id          uuid primary key,
  tenant_id   uuid not null references tenants (id) on delete cascade,
  agent_id    uuid not null,
  user_id     uuid not null references portal_users (id) on delete cascade,
  created_at  timestamptz not null default now(),
  updated_at  timestamptz not null default now(),
  -- The seq of the newest message ever; never goes back, so a reader's position stays meaningful.
  last_seq    bigint not null default 0,
  -- Counts the resets.
  epoch       integer not null default 0,
  -- Who answers: the agent, or (escalated) a person.
  status      text not null default 'agent' check (status in ('agent', 'escalated')),
  unique (tenant_id, agent_id, user_id),
  unique (tenant_id, id),
  foreign key (tenant_id, agent_id) references agents (tenant_id, id) on delete cascade
);

-- No index holds updated_at: each message moves it, and an index on it would end heap-only updates.
create index web_conversations_user on web_conversations (user_id, tenant_id);

create table web_conversation_messages (
  id               uuid primary key,
  conversation_id  uuid not null,
  tenant_id        uuid not null,
  seq              bigint not null,
  epoch            integer not null,
  role             text not null check (role in ('user', 'assistant')),
  content          text not null,
  -- Taken behind the conversation's lock, so it runs with seq; the transaction may have begun before it waited.
  created_at       timestamptz not null default clock_timestamp(),
  -- The user message that this reply answers.
  reply_to         uuid,
  -- The person who wrote it, where that is not the one the role suggests.
  author_id        uuid,
  unique (conversation_id, seq),
  foreign key (tenant_id, conversation_id) references web_conversations (tenant_id, id) on delete cascade
);

create index web_conversation_messages_created on web_conversation_messages (conversation_id, created_at);
-- At most one stored reply a message, whatever is delivered twice.
create unique index web_conversation_messages_reply on web_conversation_messages (reply_to) where reply_to is not null;

create table turns (
  -- The id of the user message; the row outlives that message's text, so this is no foreign key.
  id                 uuid primary key,
  tenant_id          uuid not null,
  conversation_id    uuid not null,
  -- Whose conversation it is; a hint names them.
  user_id            uuid not null,
  seq                bigint not null,
  epoch              integer not null,
  state              text not null default 'queued'
                       check (state in ('queued', 'running', 'answered', 'failed', 'stopped', 'escalated')),
  -- Why it failed: one of the product's error codes.
  code               text,
  -- Counts the claims; a finish that names another attempt is a ghost's and is refused.
  attempt            integer not null default 0,
  lease_until        timestamptz,
  stop_requested     boolean not null default false,
  -- When a running turn must have ended; set by its first claim.
  deadline           timestamptz,
  -- The last hint given for this turn while it was queued, and how many there were.
  hinted_at          timestamptz not null default clock_timestamp(),
  hints              integer not null default 1,
  -- When the sweep first found it at the head of its conversation with nobody on it.
  waiting_since      timestamptz,
  -- The client's own id of the message and a digest of its text: a repeat is known even after a reset.
  client_message_id  uuid,
  text_sha256        bytea not null,
  created_at         timestamptz not null default now(),
  ended_at           timestamptz,
  foreign key (tenant_id, conversation_id) references web_conversations (tenant_id, id) on delete cascade
);

create unique index turns_client_message on turns (conversation_id, client_message_id) where client_message_id is not null;
create unique index turns_running on turns (conversation_id) where state = 'running';
create index turns_open on turns (conversation_id, seq) where state in ('queued', 'running');

-- The index of open turns collects a dead entry with each turn that ends.
alter table turns set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

create table audit_events (
  id          uuid primary key,
  -- Null where a reader looked across all tenants at once.
  tenant_id   uuid references tenants (id) on delete cascade,
  actor_id    uuid not null,
  action      text not null,
  subject_id  uuid,
  created_at  timestamptz not null default clock_timestamp()
);

create index audit_events_tenant on audit_events (tenant_id, created_at);

-- The portal's own tables: companies, people, who belongs where, and the AI employees.

create table tenants (
  id          uuid primary key,
  name        text not null check (name <> ''),
  created_at  timestamptz not null default now()
);

create table portal_users (
  id            uuid primary key,
  email         text not null unique,
  display_name  text not null,
  role          text not null check (role in ('platform_admin', 'customer_admin', 'customer_operator')),
  created_at    timestamptz not null default now()
);

-- Names a person in an outside issuer's words: its `iss` and `sub`.
create table portal_user_identities (
  issuer      text not null,
  subject     text not null,
  user_id     uuid not null references portal_users (id) on delete cascade,
  created_at  timestamptz not null default now(),
  primary key (issuer, subject)
);

create table user_tenant_roles (
  tenant_id   uuid not null references tenants (id) on delete cascade,
  user_id     uuid not null references portal_users (id) on delete cascade,
  role        text not null check (role in ('platform_admin', 'customer_admin', 'customer_operator')),
  created_at  timestamptz not null default now(),
  primary key (tenant_id, user_id)
);

create index user_tenant_roles_user on user_tenant_roles (user_id);

create table agents (
  id             uuid primary key,
  tenant_id      uuid not null references tenants (id) on delete cascade,
  name           text not null check (name <> ''),
  model          text not null default 'echo',
  system_prompt  text not null default '',
  is_active      boolean not null default true,
  created_at     timestamptz not null default now(),
  unique (tenant_id, id)
);

create table channel_connections (
  id            uuid primary key,
  tenant_id     uuid not null references tenants (id) on delete cascade,
  agent_id      uuid not null,
  channel_type  text not null check (channel_type in
                  ('slack', 'whatsapp', 'mattermost', 'rocketchat', 'teams', 'telegram', 'signal', 'web')),
  config        jsonb not null default '{}',
  created_at    timestamptz not null default now(),
  foreign key (tenant_id, agent_id) references agents (tenant_id, id) on delete cascade
);

create index channel_connections_agent on channel_connections (tenant_id, agent_id);

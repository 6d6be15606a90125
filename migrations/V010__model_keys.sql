-- Keys of a tenant's own for the services behind the models, used instead of the operator's.
create table model_keys (
  tenant_id   uuid not null references tenants (id) on delete cascade,
  -- The provider's name in the settings: openai, anthropic or gemini for the default one, else as in MODEL_PROVIDERS.
  provider    text not null check (provider ~ '^[a-z0-9-]{1,40}$'),
  -- As `hub seal TENANT model:PROVIDER` prints it. Format, nonce and tag are 29 bytes.
  sealed      bytea not null check (octet_length(sealed) between 30 and 8192),
  created_at  timestamptz not null default clock_timestamp(),
  primary key (tenant_id, provider)
);

alter table model_keys enable row level security;
alter table model_keys force row level security;
create policy tenant on model_keys
  using (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

-- The orchestrator reads them. Nobody reads them across tenants, chat_platform included.
grant select on model_keys to chat_app;

-- Who sees which rows. Each tenant table is closed by FORCE ROW LEVEL SECURITY and opens for
--   the tenant of this transaction (app.current_tenant): read and write;
--   the person of this transaction (app.current_user): read only, what is theirs, to find a tenant by;
--   chat_platform: read only, every tenant; chat_sweep: open turns.
-- An unset setting reads NULL and one that was set in an earlier transaction reads '': nullif closes both.

alter table tenants enable row level security;
alter table tenants force row level security;
alter table portal_users enable row level security;
alter table portal_users force row level security;
alter table user_tenant_roles enable row level security;
alter table user_tenant_roles force row level security;
alter table agents enable row level security;
alter table agents force row level security;
alter table channel_connections enable row level security;
alter table channel_connections force row level security;
alter table web_conversations enable row level security;
alter table web_conversations force row level security;
alter table web_conversation_messages enable row level security;
alter table web_conversation_messages force row level security;
alter table turns enable row level security;
alter table turns force row level security;
alter table audit_events enable row level security;
alter table audit_events force row level security;

create policy tenant on tenants
  using (id = nullif(current_setting('app.current_tenant', true), '')::uuid)
  with check (id = nullif(current_setting('app.current_tenant', true), '')::uuid);
create policy tenant on user_tenant_roles
  using (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);
create policy tenant on agents
  using (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);
create policy tenant on channel_connections
  using (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);
create policy tenant on web_conversations
  using (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);
create policy tenant on web_conversation_messages
  using (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);
create policy tenant on turns
  using (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);
create policy tenant on audit_events
  using (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);

-- A person's own: enough to find the tenant that a request is about.
create policy own on portal_users for select
  using (id = nullif(current_setting('app.current_user', true), '')::uuid);
create policy own on user_tenant_roles for select
  using (user_id = nullif(current_setting('app.current_user', true), '')::uuid);
create policy own on tenants for select
  using (exists (select from user_tenant_roles m where m.tenant_id = tenants.id
                 and m.user_id = nullif(current_setting('app.current_user', true), '')::uuid));
create policy own on web_conversations for select
  using (user_id = nullif(current_setting('app.current_user', true), '')::uuid);
-- A company's admins find those of its conversations that wait for a person, while they do.
create policy inbox on web_conversations for select
  using (status = 'escalated' and exists (
    select from user_tenant_roles m where m.tenant_id = web_conversations.tenant_id
      and m.user_id = nullif(current_setting('app.current_user', true), '')::uuid
      and m.role = 'customer_admin'));

create policy platform on tenants for select to chat_platform using (true);
create policy platform on portal_users for select to chat_platform using (true);
create policy platform on user_tenant_roles for select to chat_platform using (true);
create policy platform on agents for select to chat_platform using (true);
create policy platform on channel_connections for select to chat_platform using (true);
create policy platform on web_conversations for select to chat_platform using (true);
create policy platform on web_conversation_messages for select to chat_platform using (true);
create policy platform on turns for select to chat_platform using (true);
create policy platform on audit_events for insert to chat_platform with check (true);

create policy sweep on turns to chat_sweep
  using (state in ('queued', 'running')) with check (true);

grant select on tenants, portal_users, portal_user_identities, user_tenant_roles, agents, channel_connections to chat_app;
grant select, insert on web_conversations to chat_app;
grant update (updated_at, last_seq, epoch, status) on web_conversations to chat_app;
grant select, insert, delete on web_conversation_messages to chat_app;
grant select, insert on turns to chat_app;
grant update (state, code, attempt, lease_until, stop_requested, deadline, hinted_at, hints, ended_at) on turns to chat_app;
grant insert on audit_events to chat_app;

grant select on tenants, portal_users, user_tenant_roles, agents, channel_connections,
  web_conversations, web_conversation_messages, turns to chat_platform;
grant insert on audit_events to chat_platform;

grant select (id, tenant_id, conversation_id, user_id, seq, state, attempt, lease_until, deadline, hinted_at, hints, waiting_since)
  on turns to chat_sweep;
grant update (hinted_at, hints, waiting_since) on turns to chat_sweep;

-- The tenant of this transaction, for the statements' own predicate: the second wall, which stands without policies.
create function app_tenant() returns uuid language sql stable parallel safe
  return nullif(current_setting('app.current_tenant', true), '')::uuid;

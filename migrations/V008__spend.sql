-- What a tenant may spend on models in a month, and what it has spent.

-- One row for each tenant that has a limit; without one it has none. The portal writes the limits, the services what is
-- taken: each call of a model reserves first what it may cost, behind this row's lock, and is settled by what it did.
create table budgets (
  tenant_id           uuid primary key references tenants (id) on delete cascade,
  -- The limits of each month; null is none.
  monthly_calls       bigint check (monthly_calls >= 0),
  monthly_tokens      bigint check (monthly_tokens >= 0),
  -- What is counted here is of this month, by its first day, UTC. The first call of another one begins anew.
  month               date not null default date_trunc('month', now() at time zone 'utc')::date,
  calls               bigint not null default 0,
  -- Settled and reserved together, in the models' tokens.
  tokens              bigint not null default 0,
  -- Calls of this month since four fifths of a limit were taken; the first of them is the warning.
  calls_past_warning  bigint not null default 0
);

-- Each call is a new version of a small row; leave them room on its page.
alter table budgets set (fillfactor = 10);

-- What the calls of one attempt at a turn took, by purpose and model. It outlives the turn, its conversation and its agent.
create table usage (
  tenant_id        uuid not null references tenants (id) on delete cascade,
  -- The turn that the calls were made for, of the web or another channel.
  turn_id          uuid not null,
  attempt          integer not null,
  -- What the calls were made for: the answer, or a summary of what was said before.
  purpose          text not null check (purpose in ('reply', 'summary')),
  model            text not null,
  agent_id         uuid not null,
  calls            bigint not null,
  -- As the provider reported them.
  input_tokens     bigint not null default 0,
  output_tokens    bigint not null default 0,
  -- Of calls whose tokens nobody reported (yet): an estimate, which counts as spent.
  reserved_tokens  bigint not null default 0,
  created_at       timestamptz not null default clock_timestamp(),
  -- When the attempt was over; null while it runs, and for ever where its worker died.
  settled_at       timestamptz,
  primary key (tenant_id, turn_id, attempt, purpose, model)
);

-- Reports ask for days.
create index usage_tenant_day on usage (tenant_id, created_at);

alter table budgets enable row level security;
alter table budgets force row level security;
alter table usage enable row level security;
alter table usage force row level security;

create policy tenant on budgets
  using (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);
create policy tenant on usage
  using (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid)
  with check (tenant_id = nullif(current_setting('app.current_tenant', true), '')::uuid);
create policy platform on budgets for select to chat_platform using (true);
create policy platform on usage for select to chat_platform using (true);

grant select on budgets to chat_app;
grant update (month, calls, tokens, calls_past_warning) on budgets to chat_app;
grant select, insert on usage to chat_app;
grant update (calls, input_tokens, output_tokens, reserved_tokens, settled_at) on usage to chat_app;
grant select on budgets, usage to chat_platform;

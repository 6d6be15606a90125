-- The three roles the services run as. Roles belong to the cluster, not to one database,
-- so each is made only where it is missing. No password here: the operator sets it.
--
-- chat_app       the login of every service
-- chat_platform  what chat_app becomes for one transaction on behalf of a verified platform_admin
-- chat_sweep     what chat_app becomes for one transaction to look for work left lying; turns only
--
-- chat_app is NOINHERIT: it has nothing of the other two until it says SET LOCAL ROLE.

do $$
begin
  if not exists (select from pg_roles where rolname = 'chat_app') then
    create role chat_app login noinherit nosuperuser nocreatedb nocreaterole;
  end if;
  if not exists (select from pg_roles where rolname = 'chat_platform') then
    create role chat_platform nologin nosuperuser nocreatedb nocreaterole;
  end if;
  if not exists (select from pg_roles where rolname = 'chat_sweep') then
    create role chat_sweep nologin nosuperuser nocreatedb nocreaterole;
  end if;
end
$$;

grant chat_platform, chat_sweep to chat_app;

-- A cancelled call goes on in the server, and the next borrower of its connection queues behind it.
alter role chat_app set statement_timeout = '5s';
alter role chat_app set lock_timeout = '3s';
alter role chat_app set idle_in_transaction_session_timeout = '5s';

-- The planner multiplies the selectivities of tenant and conversation, expects one row and sorts a
-- bitmap of the whole conversation. The backward index scan with LIMIT is flat in its length.
alter role chat_app set enable_bitmapscan = off;

-- Compiling a plan takes longer than any of our statements.
alter role chat_app set jit = off;

-- Nobody but the owner makes objects here.
revoke create on schema public from public;
grant usage on schema public to chat_app, chat_platform, chat_sweep;

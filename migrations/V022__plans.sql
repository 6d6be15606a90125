-- A statement is planned once a connection. Where a limit is a parameter Postgres takes the general plan for a dearer one
-- and plans anew for the values of every call, to come to the same: of a page of history that was two thirds of the work.
alter role chat_app set plan_cache_mode = force_generic_plan;

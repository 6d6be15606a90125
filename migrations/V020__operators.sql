-- What an operator sees and does by command (`hub admin`): when a turn was first taken in hand, and whose sockets shall end.

alter table turns
  -- Its first claim. Null of turns that were claimed before there was this column, or never.
  add claimed_at  timestamptz;

grant update (claimed_at) on turns to chat_app;

alter table portal_users
  -- How often an operator had their sockets closed. A socket that came in by a lower number ends when it looks, which a
  -- hint makes it do at once: so whoever can publish can make it look, and cannot make it end.
  add put_out  integer not null default 0;

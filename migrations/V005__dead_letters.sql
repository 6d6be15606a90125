-- What the queue gave up on and nobody could read or route, for an operator to look at and delete.
-- It has no tenant: whoever cannot be read cannot be told apart. The services may add to it and no more.
create table dead_letters (
  -- The queue's id of the message: one that is delivered twice is kept once.
  message_id   text primary key,
  body         text not null,
  reason       text not null,
  received_at  timestamptz not null default clock_timestamp()
);

grant insert on dead_letters to chat_app;

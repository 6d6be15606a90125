-- What an agent remembers of what it does not read any more: everything up to a place, in short.
-- Of the epoch that holds: a reset takes it along.
alter table web_conversations
  add summary      text,
  add summary_seq  bigint not null default 0;

grant update (summary, summary_seq) on web_conversations to chat_app;

-- What a person makes of their conversations: what they call them, whether they still want to see them, how far they have
-- read, and what they think of a reply.

alter table web_conversations
  -- What it is about; null while nobody has said so.
  add title        text check (length(title) between 1 and 200),
  -- The message that the agent's model made the title from: it goes where that goes. Null: a person's own.
  add title_seq    bigint,
  -- Put away by its owner; whatever is said in it next brings it back.
  add archived_at  timestamptz,
  -- Up to which seq its owner has read. Never goes back.
  add read_seq     bigint not null default 0;

-- What was there before nobody had a way to mark. It counts as read: a first look shall not be greeted by years.
update web_conversations set read_seq = last_seq where last_seq > 0;

alter table web_conversation_messages
  -- What the conversation's owner thinks of a reply.
  add rating          text check (rating in ('up', 'down')),
  add rating_comment  text check (length(rating_comment) between 1 and 2000),
  add rated_at        timestamptz;

alter table usage drop constraint usage_purpose_check;
alter table usage add constraint usage_purpose_check check (purpose in ('reply', 'summary', 'title'));

grant update (title, title_seq, archived_at, read_seq) on web_conversations to chat_app;
grant update (rating, rating_comment, rated_at) on web_conversation_messages to chat_app;
grant select (title_seq), update (title, title_seq) on web_conversations to chat_retention;

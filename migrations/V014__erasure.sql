-- A company or a person is erased (`hub admin`) in bounded steps: whatever names them is found by an index.

-- The turns of a conversation, whether their clients gave them an id or not: the foreign key's cascade asks for them, too.
-- It stands instead of the partial one and costs a turn no further entry; ids that are absent are never alike.
create unique index turns_conversation on turns (conversation_id, client_message_id);
drop index turns_client_message;

create index if not exists portal_user_identities_user on portal_user_identities (user_id);

-- Few messages have an author, and audit rows are few.
create index web_conversation_messages_author on web_conversation_messages (author_id) where author_id is not null;
create index audit_events_actor on audit_events (actor_id);

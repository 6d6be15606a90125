-- What waits for a person is found without walking through all that does not. Messages do not move the status, so their
-- updates stay heap-only.
create index web_conversations_escalated on web_conversations (tenant_id) where status = 'escalated';

-- Nobody reads sealed secrets across tenants; a grant of the whole table had taken in the column that came later.
revoke select on channel_connections from chat_platform;
grant select (id, tenant_id, agent_id, channel_type, config, created_at, external_id) on channel_connections to chat_platform;

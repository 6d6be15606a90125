-- What an agent may be told about how to answer.
alter table agents
  -- The model's own choice where absent.
  add temperature        real check (temperature between 0 and 2),
  add max_output_tokens  integer check (max_output_tokens between 1 and 1000000),
  -- What fits into a prompt, answer included; what does not fit falls out, oldest first.
  add context_tokens     integer not null default 16000 check (context_tokens between 1000 and 10000000),
  -- Asked in this order when the model gives no answer.
  add fallback_models    text[] not null default '{}',
  -- The names of the tools it may use.
  add tools              text[] not null default '{}';

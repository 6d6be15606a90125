-- What outside issuers call people. The names are personal data of all companies together, so a transaction sees the one
-- row that its token names (app.current_issuer, app.current_subject) and no other; an unset or empty name is nobody's.

alter table portal_user_identities enable row level security;
alter table portal_user_identities force row level security;
create policy own on portal_user_identities for select
  using (issuer = nullif(current_setting('app.current_issuer', true), '')
         and subject = nullif(current_setting('app.current_subject', true), ''));

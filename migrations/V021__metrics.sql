-- What operators watch: how many turns have not ended, of all companies together, and how long the oldest has waited. The
-- sweep's role sees open turns already, and no text; it may also read when they were accepted.

grant select (created_at) on turns to chat_sweep;

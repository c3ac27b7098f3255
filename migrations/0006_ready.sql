-- What a claim looks for: rows that are free. A row that comes into being claimed is never in these.
--
-- They stand in for indexes of all open rows in the same order. Of two partial indexes with the same condition, a plan made while a
-- table is all but empty takes either one, for they cost the same: the wrong one reads every open row where the right one reads
-- those of one chat.
create index updates_ready on updates (bot_id, update_id) where not done and claimed_by is null;
drop index updates_age;
create index outbox_ready on outbox (id) where not done and claimed_by is null;
drop index outbox_age;

-- Operators: databases restored from a backup, and agents taken over from the Python system.

alter table installation
  -- Since when this database, restored from a backup, waits for `baal reconcile --confirm`: updates are taken in, and nothing is
  -- worked at, since the installation that the backup was made of may have done it already.
  add column held_since timestamptz,
  -- Of when that backup was.
  add column restored_from timestamptz,
  -- When the Python system's databases were last read by `baal import`. What they hold from before and is not here was
  -- forgotten at somebody's wish, and is not taken again.
  add column imported_at timestamptz;

alter table agents
  -- When it was taken over from the Python system (`baal import`).
  add column imported_at timestamptz;

-- What is kept only for some time, by its age. The summaries of BRIN never shrink: once the space of what was deleted is used
-- again, each says "anything from the first day until now", and every look would read the whole table.
drop index updates_received;
create index updates_received on updates (received_at);
drop index outbox_created;
create index outbox_done on outbox (created_at) where done;
drop index turns_created;
create index turns_created on turns (created_at);
drop index audit_at;
create index audit_at on audit (at);
create index turns_forgotten on turns (ended_at) where done and kind = 'forget';
create index usage_day on usage (day);
create index users_forgotten on users (id) where name = '';
create index invites_expired on invites (expires_at);
create index links_revoked on links (revoked_at) where revoked_at is not null;
create index agents_gone on agents (deleted_at) where deleted_at is not null;
create index agents_gone_words on agents (deleted_at) where deleted_at is not null and system_prompt <> '';
create index vms_gone on vms (ended_at) where ended_at is not null and cloud <> 'local';
-- Before somebody's row goes: has anybody an agent, and be it one that is gone?
create index agents_of on agents (owner_id);
-- Before a machine's row goes: does a job name it?
create index jobs_vm on jobs (vm_id) where vm_id is not null;
-- Before a call's row goes: is it a question that waits for its answer?
create index conversations_question on conversations (question) where question is not null;

-- Since when the present step of the dialogue waits for an answer.
alter table conversations add column dialogue_at timestamptz not null default now();
create index conversations_dialogue on conversations (dialogue_at) where dialogue is not null;

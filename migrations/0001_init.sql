-- The whole state of Baal. Times are Postgres' now(), so that replicas agree on them.
--
-- Queues (updates, turns, outbox, jobs) share one shape: `done`, `claimed_by` (a replica, null when free), `attempt` (the
-- fencing token: grows with every claim, and every write of a worker says it). `set statistics 0` on `done` matters:
-- open rows are a vanishing share of each table, and with statistics the planner concludes that there are none.

-- A process that works or listens. It beats; past `expires_at` the others take back what it had claimed and delete it.
create table replicas (
  id bigint generated always as identity primary key,
  name text not null,
  worker bool not null,
  started_at timestamptz not null default now(),
  expires_at timestamptz not null
);

-- Work that one replica at a time may do. A holder that dies loses the lease with its replica.
create table leases (
  name text primary key,
  replica_id bigint not null references replicas on delete cascade
);

-- What a bot's replicas share: pauses and rates that Telegram imposed, where getUpdates stands.
create table bots (
  bot_id bigint primary key,
  username text not null default '',
  paused_until timestamptz not null default '-infinity',
  -- Messages a second over all replicas; null while Telegram complains of nothing.
  send_rate double precision,
  rate_changed_at timestamptz not null default now(),
  poll_offset bigint not null default 0
);

create table users (
  id bigint primary key,
  name text not null,
  username text,
  language_code text,
  first_seen_at timestamptz not null default now()
);

-- The inbox. `body` is a Fernet token (an update may carry a key that a user typed), emptied at the end; a dead letter
-- (done with an error) keeps it until somebody looks. Updates that carry no chat queue under chat 0.
create table updates (
  bot_id bigint not null,
  update_id bigint not null,
  chat_id bigint not null,
  body bytea not null,
  done bool not null default false,
  claimed_by bigint,
  attempt int not null default 0,
  failures int not null default 0,
  reclaims int not null default 0,
  run_at timestamptz not null default '-infinity',
  error text,
  received_at timestamptz not null default now(),
  primary key (bot_id, update_id)
) with (fillfactor = 80);
create index updates_open on updates (bot_id, chat_id, update_id) where not done;
create index updates_age on updates (bot_id, update_id) where not done;
create index updates_dead on updates (received_at) where done and error is not null;
create index updates_received on updates using brin (received_at);
alter table updates alter column done set statistics 0;

create table agents (
  id bigint generated always as identity primary key,
  owner_id bigint not null references users,
  -- Where the owner is told of the agent.
  bot_id bigint not null,
  chat_id bigint not null,
  name text not null,
  system_prompt text not null,
  model text not null,
  visibility text not null check (visibility in ('public', 'unlisted')),
  status text not null default 'provisioning'
    check (status in ('provisioning', 'running', 'failed', 'deleting', 'deleted')),
  -- Fernet token of the bearer secret; known before the agent exists.
  secret bytea not null,
  -- Base URL, set once the agent is healthy there.
  url text,
  protocol int not null default 2,
  wanted_version int not null default 1,
  deployed_version int not null default 0,
  created_at timestamptz not null default now(),
  deleted_at timestamptz
);
create index agents_owner on agents (owner_id, id) where deleted_at is null;

-- Every machine, known before it is created and until it is certainly gone.
create table vms (
  id uuid primary key,
  agent_id bigint references agents,
  cloud text not null,
  data jsonb not null default '{}',
  created_at timestamptz not null default now(),
  ended_at timestamptz
);
create index vms_open on vms (agent_id) where ended_at is null;

-- One row a chat: the agent being talked to, and the dialogue under way.
create table conversations (
  bot_id bigint not null,
  chat_id bigint not null,
  agent_id bigint references agents,
  -- The wizard: its id is in its buttons, so that buttons of an earlier one do nothing.
  dialogue_id bigint not null default 0,
  dialogue jsonb,
  -- Set while Telegram says that nothing can be sent here.
  unreachable_at timestamptz,
  told_private_only bool not null default false,
  primary key (bot_id, chat_id)
);

-- Calls to Telegram, written in the transaction that decides them. Per chat in order of id, but for the unordered ones
-- (callback answers). A claim says "in flight": what a dead replica had claimed may or may not have reached Telegram.
create table outbox (
  id bigint generated always as identity primary key,
  bot_id bigint not null,
  chat_id bigint not null,
  method text not null,
  -- The method's parameters; json, not jsonb, because jsonb refuses \u0000. Emptied once done.
  payload json not null,
  -- The row whose message this call edits or deletes; Telegram's id of it is known by the time of sending.
  edits bigint,
  -- Whether somebody waits for it (a reply) or nobody asked (a notice).
  kind text not null check (kind in ('reply', 'notice')),
  ordered bool not null default true,
  done bool not null default false,
  claimed_by bigint,
  attempt int not null default 0,
  failures int not null default 0,
  -- Telegram may have had it without our knowing: the only way to a message twice.
  uncertain bool not null default false,
  -- How often Telegram's answer was lost.
  losses int not null default 0,
  run_at timestamptz not null default '-infinity',
  message_id bigint,
  error text,
  created_at timestamptz not null default now(),
  ended_at timestamptz
) with (fillfactor = 80);
create index outbox_open on outbox (bot_id, chat_id, id) where not done;
create index outbox_age on outbox (id) where not done;
create index outbox_edits on outbox (edits) where not done;
create index outbox_created on outbox using brin (created_at);
alter table outbox alter column done set statistics 0;

-- A user's words to an agent and what came of them. Agent and role are those of the moment it was sent.
create table turns (
  id uuid primary key,
  position bigint generated always as identity,
  bot_id bigint not null,
  chat_id bigint not null,
  thread_id bigint,
  agent_id bigint not null references agents,
  user_id bigint not null,
  role text not null check (role in ('owner', 'visitor')),
  -- Fernet token of the request to the agent; emptied at the end.
  request bytea not null,
  done bool not null default false,
  claimed_by bigint,
  attempt int not null default 0,
  reclaims int not null default 0,
  run_at timestamptz not null default '-infinity',
  -- Set before a request leaves for an agent that cannot recognise a repetition.
  asked bool not null default false,
  -- The outbox row of the first piece, which the final text replaces.
  first_piece bigint,
  status text check (status in ('completed', 'failed', 'cancelled', 'unknown')),
  error text,
  prompt_tokens bigint,
  completion_tokens bigint,
  cost double precision,
  created_at timestamptz not null default now(),
  started_at timestamptz,
  ended_at timestamptz
) with (fillfactor = 80);
create index turns_open on turns (bot_id, chat_id, agent_id, position) where not done;
-- A turn runs for seconds or minutes: those that run are kept out of the claim's way.
create index turns_ready on turns (position) where not done and claimed_by is null;
create index turns_agent on turns (agent_id, position);
-- Requests that are kept for another try.
create index turns_kept on turns (ended_at) where done and request <> '';
alter table turns alter column done set statistics 0;

-- Messages on the operator's key, by user and UTC day.
create table usage (
  user_id bigint not null,
  day date not null,
  messages int not null,
  primary key (user_id, day)
);

-- Long work in typed steps. `state` is what the steps have found; both are saved with a step's effect.
create table jobs (
  id uuid primary key,
  kind text not null,
  agent_id bigint not null references agents,
  step text not null,
  state jsonb not null default '{}',
  done bool not null default false,
  claimed_by bigint,
  attempt int not null default 0,
  failures int not null default 0,
  reclaims int not null default 0,
  run_at timestamptz not null default now(),
  cancel_requested bool not null default false,
  outcome text check (outcome in ('succeeded', 'failed', 'cancelled')),
  error text,
  -- The outbox row of the message that shows the steps.
  progress bigint,
  trace_context text,
  created_at timestamptz not null default now(),
  ended_at timestamptz
);
create unique index jobs_one_live on jobs (agent_id) where not done;
create index jobs_ready on jobs (run_at) where not done and claimed_by is null;
create index jobs_agent on jobs (agent_id, created_at);
alter table jobs alter column done set statistics 0;

-- Admins: tokens of the API, what was changed by whom, operators' limits, agents that run elsewhere, and traces.

-- Bearer tokens of the API: shown once, kept as SHA-256. ADMIN_TOKEN has no row.
create table api_tokens (
  id bigint generated always as identity primary key,
  -- What it is for, in its maker's words.
  label text not null,
  hash bytea not null unique,
  -- Each allows what the one before it does: see `admin::Scope`.
  scope text not null check (scope in ('read', 'write', 'admin')),
  created_at timestamptz not null default now(),
  created_by text not null,
  -- Null: good until it is revoked.
  expires_at timestamptz,
  -- To the minute, so that reading does not mean writing.
  last_used_at timestamptz,
  revoked_at timestamptz
);

-- Who changed what through the API and the command line. Holds no secret, and of prompts their length and hash alone.
create table audit (
  id bigint generated always as identity primary key,
  at timestamptz not null default now(),
  -- `token 3 (deploys)`, `ADMIN_TOKEN`, `command line`.
  actor text not null,
  token_id bigint,
  address inet,
  request_id text,
  -- `agent.create`, `token.revoke`, …
  action text not null,
  subject_kind text not null,
  subject_id text not null,
  -- The user whose agent or row it is: what names them goes when they want to be forgotten.
  user_id bigint,
  before jsonb,
  after jsonb
);
create index audit_subject on audit (subject_kind, subject_id, id);
create index audit_user on audit (user_id) where user_id is not null;
create index audit_at on audit using brin (at);

-- Answers to creations that named an Idempotency-Key, written in the transaction that creates: a repetition gets the same
-- answer and creates nothing. Kept for a day.
create table idempotency (
  -- The token's id; 0 for ADMIN_TOKEN.
  token_id bigint not null,
  key text not null,
  -- SHA-256 of the operation and what it was asked.
  request bytea not null,
  status int not null,
  location text,
  -- Fernet token: an answer may show a new token.
  body bytea not null,
  created_at timestamptz not null default now(),
  primary key (token_id, key)
);
create index idempotency_created on idempotency (created_at);

alter table users
  -- Nothing of theirs is taken or answered any more.
  add column blocked_at timestamptz,
  -- When they were last told so: once a day is enough.
  add column blocked_told_at timestamptz,
  -- Instead of FREE_TIER_DAILY_MESSAGES and MAX_AGENTS_PER_USER.
  add column daily_messages int check (daily_messages >= 0),
  add column max_agents int check (max_agents >= 0);

alter table agents drop constraint agents_status_check;
alter table agents
  -- `stopped`: an operator has stopped its unit; its machine is there and paid for.
  add constraint agents_status_check
    check (status in ('provisioning', 'running', 'stopped', 'failed', 'deleting', 'deleted')),
  -- It was running somewhere when it was taken in: there is no machine of ours, and nothing of it can be installed.
  add column external bool not null default false;
-- What it says unasked would reach the people of either.
create unique index agents_external_url on agents (url) where external;
-- Where agents are taken in, is one there already?
create index agents_url on agents (url) where url is not null;

-- The pool's size as an operator set it; null: POOL_MIN_SIZE and POOL_MAX_SIZE.
alter table installation
  add column pool_min_size int check (pool_min_size >= 0),
  add column pool_max_size int check (pool_max_size >= 0);

-- W3C's traceparent of what led to a row, where traces are collected. (`jobs` has had its column.)
alter table updates add column trace_context text;
alter table turns add column trace_context text;
alter table outbox add column trace_context text;
alter table errands add column trace_context text;

-- Why turns failed is shown to administrators by now, in our words only; these may be an agent's, with what was said to it.
update turns set error = null where done and error is not null;

-- Figures by day.
create index turns_created on turns using brin (created_at);
create index outbox_dead on outbox (id) where done and error is not null;

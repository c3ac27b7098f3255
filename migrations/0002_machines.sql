-- Machines in clouds: instances of Aleph and hosts that an operator brings, a pool of warm ones, and what is known of them.

-- This installation, one row, made once. Instances carry `id` in their metadata: what does not is somebody else's. Whoever
-- decides how many machines there may be locks this row.
create table installation (
  one bool primary key default true check (one),
  id uuid not null default gen_random_uuid(),
  -- After a restore the reconciler only reports, until `baal reconcile --confirm`.
  report_only bool not null default false,
  reconciled_at timestamptz,
  -- The last sweep that counted as one of several in a row.
  swept_at timestamptz,
  -- The last report of the reconciler.
  report jsonb,
  -- When operators were last told that credits run out.
  credits_told_at timestamptz
);
insert into installation default values;

-- Machines that an operator brings (`baal host add`).
create table hosts (
  id bigint generated always as identity primary key,
  address text not null,
  port int not null check (port between 1 and 65535),
  -- The name under which its agent is reached; the address where null.
  public_name text,
  -- OpenSSH's form, `ssh-ed25519 AAAA…`: read at first contact, checked ever after.
  host_key text,
  created_at timestamptz not null default now(),
  removed_at timestamptz
);
create unique index hosts_address on hosts (address, port) where removed_at is null;
-- A machine of two addresses or names is one host.
create unique index hosts_key on hosts (host_key) where removed_at is null;

-- state: `preparing` (a job makes it warm), `warm` (in the pool), `assigned` (to agent_id), `retiring` (a job removes it).
alter table vms
  add column state text not null default 'assigned' check (state in ('preparing', 'warm', 'assigned', 'retiring')),
  -- The instance's message, known before it is posted.
  add column item_hash text unique,
  add column crn_hash text,
  add column host_id bigint references hosts,
  -- OpenSSH's form: read at first contact, checked ever after.
  add column host_key text,
  -- The public name of its agent, with the port where it is not 443.
  add column name text,
  -- Whether anything of an agent may have been written to it: then it never goes back to the pool.
  add column touched bool not null default false,
  -- Whose it was before it was given up: until it is gone, not everything of that agent is.
  add column last_agent_id bigint references agents,
  add column warm_since timestamptz,
  -- Sweeps in a row in which the cloud did not know it.
  add column missing_sweeps int not null default 0,
  add column missing_since timestamptz,
  add constraint vms_assigned check (state <> 'assigned' or agent_id is not null or ended_at is not null);
create index vms_warm on vms (cloud, warm_since) where ended_at is null and state = 'warm';
create index vms_unended on vms (created_at) where ended_at is null;
-- One host, one machine.
create unique index vms_host on vms (host_id) where ended_at is null;
create index vms_host_ended on vms (host_id, ended_at);
-- One key, one machine: a node that names another machine's address as its instance's does not get it installed over.
create unique index vms_host_key on vms (host_key) where ended_at is null and host_key is not null;
create index vms_last_agent on vms (last_agent_id) where ended_at is null and last_agent_id is not null;

-- Compute nodes that failed lately, for every replica to avoid.
create table crns_avoided (
  crn_hash text primary key,
  avoid_until timestamptz not null,
  reason text not null
);

-- Instances that carry our id and that no open row knows. Destroyed only after several sweeps and a grace period.
create table stray_instances (
  item_hash text primary key,
  first_seen_at timestamptz not null default now(),
  last_seen_at timestamptz not null default now(),
  sweeps int not null default 1
);

-- What was wanted of an agent, by version. The deployed version is what it goes back to when a newer one is not healthy.
create table agent_versions (
  agent_id bigint not null references agents,
  version int not null,
  name text not null,
  system_prompt text not null,
  model text not null,
  created_at timestamptz not null default now(),
  primary key (agent_id, version)
);
insert into agent_versions (agent_id, version, name, system_prompt, model)
  select id, wanted_version, name, system_prompt, model from agents;

alter table agents
  -- Probes in a row that found it unwell.
  add column health_failures int not null default 0,
  add column probed_at timestamptz,
  -- Set when its owner was told that it is unwell; null again once it is well.
  add column unwell_since timestamptz;
create index agents_probe on agents (probed_at nulls first) where status = 'running';

-- Jobs of the pool have no agent: `prepare` makes the machine that it names in its state, `retire` removes `vm_id`.
alter table jobs
  alter column agent_id drop not null,
  add column vm_id uuid references vms,
  -- Since when it waits for MAX_VMS to allow another machine: the waiting list's order.
  add column waiting_since timestamptz;
create unique index jobs_vm_live on jobs (vm_id) where not done and vm_id is not null;
create index jobs_waiting on jobs (waiting_since) where not done and waiting_since is not null;
create index jobs_kind_live on jobs (kind) where not done;
create index jobs_kind_done on jobs (kind, ended_at desc) where done;
create index jobs_done on jobs (ended_at) where done;

-- What was tried, when, and what came of it: a row for every try of a step.
create table job_steps (
  job_id uuid not null references jobs on delete cascade,
  position bigint generated always as identity,
  step text not null,
  vm_id uuid,
  started_at timestamptz not null,
  ended_at timestamptz not null default now(),
  -- In words for the owner; null where the step succeeded.
  error text,
  primary key (job_id, position)
);

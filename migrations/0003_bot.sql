-- The bot: people's own keys, links and visitors, files both ways, what agents say unasked, and errands.

alter table users
  -- Fernet token of the user's own LibertAI key; null: their agents run on the operator's.
  add column libertai_key bytea,
  -- Grows with every key that is connected: agents say which one they run on.
  add column key_version int not null default 0,
  add column key_connected_at timestamptz,
  -- Whether answers keep the line that tells of tool calls.
  add column tool_lines bool not null default false,
  -- When an invitation was redeemed, where CREATE_POLICY=invite.
  add column invited_at timestamptz,
  -- Messages and presses within the running minute, for FLOOD_PER_MINUTE.
  add column flood_minute timestamptz not null default '-infinity',
  add column flood_count int not null default 0,
  -- Set while everything of this user is being forgotten.
  add column forgetting_since timestamptz;

-- Codes of CREATE_POLICY=invite, as SHA-256: whoever reads the table cannot redeem them. Each serves one user.
create table invites (
  code_hash bytea primary key,
  created_by bigint not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  used_by bigint,
  used_at timestamptz
);

-- When a group was told that keys don't belong there.
alter table conversations add column told_of_key_at timestamptz;

alter table agents drop constraint agents_visibility_check;
alter table agents
  add constraint agents_visibility_check check (visibility in ('public', 'unlisted', 'private')),
  -- Which key it is to run on and which one it does: 0 the operator's, else the owner's `key_version` of that time.
  add column wanted_key int not null default 0,
  add column deployed_key int not null default 0,
  -- Whether its machine may have a key of its owner's: from before one is put there until the operator's is installed and
  -- the agent answers.
  add column may_hold_key bool not null default false,
  -- Why no message reaches it although it runs, in words for its owner: a key that was taken back may still be there.
  add column paused text,
  -- What it says unasked: ids are of `pending_database`, and up to `pending_after` they are in the outbox.
  add column pending_database uuid,
  add column pending_after bigint not null default 0,
  -- Messages for chats that never talked to it, which nobody gets.
  add column pending_dropped bigint not null default 0,
  -- When it is to be asked next, and by whom it is being asked; `pull_attempt` is the fencing token.
  add column pull_at timestamptz not null default '-infinity',
  add column pull_claimed_by bigint,
  add column pull_attempt int not null default 0;
create index agents_pull on agents (pull_at) where status = 'running' and pull_claimed_by is null;
create index agents_pulled on agents (pull_claimed_by) where pull_claimed_by is not null;

-- Ways to an agent for others. Each agent has one without a token: its number (`agent_N`), good while it is public.
create table links (
  id bigint generated always as identity primary key,
  agent_id bigint not null references agents,
  -- SHA-256 of the token, to find it, and its Fernet token, to show it to the owner again.
  token_hash bytea unique,
  token bytea,
  -- What the owner calls it.
  label text not null default '',
  -- Whether its visitors' turns have tools.
  tools bool not null default false,
  -- Messages a day (UTC) of each visitor; null: no limit of its own.
  per_day int check (per_day > 0),
  expires_at timestamptz,
  revoked_at timestamptz,
  created_at timestamptz not null default now()
);
create index links_agent on links (agent_id, id);
create unique index links_number on links (agent_id) where token_hash is null;
insert into links (agent_id, tools) select id, true from agents;

-- Who has opened somebody else's agent.
create table visitors (
  agent_id bigint not null references agents,
  user_id bigint not null references users,
  -- The link that they came by last; null: the owner let them in, or has yet to.
  link_id bigint references links,
  -- The bot through which they opened it last: there they are told that they were let in.
  bot_id bigint not null,
  -- Private agents: when they asked to be let in (null once that is answered), and when they were or were not.
  asked_at timestamptz,
  admitted_at timestamptz,
  refused_at timestamptz,
  blocked_at timestamptz,
  first_seen_at timestamptz not null default now(),
  last_seen_at timestamptz not null default now(),
  messages bigint not null default 0,
  -- Messages of the UTC day `day`, for `links.per_day`.
  day date not null default '-infinity',
  messages_today int not null default 0,
  primary key (agent_id, user_id)
);
create index visitors_user on visitors (user_id);
create index visitors_link on visitors (link_id) where link_id is not null;
insert into visitors (agent_id, user_id, link_id, bot_id)
  select c.agent_id, u.id, l.id, c.bot_id
    from conversations c join users u on u.id = c.chat_id join agents a on a.id = c.agent_id
    join links l on l.agent_id = a.id
   where a.owner_id <> u.id
  on conflict do nothing;

alter table turns
  -- `message`: words of a person. `hello`: a new agent introduces itself. `reset`: the agent forgets this chat, and says so;
  -- `forget`: the same in silence.
  add column kind text not null default 'message' check (kind in ('message', 'hello', 'reset', 'forget')),
  -- The link by which its visitor came.
  add column link_id bigint,
  -- Whether a visitor's turn has tools; owners' always do.
  add column tools bool not null default true,
  -- Telegram's ids of the messages in it: those that came while another turn ran are one turn.
  add column message_ids bigint[] not null default '{}',
  -- Messages in it that count against the sender's free ones.
  add column counted int not null default 0,
  -- The album that it waits to be whole for.
  add column album text,
  -- The turn that brought first what was now edited.
  add column edit_of uuid,
  -- The user has stopped it.
  add column cancel_requested bool not null default false;
-- Those that wait were counted when they came, one each.
update turns set counted = 1 where not done;
create index turns_chat on turns (bot_id, chat_id, position);
create index turns_stopping on turns (claimed_by) where not done and cancel_requested;

-- Where a call's file comes from: fetched or made when it is sent. See `telegram::outbox::FileSource`.
alter table outbox
  add column file jsonb,
  -- A call with a file is claimed while its file is fetched; it is in flight from here on. Others are once they are claimed.
  add column leaving bool not null default false;
create index outbox_files on outbox (id) where not done and file is not null;

-- What a user asked for that needs a far side but no agent: checking a key, reading a balance. `request` is a Fernet token,
-- emptied at the end. In order per user and kind.
create table errands (
  id uuid primary key,
  position bigint generated always as identity,
  kind text not null,
  bot_id bigint not null,
  chat_id bigint not null,
  thread_id bigint,
  user_id bigint not null,
  request bytea not null,
  -- The outbox row of the message that the result replaces.
  progress bigint,
  done bool not null default false,
  claimed_by bigint,
  attempt int not null default 0,
  failures int not null default 0,
  reclaims int not null default 0,
  run_at timestamptz not null default now(),
  error text,
  created_at timestamptz not null default now(),
  ended_at timestamptz
);
create index errands_ready on errands (run_at) where not done and claimed_by is null;
create index errands_open on errands (user_id, kind, position) where not done;
create index errands_claimed on errands (claimed_by) where not done and claimed_by is not null;
create index errands_created on errands (created_at) where done;
alter table errands alter column done set statistics 0;

-- The outbox row of the wizard's last question, whose buttons go once it is answered.
alter table conversations add column question bigint;

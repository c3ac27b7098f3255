-- Times are seconds since 1970 by SQLite's unixepoch().

-- One row for every turn that was ever accepted: a known id never runs again.
create table turns (
    -- Arrival order; turns of one chat run in this order.
    position integer primary key autoincrement,
    id blob not null unique,
    chat_id text not null,
    -- SHA-256 of the request without its turn id: tells a repeated request from another one under the same id.
    body_sha256 blob not null,
    -- The request as JSON, needed to run the turn after a restart; emptied when the turn is over.
    request text not null,
    state text not null default 'queued' check (state in ('queued', 'running', 'done', 'cancelled')),
    -- Set by a cancel of a running turn, so that a restart in between doesn't run it again.
    cancel_requested integer not null default 0,
    -- Highest sequence number given to an event; the events of a finished turn may be gone.
    last_seq integer not null default 0,
    created_at integer not null default (unixepoch()),
    finished_at integer
) strict;

-- The next turn of a chat, and what a restart has to resume, without walking the finished ones.
create index turns_open on turns (chat_id, position) where finished_at is null;
-- What to forget by age.
create index turns_finished on turns (finished_at) where finished_at is not null;

create table events (
    turn integer not null references turns (position),
    seq integer not null,
    -- Type as on the wire; deltas are dropped when the whole text is there.
    kind text not null,
    -- The event as on the wire, without seq.
    body text not null,
    primary key (turn, seq)
) strict, without rowid;

-- The history that the model gets.
create table messages (
    id integer primary key autoincrement,
    chat_id text not null,
    role text not null check (role in ('user', 'assistant')),
    content text not null,
    created_at integer not null default (unixepoch())
) strict;

create index messages_chat on messages (chat_id, id);

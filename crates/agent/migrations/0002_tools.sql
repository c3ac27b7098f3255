-- Turns that nobody's message began are turns as well: a subagent's has a chat of its own ('subagent:…'), the heartbeat's
-- is 'heartbeat'. What they say at their end becomes a pending message for `deliver_to`.
alter table turns add column kind text not null default 'chat' check (kind in ('chat', 'subagent', 'heartbeat'));
alter table turns add column deliver_to text;
-- 'steer': may be taken in by the turn that runs in the chat, at its next question to the model.
alter table turns add column mode text not null default 'queue' check (mode in ('queue', 'steer'));

create index turns_open_by_kind on turns (kind, position) where finished_at is null;

-- The history, now with what tools were asked and what they answered: a call and its results belong together, by the turn.
create table new_messages (
    id integer primary key autoincrement,
    chat_id text not null,
    -- The turn that it was said in: where a restart has to go on from. 0 for what was said before tools existed.
    turn integer not null default 0,
    role text not null check (role in ('user', 'assistant', 'tool')),
    content text not null,
    -- Of an assistant: the calls as JSON, [{"id", "name", "arguments"}].
    tool_calls text,
    -- Of a tool: the call that it answers.
    tool_call_id text,
    -- Of a user: attachments as JSON, as in the request.
    attachments text,
    created_at integer not null default (unixepoch())
) strict;

insert into new_messages (id, chat_id, role, content, created_at) select id, chat_id, role, content, created_at from messages;
drop table messages;
alter table new_messages rename to messages;

create index messages_chat on messages (chat_id, id);
-- Not partial: SQLite would not use it for `turn = ?`, since it does not know what will be bound.
create index messages_turn on messages (turn, id);

-- What took the place of a chat's older messages in what the model reads. The messages stay, to be searched.
create table summaries (
    chat_id text primary key,
    content text not null,
    -- Id of the newest message that it stands for.
    up_to integer not null,
    created_at integer not null default (unixepoch())
) strict;

-- How many tokens a byte of a chat's text was counted as by the provider, corrected with every answer.
create table tokens_per_byte (
    model text primary key,
    ratio real not null
) strict;

-- What is searched. The chat is a word of its own, so that a search walks the messages of that chat only; of a large tool
-- result its beginning has to do.
create view searchable as
    select id, chat_id, 'c' || hex(chat_id) as chat, substr(content, 1, 20000) as content from messages;
create virtual table messages_text using fts5 (
    chat, content, content = 'searchable', content_rowid = 'id', tokenize = 'unicode61 remove_diacritics 2'
);
-- One row: id of the newest message in messages_text. Filled in batches behind the turns: a trigger took 38 µs a message,
-- a batch takes 9.
create table search_index (up_to integer not null) strict;
insert into search_index values (0);
-- The index has to be told what it held, and must not be told of what it has not taken in yet.
create trigger messages_text_delete after delete on messages when old.id <= (select up_to from search_index) begin
    insert into messages_text (messages_text, rowid, chat, content)
        values ('delete', old.id, 'c' || hex(old.chat_id), substr(old.content, 1, 20000));
end;

-- What is said unasked, kept until whoever delivers it acknowledges. Ids are never used again.
create table pending (
    id integer primary key autoincrement,
    chat_id text not null,
    source text not null check (source in ('heartbeat', 'subagent', 'heartbeat_file', 'subagent_file')),
    content text not null,
    created_at integer not null default (unixepoch())
) strict;

-- One row: tells a caller that pending ids began anew.
create table identity (database_id blob not null) strict;
insert into identity values (randomblob(16));

-- Tokens that turns without a person spent, by day (UTC, as in '2026-11-23').
create table spending (
    day text primary key,
    tokens integer not null default 0,
    -- The owner was told that the day's cap is reached.
    told integer not null default 0
) strict, without rowid;

-- When the agent last looked at its HEARTBEAT.md: a restart must not make it look more often.
create table heartbeat (last_at integer not null) strict;
insert into heartbeat values (unixepoch());

-- What was said unasked in a chat, until it becomes part of the chat's history with the next thing that the person says.
-- Before that it could fall between a tool call and its result, which a model refuses to read.
create table notes (
    id integer primary key,
    chat_id text not null,
    content text not null,
    created_at integer not null default (unixepoch())
) strict;
create index notes_chat on notes (chat_id, id);

create trigger notes_first before insert on messages
when new.role = 'user' and exists (select 1 from notes where chat_id = new.chat_id) begin
    -- Turn 0: it belongs to none of the chat's turns.
    insert into messages (chat_id, role, content, created_at)
        select chat_id, 'assistant', content, created_at from notes where chat_id = new.chat_id order by id;
    delete from notes where chat_id = new.chat_id;
end;

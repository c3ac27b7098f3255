//! What the bot says about itself, and its command menu.

use serde_json::{Value, json};

use super::TRUE;
use crate::telegram::Telegram;
use crate::telegram::entities::utf16;
use crate::telegram::params::Params;
use crate::telegram::refusal::Refusal;
use crate::telegram::world::{Command, CommandSet, Standing, World};

const SCOPES: &[&str] = &[
    "default",
    "all_private_chats",
    "all_group_chats",
    "all_chat_administrators",
    "chat",
    "chat_administrators",
    "chat_member",
];

impl Telegram {
    pub(super) fn get_me(&self) -> Value {
        let mut me = self.world().bot_json();
        for (name, able) in [
            ("can_join_groups", true),
            ("can_read_all_group_messages", true),
            ("supports_inline_queries", false),
            ("can_connect_to_business", false),
            ("has_main_web_app", false),
        ] {
            me[name] = able.into();
        }
        me
    }

    pub(super) fn set_my_commands(&self, params: &Params) -> Result<Value, Refusal> {
        let (scope, language_code) = scope(params)?;
        let commands = params.json("commands")?.ok_or_else(|| Refusal::wrong("can't parse commands JSON object"))?;
        let commands = commands.as_array().ok_or_else(|| Refusal::wrong("expected an Array of BotCommand"))?;
        if commands.len() > 100 {
            return Err(Refusal::wrong("BOT_COMMANDS_TOO_MUCH"));
        }
        let commands = commands.iter().map(command).collect::<Result<Vec<_>, _>>()?;
        let mut world = self.world();
        known_chat(&world, &scope)?;
        world.bot.commands.retain(|set| set.scope != scope || set.language_code != language_code);
        if !commands.is_empty() {
            world.bot.commands.push(CommandSet { scope, language_code, commands });
        }
        world.changed = true;
        let told = json!({ "type": "commands" });
        world.chats.values().for_each(|chat| chat.tell(|| told.clone()));
        Ok(TRUE)
    }

    pub(super) fn get_my_commands(&self, params: &Params) -> Result<Value, Refusal> {
        let (scope, language_code) = scope(params)?;
        let world = self.world();
        let set = world.bot.commands.iter().find(|set| set.scope == scope && set.language_code == language_code);
        Ok(set.map_or_else(|| json!([]), |set| json!(set.commands)))
    }

    pub(super) fn delete_my_commands(&self, params: &Params) -> Result<Value, Refusal> {
        let (scope, language_code) = scope(params)?;
        let mut world = self.world();
        world.bot.commands.retain(|set| set.scope != scope || set.language_code != language_code);
        world.changed = true;
        Ok(TRUE)
    }

    /// `setMyName`, `setMyDescription`, `setMyShortDescription`: parameter `name`, at most `limit` characters. Only the
    /// text without a language is kept.
    pub(super) fn set_my_text(&self, name: &str, limit: usize, params: &Params) -> Result<Value, Refusal> {
        let text = params.text(name)?.unwrap_or("").trim().to_owned();
        if utf16(&text) > limit {
            return Err(Refusal::wrong(format!("{} is too long", name.replace('_', " "))));
        }
        if !params.text("language_code")?.unwrap_or("").is_empty() {
            return Ok(TRUE);
        }
        let mut world = self.world();
        match name {
            "description" => world.bot.description = text,
            "short_description" => world.bot.short_description = text,
            _ => world.bot.name = text,
        }
        world.changed = true;
        Ok(TRUE)
    }
}

fn command(value: &Value) -> Result<Command, Refusal> {
    let read = |name: &str| {
        value[name]
            .as_str()
            .ok_or_else(|| Refusal::wrong(format!("can't parse BotCommand: Field \"{name}\" must be of type String")))
    };
    let command = read("command")?;
    let command = command.strip_prefix('/').unwrap_or(command);
    let description = read("description")?.trim();
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !(1..=32).contains(&command.len()) || !command.chars().all(valid) {
        return Err(Refusal::wrong("BOT_COMMAND_INVALID"));
    }
    if !(1..=256).contains(&utf16(description)) {
        return Err(Refusal::wrong("BOT_COMMAND_DESCRIPTION_INVALID"));
    }
    Ok(Command { command: command.to_owned(), description: description.to_owned() })
}

/// A scope of one chat is refused where the bot knows no such chat, as that of a user who never wrote.
fn known_chat(world: &World, scope: &Value) -> Result<(), Refusal> {
    if !scope["type"].as_str().is_some_and(|kind| kind.starts_with("chat")) {
        return Ok(());
    }
    let id = scope["chat_id"].as_i64().or_else(|| scope["chat_id"].as_str()?.parse().ok());
    let id = id.ok_or_else(|| Refusal::wrong("can't parse BotCommandScope: Can't find field \"chat_id\""))?;
    let known = world.chats.get(&id).is_some_and(|chat| chat.standing != Standing::Unknown);
    if known { Ok(()) } else { Err(Refusal::unlucky("chat not found")) }
}

fn scope(params: &Params) -> Result<(Value, String), Refusal> {
    let scope = params.json("scope")?.unwrap_or_else(|| json!({ "type": "default" }));
    if !scope["type"].as_str().is_some_and(|kind| SCOPES.contains(&kind)) {
        return Err(Refusal::wrong("can't parse BotCommandScope: Unsupported type specified"));
    }
    let language = params.text("language_code")?.unwrap_or("").to_owned();
    if !language.is_empty() && (language.len() != 2 || !language.bytes().all(|b| b.is_ascii_lowercase())) {
        return Err(Refusal::wrong("invalid language_code specified"));
    }
    Ok((scope, language))
}

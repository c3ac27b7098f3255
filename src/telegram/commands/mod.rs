//! Handlers: from an update and rows to row changes, calls, jobs and turns. They take milliseconds and wait for nothing
//! but the database, within the transaction that ends their update.

mod agents;
mod create;
mod relay;
mod start;
mod upkeep;

use sqlx::PgConnection;

use super::callback::Press;
use super::conversation::{self, Conversation};
use super::outbox::{self, Call};
use super::text::{Place, edit_message, send_message};
use super::texts;
use super::update::{CallbackQuery, ChatMemberUpdated, Message, Update, User};
use crate::agents::service::ServiceError;
use crate::app::App;
use crate::wake::Queue;

/// A handler's result: only the database can fail it; what a user did wrong is answered.
pub type Handled = sqlx::Result<()>;

/// What a handler works with: the transaction, and the words it puts into the outbox.
pub struct Handler<'a> {
    /// The process' handles.
    pub app: &'a App,
    /// The transaction that ends the update.
    pub conn: &'a mut PgConnection,
    woken: Vec<Queue>,
}

impl<'a> Handler<'a> {
    /// A handler of one update.
    pub fn new(app: &'a App, conn: &'a mut PgConnection) -> Self {
        Self { app, conn, woken: Vec::new() }
    }

    /// The queues to wake once the transaction is committed.
    pub fn woken(self) -> Vec<Queue> {
        self.woken
    }

    /// Notes a queue to be woken.
    pub fn wake(&mut self, queue: Queue) {
        if !self.woken.contains(&queue) {
            self.woken.push(queue);
        }
    }

    /// Puts a call into the outbox.
    pub async fn call(&mut self, call: &Call) -> sqlx::Result<i64> {
        self.wake(Queue::Outbox);
        outbox::enqueue(self.conn, call).await
    }

    /// Says something.
    pub async fn say(&mut self, place: Place, (text, buttons): texts::Message) -> Handled {
        let call = Call::reply(place.bot_id, place.chat_id, &send_message(place, &text, buttons));
        self.call(&call).await.map(drop)
    }

    /// Changes the message whose button was pressed; where that is unknown, says it anew.
    pub async fn turn_into(&mut self, pressed: &Pressed, (text, buttons): texts::Message) -> Handled {
        let place = pressed.place;
        let Some(message_id) = pressed.message_id else { return self.say(place, (text, buttons)).await };
        let call = Call::reply(place.bot_id, place.chat_id, &edit_message(place, message_id, &text, buttons));
        self.call(&call).await.map(drop)
    }

    /// The words for what the agent service refused; a database error goes on up.
    pub fn refusal(error: ServiceError) -> sqlx::Result<texts::Message> {
        match error {
            ServiceError::Database(error) => Err(error),
            refused => Ok(texts::refused(&refused)),
        }
    }
}

/// Who speaks where, and what the chat is about.
pub struct Speaker {
    /// Where answers go.
    pub place: Place,
    /// Who it is; every message and every press is authorised by this id.
    pub user: User,
    /// The chat's row.
    pub conversation: Conversation,
}

/// A pressed button.
pub struct Pressed {
    /// Where answers go.
    pub place: Place,
    /// The message with the button.
    pub message_id: Option<i64>,
    /// To be answered.
    pub query_id: String,
}

/// Handles an update. `false`: it is of a kind that Baal does not ask for.
pub async fn route(handler: &mut Handler<'_>, update: &Update) -> sqlx::Result<bool> {
    if let Some(message) = &update.message {
        on_message(handler, message).await?;
    } else if let Some(query) = &update.callback_query {
        on_press(handler, query).await?;
    } else if let Some(change) = &update.my_chat_member {
        on_membership(handler, change).await?;
    } else if update.edited_message.is_none() {
        return Ok(false);
    }
    // An edit changes nothing: the agent has answered what was said.
    Ok(true)
}

async fn on_message(handler: &mut Handler<'_>, message: &Message) -> Handled {
    let thread_id = message.message_thread_id.filter(|_| message.is_topic_message);
    let place = Place { bot_id: handler.app.bot_id, chat_id: message.chat.id, thread_id };
    if !message.chat.is_private() {
        return on_group(handler, place).await;
    }
    let Some(user) = message.from.clone().filter(|user| !user.is_bot) else { return Ok(()) };
    let conversation = conversation::load(handler.conn, place.bot_id, place.chat_id, &user).await?;
    let speaker = Speaker { place, user, conversation };
    let Some(text) = &message.text else { return handler.say(place, texts::only_text()).await };
    match Command::parse(text) {
        Some(command) => on_command(handler, &speaker, command).await,
        None if speaker.conversation.dialogue.is_some() => create::on_text(handler, &speaker, text).await,
        None => relay::on_text(handler, &speaker, text).await,
    }
}

async fn on_group(handler: &mut Handler<'_>, place: Place) -> Handled {
    if conversation::tell_private_only(handler.conn, place.bot_id, place.chat_id).await? {
        handler.say(place, texts::private_only()).await?;
    }
    Ok(())
}

async fn on_membership(handler: &mut Handler<'_>, change: &ChatMemberUpdated) -> Handled {
    let place = Place { bot_id: handler.app.bot_id, chat_id: change.chat.id, thread_id: None };
    let there = !matches!(change.new_chat_member.status.as_str(), "kicked" | "left");
    conversation::set_reachable(handler.conn, place.bot_id, place.chat_id, there).await?;
    if there && !change.chat.is_private() && change.chat.kind != "channel" {
        on_group(handler, place).await?;
    }
    Ok(())
}

/// A command and what follows it.
#[derive(Debug, PartialEq, Eq)]
struct Command<'a> {
    name: String,
    argument: &'a str,
}

impl<'a> Command<'a> {
    /// `/name argument` or `/name@bot argument`.
    fn parse(text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix('/')?;
        let (word, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let name = word.split_once('@').map_or(word, |(name, _)| name);
        let plausible = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        // A path or a lone slash is something said, not a command.
        plausible.then(|| Self { name: name.to_ascii_lowercase(), argument: argument.trim() })
    }
}

async fn on_command(handler: &mut Handler<'_>, speaker: &Speaker, command: Command<'_>) -> Handled {
    match command.name.as_str() {
        "start" => start::on_start(handler, speaker, command.argument).await,
        "help" => handler.say(speaker.place, texts::help()).await,
        "create" => create::begin(handler, speaker).await,
        "list" => agents::list(handler, speaker).await,
        "manage" => agents::manage(handler, speaker, command.argument).await,
        "delete" => agents::delete(handler, speaker, command.argument).await,
        "soul" => upkeep::soul(handler, speaker, command.argument).await,
        "update" => upkeep::update(handler, speaker, command.argument).await,
        "repair" => upkeep::repair(handler, speaker, command.argument).await,
        "cancel" => create::cancel(handler, speaker).await,
        _ => handler.say(speaker.place, texts::unknown_command()).await,
    }
}

async fn on_press(handler: &mut Handler<'_>, query: &CallbackQuery) -> Handled {
    let message = query.message.as_ref();
    let place = Place {
        bot_id: handler.app.bot_id,
        chat_id: message.map_or(query.from.id, |message| message.chat.id),
        thread_id: message.and_then(|m| m.message_thread_id.filter(|_| m.is_topic_message)),
    };
    let pressed = Pressed { place, message_id: message.map(|m| m.message_id), query_id: query.id.clone() };
    let private = message.is_none_or(|message| message.chat.is_private());
    let notice = match query.data.as_deref().unwrap_or_default().parse::<Press>() {
        Ok(press) if private => {
            let user = query.from.clone();
            let conversation = conversation::load(handler.conn, place.bot_id, place.chat_id, &user).await?;
            on_known_press(handler, &Speaker { place, user, conversation }, &pressed, press).await?
        }
        Ok(_) => Some("I only work in private chats."),
        Err(_) => Some("This button does nothing any more."),
    };
    // Outside the chat's order: the button's spinner must not wait for messages.
    let answer = texts::answer_press(&pressed.query_id, notice);
    handler.call(&Call::reply(place.bot_id, place.chat_id, &answer).unordered()).await.map(drop)
}

/// Returns what to show the presser for a moment.
async fn on_known_press(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
    press: Press,
) -> sqlx::Result<Option<&'static str>> {
    match press {
        Press::Create => create::begin(handler, speaker).await?,
        Press::List => agents::show_list(handler, speaker, pressed).await?,
        Press::Help => handler.say(speaker.place, texts::help()).await?,
        Press::Chat(id) => start::enter(handler, speaker, id).await?,
        Press::Manage(id) => agents::show_card(handler, speaker, pressed, id).await?,
        Press::Delete(id) => agents::ask_delete(handler, speaker, Some(pressed), id).await?,
        Press::ConfirmDelete(id) => agents::confirm_delete(handler, speaker, pressed, id).await?,
        Press::KeepAgent(id) => agents::keep(handler, speaker, pressed, id).await?,
        Press::Retry(id) => agents::retry(handler, speaker, id).await?,
        Press::Repair(id) => upkeep::ask_repair(handler, speaker, pressed, id).await?,
        Press::ConfirmRepair(id) => upkeep::confirm_repair(handler, speaker, pressed, id).await?,
        Press::BeginAnew(id) => upkeep::ask_begin_anew(handler, speaker, id).await?,
        Press::ConfirmBeginAnew(id) => upkeep::begin_anew(handler, speaker, Some(pressed), id).await?,
        Press::Update(id) => upkeep::update_now(handler, speaker, id).await?,
        Press::RetryTurn(id) => return relay::retry(handler, speaker, pressed, id).await,
        Press::Dialogue { id, step, choice } => {
            return create::on_press(handler, speaker, pressed, id, &step, &choice).await;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_words() {
        let command = |name: &str, argument| Some(Command { name: name.into(), argument });
        assert_eq!(Command::parse("/start agent_42"), command("start", "agent_42"));
        assert_eq!(Command::parse("/HELP@baal_bot"), command("help", ""));
        assert_eq!(Command::parse("/delete\n 7 "), command("delete", "7"));
        for words in ["hello", "/", "/usr/bin/env", " /start", "/é", "//"] {
            assert_eq!(Command::parse(words), None, "{words}");
        }
    }
}

//! Handlers: from an update and rows to row changes, calls, jobs and turns. They take milliseconds and wait for nothing
//! but the database, within the transaction that ends their update.

mod account;
mod agents;
mod blocked;
mod chat;
mod command;
mod create;
mod flood;
mod invite;
mod overview;
mod privacy;
mod relay;
mod share;
mod soul;
mod start;
mod upkeep;

use sqlx::PgConnection;

pub(super) use self::account::{deletion, holds_key};
use self::command::Command;
pub(super) use self::relay::{Passing, pass_on};
use super::callback::Press;
use super::conversation::{self, Conversation, Dialogue};
use super::outbox::{self, Call};
use super::reach;
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
    /// Whether nothing is said any more: who writes too much would be answered too much.
    silent: bool,
}

impl<'a> Handler<'a> {
    /// A handler of one update.
    pub fn new(app: &'a App, conn: &'a mut PgConnection) -> Self {
        Self { app, conn, woken: Vec::new(), silent: false }
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

    /// Notes that a job was begun, whose message shows its progress.
    pub fn wake_jobs(&mut self) {
        self.wake(Queue::Jobs);
        self.wake(Queue::Outbox);
    }

    /// Says something, unless whoever would hear it has been told too much already.
    pub async fn say(&mut self, place: Place, message: texts::Message) -> Handled {
        if self.silent {
            return Ok(());
        }
        self.post(place, message).await.map(drop)
    }

    /// Sends a message that is to be changed later; its row.
    pub async fn post(&mut self, place: Place, (text, buttons): texts::Message) -> sqlx::Result<i64> {
        self.call(&Call::reply(place.bot_id, place.chat_id, &send_message(place, &text, buttons))).await
    }

    /// Changes the message whose button was pressed; where that is unknown, says it anew.
    pub async fn turn_into(&mut self, pressed: &Pressed, message: texts::Message) -> Handled {
        self.replace(pressed, message).await.map(drop)
    }

    /// The same; the row whose message is to be changed later.
    pub async fn replace(&mut self, pressed: &Pressed, (text, buttons): texts::Message) -> sqlx::Result<i64> {
        let place = pressed.place;
        let Some(message_id) = pressed.message_id else { return self.post(place, (text, buttons)).await };
        self.call(&Call::reply(place.bot_id, place.chat_id, &edit_message(place, message_id, &text, buttons))).await
    }

    /// Whether whoever speaks runs this.
    pub fn is_operator(&self, speaker: &Speaker) -> bool {
        self.app.config.is_operator(speaker.user.id)
    }

    /// Begins a dialogue, ending any other; its number. Who was creating an agent is told that this is over.
    pub async fn begin(&mut self, speaker: &Speaker, dialogue: &Dialogue) -> sqlx::Result<i64> {
        create::give_up(self, speaker).await?;
        conversation::begin_dialogue(self.conn, speaker.place.bot_id, speaker.place.chat_id, dialogue).await
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
    } else if let Some(message) = &update.edited_message {
        on_edit(handler, message).await?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

async fn on_message(handler: &mut Handler<'_>, message: &Message) -> Handled {
    let command = command(message);
    let Some(speaker) = speaker(handler, message).await? else {
        return match message.chat.is_private() {
            true => Ok(()),
            false if account::holds_key(message, None) => {
                account::key_in_group(handler, place(handler.app, message), message).await
            }
            false => on_group(handler, place(handler.app, message)).await,
        };
    };
    if account::holds_key(message, speaker.conversation.dialogue.as_ref()) {
        // Before anything else has a say: it must not stay there.
        account::delete(handler, speaker.place, message).await?;
    }
    // Before the limit of the minute, which has words of its own.
    if blocked::shuts_out(&speaker, command.as_ref()) {
        return blocked::tell(handler, &speaker).await;
    }
    if flood::is_over(handler.app, &speaker) {
        if !command.as_ref().is_some_and(Command::always_works) {
            return flood::tell(handler, &speaker).await;
        }
        // It has its effect, but no answer: those count, too.
        handler.silent = flood::is_told(handler, &speaker);
    }
    if speaker.conversation.account.being_forgotten {
        return handler.say(speaker.place, texts::being_forgotten()).await;
    }
    match (command, &message.text) {
        (Some(command), _) => on_command(handler, &speaker, message, command).await,
        (None, _) if speaker.conversation.dialogue.is_none() => relay::on_message(handler, &speaker, message).await,
        (None, Some(text)) => on_answer(handler, &speaker, message, text).await,
        (None, None) if message.content.is_service() => Ok(()),
        (None, None) => handler.say(speaker.place, texts::only_text()).await,
    }
}

/// A message that its author changed. Commands and answers within a dialogue have had their effect.
async fn on_edit(handler: &mut Handler<'_>, message: &Message) -> Handled {
    let holds_key = account::holds_key(message, None);
    if !holds_key && message.text.as_deref().is_some_and(|text| Command::parse(text).is_some()) {
        return Ok(());
    }
    let Some(speaker) = speaker(handler, message).await? else {
        return match holds_key {
            true => account::key_in_group(handler, place(handler.app, message), message).await,
            false => Ok(()),
        };
    };
    if holds_key {
        handler.silent = flood::is_over(handler.app, &speaker) || speaker.conversation.account.blocked;
        return account::key_in_edit(handler, &speaker, message).await;
    }
    if speaker.conversation.account.being_forgotten || speaker.conversation.account.blocked {
        return Ok(());
    }
    if flood::is_over(handler.app, &speaker) {
        return flood::tell(handler, &speaker).await;
    }
    relay::on_edit(handler, &speaker, message).await
}

/// The command of a message; under a picture only the one that shows a key is heard.
fn command(message: &Message) -> Option<Command<'_>> {
    let caption = || message.caption.as_deref().and_then(Command::parse).filter(account::is_login);
    message.text.as_deref().and_then(Command::parse).or_else(caption)
}

fn place(app: &App, message: &Message) -> Place {
    let thread_id = message.message_thread_id.filter(|_| message.is_topic_message);
    Place { bot_id: app.bot_id, chat_id: message.chat.id, thread_id }
}

/// Who wrote a private message; none if no person did.
fn person(message: &Message) -> Option<&User> {
    message.from.as_ref().filter(|user| !user.is_bot && message.chat.is_private())
}

/// The same with what the chat is about.
async fn speaker(handler: &mut Handler<'_>, message: &Message) -> sqlx::Result<Option<Speaker>> {
    let place = place(handler.app, message);
    let Some(user) = person(message).cloned() else { return Ok(None) };
    let mut conversation = conversation::load(handler.conn, place.bot_id, place.chat_id, &user).await?;
    if conversation.dialogue.as_ref().is_some_and(|dialogue| dialogue.is_over(message.date)) {
        conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, None).await?;
        conversation.dialogue = None;
    }
    Ok(Some(Speaker { place, user, conversation }))
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
    match there {
        true => conversation::set_reachable(handler.conn, place.bot_id, place.chat_id, true).await?,
        false => reach::lost(handler.conn, place.bot_id, place.chat_id).await?,
    }
    if there && !change.chat.is_private() && change.chat.kind != "channel" {
        on_group(handler, place).await?;
    }
    Ok(())
}

/// Words within a dialogue.
async fn on_answer(handler: &mut Handler<'_>, speaker: &Speaker, message: &Message, text: &str) -> Handled {
    match &speaker.conversation.dialogue {
        Some(Dialogue::Key) => account::on_key(handler, speaker, text).await,
        Some(Dialogue::Soul { agent_id }) => soul::on_text(handler, speaker, message, *agent_id, text).await,
        Some(Dialogue::SoulRest { agent_id, before, cut }) => {
            soul::on_rest(handler, speaker, message, (*agent_id, *before, *cut), text).await
        }
        Some(Dialogue::Invite) => invite::on_code(handler, speaker, text).await,
        Some(Dialogue::LinkLabel { link_id }) => share::on_label(handler, speaker, *link_id, text).await,
        Some(Dialogue::Forget) => privacy::on_word(handler, speaker, text).await,
        _ => create::on_text(handler, speaker, message, text).await,
    }
}

async fn on_command(handler: &mut Handler<'_>, speaker: &Speaker, message: &Message, command: Command<'_>) -> Handled {
    match command.name.as_str() {
        "start" => start::on_start(handler, speaker, command.argument).await,
        "help" => handler.say(speaker.place, texts::help(handler.is_operator(speaker))).await,
        "create" => create::begin(handler, speaker).await,
        "list" => agents::list(handler, speaker).await,
        "manage" => agents::manage(handler, speaker, command.argument).await,
        "delete" => agents::delete(handler, speaker, command.argument).await,
        "login" => account::login(handler, speaker, command.argument).await,
        "logout" => account::logout(handler, speaker).await,
        "account" => account::account(handler, speaker).await,
        "verbose" => account::verbose(handler, speaker, command.argument).await,
        "privacy" => privacy::privacy(handler, speaker).await,
        "forgetme" => privacy::forget_me(handler, speaker).await,
        "invite" => invite::invite(handler, speaker).await,
        "dashboard" => overview::dashboard(handler, speaker).await,
        "pool" => overview::pool(handler, speaker).await,
        "share" => share::share(handler, speaker, command.argument).await,
        "stop" => chat::stop(handler, speaker).await,
        "new" => chat::new(handler, speaker).await,
        "soul" => soul::soul(handler, speaker, message, command.argument).await,
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
            let speaker = Speaker { place, user, conversation };
            if speaker.conversation.account.being_forgotten {
                Some(texts::BEING_FORGOTTEN)
            } else if blocked::shuts_out_press(&speaker, &press) {
                Some(texts::BLOCKED)
            } else if flood::is_over(handler.app, &speaker) && !matches!(press, Press::StopTurn(_)) {
                Some(flood::on_press(handler, &speaker).await?)
            } else {
                on_known_press(handler, &speaker, &pressed, press).await?
            }
        }
        Ok(_) => Some(texts::PRIVATE_ONLY),
        Err(_) => Some(texts::DEAD_BUTTON),
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
        Press::Help => handler.say(speaker.place, texts::help(handler.is_operator(speaker))).await?,
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
        Press::StopTurn(id) => return chat::stop_turn(handler, speaker, id).await,
        Press::NewChat(id) => return chat::new_confirmed(handler, speaker, pressed, id).await,
        Press::KeepChat => chat::kept(handler, speaker, pressed).await?,
        Press::Soul(press) => return soul::on_press(handler, speaker, pressed, press).await,
        Press::Share(press) => return share::on_press(handler, speaker, pressed, press).await,
        Press::Account(press) => return account::on_press(handler, speaker, pressed, press).await,
        Press::Overview(press) => return overview::on_press(handler, speaker, pressed, press).await,
        Press::Dialogue { id, step, choice } => {
            return create::on_press(handler, speaker, pressed, id, &step, &choice).await;
        }
    }
    Ok(None)
}

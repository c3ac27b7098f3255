//! `/login`, `/logout`, `/account`, `/verbose` and their buttons.

use secrecy::ExposeSecret as _;
use teloxide_core::payloads::DeleteMessage;
use teloxide_core::types::{ChatId, MessageId};

use super::{Command, Handled, Handler, Pressed, Speaker, privacy};
use crate::agents::account::Account;
use crate::agents::{keys, service};
use crate::errands::store::{self as errands, Errand};
use crate::libertai::{masked, read_key};
use crate::telegram::callback::AccountPress;
use crate::telegram::conversation::{self, Dialogue};
use crate::telegram::outbox::Call;
use crate::telegram::text::{Place, edit_message};
use crate::telegram::texts::{self, Balance};
use crate::telegram::update::Message;
use crate::wake::Queue;

/// `/login`, with or without a key.
pub(super) async fn login(handler: &mut Handler<'_>, speaker: &Speaker, key: &str) -> Handled {
    if key.is_empty() {
        return ask_for_key(handler, speaker).await;
    }
    take_key(handler, speaker, key).await
}

/// A key in words, within its dialogue.
pub(super) async fn on_key(handler: &mut Handler<'_>, speaker: &Speaker, text: &str) -> Handled {
    take_key(handler, speaker, text).await
}

/// Whether a message shows a key: `/login` with more behind it, or words while a key is waited for. A caption is words, too.
pub(in crate::telegram) fn holds_key(message: &Message, dialogue: Option<&Dialogue>) -> bool {
    match message.text.as_deref().or(message.caption.as_deref()).map(Command::parse) {
        Some(Some(command)) => is_login(&command),
        Some(None) => matches!(dialogue, Some(Dialogue::Key)),
        None => false,
    }
}

/// `/login` with a key, or what shall be one.
pub(super) fn is_login(command: &Command<'_>) -> bool {
    command.name == "login" && !command.argument.is_empty()
}

/// A key in a message that was changed: what was said before has had its effect, and this has none.
pub(super) async fn key_in_edit(handler: &mut Handler<'_>, speaker: &Speaker, message: &Message) -> Handled {
    delete(handler, speaker.place, message).await?;
    handler.say(speaker.place, texts::key_in_edit()).await
}

/// A key in a group, where everybody reads it.
pub(super) async fn key_in_group(handler: &mut Handler<'_>, place: Place, message: &Message) -> Handled {
    delete(handler, place, message).await?;
    if conversation::tell_key_in_group(handler.conn, place.bot_id, place.chat_id).await? {
        handler.say(place, texts::key_in_group()).await?;
    }
    Ok(())
}

async fn ask_for_key(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let place = speaker.place;
    let connected = keys::connected(handler.conn, speaker.user.id).await?.is_some();
    handler.begin(speaker, &Dialogue::Key).await?;
    handler.say(place, texts::ask_for_key(connected)).await
}

/// The message with it is being [deleted](delete) already, whatever it is.
async fn take_key(handler: &mut Handler<'_>, speaker: &Speaker, typed: &str) -> Handled {
    let place = speaker.place;
    let Some(key) = read_key(typed) else {
        handler.begin(speaker, &Dialogue::Key).await?;
        return handler.say(place, texts::no_key()).await;
    };
    if matches!(speaker.conversation.dialogue, Some(Dialogue::Key)) {
        conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, None).await?;
    }
    let progress = handler.post(place, texts::checking_key()).await?;
    let errand = Errand::Login { key: key.expose_secret().to_owned() };
    run(handler, speaker, &errand, progress).await
}

/// Deletes a user's message, out of the chat's order and at once.
pub(super) async fn delete(handler: &mut Handler<'_>, place: Place, message: &Message) -> Handled {
    match deletion(place.bot_id, message) {
        Some(call) => handler.call(&call).await.map(drop),
        None => Ok(()),
    }
}

/// The call that deletes a user's message; none if Telegram cannot have given it this id.
pub(in crate::telegram) fn deletion(bot_id: i64, message: &Message) -> Option<Call> {
    let id = i32::try_from(message.message_id).ok()?;
    let chat = message.chat.id;
    Some(Call::reply(bot_id, chat, &DeleteMessage::new(ChatId(chat), MessageId(id))).unordered())
}

/// Has an errand done; `progress`: the row of the message that its result replaces.
pub(super) async fn run(handler: &mut Handler<'_>, speaker: &Speaker, errand: &Errand, progress: i64) -> Handled {
    let vault = &handler.app.config.vault;
    errands::enqueue(handler.conn, vault, speaker.place, speaker.user.id, errand, Some(progress)).await?;
    handler.wake(Queue::Errands);
    Ok(())
}

/// `/logout`: asks first.
pub(super) async fn logout(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let message = question(handler, speaker).await?.unwrap_or_else(texts::not_connected);
    handler.say(speaker.place, message).await
}

/// Whether to log out; none where there is nothing to take back.
async fn question(handler: &mut Handler<'_>, speaker: &Speaker) -> sqlx::Result<Option<texts::Message>> {
    let own = keys::connected(handler.conn, speaker.user.id).await?;
    let agents = keys::agents_on_own(handler.conn, speaker.user.id).await?;
    if own.is_none() && agents == 0 {
        return Ok(None);
    }
    // One that cannot be read is taken back all the same.
    let masked = own.and_then(|own| own.open(&handler.app.config.vault).ok()).map(|key| masked(&key));
    Ok(Some(texts::ask_logout(masked.as_deref(), agents)))
}

/// Forgets the key and takes it away from the agents; the pressed message shows how that goes.
async fn log_out(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
) -> sqlx::Result<Option<&'static str>> {
    let user = speaker.user.id;
    let had_key = keys::disconnect(handler.conn, user).await?;
    if !had_key && keys::agents_on_own(handler.conn, user).await? == 0 {
        return Ok(Some(texts::NO_KEY_CONNECTED));
    }
    withdraw_logins(handler, speaker).await?;
    let behind = service::rekey(handler.conn, user).await?;
    tracing::info!(user.id = user, agents = behind, "a key was taken back");
    handler.wake(Queue::Jobs);
    let progress = handler.replace(pressed, texts::moving(true, &[])).await?;
    run(handler, speaker, &Errand::Rekey { logout: true, told: None }, progress).await?;
    Ok(None)
}

/// A key that is being checked must not be connected afterwards.
pub(super) async fn withdraw_logins(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let place = speaker.place;
    for progress in errands::withdraw(handler.conn, speaker.user.id, "login").await? {
        let edit = edit_message(place, 0, &texts::login_withdrawn(), vec![]);
        handler.call(&Call::reply(place.bot_id, place.chat_id, &edit).editing(progress)).await?;
    }
    Ok(())
}

/// Has the agents run on the key that is connected; the pressed message shows how that goes.
async fn redeploy(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
) -> sqlx::Result<Option<&'static str>> {
    let user = speaker.user.id;
    if keys::connected(handler.conn, user).await?.is_none() {
        return Ok(Some(texts::NO_KEY_CONNECTED));
    }
    let behind = service::rekey(handler.conn, user).await?;
    if behind == 0 {
        return Ok(Some(texts::ALREADY_MOVED));
    }
    tracing::info!(user.id = user, agents = behind, "agents move to their owner's key");
    handler.wake(Queue::Jobs);
    let progress = handler.replace(pressed, texts::moving(false, &[])).await?;
    run(handler, speaker, &Errand::Rekey { logout: false, told: None }, progress).await?;
    Ok(None)
}

/// `/account`: the card at once, the balance as soon as LibertAI has told it.
pub(super) async fn account(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let account = Account::load(handler.conn, handler.app, speaker.user.id).await?;
    let progress = handler.post(speaker.place, texts::account(&account, Balance::Asking)).await?;
    ask_balance(handler, speaker, &account, progress).await
}

/// The same in place of the pressed message.
async fn show_account(handler: &mut Handler<'_>, speaker: &Speaker, pressed: &Pressed) -> Handled {
    let account = Account::load(handler.conn, handler.app, speaker.user.id).await?;
    let progress = handler.replace(pressed, texts::account(&account, Balance::Asking)).await?;
    ask_balance(handler, speaker, &account, progress).await
}

async fn ask_balance(handler: &mut Handler<'_>, speaker: &Speaker, account: &Account, progress: i64) -> Handled {
    match account.key {
        Some(_) => run(handler, speaker, &Errand::Balance, progress).await,
        None => Ok(()),
    }
}

/// `/verbose`.
pub(super) async fn verbose(handler: &mut Handler<'_>, speaker: &Speaker, argument: &str) -> Handled {
    let on = match argument.to_ascii_lowercase().as_str() {
        "" => !speaker.conversation.account.verbose,
        "on" => true,
        "off" => false,
        _ => return handler.say(speaker.place, texts::verbose_usage()).await,
    };
    sqlx::query("update users set tool_lines = $2 where id = $1")
        .bind(speaker.user.id)
        .bind(on)
        .execute(&mut *handler.conn)
        .await?;
    handler.say(speaker.place, texts::verbose(on)).await
}

/// A pressed button. Returns what to show the presser for a moment.
pub(super) async fn on_press(
    handler: &mut Handler<'_>,
    speaker: &Speaker,
    pressed: &Pressed,
    press: AccountPress,
) -> sqlx::Result<Option<&'static str>> {
    let place = speaker.place;
    match press {
        AccountPress::Show => show_account(handler, speaker, pressed).await?,
        AccountPress::Login => ask_for_key(handler, speaker).await?,
        AccountPress::AskLogout => match question(handler, speaker).await? {
            Some(message) => handler.turn_into(pressed, message).await?,
            None => return Ok(Some(texts::NO_KEY_CONNECTED)),
        },
        AccountPress::Logout => return log_out(handler, speaker, pressed).await,
        AccountPress::Redeploy => return redeploy(handler, speaker, pressed).await,
        AccountPress::AskForget => privacy::ask(handler, speaker).await?,
        AccountPress::Forget => privacy::ask_for_word(handler, speaker, pressed).await?,
        AccountPress::Cancel => {
            if matches!(speaker.conversation.dialogue, Some(Dialogue::Key | Dialogue::Forget)) {
                conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, None).await?;
            }
            handler.turn_into(pressed, texts::left_as_it_was()).await?;
        }
    }
    Ok(None)
}

//! `/privacy` and `/forgetme`.

use super::{Handled, Handler, Pressed, Speaker, account};
use crate::agents::{keys, store};
use crate::errands::store::{self as errands, Errand};
use crate::telegram::conversation::{self, Dialogue};
use crate::telegram::texts;

/// `/privacy`.
pub(super) async fn privacy(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    handler.say(speaker.place, texts::privacy(&handler.app.config)).await
}

/// `/forgetme`: asks, by a button first.
pub(super) async fn forget_me(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    ask(handler, speaker).await
}

/// The first question.
pub(super) async fn ask(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    let agents = store::owned(handler.conn, speaker.user.id).await?;
    let names: Vec<String> = agents.into_iter().map(|agent| agent.name).collect();
    let connected = keys::connected(handler.conn, speaker.user.id).await?.is_some();
    handler.say(speaker.place, texts::ask_forget(&names, connected)).await
}

/// The second question: for a word, which no slip of a finger sends.
pub(super) async fn ask_for_word(handler: &mut Handler<'_>, speaker: &Speaker, pressed: &Pressed) -> Handled {
    handler.begin(speaker, &Dialogue::Forget).await?;
    handler.turn_into(pressed, texts::confirm_forget()).await
}

/// The word that confirms it.
pub(super) async fn on_word(handler: &mut Handler<'_>, speaker: &Speaker, text: &str) -> Handled {
    let (place, user) = (speaker.place, speaker.user.id);
    conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, None).await?;
    if !text.trim().eq_ignore_ascii_case(texts::FORGET_WORD) {
        return handler.say(place, texts::not_forgotten()).await;
    }
    // From here on nothing new is begun for this user.
    sqlx::query("update users set forgetting_since = now(), libertai_key = null where id = $1")
        .bind(user)
        .execute(&mut *handler.conn)
        .await?;
    account::withdraw_logins(handler, speaker).await?;
    for kind in ["balance", "rekey"] {
        errands::withdraw(handler.conn, user, kind).await?;
    }
    let progress = handler.post(place, texts::forgetting(0, 0)).await?;
    account::run(handler, speaker, &Errand::Forget, progress).await?;
    tracing::info!(user.id = user, "a user asked to be forgotten");
    Ok(())
}

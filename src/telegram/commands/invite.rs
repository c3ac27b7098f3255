//! `/invite`, and redeeming what it makes.

use super::{Handled, Handler, Speaker, create};
use crate::agents::invites::{self, Closed};
use crate::telegram::conversation::{self, Dialogue};
use crate::telegram::{setup, texts};

/// `/invite`: operators get a code for one user. To others there is no such command.
pub(super) async fn invite(handler: &mut Handler<'_>, speaker: &Speaker) -> Handled {
    if !handler.is_operator(speaker) {
        return handler.say(speaker.place, texts::unknown_command()).await;
    }
    let code = invites::create(handler.conn, speaker.user.id).await?;
    let username = setup::username(handler.conn, speaker.place.bot_id).await?;
    tracing::info!(user.id = speaker.user.id, "an operator made an invitation");
    handler.say(speaker.place, texts::invitation(&code, &username, handler.app.config.create_policy)).await
}

/// Whether the speaker may create agents; if not, they are told, and asked for a code where one would help.
pub(super) async fn admits(handler: &mut Handler<'_>, speaker: &Speaker) -> sqlx::Result<bool> {
    let place = speaker.place;
    match invites::may_create(&handler.app.config, speaker.user.id, speaker.conversation.account.invited) {
        Ok(()) => Ok(true),
        Err(Closed::InvitationNeeded) => {
            handler.begin(speaker, &Dialogue::Invite).await?;
            handler.say(place, texts::ask_for_code()).await?;
            Ok(false)
        }
        Err(closed) => {
            handler.say(place, texts::refused(&closed)).await?;
            Ok(false)
        }
    }
}

/// A code in words, within its dialogue: the wizard goes on where it is good.
pub(super) async fn on_code(handler: &mut Handler<'_>, speaker: &Speaker, text: &str) -> Handled {
    let place = speaker.place;
    // The whole link may be pasted as well.
    let text = text.trim();
    let code = text.rsplit_once("start=").map_or(text, |(_, payload)| payload);
    let code = code.strip_prefix("i_").filter(|code| code.len() >= 22).unwrap_or(code);
    if !invites::redeem(handler.conn, speaker.user.id, code).await? {
        return handler.say(place, texts::bad_code(true)).await;
    }
    tracing::info!(user.id = speaker.user.id, "an invitation was redeemed");
    conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, None).await?;
    handler.say(place, texts::invited(false)).await?;
    let mut speaker = Speaker { place, user: speaker.user.clone(), conversation: speaker.conversation.clone() };
    speaker.conversation.account.invited = true;
    create::begin(handler, &speaker).await
}

/// `/start i_CODE`.
pub(super) async fn redeem(handler: &mut Handler<'_>, speaker: &Speaker, code: &str) -> Handled {
    let place = speaker.place;
    let config = &handler.app.config;
    match invites::may_create(config, speaker.user.id, speaker.conversation.account.invited) {
        // The code stays good for somebody who needs it.
        Ok(()) => return handler.say(place, texts::no_invitation_needed()).await,
        Err(Closed::InvitationNeeded) => {}
        Err(closed) => return handler.say(place, texts::refused(&closed)).await,
    }
    if !invites::redeem(handler.conn, speaker.user.id, code).await? {
        return handler.say(place, texts::bad_code(false)).await;
    }
    tracing::info!(user.id = speaker.user.id, "an invitation was redeemed");
    if matches!(speaker.conversation.dialogue, Some(Dialogue::Invite)) {
        conversation::set_dialogue(handler.conn, place.bot_id, place.chat_id, None).await?;
    }
    handler.say(place, texts::invited(true)).await
}

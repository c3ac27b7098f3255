//! The methods of the Bot API, one file per subject.

mod media;
mod messages;
mod profile;
mod receiving;

use std::time::Instant;

use serde_json::{Value, json};

use super::Telegram;
use super::api::Answer;
use super::files::MediaKind;
use super::params::Params;
use super::refusal::Refusal;
use super::world::{Chat, Standing, World};

impl Telegram {
    /// Calls `method`; names are case-insensitive, as Telegram's are.
    pub(super) async fn perform(&self, method: &str, params: Params) -> Result<Answer, Refusal> {
        match method.to_ascii_lowercase().as_str() {
            "getme" => Ok(self.get_me().into()),
            "setwebhook" => self.set_webhook(&params),
            "deletewebhook" => self.delete_webhook(&params),
            "getwebhookinfo" => Ok(self.world().updates.info().into()),
            "getupdates" => self.get_updates(&params).await.map(Answer::from),
            "sendmessage" => self.send_message(&params).map(Answer::from),
            "sendmessagedraft" => self.send_message_draft(&params).map(Answer::from),
            "editmessagetext" => self.edit_message_text(&params).map(Answer::from),
            "editmessagecaption" => self.edit_message_caption(&params).map(Answer::from),
            "editmessagereplymarkup" => self.edit_message_reply_markup(&params).map(Answer::from),
            "deletemessage" => self.delete_message(&params).map(Answer::from),
            "deletemessages" => self.delete_messages(&params).map(Answer::from),
            "sendchataction" => self.send_chat_action(&params).map(Answer::from),
            "answercallbackquery" => self.answer_callback_query(&params).map(Answer::from),
            "sendphoto" => self.send_file(MediaKind::Photo, params).map(Answer::from),
            "senddocument" => self.send_file(MediaKind::Document, params).map(Answer::from),
            "sendvoice" => self.send_file(MediaKind::Voice, params).map(Answer::from),
            "sendaudio" => self.send_file(MediaKind::Audio, params).map(Answer::from),
            "sendvideo" => self.send_file(MediaKind::Video, params).map(Answer::from),
            "sendmediagroup" => self.send_media_group(params).map(Answer::from),
            "getfile" => self.get_file(&params).map(Answer::from),
            "setmycommands" => self.set_my_commands(&params).map(Answer::from),
            "getmycommands" => self.get_my_commands(&params).map(Answer::from),
            "deletemycommands" => self.delete_my_commands(&params).map(Answer::from),
            "setmydescription" => self.set_my_text("description", 512, &params).map(Answer::from),
            "setmyshortdescription" => self.set_my_text("short_description", 120, &params).map(Answer::from),
            "setmyname" => self.set_my_text("name", 64, &params).map(Answer::from),
            "getmydescription" => Ok(json!({ "description": self.world().bot.description }).into()),
            "getmyshortdescription" => Ok(json!({ "short_description": self.world().bot.short_description }).into()),
            "getmyname" => Ok(json!({ "name": self.world().bot.name }).into()),
            "getchat" => self.get_chat(&params).map(Answer::from),
            "leavechat" => self.leave_chat(&params).map(Answer::from),
            _ => Err(Refusal::unknown_method()),
        }
    }
}

/// The chat that the call names, if the bot may write there.
fn writable<'a>(world: &'a mut World, params: &Params) -> Result<&'a mut Chat, Refusal> {
    let id = chat_id(params)?;
    let chat = world.chats.get_mut(&id).ok_or_else(Refusal::chat_not_found)?;
    match chat.standing {
        Standing::Member => Ok(chat),
        Standing::Unknown => Err(Refusal::chat_not_found()),
        Standing::Banned if id > 0 => Err(Refusal::forbidden("bot was blocked by the user")),
        Standing::Banned => Err(Refusal::forbidden("bot was kicked from the group chat")),
        Standing::Left => Err(Refusal::forbidden("bot is not a member of the group chat")),
        Standing::Migrated(to) => Err(Refusal {
            parameters: Some(json!({ "migrate_to_chat_id": to })),
            ..Refusal::unlucky("group chat was upgraded to a supergroup chat")
        }),
    }
}

/// The `chat_id` parameter. Public names (`@name`) belong to channels and supergroups, of which there are none.
fn chat_id(params: &Params) -> Result<i64, Refusal> {
    if let Ok(Some(text)) = params.text("chat_id") {
        return text
            .parse()
            .map_err(|_| if text.is_empty() { Refusal::wrong("chat_id is empty") } else { Refusal::chat_not_found() });
    }
    params.integer("chat_id")?.ok_or_else(|| Refusal::wrong("chat_id is empty"))
}

fn message_id(params: &Params) -> Result<i64, Refusal> {
    params
        .integer("message_id")?
        .filter(|id| *id > 0)
        .ok_or_else(|| Refusal::wrong("message identifier is not specified"))
}

/// Takes one message from the chat's budget, if there is a limit.
fn spend(per_second: Option<f64>, chat: &mut Chat) -> Result<(), Refusal> {
    let Some(rate) = per_second else { return Ok(()) };
    let now = Instant::now();
    let burst = rate.max(1.0);
    let (at, left) = chat.budget.unwrap_or((now, burst));
    let left = (left + now.duration_since(at).as_secs_f64() * rate).min(burst);
    if left < 1.0 {
        chat.budget = Some((now, left));
        let seconds = ((1.0 - left) / rate).ceil().max(1.0);
        return Err(Refusal::too_many_requests(seconds as u64));
    }
    chat.budget = Some((now, left - 1.0));
    Ok(())
}

const TRUE: Value = Value::Bool(true);

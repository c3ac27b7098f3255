//! What Telegram is told at start: the command menu, and how updates are to come.

use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::PgConnection;
use teloxide_core::payloads::{
    DeleteMyCommands, GetMe, SetMyCommands, SetMyCommandsSetters, SetMyDescription, SetMyDescriptionSetters,
    SetMyShortDescription, SetMyShortDescriptionSetters,
};
use teloxide_core::types::{BotCommandScope, ChatId, Recipient};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::api::{ApiError, TIMEOUT};
use super::texts;
use super::update::ALLOWED_UPDATES;
use crate::app::App;
use crate::config::TelegramMode;

/// Tells Telegram, until it has listened. All of it can be repeated, so every replica does it.
pub async fn run(app: &App, stop: &CancellationToken) {
    let mut wait = Duration::from_secs(1);
    loop {
        match tell(app).await {
            Ok(()) => return,
            Err(error) => warn!(%error, ?wait, "Telegram could not be told of this bot; trying again"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_secs(60)),
        }
    }
}

async fn tell(app: &App) -> anyhow::Result<()> {
    let me = app.telegram.call(&GetMe::new()).await?;
    let username = me.username();
    sqlx::query(
        "insert into bots (bot_id, username) values ($1, $2)
         on conflict (bot_id) do update set username = excluded.username where bots.username <> excluded.username",
    )
    .bind(app.bot_id)
    .bind(username)
    .execute(&app.db)
    .await?;
    set_menus(app).await?;
    app.telegram.call(&SetMyDescription::new().description(texts::DESCRIPTION)).await?;
    app.telegram.call(&SetMyShortDescription::new().short_description(texts::SHORT_DESCRIPTION)).await?;
    match (app.config.telegram_mode, &app.config.public_url) {
        (TelegramMode::Webhook, Some(url)) => set_webhook(app, url).await?,
        (TelegramMode::Webhook, None) => warn!("PUBLIC_URL is not set; the webhook is left as it is"),
        // The poller deletes the webhook itself, under its lease.
        (TelegramMode::Polling, _) => {}
    }
    info!(bot.username = username, bot.id = app.bot_id, "Telegram knows this bot");
    Ok(())
}

/// The command menus: of private chats, longer ones of operators' chats, and none in groups, where Baal only says that it
/// works in private. One set for all languages: Telegram falls back to the one that names none.
async fn set_menus(app: &App) -> Result<(), ApiError> {
    // Older versions set this one, which would show in groups.
    app.telegram.call(&DeleteMyCommands::new()).await?;
    let private = SetMyCommands::new(texts::command_menu()).scope(BotCommandScope::AllPrivateChats);
    app.telegram.call(&private).await?;
    for operator in &app.config.operator_ids {
        let chat_id = Recipient::Id(ChatId(*operator));
        let menu = SetMyCommands::new(texts::operator_menu()).scope(BotCommandScope::Chat { chat_id });
        match app.telegram.call(&menu).await {
            Ok(_) => {}
            // silent-ok: it is told below, and is no reason to try everything again
            Err(ApiError::Refused { code: 400 | 403, description, .. }) => {
                info!(
                    user.id = operator,
                    description, "an operator has no chat with this bot yet, and so the ordinary menu"
                );
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Points the webhook at this server, with the secret and the kinds of update that Baal handles.
pub async fn set_webhook(app: &App, public_url: &str) -> Result<(), ApiError> {
    let secret = app.config.telegram_webhook_secret.as_ref().map(|secret| secret.expose_secret());
    let url = format!("{}/telegram/webhook", public_url.trim_end_matches('/'));
    let parameters =
        json!({"url": url, "secret_token": secret, "allowed_updates": ALLOWED_UPDATES, "max_connections": 100});
    app.telegram.call_raw("setWebhook", parameters.to_string(), TIMEOUT).await?;
    info!(url, "webhook set");
    Ok(())
}

/// The bot's user name without `@`; empty until Telegram has told it.
pub async fn username(conn: &mut PgConnection, bot_id: i64) -> sqlx::Result<String> {
    let name =
        sqlx::query_scalar("select username from bots where bot_id = $1").bind(bot_id).fetch_optional(conn).await?;
    Ok(name.unwrap_or_default())
}

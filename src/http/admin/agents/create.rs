//! Creating agents, and taking in those that run already.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tracing::info;
use utoipa::ToSchema;

use super::super::super::Server;
use super::super::extract::Json;
use super::super::once::{Key, Once};
use super::super::problem::ApiError;
use super::endpoint::Endpoint;
use super::show::Detail;
use super::words::{ModelId, Name, Prompt, Wrong};
use super::{record, show};
use crate::admin::{Caller, Scope};
use crate::agents::{external, service};
use crate::app::App;
use crate::config::Visibility;
use crate::database;
use crate::wake::Queue;

/// Telegram's ids of users have at most 52 significant bits: <https://core.telegram.org/bots/api#user>.
const LARGEST_USER_ID: i64 = (1 << 52) - 1;

/// An agent to create.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAgent {
    /// Telegram's id of the user whose it will be. They have talked to the bot: there they see how it is set up.
    #[schema(example = 123_456_789, minimum = 1, maximum = 4_503_599_627_370_495_i64)]
    owner_id: i64,
    name: Name,
    system_prompt: Prompt,
    /// Without it, DEFAULT_MODEL.
    model: Option<ModelId>,
    /// Without it, DEFAULT_VISIBILITY.
    visibility: Option<Visibility>,
    /// Where it is, if it runs already: nothing is set up then. Takes a token of scope `admin`.
    endpoint: Option<Endpoint>,
}

/// Create an agent
///
/// For a user who has talked to the bot, by the same rules as the bot's `/create`. A job sets it up, and shows its progress
/// in the user's chat.
///
/// One that runs elsewhere already (`endpoint`) is asked how it is, and taken in as it is: without a job. Its owner and its
/// visitors then talk to whoever runs it, so naming one takes a token of scope `admin`; others get a 403.
#[utoipa::path(post, path = "/agents", tag = "agents", operation_id = "create_agent", request_body = NewAgent,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions harmless", min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    security(("bearer" = ["write"])),
    responses((status = 201, description = "It is being set up", body = Detail,
        headers(("Location" = String, description = "Where it is read")),
        links(("read" = (operation_id = "read_agent", parameters(("id" = "$response.body#/id")))),
              ("change" = (operation_id = "change_agent", parameters(("id" = "$response.body#/id")))),
              ("delete" = (operation_id = "delete_agent", parameters(("id" = "$response.body#/id")))),
              ("deployments" = (operation_id = "list_deployments", parameters(("id" = "$response.body#/id")))),
              ("redeploy" = (operation_id = "redeploy_agent", parameters(("id" = "$response.body#/id")))),
              ("share" = (operation_id = "create_link", parameters(("id" = "$response.body#/id"))))))))]
pub(super) async fn create(
    State(server): State<Server>,
    caller: Caller,
    key: Key,
    Json(new): Json<NewAgent>,
) -> Result<Response, ApiError> {
    let app = &server.app;
    if new.endpoint.is_some() && caller.scope < Scope::Admin {
        return Err(ApiError::Forbidden(Scope::Admin.as_str(), caller.scope.as_str()));
    }
    let checked = new.check(app)?;
    let found = match &new.endpoint {
        Some(endpoint) => {
            let mut tx = database::begin(&app.db).await?;
            if let Once::Before(answer) =
                key.clone().claim(&mut tx, &app.config.vault, &caller, "create_agent", &new).await?
            {
                return Ok(answer);
            }
            known(&mut tx, new.owner_id).await?;
            // The agent is asked without a transaction.
            tx.rollback().await?;
            Some(endpoint.look(app, &checked).await?)
        }
        None => None,
    };
    let mut tx = database::begin(&app.db).await?;
    let creation = match key.claim(&mut tx, &app.config.vault, &caller, "create_agent", &new).await? {
        Once::Now(creation) => creation,
        Once::Before(answer) => return Ok(answer),
    };
    known(&mut tx, new.owner_id).await?;
    let agent = match found {
        Some(found) => external::take_in(&mut tx, app, checked, found).await?,
        None => service::create(&mut tx, app, checked).await?,
    };
    let mut after = show::recorded(&agent);
    (after["owner_id"], after["url"]) = (json!(agent.owner_id), json!(agent.url));
    record(&mut tx, &caller, "agent.create", &agent, Value::Null, after).await?;
    let (id, owner_id, location) = (agent.id, agent.owner_id, format!("/api/v1/agents/{}", agent.id));
    let detail = show::detail(&mut tx, agent).await?;
    let answer = creation.answer(&mut tx, &app.config.vault, StatusCode::CREATED, Some(&location), &detail).await?;
    tx.commit().await?;
    info!(agent.id = id, user.id = owner_id, "an administrator created an agent");
    app.wake.wake(Queue::Jobs);
    app.wake.wake(Queue::Outbox);
    Ok(answer)
}

impl NewAgent {
    /// What the service creates from it, or all that is wrong with it.
    fn check(&self, app: &App) -> Result<service::NewAgent, ApiError> {
        if !(1..=LARGEST_USER_ID).contains(&self.owner_id) {
            return Err(ApiError::invalid("owner_id", "Telegram has no users of such ids."));
        }
        let config = &app.config;
        let model = self.model.as_ref().map_or(Ok(config.default_model.clone()), |model| model.check(&config.models));
        let mut wrong = Wrong::default();
        let name = wrong.take(self.name.check());
        let prompt = wrong.take(self.system_prompt.check());
        let model = wrong.take(model);
        if let Some(endpoint) = &self.endpoint {
            for checked in endpoint.check() {
                wrong.take(checked);
            }
        }
        wrong.none()?;
        Ok(service::NewAgent {
            owner_id: self.owner_id,
            bot_id: app.bot_id,
            // Of private chats the id is the user's.
            chat_id: self.owner_id,
            name: name.unwrap_or_default(),
            system_prompt: prompt.unwrap_or_default(),
            model: model.unwrap_or_default(),
            visibility: self.visibility.unwrap_or(config.default_visibility),
        })
    }
}

/// Whether somebody is known who could have an agent. Not a field's fault: who writes to the bot may have one.
async fn known(conn: &mut PgConnection, user_id: i64) -> Result<(), ApiError> {
    let forgotten: Option<bool> = sqlx::query_scalar("select forgetting_since is not null from users where id = $1")
        .bind(user_id)
        .fetch_optional(conn)
        .await?;
    match forgotten {
        Some(false) => Ok(()),
        Some(true) => Err(ApiError::Conflict(format!("User {user_id} is being forgotten, as they asked for."))),
        None => Err(ApiError::Conflict(format!(
            "User {user_id} has never talked to the bot. Ask them to open it and to press Start."
        ))),
    }
}

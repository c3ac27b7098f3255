//! Agents that run elsewhere: somebody else set them up, and this program only talks to them. Part of
//! [`service`](super::service), by whose rules these go.
//!
//! Where such an agent is, is said by whoever has it taken in: see [`http`](super::http) for what keeps it from being an
//! address of our own network.

use std::fmt;
use std::time::Duration;

use baal_protocol::{Health, Version};
use reqwest::{StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgConnection;
use tokio::time::timeout;

use super::http::{AgentHttp, Barred, read_json};
use super::model::Agent;
use super::service::{self, Changed, NewAgent, ServiceError, TakenUp};
use super::{links, store};
use crate::addresses::NotOnInternet;
use crate::app::App;
use crate::telegram::outbox::{self, Call};
use crate::telegram::text::{Place, send_message};
use crate::telegram::texts;

/// The longest address, in bytes.
pub const URL_BYTES: usize = 512;
/// The longest secret, in bytes.
pub const SECRET_BYTES: usize = 512;

/// How long an agent may take to answer what it is asked before it is taken in: less than a request of the API may.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

/// Where an agent is that runs already. `Debug` leaves out the secret.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its base URL: below it are `/health` and `/chat`.
    pub url: String,
    /// The bearer secret that it asks of its callers.
    pub secret: SecretString,
}

/// An agent that was looked at and can be taken in. `Debug` leaves out the secret.
#[derive(Clone)]
pub struct Found {
    url: String,
    sealed_secret: Vec<u8>,
    protocol: i32,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found").field("url", &self.url).field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

/// Looks whether an agent answers there that can be taken in as `new`: for up to 15 s, so outside of transactions. What
/// is refused without asking anybody is refused first.
pub async fn look(app: &App, new: &NewAgent, endpoint: &Endpoint) -> Result<Found, ServiceError> {
    service::checked(app, new.clone())?;
    let http = app.agents_http.of(true);
    let url = checked_url(http, &endpoint.url)?;
    let secret = checked_secret(&endpoint.secret)?;
    // Who may have no other agent does not get to have anybody asked either.
    service::may_have_another(&mut *app.db.acquire().await?, app, new.owner_id).await?;
    let protocol = timeout(ANSWERS_WITHIN, ask(http, &url, secret)).await.unwrap_or_else(|_| Err(nobody()))?;
    Ok(Found { url, sealed_secret: app.config.vault.encrypt(secret.as_bytes()), protocol })
}

/// Takes in an agent that was [found](look): it runs at once, and its owner is told. After the commit wake
/// [`Queue::Outbox`](crate::wake::Queue).
pub async fn take_in(conn: &mut PgConnection, app: &App, new: NewAgent, found: Found) -> Result<Agent, ServiceError> {
    let new = service::checked(app, new)?;
    // Conversations are locked before users and agents everywhere.
    store::lock_conversation(conn, new.bot_id, new.chat_id).await?;
    store::lock_owner(conn, new.owner_id).await?;
    service::may_have_another(conn, app, new.owner_id).await?;
    // Two at once of different owners: the second waits, and then sees the first.
    store::lock_url(conn, &found.url).await?;
    if let Some(other) = store::at(conn, &found.url).await? {
        return Err(known_already(other));
    }
    let agent = store::insert(conn, &new, &found.sealed_secret).await?;
    let agent = store::set_external(conn, agent.id, &found.url, found.protocol).await?;
    store::introduce(conn, &agent).await?;
    tell_owner(conn, app, &agent).await?;
    Ok(agent)
}

/// Tells an owner that somebody else deleted such an agent; that others are deleted is told by their jobs.
pub async fn tell_deleted(conn: &mut PgConnection, agent: &Agent) -> sqlx::Result<()> {
    if agent.external { tell(conn, agent, texts::deleting(agent)).await } else { Ok(()) }
}

async fn tell_owner(conn: &mut PgConnection, app: &App, agent: &Agent) -> sqlx::Result<()> {
    let instead = store::talked_to_instead(conn, agent).await?;
    let username = store::bot_username(conn, agent.bot_id).await?.unwrap_or_default();
    let link = links::ready_link(conn, &app.config.vault, &username, agent).await?;
    tell(conn, agent, texts::taken_in(agent, link.as_deref(), instead.as_deref())).await
}

async fn tell(conn: &mut PgConnection, agent: &Agent, (text, buttons): texts::Message) -> sqlx::Result<()> {
    let place = Place { bot_id: agent.bot_id, chat_id: agent.chat_id, thread_id: None };
    let call = Call::reply(agent.bot_id, agent.chat_id, &send_message(place, &text, buttons)).notice();
    outbox::enqueue(conn, &call).await?;
    Ok(())
}

/// Changes what can be changed of such an agent without its machine, which is its name here.
pub(super) async fn change(
    conn: &mut PgConnection,
    agent: Agent,
    (name, prompt, model): (Option<String>, Option<String>, Option<String>),
) -> Result<Changed, ServiceError> {
    if prompt.is_some_and(|prompt| prompt != agent.system_prompt) || model.is_some_and(|model| model != agent.model) {
        refuse_machine_work(&agent, "given another personality or model")?;
    }
    let name = name.as_ref().unwrap_or(&agent.name);
    let mut agent = store::want(conn, agent.id, name, &agent.system_prompt, &agent.model).await?;
    store::set_deployed(conn, agent.id, agent.wanted_version).await?;
    agent.deployed_version = agent.wanted_version;
    Ok(Changed { agent, taken_up: TakenUp::AtOnce })
}

/// Refuses what needs an agent's machine where that is none of ours; `what` goes on behind "can't be": "stopped".
pub fn refuse_machine_work(agent: &Agent, what: &str) -> Result<(), ServiceError> {
    if !agent.external {
        return Ok(());
    }
    let message = format!(
        "{} runs elsewhere, on a machine that this bot has no access to, so it can't be {what} from here. Whoever runs it \
         there can do that.",
        agent.name
    );
    Err(ServiceError::Conflict { message })
}

fn nobody() -> ServiceError {
    let message = "Nobody answers at that address. Is the agent running, and is its certificate good?".into();
    ServiceError::Conflict { message }
}

fn known_already(other: i64) -> ServiceError {
    let message = format!("The agent at that address is here already, with number {other}. Delete that one first.");
    ServiceError::Conflict { message }
}

/// The base URL as it is kept: without a slash at the end, and a name without a dot at its end.
fn checked_url(http: &AgentHttp, url: &str) -> Result<String, ServiceError> {
    let invalid = |message: &str| ServiceError::Invalid { field: "endpoint.url", message: message.into() };
    if url.len() > URL_BYTES {
        return Err(invalid(&format!("An address has at most {URL_BYTES} characters.")));
    }
    let no_url = || invalid("That is no address. Give one like https://agent.example.org.");
    let mut url = Url::parse(url.trim()).map_err(|_| no_url())?;
    // A dot at the end means the same name, and would hide `localhost`.
    if let Some(name) = url.host_str().and_then(|name| name.strip_suffix('.')).map(str::to_owned) {
        url.set_host(Some(&name)).map_err(|_| no_url())?;
    }
    http.check(&url).map_err(|barred| match barred {
        Barred::NotAnAddress => no_url(),
        Barred::NotHttps => {
            invalid("The address must begin with https://, or its secret would be for anybody to read.")
        }
        Barred::NotPublic => invalid(NOT_PUBLIC),
    })?;
    let bare =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if !bare {
        return Err(invalid("The address must be bare: without a user's name, a password, ? and #."));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// What is refused unless AGENT_ALLOW_PRIVATE is set.
const NOT_PUBLIC: &str = "The address must be on the internet, not one of this server or its network.";

/// The secret, if a header can carry it.
fn checked_secret(secret: &SecretString) -> Result<&str, ServiceError> {
    let secret = secret.expose_secret();
    if secret.is_empty() || secret.len() > SECRET_BYTES || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("A secret has 1 to {SECRET_BYTES} visible ASCII characters, without spaces.");
        return Err(ServiceError::Invalid { field: "endpoint.secret", message });
    }
    Ok(secret)
}

/// Which protocol the agent speaks that answers there, and takes this secret.
async fn ask(http: &AgentHttp, url: &str, secret: &str) -> Result<i32, ServiceError> {
    let conflict = |message: &str| ServiceError::Conflict { message: message.into() };
    let get = async |path: &str, secret: Option<&str>| {
        let mut request = http.get(&format!("{url}{path}")).map_err(|barred| conflict(&barred.to_string()))?;
        if let Some(secret) = secret {
            request = request.bearer_auth(secret);
        }
        match request.send().await {
            Ok(answer) if answer.status().is_redirection() => {
                Err(conflict("The address only leads on to another one, which is not followed. Name that one."))
            }
            Ok(answer) => Ok(answer),
            Err(error) if NotOnInternet::is_behind(&error) => {
                Err(ServiceError::Invalid { field: "endpoint.url", message: NOT_PUBLIC.into() })
            }
            Err(_) => Err(nobody()),
        }
    };
    let no_agent =
        || conflict("What answers at that address is no agent, or it is not well: it must say so at /health.");
    let health = get("/health", None).await?;
    let healthy = health.status() == StatusCode::OK;
    let health: Option<Health> = read_json(health).await.ok(); // silent-ok: so it is no agent
    if !healthy || health.is_none_or(|health| health.status != "ok") {
        return Err(no_agent());
    }
    let refused = || ServiceError::Invalid {
        field: "endpoint.secret",
        message: "The agent takes another secret than this.".into(),
    };
    let version = get("/version", Some(secret)).await?;
    match version.status() {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(refused()),
        StatusCode::OK => {
            let version: Version = read_json(version).await.map_err(|_| no_agent())?;
            i32::try_from(version.protocol).map_err(|_| no_agent())
        }
        // The base protocol knows no such path. A file that is not there is asked for to have the secret looked at, for asking for
        // anything else would change something.
        StatusCode::NOT_FOUND => match get("/files/no-such-file", Some(secret)).await?.status() {
            StatusCode::UNAUTHORIZED => Err(refused()),
            status if status.is_server_error() => Err(no_agent()),
            _ => Ok(1),
        },
        _ => Err(no_agent()),
    }
}

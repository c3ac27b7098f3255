//! `/hosts`: machines that an operator brings.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa::openapi::schema::{AnyOf, KnownFormat, Object, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::Server;
use super::extract::{Json, List, Page, Path, Query};
use super::once::{Key, Once};
use super::problem::ApiError;
use crate::admin::Caller;
use crate::admin::audit::{self, Change};
use crate::cloud::hosts::{self, AddError, Host, LookError, RemoveError, Use};
use crate::database;
use crate::ssh::Address;
use crate::wake::Queue;

/// How long an answer may wait for a machine.
const PATIENCE: Duration = Duration::from_secs(25);
/// The longest host name.
const LONGEST: usize = 253;

pub(super) fn routes() -> OpenApiRouter<Server> {
    OpenApiRouter::new().routes(routes!(list, add)).routes(routes!(read, remove))
}

/// A machine that an operator brought: it holds one agent at a time.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HostEntry {
    #[schema(example = 3)]
    id: i64,
    /// Where its SSH server listens.
    #[schema(example = "192.0.2.7")]
    address: String,
    /// At this port.
    #[schema(example = 22)]
    port: u16,
    /// The name under which its agent is reached.
    #[schema(example = "a1.example.org")]
    name: String,
    /// Of the host key that it must show, as `ssh-keygen -l` prints it.
    #[schema(example = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU")]
    host_key_fingerprint: Option<String>,
    /// `free`, or what the machine on it is for: see `/vms`.
    #[schema(example = "free")]
    state: String,
    /// The agent that is there.
    agent_id: Option<i64>,
}

impl HostEntry {
    fn of((host, there): (Host, Option<Use>)) -> Self {
        let (name, there) = (host.name(), there.map(|there| (there.state, there.agent_id)));
        let (state, agent_id) = there.unwrap_or_else(|| ("free".into(), None));
        let host_key_fingerprint = host.host_key.as_deref().and_then(hosts::fingerprint);
        Self { id: host.id, address: host.ssh.host, port: host.ssh.port, name, host_key_fingerprint, state, agent_id }
    }
}

/// A machine to add.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewHost {
    /// IP address or host name.
    #[schema(schema_with = address_schema)]
    address: String,
    /// Of its SSH server.
    #[serde(default = "ssh_port")]
    #[schema(default = 22, minimum = 1, maximum = 65535)]
    port: u16,
    /// The name under which its agent will be reached over HTTPS, perhaps with a port; without it, the address.
    #[schema(
        example = "a1.example.org",
        max_length = 253,
        pattern = r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(:([1-9][0-9]{0,3}|[1-5][0-9]{4}))?$"
    )]
    public_name: Option<String>,
    /// The host key that it must show, in OpenSSH's form without a comment, or its fingerprint. Without it, the key that it
    /// shows now is believed.
    #[schema(
        example = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
        max_length = 2000,
        pattern = "^(SHA256:[A-Za-z0-9+/]{43}|[a-z][a-z0-9@.-]{0,63} [A-Za-z0-9+/]{16,1900}={0,2})$"
    )]
    host_key: Option<String>,
}

fn ssh_port() -> u16 {
    22
}

fn address_schema() -> Schema {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let name = text()
        .max_length(Some(LONGEST))
        .pattern(Some(r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"))
        .build();
    let ip = |format| -> Object { text().format(Some(SchemaFormat::KnownFormat(format))).build() };
    let any = AnyOf::builder()
        .item(name)
        .item(ip(KnownFormat::Ipv4))
        .item(ip(KnownFormat::Ipv6))
        .description(Some("IP address or host name."))
        .examples([json!("192.0.2.7")])
        .build();
    Schema::AnyOf(any)
}

impl NewHost {
    /// What the fields say.
    fn read(&self) -> Result<(Address, Option<String>), ApiError> {
        let invalid = |field: &str, message: &str| ApiError::invalid(field, message);
        // The command line takes both in one; here the port has a field.
        let bare = if self.address.contains(':') { format!("[{}]", self.address) } else { self.address.clone() };
        let parsed = hosts::parse_address(&bare).ok();
        let parsed = parsed.ok_or_else(|| invalid("address", "An IP address or a host name, such as 192.0.2.7."))?;
        if self.port == 0 {
            return Err(invalid("port", "A port is a number from 1 to 65535."));
        }
        let name = self.public_name.as_deref();
        if name.is_some_and(|name| name.len() > LONGEST) {
            return Err(invalid("public_name", "A host name has at most 253 characters."));
        }
        let name = name.map(hosts::parse_public_name).transpose();
        let name =
            name.map_err(|_| invalid("public_name", "A host name, perhaps with a port, such as a1.example.org."))?;
        if !self.host_key.as_deref().is_none_or(is_host_key) {
            let message = "A host key as `ssh-ed25519 AAAA…` without a comment, or its fingerprint `SHA256:…`.";
            return Err(invalid("host_key", message));
        }
        Ok((Address { host: parsed.host, port: self.port }, name))
    }
}

/// As the document's pattern has it.
fn is_host_key(text: &str) -> bool {
    let base64 = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'));
    if let Some(fingerprint) = text.strip_prefix("SHA256:") {
        return fingerprint.len() == 43 && base64(fingerprint);
    }
    let Some((kind, body)) = text.split_once(' ') else { return false };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'@' | b'.' | b'-');
    let body = body.strip_suffix("==").or_else(|| body.strip_suffix('=')).unwrap_or(body);
    let kind_is_one = kind.starts_with(|c: char| c.is_ascii_lowercase()) && kind.len() <= 64 && kind.bytes().all(plain);
    kind_is_one && (16..=1_900).contains(&body.len()) && base64(body)
}

impl From<LookError> for ApiError {
    fn from(error: LookError) -> Self {
        match error {
            LookError::Ssh(error) => Self::FarSide(format!("The host was not added: {error}.")),
            other => Self::Conflict(format!("The host was not added: {other}.")),
        }
    }
}

impl From<AddError> for ApiError {
    fn from(error: AddError) -> Self {
        match error {
            AddError::Database(error) => error.into(),
            other => Self::Conflict(format!("The host was not added: {other}.")),
        }
    }
}

impl From<RemoveError> for ApiError {
    fn from(error: RemoveError) -> Self {
        match error {
            RemoveError::Unknown(id) => missing(id),
            RemoveError::InUse(why) => Self::Conflict(format!("The host was not removed: {why}.")),
            RemoveError::Database(error) => error.into(),
        }
    }
}

fn missing(id: i64) -> ApiError {
    ApiError::NotFound(format!("There is no host {id}."))
}

async fn one(conn: &mut PgConnection, id: i64) -> Result<HostEntry, ApiError> {
    let host = hosts::get(&mut *conn, id).await?.ok_or_else(|| missing(id))?;
    let there = hosts::machine_on(conn, id).await?;
    Ok(HostEntry::of((host, there)))
}

/// List hosts
///
/// Machines that operators brought, newest first.
#[utoipa::path(get, path = "/hosts", tag = "machines", operation_id = "list_hosts", params(Page),
    security(("bearer" = ["read"])), responses((status = 200, body = List<HostEntry>)))]
async fn list(State(server): State<Server>, Query(page): Query<Page>) -> Result<axum::Json<List<HostEntry>>, ApiError> {
    let fetch = Page::fetch(page.limit)?;
    let rows = hosts::page(&mut *server.app.db.acquire().await?, page.before, fetch).await?;
    Ok(axum::Json(List::new(rows, fetch, |(host, _)| host.id.to_string(), HostEntry::of)))
}

/// Read a host
///
/// And what is on it.
#[utoipa::path(get, path = "/hosts/{id}", tag = "machines", operation_id = "read_host",
    params(("id" = i64, Path, example = 3)), security(("bearer" = ["read"])),
    responses((status = 200, body = HostEntry)))]
async fn read(State(server): State<Server>, Path(id): Path<i64>) -> Result<axum::Json<HostEntry>, ApiError> {
    Ok(axum::Json(one(&mut *server.app.db.acquire().await?, id).await?))
}

/// Add a host
///
/// The machine is reached over SSH as root and looked at; nothing is changed there. Its host key is remembered, and it must
/// show that from now on: give `host_key`, or compare the fingerprint in the answer. It needs Debian 12 or newer or Ubuntu
/// 22.04 or newer, x86_64, systemd, and our public key in root's `authorized_keys`.
#[utoipa::path(post, path = "/hosts", tag = "machines", operation_id = "add_host", request_body = NewHost,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repetitions harmless", min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    security(("bearer" = ["admin"])),
    responses((status = 201, body = HostEntry, headers(("Location" = String, description = "Where it is read")),
        links(("read" = (operation_id = "read_host", parameters(("id" = "$response.body#/id")))),
               ("remove" = (operation_id = "remove_host", parameters(("id" = "$response.body#/id")))))),
        (status = 502, body = super::problem::Problem, content_type = "application/problem+json",
         description = "The machine does not answer")))]
async fn add(
    State(server): State<Server>,
    caller: Caller,
    key: Key,
    Json(new): Json<NewHost>,
) -> Result<Response, ApiError> {
    let app = &server.app;
    let (ssh, name) = new.read()?;
    // A repetition is answered though the machine may be away by now; nothing is held while a new one is looked at.
    let mut asking = database::begin(&app.db).await?;
    if let Once::Before(answer) = key.clone().claim(&mut asking, &app.config.vault, &caller, "add_host", &new).await? {
        return Ok(answer);
    }
    asking.rollback().await?;
    let look = timeout(PATIENCE, hosts::look(&app.config, &ssh, new.host_key.as_deref())).await;
    let found =
        look.map_err(|_| ApiError::FarSide(format!("The host was not added: {ssh} did not answer in time.")))??;
    let mut tx = database::begin(&app.db).await?;
    let creation = match key.claim(&mut tx, &app.config.vault, &caller, "add_host", &new).await? {
        Once::Before(answer) => return Ok(answer),
        Once::Now(creation) => creation,
    };
    let id = hosts::insert(&mut tx, &ssh, name.as_deref(), &found.host_key).await?;
    let after = json!({"address": ssh.to_string(), "public_name": name, "host_key": found.fingerprint});
    record(&mut tx, &caller, "host.add", id, Value::Null, after).await?;
    let host = one(&mut tx, id).await?;
    let location = format!("/api/v1/hosts/{id}");
    let answer = creation.answer(&mut tx, &app.config.vault, StatusCode::CREATED, Some(&location), &host).await?;
    tx.commit().await?;
    // Somebody may wait in line for a machine.
    app.wake.wake(Queue::Jobs);
    Ok(answer)
}

/// Remove a host
///
/// It is not used any more; the machine itself is not touched. Refused while an agent or the pool has it. One whose agent is
/// being deleted may be dead: wiping it is tried once more, and then it is left as it is. The answer is the host as it was.
#[utoipa::path(delete, path = "/hosts/{id}", tag = "machines", operation_id = "remove_host",
    params(("id" = i64, Path, example = 3)), security(("bearer" = ["admin"])),
    responses((status = 200, body = HostEntry)))]
async fn remove(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<i64>,
) -> Result<axum::Json<HostEntry>, ApiError> {
    let mut tx = database::begin(&server.app.db).await?;
    let host = one(&mut tx, id).await?;
    let clearing = hosts::remove(&mut tx, id).await?;
    let before = json!({"address": host.address, "port": host.port});
    record(&mut tx, &caller, "host.remove", id, before, json!({"clearing": clearing})).await?;
    tx.commit().await?;
    server.app.wake.wake(Queue::Jobs);
    Ok(axum::Json(host))
}

async fn record(
    conn: &mut PgConnection,
    caller: &Caller,
    action: &str,
    id: i64,
    before: Value,
    after: Value,
) -> sqlx::Result<()> {
    audit::record(conn, caller, Change { action, kind: "host", id: id.to_string(), user_id: None, before, after }).await
}

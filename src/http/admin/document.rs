//! The OpenAPI document: what the handlers say of themselves, and what holds for all of them.

use std::collections::HashMap;

use axum::http::Method;
use serde_json::Value;
use utoipa::Modify;
use utoipa::OpenApi;
use utoipa::openapi::path::{HttpMethod, Operation, Parameter, ParameterIn};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, KnownFormat, Ref, RefOr, Schema, SchemaFormat};

use super::problem::Problem;
use crate::admin::Scope;
use crate::config::Models;

/// The document without its operations.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Baal",
        description = "Everything that the bot does, and what operating it takes.\n\n\
            **Tokens.** `Authorization: Bearer …` with ADMIN_TOKEN or a token made here or with `baal token create`. Each \
            operation names the scope that it takes: `read`, `write` (which reads too) or `admin` (which does all).\n\n\
            **Errors** are `application/problem+json` (RFC 9457): programs go by `type`, people by `detail`; `request_id` is \
            in the logs.\n\n\
            **Lists** are newest first; `next` of one answer is `before` of the next request.\n\n\
            **Changes** say in `If-Match` which version they change. **Creations** that name an `Idempotency-Key` are done \
            once within a day, however often they are sent.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    components(schemas(Problem)),
    modifiers(&Bearer),
    tags(
        (name = "agents", description = "Agents: create, change, deploy, share, talk to"),
        (name = "users", description = "People: their limits, and shutting them out"),
        (name = "usage", description = "Messages, tokens, cost and failures by day"),
        (name = "jobs", description = "Long work: what is done, waits, or has failed"),
        (name = "machines", description = "VMs, the pool of warm ones, hosts, and the reconciler"),
        (name = "queues", description = "Updates from Telegram and calls to it: dead letters and what is stuck"),
        (name = "system", description = "Version, replicas, configuration, tokens, and who changed what"),
    ),
)]
pub(super) struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("ADMIN_TOKEN, or a token of /tokens"));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
    }
}

/// Adds to every operation the problems that it shares with others of its kind.
pub(super) fn complete(document: &mut utoipa::openapi::OpenApi) {
    for (path, method, operation) in operations(document) {
        for parameter in operation.parameters.iter_mut().flatten() {
            if let RefOr::T(parameter) = parameter {
                explain(&path, parameter);
            }
            // One that is not there is left out: the word `null` would be a value.
            if let RefOr::T(parameter) = parameter
                && let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema
                && let SchemaType::Array(types) = &schema.schema_type
                && let Some(single) = types.iter().find(|kind| **kind != Type::Null)
            {
                schema.schema_type = SchemaType::Type(single.clone());
            }
        }
        let mut problems = vec![
            ("401", "No token, or one that is not good (any more)"),
            ("403", "The token's scope does not allow this"),
            ("429", "Too many requests, or too many wrong tokens; `Retry-After` says how many seconds to wait"),
            ("500", "Our mistake; the logs have it under the request's id"),
            ("503", "The database does not answer, or this took too long"),
        ];
        let parameters = operation.parameters.iter().flatten();
        let has = |place: ParameterIn, name: Option<&str>| {
            parameters.clone().any(|parameter| match parameter {
                RefOr::T(parameter) => {
                    parameter.parameter_in == place && name.is_none_or(|name| parameter.name.eq_ignore_ascii_case(name))
                }
                RefOr::Ref(_) => false,
            })
        };
        if path.contains('{') {
            problems.push(("404", "There is no such thing"));
        }
        if path.contains('{') || has(ParameterIn::Query, None) || operation.request_body.is_some() {
            problems.push(("400", "The request cannot be read"));
        }
        if has(ParameterIn::Query, None) || operation.request_body.is_some() {
            problems.push(("422", "Some fields cannot be taken; `errors` names them"));
        }
        if operation.request_body.is_some() {
            problems.push(("413", "The body is over 1 MiB"));
            problems.push(("415", "The body is not JSON by its header"));
        }
        if has(ParameterIn::Header, Some("If-Match")) {
            problems.push(("412", "It was changed since you read it"));
            problems.push(("428", "`If-Match` is missing"));
        }
        if method != HttpMethod::Get {
            problems.push(("409", "The present state does not allow this; `detail` says what to do"));
        }
        for (status, response) in &mut operation.responses.responses {
            if let RefOr::T(response) = response
                && response.description.is_empty()
            {
                response.description = done(status).into();
            }
        }
        for (status, description) in problems {
            operation.responses.responses.entry(status.into()).or_insert_with(|| RefOr::T(problem(description)));
        }
    }
}

/// An id as jobs, machines and requests have them.
const AN_ID: &str = "0199c0de-5f2a-7c7e-8f2b-6f1f7b2d9a10";

/// What numbers and ids in paths are of, by where the path begins.
const NAMED_BY_PATHS: &[(&str, &str, &str)] = &[
    ("/api/v1/agents/{id}", "id", "The agent's number"),
    ("/api/v1/hosts/{id}", "id", "The host's number"),
    ("/api/v1/jobs/{id}", "id", "The job's id"),
    ("/api/v1/outbox/calls/{id}", "id", "The call's number"),
    ("/api/v1/updates/dead/", "bot_id", "The number of the bot that the update was for"),
    ("/api/v1/updates/dead/", "update_id", "Telegram's number of the update"),
    ("/api/v1/vms/{id}", "id", "The machine's id"),
];

/// Says of a parameter what its operation leaves out because it is the same wherever it occurs.
fn explain(path: &str, parameter: &mut Parameter) {
    let name = parameter.name.as_str();
    if parameter.description.is_none() {
        let mut named = NAMED_BY_PATHS.iter().filter(|(start, of, _)| path.starts_with(start) && *of == name);
        parameter.description = named.next().map(|(.., description)| (*description).into());
    }
    let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema else { return };
    let is_id = matches!(&schema.format, Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)));
    let example = match name {
        "Idempotency-Key" => Value::from(AN_ID),
        "id" | "before" if is_id => AN_ID.into(),
        "before" => 42.into(),
        "blocked" => true.into(),
        _ => return,
    };
    schema.examples = vec![example];
}

/// Names the models that this installation offers; the document in the repository cannot know them.
pub(super) fn offer(document: &mut utoipa::openapi::OpenApi, models: &Models) {
    let schemas = document.components.as_mut().map(|components| &mut components.schemas);
    if let Some(RefOr::T(Schema::Object(model))) = schemas.and_then(|schemas| schemas.get_mut("ModelId")) {
        let ids = || models.0.iter().map(|model| Value::from(model.id.as_str()));
        model.enum_values = Some(ids().collect());
        model.examples = ids().take(1).collect();
    }
}

/// What the answer of an operation that went well says, where the operation has nothing to add.
fn done(status: &str) -> &'static str {
    match status {
        "201" => "Created, as it is now",
        "202" => "Begun; the answer says where it stands",
        "204" => "Done",
        _ => "As it is now",
    }
}

fn problem(description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(description).content("application/problem+json", content).build()
}

fn operations(document: &mut utoipa::openapi::OpenApi) -> impl Iterator<Item = (String, HttpMethod, &mut Operation)> {
    document.paths.paths.iter_mut().flat_map(|(path, item)| {
        let path = path.clone();
        let methods = [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Put, &mut item.put),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Delete, &mut item.delete),
            (HttpMethod::Patch, &mut item.patch),
        ];
        methods.into_iter().filter_map(move |(method, operation)| Some((path.clone(), method, operation.as_mut()?)))
    })
}

/// What each operation takes, as its `security` says.
///
/// # Panics
/// An operation names no scope: it would be served to nobody, or worse.
pub(super) fn scopes(document: &mut utoipa::openapi::OpenApi) -> HashMap<(Method, String), Scope> {
    operations(document)
        .map(|(path, method, operation)| {
            let scope = scope(operation).unwrap_or_else(|| panic!("{path} names no scope"));
            let method = match method {
                HttpMethod::Get => Method::GET,
                HttpMethod::Put => Method::PUT,
                HttpMethod::Post => Method::POST,
                HttpMethod::Delete => Method::DELETE,
                _ => Method::PATCH,
            };
            ((method, path), scope)
        })
        .collect()
}

fn scope(operation: &Operation) -> Option<Scope> {
    // The crate shows what it holds only as JSON: `[{"bearer": ["read"]}]`.
    let security = serde_json::to_value(operation.security.as_ref()?).ok()?;
    security[0]["bearer"][0].as_str()?.parse().ok()
}

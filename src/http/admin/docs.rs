//! `/docs` and `/openapi.json`: Swagger UI with its files in this program, and the document that it shows.

use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

/// Both. A token that is entered is forgotten with the page.
pub(super) fn pages(document: OpenApi) -> SwaggerUi {
    let config = Config::default()
        .deep_linking(true)
        .display_operation_id(true)
        .display_request_duration(true)
        .doc_expansion("list")
        .persist_authorization(false)
        .try_it_out_enabled(true)
        // It would show the document to a server of others.
        .validator_url("none");
    SwaggerUi::new("/docs").config(config).url("/openapi.json", document)
}

//! Reading requests: what cannot be read becomes a [`Problem`](super::problem::Problem) that names the field.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::problem::{ApiError, FieldError};

/// A JSON body: of the right type by its header, whole, without unknown fields (the types say `deny_unknown_fields`).
pub(super) struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::UnsupportedMediaType);
        }
        let bytes =
            Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status().as_u16() {
                413 => ApiError::TooLarge,
                _ => ApiError::Malformed("The body broke off.".into()),
            })?;
        parse(&bytes).map(Self)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // First as a whole: what breaks off is no wrong field.
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(bytes) {
        return Err(ApiError::Malformed(format!("The body is not JSON: {error}.")));
    }
    // Read into a struct, a list would be taken as its fields in their order, which the document does not say.
    let is_object = bytes.trim_ascii_start().first().is_none_or(|first| *first == b'{');
    if !is_object {
        return Err(ApiError::invalid("", "A body is a JSON object."));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut json)
        .or_else(|error| with_whole_numbers(bytes).unwrap_or(Err(error)))
        .map_err(refusal)
}

fn refusal(error: Failure) -> ApiError {
    let field = error.path().to_string();
    let inner = error.into_inner();
    if !inner.is_data() {
        return ApiError::Malformed(format!("The body is not JSON: {inner}."));
    }
    let field = if field == "." { String::new() } else { field };
    ApiError::Invalid(vec![FieldError { field, message: sentence(&inner) }])
}

type Failure = serde_path_to_error::Error<serde_json::Error>;

/// The same with numbers like `3.0` read as the integers that they are by JSON Schema; none if there are no such numbers.
fn with_whole_numbers<T: DeserializeOwned>(bytes: &[u8]) -> Option<Result<T, Failure>> {
    fn round(value: &mut Value) -> bool {
        match value {
            // Up to 2^53 every whole number is itself.
            Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(float) if float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0 => {
                    *number = (float as i64).into();
                    true
                }
                _ => false,
            },
            // Not `any`, which stops at the first.
            Value::Array(items) => items.iter_mut().fold(false, |found, item| round(item) | found),
            Value::Object(fields) => fields.values_mut().fold(false, |found, field| round(field) | found),
            _ => false,
        }
    }
    // silent-ok: the first try's error is the one that is told
    let mut value: Value = serde_json::from_slice(bytes).ok()?;
    round(&mut value).then(|| serde_path_to_error::deserialize(value))
}

/// The library's words without the place, which is of use only to who sees the bytes.
fn sentence(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}

/// For a field that may be left out but is never null.
pub(super) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(field: D) -> Result<Option<T>, D::Error> {
    T::deserialize(field).map(Some)
}

/// For a field that may be left out, and null is a value of its own.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    field: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(field).map(Some)
}

/// What is looked for: at most 100 characters that Postgres can compare.
pub(super) fn sought(field: &str, text: Option<String>) -> Result<Option<String>, ApiError> {
    match text {
        Some(text) if text.contains('\0') || text.chars().count() > 100 => {
            Err(ApiError::invalid(field, "At most 100 characters, and no NUL."))
        }
        text => Ok(text),
    }
}

/// The query's parameters, without unknown ones.
pub(super) struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(ApiError::Malformed(format!("{}.", rejection.body_text()))),
        }
    }
}

/// The path's parameters.
pub(super) struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(ApiError::Malformed(format!("{}.", rejection.body_text()))),
        }
    }
}

/// The entity tags of `If-Match`; a change without them is refused, lest it undo what somebody else did meanwhile.
pub(super) struct IfMatch(String);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let given = parts.headers.get(header::IF_MATCH).ok_or(ApiError::PreconditionRequired)?;
        let given = given.to_str().map_err(|_| ApiError::Malformed("If-Match cannot be read.".into()))?;
        Ok(Self(given.to_owned()))
    }
}

impl IfMatch {
    /// Whether the caller has seen this version. Call it with the row locked.
    pub(super) fn check(&self, etag: &str) -> Result<(), ApiError> {
        let seen = self.0.trim() == "*" || self.0.split(',').any(|tag| tag.trim() == etag);
        if seen { Ok(()) } else { Err(ApiError::PreconditionFailed) }
    }
}

/// Parameters of every list.
#[derive(Debug, Clone, Copy, serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// How many items at most.
    #[param(default = 50, minimum = 1, maximum = 200)]
    pub limit: Option<i64>,
    /// Goes on where another answer's `next` says.
    #[param(example = 42)]
    pub before: Option<i64>,
}

impl Page {
    /// How many items to look for: one more than asked for tells whether there are more.
    pub(super) fn fetch(limit: Option<i64>) -> Result<i64, ApiError> {
        match limit.unwrap_or(50) {
            limit @ 1..=200 => Ok(limit + 1),
            _ => Err(ApiError::invalid("limit", "A list has 1 to 200 items.")),
        }
    }
}

/// Part of a list.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct List<T> {
    /// Newest first.
    pub items: Vec<T>,
    /// The `before` of the next part; null at the end.
    pub next: Option<String>,
}

impl<T> List<T> {
    /// From one more row than was asked for; `key` is what goes on behind a row.
    pub(super) fn new<R>(mut rows: Vec<R>, fetched: i64, key: impl Fn(&R) -> String, show: impl Fn(R) -> T) -> Self {
        let more = i64::try_from(rows.len()).is_ok_and(|found| found == fetched);
        if more {
            rows.pop();
        }
        let next = rows.last().filter(|_| more).map(key);
        Self { items: rows.into_iter().map(show).collect(), next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        days: Option<i32>,
        names: Vec<String>,
    }

    fn read(text: &str) -> Result<Example, ApiError> {
        parse(text.as_bytes())
    }

    #[test]
    fn whole_numbers_are_integers_however_they_are_written() {
        let days = |text: &str| read(text).ok().and_then(|example| example.days);
        assert_eq!(days(r#"{"days": 3, "names": []}"#), Some(3));
        assert_eq!(days(r#"{"days": 3.0, "names": []}"#), Some(3));
        assert_eq!(days(r#"{"days": 3e1, "names": []}"#), Some(30));
        for refused in
            [r#"{"days": 3.5, "names": []}"#, r#"{"days": 1e300, "names": []}"#, r#"{"days": 3e15, "names": []}"#]
        {
            assert!(matches!(read(refused), Err(ApiError::Invalid(_))), "{refused}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let named = |text: &str| match read(text) {
            Err(ApiError::Invalid(errors)) => errors[0].field.clone(),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(named(r#"{"days": "x", "names": []}"#), "days");
        assert_eq!(named(" [3, []]"), "");
        assert_eq!(named(r#"{"days": 1.0, "names": ["a", 7]}"#), "names[1]");
        assert_eq!(named(r#"{"days": 1.0, "names": [], "more": 1}"#), "more");
        assert!(matches!(read("{\"days\": 1, \"names\": []} 7"), Err(ApiError::Malformed(_))));
        assert!(matches!(read("{\"days\": 1.0"), Err(ApiError::Malformed(_))));
    }
}

//! The parameters of a Bot API call, whichever of the four ways they came.

use std::collections::HashMap;

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{Form, FromRequest, Multipart, Query, Request};
use axum::http::{Method, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::refusal::Refusal;

/// The largest file a bot may upload, in bytes, and with it the largest body.
pub(crate) const UPLOAD_LIMIT: usize = 50 * 1024 * 1024;

/// A file uploaded as multipart.
pub(crate) struct Upload {
    pub name: String,
    pub mime: String,
    pub bytes: Bytes,
}

/// Named values: JSON values from a JSON body, strings from elsewhere.
#[derive(Default)]
pub(crate) struct Params {
    fields: HashMap<String, Value>,
    files: HashMap<String, Upload>,
}

impl Params {
    /// Reads query and body; the body wins. Fails with Telegram's 400 when the body is not what its content type says.
    pub async fn read(request: Request) -> Result<Self, Refusal> {
        let mut params = Self::default();
        if let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(request.uri()) {
            params.fields.extend(pairs.into_iter().map(|(name, value)| (name, Value::String(value))));
        }
        if request.method() != Method::POST {
            return Ok(params);
        }
        let content_type =
            request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
        if content_type.starts_with("application/json") {
            params.read_json(request).await?;
        } else if content_type.starts_with("application/x-www-form-urlencoded") {
            let Form(pairs) = Form::<Vec<(String, String)>>::from_request(request, &())
                .await
                .map_err(|_| Refusal::wrong("can't parse URL-encoded parameters"))?;
            params.fields.extend(pairs.into_iter().map(|(name, value)| (name, Value::String(value))));
        } else if content_type.starts_with("multipart/form-data") {
            params.read_multipart(request).await?;
        }
        Ok(params)
    }

    async fn read_json(&mut self, request: Request) -> Result<(), Refusal> {
        let bytes = Bytes::from_request(request, &()).await.map_err(|why| unread(&why))?;
        if bytes.is_empty() {
            return Ok(());
        }
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => {
                self.fields.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
                Ok(())
            }
            _ => Err(Refusal::wrong("can't parse JSON object")),
        }
    }

    async fn read_multipart(&mut self, request: Request) -> Result<(), Refusal> {
        let broken = || Refusal::wrong("can't parse multipart form data");
        // Whole: what follows the last part is read too, or the connection could not be used again, and whoever is just about
        // to would find it closed.
        let (parts, body) = request.into_parts();
        let whole = Request::from_parts(parts.clone(), body);
        let bytes = Bytes::from_request(whole, &()).await.map_err(|why| unread(&why))?;
        let request = Request::from_parts(parts, Body::from(bytes));
        let mut form = Multipart::from_request(request, &()).await.map_err(|_| broken())?;
        while let Some(field) = form.next_field().await.map_err(|_| broken())? {
            let name = field.name().unwrap_or_default().to_owned();
            let file = field.file_name().map(str::to_owned);
            let mime = field.content_type().unwrap_or("application/octet-stream").to_owned();
            let bytes = field.bytes().await.map_err(|_| too_large())?;
            match file {
                Some(file_name) => {
                    self.files.insert(name, Upload { name: file_name, mime, bytes });
                }
                None => {
                    let text = String::from_utf8(bytes.into())
                        .map_err(|_| Refusal::wrong("strings must be encoded in UTF-8"))?;
                    self.fields.insert(name, Value::String(text));
                }
            }
        }
        Ok(())
    }

    /// The text of `name`, `None` where it is missing.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        match self.fields.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong_type(name, "String")),
        }
    }

    /// A whole number, as JSON number or as digits.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, Refusal> {
        match self.fields.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => number.as_i64().map(Some).ok_or_else(|| wrong_type(name, "Integer")),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => text.parse().map(Some).map_err(|_| wrong_type(name, "Integer")),
            Some(_) => Err(wrong_type(name, "Integer")),
        }
    }

    /// A flag; false where it is missing.
    pub fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.fields.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "1" => Ok(true),
                "false" | "no" | "0" | "" => Ok(false),
                _ => Err(wrong_type(name, "Boolean")),
            },
            Some(_) => Err(wrong_type(name, "Boolean")),
        }
    }

    /// An object or array, as JSON or as a string that holds JSON.
    pub fn json(&self, name: &str) -> Result<Option<Value>, Refusal> {
        match self.fields.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => serde_json::from_str(text)
                .map(Some)
                .map_err(|_| Refusal::wrong(format!("can't parse {} JSON object", name.replace('_', " ")))),
            Some(value) => Ok(Some(value.clone())),
        }
    }

    /// Like [`Self::json`], read into a type.
    pub fn typed<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Refusal> {
        self.json(name)?
            .map(|value| {
                serde_json::from_value(value)
                    .map_err(|error| Refusal::wrong(format!("can't parse {}: {error}", name.replace('_', " "))))
            })
            .transpose()
    }

    /// The chat of the call as the log shows it: its number, or nothing.
    pub fn chat_for_log(&self) -> Option<i64> {
        match self.fields.get("chat_id") {
            Some(Value::Number(number)) => number.as_i64(),
            Some(Value::String(text)) => text.parse().ok(),
            _ => None,
        }
    }

    /// The message of the call as the log shows it.
    pub fn message_for_log(&self) -> Option<i64> {
        self.integer("message_id").ok().flatten()
    }

    /// All that was said, as it came, and the uploads by their names: name, type and size.
    pub fn for_record(&self) -> (Value, Value) {
        let fields = self.fields.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        if self.files.is_empty() {
            return (Value::Object(fields), Value::Null);
        }
        let files = self.files.iter().map(|(field, upload)| {
            (field.clone(), json!({ "name": upload.name, "mime": upload.mime, "size": upload.bytes.len() }))
        });
        (Value::Object(fields), Value::Object(files.collect()))
    }

    pub fn take_file(&mut self, name: &str) -> Option<Upload> {
        self.files.remove(name)
    }
}

fn wrong_type(name: &str, kind: &str) -> Refusal {
    Refusal::wrong(format!("field \"{name}\" must be of type {kind}"))
}

/// A body that is too large is the bot's fault; one that ends early is the connection's.
fn unread(why: &BytesRejection) -> Refusal {
    if why.status() == StatusCode::PAYLOAD_TOO_LARGE { too_large() } else { Refusal::unlucky("the body ended early") }
}

fn too_large() -> Refusal {
    Refusal { code: 413, description: "Request Entity Too Large".into(), parameters: None, violation: true }
}

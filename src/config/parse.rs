//! From a variable's text to its value. What is wrong is said without the value, which may be a secret in the wrong place;
//! each message goes on behind the variable's name.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

use crate::vault::Vault;

pub(super) fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

pub(super) fn bot_id(token: &str) -> Option<i64> {
    let (id, secret) = token.split_once(':')?;
    let plausible = secret.len() >= 10 && secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    id.parse().ok().filter(|id| plausible && *id > 0)
}

pub(super) fn bot_token(text: &str) -> Result<SecretString, String> {
    bot_id(text).map(|_| text.into()).ok_or_else(|| "is not a bot token".into())
}

pub(super) fn webhook_secret(text: &str) -> Result<Option<SecretString>, String> {
    match text {
        "" => Ok(None),
        _ if text.len() <= 256 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') => {
            Ok(Some(text.into()))
        }
        _ => Err("must be 1 to 256 characters of A-Z a-z 0-9 _ -".into()),
    }
}

pub(super) fn base_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).map_err(|_| "is not a URL".to_owned())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("must begin with http:// or https:// and name a host".into());
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("must carry no user name, password or query".into());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

pub(super) fn optional_base_url(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() { Ok(None) } else { base_url(text).map(Some) }
}

pub(super) fn database_url(text: &str) -> Result<SecretString, String> {
    let known = text.starts_with("postgres://") || text.starts_with("postgresql://");
    for (name, value) in query(text) {
        // At the first connection it would look like a server that does not answer.
        if matches!(name.as_str(), "sslrootcert" | "sslcert" | "sslkey") && std::fs::File::open(value).is_err() {
            return Err(format!("names a file with {name} that cannot be read"));
        }
    }
    // The driver would log what it does not know, with its value.
    if query(text).iter().any(|(name, _)| name == "sslpassword") {
        return Err("has sslpassword, and keys under a password cannot be read: decrypt the file of sslkey".into());
    }
    match sqlx::postgres::PgConnectOptions::from_str(text) {
        Ok(_) if known => Ok(text.into()),
        _ => Err("is not a postgres:// URL".into()),
    }
}

/// Whether a database's URL carries a password, before the host or as a parameter.
pub(super) fn has_password(url: &str) -> bool {
    let before_host = reqwest::Url::parse(url).is_ok_and(|url| url.password().is_some());
    before_host || query(url).iter().any(|(name, _)| name == "password")
}

fn query(url: &str) -> Vec<(String, String)> {
    // silent-ok: what is no URL has no parameters; it is refused elsewhere
    reqwest::Url::parse(url).map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default()
}

pub(super) fn optional_database_url(text: &str) -> Result<Option<SecretString>, String> {
    if text.is_empty() { Ok(None) } else { database_url(text).map(Some) }
}

pub(super) fn optional_secret(text: &str) -> Result<Option<SecretString>, String> {
    Ok(Some(text).filter(|text| !text.is_empty()).map(SecretString::from))
}

pub(super) fn vault(text: &str) -> Result<Vault, String> {
    Vault::new(&text.into()).map_err(|why| why.to_string())
}

/// What goes into a header as it is; an agent refuses anything else, but only once it is started.
pub(super) fn api_key(text: &str) -> Result<SecretString, String> {
    if text.chars().all(|c| c.is_ascii_graphic()) {
        Ok(text.into())
    } else {
        Err("must be one word of visible ASCII characters".into())
    }
}

/// 32 bytes in hexadecimal, with or without 0x; none where empty.
pub(super) fn private_key(text: &str) -> Result<Option<SecretString>, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    match digits {
        "" => Ok(None),
        _ if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(Some(digits.into())),
        _ => Err("must be a private key of 64 hexadecimal digits".into()),
    }
}

/// Base URLs separated by commas.
pub(super) fn base_urls(text: &str) -> Result<Vec<String>, String> {
    text.split(',').map(str::trim).filter(|url| !url.is_empty()).map(base_url).collect()
}

/// A host name, perhaps with a port.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let (name, port) = text.split_once(':').unwrap_or((text, "443"));
    let label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if name.split('.').all(label) && port.parse::<u16>().is_ok_and(|port| port > 0) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("is not a domain name".into())
    }
}

/// Telegram's ids of users, separated by commas.
pub(super) fn user_ids(text: &str) -> Result<Vec<i64>, String> {
    let ids = text.split(',').map(str::trim).filter(|id| !id.is_empty());
    ids.map(|id| id.parse().map_err(|_| "must be numbers separated by commas".to_owned())).collect()
}

pub(super) fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("must be true or false".into()),
    }
}

pub(super) fn seconds(text: &str, low: u64, high: u64) -> Result<Duration, String> {
    in_range(text, low, high).map(Duration::from_secs)
}

/// An OpenSSH public key; none where empty.
pub(super) fn ssh_public_key(text: &str) -> Result<Option<String>, String> {
    match text.split_whitespace().next() {
        None => Ok(None),
        Some(kind) if kind.starts_with("ssh-") && !text.contains('\n') => Ok(Some(text.to_owned())),
        Some(_) => Err("is not an OpenSSH public key".into()),
    }
}

pub(super) fn any_text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

pub(super) fn optional_text(text: &str) -> Result<Option<String>, String> {
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    Ok(expand_home(text))
}

pub(super) fn optional_path(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() { Ok(None) } else { path(text).map(Some) }
}

pub(super) fn from_str<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e: T::Err| {
        let why = e.to_string();
        if why.starts_with("must") || why.starts_with("is not") || why.starts_with("names") {
            why
        } else {
            format!("is not valid: {why}")
        }
    })
}

pub(super) fn in_range<T>(text: &str, low: T, high: T) -> Result<T, String>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    match text.parse::<T>() {
        Ok(number) if number >= low && number <= high => Ok(number),
        _ => Err(format!("must be a number from {low} to {high}")),
    }
}

pub(super) fn optional_from_str<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<Option<T>, String> {
    if text.is_empty() { Ok(None) } else { from_str(text).map(Some) }
}

/// Long enough that nobody guesses it; none where empty.
pub(super) fn admin_token(text: &str) -> Result<Option<SecretString>, String> {
    match text {
        "" => Ok(None),
        _ if text.len() >= 32 && text.chars().all(|c| c.is_ascii_graphic()) => Ok(Some(text.into())),
        _ => Err("must be one word of at least 32 visible ASCII characters".into()),
    }
}

/// Networks separated by commas; a bare address is a network of one.
pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let networks = text.split(',').map(str::trim).filter(|network| !network.is_empty());
    let one = |text: &str| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    networks
        .map(|text| one(text).map_err(|_| "must be networks such as 10.0.0.0/8, separated by commas".to_owned()))
        .collect()
}

/// Origins as browsers send them (scheme, host, port), separated by commas.
pub(super) fn origins(text: &str) -> Result<Vec<String>, String> {
    let origin = |url: String| match reqwest::Url::parse(&url) {
        Ok(parsed) if parsed.origin().ascii_serialization() == url => Ok(url),
        _ => Err("must be origins such as https://admin.example.org, without a path".to_owned()),
    };
    base_urls(text)?.into_iter().map(origin).collect()
}

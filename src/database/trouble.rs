//! What a refused connection means, in words for operators: what is wrong and which setting mends it.

use std::io;

use rustls::CertificateError;
use sqlx::Error;

/// What is wrong and what to do about it, as a sentence; never a password, and no address but the operator's own.
pub fn trouble(error: &Error) -> String {
    match error {
        Error::Io(io) => match tls(io) {
            Some(tls) => certificate(tls),
            None => format!("it does not answer ({io}). Is Postgres running, and DATABASE_URL right?"),
        },
        Error::PoolTimedOut => "it does not answer in time. Is Postgres running, and DATABASE_URL right?".into(),
        Error::Tls(tls) if tls.to_string().contains("not support TLS") => {
            "it speaks no TLS, which sslmode asks for. Set `ssl = on` there; sslmode=disable sends everything in the clear".into()
        }
        Error::Tls(tls) => format!("TLS fails ({tls}). Look at sslrootcert, sslcert and sslkey in DATABASE_URL"),
        Error::Database(refused) => refusal(refused.code().as_deref().unwrap_or_default(), refused.message()),
        other => format!("it cannot be used ({other})"),
    }
}

/// Whether waiting may help: the server is not there yet, or not now. What it or its certificate said will be said again.
pub fn may_pass(error: &Error) -> bool {
    match error {
        Error::Io(io) => tls(io).is_none(),
        Error::PoolTimedOut => true,
        Error::Database(refused) => refused.code().is_some_and(|code| passing(&code)),
        _ => false,
    }
}

/// By SQLSTATE: it shuts down, crashed, starts; or has no space, memory or connection left (class 53), which is nothing that a
/// statement did wrong; its disk fails; it is a standby that is not promoted yet.
fn passing(code: &str) -> bool {
    matches!(code, "57P01" | "57P02" | "57P03" | "58030" | "25006") || code.starts_with("53")
}

/// What TLS has said, if it was that. The driver hands it on as the error of a read.
fn tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn certificate(error: &rustls::Error) -> String {
    let why = match error {
        rustls::Error::InvalidCertificate(why) => why,
        other => return format!("TLS fails ({other}). Look at sslmode, sslcert and sslkey in DATABASE_URL"),
    };
    match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is signed by an authority that is not trusted. Name the right one: sslrootcert=FILE in DATABASE_URL".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name than DATABASE_URL has. Use the name that is in the certificate".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired. Renew it there".into()
        }
        other => format!("its certificate is refused ({other})"),
    }
}

/// By SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html; PgBouncer answers with 08P01.
fn refusal(code: &str, message: &str) -> String {
    match code {
        "28P01" => "it takes another password: look at DATABASE_PASSWORD, or the password in DATABASE_URL".into(),
        "28000" if message.contains("no encryption") => {
            format!("it refuses connections without TLS ({message}). Set sslmode=verify-full in DATABASE_URL")
        }
        "28000" => {
            format!("it lets this user not in ({message}). Look at its pg_hba.conf, and at sslcert in DATABASE_URL")
        }
        "3D000" => format!("{message}. Create it, or name another in DATABASE_URL"),
        "53300" => {
            format!("it has no connection left ({message}). Lower DATABASE_CONNECTIONS, or put PgBouncer before it")
        }
        "08P01" if message.contains("startup parameter") => format!(
            "a pooler refuses the connection ({message}). Set DATABASE_DIRECT_URL to Postgres itself: docs/operations.md, \
             \"PgBouncer\""
        ),
        "26000" | "42P05" => format!(
            "a pooler mixes prepared statements up ({message}). It must be PgBouncer 1.21 or newer, with \
             max_prepared_statements"
        ),
        _ => format!("it refuses ({message})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(error: rustls::Error) -> Error {
        Error::Io(io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn a_server_that_is_away_may_come_back_and_a_wrong_certificate_stays_wrong() {
        assert!(may_pass(&Error::Io(io::ErrorKind::ConnectionRefused.into())));
        assert!(may_pass(&Error::PoolTimedOut));
        let unknown = broken(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert!(!may_pass(&unknown));
        assert!(trouble(&unknown).contains("sslrootcert"));
    }

    #[test]
    fn a_full_disk_may_be_freed_and_a_wrong_statement_stays_wrong() {
        assert!(["53100", "53200", "53300", "57P03"].into_iter().all(passing));
        assert!(!["23505", "42601", "22P05", "28P01"].into_iter().any(passing));
    }

    #[test]
    fn a_refusal_names_the_setting_that_mends_it() {
        assert!(refusal("08P01", "unsupported startup parameter: options").contains("DATABASE_DIRECT_URL"));
        assert!(refusal("28000", "no pg_hba.conf entry for host \"::1\", no encryption").contains("sslmode"));
        assert!(refusal("28P01", "password authentication failed for user \"x\"").contains("DATABASE_PASSWORD"));
    }
}

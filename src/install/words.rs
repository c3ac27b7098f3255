//! What machines say, made fit for a log or a message: bounded, without control characters and secrets.

use std::collections::BTreeSet;

use crate::telemetry::is_unprintable;

/// Characters that are kept, from the end.
const LIMIT: usize = 1_500;

/// The end of a text in plain lines; each of the secrets in it becomes `…`.
pub(super) fn last_words(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    // Before anything is cut: half a secret would not be found.
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "…");
    }
    let lines: Vec<String> = text.lines().map(plain).filter(|line| !line.is_empty()).collect();
    let text = lines.join("\n");
    let skip = text.chars().count().saturating_sub(LIMIT);
    text.chars().skip(skip).collect()
}

/// A line without control characters, colours, and characters that turn text around.
fn plain(line: &str) -> String {
    let mut kept = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            // ESC [ … letter
            '\u{1b}' => {
                if characters.as_str().starts_with('[') {
                    characters.by_ref().find(char::is_ascii_alphabetic);
                }
            }
            '\t' => kept.push(' '),
            character if is_unprintable(character) => {}
            character => kept.push(character),
        }
    }
    kept.trim_end().to_owned()
}

/// Why there is no certificate: from the lines that Caddy logs (JSON), or their end where none says it.
pub(super) fn certificate_cause(log: &str) -> String {
    let mut causes = BTreeSet::new();
    for line in log.lines() {
        let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let text = |name: &str| entry[name].as_str().unwrap_or_default();
        // One line for each authority, the others tell it again for all of them.
        if text("level") == "error" && text("msg").starts_with("could not get certificate from issuer") {
            causes.insert(last_words(&format!("{}: {}", text("issuer"), text("error")), &[]));
        }
    }
    let told = causes.into_iter().collect::<Vec<_>>().join("; ");
    let told = if told.is_empty() { last_words(log, &[]) } else { last_words(&told, &[]) };
    if told.is_empty() {
        return "the web server says nothing; look at `journalctl -u caddy` on the machine".into();
    }
    // RFC 8555, section 6.7, and the words of Let's Encrypt.
    if told.contains("rateLimited") || told.contains("too many certificates") {
        return format!("a rate limit of the certificate authority is reached, later it will give one again: {told}");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_secrets_are_left_out_and_the_end_is_kept() {
        let said = "\u{1b}[31mpanic\u{1b}[0m at\tsk-secret\u{7}\r\n\n\u{202e}e\u{200b}n\u{feff}d\u{0}";
        assert_eq!(last_words(said, &["sk-secret", ""]), "panic at …\nend");
        let long = format!("{}{}", "ä".repeat(5_000), "key".repeat(2));
        assert_eq!(last_words(&long, &["key"]).chars().count(), LIMIT);
        assert!(last_words(&long, &["key"]).ends_with("ää……"));
    }

    #[test]
    fn a_secret_over_two_lines_is_left_out_too() {
        assert_eq!(last_words("a one\ntwo b", &["one\ntwo"]), "a … b");
    }

    #[test]
    fn rate_limits_are_called_by_their_name() {
        let log = r#"{"level":"info","ts":1,"msg":"serving initial configuration"}
{"level":"error","ts":1,"logger":"tls.obtain","msg":"could not get certificate from issuer","identifier":"a.2n6.me","issuer":"acme-v02.api.letsencrypt.org-directory","error":"HTTP 429 urn:ietf:params:acme:error:rateLimited - too many certificates (50) already issued for \"2n6.me\" in the last 168h0m0s"}
{"level":"error","ts":2,"logger":"tls.obtain","msg":"could not get certificate from issuer","identifier":"a.2n6.me","issuer":"acme.zerossl.com-v2-DV90","error":"HTTP 503 down"}
{"level":"error","ts":2,"logger":"tls.obtain","msg":"will retry","error":"[a.2n6.me] Obtain: HTTP 503 down","attempt":1}"#;
        let cause = certificate_cause(log);
        assert!(cause.starts_with("a rate limit of the certificate authority is reached"), "{cause}");
        assert!(
            cause.contains("letsencrypt.org-directory: HTTP 429") && cause.contains("DV90: HTTP 503 down"),
            "{cause}"
        );
        assert!(!cause.contains("will retry"), "{cause}");
    }

    #[test]
    fn other_causes_are_told_as_they_are() {
        assert_eq!(certificate_cause("caddy: cannot bind\n"), "caddy: cannot bind");
        assert!(certificate_cause("").contains("journalctl"));
    }
}

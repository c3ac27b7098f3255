//! Names of files that others chose.

use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Longest name that is stored, in bytes; file systems end at 255.
const MAX_NAME: usize = 180;
/// Longest ending that is kept when a name is cut, in bytes.
const MAX_ENDING: usize = 20;

/// Endings of files that hold keys.
const KEY_ENDINGS: [&str; 9] = ["pem", "key", "p12", "pfx", "jks", "keystore", "kdbx", "ppk", "gpg"];
/// Names of files that hold keys or passwords.
const KEY_NAMES: [&str; 6] =
    ["credentials", "credentials.json", "secrets.json", "authorized_keys", "known_hosts", "shadow"];

/// Whether a path is of a kind that holds secrets, by the name of any part of it: dotfiles, keys, credentials.
pub fn is_sensitive(path: &str) -> bool {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").any(|part| {
        let part = part.to_lowercase();
        let ending = part.rsplit_once('.').map_or("", |(_, ending)| ending);
        part.starts_with('.')
            || part.starts_with("id_")
            || KEY_ENDINGS.contains(&ending)
            || KEY_NAMES.contains(&part.as_str())
    })
}

/// The name that a file is stored under: one part of a path, without characters that mean something in a path, a URL or a
/// terminal.
///
/// A name that is changed gets a part of its hash, so that two of them don't become one. A stored name stays as it is.
pub fn stored_name(name: &str) -> String {
    let clean: String = name.chars().map(|c| if is_harmless(c) { c } else { '_' }).collect();
    let clean = clean.trim();
    if clean == name && !clean.is_empty() && clean.len() <= MAX_NAME && !clean.starts_with('.') {
        return clean.to_owned();
    }
    let mut mark = String::from("-");
    for byte in Sha256::digest(name.as_bytes()).iter().take(4) {
        // silent-ok: writing to a String cannot fail
        let _ = write!(mark, "{byte:02x}");
    }
    let clean = clean.trim_start_matches(['.', ' ']);
    let (stem, ending) = match clean.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() && !ending.is_empty() && ending.len() <= MAX_ENDING => (stem, ending),
        _ => (clean, ""),
    };
    let stem = if stem.is_empty() { "file" } else { stem };
    let stem = stem.get(..stem.floor_char_boundary(MAX_NAME - MAX_ENDING - mark.len() - 1)).unwrap_or(stem).trim_end();
    let dot = if ending.is_empty() { "" } else { "." };
    format!("{stem}{mark}{dot}{ending}").trim_end().to_owned()
}

/// A name as one may repeat it in a sentence: quoted, on one line, cut.
pub fn quoted(name: &str) -> String {
    let clean: String = name.chars().take(120).map(|c| if c == '"' || !is_visible(c) { '_' } else { c }).collect();
    let more = if name.chars().nth(120).is_some() { "…" } else { "" };
    format!("\"{clean}{more}\"")
}

fn is_harmless(c: char) -> bool {
    is_visible(c) && !r#"/\%?#:*"<>|`$"#.contains(c)
}

/// Neither a control character nor one that turns the direction of writing: `gpj.exe` must not look like `exe.jpg`.
fn is_visible(c: char) -> bool {
    let turns = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    !c.is_control() && !turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_hold_secrets_are_known_anywhere_in_a_path() {
        for path in [
            ".env",
            "a/.env",
            ".ssh/config",
            "a/.git/config",
            "id_ed25519",
            "ID_RSA.pub",
            "x/server.PEM",
            "tls.key",
            "credentials.json",
        ] {
            assert!(is_sensitive(path), "{path}");
        }
        for path in ["report.pdf", "./notes/day.md", "keys.txt", "monkey", "a.b/c", "valid_name.txt"] {
            assert!(!is_sensitive(path), "{path}");
        }
    }

    #[test]
    fn good_names_stay() {
        for name in ["report.pdf", "Ünï côdé 文件.tar.gz", "a", "no ending", "x.y-z_1"] {
            assert_eq!(stored_name(name), name);
        }
    }

    #[test]
    fn hostile_names_become_one_harmless_part_and_stay_different() {
        let long = "x".repeat(1000) + ".pdf";
        let wide = "文".repeat(300);
        let ending = format!("a.{}", "e".repeat(300));
        let names = [
            "",
            ".",
            "..",
            "../../etc/passwd",
            "/etc/passwd",
            "a/b",
            "a_b?",
            "a\0b",
            "a\nb",
            "\u{202e}gpj.exe",
            ".env",
            " x ",
            "%2e%2e%2f",
            "a#b",
            "x\\y",
            &long,
            &wide,
            &ending,
            ". .",
            "...",
            "x. ",
        ];
        let mut stored: Vec<String> = names.iter().map(|name| stored_name(name)).collect();
        for (name, stored) in names.iter().zip(&stored) {
            assert!(!stored.is_empty() && stored.len() <= MAX_NAME && !stored.starts_with('.'), "{name:?}: {stored:?}");
            assert!(stored.chars().all(is_harmless), "{name:?}: {stored:?}");
            assert_eq!(&stored_name(stored), stored, "a stored name stays as it is");
        }
        assert!(stored_name(&long).ends_with(".pdf"));
        stored.sort();
        stored.dedup();
        assert_eq!(stored.len(), names.len(), "{stored:?}");
    }
}

//! Secrets as the Python system's database may hold them: Fernet tokens, and what became of them by hand. Pure.

use secrecy::{ExposeSecret as _, SecretString};

use crate::vault::Vault;

/// How Fernet tokens begin: a version byte, and a time before the year 36812.
const TOKEN: &str = "gAAAA";
/// How often something may be encrypted over again.
const LAYERS: usize = 4;
/// The longest secret that is believed, in bytes.
const LONGEST: usize = 512;

/// A secret, and how it was stored if not rightly.
#[derive(Debug)]
pub struct Opened {
    /// In the clear.
    pub secret: SecretString,
    /// Part of a sentence: "was stored …".
    pub oddity: Option<&'static str>,
}

/// Why a stored secret is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Useless {
    /// A token that this key does not open.
    #[error("was stored under another BOT_ENCRYPTION_KEY, or damaged")]
    OtherKey,
    /// Not a secret that anybody could have typed.
    #[error("is not readable")]
    Unreadable,
}

/// The secret within what is stored; none where nothing is.
pub fn open(vault: &Vault, stored: &str) -> Result<Option<Opened>, Useless> {
    let mut text = SecretString::from(bare(stored).to_owned());
    if text.expose_secret().is_empty() {
        return Ok(None);
    }
    let wrapped = text.expose_secret() != stored;
    let mut layers = 0;
    while text.expose_secret().starts_with(TOKEN) {
        if layers == LAYERS {
            return Err(Useless::Unreadable);
        }
        let inner = vault.decrypt_text(text.expose_secret().as_bytes()).map_err(|_| Useless::OtherKey)?;
        text = SecretString::from(bare(inner.expose_secret()).to_owned());
        layers += 1;
    }
    let plain = text.expose_secret();
    if plain.is_empty() {
        return Ok(None);
    }
    if plain.len() > LONGEST || !plain.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Useless::Unreadable);
    }
    let oddity = match layers {
        0 => Some("was stored as plain text; it is encrypted now"),
        1 if wrapped => Some("was stored with quotes or line breaks around it; they are gone"),
        1 => None,
        _ => Some("was encrypted more than once; it is encrypted once now"),
    };
    Ok(Some(Opened { secret: text, oddity }))
}

/// Whether something that is stored under a key opens with this one; none where it is not under any.
pub fn opens(vault: &Vault, stored: &str) -> Option<bool> {
    let text = bare(stored);
    text.starts_with(TOKEN).then(|| vault.decrypt_text(text.as_bytes()).is_ok())
}

/// Without space, quotes and Python's `b'…'` around it.
fn bare(text: &str) -> &str {
    let mut text = text;
    loop {
        let before = text;
        text = text.trim().trim_matches('\0');
        // As `repr` writes a line break.
        text = text.strip_suffix("\\n").unwrap_or(text);
        for quote in ['\'', '"'] {
            let inner = text.strip_prefix('b').unwrap_or(text);
            if let Some(inner) = inner.strip_prefix(quote).and_then(|inner| inner.strip_suffix(quote)) {
                text = inner;
            }
        }
        if text == before {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault() -> Vault {
        Vault::new(&"cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=".to_owned().into()).expect("a key")
    }

    fn token(plain: &str) -> String {
        String::from_utf8(vault().encrypt(plain.as_bytes())).expect("ASCII")
    }

    fn opened(stored: &str) -> (String, Option<&'static str>) {
        let opened = open(&vault(), stored).expect("opens").expect("something");
        (opened.secret.expose_secret().to_owned(), opened.oddity)
    }

    #[test]
    fn what_python_wrote_is_read() {
        // `Fernet(key).encrypt(b"sk-from-python")` of Python's cryptography.
        let theirs =
            "gAAAAABrBGwaNmYVcnUVP7jq_mCYFNbNYh1xRqLQTMK3Y7hLUMB2I1wWcf35oDX8s8yLyEUNDyerGTTUyTqKAxxM3MRUn739OQ==";
        assert_eq!(opened(theirs), ("sk-from-python".into(), None));
        assert_eq!(opened(&token("sk-1")), ("sk-1".into(), None));
    }

    #[test]
    fn what_was_stored_wrongly_is_mended() {
        for around in ["b'{}'", "\"{}\"", "{}\n", " {} ", "b'{}\\n'", "\"b'{}'\"\r\n"] {
            let (plain, oddity) = opened(&around.replace("{}", &token("sk-1")));
            assert_eq!(plain, "sk-1", "{around}");
            assert!(oddity.expect("odd").contains("quotes"), "{around}");
        }
        let (plain, oddity) = opened("sk-plain");
        assert_eq!(plain, "sk-plain");
        assert!(oddity.expect("odd").contains("plain text"));
        let (plain, oddity) = opened(&token(&token("sk-2")));
        assert_eq!(plain, "sk-2");
        assert!(oddity.expect("odd").contains("more than once"));
        let (plain, _) = opened(&token(&format!("b'{}'", token("sk-3"))));
        assert_eq!(plain, "sk-3");
    }

    #[test]
    fn what_is_of_no_use_is_told_apart() {
        let other = Vault::new(&Vault::generate_key()).expect("a key").encrypt(b"sk");
        let other = String::from_utf8(other).expect("ASCII");
        assert_eq!(open(&vault(), &other).map(drop), Err(Useless::OtherKey));
        assert_eq!(open(&vault(), &token(&other)).map(drop), Err(Useless::OtherKey));
        assert_eq!(open(&vault(), &other[..40]).map(drop), Err(Useless::OtherKey));
        assert_eq!([&other, &token("sk"), "sk"].map(|stored| opens(&vault(), stored)), [Some(false), Some(true), None]);
        for odd in ["two words", "sk-\u{1b}[31m", "é", &"x".repeat(513)] {
            assert_eq!(open(&vault(), odd).map(drop), Err(Useless::Unreadable), "{odd:?}");
        }
        for nothing in ["", " ", "''", "b''", "\n", &token("")] {
            assert!(open(&vault(), nothing).expect("no error").is_none(), "{nothing:?}");
        }
    }
}

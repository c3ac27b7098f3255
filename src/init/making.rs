//! New keys, passwords and passphrases.

use bip39::Mnemonic;
use rand::distr::{Alphanumeric, SampleString as _};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use secrecy::SecretString;

/// 48 letters and digits: about 285 bits.
pub fn word() -> SecretString {
    Alphanumeric.sample_string(&mut rand::rng(), 48).into()
}

/// Twelve English words, joined by hyphens: 128 bits that a person can copy.
pub fn passphrase() -> anyhow::Result<SecretString> {
    let words = Mnemonic::from_entropy(&rand::random::<[u8; 16]>()).map_err(anyhow::Error::msg)?;
    Ok(words.words().collect::<Vec<_>>().join("-").into())
}

/// The key of a new account: 32 bytes in hexadecimal. All but one in 2^128 of them are keys; the caller finds that out.
pub fn account_key() -> SecretString {
    hex::encode(rand::random::<[u8; 32]>()).into()
}

/// A new ed25519 key in OpenSSH's form, without a passphrase.
pub fn ssh_key() -> anyhow::Result<SecretString> {
    let mut key = PrivateKey::from(Ed25519Keypair::from_seed(&rand::random()));
    key.set_comment("baal");
    Ok(key.to_openssh(LineEnding::LF)?.to_string().into())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::ssh::Key;

    #[test]
    fn what_is_made_is_taken() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), ssh_key().unwrap().expose_secret()).unwrap();
        assert!(Key::load(file.path()).unwrap().public().starts_with("ssh-ed25519 "));
        assert_eq!(passphrase().unwrap().expose_secret().split('-').count(), 12);
        assert_eq!(crate::config::Config::check("ALEPH_PRIVATE_KEY", account_key().expose_secret()), Ok(()));
        assert_eq!(crate::config::Config::check("ADMIN_TOKEN", word().expose_secret()), Ok(()));
        assert_eq!(crate::config::Config::check("TELEGRAM_WEBHOOK_SECRET", word().expose_secret()), Ok(()));
        assert_ne!(word().expose_secret(), word().expose_secret());
    }
}

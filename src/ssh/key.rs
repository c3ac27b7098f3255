//! Our private key.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_ssh2_tokio::AuthMethod;
use russh::keys::{Error, HashAlg, PublicKey, decode_secret_key};
use secrecy::{ExposeSecret, SecretString};

use super::SshError;
use crate::private_file::warn_if_shared;

/// The private key with which machines are reached; `Debug` shows the public half. Cheap to clone.
#[derive(Clone)]
pub struct Key(Arc<Loaded>);

struct Loaded {
    text: SecretString,
    public: PublicKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0.public.fingerprint(HashAlg::Sha256))
    }
}

impl Key {
    /// Reads an OpenSSH key file (ed25519, RSA) without a passphrase. A file that others may read is used, with a warning.
    pub fn load(path: &Path) -> Result<Self, SshError> {
        let shown = path.display();
        let problem = |problem: String| SshError::Key(format!("{shown} {problem}"));
        let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                problem(format!("does not exist; make a key with `ssh-keygen -t ed25519 -N '' -f {shown}`"))
            }
            std::io::ErrorKind::InvalidData => problem(NO_KEY.into()),
            _ => problem(format!("cannot be read: {error}")),
        })?;
        let text = SecretString::from(text);
        let public =
            public_half(text.expose_secret()).map_err(|cause| problem(cause.replace("FILE", &shown.to_string())))?;
        warn_if_shared(path, "the SSH key");
        Ok(Self(Arc::new(Loaded { text, public })))
    }

    /// The public half, in OpenSSH's form without a comment.
    pub fn public(&self) -> String {
        openssh(&self.0.public)
    }

    /// What the connection authenticates with. RSA keys sign with SHA-2 where the server says that it knows it.
    pub(super) fn method(&self) -> AuthMethod {
        AuthMethod::with_key(self.0.text.expose_secret(), None)
    }
}

const NO_KEY: &str = "is not a private key in OpenSSH's format; make one with `ssh-keygen -t ed25519`";

/// Errors are the end of a sentence that begins with the file, say what to do about FILE, and quote nothing of it.
fn public_half(text: &str) -> Result<PublicKey, String> {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if first.starts_with("ssh-") || first.starts_with("ecdsa-") {
        return Err("is a public key; name the private one, the file without `.pub`".into());
    }
    if first.starts_with("PuTTY") {
        return Err("is in PuTTY's format; `puttygen FILE -O private-openssh -o NEW` converts it".into());
    }
    let passphrase = "has a passphrase, which nobody is there to type; `ssh-keygen -p -N '' -f FILE` removes it, or make \
                      another key with `ssh-keygen -t ed25519 -N ''`";
    let key = match decode_secret_key(text, None) {
        Ok(key) if key.is_encrypted() => return Err(passphrase.into()),
        Ok(key) => key,
        Err(Error::KeyIsEncrypted) => return Err(passphrase.into()),
        // PEM keys of older programs say it in their headers.
        Err(_) if text.contains("ENCRYPTED") => return Err(passphrase.into()),
        Err(_) => return Err(NO_KEY.into()),
    };
    let mut public = key.public_key().clone();
    public.set_comment("");
    Ok(public)
}

/// `ssh-ed25519 AAAA…`, without a comment.
pub(super) fn openssh(key: &PublicKey) -> String {
    let mut key = key.clone();
    key.set_comment("");
    // Writing a parsed key to memory cannot fail; an empty text equals no machine's key.
    key.to_openssh().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    fn made(kind: &str, more: &[&str]) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("id");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-C", "somebody@example", "-f"])
            .arg(&path)
            .args(more)
            .status()
            .expect("ssh-keygen is installed (scripts/bootstrap test)");
        assert!(made.success());
        (directory, path)
    }

    fn refusal(path: &Path) -> String {
        Key::load(path).unwrap_err().to_string()
    }

    #[test]
    fn keys_of_openssh_are_read_and_their_public_half_is_what_ssh_keygen_writes() {
        for (kind, more) in [
            ("ed25519", &["-N", ""][..]),
            ("rsa", &["-N", "", "-b", "2048"]),
            ("rsa", &["-N", "", "-b", "2048", "-m", "PEM"]),
        ] {
            let (_directory, path) = made(kind, more);
            let key = Key::load(&path).unwrap();
            let written = fs::read_to_string(path.with_extension("pub")).unwrap();
            assert_eq!(key.public(), written.trim_end().trim_end_matches(" somebody@example"));
            assert!(format!("{key:?}").starts_with("Key(SHA256:"));
        }
    }

    #[test]
    fn a_passphrase_is_named_with_what_to_do() {
        for more in [&["-N", "secret"][..], &["-N", "secret", "-b", "2048", "-m", "PEM"]] {
            let (_directory, path) = made("rsa", more);
            let refusal = refusal(&path);
            assert!(refusal.contains("has a passphrase"), "{refusal}");
            assert!(refusal.contains(&format!("ssh-keygen -p -N '' -f {}", path.display())), "{refusal}");
        }
    }

    #[test]
    fn what_is_no_private_key_is_refused_without_quoting_it() {
        let (_directory, path) = made("ed25519", &["-N", ""]);
        assert!(refusal(&path.with_extension("pub")).contains("is a public key"));
        let whole = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = whole.lines().collect();
        for bad in [String::new(), "hello".into(), whole.replace(lines[2], ""), whole.replace(lines[1], "%%%%")] {
            fs::write(&path, &bad).unwrap();
            let refusal = refusal(&path);
            assert!(refusal.contains("is not a private key"), "{refusal}");
            assert!(!refusal.contains(lines[3]) && !refusal.contains("hello"), "{refusal}");
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(refusal(&path).contains("is not a private key"));
        fs::remove_file(&path).unwrap();
        let missing = refusal(&path);
        assert!(missing.contains("does not exist; make a key with"), "{missing}");
    }

    #[test]
    fn a_key_that_others_may_read_is_used() {
        let (_directory, path) = made("ed25519", &["-N", ""]);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        Key::load(&path).unwrap();
    }
}

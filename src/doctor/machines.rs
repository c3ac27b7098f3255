//! What every cloud of machines needs: our SSH key, the agent's program, certificates.

use std::fs;
use std::path::Path;

use super::{Finding, Line};
use crate::config::{AgentTls, CloudKind, Config};
use crate::install::Kit;
use crate::install::authority::Authority;
use crate::private_file::is_shared;
use crate::ssh::{self, Key};

/// The SSH key if it can be used, and what was found.
pub fn check(config: &Config) -> (Option<Key>, Vec<Line>) {
    let key = Key::load(&config.ssh_private_key);
    let finding = match &key {
        Ok(key) => pair(&key.public(), config.ssh_public_key.as_deref()),
        Err(error) => Err(format!("{error}. It is named by ALEPH_SSH_PRIVKEY_PATH.")),
    };
    let lines = vec![
        Line::new("ssh key", finding).with_advice(about_key(config)),
        Line::new("agent program", program(config)),
        Line::new("certificates", certificates(config)).with_advice(about_authority(config)),
    ];
    // silent-ok: the first line tells why there is none.
    (key.ok(), lines)
}

/// Whether the configured public half, if there is one, belongs to the private one.
fn pair(public: &str, configured: Option<&str>) -> Finding {
    let body = |key: &str| key.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
    let kind = public.split_whitespace().next().unwrap_or_default();
    match configured {
        Some(configured) if body(configured) != body(public) => Err(format!(
            "ALEPH_SSH_PUBKEY is not the public half of the key at ALEPH_SSH_PRIVKEY_PATH, so machines would not let us in. \
             Leave it out, or set it to: {public}"
        )),
        Some(_) => Ok(format!("{kind}, both halves belong together")),
        None => Ok(format!("{kind}, machines get {public}")),
    }
}

fn about_key(config: &Config) -> Vec<String> {
    let mut advice = Vec::new();
    if config.cloud == CloudKind::Aleph && config.has_personal_ssh_key() {
        advice.push(
            "this is where people have their own key (ALEPH_SSH_PRIVKEY_PATH is not set). A compute node that names another \
             machine's address as an instance's has us set up an agent there if the key opens it. Make one for this \
             installation alone with `ssh-keygen -t ed25519 -N '' -f FILE`; machines that are there already let in the new one \
             only after its public half was added to their /root/.ssh/authorized_keys."
                .into(),
        );
    }
    advice.extend(shared(&config.ssh_private_key));
    advice
}

fn about_authority(config: &Config) -> Vec<String> {
    let key = config.agent_ca_key_file.as_deref().filter(|_| config.agent_tls == AgentTls::Internal);
    key.and_then(shared).into_iter().collect()
}

fn shared(path: &Path) -> Option<String> {
    is_shared(path).then(|| format!("other users of this host may read {}; `chmod 600` it.", path.display()))
}

fn program(config: &Config) -> Finding {
    // Without the certificates' files, which have a line of their own.
    let own = Config { agent_tls: AgentTls::Acme, agent_ca_file: None, ..config.clone() };
    let kit = Kit::load(&own).map_err(|error| format!("{error}."))?;
    let size = fs::metadata(kit.program_path()).map_or(0, |metadata| metadata.len());
    let (path, sha256) = (kit.program_path().display(), kit.program_sha256());
    Ok(format!("{path}, static, {:.1} MB, SHA-256 {sha256}", size as f64 / 1e6))
}

fn certificates(config: &Config) -> Finding {
    match (config.agent_tls, &config.agent_ca_file, &config.agent_ca_key_file) {
        (AgentTls::Internal, Some(cert), Some(key)) => {
            Authority::load(cert, key).map_err(|error| format!("{error}. `baal ca` makes both files."))?;
            Ok(format!("signed by this program with {}", cert.display()))
        }
        (AgentTls::Internal, ..) => {
            Err("AGENT_CA_FILE and AGENT_CA_KEY_FILE are missing. `baal ca` makes both.".into())
        }
        (AgentTls::Acme, cert, _) => {
            let from = config.agent_acme_urls.iter().map(|url| host(url)).collect::<Vec<_>>().join(", then ");
            let Some(cert) = cert else { return Ok(format!("from {from}")) };
            let pem =
                fs::read(cert).map_err(|error| format!("AGENT_CA_FILE {} cannot be read: {error}.", cert.display()))?;
            reqwest::Certificate::from_pem(&pem)
                .map_err(|_| format!("AGENT_CA_FILE {} is no certificate in PEM.", cert.display()))?;
            Ok(format!("from {from}; {} is trusted too", cert.display()))
        }
    }
}

/// A URL's host, with the port where that is not the scheme's, for lists.
pub fn host(url: &str) -> String {
    let parsed = reqwest::Url::parse(url).ok();
    let named = parsed.as_ref().and_then(|url| Some((url.host_str()?, url.port())));
    match named {
        Some((host, Some(port))) => format!("{host}:{port}"),
        Some((host, None)) => host.to_owned(),
        None => url.to_owned(),
    }
}

/// What to do about a machine that was not reached.
pub fn remedy(error: &ssh::SshError) -> &'static str {
    match error {
        ssh::SshError::Refused { .. } => "Put our public key into its /root/.ssh/authorized_keys.",
        ssh::SshError::HostKeyChanged { .. } => {
            "If you reinstalled it, remove it (`baal host remove`) and add it again; else find out who answers there."
        }
        _ => "Is it up, and its SSH port open to this server?",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn servers_are_told_apart_by_their_ports() {
        assert_eq!(host("https://api2.aleph.im/x"), "api2.aleph.im");
        assert_eq!(host("http://127.0.0.1:8081"), "127.0.0.1:8081");
        assert_eq!(host("nonsense"), "nonsense");
    }

    fn config(more: &[(&str, &str)]) -> Config {
        let values = [
            ("TELEGRAM_BOT_TOKEN", "42:AAAAAAAAAAAAAAAA"),
            ("TELEGRAM_MODE", "polling"),
            ("DATABASE_URL", "postgres://localhost/baal"),
            ("BOT_ENCRYPTION_KEY", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="),
            ("LIBERTAI_API_KEY", "key"),
            ("ALEPH_PRIVATE_KEY", "0101010101010101010101010101010101010101010101010101010101010101"),
        ];
        let values = values.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::from_values(values.collect(), vec![]).expect("valid")
    }

    #[test]
    fn a_key_that_is_not_the_installations_own_or_that_others_may_read_is_told() {
        let told = about_key(&config(&[])).join("\n");
        assert!(told.contains("ALEPH_SSH_PRIVKEY_PATH is not set") && told.contains("ssh-keygen"), "{told}");
        assert!(!about_key(&config(&[("CLOUD", "hosts")])).join("").contains("ALEPH_SSH_PRIVKEY_PATH"));
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().display().to_string();
        let own = config(&[
            ("ALEPH_SSH_PRIVKEY_PATH", &path),
            ("AGENT_TLS", "internal"),
            ("AGENT_CA_FILE", &path),
            ("AGENT_CA_KEY_FILE", &path),
        ]);
        assert!(about_key(&own).is_empty() && about_authority(&own).is_empty());
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).expect("its own");
        assert!(about_key(&own)[0].contains("chmod 600") && about_authority(&own)[0].contains("chmod 600"));
    }

    #[test]
    fn the_halves_of_a_key_pair_are_compared_without_their_comments() {
        assert!(pair("ssh-ed25519 AAAA", None).expect("well").contains("ssh-ed25519 AAAA"));
        assert!(pair("ssh-ed25519 AAAA", Some("ssh-ed25519 AAAA me@here")).is_ok());
        let wrong = pair("ssh-ed25519 AAAA", Some("ssh-ed25519 BBBB")).expect_err("another");
        assert!(wrong.contains("ALEPH_SSH_PUBKEY") && wrong.contains("ssh-ed25519 AAAA"), "{wrong}");
    }
}

//! From a bare Debian to a healthy agent over HTTPS, over one SSH session. Everything can be done again: what is there already
//! is left alone.
//!
//! A machine gets one tar archive on a command's standard input: scripts, units, the web server's configuration and certificate,
//! the agent's configuration. What users wrote is only in the last, never in a command. The agent's program follows where the
//! machine doesn't have it.

mod archive;
pub mod authority;
mod caddyfile;
mod commands;
mod program;
mod words;

use std::path::PathBuf;
use std::sync::Arc;

use baal_protocol::AgentConfig;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tracing::{debug, info, warn};
use uuid::Uuid;

use self::authority::Authority;
use self::caddyfile::{Certificates, SiteName, caddyfile, is_plain};
use self::commands::{FOREIGN, NO_CERTIFICATE, PROGRAM_WANTED, RESTORED};
use self::program::Program;
use crate::config::{AgentTls, Config};
use crate::ssh::{Command, Output, Session, SshError};

pub use self::program::program;

/// Why a machine could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The way to the machine, or a command there.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// The new program or configuration is not healthy; the machine went back to what it had, which is.
    #[error("the agent did not become healthy and the one before it runs again: {0}")]
    Restored(String),
    /// The machine is another one's.
    #[error(
        "the machine carries another machine's mark in /var/lib/baal/vm, so nothing on it was changed; if it is yours and \
         nothing on it is needed any more, run `uninstall.sh --purge` there"
    )]
    Foreign,
    /// No authority gave a certificate.
    #[error("no certificate could be had for {name}: {cause}")]
    Certificate {
        /// The public name.
        name: String,
        /// What the web server's log says.
        cause: String,
    },
    /// Our own files.
    #[error("{0}")]
    Own(String),
}

/// What is put on machines, read once: the agent's program and its hash, units, scripts, and how certificates are made.
#[derive(Clone)]
pub struct Kit(Arc<Parts>);

struct Parts {
    program: Program,
    tls: Tls,
}

enum Tls {
    /// The authority's certificate goes along where clients must trust it too.
    Internal {
        authority: Box<Authority>,
        ca_pem: String,
    },
    Acme {
        directories: Vec<String>,
        email: Option<String>,
        roots_pem: Option<String>,
    },
}

impl Kit {
    /// Finds the agent's program (BAAL_AGENT_BINARY, or `baal-agent` beside this program) and reads the authority's files.
    pub fn load(config: &Config) -> Result<Self, InstallError> {
        let program = Program::load(program(config)?)?;
        Ok(Self(Arc::new(Parts { program, tls: Tls::load(config)? })))
    }

    /// SHA-256 of the agent's program, in hexadecimal.
    pub fn program_sha256(&self) -> &str {
        &self.0.program.sha256
    }

    /// Where the agent's program is on this host.
    pub fn program_path(&self) -> &std::path::Path {
        &self.0.program.path
    }

    /// Waits until the machine's first boot is over, where cloud-init runs it; 10 minutes at most.
    pub async fn wait_for_first_boot(&self, session: &mut Session) -> Result<(), InstallError> {
        let said = session.run(&commands::first_boot()).await?;
        let said = words::last_words(&said.stdout, &[]);
        // What matters of it shows when packages are installed.
        if !said.is_empty() {
            warn!(cloud_init = %said, "the machine's first boot had trouble");
        }
        Ok(())
    }

    /// Everything that an agent needs but its configuration: users, units, program, web server with the certificate for
    /// `name` (a host name or address, perhaps with a port that does not matter here).
    ///
    /// The machine is marked as that of `vm`, its row's id, before anything else; one with another mark is
    /// [`InstallError::Foreign`].
    pub async fn prepare(&self, session: &mut Session, vm: Uuid, name: &str) -> Result<(), InstallError> {
        let no_certificate = |cause: String| InstallError::Certificate { name: name.to_owned(), cause };
        let site = SiteName::parse(name).ok_or_else(|| no_certificate("it is no host name and no address".into()))?;
        let mut key_lines = Vec::new();
        let (certificates, site_pem, ca_pem) = match &self.0.tls {
            Tls::Internal { authority, ca_pem } => {
                let leaf = authority.sign(&site.bare())?;
                key_lines = lines(&leaf.key_pem);
                (Certificates::Given, Some(leaf.cert_chain_pem + leaf.key_pem.expose_secret()), Some(ca_pem.as_str()))
            }
            Tls::Acme { .. } if matches!(site, SiteName::Ip(_)) => {
                let cause = "public authorities give certificates for names; give the machine a public name, or set AGENT_TLS=internal";
                return Err(no_certificate(cause.into()));
            }
            Tls::Acme { directories, email, roots_pem } => {
                let (directories, email, own_roots) = (directories.clone(), email.clone(), roots_pem.is_some());
                (Certificates::Acme { directories, email, own_roots }, None, roots_pem.as_deref())
            }
        };
        let caddyfile = caddyfile(&site, &certificates);
        let mut files = vec![("Caddyfile", caddyfile.as_bytes())];
        files.extend(site_pem.as_ref().map(|pem| ("site.pem", pem.as_bytes())));
        files.extend(ca_pem.map(|pem| ("ca.pem", pem.as_bytes())));
        let given = site_pem.is_some();
        let roots = !given && ca_pem.is_some();
        let command = commands::prepare(vm, self.program_sha256(), &site, given, roots, archive::archive(&files)?);
        let command = Command { secrets: key_lines, ..command };
        match self.run_with_program(session, &command).await {
            Err(InstallError::Ssh(SshError::Failed { status: NO_CERTIFICATE, stderr, .. })) => {
                Err(no_certificate(words::certificate_cause(&stderr)))
            }
            other => other.map(|said| log("machine prepared", &said, &[])),
        }
    }

    /// Program and configuration, which must be as [`on_machine`] makes it; the agent is started and healthy on the machine when
    /// this returns. Where it doesn't become healthy, the last program and configuration that were are put back
    /// ([`InstallError::Restored`]), if there were any. As [`Kit::prepare`], only on a machine that is `vm`'s.
    pub async fn install(&self, session: &mut Session, vm: Uuid, config: &AgentConfig) -> Result<(), InstallError> {
        self.put_there(session, vm, config, false).await
    }

    /// As [`Kit::install`], where the Python system's agent may run: it is stopped, and what it has (workspace, memory,
    /// conversations) becomes the agent's. Where ours does not become healthy, that one is put back and runs again
    /// ([`InstallError::Restored`]).
    pub async fn take_over(&self, session: &mut Session, vm: Uuid, config: &AgentConfig) -> Result<(), InstallError> {
        self.put_there(session, vm, config, true).await
    }

    /// Takes a [`Kit::take_over`] back: the Python system's agent runs again, with what it had then.
    pub async fn give_back(&self, session: &mut Session, vm: Uuid) -> Result<(), InstallError> {
        let said = session.run(&commands::give_back(vm, archive::archive(&[])?)).await.map_err(foreign)?;
        log("agent given back", &said, &[]);
        Ok(())
    }

    async fn put_there(
        &self,
        session: &mut Session,
        vm: Uuid,
        config: &AgentConfig,
        take_over: bool,
    ) -> Result<(), InstallError> {
        let json = serde_json::to_vec(config)
            .map_err(|error| InstallError::Own(format!("the agent's configuration cannot be written: {error}")))?;
        let archive = archive::archive(&[("config.json", &json)])?;
        let secrets = secrets(config);
        let command = if take_over { commands::take_over } else { commands::install };
        let command = Command { secrets: secrets.clone(), ..command(vm, self.program_sha256(), archive) };
        let secrets: Vec<&str> = secrets.iter().map(|secret| secret.expose_secret()).collect();
        match self.run_with_program(session, &command).await {
            Ok(said) => {
                log("agent installed", &said, &secrets);
                Ok(())
            }
            Err(InstallError::Ssh(SshError::Failed { what, status, stderr })) => {
                let stderr = words::last_words(&stderr, &secrets);
                Err(match status {
                    RESTORED => InstallError::Restored(stderr),
                    status => InstallError::Ssh(SshError::Failed { what, status, stderr }),
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Stops the agent and keeps it from being started by a boot; [`Kit::install`] starts it again. All else stays. On a machine
    /// with another's mark than `vm`'s nothing is stopped ([`InstallError::Foreign`]).
    pub async fn halt(&self, session: &mut Session, vm: Uuid) -> Result<(), InstallError> {
        session.run(&commands::halt(vm)).await.map_err(foreign)?;
        Ok(())
    }

    /// Removes agent, configuration, data, certificates and the mark: for machines that are used again. Debian's packages stay.
    /// On a machine with another's mark than `vm`'s nothing is removed ([`InstallError::Foreign`]).
    pub async fn wipe(&self, session: &mut Session, vm: Uuid) -> Result<(), InstallError> {
        let said = session.run(&commands::wipe(vm, archive::archive(&[])?)).await.map_err(foreign)?;
        log("machine wiped", &said, &[]);
        Ok(())
    }

    /// Runs a command, once more after sending the program if the machine asks for it.
    async fn run_with_program(&self, session: &mut Session, command: &Command) -> Result<Output, InstallError> {
        match session.run(command).await {
            Err(SshError::Failed { status: PROGRAM_WANTED, .. }) => {}
            other => return other.map_err(foreign),
        }
        let Program { path, sha256 } = &self.0.program;
        let content = read(path.clone(), sha256.clone()).await?;
        info!(bytes = content.len(), "sending the agent's program");
        session.run(&commands::stage(sha256, content)).await?;
        session.run(command).await.map_err(foreign)
    }
}

fn foreign(error: SshError) -> InstallError {
    match error {
        SshError::Failed { status: FOREIGN, .. } => InstallError::Foreign,
        error => error.into(),
    }
}

/// What of a configuration must not be repeated, as it is and as JSON writes it.
fn secrets(config: &AgentConfig) -> Vec<SecretString> {
    let keys = [Some(&config.libertai_api_key), Some(&config.agent_secret), config.brave_api_key.as_ref()];
    let mut secrets = Vec::new();
    for key in keys.into_iter().flatten().filter(|key| !key.is_empty()) {
        secrets.push(key.clone());
        let json = serde_json::Value::from(key.as_str()).to_string();
        secrets.extend(json.get(1..json.len() - 1).filter(|inner| inner != key).map(str::to_owned));
    }
    secrets.into_iter().map(SecretString::from).collect()
}

async fn read(path: PathBuf, sha256: String) -> Result<Vec<u8>, InstallError> {
    let read = tokio::task::spawn_blocking(move || {
        let content = std::fs::read(&path)
            .map_err(|error| InstallError::Own(format!("{} cannot be read: {error}", path.display())))?;
        if format!("{:x}", Sha256::digest(&content)) == sha256 {
            return Ok(content);
        }
        Err(InstallError::Own(format!("{} is not what it was when Baal started; restart Baal", path.display())))
    });
    read.await.map_err(|error| InstallError::Own(format!("reading the agent's program was cut off: {error}")))?
}

/// A key in PEM, line by line.
fn lines(pem: &SecretString) -> Vec<SecretString> {
    pem.expose_secret().lines().filter(|line| !line.starts_with("-----")).map(SecretString::from).collect()
}

fn log(done: &str, said: &Output, secrets: &[&str]) {
    for line in said.stdout.lines() {
        debug!(line = %words::last_words(line, secrets), "{done}");
    }
    // How long Debian's archive took is not ours to answer for; figures tell it separately.
    if let Some(line) = said.stdout.lines().find(|line| line.starts_with("install: installed ")) {
        info!(packages = %words::last_words(line, secrets), "{done}");
    }
}

impl Tls {
    fn load(config: &Config) -> Result<Self, InstallError> {
        let pem = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .map_err(|error| InstallError::Own(format!("{} cannot be read: {error}", path.display())))
        };
        if config.agent_tls == AgentTls::Internal {
            let (Some(ca), Some(key)) = (&config.agent_ca_file, &config.agent_ca_key_file) else {
                return Err(InstallError::Own(
                    "AGENT_CA_FILE and AGENT_CA_KEY_FILE are needed for AGENT_TLS=internal".into(),
                ));
            };
            return Ok(Self::Internal { authority: Box::new(Authority::load(ca, key)?), ca_pem: pem(ca)? });
        }
        let directories = config.agent_acme_urls.clone();
        let email = config.acme_email.clone();
        for (name, values) in [("AGENT_ACME_URLS", &directories), ("ACME_EMAIL", &email.iter().cloned().collect())] {
            if !values.iter().all(|value| is_plain(value)) {
                return Err(InstallError::Own(format!(
                    "{name} holds characters that no web server's configuration can"
                )));
            }
        }
        Ok(Self::Acme { directories, email, roots_pem: config.agent_ca_file.as_ref().map(pem).transpose()? })
    }
}

/// Where the agent's files are on a machine, whatever is wanted of the agent: ports, paths and sockets of its configuration.
/// They are those of the units in `crates/agent/systemd`.
pub fn on_machine(config: AgentConfig) -> AgentConfig {
    AgentConfig {
        port: 8080,
        db_path: "/var/lib/baal-agent/agent.db".into(),
        workspace_path: "/var/lib/baal-tools/workspace".into(),
        tools_socket: Some("/run/baal-tools.sock".into()),
        guest_tools_socket: Some("/run/baal-guests.sock".into()),
        ..config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_as_they_are_and_as_json_writes_them() {
        let config = AgentConfig {
            libertai_api_key: r#"sk-"\quoted"#.into(),
            agent_secret: "plain".into(),
            brave_api_key: Some(String::new()),
            ..AgentConfig::default()
        };
        let json = serde_json::to_string(&config).expect("JSON");
        let known = secrets(&config);
        let known: Vec<&str> = known.iter().map(|secret| secret.expose_secret()).collect();
        assert_eq!(known, [r#"sk-"\quoted"#, r#"sk-\"\\quoted"#, "plain"]);
        assert!(json.contains(known[1]) && json.contains(known[2]), "the test's premise");
    }

    #[test]
    fn another_machines_mark_is_told_with_what_to_do() {
        let failed = |status| SshError::Failed { what: "a test", status, stderr: "hostile words".into() };
        let told = foreign(failed(FOREIGN)).to_string();
        assert!(told.contains("/var/lib/baal/vm") && told.contains("uninstall.sh --purge"), "{told}");
        assert!(!told.contains("hostile"), "{told}");
        assert!(matches!(foreign(failed(1)), InstallError::Ssh(_)));
    }
}

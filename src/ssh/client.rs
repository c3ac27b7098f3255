//! Connections.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_ssh2_tokio::client::Client;
use async_ssh2_tokio::{Config, Error, ServerCheckMethod};
use russh::ChannelMsg;
use russh::client::Handler;
use russh::keys::{Algorithm, HashAlg, PublicKey};
use tracing::debug;

use super::command::{Received, complaint};
use super::key::openssh;
use super::{Address, Command, Key, Output, SshError};

/// From nothing to an authenticated connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How much later than the machine we end a command: `timeout -k 2` there, and the way back.
const GRACE: Duration = Duration::from_secs(5);
/// How long output may be awaited after a command has ended: something that it left behind may hold the pipe open.
const DRAIN: Duration = Duration::from_secs(2);

/// As whom we log in.
const USER: &str = "root";

/// A frozen or vanished peer is found after four intervals without a sign of life.
fn config() -> Config {
    Config {
        nodelay: true,
        keepalive_interval: Some(Duration::from_secs(2)),
        keepalive_max: 3,
        // The same before keepalives begin, with the authentication. Replies to them count as activity.
        inactivity_timeout: Some(2 * CONNECT_LIMIT),
        // Bulk goes up, not down; several of them share one process' memory.
        window_size: 512 << 10,
        ..Config::default()
    }
}

/// Notes the key that a server shows, and goes no further.
struct Look(Arc<Mutex<Option<PublicKey>>>);

impl Handler for Look {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKey) -> Result<bool, Self::Error> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.clone());
        Ok(false)
    }
}

/// The host key that a machine shows, in OpenSSH's form; we do not authenticate. The machine has proven that it holds the
/// private half.
pub async fn host_key(address: &Address) -> Result<String, SshError> {
    let seen = Arc::new(Mutex::new(None));
    let looked = within(address, async {
        let addresses = resolve(address).await?;
        russh::client::connect(Arc::new(config()), &addresses[..], Look(seen.clone())).await.map_err(Error::SshError)
    })
    .await?;
    let key = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (key, looked) {
        (Some(key), _) => Ok(openssh(&key)),
        (None, Err(error)) => Err(unreachable(address, &error)),
        (None, Ok(_)) => Err(no_answer(address, "it shows no host key".into())),
    }
}

/// An authenticated connection as root. Dropping it ends the connection; a command that is under way on the machine then runs
/// on until its deadline there.
pub struct Session {
    client: Client,
    sent: u64,
    received: u64,
    /// A command was not seen to its end, for whatever reason: its answer could still arrive.
    broken: bool,
}

impl Session {
    /// Connects to a machine that must show `host_key`.
    pub async fn connect(key: &Key, address: &Address, host_key: &str) -> Result<Self, SshError> {
        Self::connect_as(USER, key, address, host_key).await
    }

    /// As [`Session::connect`], as a user that need not be root.
    pub async fn connect_as(user: &str, key: &Key, address: &Address, host_key: &str) -> Result<Self, SshError> {
        let began = Instant::now();
        let changed = || SshError::HostKeyChanged { address: address.clone() };
        let pinned = PublicKey::from_openssh(host_key).map_err(|_| changed())?;
        let base64 = openssh(&pinned).split_whitespace().nth(1).unwrap_or_default().to_owned();
        let mut config = config();
        // A machine has several keys: it must show the one of the kind that we know.
        config.preferred.key = Cow::Owned(match pinned.algorithm() {
            Algorithm::Rsa { .. } => {
                [HashAlg::Sha512, HashAlg::Sha256].map(|hash| Algorithm::Rsa { hash: Some(hash) }).to_vec()
            }
            other => vec![other],
        });
        let connected = within(address, async {
            let addresses = resolve(address).await?;
            let check = ServerCheckMethod::PublicKey(base64);
            Client::connect_with_config(&addresses[..], user, key.method(), check, config).await
        })
        .await?;
        let client = connected.map_err(|error| match error {
            Error::ServerCheckFailed
            | Error::SshError(
                russh::Error::UnknownKey | russh::Error::NoCommonAlgo { kind: russh::AlgorithmKind::Key, .. },
            ) => changed(),
            Error::KeyAuthFailed => SshError::Refused { address: address.clone() },
            other => unreachable(address, &other),
        })?;
        debug!(ssh.address = %address, ms = began.elapsed().as_millis(), "connected over SSH");
        Ok(Self { client, sent: 0, received: 0, broken: false })
    }

    /// Runs a command to its end. After a time-out on our side or a broken connection the session is of no more use, nor after
    /// this future was dropped in the middle.
    pub async fn run(&mut self, command: &Command) -> Result<Output, SshError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(SshError::Broken("an earlier command was not seen to its end; connect again".into()));
        }
        let began = Instant::now();
        let timed_out = || SshError::TimedOut { what: command.what, limit: command.limit };
        let Ok(ended) = tokio::time::timeout(command.limit + GRACE, self.attend(command)).await else {
            self.hang_up().await;
            return Err(timed_out());
        };
        let (end, output) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                self.hang_up().await;
                return Err(error);
            }
        };
        self.broken = false;
        let took = began.elapsed();
        debug!(command.what, ms = took.as_millis(), "a command ended");
        match end {
            End::Status(0) => Ok(output),
            // `timeout` says 124, or dies of the SIGKILL that it sent. Our clock started before its own.
            End::Status(124 | 137) if took >= command.limit => Err(timed_out()),
            End::Status(status) => {
                Err(SshError::Failed { what: command.what, status, stderr: complaint(&output.stderr, command) })
            }
            End::Signal(signal) => Err(SshError::Failed {
                what: command.what,
                status: 255,
                stderr: format!("ended by signal {signal}. {}", complaint(&output.stderr, command)),
            }),
        }
    }

    async fn attend(&mut self, command: &Command) -> Result<(End, Output), SshError> {
        let broken = |cause: &dyn std::fmt::Display| SshError::Broken(format!("during `{}`: {cause}", command.what));
        let channel = self.client.get_channel().await.map_err(|error| broken(&error))?;
        let line = command.line();
        self.sent += line.len() as u64;
        channel.exec(true, line).await.map_err(|error| broken(&error))?;
        let (mut answers, input) = channel.split();
        // Both ways at once: a command that answers while it reads would fill the buffers. That it does not read to the end,
        // so that this fails or never returns, is its own affair: what counts is how it ends.
        let feed = async {
            let fed = input.data(&command.input[..]).await;
            match fed {
                Ok(()) => input.eof().await,
                Err(error) => Err(error),
            }
        };
        tokio::pin!(feed);
        let mut fed = false;
        let mut end = None;
        let mut received = Received::default();
        loop {
            let patience = if end.is_some() { DRAIN } else { Duration::MAX };
            let message = tokio::select! {
                result = &mut feed, if !fed => {
                    fed = true;
                    if result.is_ok() {
                        self.sent += command.input.len() as u64;
                    }
                    continue;
                }
                message = tokio::time::timeout(patience, answers.wait()) => message,
            };
            match message {
                Ok(Some(ChannelMsg::Data { data })) => {
                    self.received += data.len() as u64;
                    received.stdout(&data);
                }
                Ok(Some(ChannelMsg::ExtendedData { data, .. })) => {
                    self.received += data.len() as u64;
                    received.stderr(&data);
                }
                Ok(Some(ChannelMsg::ExitStatus { exit_status })) => end = Some(End::Status(exit_status)),
                Ok(Some(ChannelMsg::ExitSignal { signal_name, .. })) => {
                    end = Some(End::Signal(format!("{signal_name:?}")))
                }
                Ok(Some(ChannelMsg::Failure)) => return Err(broken(&"the machine runs no commands")),
                Ok(Some(ChannelMsg::Close) | None) => break,
                Ok(Some(_)) => {}
                Err(_) => {
                    // silent-ok: the command has ended; the channel is only in the way
                    let _ = input.close().await;
                    break;
                }
            }
        }
        match end {
            Some(end) => Ok((end, received.into_output())),
            None => Err(broken(&"no word of how it ended")),
        }
    }

    /// Bytes sent and received so far, without SSH's own overhead.
    pub fn traffic(&self) -> (u64, u64) {
        (self.sent, self.received)
    }

    /// Says goodbye.
    pub async fn close(self) {
        self.hang_up().await;
    }

    async fn hang_up(&self) {
        // silent-ok: whoever is gone does not answer to a goodbye
        let _ = tokio::time::timeout(Duration::from_secs(1), self.client.disconnect()).await;
    }
}

/// How a command ended.
enum End {
    Status(u32),
    Signal(String),
}

async fn within<T>(address: &Address, connecting: impl Future<Output = T>) -> Result<T, SshError> {
    tokio::time::timeout(CONNECT_LIMIT, connecting)
        .await
        .map_err(|_| no_answer(address, format!("nothing within {} s", CONNECT_LIMIT.as_secs())))
}

/// Beside the runtime's threads, unlike what the client would do with a name.
async fn resolve(address: &Address) -> Result<Vec<SocketAddr>, Error> {
    let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await.map_err(Error::AddressInvalid)?;
    Ok(found.collect())
}

fn unreachable(address: &Address, error: &Error) -> SshError {
    let cause = match error {
        Error::AddressInvalid(error) => format!("the name is not known: {error}"),
        Error::SshError(russh::Error::IO(error)) => error.to_string(),
        Error::SshError(russh::Error::Disconnect | russh::Error::HUP) => "it hung up".into(),
        other => other.to_string(),
    };
    no_answer(address, cause)
}

fn no_answer(address: &Address, cause: String) -> SshError {
    SshError::Unreachable { address: address.clone(), cause }
}

//! PgBouncer in a container: Debian 12's own is too old.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use super::server::{DATABASE, PASSWORD, ROLE};

/// Sessions that it has with Postgres at most, for all its clients.
pub const SESSIONS: i64 = 4;

const IMAGE: &str = "baal-e2e-pgbouncer";

/// One before a Postgres of this host; its container goes with this.
pub struct PgBouncer {
    port: u16,
    container: String,
    _dir: TempDir,
}

impl PgBouncer {
    /// Starts one that leads to the Postgres at this port, and waits until it takes connections.
    pub async fn start(postgres: u16) -> Self {
        build();
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let configuration = format!(
            "[databases]\n* = host=127.0.0.1 port={postgres}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = /etc/pgbouncer/userlist.txt\npool_mode = transaction\n\
             default_pool_size = {SESSIONS}\nmax_client_conn = 500\nmax_prepared_statements = 200\n"
        );
        for (name, text) in [("pgbouncer.ini", configuration), ("userlist.txt", format!("\"{ROLE}\" \"{PASSWORD}\"\n"))]
        {
            std::fs::write(dir.path().join(name), text).unwrap();
            std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(0o644)).unwrap();
        }
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let container = format!("baal-e2e-pgbouncer-{}", uuid::Uuid::new_v4().simple());
        let volume = format!("{}:/etc/pgbouncer:ro", dir.path().display());
        docker(&[
            "run",
            "-d",
            "--name",
            &container,
            "--network",
            "host",
            "-v",
            &volume,
            IMAGE,
            "/etc/pgbouncer/pgbouncer.ini",
        ]);
        let pooler = Self { port, container, _dir: dir };
        pooler.wait_until_ready().await;
        pooler
    }

    /// Where programs reach the database, without the password.
    pub fn url(&self) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/{DATABASE}", self.port)
    }

    /// Ends it without a word to its clients, and starts it again.
    pub async fn restart(&mut self) {
        docker(&["restart", "-t", "0", &self.container]);
        self.wait_until_ready().await;
    }

    async fn wait_until_ready(&self) {
        let options: PgConnectOptions = self.url().parse().unwrap();
        let options = options.password(PASSWORD).extra_float_digits(None);
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(error) = PgConnection::connect_with(&options).await {
            assert!(Instant::now() < deadline, "{error}\n{}", docker(&["logs", "--tail", "20", &self.container]));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let removed = Command::new("docker").args(["rm", "-f", &self.container]).output();
        drop(removed); // silent-ok: a container that stays does no harm but to be there
    }
}

/// Makes the image, which takes a moment where it is made already.
fn build() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pooler");
    docker(&["build", "-q", "-t", IMAGE, &dir.display().to_string()]);
}

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).env("DOCKER_BUILDKIT", "0").output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned();
    assert!(output.status.success(), "docker {arguments:?}: {said}");
    said
}

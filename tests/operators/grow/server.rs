//! A Postgres as a service: reached by TCP, with TLS and a password.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use baal::demo::supervised::{Spec, Supervised, tail};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

/// The role of the program, and its database: names that have to be quoted.
pub const ROLE: &str = "baal-app";
pub const DATABASE: &str = "baal-data";

/// With what a URL has to escape.
pub const PASSWORD: &str = "hunter2@/:%?";

/// A running server; it ends with this.
pub struct Server {
    pub port: u16,
    _process: Supervised,
    dir: TempDir,
}

impl Server {
    /// Starts one whose certificate is for `localhost`, with these lines of pg_hba.conf behind those of its own socket.
    pub async fn start(hba: &str) -> Self {
        // silent-ok: the provider is installed already, by another test of this process
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let account = account();
        let data = dir.path().join("data");
        own(dir.path(), account);
        let bin = programs();
        let initdb = Command::new("setpriv")
            .args(setpriv(account))
            .arg(bin.join("initdb"))
            .arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"])
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
        std::fs::write(data.join("pg_hba.conf"), format!("local all postgres trust\n{hba}\n")).unwrap();
        certificates(dir.path());
        for file in ["server.key", "server.pem", "ca.pem"] {
            own(&dir.path().join(file), account);
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = |file: &str| dir.path().join(file).display().to_string();
        let given = [
            "listen_addresses=localhost".to_owned(),
            format!("port={port}"),
            format!("unix_socket_directories={}", dir.path().display()),
            "max_connections=100".into(),
            "fsync=off".into(),
            "ssl=on".into(),
            format!("ssl_cert_file={}", at("server.pem")),
            format!("ssl_key_file={}", at("server.key")),
            format!("ssl_ca_file={}", at("ca.pem")),
        ];
        let mut arguments: Vec<String> = setpriv(account).iter().map(|&argument| argument.to_owned()).collect();
        arguments.extend([bin.join("postgres").display().to_string(), "-D".into(), data.display().to_string()]);
        arguments.extend(given.into_iter().flat_map(|setting| ["-c".into(), setting]));
        let log = dir.path().join("postgres.log");
        let process = Supervised::spawn(&Spec {
            name: "Postgres",
            program: OsStr::new("setpriv"),
            args: &arguments.iter().map(OsStr::new).collect::<Vec<_>>(),
            env: &[],
            log: &log,
            speaks: false,
            signal: "INT",
            grace: Duration::from_secs(10),
        });
        let server = Self { port, _process: process.unwrap(), dir };
        let mut superuser = server.superuser(&log).await;
        let secret = PASSWORD.replace('\'', "''");
        for statement in [
            format!("create role \"{ROLE}\" login password '{secret}'"),
            format!("create database \"{DATABASE}\" owner \"{ROLE}\""),
        ] {
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut superuser).await.unwrap();
        }
        server
    }

    /// The role's URL without the password, with `parameters` behind the question mark.
    pub fn url(&self, host: &str, parameters: &str) -> String {
        format!("postgres://{ROLE}@{host}:{}/{DATABASE}?{parameters}", self.port)
    }

    /// The role's URL with everything.
    pub fn whole_url(&self) -> String {
        format!("postgres://{ROLE}:{}@localhost:{}/{DATABASE}", "hunter2%40%2F%3A%25%3F", self.port)
    }

    /// A file that the start has made: `ca.pem`, `client.pem`, `client.key`, and `other.pem` of an authority that has signed
    /// nothing.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn superuser(&self, log: &Path) -> PgConnection {
        let options = PgConnectOptions::new_without_pgpass().socket(self.dir.path()).port(self.port);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match PgConnection::connect_with(&options.clone().username("postgres").database("postgres")).await {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < deadline, "{error}\n{}", tail(log, 20)),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The user and group under which the server runs: Postgres refuses to run as root.
fn account() -> (u32, u32) {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if !uid.is_root() {
        return (uid.as_raw(), gid.as_raw());
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("a user `postgres`");
    let mut ids = line.split(':').skip(2).map(|id| id.parse().unwrap());
    (ids.next().unwrap(), ids.next().unwrap())
}

/// The command line that gives a program that account.
fn setpriv(account: (u32, u32)) -> Vec<&'static str> {
    match rustix::process::geteuid().is_root() && account.0 != 0 {
        true => vec!["--reuid=postgres", "--regid=postgres", "--init-groups", "--"],
        false => vec!["--"],
    }
}

fn own(path: &Path, (uid, gid): (u32, u32)) {
    chown(path, Some(uid), Some(gid)).unwrap();
}

fn programs() -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql").unwrap();
    let newest = installed
        .max_by_key(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().parse::<u32>().unwrap_or_default());
    newest.unwrap().unwrap().path().join("bin")
}

/// An authority, a server's and a client's certificate of it, and another authority.
fn certificates(dir: &Path) {
    let authority = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        (Issuer::new(params, key), pem)
    };
    let write = |name: &str, text: &str| {
        std::fs::write(dir.join(name), text).unwrap();
        std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    let (ca, ca_pem) = authority("test authority");
    write("ca.pem", &ca_pem);
    write("other.pem", &authority("another authority").1);
    for (file, names, common_name) in [("server", vec!["localhost".to_owned()], "localhost"), ("client", vec![], ROLE)]
    {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        write(&format!("{file}.pem"), &params.signed_by(&key, &ca).unwrap().pem());
        write(&format!("{file}.key"), &key.serialize_pem());
    }
}

//! Agents' machines that send whatever bytes a test wants, for as long as they are read.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use baal::vault::Vault;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::Stack;

pub const SECRET: &str = "the-secret-of-a-hostile-agent";
pub const BOT: i64 = 1_000_000_001;

/// What is answered to a request.
#[derive(Debug, Clone)]
pub enum Act {
    /// These bytes, and the end of the connection.
    Whole(Vec<u8>),
    /// The first bytes, and then the others again and again until nobody reads any more.
    Forever(Vec<u8>, Vec<u8>),
    /// The same, a byte a second.
    Drip(Vec<u8>),
    /// Nothing, with the connection open.
    Silence,
}

impl Act {
    /// An answer of this type with a head of its own.
    pub fn body(mime: &str, body: impl AsRef<[u8]>) -> Self {
        Self::with(&format!("content-type: {mime}\r\n"), body)
    }

    /// A 200 with these lines of head.
    pub fn with(head: &str, body: impl AsRef<[u8]>) -> Self {
        let mut bytes = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{head}\r\n").into_bytes();
        bytes.extend_from_slice(body.as_ref());
        Self::Whole(bytes)
    }

    pub fn json(body: &Value) -> Self {
        Self::body("application/json", body.to_string())
    }

    /// Events and the end of the stream.
    pub fn events(events: &[Value]) -> Self {
        Self::body(SSE, stream(events))
    }

    /// A stream that goes on for ever.
    pub fn endless(first: &str, again: &[u8]) -> Self {
        Self::Forever([head(SSE).as_bytes(), first.as_bytes()].concat(), again.to_vec())
    }
}

pub const SSE: &str = "text/event-stream";

/// Bytes that the two sockets of a connection may hold, which were sent and not read.
pub fn in_sockets() -> u64 {
    let most = |buffers: &str| -> u64 {
        let limits = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{buffers}")).unwrap();
        limits.split_whitespace().next_back().unwrap().parse().unwrap()
    };
    most("tcp_rmem") + most("tcp_wmem")
}

pub fn head(mime: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: {mime}\r\n\r\n")
}

pub fn stream(events: &[Value]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

/// Many agents behind one port, by the first part of their paths.
#[derive(Clone)]
pub struct Hostile {
    pub port: u16,
    acts: Arc<Mutex<HashMap<String, Act>>>,
    sent: Arc<Mutex<HashMap<String, Arc<AtomicU64>>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Hostile {
    /// Runs for the rest of the test.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let hostile = Self { port, acts: Arc::default(), sent: Arc::default(), requests: Arc::default() };
        let here = hostile.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let here = here.clone();
                // silent-ok: that nobody reads any more is what the tests are about
                tokio::spawn(async move { drop(here.serve(stream).await) });
            }
        });
        hostile
    }

    /// What is answered below this path, such as `/a/chat`.
    pub fn acts(&self, path: &str, act: Act) {
        self.acts.lock().unwrap().insert(path.to_owned(), act);
    }

    pub fn url(&self, agent: &str) -> String {
        format!("http://127.0.0.1:{}/{agent}", self.port)
    }

    /// Bytes that went out below this path.
    pub fn sent(&self, path: &str) -> u64 {
        self.sent.lock().unwrap().get(path).map_or(0, |sent| sent.load(Ordering::Relaxed))
    }

    /// Methods and paths of all requests.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut request = vec![];
        let mut piece = [0; 4096];
        let end = loop {
            if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read(&mut piece).await? {
                0 => return Ok(()),
                read => request.extend_from_slice(&piece[..read]),
            }
        };
        let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        while request.len() < end + length {
            match stream.read(&mut piece).await? {
                0 => return Ok(()),
                read => request.extend_from_slice(&piece[..read]),
            }
        }
        let line = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
        let path = line.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
        self.requests.lock().unwrap().push(line);
        let found = {
            let acts = self.acts.lock().unwrap();
            let fits = acts.iter().filter(|(prefix, _)| path.starts_with(prefix.as_str()));
            fits.max_by_key(|(prefix, _)| prefix.len()).map(|(prefix, act)| (prefix.clone(), act.clone()))
        };
        let Some((prefix, act)) = found else {
            return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        };
        let sent = self.sent.lock().unwrap().entry(prefix).or_default().clone();
        let mut write = async |bytes: &[u8]| {
            for piece in bytes.chunks(64 * 1024) {
                stream.write_all(piece).await?;
                sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            Ok::<_, std::io::Error>(())
        };
        match act {
            Act::Whole(bytes) => write(&bytes).await?,
            Act::Forever(first, again) => {
                write(&first).await?;
                // Some at once, so that it is as fast as it can be.
                let again = again.repeat((64 * 1024 / again.len()).max(1));
                loop {
                    write(&again).await?;
                }
            }
            Act::Drip(bytes) => {
                write(&bytes).await?;
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    write(b":").await?;
                }
            }
            Act::Silence => tokio::time::sleep(Duration::from_secs(3_600)).await,
        }
        stream.shutdown().await
    }

    /// An agent of this name, whose owner talks to it; its number.
    pub async fn agent_of(&self, stack: &Stack, owner: i64, name: &str, protocol: i32) -> i64 {
        let vault = Vault::new(&"cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=".to_owned().into()).unwrap();
        let id: i64 = sqlx::query_scalar(
            "with owner as (insert into users (id, name) values ($1, 'Somebody') on conflict do nothing),
             agent as (
               insert into agents (owner_id, bot_id, chat_id, name, system_prompt, model, visibility, status, secret, url,
                                   protocol)
               values ($1, $6, $1, $2, 'You are hostile.', 'glm-4.7', 'public', 'running', $3, $4, $5) returning id),
             link as (insert into links (agent_id) select id from agent)
             select id from agent",
        )
        .bind(owner)
        .bind(name)
        .bind(vault.encrypt(SECRET.as_bytes()))
        .bind(self.url(name))
        .bind(protocol)
        .bind(BOT)
        .fetch_one(&stack.db)
        .await
        .unwrap();
        sqlx::query(
            "insert into conversations (bot_id, chat_id, agent_id) values ($1, $2, $3)
             on conflict (bot_id, chat_id) do update set agent_id = excluded.agent_id",
        )
        .bind(BOT)
        .bind(owner)
        .bind(id)
        .execute(&stack.db)
        .await
        .unwrap();
        id
    }
}

/// The most memory that the program has held, in bytes.
pub fn most_memory(stack: &Stack) -> u64 {
    let pid = stack.baal(0).pid().as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Bounds of what it may hold under attack: a debug build, with room.
pub const MEMORY: u64 = 300 * 1024 * 1024;

/// A server in the control plane's network, which nobody may be led to; what it was asked.
pub async fn canary() -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (port, calls)
}

/// Somebody with a good agent is answered while `attack` goes on, every time; how long the slowest answer took.
pub async fn answered_meanwhile(stack: &Stack, user: i64, attack: impl Future<Output = ()>) -> Duration {
    let mut slowest = Duration::ZERO;
    let mut asked = 0;
    let mut attack = std::pin::pin!(attack);
    loop {
        let begun = std::time::Instant::now();
        stack.user(user).asks(&format!("are you there? {asked}"), "I am here.").await;
        slowest = slowest.max(begun.elapsed());
        asked += 1;
        tokio::select! {
            () = &mut attack => break,
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
        }
    }
    println!("{asked} questions to a good agent meanwhile, the slowest answer after {slowest:?}");
    slowest
}

//! Users: each sends a message, waits for its reply, and sends the next.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::stack::{FIRST_USER, SECRET};
use crate::telegram::Ears;

/// For a reply; nothing may be lost.
const PATIENCE: Duration = Duration::from_secs(60);

static NEXT_UPDATE: AtomicI64 = AtomicI64::new(1);

/// A connection of Telegram's to the webhook. Raw HTTP/1.1, so that the driver takes little of the processors.
pub struct Webhook {
    stream: TcpStream,
    address: SocketAddr,
}

impl Webhook {
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, address })
    }

    /// Delivers a message of this user; the answer's status.
    pub async fn post(&mut self, user: i64, text: &str) -> anyhow::Result<u16> {
        let id = NEXT_UPDATE.fetch_add(1, Ordering::Relaxed);
        let body = format!(
            r#"{{"update_id":{id},"message":{{"message_id":{id},"date":1700000000,"chat":{{"id":{user},"type":"private","first_name":"U"}},"from":{{"id":{user},"is_bot":false,"first_name":"U","language_code":"en"}},"text":"{text}"}}}}"#
        );
        let request = format!(
            "POST /telegram/webhook HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\nx-telegram-bot-api-secret-token: {SECRET}\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        // Answers are short and come in one piece; none has a body that is worth reading.
        let mut answer = [0; 4096];
        let mut filled = 0;
        while !answer[..filled].windows(4).any(|end| end == b"\r\n\r\n") {
            let read = self.stream.read(&mut answer[filled..]).await?;
            ensure!(read > 0, "the webhook closed the connection");
            filled += read;
        }
        std::str::from_utf8(&answer[9..12])?.parse().context("no status")
    }
}

/// Times of all replies within `length`, and how long it really took.
pub async fn run(
    webhooks: &[SocketAddr],
    ears: Ears,
    users: usize,
    length: Duration,
) -> anyhow::Result<(Vec<Duration>, Duration, Ears)> {
    let begun = Instant::now();
    let mut running = JoinSet::new();
    let each = ears.len() / users;
    let mut groups: Vec<Vec<(usize, UnboundedReceiver<String>)>> =
        (0..users).map(|_| Vec::with_capacity(each)).collect();
    for (at, ear) in ears.into_iter().enumerate() {
        groups[at % users].push((at, ear));
    }
    for (at, mut group) in groups.into_iter().enumerate() {
        let mut webhook = Webhook::connect(webhooks[at % webhooks.len()]).await?;
        running.spawn(async move {
            let mut times = Vec::new();
            'all: loop {
                // Several people in turn, where one alone would be taken for a flood.
                for (user, ear) in &mut group {
                    if begun.elapsed() >= length {
                        break 'all;
                    }
                    let text = format!("message {}", times.len());
                    let sent = Instant::now();
                    let status = webhook.post(FIRST_USER + *user as i64, &text).await?;
                    ensure!(status == 200, "the webhook answers {status}");
                    let reply = timeout(PATIENCE, ear.recv()).await.context("no reply")?.context("Telegram is gone")?;
                    ensure!(reply == text, "another reply than the one to {text:?}: {reply:?}");
                    times.push(sent.elapsed());
                }
            }
            Ok((times, group))
        });
    }
    let (mut all, mut back) = (Vec::new(), Vec::new());
    while let Some(ended) = running.join_next().await {
        let (times, group) = ended??;
        all.extend(times);
        back.extend(group);
    }
    let took = begun.elapsed();
    back.sort_by_key(|(at, _)| *at);
    Ok((all, took, back.into_iter().map(|(_, ear)| ear).collect()))
}

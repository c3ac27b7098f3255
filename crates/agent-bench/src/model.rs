//! A model that answers at once with one short stream, and counts what it is sent.

use crate::chat::{content_length, head_end};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The pieces in which services say something short: role, text, reason to finish, usage, end.
const EVENTS: &str = "data: {\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"instant\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n\
data: {\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"instant\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"The river bends where the old mill stands.\"},\"finish_reason\":null}]}\n\n\
data: {\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"instant\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
data: {\"id\":\"c-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"instant\",\"choices\":[],\"usage\":{\"prompt_tokens\":900,\"completion_tokens\":9,\"total_tokens\":909}}\n\n\
data: [DONE]\n\n";

/// The model's address and counters.
pub struct Model {
    /// Where it listens.
    pub address: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    body_bytes: AtomicU64,
}

impl Model {
    /// Connections that were opened so far.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Bytes of all requests so far, without their heads.
    pub fn body_bytes(&self) -> u64 {
        self.counts.body_bytes.load(Ordering::Relaxed)
    }
}

/// Starts the model in the background of the runtime.
///
/// # Errors
/// No port could be had.
pub async fn serve() -> std::io::Result<Model> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let model = Model { address: listener.local_addr()?, counts: Arc::default() };
    let counts = model.counts.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            counts.connections.fetch_add(1, Ordering::Relaxed);
            // silent-ok: a connection that the agent closes is one connection more in the table
            tokio::spawn(answer(connection, counts.clone()));
        }
    });
    Ok(model)
}

async fn answer(mut connection: TcpStream, counts: Arc<Counts>) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    // In one write: the agent's cost is to be measured, not the kernel's for many packets.
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{EVENTS}\r\n0\r\n\r\n",
        EVENTS.len()
    );
    let mut received = Vec::with_capacity(64 * 1024);
    loop {
        let head = loop {
            if let Some(end) = head_end(&received) {
                break end;
            }
            if connection.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
        };
        let length = content_length(&received[..head]);
        while received.len() < head + length {
            if connection.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
        }
        counts.body_bytes.fetch_add(length as u64, Ordering::Relaxed);
        received.drain(..head + length);
        connection.write_all(answer.as_bytes()).await?;
    }
}

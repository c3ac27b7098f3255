//! One caller of the agent on one connection, with as little HTTP as it takes: the driver must not be what is measured.

use anyhow::{Context, bail, ensure};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The bearer secret of the agents that are measured.
pub const SECRET: &str = "bench";

/// A kept connection that talks in one chat at a time.
pub struct Caller {
    connection: TcpStream,
    received: Vec<u8>,
}

impl Caller {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn connect(agent: SocketAddr) -> anyhow::Result<Self> {
        let connection = TcpStream::connect(agent).await?;
        connection.set_nodelay(true)?;
        Ok(Self { connection, received: Vec::with_capacity(8 * 1024) })
    }

    /// One turn, from the request to the last byte of its events.
    ///
    /// # Errors
    /// The turn didn't end with an answer.
    pub async fn turn(&mut self, chat_id: &str, number: u64, stream: bool) -> anyhow::Result<Duration> {
        let body = format!(
            "{{\"message\":\"Message {number}: what does the river do at the old mill?\",\"chat_id\":\"{chat_id}\",\"stream\":{stream}}}"
        );
        let request = format!(
            "POST /chat HTTP/1.1\r\nhost: agent\r\nauthorization: Bearer {SECRET}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let begun = Instant::now();
        self.connection.write_all(request.as_bytes()).await?;
        self.received.clear();
        while !self.received.ends_with(b"\r\n0\r\n\r\n") {
            let read = self.connection.read_buf(&mut self.received).await?;
            ensure!(read > 0, "the agent closed the connection in the middle of a turn");
            if !self.received.starts_with(b"HTTP/1.1 200 ") {
                bail!("the agent refused a turn: {}", String::from_utf8_lossy(&self.received));
            }
        }
        let took = begun.elapsed();
        let answer = std::str::from_utf8(&self.received).context("the answer is no text")?;
        ensure!(answer.contains("where the old mill stands"), "a turn without an answer: {answer}");
        Ok(took)
    }
}

/// Where the body of a message begins, once its head is whole.
pub fn head_end(message: &[u8]) -> Option<usize> {
    message.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The length that a head tells; 0 where it tells none.
pub fn content_length(head: &[u8]) -> usize {
    let lines = head.split(|&byte| byte == b'\n');
    let mut lengths = lines.filter_map(|line| {
        let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    lengths.next().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_where_the_body_begins_and_how_long_it_is() {
        let message = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n{\"a\": \"\r\n\"}";
        assert_eq!(head_end(message), Some(48));
        assert_eq!(content_length(message), 12);
        assert_eq!((head_end(b"POST / HTTP/1.1\r\n"), content_length(b"GET / HTTP/1.1\r\n\r\n")), (None, 0));
    }
}

//! The line to hold it against from above: the same HTTP calls, and nothing stored.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Where its far sides are.
pub const AGENTS: &str = "BAAL_BENCH_AGENTS";
/// Telegram's stub.
pub const TELEGRAM: &str = "BAAL_BENCH_TELEGRAM";

/// Serves until it is killed; tells its address on standard output.
pub async fn serve() -> anyhow::Result<()> {
    let (agents, telegram) = (std::env::var(AGENTS)?, std::env::var(TELEGRAM)?);
    let client = reqwest::Client::new();
    let app = Router::new().route(
        "/telegram/webhook",
        post(move |body: Bytes| {
            let (client, agents, telegram) = (client.clone(), agents.clone(), telegram.clone());
            async move {
                tokio::spawn(async move {
                    if let Err(error) = relay(&client, &agents, &telegram, &body).await {
                        eprintln!("the relay lost a message: {error:#}");
                    }
                });
                StatusCode::OK
            }
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address: SocketAddr = listener.local_addr()?;
    println!("{address}");
    axum::serve(listener, app).await?;
    Ok(())
}

async fn relay(client: &reqwest::Client, agents: &str, telegram: &str, update: &[u8]) -> anyhow::Result<()> {
    let update: Value = serde_json::from_slice(update)?;
    let message = &update["message"];
    let ask = json!({"message": message["text"], "chat_id": message["chat"]["id"].to_string(), "stream": true});
    let events =
        client.post(format!("http://{agents}/chat")).bearer_auth("secret").json(&ask).send().await?.text().await?;
    let mut words = String::new();
    for line in events.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let event: Value = serde_json::from_str(line)?;
        if event["type"] == "text" {
            words.push_str(event["content"].as_str().unwrap_or_default());
        }
    }
    let send = json!({"chat_id": message["chat"]["id"], "text": words});
    client.post(format!("http://{telegram}/bot1:x/sendMessage")).json(&send).send().await?.bytes().await?;
    Ok(())
}

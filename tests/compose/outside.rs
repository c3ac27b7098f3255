//! What the world, and who may look at containers, get to see.

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::docker::{docker, inspect};
use crate::harness::{DEADLINE, POLL};
use crate::installation::Installation;

/// Whoever runs `docker compose up` needs to do nothing else: Telegram knows where updates go, with which secret, and the menu.
pub async fn telegram_knows_the_bot(installation: &Installation) {
    let simulator = &installation.simulator;
    let deadline = Instant::now() + DEADLINE;
    let (calls, webhook) = loop {
        let calls = simulator.get("/sim/requests").await;
        let webhook = calls.as_array().unwrap().iter().rfind(|call| is(call, "setWebhook")).cloned();
        if let Some(webhook) = webhook {
            break (calls, webhook);
        }
        assert!(Instant::now() < deadline, "no webhook is set: {calls:#}");
        tokio::time::sleep(POLL).await;
    };
    let said = &webhook["params"];
    assert_eq!(said["url"], installation.url("/telegram/webhook"));
    assert_eq!(said["secret_token"], installation.secret("TELEGRAM_WEBHOOK_SECRET"));
    assert_eq!(said["max_connections"], 100);
    for kind in ["message", "callback_query"] {
        assert!(said["allowed_updates"].as_array().unwrap().contains(&json!(kind)), "{said}");
    }
    let menus = calls.as_array().unwrap().iter().filter(|call| is(call, "setMyCommands")).count();
    assert!(menus >= 1, "no menu is set: {calls:#}");
}

fn is(call: &Value, method: &str) -> bool {
    call["method"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(method))
}

/// Of the whole API, figures and pages nothing is there but the webhook, and that wants its secret.
pub async fn only_the_webhook_is_public(installation: &Installation) {
    let (client, token) = (installation.client(), installation.secret("ADMIN_TOKEN"));
    for path in
        ["/", "/metrics", "/api/v1/agents", "/docs", "/docs/", "/openapi.json", "/healthz", "/readyz", "/telegram"]
    {
        let answer = client.get(installation.url(path)).bearer_auth(&token).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.text().await.unwrap(), "", "{path}");
    }
    let update = json!({"update_id": 1}).to_string();
    let webhook = installation.url("/telegram/webhook");
    let answer = client.post(&webhook).body(update).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(asks_for_https(&answer), "{answer:?}");
    // No update of Telegram's is so long.
    let secret = installation.secret("TELEGRAM_WEBHOOK_SECRET");
    let long = client.post(&webhook).header("X-Telegram-Bot-Api-Secret-Token", secret).body(" ".repeat(2 << 20));
    // It is refused before it is sent whole, which some clients tell as an error.
    if let Ok(answer) = long.send().await {
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}

/// The API and its pages are there under the name of their own, for who has a token; figures are not.
pub async fn administrators_have_a_site_of_their_own(installation: &Installation) {
    let (client, token) = (installation.client(), installation.secret("ADMIN_TOKEN"));
    for (path, token, expected) in [
        ("/api/v1/system", token.as_str(), StatusCode::OK),
        ("/api/v1/system", "a-token-that-nobody-made", StatusCode::UNAUTHORIZED),
        ("/openapi.json", "", StatusCode::OK),
        ("/metrics", token.as_str(), StatusCode::NOT_FOUND),
        ("/healthz", token.as_str(), StatusCode::NOT_FOUND),
        ("/telegram/webhook", token.as_str(), StatusCode::NOT_FOUND),
    ] {
        let answer = client.get(installation.admin_url(path)).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{path}");
        assert!(asks_for_https(&answer), "{path}: {answer:?}");
    }
}

/// Whether browsers are told never to come without encryption.
fn asks_for_https(answer: &Response) -> bool {
    let header = answer.headers().get("strict-transport-security");
    header.is_some_and(|value| value.to_str().is_ok_and(|value| value.contains("max-age=31536000")))
}

/// Only Caddy has ports; nobody works as root, writes to its root or has rights of root's; and no secret is among what the
/// engine tells of containers and images.
pub fn containers_are_confined_and_hold_no_secret_in_sight(installation: &Installation) {
    let ids = installation.all_containers();
    let containers = inspect(&ids);
    let mut told = String::new();
    for container in &containers {
        let service = container["Config"]["Labels"]["com.docker.compose.service"].as_str().unwrap();
        let limits = &container["HostConfig"];
        let open: Vec<&str> = limits["PortBindings"]
            .as_object()
            .into_iter()
            .flat_map(|ports| ports.values())
            .flat_map(|bindings| bindings.as_array().unwrap())
            .map(|binding| binding["HostPort"].as_str().unwrap())
            .collect();
        let may: Vec<String> = if service == "caddy" { installation.ports().into() } else { vec![] };
        assert!(open.iter().all(|port| may.iter().any(|may| may == port)), "{service} has the ports {open:?}");
        assert_eq!(open.len(), may.len(), "{service} has the ports {open:?}");
        assert_eq!(limits["Privileged"], false, "{service}");
        assert_eq!(limits["CapDrop"], json!(["ALL"]), "{service}");
        assert!(limits["SecurityOpt"].to_string().contains("no-new-privileges"), "{service}");
        assert!(limits["Memory"].as_i64().unwrap() > 0 && limits["PidsLimit"].as_i64().unwrap() > 0, "{service}");
        if service == "baal" {
            assert_eq!(container["Config"]["User"], "10001:10001");
            assert_eq!(limits["ReadonlyRootfs"], true);
        }
        if container["State"]["Running"] == true && service != "caddy" {
            let users = docker(["top", container["Id"].as_str().unwrap(), "-eo", "pid,uid"]);
            let roots = users.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some("0"));
            assert!(!roots, "{service} works as root: {users}");
        }
        let image = container["Image"].as_str().unwrap();
        told += &container.to_string();
        told += &docker(["history", "--no-trunc", image]);
        told += &docker(["inspect", image]);
    }
    for (name, secret) in installation.secrets() {
        assert!(!told.contains(&secret), "{name} can be seen");
    }
}

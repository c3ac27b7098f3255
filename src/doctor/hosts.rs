//! Hosts that the operator brought: each must answer, be the one that it was, and let us in.

use futures_util::{StreamExt as _, stream};

use super::Line;
use super::machines::remedy;
use crate::app::App;
use crate::cloud::hosts::{self, Host};
use crate::ssh::{self, Key, Session};

/// Hosts that are looked at side by side.
const AT_ONCE: usize = 8;

/// All that CLOUD=hosts needs.
pub async fn check(app: &App, key: Option<&Key>) -> Vec<Line> {
    let listed = async { hosts::list(&mut *app.db.acquire().await?).await };
    let listed = match listed.await {
        Ok(listed) if listed.is_empty() => {
            return vec![Line::new("hosts", Err("there are none. `baal host add ADDRESS` adds one.".into()))];
        }
        Ok(listed) => listed,
        Err(error) => {
            return vec![Line::new("hosts", Err(format!("unknown, as the database does not answer ({error}).")))];
        }
    };
    stream::iter(listed)
        .map(|(host, there)| async move {
            let used = if there.is_some() { "in use" } else { "free" };
            let finding = look(&host, key).await.map(|()| format!("{used}, lets us in"));
            Line::new(format!("host {} at {}", host.id, host.ssh), finding)
        })
        .buffered(AT_ONCE)
        .collect()
        .await
}

async fn look(host: &Host, key: Option<&Key>) -> Result<(), String> {
    let told = |error: ssh::SshError| format!("{error}. {}", remedy(&error));
    let pinned = match &host.host_key {
        Some(pinned) => pinned.clone(),
        None => ssh::host_key(&host.ssh).await.map_err(told)?,
    };
    let Some(key) = key else { return Err("not looked at, as there is no SSH key.".into()) };
    let session = Session::connect(key, &host.ssh, &pinned).await.map_err(told)?;
    session.close().await;
    Ok(())
}

//! `baal aleph preview`: what would be sent, without sending it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::instances::fallback_image;
use super::signing::{KEY_HEADER, OPERATION_HEADER};
use super::{Aleph, Crn};
use crate::cloud::store;
use crate::config::Config;
use crate::database;
use crate::ssh;

/// How long the database may take to say this installation's id.
const DATABASE_WITHIN: Duration = Duration::from_secs(5);

/// What is to be shown: an instance's message, or with `crn` the headers of a request to a compute node.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Hash of the compute node that the instance is pinned to; the best one if not given.
    #[arg(long, value_name = "HASH")]
    node: Option<String>,
    /// Show the signed headers of a request to the compute node at this URL instead.
    #[arg(long, value_name = "URL", requires = "path", conflicts_with = "node")]
    crn: Option<String>,
    /// The request's method.
    #[arg(long, default_value = "POST", requires = "crn")]
    method: String,
    /// The request's path, without a query.
    #[arg(long, requires = "crn")]
    path: Option<String>,
}

/// Makes what is to be shown. Reads from network and database at most; what could not be read is said on standard error.
pub async fn run(config: &Config, options: &Options) -> anyhow::Result<Value> {
    let public = match &config.ssh_public_key {
        Some(public) => public.clone(),
        None => ssh::Key::load(&config.ssh_private_key).context("ALEPH_SSH_PUBKEY is not set either")?.public(),
    };
    let aleph = Aleph::new(config, public)?;
    if let (Some(crn), Some(path)) = (&options.crn, &options.path) {
        if !path.starts_with('/') || path.contains(['?', '#']) {
            bail!("--path must begin with / and have no query");
        }
        let signed = aleph.sign(crn, &options.method.to_ascii_uppercase(), path)?;
        return Ok(json!({ KEY_HEADER: signed.key, OPERATION_HEADER: signed.operation }));
    }
    let crn = match &options.node {
        Some(hash) => {
            super::gateway::native(hash).ok().context("--node is not a hash of 64 hexadecimal digits")?;
            Crn { hash: hash.to_ascii_lowercase(), url: String::new(), name: String::new() }
        }
        None => {
            let best =
                aleph.candidates(&Default::default()).await.context("no node could be chosen; give one by --node")?;
            best.into_iter().next().context("no node could be chosen; give one by --node")?
        }
    };
    let (image, image_from) = known_or(aleph.image().await, "root image", fallback_image);
    let (hourly, price_from) = known_or(aleph.hourly().await, "price", || aleph.fallback_hourly());
    let (installation, installation_from) = match known_installation(config).await {
        Ok(id) => (id, "database"),
        Err(error) => {
            eprintln!(
                "baal: this installation's id could not be read from the database ({error:#}), so another is in the message. \
                 If anybody posts it, no installation will remove the instance."
            );
            (Uuid::new_v4(), "made up")
        }
    };
    let instance = aleph.compose_with(image, &crn, installation, Uuid::new_v4())?;
    eprintln!(
        "baal: the message is signed: whoever gets hold of it can post it, and the account pays for the instance. Do not \
         hand it on."
    );
    Ok(json!({
        "message": instance.message,
        "public_name": aleph.public_name(&instance.item_hash)?,
        "crn": crn,
        "image_from": image_from,
        "installation_from": installation_from,
        "price": { "credits_per_hour": hourly, "credits_per_day": hourly.saturating_mul(24), "from": price_from },
    }))
}

/// With this id the reconciler finds an instance that somebody made of the message, and removes it.
async fn known_installation(config: &Config) -> anyhow::Result<Uuid> {
    let read = async {
        let mut conn = PgConnection::connect_with(&database::session(config, "baal")?).await?;
        let id = store::installation_id(&mut conn).await?;
        conn.close().await?;
        Ok::<_, sqlx::Error>(id)
    };
    Ok(tokio::time::timeout(DATABASE_WITHIN, read).await.context("no answer in time")??)
}

/// What the network said, or what is known here; and which of the two it is.
fn known_or<T>(said: Result<T, super::AlephError>, what: &str, known: impl FnOnce() -> T) -> (T, &'static str) {
    match said {
        Ok(value) => (value, "network"),
        Err(error) => {
            eprintln!("baal: the {what} could not be read from the network ({error}); the one known here is used");
            (known(), "built in")
        }
    }
}

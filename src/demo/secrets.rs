//! The demo's own secrets, made once.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use rand::distr::{Alphanumeric, SampleString as _};
use serde::{Deserialize, Serialize};

/// What must stay the same from one run of the demo to the next, or its chats and agents would be lost.
#[derive(Serialize, Deserialize)]
pub struct Secrets {
    /// The bot's token at the simulator.
    pub bot_token: String,
    pub webhook_secret: String,
    /// A Fernet key.
    pub encryption_key: String,
    /// Unknown to LibertAI; the simulator takes any.
    pub libertai_api_key: String,
    /// For the API and its documentation at /docs. Demos of before it came have none in their file.
    #[serde(default)]
    pub admin_token: String,
}

impl Secrets {
    /// Reads the file, or makes it, readable for its owner only.
    pub fn load_or_make(file: &Path) -> anyhow::Result<Self> {
        let mut secrets = match fs::read(file) {
            // serde's error would quote the file.
            Ok(bytes) => serde_json::from_slice(&bytes).ok().with_context(|| {
                format!("{} is damaged: remove it together with the agents and the database beside it", file.display())
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(),
            Err(error) => return Err(error).with_context(|| format!("can't read {}", file.display())),
        };
        if secrets.admin_token.is_empty() {
            secrets.admin_token = random(40);
            let new = file.with_extension("new");
            let mut output = File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            output.write_all(&serde_json::to_vec_pretty(&secrets)?)?;
            output.sync_all()?;
            fs::rename(new, file)?;
        }
        Ok(secrets)
    }

    fn make() -> Self {
        Self {
            bot_token: format!("1000000001:{}", random(35)),
            webhook_secret: random(48),
            encryption_key: fernet::Fernet::generate_key(),
            libertai_api_key: format!("demo-{}", random(24)),
            admin_token: String::new(),
        }
    }
}

fn random(length: usize) -> String {
    Alphanumeric.sample_string(&mut rand::rng(), length)
}

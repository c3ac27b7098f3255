//! `baal doctor`: checks every far side and every file that the configuration names, and says what to do. What does not answer
//! is said so, and the other checks go on.

mod aleph;
mod hosts;
mod machines;
mod secrets;

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::ExposeSecret;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use teloxide_core::payloads::GetMe;
use uuid::Uuid;

use crate::app::App;
use crate::cloud::{local, reconcile};
use crate::config::{AgentTls, CloudKind, Config, TelegramMode};
use crate::database;
use crate::database::MIGRATIONS;
use crate::telegram::api::TIMEOUT;

/// The same in two sessions only where they are of one database of one server.
const HERE: &str = "select oid::int8 # extract(epoch from pg_postmaster_start_time())::int8 from pg_database where datname = current_database()";

/// What is well, or what is wrong and what to do about it.
type Finding = Result<String, String>;

/// A line of the list: what was looked at, and how it is.
struct Line {
    what: String,
    finding: Finding,
    /// What works but would better be otherwise.
    advice: Vec<String>,
}

impl Line {
    fn new(what: impl Into<String>, finding: Finding) -> Self {
        Self { what: what.into(), finding, advice: vec![] }
    }

    fn with_advice(self, advice: Vec<String>) -> Self {
        Self { advice, ..self }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.finding {
            Ok(fine) => write!(f, "✔ {}: {fine}", self.what),
            Err(trouble) => write!(f, "✘ {}: {trouble}", self.what),
        }?;
        self.advice.iter().try_for_each(|advice| write!(f, "\n  ! {advice}"))
    }
}

/// Runs all checks and prints a line for each. `false` if any failed.
pub async fn run(config: Config) -> anyhow::Result<bool> {
    // What the clouds need is looked at piece by piece below; the rest must be found whatever is missing there.
    let general = Config { cloud: CloudKind::Local, agent_tls: AgentTls::Acme, agent_ca_file: None, ..config.clone() };
    let app = App::new(general).context("the checks cannot begin")?;
    let mut lines = vec![
        Line::new("database", postgres(&app).await),
        Line::new("schema", schema(&app).await),
        Line::new("clock", clock(&app).await),
        secrets::check(&app).await,
        Line::new("telegram", telegram(&app).await),
        Line::new("updates", updates(&app).await),
        Line::new("libertai", libertai(&app).await),
    ];
    lines.extend(direct(&app).await);
    match config.cloud {
        CloudKind::Local => {
            lines.push(Line::new("agent program", agent_program(&app)));
            lines.push(Line::new("agent directory", agent_directory(&app)));
        }
        CloudKind::Aleph => {
            let (key, found) = machines::check(&config);
            lines.extend(found);
            lines.extend(aleph::check(&app, &config, key.as_ref()).await);
        }
        CloudKind::Hosts => {
            let (key, found) = machines::check(&config);
            lines.extend(found);
            lines.extend(hosts::check(&app, key.as_ref()).await);
        }
    }
    lines.extend(out_of_reach(&app, config.cloud).await.map(|finding| Line::new("other clouds", finding)));
    for line in &lines {
        println!("{line}");
    }
    Ok(lines.iter().all(|line| line.finding.is_ok()))
}

/// Machines that cannot be removed because CLOUD was changed; nothing to say where there are none.
async fn out_of_reach(app: &App, cloud: CloudKind) -> Option<Finding> {
    let stuck = async { reconcile::out_of_reach(&mut *app.db.acquire().await?, cloud).await };
    match stuck.await {
        Ok(stuck) if stuck.is_empty() => None,
        Ok(stuck) => Some(Err(format!(
            "{} machines were made with another CLOUD and cannot be removed with CLOUD={}. `baal reconcile --dry-run` names \
             them. Set CLOUD and its variables back, have their agents deleted, and change CLOUD once they are gone.",
            stuck.len(),
            cloud.as_str()
        ))),
        // silent-ok: what is wrong with the database is said above.
        Err(_) => None,
    }
}

async fn postgres(app: &App) -> Finding {
    let version: String = sqlx::query_scalar("show server_version")
        .fetch_one(&app.db)
        .await
        .map_err(|error| format!("{}.", database::trouble(&error)))?;
    let major = version.split(['.', ' ']).next().and_then(|major| major.parse::<u32>().ok()).unwrap_or(0);
    if major < 15 {
        return Err(format!("Postgres {version} is too old. Use 15 or newer."));
    }
    Ok(format!("Postgres {version}"))
}

/// DATABASE_DIRECT_URL, where there is one, and whether what the pooler hands out is as it should be.
async fn direct(app: &App) -> Option<Line> {
    app.config.database_direct_url.as_ref()?;
    let checked = async {
        let mut session = PgConnection::connect_with(&database::session(&app.config, "baal doctor")?).await?;
        let here: i64 = sqlx::query_scalar(HERE).fetch_one(&mut session).await?;
        session.close().await?;
        let there: i64 = sqlx::query_scalar(HERE).fetch_one(&app.db).await?;
        Ok::<_, sqlx::Error>((here == there, database::unsettled(&app.config, &app.db).await?))
    };
    let finding = match checked.await {
        Err(error) => Err(format!("{}.", database::trouble(&error))),
        Ok((false, _)) => Err("it is not the database of DATABASE_URL. Both must lead to the same one.".into()),
        Ok((true, unsettled)) if !unsettled.is_empty() => Err(format!(
            "sessions behind the pooler lack {}. Run `baal migrate`, then `reconnect` on PgBouncer's console.",
            unsettled.join(", ")
        )),
        Ok((true, _)) => Ok("the database of DATABASE_URL, without the pooler between".into()),
    };
    Some(Line::new("direct way to the database", finding))
}

async fn schema(app: &App) -> Finding {
    let applied: Vec<i64> = sqlx::query_scalar("select version from _sqlx_migrations where success")
        .fetch_all(&app.db)
        .await
        .map_err(|_| "there is none yet. Run `baal migrate`.".to_owned())?;
    match MIGRATIONS.iter().filter(|m| !applied.contains(&m.version)).count() {
        0 => Ok("up to date".into()),
        missing => Err(format!("{missing} migrations are missing. Run `baal migrate`.")),
    }
}

async fn clock(app: &App) -> Finding {
    let theirs: f64 = sqlx::query_scalar("select extract(epoch from now())::float8")
        .fetch_one(&app.db)
        .await
        .map_err(|_| "unknown, as the database does not answer.".to_owned())?;
    let ours = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64());
    let skew = (ours - theirs).abs();
    if skew > 60.0 {
        // Fernet tokens dated more than a minute ahead are refused.
        return Err(format!("this host and the database differ by {skew:.0} s. Let both follow NTP."));
    }
    Ok(format!("within {skew:.1} s of the database"))
}

async fn telegram(app: &App) -> Finding {
    let me = app.telegram.call(&GetMe::new()).await.map_err(|error| {
        format!("{error}. Is TELEGRAM_BOT_TOKEN right, and {} reachable?", app.config.telegram_api_url)
    })?;
    Ok(format!("@{}", me.username()))
}

async fn updates(app: &App) -> Finding {
    let info = app.telegram.call_raw("getWebhookInfo", "{}".into(), TIMEOUT).await;
    let info = info.map_err(|error| format!("unknown ({error})."))?;
    let info: Value = serde_json::from_str(info.get()).map_err(|error| format!("unknown ({error})."))?;
    let url = info["url"].as_str().unwrap_or_default();
    let pending = info["pending_update_count"].as_i64().unwrap_or(0);
    match (app.config.telegram_mode, &app.config.public_url) {
        (TelegramMode::Polling, _) if url.is_empty() => Ok("polling".into()),
        (TelegramMode::Polling, _) => Err("a webhook is set, which stops polling. `baal serve` deletes it.".into()),
        (TelegramMode::Webhook, _) if url.is_empty() => {
            Err("no webhook is set. Start `baal serve` with PUBLIC_URL, or run `baal webhook set`.".into())
        }
        (TelegramMode::Webhook, Some(public)) if !url.starts_with(public.as_str()) => {
            Err(format!("the webhook leads to {url}, not to PUBLIC_URL. Run `baal webhook set`."))
        }
        (TelegramMode::Webhook, _) => match info["last_error_message"].as_str() {
            Some(error) if pending > 0 => {
                Err(format!("Telegram cannot deliver to {url}: {error}. {pending} updates wait."))
            }
            _ => Ok(format!("webhook {url}, {pending} updates wait")),
        },
    }
}

async fn libertai(app: &App) -> Finding {
    let url = format!("{}/models", app.config.libertai_api_base_url);
    let key = app.config.libertai_api_key.expose_secret();
    let answer = app.agents_http.to_operators().get(url).bearer_auth(key).timeout(Duration::from_secs(15)).send().await;
    let answer = answer.map_err(|error| format!("it does not answer ({}).", error.without_url()))?;
    if !answer.status().is_success() {
        return Err(format!("it answered {}. Is LIBERTAI_API_KEY right?", answer.status()));
    }
    let models: Value = answer.json().await.map_err(|_| "its list of models cannot be read.".to_owned())?;
    let offered: Vec<_> = models["data"].as_array().into_iter().flatten().filter_map(|m| m["id"].as_str()).collect();
    let missing: Vec<_> =
        app.config.models.0.iter().map(|m| m.id.as_str()).filter(|model| !offered.contains(model)).collect();
    if !missing.is_empty() {
        return Err(format!("it does not offer {}. Take it out of MODELS.", missing.join(", ")));
    }
    Ok(format!("{} models", offered.len()))
}

fn agent_program(app: &App) -> Finding {
    let program = local::program(&app.config).map_err(|error| error.to_string())?;
    Ok(program.display().to_string())
}

fn agent_directory(app: &App) -> Finding {
    let dir = &app.config.local_dir;
    writable(dir).map_err(|error| format!("{} cannot be written ({error}). Set LOCAL_DIR.", dir.display()))?;
    Ok(dir.display().to_string())
}

/// Makes the directory, and a file in it that is gone again. A new one: whoever else may write there could have left a link.
fn writable(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let probe = dir.join(format!(".doctor-{}", Uuid::new_v4()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&probe)?;
    let written = file.write_all(b"x");
    std::fs::remove_file(&probe).and(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_tried_without_following_what_others_left_there() {
        let root = tempfile::tempdir().expect("a directory");
        let (dir, victim) = (root.path().join("a/b"), root.path().join("victim"));
        std::fs::write(&victim, "kept").expect("writes");
        for _ in 0..2 {
            writable(&dir).expect("made and written");
            assert_eq!(std::fs::read_dir(&dir).expect("lists").count(), 0);
        }
        std::os::unix::fs::symlink(&victim, dir.join(".doctor")).expect("links");
        writable(&dir).expect("written");
        assert_eq!(std::fs::read_to_string(&victim).expect("there"), "kept");
        assert!(writable(&victim).is_err());
    }

    #[test]
    fn advice_follows_its_line_and_is_no_failure() {
        let line = Line::new("ssh key", Ok("fine".into())).with_advice(vec!["take another".into()]);
        assert_eq!(line.to_string(), "✔ ssh key: fine\n  ! take another");
        assert!(line.finding.is_ok());
    }
}

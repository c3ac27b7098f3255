//! The questions, in their order.

mod cloud;
mod rest;

use std::io;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::runtime::Handle;

use super::answers::Answers;
use super::checks::{self, Verdict};
use super::terminal::Terminal;
use crate::config::Config;
use crate::libertai::masked;

/// Typed where there is to be no value, though there was one.
const NONE: &str = "none";

/// What came of it.
pub struct Outcome {
    /// The answers.
    pub answers: Answers,
    /// Whether the person agreed to have them written.
    pub is_agreed: bool,
    /// What is left to do, a paragraph each.
    pub next: Vec<String>,
}

/// A conversation with the person at the terminal. It waits for them and for far sides, so it has a thread of its own.
pub struct Interview {
    terminal: Terminal,
    runtime: Handle,
    answers: Answers,
    /// Whether `docker compose` is to run it.
    in_compose: bool,
    next: Vec<String>,
}

/// How a value is asked for.
struct Question<'a> {
    /// The variable.
    name: &'static str,
    /// Before what is typed.
    prompt: &'a str,
    /// Where nothing is known.
    default: Option<&'a str>,
    is_secret: bool,
    is_optional: bool,
    /// What is typed as it is written, or what is wrong with it.
    read: &'a dyn Fn(&str) -> Result<String, String>,
    /// Whether it works.
    try_out: &'a dyn Fn(&Interview, &str) -> Verdict,
}

impl Interview {
    /// Asks everything.
    pub fn hold(answers: Answers, runtime: Handle) -> anyhow::Result<Outcome> {
        let mut interview = Self { terminal: Terminal::new(), runtime, answers, in_compose: true, next: vec![] };
        interview.begin()?;
        interview.mend()?;
        interview.where_it_runs()?;
        interview.telegram()?;
        interview.domain()?;
        interview.libertai()?;
        interview.cloud()?;
        interview.operators()?;
        interview.rest()?;
        interview.answers.make_keys()?;
        let is_agreed = interview.agree()?;
        Ok(Outcome { answers: interview.answers, is_agreed, next: interview.next })
    }

    fn begin(&self) -> io::Result<()> {
        self.terminal.title(
            "Setting up Baal",
            &[
                "Enter takes what is in brackets. Every value is checked as you give it, and nothing is written until the end:",
                "Ctrl-C leaves everything as it is.",
            ],
        )
    }

    /// Values of the file that no start would take.
    fn mend(&mut self) -> anyhow::Result<()> {
        for (variable, why) in self.answers.problems() {
            self.terminal.title(variable.name, variable.doc)?;
            self.terminal.wrong(&format!("What the file has {why}."))?;
            self.answers.unset(variable.name);
            self.plain(variable.name)?;
        }
        Ok(())
    }

    fn where_it_runs(&mut self) -> anyhow::Result<()> {
        let database = self.answers.get("DATABASE_URL");
        let is_composes = |url: &String| url.contains("@postgres/") || url.contains("@postgres:");
        let is_there = self.answers.directory().join("docker-compose.yml").is_file();
        let default = database.as_ref().map_or(is_there, is_composes);
        self.terminal.title("Where Baal runs", &[])?;
        let ways = ["with docker compose, and with a Postgres of its own", "otherwise: I have a Postgres database"];
        self.in_compose = self.terminal.choose("Baal runs", &ways, usize::from(!default))? == 0;
        if !self.in_compose {
            self.terminal
                .say("Its address, such as postgres://baal:password@localhost/baal; it must be version 15 or newer.")?;
            self.ask(&Question {
                name: "DATABASE_URL",
                prompt: "Postgres",
                default: None,
                is_secret: true,
                is_optional: false,
                read: &valid("DATABASE_URL"),
                try_out: &|_, _| Verdict::Good("It is tried when Baal starts.".into()),
            })?;
        } else if !database.as_ref().is_some_and(is_composes) {
            self.answers.set("DATABASE_URL", "postgres://baal@postgres/baal");
        }
        if self.in_compose {
            // Postgres keeps the one that it was first started with.
            self.answers.set_if_missing("DATABASE_PASSWORD", || Ok(super::making::word()))?;
        }
        Ok(())
    }

    fn telegram(&mut self) -> anyhow::Result<()> {
        self.terminal.title(
            "The bot",
            &["Telegram's @BotFather makes bots: write /newbot to it, choose a name, and copy the token that it answers."],
        )?;
        self.ask(&Question {
            name: "TELEGRAM_BOT_TOKEN",
            prompt: "Token",
            default: None,
            is_secret: true,
            is_optional: false,
            read: &valid("TELEGRAM_BOT_TOKEN"),
            try_out: &|interview, token| {
                interview.with_draft(&[("TELEGRAM_BOT_TOKEN", token)], async |config| checks::bot(&config).await)
            },
        })?;
        Ok(())
    }

    fn domain(&mut self) -> anyhow::Result<()> {
        self.terminal.title(
            "Its address",
            &[
                "Telegram delivers messages to a domain of yours that leads to this host; the certificate is made by itself.",
                "Without one, Baal asks Telegram for them: as good for one server, and nothing has to be reachable.",
            ],
        )?;
        let in_compose = self.in_compose;
        let public = self.ask(&Question {
            name: "PUBLIC_URL",
            prompt: "Domain, such as bot.example.org",
            default: None,
            is_secret: false,
            is_optional: true,
            read: &|typed| checks::public_url(typed, in_compose),
            try_out: &|interview, url| interview.runtime.block_on(checks::name_leads_here(&checks::host(url))),
        })?;
        let Some(public) = public else {
            self.answers.set("TELEGRAM_MODE", "polling");
            self.profile("polling");
            self.answers.unset("ADMIN_DOMAIN");
            return Ok(());
        };
        // The default, which need not be in the file.
        self.answers.unset("TELEGRAM_MODE");
        if !self.in_compose {
            self.next.push(format!("Put a proxy with a certificate in front of LISTEN_ADDR (port 8080) for {public}."));
            return Ok(());
        }
        self.profile("webhook");
        match public.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => self.answers.set("HTTPS_PORT", port),
            _ => self.answers.unset("HTTPS_PORT"),
        }
        self.terminal.say("")?;
        self.terminal.say(
            "The administrators' API and its documentation can have a domain too. Without one they are not published.",
        )?;
        self.ask(&Question {
            name: "ADMIN_DOMAIN",
            prompt: "Domain for administrators, such as admin.example.org",
            default: None,
            is_secret: false,
            is_optional: true,
            read: &|typed| checks::admin_domain(typed, &public),
            try_out: &|interview, name| interview.runtime.block_on(checks::name_leads_here(name)),
        })?;
        Ok(())
    }

    /// Exactly one of Compose's profiles `webhook` and `polling`, beside others.
    fn profile(&mut self, wanted: &str) {
        if !self.in_compose {
            return;
        }
        let present = self.answers.get("COMPOSE_PROFILES").unwrap_or_default();
        let others = present.split(',').map(str::trim).filter(|name| !matches!(*name, "" | "webhook" | "polling"));
        let profiles: Vec<&str> = std::iter::once(wanted).chain(others).collect();
        self.answers.set("COMPOSE_PROFILES", &profiles.join(","));
    }

    fn libertai(&mut self) -> anyhow::Result<()> {
        self.terminal.title(
            "The models",
            &["Agents think with LibertAI. Make an API key on https://console.libertai.io; what agents use is charged to it."],
        )?;
        self.ask(&Question {
            name: "LIBERTAI_API_KEY",
            prompt: "Key",
            default: None,
            is_secret: true,
            is_optional: false,
            read: &valid("LIBERTAI_API_KEY"),
            try_out: &|interview, key| {
                interview.with_draft(&[("LIBERTAI_API_KEY", key)], async |config| checks::libertai(&config).await)
            },
        })?;
        Ok(())
    }

    fn agree(&mut self) -> anyhow::Result<bool> {
        let (_, differs) = self.answers.finished()?;
        if !differs {
            return Ok(true);
        }
        self.terminal.title("That is all", &["Keys and passwords that nobody has to type are made now."])?;
        Ok(self.terminal.confirm("Write it?", true)?)
    }

    /// Asks until there is a value that holds, and keeps it. None where it is optional and there is none.
    fn ask(&mut self, question: &Question<'_>) -> anyhow::Result<Option<String>> {
        let mut present = self.answers.get(question.name);
        loop {
            let typed = match present.as_deref().filter(|_| question.is_secret) {
                Some(value)
                    if self
                        .terminal
                        .confirm(&format!("Keep the present one ({})?", hint(question.name, value)), true)? =>
                {
                    value.to_owned()
                }
                _ => self.typed(question, present.as_deref())?,
            };
            // Whatever was wrong with it is not proposed again.
            present = present.filter(|present| !question.is_secret && *present != typed);
            if typed.is_empty() || (question.is_optional && typed.eq_ignore_ascii_case(NONE)) {
                if question.is_optional {
                    self.answers.unset(question.name);
                    return Ok(None);
                }
                self.terminal.wrong("It is needed.")?;
                continue;
            }
            let value = match (question.read)(&typed) {
                Ok(value) => value,
                Err(why) => {
                    self.terminal.wrong(&format!("This {why}."))?;
                    continue;
                }
            };
            let is_taken = match (question.try_out)(self, &value) {
                Verdict::Good(words) => {
                    self.terminal.good(&words)?;
                    true
                }
                Verdict::Wrong(words) => {
                    self.terminal.wrong(&words)?;
                    false
                }
                Verdict::Doubt(words) => {
                    self.terminal.doubt(&words)?;
                    self.terminal.confirm("Take it anyway?", false)?
                }
            };
            if is_taken {
                self.answers.set(question.name, &value);
                return Ok(Some(value));
            }
        }
    }

    fn typed(&self, question: &Question<'_>, present: Option<&str>) -> io::Result<String> {
        if question.is_secret {
            return self.terminal.hidden(question.prompt);
        }
        let none = match (question.is_optional, present) {
            (true, Some(_)) => format!(" (`{NONE}` for none)"),
            (true, None) => " (Enter for none)".into(),
            (false, _) => String::new(),
        };
        self.terminal.text(&format!("{}{none}", question.prompt), present.or(question.default))
    }

    /// A check with the configuration as it would be.
    fn with_draft(&self, more: &[(&str, &str)], check: impl AsyncFnOnce(Config) -> Verdict) -> Verdict {
        match self.answers.draft(more) {
            Ok(config) => self.runtime.block_on(check(config)),
            // Its problems hold no values.
            Err(error) => Verdict::Doubt(format!("It could not be checked: {}.", error.problems.join("; "))),
        }
    }
}

/// What the configuration says to a value.
fn valid(name: &'static str) -> impl Fn(&str) -> Result<String, String> {
    move |typed| Config::check(name, typed).map(|()| typed.to_owned())
}

/// So much of a secret that its owner knows which one it is.
fn hint(name: &str, value: &str) -> String {
    match (name, value.split_once(':')) {
        // The number is the bot's, and public.
        ("TELEGRAM_BOT_TOKEN", Some((bot, _))) => format!("bot {bot}"),
        ("LIBERTAI_API_KEY", _) => masked(&SecretString::from(value)),
        _ => "it is not shown".into(),
    }
}

/// A secret's text, for where it is written.
fn exposed(secret: &SecretString) -> &str {
    secret.expose_secret()
}

//! Scenes: what somebody does, in lines that are easy to read and to add to.

use insta::{Settings, assert_yaml_snapshot};

use crate::bot::insert_agent;
use crate::harness::{Builder, Stack, Transcript, User};
use crate::upkeep::insert_job;

/// Numbers of agents begin here, so that none looks like another number of a text.
const FIRST_AGENT: i64 = 700_001;

/// A system whose agents have numbers that can be told from others.
pub async fn stack(builder: Builder) -> Stack {
    let stack = builder.start().await;
    let statement = sqlx::AssertSqlSafe(format!("alter table agents alter column id restart with {FIRST_AGENT}"));
    sqlx::query(statement).execute(&stack.db).await.unwrap();
    stack
}

/// An agent that a job works at which isn't due. The job is there first: without one the program would make its own.
pub async fn insert_busy_agent(stack: &Stack, owner: i64, name: &str, status: &str, job: (&str, &str)) -> i64 {
    let id = insert_agent(stack, owner, name, "public", "failed").await;
    insert_job(stack, id, job.0, job.1, None).await;
    let changed = sqlx::query("update agents set status = $2 where id = $1").bind(id).bind(status);
    changed.execute(&stack.db).await.unwrap();
    id
}

/// One person's chat, and what happens in it.
pub struct Scene<'a> {
    stack: &'a Stack,
    transcript: Transcript<'a>,
    /// Names and numbers of agents.
    agents: Vec<(String, i64)>,
}

impl<'a> Scene<'a> {
    /// The private chat of user `id`, who has done nothing yet.
    pub fn new(stack: &'a Stack, id: i64) -> Self {
        Self::of(stack, stack.user(id))
    }

    /// A chat: the user's own, or a group's.
    pub fn of(stack: &'a Stack, user: User<'a>) -> Self {
        Self { stack, transcript: stack.transcript(user), agents: Vec::new() }
    }

    /// An agent without a machine; lines call it `{name}`.
    pub async fn agent(&mut self, owner: i64, name: &str, visibility: &str, status: &str) -> &mut Self {
        let id = insert_agent(self.stack, owner, name, visibility, status).await;
        self.knows(name, id)
    }

    /// Agents of this owner in every state: `{Ada}` runs, `{Early}` is being set up, `{Broken}`, `{Going}` and `{Gone}`.
    pub async fn states(&mut self, owner: i64) {
        for (name, status, job) in [
            ("Ada", "running", None),
            // Jobs that are not due keep the two as they are.
            ("Early", "provisioning", Some(("provision", "place"))),
            ("Broken", "failed", None),
            ("Going", "deleting", Some(("deprovision", "stop"))),
            ("Gone", "deleted", None),
        ] {
            let id = match job {
                Some(job) => insert_busy_agent(self.stack, owner, name, status, job).await,
                None => insert_agent(self.stack, owner, name, "public", status).await,
            };
            self.knows(name, id);
        }
    }

    /// Lines call agent `id` `{name}`, and so does the snapshot.
    pub fn knows(&mut self, name: &str, id: i64) -> &mut Self {
        self.transcript.call(id, name);
        self.agents.push((name.to_owned(), id));
        self
    }

    /// Does what the lines say, one after another, each after all that the one before has brought about:
    ///
    /// - `[Label]`: presses the button with this label in the newest message that has one,
    /// - `[Label] twice`: before the first press is answered,
    /// - `old [Label]`: in the oldest message that ever had one, though it may be gone,
    /// - `forged data`: sends this `callback_data` as if the newest message of the bot had such a button,
    /// - `(restart)`: the program is killed and started again,
    /// - anything else is said. `{Ada}` is the number of the agent of this name.
    pub async fn plays(&mut self, lines: &[&str]) -> &mut Self {
        for line in lines {
            self.line(line).await;
        }
        self
    }

    async fn line(&mut self, line: &str) {
        let mut told = line.to_owned();
        for (name, id) in &self.agents {
            told = told.replace(&format!("{{{name}}}"), &id.to_string());
        }
        if told == "(restart)" {
            let baal = self.stack.baal(0);
            self.transcript
                .does("(the program is killed and started again)", async {
                    baal.kill9();
                    baal.start().await;
                })
                .await;
        } else if let Some(label) = told.strip_prefix('[').and_then(|rest| rest.strip_suffix("] twice")) {
            self.transcript.presses_twice(label).await;
        } else if let Some(label) = told.strip_prefix("old [").and_then(|rest| rest.strip_suffix(']')) {
            let (message, data) = self.oldest(label).await;
            self.transcript.press(&format!("presses [{label}] in an old message"), message, &data).await;
        } else if let Some(label) = told.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            self.transcript.presses(label).await;
        } else if let Some(data) = told.strip_prefix("forged ") {
            let messages = self.transcript.user().messages().await;
            let message = messages.iter().rev().find(|message| message.is_reply()).unwrap().message_id;
            self.transcript.press(&format!("forges a press of {data}"), message, data).await;
        } else {
            self.transcript.says(&told).await;
        }
    }

    /// Where a button with this label was first, and what it said.
    async fn oldest(&self, label: &str) -> (i64, String) {
        let messages = self.transcript.user().messages().await;
        let found = messages.iter().filter(|message| message.from.is_bot).find_map(|message| {
            let history = message.edits["history"].as_array().into_iter().flatten();
            let markups = history.map(|was| &was["reply_markup"]).chain(&message.reply_markup);
            let buttons = markups.filter_map(|markup| markup["inline_keyboard"].as_array()).flatten();
            let mut buttons = buttons.filter_map(|row| row.as_array()).flatten();
            let button = buttons.find(|button| button["text"].as_str().is_some_and(|text| text.contains(label)))?;
            Some((message.message_id, button["callback_data"].as_str()?.to_owned()))
        });
        found.unwrap_or_else(|| panic!("there never was a button {label:?} in {messages:#?}"))
    }

    /// Compares all of it with the snapshot of this name.
    #[track_caller]
    pub fn ends(&mut self, name: &str) {
        compare(&self.transcript, name);
    }
}

/// Compares what a chat looked like with the snapshot of this name.
#[track_caller]
pub fn compare(transcript: &Transcript<'_>, name: &str) {
    let words: Vec<&str> = name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut settings = Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_snapshot_path("snapshots");
    settings.bind(|| assert_yaml_snapshot!(words.join("-"), transcript.story()));
}

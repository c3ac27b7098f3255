//! Two people chat with two agents in a real Chromium.

use std::panic::Location;
use std::time::Duration;

use fantoccini::Locator;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::harness::{Browser, DEADLINE, Stack};

/// The oldest of the bot's messages with a number above the first argument whose text contains the second: its number.
const FIND_REPLY: &str = "const [after, text] = arguments;
    const replies = [...document.querySelectorAll('.message.from-bot[data-message-id]')];
    const reply = replies.find(m => Number(m.dataset.messageId) > after && m.innerText.includes(text));
    return reply ? Number(reply.dataset.messageId) : null;";

/// Clicks the newest button whose label contains the argument.
const CLICK: &str = "const buttons = [...document.querySelectorAll('.button[data-callback-data]')];
    const button = buttons.reverse().find(b => b.innerText.includes(arguments[0]));
    if (button) button.click();
    return !!button;";

impl Browser {
    async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
        self.client.wait().at_most(DEADLINE).for_element(Locator::Css("#messages")).await.unwrap();
    }

    /// The number of the newest message; those that come later answer what is done now.
    async fn newest(&self) -> i64 {
        let script = "return Math.max(0, ...[...document.querySelectorAll('.message[data-message-id]')]
            .map(m => Number(m.dataset.messageId)));";
        self.client.execute(script, vec![]).await.unwrap().as_i64().unwrap()
    }

    /// Writes in the composer and sends it, as a person does.
    async fn say(&self, text: &str) {
        // Before a first message the page may show only Telegram's START button.
        let composer = self.client.find(Locator::Css("#composer textarea")).await.unwrap();
        if !composer.is_displayed().await.unwrap() {
            self.client.find(Locator::Css("#start")).await.unwrap().click().await.unwrap();
            self.client.wait().at_most(DEADLINE).for_element(Locator::Css(".message")).await.unwrap();
            if text == "/start" {
                return;
            }
        }
        composer.send_keys(text).await.unwrap();
        self.client.find(Locator::Css("#send")).await.unwrap().click().await.unwrap();
    }

    /// Waits for a message of the bot that came after message `after` and contains `text`.
    #[track_caller]
    fn expect(&self, after: i64, text: &str) -> impl Future<Output = i64> {
        self.expect_at(Location::caller(), after, text)
    }

    async fn expect_at(&self, caller: &Location<'_>, after: i64, text: &str) -> i64 {
        let deadline = Instant::now() + DEADLINE * 2;
        loop {
            let found = self.client.execute(FIND_REPLY, vec![json!(after), json!(text)]).await.unwrap();
            if let Some(id) = found.as_i64() {
                return id;
            }
            if Instant::now() > deadline {
                self.shoot("failure").await;
                let page = self.client.execute("return document.body.innerText", vec![]).await.unwrap();
                panic!("{caller}: no answer with {text:?}; the page:\n{}", page.as_str().unwrap_or_default());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Says something and waits for an answer that contains `answer`.
    #[track_caller]
    fn ask(&self, text: &str, answer: &str) -> impl Future<Output = i64> {
        let caller = Location::caller();
        async move {
            let after = self.newest().await;
            self.say(text).await;
            self.expect_at(caller, after, answer).await
        }
    }

    /// Presses the newest button whose label contains `label`.
    #[track_caller]
    fn press(&self, label: &str) -> impl Future<Output = ()> {
        let caller = Location::caller();
        async move {
            let deadline = Instant::now() + DEADLINE;
            while self.client.execute(CLICK, vec![json!(label)]).await.unwrap() != json!(true) {
                assert!(Instant::now() < deadline, "{caller}: there is no button {label:?}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Goes through the wizard and waits until the agent greets or runs.
    async fn create(&self, name: &str, personality: Option<&str>) {
        let before = self.newest().await;
        self.ask(name, "2 of 3").await;
        match personality {
            Some(personality) => drop(self.ask(personality, "3 of 3").await),
            None => {
                self.press("all-rounder").await;
                self.expect(before, "3 of 3").await;
            }
        }
        self.shoot(&format!("wizard-{name}")).await;
        self.press("Qwen").await;
        self.expect(before, "Create this agent?").await;
        self.shoot(&format!("confirm-{name}")).await;
        self.press("✅ Create").await;
        self.shoot(&format!("progress-{name}")).await;
        self.expect(before, "is ready!").await;
        self.shoot(&format!("ready-{name}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_chat_with_two_agents_across_a_restart() {
    let stack = Stack::start().await;
    let page = &stack.simulator.telegram;
    let browser = Browser::start(stack.dir(), (420, 860)).await;

    browser.open(&format!("{page}/?user=1")).await;
    browser.ask("/start", "Hello").await;
    browser.shoot("welcome").await;
    let before = browser.newest().await;
    browser.press("Create an agent").await;
    browser.expect(before.saturating_sub(1), "1 of 3").await;
    browser.create("Ada", Some("You are a pirate who loves mathematics.")).await;
    let ada = running(&stack, "Ada").await;
    browser.ask("/create", "1 of 3").await;
    browser.create("Bert", None).await;
    let bert = running(&stack, "Bert").await;
    browser.ask("/list", "Bert").await;
    browser.shoot("list").await;

    browser.ask(&format!("/start agent_{ada}"), "You are talking to Ada").await;
    browser.ask("Who are you?", "You are a pirate who loves mathematics.").await;
    browser.shoot("ada").await;
    browser.ask(&format!("/start agent_{bert}"), "You are talking to Bert").await;
    browser.ask("Who are you?", "Bert").await;

    stack.baal(0).restart().await;

    browser.ask("Are you still there?", "message 2 of our conversation").await;
    browser.shoot("after-restart").await;

    // Bob follows Alice's deep link in a window of his own.
    let alice = browser.client.window().await.unwrap();
    let bob = browser.client.new_window(false).await.unwrap();
    browser.client.switch_to_window(bob.handle).await.unwrap();
    browser.open(&format!("{page}/?user=2&start=agent_{ada}")).await;
    browser.say("/start").await;
    browser.expect(0, "You are talking to Ada").await;
    browser.ask("Hello, who is this?", "I am Ada").await;
    // Bob's conversation with Ada is his own.
    browser.ask("And again?", "message 2 of our conversation").await;
    browser.shoot("bob").await;

    browser.client.switch_to_window(alice).await.unwrap();
    browser.ask("And you?", "message 3 of our conversation").await;
    browser.client.clone().close().await.unwrap();
}

/// An answer with much of what Markdown has.
const MARKED: &str = "## A small *plan*\n\nYes, **Rust** can do this; see [its book](https://example.com/book).\n\n\
    1. Read the file\n2. Count its words\n   - in `main.rs`\n   - ~~by hand~~\n\n\
    ```rust\nfn main() {\n    let text = std::fs::read_to_string(\"a.txt\")?;\n    println!(\"{}\", text.split(' ').count());\n}\n```\n\n\
    | Language | Lines | Fast |\n|:--|--:|:-:|\n| Rust | 12 | ✅ |\n| Python | 3 | ❌ |\n\n\
    | Crate | What it is good for |\n|-|-|\n| `tokio` | many things at once, without many threads |\n\
    | `serde` | reading and writing JSON, YAML and other formats |\n\n\
    > Premature optimisation is the root of all evil.\n\nThe result is ||forty-two||. Anything else?";

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_code_errors_and_the_account_can_be_looked_at() {
    let stack = Stack::start().await;
    stack.user(1).creates_agent("Ada", "You are a programmer.").await;
    stack.user(2).says("/start").await;
    let browser = Browser::start(stack.dir(), (420, 860)).await;
    browser.open(&format!("{}/?user=1", stack.simulator.telegram)).await;
    let script = async |question: &str, reply| {
        stack.simulator.tell_model("/sim/script", json!({"match": question, "replies": [reply]})).await;
    };
    script("Show me code", json!({"content": MARKED})).await;
    browser.ask("Show me code", "Anything else?").await;
    browser.shoot("code-end").await;
    let top = "const all = document.querySelectorAll('.message.from-bot'); all[all.length - 1].scrollIntoView();";
    browser.client.execute(top, vec![]).await.unwrap();
    browser.shoot("code").await;
    script("Fail, please", json!({"status": 401})).await;
    browser.ask("Fail, please", "⚠️").await;
    browser.shoot("error").await;
    browser.ask("/account", "today").await;
    browser.shoot("account").await;
    browser.ask("/share", "Ada").await;
    browser.shoot("share").await;
    browser.ask("/privacy", "kept").await;
    browser.shoot("privacy").await;
    browser.client.clone().close().await.unwrap();
}

/// Waits until the agent runs; gives its number.
async fn running(stack: &Stack, name: &'static str) -> i64 {
    let deadline = Instant::now() + DEADLINE * 2;
    loop {
        let id: Option<i64> = sqlx::query_scalar("select id from agents where name = $1 and status = 'running'")
            .bind(name)
            .fetch_optional(&stack.db)
            .await
            .unwrap();
        if let Some(id) = id {
            return id;
        }
        assert!(Instant::now() < deadline, "{name} doesn't come to life");
        sleep(Duration::from_millis(50)).await;
    }
}

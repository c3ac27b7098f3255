//! Swagger UI in a real Chromium, as an administrator uses it.

use fantoccini::Locator;
use fantoccini::elements::Element;
use serde_json::json;

use crate::api::ADMIN_TOKEN;
use crate::harness::{Browser, DEADLINE, Stack};

/// Swagger UI with a token entered.
struct Docs {
    browser: Browser,
}

impl Docs {
    async fn open(stack: &Stack) -> Self {
        let browser = Browser::start(stack.dir(), (1100, 1000)).await;
        browser.client.goto(&format!("{}/", stack.baal(0).url())).await.unwrap();
        browser.shoot("swagger-home").await;
        browser.client.find(Locator::LinkText("/docs")).await.unwrap().click().await.unwrap();
        let docs = Self { browser };
        docs.find(".opblock").await;
        docs
    }

    async fn find(&self, css: &str) -> Element {
        let found = self.browser.client.wait().at_most(DEADLINE).for_element(Locator::Css(css)).await;
        if found.is_err() {
            self.browser.shoot("swagger-failure").await;
        }
        found.unwrap_or_else(|error| panic!("{css}: {error}"))
    }

    /// Clicks it where it can be seen: the page's header lies over what is scrolled under it.
    async fn click(&self, css: &str) {
        let element = self.find(css).await;
        let script = "arguments[0].scrollIntoView({block: 'center'});";
        self.browser.client.execute(script, vec![json!(element)]).await.unwrap();
        element.click().await.unwrap_or_else(|error| panic!("{css}: {error}"));
    }

    async fn write(&self, css: &str, text: &str) {
        let element = self.find(css).await;
        // Not `clear`: the page's library puts back what it has not seen being typed away.
        element.send_keys(&format!("{}{}", '\u{e009}', 'a')).await.unwrap();
        element.send_keys(&format!("{}{text}", '\u{e000}')).await.unwrap();
    }

    async fn authorise(&self, token: &str) {
        self.click(".auth-wrapper .btn.authorize").await;
        self.write(".auth-container input", token).await;
        self.browser.shoot("swagger-authorise").await;
        self.click(".auth-btn-wrapper .btn.authorize").await;
        self.click(".auth-btn-wrapper .btn-done").await;
    }

    /// Tries an operation out; gives the answer's status and body as the page shows them.
    async fn tried(&self, operation: &str, tag: &str, fields: &[(&str, String)], body: Option<&str>) -> (u16, String) {
        let block = format!("[id='operations-{tag}-{operation}']");
        let open = self.browser.client.find(Locator::Css(&format!("{block}.is-open"))).await.is_ok();
        if !open {
            self.click(&format!("{block} .opblock-summary-control")).await;
        }
        for (name, value) in fields {
            self.write(&format!("{block} tr[data-param-name='{name}'] input"), value).await;
        }
        if let Some(body) = body {
            self.write(&format!("{block} .body-param textarea"), body).await;
        }
        // What an earlier try has left would be taken for the answer.
        if let Ok(clear) = self.browser.client.find(Locator::Css(&format!("{block} .btn-clear"))).await {
            clear.click().await.unwrap();
        }
        self.click(&format!("{block} .execute")).await;
        let live = format!("{block} .live-responses-table tbody tr.response");
        let status = self.find(&format!("{live} .response-col_status")).await;
        self.browser
            .client
            .execute("arguments[0].scrollIntoView({block: 'center'});", vec![json!(status)])
            .await
            .unwrap();
        let status = status.text().await.unwrap();
        let body = self.find(&format!("{live} .response-col_description")).await.text().await.unwrap();
        let digits: String = status.chars().take_while(char::is_ascii_digit).collect();
        (digits.parse().unwrap_or_else(|_| panic!("the page shows no status: {status:?} {body}")), body)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documentation_asks_for_a_token_and_tries_operations_out() {
    let stack = Stack::start().await;
    let docs = Docs::open(&stack).await;
    docs.browser.shoot("swagger-docs").await;
    let (status, body) = docs.tried("read_system", "system", &[], None).await;
    assert!(status == 401 && body.contains("baal token create"), "{status} {body}");
    docs.authorise(ADMIN_TOKEN).await;
    let new = json!({"label": "tried out", "scope": "read"}).to_string();
    let (status, body) = docs.tried("create_token", "system", &[], Some(&new)).await;
    docs.browser.shoot("swagger-create-token").await;
    assert!(status == 201 && body.contains("baal_"), "{status} {body}");
    let made: i64 = stack.sql("select id from api_tokens where label = 'tried out'").await;
    let (status, body) = docs.tried("revoke_token", "system", &[("id", made.to_string())], None).await;
    assert!(status == 200 && body.contains("revoked_at"), "{status} {body}");
    // A token that was entered is nowhere once the page is gone.
    docs.browser.client.refresh().await.unwrap();
    docs.find(".opblock").await;
    let kept =
        "return JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage), document.cookie]);";
    let kept = docs.browser.client.execute(kept, vec![]).await.unwrap();
    assert_eq!(kept, json!("[[],[],\"\"]"));
    let (status, _) = docs.tried("read_system", "system", &[], None).await;
    assert_eq!(status, 401);
    docs.browser.client.clone().close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_created_in_the_documentation_is_in_telegram_and_gone_from_both_when_it_is_deleted_there() {
    let stack = Stack::start().await;
    let owner = stack.user(1);
    owner.asks("/start", "Hello").await;
    let docs = Docs::open(&stack).await;
    docs.authorise(ADMIN_TOKEN).await;
    let new = json!({"owner_id": 1, "name": "Ada", "system_prompt": "You are a pirate.", "visibility": "private"});
    let (status, body) = docs.tried("create_agent", "agents", &[], Some(&new.to_string())).await;
    docs.browser.shoot("swagger-create-agent").await;
    assert!(status == 201 && body.contains("Ada"), "{status} {body}");
    stack.wait_for_sql("select status from agents where name = 'Ada'", "running".to_owned()).await;
    let id: i64 = stack.sql("select id from agents where name = 'Ada'").await;
    let number = [("id", id.to_string())];
    let (status, body) = docs.tried("read_agent", "agents", &number, None).await;
    docs.browser.shoot("swagger-read-agent").await;
    assert!(status == 200 && body.contains("You are a pirate."), "{status} {body}");

    owner.asks("/list", "Ada").await;
    owner.asks(&format!("/delete {id}"), "for good").await;
    let page = docs.browser.client.window().await.unwrap();
    let chat = docs.browser.client.new_window(false).await.unwrap();
    docs.browser.client.switch_to_window(chat.handle).await.unwrap();
    docs.browser.client.goto(&format!("{}/?user=1", stack.simulator.telegram)).await.unwrap();
    docs.find(".message").await;
    docs.browser.shoot("swagger-telegram-list").await;
    docs.browser.client.switch_to_window(page).await.unwrap();
    owner.presses("Delete for good").await;
    stack.wait_for_sql("select status from agents order by id desc limit 1", "deleted".to_owned()).await;

    let (status, body) = docs.tried("read_agent", "agents", &number, None).await;
    docs.browser.shoot("swagger-agent-gone").await;
    assert!(status == 404 && body.contains(&format!("There is no agent {id}.")), "{status} {body}");
    owner.asks("/list", "no agents yet").await;
    docs.browser.client.clone().close().await.unwrap();
}

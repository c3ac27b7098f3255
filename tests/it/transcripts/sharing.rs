//! `/share` as an owner sees it, button by button, and what those see who open the links.

use super::scene::{compare, insert_busy_agent};
use crate::bot::insert_agent;
use crate::harness::{Stack, User};

/// Numbers that can be told from others.
async fn numbered(stack: &Stack) {
    for table in ["agents", "links"] {
        let start = if table == "agents" { 4_200 } else { 7_700 };
        let statement = format!("alter table {table} alter column id restart with {start}");
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&stack.db).await.unwrap();
    }
}

/// `/start` with the newest link that somebody sees.
async fn newest_link(user: User<'_>) -> String {
    let found = user.wait_for(|m| m.text.contains("?start=a_")).await;
    let (_, payload) = found.text.rsplit_once("?start=").unwrap();
    format!("/start {}", payload.split_whitespace().next().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_shares_an_agent() {
    let stack = Stack::start().await;
    let (ann, bob) = (stack.user(1), stack.user(2));
    numbered(&stack).await;
    let mut story = stack.transcript(ann);
    story.says("/share").await;
    insert_agent(&stack, 1, "*Ada*", "public", "running").await;
    story.says("/share").await;
    story.presses("⚙️ By its number").await.presses("💬 Chat only").await.presses("5/day").await;
    story.presses("« Sharing").await.presses_twice("🔗 Unlisted").await;
    story.presses_twice("➕ New link").await.presses("🛠 Tools too").await.presses("20/day").await;
    let start = newest_link(ann).await;
    // A restart in the middle of a question forgets nothing.
    story.presses("✏️ Rename").await;
    stack.baal(0).restart().await;
    story.says("<For> friends").await;
    story.presses("7 days").await.presses("No end").await.presses("▦ QR code").await;
    story.presses("« Sharing").await.presses("🔒 Private").await;
    story.does("(Bob opens the link)", bob.says(&start)).await;
    story.presses_twice("✅ Let in").await.presses_twice("🚫 Block").await.presses("Unblock").await;
    story.presses("« Visitors").await.presses("« Sharing").await.presses("⚙️ <For> friends").await;
    story.presses("🗑 Revoke").await.presses("Keep it").await.presses("🗑 Revoke").await;
    let old = story.button("🗑 Revoke").await;
    story.presses("🗑 Revoke").await.press("presses it again", old.0, &old.1).await;
    let bea = insert_agent(&stack, 1, "Bea", "public", "failed").await;
    let gone = insert_busy_agent(&stack, 1, "Gone", "deleting", ("deprovision", "stop")).await;
    story.says("/share").await.says(&format!("/share #{}", bea)).await;
    story.says(&format!("/share {gone}")).await;
    story.says("/share soon").await.says("/share 999999").await;
    compare(&story, "sharing, by its owner");
    stack.simulator.assert_good_manners().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_comes_by_links_that_change() {
    let stack = Stack::start().await;
    let (ann, bob) = (stack.user(1), stack.user(2));
    numbered(&stack).await;
    insert_agent(&stack, 1, "*Ada*", "private", "running").await;
    let card = ann.asks("/share", "Sharing *Ada*").await;
    ann.press(card.message_id, "s:new:4200").await;
    let start = newest_link(ann).await;
    // The number of the agent is a link of its own.
    let link = 7_701;
    let mut story = stack.transcript(bob);
    story.says("/start 4200").await.says(&start).await.says(&start).await.says("hello?").await;
    story.does("(the owner: not now)", press(ann, "s:no:4200:2")).await.says(&start).await;
    story.does("(the owner: let in)", press(ann, "s:in:4200:2")).await.presses("💬 Chat").await.says(&start).await;
    story.does("(the owner: five a day)", press(ann, &format!("s:day:{link}:5"))).await.says("/start agent_4200").await;
    story.does("(the owner: blocked)", press(ann, "s:block:4200:2")).await.says("hello?").await.says(&start).await;
    story.does("(the owner: unblocked)", press(ann, "s:unblock:4200:2")).await.says(&start).await;
    sqlx::query("update links set expires_at = now() where id = 7701").execute(&stack.db).await.unwrap();
    story.says("hello?").await.says(&start).await.says("/start 4200").await;
    story.does("(the owner: no end)", press(ann, &format!("s:end:{link}:0"))).await.says(&start).await;
    story.does("(the owner: revoked)", press(ann, &format!("s:revoke!:{link}"))).await;
    story.says("hello?").await.says(&start).await.says("/start 4200").await;
    story.says("/start a_0123456789abcdefghijkl").await.says("/start a_").await;
    compare(&story, "sharing, as a visitor");
    stack.simulator.assert_good_manners().await;
}

/// Presses what a card that is not open any more had.
async fn press(owner: User<'_>, data: &str) {
    let any = owner.messages().await.into_iter().rfind(|m| m.is_reply()).unwrap();
    owner.forges(any.message_id, data).await;
}

//! What visitors may do changes with the agent that they talk to.

use crate::bot::insert_agent;
use crate::harness::Stack;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_shared_no_more_is_closed_to_visitors_at_once_and_not_to_its_owner() {
    let stack = Stack::start().await;
    let (owner, visitor) = (stack.user(1), stack.user(2));
    let ada = insert_agent(&stack, 1, "*Ada*", "public", "running").await;
    for user in [owner, visitor] {
        user.asks(&format!("/start agent_{ada}"), "You are talking to *Ada*.").await;
        // It has no machine; its turns come to this.
        user.asks("hello?", "*Ada*").await;
    }
    stack.wait_for_sql("select count(*) from turns where done", 2i64).await;
    sqlx::query("update agents set visibility = 'unlisted'").execute(&stack.db).await.unwrap();
    for status in ["running", "provisioning", "failed"] {
        sqlx::query("update agents set status = $1").bind(status).execute(&stack.db).await.unwrap();
        let told = visitor.asks("still there?", "*Ada* isn't shared any more").await;
        assert!(told.text.contains("your message wasn't passed on"), "{}", told.text);
        assert_eq!(told.buttons().len(), 2);
    }
    assert_eq!(stack.sql::<i64>("select count(*) from turns").await, 2);
    sqlx::query("update agents set status = 'running'").execute(&stack.db).await.unwrap();
    owner.says("and for me?").await;
    stack.wait_for_sql("select count(*) from turns where user_id = 1", 2i64).await;

    // What is gone is told as such, whoever it was open to.
    sqlx::query("update agents set status = 'deleted', deleted_at = now()").execute(&stack.db).await.unwrap();
    visitor.asks("hello?", "*Ada* was deleted.").await;
    stack.simulator.assert_good_manners().await;
}

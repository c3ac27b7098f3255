//! A proxy on the way to the agents.

use sqlx::AssertSqlSafe;

use crate::harness::Stack;
use crate::proxy::{Proxy, Target};

/// From now on the one agent is reached through the proxy, whatever address the program writes down: a trigger puts the proxy's
/// in its place.
pub async fn proxy_agents(stack: &Stack, proxy: &Proxy) {
    let port: i64 = stack.sql("select (data ->> 'port')::int8 from vms where ended_at is null").await;
    proxy.lead_to(vec![Target::Port(u16::try_from(port).unwrap())]);
    // Both numbers and the address are the test's own.
    let trigger = format!(
        "create function through_the_proxy() returns trigger language plpgsql as
           $$ begin if new.url is not null then new.url := '{}'; end if; return new; end $$;
         create trigger through_the_proxy before update of url on agents
           for each row execute function through_the_proxy();
         update agents set url = url",
        proxy.url()
    );
    sqlx::raw_sql(AssertSqlSafe(trigger)).execute(&stack.db).await.unwrap();
}

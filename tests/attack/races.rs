//! Everything that can be done with an agent, done by everybody at once while it is made and deleted.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::Api;
use crate::harness::Stack;
use crate::{counted, seed};

/// Agents, one of each owner, all at the same time.
const AGENTS: i64 = 3;
/// What is done with each, all at once, before and behind its deletion.
const DEEDS: usize = 30;
/// As long as a busy machine needs for so many programs.
const LIMIT: Duration = Duration::from_secs(240);

/// One thing that its owner, a visitor or an administrator does. Of a visitor's, nothing but talking may work.
async fn deed(stack: &Stack, api: &Api, agent: i64, owner: i64, which: usize) -> Option<u16> {
    let (ann, bob) = (stack.user(owner), stack.user(100 + owner));
    let at = format!("/agents/{agent}");
    let request = |method: Method, path: String, body: Value| {
        let request = api.request(method, &path).header("If-Match", "*");
        if body.is_null() { request } else { request.json(&body) }
    };
    let request = match which % 20 {
        0 => request(Method::POST, format!("{at}/redeploy"), Value::Null),
        1 => request(Method::POST, format!("{at}/repair"), Value::Null),
        2 => request(Method::POST, format!("{at}/stop"), Value::Null),
        3 => request(Method::POST, format!("{at}/start"), Value::Null),
        4 => request(Method::POST, format!("{at}/deploy?anew=true"), Value::Null),
        5 => request(Method::PATCH, at, json!({"system_prompt": format!("You are no. {which}.")})),
        6 => request(Method::POST, format!("{at}/links"), json!({"label": format!("no. {which}")})),
        7 => request(Method::DELETE, format!("{at}/chat"), Value::Null),
        _ => {
            let press = match which % 20 {
                8 => format!("retry:{agent}"),
                9 => format!("anew!:{agent}"),
                10 => format!("repair!:{agent}"),
                11 => format!("s:new:{agent}"),
                12 => format!("s:for:{agent}:private"),
                13 => format!("soul:undo:{agent}:2:1"),
                14 => format!("update:{agent}"),
                15 => format!("chat:{agent}"),
                16 => {
                    bob.says(&format!("/start {agent}")).await;
                    bob.says("hello?").await;
                    return None;
                }
                17 => {
                    bob.forges(1, &format!("delete!:{agent}")).await;
                    return None;
                }
                18 => {
                    ann.says("hello?").await;
                    return None;
                }
                _ => {
                    ann.says("/stop").await;
                    return None;
                }
            };
            ann.forges(1, &press).await;
            return None;
        }
    };
    Some(request.send().await.unwrap().status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_made_changed_talked_to_and_deleted_at_once_leaves_nothing_behind() {
    let stack = Stack::builder().patience(LIMIT).start().await;
    let api = Api::of(&stack);
    let seed = seed();
    let statuses = Mutex::new(BTreeMap::<u16, usize>::new());
    join_all((1..=AGENTS).map(async |owner| {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(owner as u64));
        for user in [owner, 100 + owner] {
            stack.user(user).asks("/help", "What you can do here").await;
        }
        let made = api.post(
            "/agents",
            json!({"owner_id": owner, "name": "Ada", "system_prompt": "You count.", "visibility": "public"}),
        );
        let agent = made.await.is(201)["id"].as_i64().unwrap();
        let deletion = DEEDS / 2 + rng.random_range(0..DEEDS / 2);
        let whiches: Vec<usize> = (0..DEEDS).map(|_| rng.random_range(0..1_000)).collect();
        join_all(whiches.into_iter().enumerate().map(async |(place, which)| {
            // Over some seconds, so that they fall into every step of its making and its end.
            tokio::time::sleep(Duration::from_millis(60 * place as u64)).await;
            let status = match place {
                // Twice, by two ways.
                _ if place == deletion => {
                    stack.user(owner).forges(1, &format!("delete!:{agent}")).await;
                    Some(api.delete(&format!("/agents/{agent}")).await.status.as_u16())
                }
                _ => deed(&stack, &api, agent, owner, which).await,
            };
            if let Some(status) = status {
                // Its agent's history is asked to go of an agent that is away: documented as such.
                assert!(status < 500 || status == 502 && which % 20 == 7, "deed {which} got {status}");
                *statuses.lock().unwrap().entry(status).or_default() += 1;
            }
        }))
        .await;
    }))
    .await;
    const GONE: &str = "select count(*) from agents where status = 'deleted' and deleted_at is not null";
    stack.wait_for_sql_within(LIMIT, GONE, AGENTS).await;
    for queue in [
        "select count(*) from jobs where not done",
        "select count(*) from updates where not done",
        "select count(*) from turns where not done",
        "select count(*) from outbox where not done",
        "select count(*) from vms where ended_at is null",
    ] {
        stack.wait_for_sql_within(LIMIT, queue, 0i64).await;
    }
    assert_eq!(stack.agent_dirs(), Vec::<std::path::PathBuf>::new(), "what agents leave behind");
    assert_eq!(stack.sql::<i64>("select count(*) from agents").await, AGENTS);
    assert_eq!(stack.sql::<i64>("select count(*) from updates where error is not null").await, 0);
    assert_eq!(stack.sql::<i64>("select count(*) from agents where status <> 'deleted'").await, 0);
    let panics: Vec<String> = stack.errors().into_iter().filter(|line| line.contains("panicked")).collect();
    assert_eq!(panics, Vec::<String>::new());
    for user in 1..=AGENTS {
        stack.user(user).asks("/list", "You have no agents yet.").await;
    }
    let deeds = format!("{} deeds on {AGENTS} agents, {:?}", AGENTS as usize * DEEDS, statuses.lock().unwrap());
    counted("races", deeds, "nothing left behind");
}

//! Agents are cut off in the middle of what they say, and killed.

use rustix::process::{Pid, Signal, kill_process};

use crate::chance::{Chance, rounds};
use crate::harness::Stack;
use crate::load::{PEOPLE, People, pace, usual};
use crate::proxy::{Proxy, Treatment};
use crate::settled::{Allowed, assert_settled};
use crate::through;

#[tokio::test(flavor = "multi_thread")]
async fn agents_cut_off_mid_stream_are_heard_to_the_end_and_asked_once() {
    let chance = Chance::of("agents cut off");
    let agents = Proxy::start(&chance).await;
    let stack = usual().start().await;
    let mut people = People::meet(&stack).await;
    through::proxy_agents(&stack, &agents).await;
    // Answers of some seconds, so that each is cut several times.
    pace(&stack, 100, 60).await;
    // More than the head of an answer, less than a whole one.
    agents.treat(Treatment::Breaking(4_000));
    let cuts = rounds(14, 300);
    let cutting = async {
        for _ in 0..cuts {
            tokio::time::sleep(chance.pause(100..900)).await;
            agents.cut_all();
        }
        agents.treat(Treatment::Fair);
    };
    people.talk_during(&stack, &chance, cutting).await;
    let count = assert_settled(&stack, &people, Allowed::USUAL).await;
    println!("agents cut off: {} connections cut; {count}", agents.cuts());
    assert!(agents.cuts() >= cuts, "next to nothing was cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_goes_on_with_every_turn_and_remembers_each_message_once() {
    let chance = Chance::of("agents killed");
    let stack = usual().start().await;
    let mut people = People::meet(&stack).await;
    pace(&stack, 100, 40).await;
    let kills = rounds(2, 25);
    let mut under_way = 0;
    let killing = async {
        for _ in 0..kills {
            tokio::time::sleep(chance.pause(1_000..3_000)).await;
            // Only what it was generating is generated again: each chat has one turn at a time.
            under_way += PEOPLE;
            kill_agent(&stack);
            // It is started again by a supervisor, at first at once, then after waits that double.
            let kept = "select count(*) from turns where not done and started_at < now() - interval '30 s'";
            stack.wait_for_sql(kept, 0i64).await;
        }
    };
    people.talk_during(&stack, &chance, killing).await;
    let allowed = Allowed { model_repeats: under_way, ..Allowed::USUAL };
    let count = assert_settled(&stack, &people, allowed).await;
    println!("agents killed: {kills} kills; {count}");
    // The model is told the whole conversation: had a turn been run twice, a message would be in it twice.
    for user in 1..=PEOPLE {
        let messages = stack.user(user).messages().await;
        let numbers = crate::harness::count::counts(&messages);
        let mut once = numbers.clone();
        once.dedup();
        let turns = once.len();
        assert_eq!(once, (1..=turns).collect::<Vec<_>>(), "what the conversation of user {user} had, answer by answer");
    }
}

/// SIGKILL for the process of the one agent.
fn kill_agent(stack: &Stack) {
    let [dir] = &stack.agent_dirs()[..] else { panic!("not one agent: {:?}", stack.agent_dirs()) };
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // silent-ok: a process that has ended meanwhile is none of ours
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        let program = command.split('\0').next().unwrap_or_default();
        if program.ends_with("baal-agent") && command.contains(dir.to_str().unwrap()) {
            kill_process(pid, Signal::KILL).unwrap();
        }
    }
}

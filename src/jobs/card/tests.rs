//! What cards say, and what they offer.

use super::*;
use crate::agents::model::tests::agent;

fn text(scene: Scene) -> String {
    card(&agent("Ada"), &scene).text.text
}

fn working(cloud: CloudKind, step: Step, progress: Progress) -> String {
    text(Scene::Working { kind: Kind::Provision, cloud, step, progress })
}

#[test]
fn steps_are_shown_as_done_current_and_to_come() {
    assert_eq!(
        working(CloudKind::Local, Step::Start, Progress::default()),
        "🤖 Ada is being set up…\n\n✅ Find a place for it\n✅ Install it\n⏳ Start it\n▫️ Wait until it answers\n▫️ Open it for you"
    );
    let trouble = Progress { trouble: Some("the disk is full".into()), ..Progress::default() };
    let shown = working(CloudKind::Local, Step::Start, trouble);
    assert!(shown.ends_with("That did not work yet: the disk is full. Trying again shortly."), "{shown}");
    assert!(shown.contains("⚠️ Start it"));
}

#[test]
fn a_long_wait_and_other_machines_are_told() {
    let shown = working(CloudKind::Aleph, Step::Reach, Progress { minutes: 2, tried: 1, ..Progress::default() });
    assert!(shown.contains("✅ Get a machine\n⏳ Wait for the machine (2 min)\n▫️ Prepare the machine"), "{shown}");
    assert!(shown.ends_with("The first place did not work; trying another."), "{shown}");
    let shown = text(Scene::Waiting { kind: Kind::Provision, place: 3 });
    assert!(shown.contains("number 3 in line"), "{shown}");
}

#[test]
fn a_repair_says_whether_memory_was_lost_and_a_failure_where_it_failed() {
    assert!(text(Scene::Repaired { memory_lost: true }).contains("are lost"));
    assert!(text(Scene::Repaired { memory_lost: false }).contains("everything that it knew"));
    let restored = text(Scene::Restored { reason: "the new version did not become healthy".into() });
    assert!(restored.contains("runs again as it did before"), "{restored}");
}

#[test]
fn whoever_gives_up_says_what_is_left_and_what_can_be_done() {
    let given_up = |left| {
        let reason = "its machine does not let us in".to_owned();
        let card = card(&agent("Ada"), &Scene::GivenUp { kind: Kind::Redeploy, step: Step::Install, reason, left });
        (card.text.text, serde_json::to_string(&card.buttons).expect("JSON"))
    };
    let has = |(text, buttons): (String, String), words: &str, presses: &[&str]| {
        assert!(text.contains("could not be updated: its machine does not let us in. (It failed at: Install it.)"));
        assert!(text.contains(words), "{text}");
        let all = ["repair:5", "anew:5", "retry:5", "delete:5"];
        let there: Vec<_> = all.into_iter().filter(|press| buttons.contains(press)).collect();
        assert_eq!(there, presses, "{words}");
    };
    has(given_up(Left::AsBefore), "left as it was before", &["repair:5", "delete:5"]);
    has(given_up(Left::Unknown), "as you wanted it, or not at all", &["repair:5", "delete:5"]);
    has(given_up(Left::Memory), "Its machine is kept, with what it remembers", &["repair:5", "anew:5", "delete:5"]);
    has(given_up(Left::Nothing), "its machine is gone, with what it remembered", &["retry:5", "delete:5"]);
}

#[test]
fn a_hostile_name_is_plain_text_in_bold() {
    let name = "<b>*_[x](tg://user?id=1) 👩\u{200d}🚀";
    for scene in [Scene::Undoing, Scene::Deleted, Scene::Ready { bot_username: None }] {
        let card = card(&agent(name), &scene);
        let entity = &card.text.entities[0];
        let units: Vec<u16> = card.text.text.encode_utf16().skip(entity.offset).take(entity.length).collect();
        assert_eq!(String::from_utf16(&units).expect("whole characters"), name);
        let payload: serde_json::Value = serde_json::from_str(&card.edit(1, 2, 3).payload).expect("JSON");
        assert_eq!((payload.get("parse_mode"), &payload["message_id"]), (None, &0.into()));
    }
}

#[test]
fn the_link_is_there_only_if_it_would_work() {
    let ready = |visibility, bot: Option<&str>| {
        let mut agent = agent("Ada");
        agent.visibility = visibility;
        card(&agent, &Scene::Ready { bot_username: bot.map(str::to_owned) }).text.text
    };
    assert!(ready(Visibility::Public, Some("baal_bot")).contains("https://t.me/baal_bot?start=agent_5"));
    assert!(!ready(Visibility::Public, None).contains("t.me"));
    assert!(!ready(Visibility::Unlisted, Some("baal_bot")).contains("t.me"));
}

#[test]
fn a_failure_says_what_happened_and_what_can_be_done() {
    let card = card(&agent("Ada"), &Scene::Failed { step: Some(Step::Start), reason: "the disk is full".into() });
    assert!(card.text.text.starts_with("❌ Ada could not be set up: the disk is full. (It failed at: Start it.)"));
    let buttons = serde_json::to_string(&card.buttons).expect("JSON");
    assert!(buttons.contains("retry:5") && buttons.contains("delete:5"), "{buttons}");
}

#[test]
fn even_the_longest_card_fits_a_message() {
    let agent = agent(&"👩".repeat(64));
    let progress = Progress { trouble: Some("x".repeat(200)), minutes: 99, tried: 4, restoring: true };
    let scene = Scene::Working { kind: Kind::Repair, cloud: CloudKind::Aleph, step: Step::Finish, progress };
    assert!(card(&agent, &scene).text.text.encode_utf16().count() < 4096);
}
